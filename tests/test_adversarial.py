"""What an adversarial weight step trains: the mixture near the probabilities that is found to be worst."""

import pytest
import small
import torch
import torch.nn.functional as F
from small import rng

import nas
from nas.bilevel.policies import POLICIES
from nas.bilevel.rules.perturbation import _Decided
from recipes import InputError

DTYPE = torch.float64


def setup(policy="adversarial:epsilon=0.1:0.3,steps=3", masked=False):
    bilevel = small.bilevel("micro", "softmax", DTYPE, policy=POLICIES.build(policy))
    if masked:
        logits = bilevel.architecture.logits
        bilevel.architecture.mask = torch.arange(logits.shape[1]) < torch.tensor([[5], [3], [2]])
    return bilevel


def worst(bilevel, batch, epsilon, steps, seed):
    """Written out, slot by slot, with plain autograd."""
    rows = [row[row.isfinite()].softmax(-1) for row in bilevel.architecture.masked().detach()]
    draws = 2 * torch.rand(bilevel.architecture.logits.shape, generator=rng(seed), dtype=DTYPE) - 1

    def project(row):
        return row.clamp(0, 1) / row.clamp(0, 1).sum()

    def loss(rows):
        weights = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        weights = F.pad(weights, (0, draws.shape[1] - weights.shape[1]))
        return F.cross_entropy(bilevel.supernet(batch[0], weights), batch[1]), weights

    moved = [project(p + epsilon * noise[: len(p)]) for p, noise in zip(rows, draws, strict=True)]
    for _ in range(steps):
        leaves = [row.clone().requires_grad_() for row in moved]
        slopes = torch.autograd.grad(loss(leaves)[0], leaves)
        moved = [
            project(p + (row + 2 * epsilon / steps * slope.sign() - p).clamp(-epsilon, epsilon))
            for p, row, slope in zip(rows, moved, slopes, strict=True)
        ]
    (before, at_p), (after, found) = loss(rows), loss(moved)
    return (at_p if before > after else found).detach(), before.item(), after.item()


@pytest.mark.parametrize("masked", [False, True])
def test_a_weight_step_trains_the_worst_mixture_that_the_written_out_ascent_finds(masked):
    bilevel, batch = setup(masked=masked), small.batch(1, DTYPE)
    path, before, after = worst(bilevel, batch, 0.2, 3, 5)
    assert (after > before) is not masked  # both ways out are met
    wanted = torch.autograd.grad(
        F.cross_entropy(bilevel.supernet(batch[0], path), batch[1]), bilevel.parameters
    )
    result = bilevel.weight_step(batch, rng(5), 0, 0.5)
    assert float(result.loss) == pytest.approx(max(before, after))
    for p, exact in zip(bilevel.parameters, wanted, strict=True):
        torch.testing.assert_close(p.grad, exact)
    assert (bilevel.work.trained, bilevel.work.evaluated) == (6 * (3 + 1), 6 * 2)


class Flat:
    """A batch whose loss is highest at one mixture."""

    def __init__(self, top):
        self.top = top

    def loss(self, draw):
        return -float((draw - self.top).norm())

    def gradient(self, weights):
        return torch.zeros_like(weights)


def test_the_probabilities_themselves_where_nothing_worse_is_found():
    bilevel = setup()
    architecture, policy = bilevel.architecture, bilevel.policy
    p = architecture.probabilities()
    (start,) = policy.paths(architecture, rng(5), 0, 0.5)
    assert torch.equal(policy.paths_on(Flat(p), architecture, rng(5), 0, 0.5)[0], p)
    (kept,) = policy.paths_on(Flat(start), architecture, rng(5), 0, 0.5)
    assert not torch.equal(kept, p)
    decided = _Decided(policy, {1: 2})
    (path,) = decided.paths_on(Flat(p), architecture, rng(5), 0, 0.5)
    assert path[1].tolist() == [0, 0, 1, 0, 0]
    assert torch.equal(path[[0, 2]], p[[0, 2]])


def test_a_search_counts_what_the_adversary_sees():
    """In each step of two epochs a gradient for each of its steps, and the loss at both ends."""
    result = nas.search(
        "micro", data="digits", train_limit=80, batch_size=16, channels=4, epochs=2, warmup_epochs=1,
        estimator="softmax", policy="adversarial:steps=2", progress=False,
    )  # fmt: skip
    steps = 2 * 2 * 16
    assert result.summary["images_evaluated"] == 2 * steps
    assert result.summary["images_trained"] == (2 + 1) * steps + 2 * 16


@pytest.mark.parametrize("settings", ["steps=0", "steps=101", "epsilon=2:3"])
def test_settings_without_a_meaning_are_refused(settings):
    with pytest.raises(InputError, match="expected"):
        POLICIES.build(f"adversarial:{settings}")
