"""Unsupervised parsing: a tree LSTM that learns which neighbours to merge from the label alone."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from estimators import Estimator
from estimators.base import one_hot_argmax
from nas.report.page import Picture
from nas.seeding import derive_seed, generator
from studies.tasks.listops import PADDING, VOCABULARY, Expressions, Grammar, encode, generate
from studies.tasks.task_grid import Comparison, Result, Setting, Task
from studies.tasks.task_plots import Panel, plot_dots

MASKED = -1e9
CLASSES = 10
RANDOM = "random trees"  # in place of an estimator: what a model reaches that learns no trees
Chooser = Callable[[Tensor], Tensor]


class LatentTree(nn.Module):
    """Classifies sequences by merging two neighbours at a time until one node is left.

    All neighbours are composed by a binary tree LSTM, a linear map scores the results, and a draw from
    the softmax of the scores replaces one pair by its parent.

    Source: Choi, Yoo & Lee, 2018, "Learning to Compose Task-Specific Tree Structures", arXiv 1707.02786,
    here with leaves that are embeddings without an LSTM over them.

    Args:
        width: of the hidden state and of the memory of a node.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.embedding = nn.Embedding(len(VOCABULARY) + 1, 2 * width, padding_idx=PADDING)
        self.compose = nn.Linear(2 * width, 5 * width)
        self.score = nn.Linear(width, 1)
        self.classify = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, CLASSES))
        nn.init.orthogonal_(self.compose.weight)
        nn.init.zeros_(self.compose.bias)

    def forward(self, tokens: Tensor, lengths: Tensor, choose: Chooser) -> tuple[Tensor, Tensor]:
        """Class logits and the log-probability of all choices.

        Args:
            tokens: (B, T) int64, padded to the right.
            lengths: (B,), at least 1.
            choose: scores (B, P) of the P pairs to one-hot draws (B, P). Pairs that do not exist have the
                score `MASKED`. It is not called for the last merge of the longest sequences, where
                nothing is left to choose.

        Returns:
            (B, 10) and (B,).
        """
        hidden, memory = self.embedding(tokens).tanh().chunk(2, -1)
        log_probability = hidden.new_zeros(len(tokens))
        for merged in range(tokens.shape[1] - 1):
            nodes = lengths - merged
            parent_hidden, parent_memory = self._compose(hidden, memory)
            pairs = parent_hidden.shape[1]
            if pairs > 1:
                scores = self.score(parent_hidden).squeeze(-1)
                exists = torch.arange(pairs) < (nodes - 1).clamp_min(1).unsqueeze(1)
                scores = scores.masked_fill(~exists, MASKED)
                draw = choose(scores)
                chosen = (draw.detach() * scores.log_softmax(-1)).sum(-1)
            else:
                draw, chosen = hidden.new_ones(len(tokens), 1), hidden.new_zeros(len(tokens))
            active = nodes > 1
            log_probability = log_probability + torch.where(active, chosen, 0.0)
            hidden = _merge(hidden, parent_hidden, draw, active)
            memory = _merge(memory, parent_memory, draw, active)
        return self.classify(hidden[:, 0]), log_probability

    def _compose(self, hidden: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Parents of all neighbours: (B, P + 1, width) to (B, P, width), hidden states and memories."""
        pairs = torch.cat((hidden[:, :-1], hidden[:, 1:]), -1)
        take, left, right, output, update = self.compose(pairs).chunk(5, -1)
        kept = memory[:, :-1] * (left + 1).sigmoid() + memory[:, 1:] * (right + 1).sigmoid()
        parent_memory = kept + take.sigmoid() * update.tanh()
        return output.sigmoid() * parent_memory.tanh(), parent_memory


def _merge(nodes: Tensor, parents: Tensor, draw: Tensor, active: Tensor) -> Tensor:
    """Replace the drawn pair by its parent: nodes (B, P + 1, W), parents (B, P, W), draw (B, P).

    What lies left of the pair stays, what lies right of it moves up by one. This is linear in the draw's
    entries and their cumulative sums, through which the gradient reaches all of them. Sequences that are
    not `active` keep their nodes.
    """
    so_far = draw.cumsum(-1)
    before, after = (1 - so_far).unsqueeze(-1), (so_far - draw).unsqueeze(-1)
    merged = draw.unsqueeze(-1) * parents + before * nodes[:, :-1] + after * nodes[:, 1:]
    return torch.where(active.view(-1, 1, 1), merged, nodes[:, :-1])


@dataclass(frozen=True)
class ListOps(Task):
    """Classify ListOps expressions by their value; the result is the accuracy with the most probable trees.

    Attributes:
        steps: of Adam; the learning rate falls to 0 along a cosine.
        data_seed: of the expressions, which are the same in all runs.
        training, held_out: numbers of expressions to train on, and to validate and to test on each.
        grammar: of the expressions.
    """

    steps: int
    data_seed: int
    training: int = 20_000
    held_out: int = 2_000
    batch_size: int = 64
    width: int = 48
    clip: float = 5.0
    grammar: Grammar = field(default_factory=Grammar)

    family = "listops"
    lrs = (0.005, 0.015)
    controls = (RANDOM,)
    heading = "ListOps: accuracy, %"
    validated = "error on validation, %"
    figures = ("test", "valid", "train")

    @property
    def name(self) -> str:
        return "listops"

    @property
    def budget(self) -> str:
        return f"{self.steps} steps of {self.batch_size} expressions on ListOps"

    @classmethod
    def pictures(cls, parts: Sequence[Comparison[Self]]) -> list[Picture]:
        (part,) = parts
        values = {name: [run["test"] for run in runs.values()] for name, runs in part.runs.items()}
        most_frequent = majority(part.task.data()[2])
        return [
            Picture(
                "ListOps: accuracy",
                plot_dots([Panel("Test", values, {})], "accuracy, %", best=max, digits=1),
                "Expressions evaluated by a tree LSTM whose tree is drawn through the estimator while "
                "training and is the most probable one when tested. Means with one standard deviation, "
                f"strokes are the single seeds. With {RANDOM}, training and testing, nothing is learned but "
                "what to do with them. Right is better; the most frequent digit is right in "
                f"{most_frequent:.1f} %.",
            )
        ]

    def data(self) -> tuple[Expressions, Expressions, Expressions]:
        """Expressions to train, validate and test on, all different from each other."""
        return _data(self.training, self.held_out, self.grammar, self.data_seed)

    def train(self, setting: Setting, seed: int) -> Result:
        """Train; accuracies are in %."""
        if setting.estimator == RANDOM:
            return self._train(setting, seed, None)
        return self._train(setting, seed, setting.build())

    def _train(self, setting: Setting, seed: int, estimator: Estimator | None) -> Result:
        """Without an estimator, with random trees."""
        train, validation, test = self.data()
        draws = generator(seed, "tree draws")
        torch.manual_seed(derive_seed(seed, "tree weights"))
        model = LatentTree(self.width)
        optimizer = torch.optim.Adam(model.parameters(), lr=setting.lr)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.steps)
        copies = 1 if estimator is None else estimator.default_draws
        choose = uniform(draws) if estimator is None else partial(estimator, generator=draws)
        batches, order = train.batches(self.batch_size), generator(seed, "tree order")
        queue: list[int] = []
        for _ in range(self.steps):
            queue = queue or torch.randperm(len(batches), generator=order).tolist()
            batch = batches[queue.pop()].repeat(copies)
            logits, log_probability = model(batch.tokens, batch.lengths, choose)
            losses = F.cross_entropy(logits, batch.labels, reduction="none")
            loss = losses.mean()
            if estimator is not None and estimator.signal == "loss":
                advantages = estimator.advantages(losses.detach().view(copies, -1))
                loss = loss + (advantages * log_probability.view(copies, -1)).mean()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), self.clip)
            optimizer.step()
            schedule.step()
        parts = {"train": train[: self.held_out], "valid": validation, "test": test}
        tested = one_hot_argmax if estimator is not None else uniform(generator(seed, "tested trees"))
        accuracies = {name: accuracy(model, part, tested) for name, part in parts.items()}
        return {"validation": 100 - accuracies["valid"], **accuracies}


def uniform(draws: torch.Generator) -> Chooser:
    """Draws of every pair that exists alike, whatever its score."""

    def choose(scores: Tensor) -> Tensor:
        noise = torch.rand(scores.shape, generator=draws).masked_fill(scores == MASKED, -1.0)
        return one_hot_argmax(noise)

    return choose


@torch.no_grad()
def accuracy(model: LatentTree, expressions: Expressions, choose: Chooser = one_hot_argmax) -> float:
    """Share (%) of expressions whose value the model gives, merging the pair with the highest score, or as
    `choose` does."""
    correct = 0
    for batch in expressions.batches(500):
        logits, _ = model(batch.tokens, batch.lengths, choose)
        correct += int((logits.argmax(1) == batch.labels).sum())
    return 100 * correct / len(expressions)


@functools.cache
def _data(
    training: int, held_out: int, grammar: Grammar, seed: int
) -> tuple[Expressions, Expressions, Expressions]:
    everything = encode(generate(training + 2 * held_out, grammar, seed))
    validation = slice(training, training + held_out)
    return everything[:training], everything[validation], everything[validation.stop :]


def majority(expressions: Expressions) -> float:
    """Accuracy (%) of always answering the most frequent value."""
    return 100 * int(expressions.labels.bincount().max()) / len(expressions)
