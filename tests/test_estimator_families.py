"""The families around ReinMax, ReDGE, double control variates, systematic draws: what theory says of them."""

import itertools

import pytest
import torch

import estimators
from estimators.base import CategoricalEstimator, systematic
from estimators.exact import mean_and_gradient, outcomes

DOUBLE = {"dtype": torch.float64}
COUPLED = [n for n in estimators.names() if issubclass(estimators.family(n), CategoricalEstimator)]


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def j(p, v):
    return p * v - p * (p @ v)


def pulled(estimator, theta, draw, g, seed=0):
    """The estimate (K,) from g at a given draw."""
    leaf = theta.clone().requires_grad_()
    return torch.autograd.grad(estimator.given(leaf, draw, rng(seed)), leaf, g)[0]


def case(seed, k=5):
    theta, g = (torch.randn(k, generator=rng(seed + i), **DOUBLE) for i in (0, 100))
    draw = torch.eye(k, **DOUBLE)[seed % k]
    return theta, g, draw


# ReinMax


@pytest.mark.parametrize("seed", range(6))
def test_reinmax_is_half_straight_through_and_half_along_the_score(seed):
    """J(pi) g / 2 + <g, s> s / 2: ZGR, the limit of Gumbel-Rao as its temperature goes to 0."""
    theta, g, draw = case(seed)
    pi = theta.softmax(-1)
    s = draw - pi
    expected = j(pi, g) / 2 + (g @ s) * s / 2
    torch.testing.assert_close(pulled(estimators.get("reinmax"), theta, draw, g), expected)
    torch.testing.assert_close(pulled(estimators.get("reinmax_beta:beta=0.5"), theta, draw, g), expected)


@pytest.mark.parametrize("seed", range(5))
def test_gumbel_rao_tends_to_reinmax_as_its_temperature_goes_to_zero(seed):
    """In units of |g|, with 100,000 inner draws."""
    theta, g, draw = case(seed)
    target = pulled(estimators.get("reinmax"), theta, draw, g)
    distances = {}
    for tau in (1.0, 0.03):
        found = pulled(estimators.get("gumbel_rao:samples=100000", tau), theta, draw, g)
        distances[tau] = float((found - target).norm() / g.norm())
    assert distances[0.03] < min(0.02, 0.3 * distances[1.0])


@pytest.mark.parametrize("tau", [1.0, 1.3, 4.0])
def test_the_family_ends_in_the_known_ones(tau):
    for seed in range(5):
        theta, g, draw = case(seed)
        half, first, last = (estimators.get(f"reinmax_beta:beta={b}", tau) for b in (0.5, 0, 1))
        torch.testing.assert_close(
            pulled(half, theta, draw, g), pulled(estimators.get("reinmax", tau), theta, draw, g)
        )
        st = pulled(estimators.get("st", tau), theta, draw, g) * tau  # which has no 1 / tau here
        torch.testing.assert_close(pulled(first, theta, draw, g), st)
        if tau == 1:
            s = draw - theta.softmax(-1)
            torch.testing.assert_close(pulled(last, theta, draw, g), (g @ s) * s)


def mean_estimate(estimator, theta, f):
    """Over D ~ Cat(pi), by enumeration."""
    total = torch.zeros_like(theta)
    for k, draw in enumerate(torch.eye(len(theta), **DOUBLE)):
        leaf = draw.clone().requires_grad_()
        (g,) = torch.autograd.grad(f(leaf), leaf)
        total += theta.softmax(-1)[k] * pulled(estimator, theta, draw, g)
    return total


@pytest.mark.parametrize("beta", [0, 0.25, 0.5, 1])
def test_every_beta_is_exact_for_linear_losses_and_one_half_for_quadratic_ones(beta):
    estimator = estimators.get(f"reinmax_beta:beta={beta}")
    for seed in range(5):
        theta, a, _ = case(seed)
        m = torch.randn(5, 5, generator=rng(seed), **DOUBLE)
        for f, is_exact in ((lambda d, a=a: a @ d, True), (lambda d, m=m: d @ m @ d, beta == 0.5)):
            _, exact = mean_and_gradient(
                theta.view(1, 5), lambda d, f=f: torch.stack([f(row) for row in d[:, 0]])
            )
            error = (mean_estimate(estimator, theta, f) - exact[0]).norm()
            assert (error < 1e-9) == is_exact


def test_reinmax_cv_has_the_mean_of_reinmax_given_the_draw_and_more_spread():
    """Over 40,000 samples of noise, within 4.5 standard errors."""
    theta, g, draw = case(2)
    n = 40_000
    leaf = theta.expand(n, 5).clone().requires_grad_()
    d = estimators.get("reinmax_cv:samples=3,eta=1.5").given(leaf, draw.expand(n, 5), rng(0))
    (found,) = torch.autograd.grad(d, leaf, g.expand(n, 5))
    target = pulled(estimators.get("reinmax"), theta, draw, g)
    assert ((found.mean(0) - target).abs() < 4.5 * found.std(0) / n**0.5).all()
    assert found.var(0).sum() > 0.01 * target.square().sum()
    torch.testing.assert_close(pulled(estimators.get("reinmax_cv:eta=0"), theta, draw, g), target)


# ReDGE


def redge(name, theta, g, seed):
    leaf = theta.clone().requires_grad_()
    draw = estimators.get(name)(leaf, rng(seed))
    return draw.detach(), torch.autograd.grad(draw, leaf, g)[0]


def test_with_much_noise_redge_is_straight_through_and_reindge_is_reinmax():
    distances = {}
    for noise in (0.9, 0.99, 0.999):
        for name, like in (("redge", "st"), ("reindge", "reinmax")):
            for seed in range(20):
                theta, g, _ = case(seed)
                draw, found = redge(f"{name}:steps=3,noise={noise}", theta, g, seed)
                expected = pulled(estimators.get(like), theta, draw, g)
                distances.setdefault((name, noise), []).append(float((found - expected).norm() / g.norm()))
    for name in ("redge", "reindge"):
        medians = [torch.tensor(distances[name, noise]).median() for noise in (0.9, 0.99, 0.999)]
        assert medians[2] < 0.2 * medians[0] < 0.02
        assert medians == sorted(medians, reverse=True)


def test_a_chain_of_two_steps_is_straight_through_at_its_noise():
    """Nothing on the way depends on theta; p is at logits theta + a x / s^2."""
    theta, g, _ = case(1)
    _, found = redge("redge:steps=2,noise=0.5", theta, g, 3)
    x = torch.empty(5, **DOUBLE).normal_(generator=rng(3))
    torch.testing.assert_close(found, j((theta + 0.5 / 0.25 * x).softmax(-1), g))


@pytest.mark.parametrize("name", ["redge", "reindge"])
def test_the_pull_is_that_of_the_written_chain(name):
    """theta -> p with the chain in a loop, by autograd."""
    theta, g, _ = case(4)
    draw, found = redge(f"{name}:steps=4,noise=0.4", theta, g, 5)
    leaf = theta.clone().requires_grad_()
    direct = theta.clone().requires_grad_()
    a = [None, *torch.linspace(0.6, 1e-4, 3, **DOUBLE).tolist()]
    x = torch.empty(5, **DOUBLE).normal_(generator=rng(5))
    for t in (3, 2):
        s, after = 1 - a[t], 1 - a[t - 1]
        q = (leaf + a[t] * x / s**2).softmax(-1)
        x = a[t - 1] * q + after * (x - a[t] * q) / s
    p = (direct + a[1] * x / (1 - a[1]) ** 2).softmax(-1)
    along, straight = torch.autograd.grad(p, (leaf, direct), g)
    score = draw - p.detach()
    if name == "reindge":
        straight = straight / 2 + (g @ score) * score / 2
    torch.testing.assert_close(found, along + straight)
    assert along.norm() > 0.01


@pytest.mark.parametrize("name", ["redge", "reindge"])
def test_draws_of_redge_are_nearly_those_of_the_probabilities(name):
    theta = torch.tensor([0.5, -1.0, 2.0, 0.0, -3.0])
    mean = estimators.get(name)(theta.expand(40_000, 5), rng(1)).mean(0)
    assert (mean - theta.softmax(-1)).abs().sum() / 2 < 0.03


# Double control variates


@pytest.mark.parametrize("alpha", [0.0, -0.6, 2.0])
def test_double_cv_is_unbiased_for_every_loss_and_weight(alpha):
    """Over all pairs of two choices; the gradients at the draws may be anything."""
    logits = torch.randn(2, 3, generator=rng(1), **DOUBLE)
    every = outcomes(logits)
    values = torch.randn(9, generator=rng(2), **DOUBLE)
    slopes = torch.randn(9, 2, 3, generator=rng(3), **DOUBLE)
    p = (every * logits.softmax(-1)).sum(-1).prod(-1)
    estimator = estimators.get("double_cv")
    estimator.load_state({"moments": torch.tensor([-alpha, 1.0], **DOUBLE)})
    total = torch.zeros_like(logits)
    for pair in itertools.product(range(9), repeat=2):
        index = list(pair)
        found = estimator.gradient(
            logits, every[index], values[index], mean=torch.zeros(()), at_draws=slopes[index]
        )
        total += p[index].prod() * found
        if alpha == 0:
            plain = estimators.get("reinforce_loo").gradient(logits, every[index], values[index])
            torch.testing.assert_close(found, plain, rtol=0, atol=1e-14)
    _, expected = mean_and_gradient(logits, lambda d: values)
    torch.testing.assert_close(total, expected, rtol=0, atol=1e-12)


def test_double_cv_learns_the_weight_that_leaves_a_linear_loss_no_spread():
    """-1, at which every estimate of a linear loss is the gradient; it comes back from a state."""
    logits = torch.randn(2, 3, generator=rng(1), **DOUBLE)
    a = torch.randn(2, 3, generator=rng(2), **DOUBLE)
    estimator = estimators.get("double_cv")
    for seed in range(300):
        draws = estimator(logits.expand(4, 2, 3), rng(seed))
        losses = (a * draws).sum((-2, -1))
        estimator.gradient(logits, draws, losses, at_draws=a.expand(4, 2, 3))
    _, exact = mean_and_gradient(logits, lambda d: (a * d).sum((-2, -1)))
    assert float(estimator.alpha()) == pytest.approx(-1, abs=0.1)
    again = estimators.get("double_cv")
    again.load_state(estimator.state())
    arguments = (logits, draws, losses, torch.zeros(()), a.expand(4, 2, 3))
    assert torch.equal(again.gradient(*arguments), estimator.gradient(*arguments))
    assert (again.gradient(*arguments) - exact).norm() < 0.2 * exact.norm()
    estimator.gradient(logits, draws, losses * torch.nan, at_draws=a.expand(4, 2, 3))
    assert torch.equal(estimator.moments, again.moments)
    with pytest.raises(ValueError, match="gradients at the draws"):
        estimator.gradient(logits, draws, losses)
    with pytest.raises(ValueError, match="has no state"):
        estimator.load_state({"baseline": 0.0})


# Systematic draws


@pytest.mark.parametrize("count", [2, 4, 7])
def test_systematic_draws_cover_the_distribution(count):
    """Of n draws a candidate has n pi_k, rounded up or down; each draw by itself is Cat(pi), and what does
    not exist is never drawn."""
    theta = torch.tensor([0.5, -1.0, 2.0, 0.0, -torch.inf]).expand(8000, 5)
    draws = systematic(theta, count, rng(0))
    assert draws.shape == (count, 8000, 5)
    assert torch.equal(draws.sum(-1), torch.ones(count, 8000))
    assert not draws[..., 4].any()
    target = theta[0].softmax(-1)
    times = draws.sum(0) - count * target
    assert times.abs().max() < 1
    for each in draws:
        expected = target[:4] * 8000
        chi_square = ((each.sum(0)[:4] - expected).square() / expected).sum()
        assert chi_square < 16.27  # 99.9 % quantile, 3 degrees of freedom


def test_rows_are_independent_within_a_systematic_draw():
    theta = torch.tensor([0.3, -0.4, 0.0]).expand(20_000, 2, 3)
    draws = systematic(theta, 4, rng(1))[2]
    together = torch.einsum("ni,nj->ij", draws[:, 0], draws[:, 1]) / 20_000
    pi = theta[0, 0].softmax(-1)
    expected = torch.outer(pi, pi)
    assert ((together - expected).abs() < 4.5 * (expected / 20_000).sqrt()).all()


@pytest.mark.parametrize("name", COUPLED)
def test_systematic_draws_keep_the_mean_and_spread_less(name):
    """4 draws of two choices, 3,000 times, within 4.5 standard errors; a linear and a quadratic loss."""
    n, count = 3000, 4
    logits = torch.randn(2, 5, generator=rng(3), **DOUBLE)
    m = torch.randn(10, 10, generator=rng(4), **DOUBLE) + torch.randn(10, generator=rng(5), **DOUBLE)
    text = f"{name}:samples=3" if name in ("gumbel_rao", "reinmax_rao", "reinmax_cv") else name
    estimator = estimators.get(text)
    moments = []
    for coupled in (False, True):
        leaf = logits.expand(n, 2, 5).clone().requires_grad_()
        draws = (
            estimator.systematic(leaf, count, rng(6))
            if coupled
            else estimator(leaf.expand(count, n, 2, 5), rng(6))
        )
        flat = draws.flatten(-2)
        (found,) = torch.autograd.grad(((flat @ m) * flat).sum() / count, leaf)
        moments.append((found.mean(0), found.var(0)))
    (mean, var), (coupled_mean, coupled_var) = moments
    assert ((mean - coupled_mean).abs() < 4.5 * ((var + coupled_var) / n).sqrt() + 1e-9).all()
    assert coupled_var.sum() < 0.95 * var.sum()


def test_double_cv_of_many_problems_is_each_its_own():
    together, alone = estimators.get("double_cv"), [estimators.get("double_cv") for _ in range(3)]
    logits, slopes = (torch.randn(3, 2, 4, generator=rng(i), **DOUBLE) for i in (0, 1))
    for seed in range(3):
        draws = together(logits.expand(4, 3, 2, 4), rng(seed))
        losses, at_draws = (draws * slopes).sum((-2, -1)).exp(), slopes * draws.sum((-2, -1), keepdim=True)
        found = together.gradient(logits, draws, losses, at_draws=at_draws)
        for p, one in enumerate(alone):
            expected = one.gradient(logits[p], draws[:, p], losses[:, p], at_draws=at_draws[:, p])
            torch.testing.assert_close(found[p], expected, rtol=0, atol=1e-12)
    several = [x.unsqueeze(1).expand(4, 5, *x.shape[1:]) for x in (draws, losses, at_draws)]
    found = together.gradient(logits, *several[:2], torch.zeros(3), several[2])
    expected = alone[2].gradient(logits[2], draws[:, 2], losses[:, 2], torch.zeros(()), at_draws[:, 2])
    torch.testing.assert_close(found[3, 2], expected, rtol=0, atol=1e-12)
