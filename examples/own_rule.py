"""A rule of your own: how a search ends, here by coordinate ascent on the accuracy of the shared weights.

python examples/own_rule.py
python train_search.py --plugins examples/own_rule.py --derive ascent
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import nas
from nas.bilevel import Rule, SearchView
from search_spaces import Genotype


class Ascent(Rule):
    """From the arg-max architecture, one slot after another takes the candidate with which the architecture
    is most accurate on the validation part, until no slot has a better one.

    A piece of work ends at each `yield`. A run that is asked to stop saves itself there, with what `state`
    returns: tensors, numbers and texts, in lists and dicts. Here these are the accuracies found so far; the
    continued run climbs the same way again and looks up what it knows. An object serves one search.

    A rule may train, too: for the batches of `search.train.epoch(n)`, n from `search.options.epochs` on, it
    calls `search.bilevel.weight_step(batch, generator)`, the generator from `nas.seeding.generator(seed,
    "ascent", n, step)`. The learning rate is that of the last epoch, the end of the schedule. Weights and
    optimizers are in the checkpoint already.
    """

    name = "ascent"

    def __init__(self) -> None:
        self.accuracies: dict[str, float] = {}  # in %, by the notation of the architecture

    def select(self, search: SearchView) -> Iterator[None]:
        space = search.space
        scores = search.architecture.log_probabilities()  # (E, K); a space makes an architecture of them
        slot, settled = 0, 0  # `settled` slots in a row have no better candidate
        while settled < space.num_slots:
            line, best = [scores], int(scores[slot].argmax())
            for candidate in range(len(space.slots[slot].candidates)):
                line.append(scores.clone())  # with the best and this candidate in each other's place
                line[-1][slot, [best, candidate]] = scores[slot, [candidate, best]]
            texts = [space.format(space.discretise(one)) for one in line]
            for text in texts:
                if text not in self.accuracies:
                    self.accuracies[text] = search.score(space.parse(text))[1]
                    yield
            found = max(range(len(line)), key=lambda i: self.accuracies[texts[i]])
            scores, settled = line[found], settled + 1 if found == 0 else 1
            slot = (slot + 1) % space.num_slots

    def selected(self, search: SearchView) -> Genotype:
        return search.space.parse(max(self.accuracies, key=self.accuracies.__getitem__))

    def considered(self, search: SearchView) -> list[dict[str, Any]]:
        """The rows of a table in the report: `genotype`, and numbers."""
        return [{"genotype": text, "accuracy": found} for text, found in self.accuracies.items()]

    def state(self) -> dict[str, Any]:
        return {"accuracies": self.accuracies}

    def restore(self, state: dict[str, Any]) -> None:
        self.accuracies = dict(state["accuracies"])


nas.register_rule("ascent", Ascent)


def main() -> None:
    """Select by several rules from the same supernet."""
    result = nas.search("nasbench201", data="digits", epochs=4, channels=4, train_limit=600)
    for rule in ("argmax", "sample:20", "ascent"):
        genotype = result.select(rule)
        print(f"{rule}: {result.space.format(genotype)}, {result.score(genotype)[1]:.1f} % (shared weights)")


if __name__ == "__main__":
    main()
