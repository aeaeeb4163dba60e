"""What the architecture step minimises beside the loss, and what a weight step trains: exact against
autograd."""

import math
from itertools import product

import pytest
import small
import torch
import torch.nn.functional as F
from small import rng

import estimators
from estimators import Schedule
from nas.bilevel.policies import POLICIES, Policy
from nas.bilevel.terms import TERMS, BetaDecay, Entropy, Term, UniformDecay

DTYPE = torch.float64


class Quadratic(Term):
    """A cost of the draw that is not linear in it."""

    name = "quadratic"

    def of_draw(self, draw, progress):
        cost = torch.arange(draw.shape[-1], dtype=draw.dtype)
        return (1 + progress) * (draw * cost).sum((-2, -1)).square() / 10


def batch(seed):
    return small.batch(seed, DTYPE)


def setup(space_name="micro", estimator="reinmax", **options):
    edge_gradient = "dense" if options.get("order") == 2 else "lean"
    return small.bilevel(space_name, estimator, DTYPE, edge_gradient, **options)


def gradient(bilevel, seed=3, progress=0.5):
    """The gradient of the logits in an architecture step."""
    if bilevel.architecture.estimator.name == "reinforce":
        bilevel.architecture.estimator.load_state({"baseline": 1.0})
    bilevel.architecture_step(batch(1), batch(2), rng(seed), progress)
    return bilevel.architecture.logits.grad.clone()


BUILT_IN = [BetaDecay(Schedule(0, 50)), Entropy(Schedule(-1, 1)), UniformDecay(Schedule(0.1, 0.3))]


@pytest.mark.parametrize("estimator", estimators.names())
@pytest.mark.parametrize("space_name", ["micro", "s1", "s3"])
def test_terms_of_the_logits_add_their_exact_gradient(space_name, estimator):
    """Whatever the estimator, the gradient is that without terms plus that of the written formulas."""
    plain = gradient(setup(space_name, estimator))
    bilevel = setup(space_name, estimator, terms=BUILT_IN)
    rows = [row[: len(slot.candidates)] for row, slot in zip(
        bilevel.architecture.logits.detach(), bilevel.architecture.space.slots, strict=True)]  # fmt: skip
    leaves = [row.clone().requires_grad_() for row in rows]
    beta = sum(25 * row.exp().sum().log() for row in leaves) / len(leaves)
    entropy = sum((-row.softmax(-1) * row.log_softmax(-1)).sum() for row in leaves) / len(leaves) * 0.0
    decay = 0.2 / 2 * sum((row - row.mean()).square().sum() for row in leaves)
    wanted = torch.autograd.grad(beta + entropy + decay, leaves)
    found = gradient(bilevel) - plain
    for row, exact in zip(found, wanted, strict=True):
        torch.testing.assert_close(row[: len(exact)], exact)
        assert not row[len(exact) :].any()


@pytest.mark.parametrize("progress", [0.0, 1.0])
def test_the_entropy_term_is_the_mean_entropy_times_its_weight(progress):
    logits = torch.tensor([[0.3, -1.0, 2.0], [1.0, 0.5, -math.inf]], dtype=DTYPE, requires_grad=True)
    value = Entropy(Schedule(-2.0, 3.0)).of_logits(logits, progress)
    mean = (torch.distributions.Categorical(logits=logits[0].detach()).entropy()
            + torch.distributions.Categorical(logits=logits[1, :2].detach()).entropy()) / 2  # fmt: skip
    torch.testing.assert_close(value.detach(), (3.0 if progress else -2.0) * mean)
    (found,) = torch.autograd.grad(value, logits)
    assert found.isfinite().all()
    assert found[1, 2] == 0
    torch.testing.assert_close(found.sum(-1), torch.zeros(2, dtype=DTYPE))


@pytest.mark.parametrize("draw_per", ["step", "image"])
@pytest.mark.parametrize("estimator", [name for name in estimators.names() if name != "softmax"])
def test_a_term_of_the_draw_flows_through_the_estimator_like_the_loss(estimator, draw_per):
    """The step with the term is the step whose loss has the term in it."""
    bilevel = setup(estimator=estimator, terms=[Quadratic()], draw_per=draw_per)
    found = gradient(bilevel)
    reference = setup(estimator=estimator, draw_per=draw_per)
    family, logits = reference.architecture.estimator, reference.architecture.logits
    if estimator == "reinforce":
        family.load_state({"baseline": 1.0})
    images, labels = batch(1)
    count = len(images) if draw_per == "image" else reference.draws
    leaf = logits.detach().clone().requires_grad_()
    draws = family(leaf.expand(count, *leaf.shape), rng(3))
    if family.signal == "both":
        if draw_per == "image":
            pytest.skip("needs the gradient at each draw by itself")
        draws.requires_grad_()
    costs = Quadratic().of_draw(draws, 0.5)
    if draw_per == "image":
        losses = F.cross_entropy(reference.supernet(images, draws), labels, reduction="none") + costs
    else:
        losses = torch.stack([F.cross_entropy(reference.supernet(images, d), labels) for d in draws]) + costs
    if family.signal == "loss":
        wanted = family.gradient(leaf.detach(), draws.detach(), losses.detach())
    elif family.signal == "both":
        (at_draws,) = torch.autograd.grad(losses.sum(), draws)
        wanted = family.gradient(leaf.detach(), draws.detach(), losses.detach(), at_draws=at_draws)
    else:
        (wanted,) = torch.autograd.grad(losses.mean(), leaf)
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("estimator", ["reinmax", "softmax"])
def test_terms_reach_second_order_steps(estimator):
    plain = gradient(setup(estimator=estimator, order=2))
    found = gradient(setup(estimator=estimator, order=2, terms=[*BUILT_IN, Quadratic()]))
    bilevel = setup(estimator=estimator, order=2)
    leaf = bilevel.architecture.logits.detach().clone().requires_grad_()
    draw = bilevel.architecture.estimator(leaf.expand(1, *leaf.shape), rng(3))
    cost = Quadratic().of_draw(draw, 0.5).mean()
    logits_terms = sum(term.of_logits(leaf, 0.5) for term in BUILT_IN)
    (extra,) = torch.autograd.grad(cost + logits_terms, leaf)
    torch.testing.assert_close(found - plain, extra)


def test_a_term_moves_a_search_without_a_loss():
    """Descent on the entropy alone commits, ascent spreads."""
    for weight, expected in ((1.0, 0.05), (-1.0, math.log(5) - 0.01)):
        logits = torch.randn(3, 5, generator=rng(2), dtype=DTYPE).requires_grad_()
        optimizer = torch.optim.Adam([logits], 0.1)
        for _ in range(300):
            optimizer.zero_grad()
            Entropy(Schedule(weight, weight)).of_logits(logits, 0.0).backward()
            optimizer.step()
        p = logits.detach().softmax(-1)
        entropy = -(p * p.log()).sum(-1).mean()
        assert entropy < expected if weight > 0 else entropy > expected


def test_terms_and_policies_by_name():
    term = TERMS.build("entropy:weight=0.5:2")
    assert isinstance(term, Entropy)
    assert (term.weight(0.0), term.weight(1.0)) == (0.5, 2.0)
    known = ["beta_decay", "entropy", "uniform_decay", "zero_one", "alignment", "oles"]
    assert TERMS.names() == known
    assert POLICIES.names() == ["draw", "uniform", "fair", "dense", "perturbed", "adversarial"]


# What a weight step trains


def test_the_uniform_policy_draws_every_candidate_of_every_slot_alike():
    architecture = setup("s1").architecture
    with torch.no_grad():
        architecture.logits[:, 0] += 5  # the policy does not care
    counts = torch.zeros(architecture.space.num_slots, 2)
    policy = POLICIES.build("uniform")
    for step in range(2000):
        (path,) = policy.paths(architecture, rng(step), step, 0.0)
        for row, k in enumerate(path):
            counts[row, k] += 1
    assert ((counts - 1000).square() / 1000).sum(-1).max() < 20  # of 28 chi-square values with 1 degree


@pytest.mark.parametrize("space", ["micro", "s1"])
def test_the_fair_policy_trains_every_candidate_of_every_slot_as_often(space):
    architecture = setup(space).architecture
    width, draws = architecture.space.width, set()
    for step in range(20):
        paths = POLICIES.build("fair").paths(architecture, rng(step), step, 0.0)
        assert len(paths) == width
        for row, slot in enumerate(architecture.space.slots):
            times = [sum(path[row] == k for path in paths) for k in range(len(slot.candidates))]
            assert min(times) >= width // len(times)
            assert max(times) <= -(-width // len(times))
        draws |= {tuple(path) for path in paths}
    assert len(draws) > 3 * width  # the orders differ


@pytest.mark.parametrize("space", ["micro", "s1"])
def test_the_perturbed_policy_mixes_near_the_probabilities(space):
    architecture = setup(space, "softmax").architecture
    p, mask = architecture.probabilities(), architecture.masked().isfinite()
    policy, seen = POLICIES.build("perturbed:epsilon=0:0.15"), []
    (exact,) = policy.paths(architecture, rng(0), 0, 0.0)
    torch.testing.assert_close(exact, p)
    for step in range(200):
        (path,) = policy.paths(architecture, rng(step), step, 1.0)
        assert path.min() >= 0
        assert (path[~mask] == 0).all()
        torch.testing.assert_close(path.sum(-1), torch.ones(len(path), dtype=DTYPE))
        noise = 2 * torch.rand(p.shape, generator=rng(step), dtype=DTYPE) - 1
        clipped = (p + 0.15 * noise).clamp(0, 1) * mask  # written out
        torch.testing.assert_close(path, clipped / clipped.sum(-1, keepdim=True))
        seen.append(path)
    assert torch.stack(seen).std(0)[mask].min() > 0.01
    with torch.no_grad():
        architecture.logits.zero_()
    lost = POLICIES.build("perturbed:epsilon=1:1")  # now and then nothing is left of a slot
    assert all(lost.paths(architecture, rng(s), 0, 0.0)[0].isfinite().all() for s in range(2000))


def test_several_paths_are_one_step_along_the_mean_of_their_gradients():
    bilevel = setup(policy=POLICIES.build("fair"))
    paths = bilevel.policy.paths(bilevel.architecture, rng(5), 0, 0.0)
    assert sorted(path[0] for path in paths) == [0, 1, 2, 3, 4]
    losses = [F.cross_entropy(bilevel.supernet(batch(1)[0], path), batch(1)[1]) for path in paths]
    wanted = torch.autograd.grad(torch.stack(losses).mean(), bilevel.parameters, allow_unused=True)
    result = bilevel.weight_step(batch(1), rng(5))
    for p, exact in zip(bilevel.parameters, wanted, strict=True):
        if exact is not None:
            torch.testing.assert_close(p.grad, exact)
    torch.testing.assert_close(result.loss, torch.stack(losses).mean().detach())
    assert result.images == 6 * 5


def test_a_policy_sees_step_and_progress():
    seen = []

    class Curious(Policy):
        name = "curious"

        def paths(self, architecture, generator, step, progress):
            seen.append((step, progress))
            return [architecture.uniform(generator)]

    bilevel = setup(policy=Curious())
    bilevel.weight_step(batch(1), rng(), 7, 0.25)
    assert seen == [(7, 0.25)]


# Precision


@pytest.mark.parametrize("estimator", ["reinmax", "softmax", "reinforce_loo"])
@pytest.mark.parametrize("order", [1, 2])
def test_autocast_ends_with_every_step(estimator, order):
    """bfloat16 holds inside the steps only, and float32 holds inside somebody else's autocast."""
    from nas.device import autocast

    if order == 2 and estimators.family(estimator).signal == "loss":
        pytest.skip("second order differentiates the loss")
    seen = []
    cpu = torch.device("cpu")
    for precision in ("bfloat16", "float32"):
        bilevel = setup(estimator=estimator, order=order, precision=autocast(precision, cpu))
        bilevel.supernet.float()
        with torch.no_grad():
            bilevel.architecture.logits.data = bilevel.architecture.logits.data.float()
        bilevel.supernet.register_forward_hook(lambda *_: seen.append(torch.is_autocast_enabled("cpu")))
        valid, train = ((images.float(), labels) for images, labels in (batch(1), batch(2)))
        for outside in (False, True):
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=outside):
                cache = torch.is_autocast_cache_enabled()
                bilevel.architecture_step(valid, train, rng(1))
                bilevel.weight_step(train, rng(2))
                assert torch.is_autocast_enabled("cpu") is outside
                assert torch.is_autocast_cache_enabled() is cache
            assert not torch.is_autocast_enabled("cpu")
        assert all(state is (precision == "bfloat16") for state in seen)
        assert seen
        seen.clear()


def test_enumerated_mean_of_a_term_of_the_draw():
    """ReinMax is exact for a quadratic: the mean over all draws of the term's share is the exact gradient."""
    term, logits = Quadratic(), torch.randn(1, 4, generator=rng(4), dtype=DTYPE)
    mean = torch.zeros_like(logits)
    for choice in product(range(4)):
        draw = F.one_hot(torch.tensor(choice), 4).to(DTYPE)
        p, d = logits.softmax(-1), draw
        (g,) = torch.autograd.grad(term.of_draw(leaf := d.clone().requires_grad_(), 0.0), leaf)
        middle = (p + d) / 2

        def j(q, v):
            return q * v - q * (q * v).sum(-1, keepdim=True)

        mean += (p * d).sum() * (2 * j(middle, g) - j(p, g) / 2)
    leaf = logits.clone().requires_grad_()
    values = torch.stack([term.of_draw(F.one_hot(torch.tensor([k]), 4).to(DTYPE), 0.0) for k in range(4)])
    (exact,) = torch.autograd.grad((leaf.softmax(-1)[0] * values).sum(), leaf)
    torch.testing.assert_close(mean, exact)
