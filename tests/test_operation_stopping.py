"""Operations that overfit are trained no more: against gradients that are written out."""

import re
from types import SimpleNamespace

import pytest
import small
import torch
import torch.nn.functional as F
from small import rng

import nas
from nas.bilevel.policies import POLICIES
from nas.bilevel.terms import OperationStopping
from recipes import InputError, SearchOptions
from search_spaces.cell import Cell

DTYPE = torch.float64
TOY = {"data": "digits", "train_limit": 80, "batch_size": 16, "channels": 4, "progress": False}


def batch(number):
    return small.batch(10 + number, DTYPE)


class Valid:
    """Validation batches by their number."""

    def endless(self, number):
        while True:
            yield small.batch(50 + number, DTYPE)
            number += 1


def setup(estimator="softmax", policy="draw", **settings):
    term = OperationStopping(**settings)
    bilevel = small.bilevel("micro", estimator, DTYPE, policy=POLICIES.build(policy), terms=[term])
    for group in bilevel.weight_optimizer.param_groups:
        group |= {"momentum": 0.9, "weight_decay": 0.1}
    term.prepare(SimpleNamespace(supernet=bilevel.supernet, valid=Valid(), options=SearchOptions()))
    return bilevel, term


def operations(supernet):
    """The weights of every candidate of every edge of every cell."""
    cells = [module for module in supernet.modules() if isinstance(module, Cell)]
    found = [list(op.parameters()) for cell in cells for edge in cell.edges for op in edge.operations]
    return [weights for weights in found if weights]


def cosine(one, other):
    """The mean over all columns, of the weights (out, ...) as a matrix (out, rest); 0 where one is 0."""
    pairs = zip(one.flatten(1).T, other.flatten(1).T, strict=True)
    return torch.stack([a @ b / (a.norm() * b.norm() or 1) for a, b in pairs]).mean()


@pytest.mark.parametrize("against", ["sum", "validation"])
@pytest.mark.parametrize("policy", ["draw", "fair"])
def test_operations_are_stopped_by_the_mean_of_written_out_cosines(policy, against):
    """As many as have a mean below the threshold, which leaves others; their weights stay as they are."""
    bilevel, term = setup(
        policy=policy, threshold=2 / 3 if against == "sum" else 0.1, comparisons=3, against=against
    )
    weights = operations(bilevel.supernet)
    means = [list[float]() for _ in weights]
    for number in range(3):
        paths = bilevel.policy.paths(bilevel.architecture, rng(number), number, 0.0)
        found = []
        for images, labels in (batch(number), next(Valid().endless(number))):
            loss = sum(F.cross_entropy(bilevel.supernet(images, path), labels) for path in paths) / len(paths)
            every = [weight for own in weights for weight in own]
            gradients = torch.autograd.grad(loss, every, allow_unused=True)
            found.append(dict(zip(every, gradients, strict=True)))
        for own, known in zip(weights, means, strict=True):
            train, valid = ([gradients[weight] for weight in own] for gradients in found)
            if train[0] is not None:  # nothing leads to an operation behind `none`
                if against == "sum":
                    valid = [t + v for t, v in zip(train, valid, strict=True)]
                known.append(sum(cosine(t, v) for t, v in zip(train, valid, strict=True)).item() / len(own))
        assert not any(term.stops.stopped)
        bilevel.weight_step(batch(number), rng(number), number)
    wanted = [len(known) == 3 and sum(known) / 3 < term.threshold for known in means]
    assert term.stops.stopped == wanted
    assert {False, True} == set(wanted)
    assert term.report() == sum(wanted)
    before = [[weight.detach().clone() for weight in own] for own in weights]
    for number in range(3, 5):
        bilevel.weight_step(batch(number), rng(number), number)
    same = [all(map(torch.equal, own, old)) for own, old in zip(weights, before, strict=True)]
    assert same == wanted or policy == "fair"  # some that nothing leads to are not trained either
    assert all(unmoved for unmoved, stopped in zip(same, wanted, strict=True) if stopped)


def test_only_operations_that_were_drawn_are_compared():
    bilevel, term = setup("reinmax", every=2, comparisons=2)
    weights, counts = operations(bilevel.supernet), [0] * 100
    for number in range(6):
        bilevel.weight_step(batch(number), rng(number), number)
        if number % 2 == 0:
            trained = [own[0].grad is not None for own in weights]
            counts = [count + one for count, one in zip(counts, trained, strict=False)]
    live = [i for i, stopped in enumerate(term.stops.stopped) if not stopped]
    assert [term.stops.counts[i] for i in live] == [counts[i] % 2 for i in live]
    assert 0 < sum(counts) < 3 * len(weights)
    assert bilevel.work.trained == (6 + 3) * 6


def test_what_is_stopped_stays_so_after_a_resume(tmp_path):
    options = TOY | {"epochs": 4, "warmup_epochs": 0, "terms": "oles:threshold=0.9,comparisons=2"}
    whole = nas.search("micro", **options)
    out = tmp_path / "run"
    nas.search("micro", **options, out=out, tensorboard=False, callback=lambda metrics: metrics["epoch"] == 2)
    resumed = nas.search(out=out, resume=True, progress=False)
    stopped = [line["terms"]["oles"] for line in whole.history]
    assert stopped == sorted(stopped)
    assert 0 < stopped[1] < stopped[-1]
    assert resumed.history == whole.history
    for name, weight in whole.search.supernet.state_dict().items():
        assert torch.equal(weight, resumed.search.supernet.state_dict()[name])


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (
            {"terms": "oles", "order": 2, "estimator": "softmax"},
            "`order=2`, which moves all weights, does not go",
        ),
        ({"terms": "oles:threshold=2"}, "threshold is 2.0, expected a cosine, from -1 to 1"),
        ({"terms": "oles:every=0"}, "expected at least 1 of both"),
        ({"terms": "oles:against=train"}, "against"),
    ],
)
def test_what_has_no_meaning_is_refused(options, line):
    with pytest.raises(InputError, match=re.escape(line)):
        nas.search("micro", **TOY, epochs=2, **options)


def test_a_state_of_other_operations_is_refused():
    _, term = setup()
    state = term.state()
    with pytest.raises(ValueError, match="a state of 1 operations"):
        term.restore({**state, "stopped": [True]})
