"""The contract of every estimator: written formula, exactness, sampling, robustness."""

import itertools
import subprocess
import sys
from contextlib import contextmanager

import pytest
import torch
from conftest import ROOT, run_environment

import estimators
from estimators import Schedule
from estimators.base import categorical, gumbel_given_argmax
from recipes import InputError
from recipes.registry import Registry

NAMES = estimators.names()
DISCRETE = [name for name in NAMES if estimators.family(name).discrete]
PATHWISE = [name for name in NAMES if estimators.family(name).signal == "gradient"]
NEARLY = ("redge", "reindge")  # their draws have another distribution by some 0.01
SHIFT_INVARIANT = [name for name in PATHWISE if name != "dirichlet"]


def taus(name):
    low, high = estimators.family(name).tau_range
    return [tau for tau in (0.4, 1.0, 1.7) if low <= tau <= high]


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def gumbel_noise(logits, generator):
    return -torch.empty_like(logits).exponential_(generator=generator).log()


def jacobian(theta):
    """d softmax(theta) / d theta by autograd, (K, K); symmetric."""
    return torch.autograd.functional.jacobian(lambda t: t.softmax(-1), theta)


def conditional_gumbels(theta, d, count, generator):
    """theta + G given that D = d is its arg-max, one sample at a time, as the literature writes it."""
    e = torch.empty(count, len(theta), dtype=theta.dtype).exponential_(generator=generator)
    z, k = theta.exp().sum(), int(d.argmax())
    top = e[:, k] / z
    rows = -(e / theta.exp() + top.unsqueeze(1)).log()
    rows[:, k] = -top.log()
    return rows


def written_formula(name, theta, tau, d, g, seed):
    """The backward formula, from explicit Jacobian matrices and with the noise of the same seed."""
    generator = rng(seed)
    noise = gumbel_noise(theta, generator)  # what the draw was made with; `generator` goes on from there
    pi = theta.softmax(-1)

    def matrix(p):
        return torch.diag(p) - torch.outer(p, p)

    if name in ("st", "softmax"):
        return jacobian(theta / tau) @ g / tau
    if name in ("st_gumbel", "concrete"):
        return jacobian((theta + noise) / tau) @ g / tau
    if name == "reinmax":
        return 2 * matrix(((theta / tau).softmax(-1) + d) / 2) @ g - matrix(pi) @ g / 2
    if name == "gst":
        lead = theta.max()
        shifted = [lead if k == int(d.argmax()) else min(t, lead - 1) for k, t in enumerate(theta)]
        return jacobian(torch.stack(shifted) / tau) @ g / tau
    if name == "gumbel_rao":
        rows = conditional_gumbels(theta, d, 100, generator)
        return sum(jacobian(row / tau) @ g / tau for row in rows) / 100
    if name == "reinmax_beta":
        first, score = (theta / tau).softmax(-1), d - (theta / tau).softmax(-1)
        return matrix(first) @ g - matrix(pi) @ g / 4 + (g @ score) * score / 4
    if name == "reinmax_cv":
        rows = conditional_gumbels(((pi + d) / 2).log(), d, 101, generator)
        smooth = [jacobian(row / tau) @ g / tau for row in rows]
        control = sum(smooth[1:]) / 100 - smooth[0]
        return 2 * matrix((pi + d) / 2) @ g - matrix(pi) @ g / 2 + 1.5 * control
    if name == "reinmax_rao":
        rows = conditional_gumbels(((pi + d) / 2).log(), d, 100, generator)
        return 2 * sum(jacobian(row / tau) @ g / tau for row in rows) / 100 - matrix(pi) @ g / 2
    raise AssertionError(f"write down the formula of {name} here")


@pytest.mark.parametrize("name", [name for name in SHIFT_INVARIANT if name not in NEARLY])
def test_backward_is_the_written_formula(name):
    for tau, seed in itertools.product(taus(name), range(5)):
        theta = torch.randn(6, dtype=torch.float64, generator=rng(seed), requires_grad=True)
        g = torch.randn(6, dtype=torch.float64, generator=rng(seed + 100))
        d = estimators.get(name, tau=tau)(theta, generator=rng(seed))
        (gradient,) = torch.autograd.grad(d, theta, g)
        expected = written_formula(name, theta.detach(), tau, d.detach(), g, seed)
        torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-10)


def expected_gradient(name, theta, f, tau=1.0):
    """Mean over D ~ Cat(softmax(theta)) of the estimate, by enumeration of the K draws."""
    total = torch.zeros_like(theta)
    seen = set()
    seed = 0
    while len(seen) < len(theta):
        leaf = theta.clone().requires_grad_()
        d = estimators.get(name, tau=tau)(leaf, generator=rng(seed))
        seed += 1
        k = int(d.argmax())
        if k in seen:
            continue
        seen.add(k)
        (gradient,) = torch.autograd.grad(f(d), leaf)
        total += theta.softmax(-1)[k] * gradient
    return total


def exact_gradient(theta, f):
    leaf = theta.clone().requires_grad_()
    values = torch.stack([f(d) for d in torch.eye(len(theta), dtype=theta.dtype)])
    (gradient,) = torch.autograd.grad(leaf.softmax(-1) @ values, leaf)
    return gradient


def problems(seed, k=5):
    a = torch.randn(k, dtype=torch.float64, generator=rng(seed))
    m = torch.randn(k, k, dtype=torch.float64, generator=rng(seed + 50))
    return {
        "linear": lambda d: a @ d,
        "quadratic": lambda d: a @ d + d @ m @ d,
        "cubic": lambda d: a @ d + d @ m @ d + (m @ d).pow(3).sum(),
    }


@pytest.mark.parametrize(
    ("name", "objective"), [("st", "linear"), ("reinmax", "linear"), ("reinmax", "quadratic")]
)
def test_exact_where_theory_says_so(name, objective):
    for seed in range(10):
        theta = torch.randn(5, dtype=torch.float64, generator=rng(seed + 7))
        f = problems(seed)[objective]
        torch.testing.assert_close(
            expected_gradient(name, theta, f), exact_gradient(theta, f), rtol=0, atol=1e-9
        )


@pytest.mark.parametrize(("name", "objective"), [("st", "quadratic"), ("reinmax", "cubic")])
def test_biased_where_theory_says_so(name, objective):
    theta = torch.randn(5, dtype=torch.float64, generator=rng(3))
    f = problems(1)[objective]
    assert (expected_gradient(name, theta, f) - exact_gradient(theta, f)).norm() > 1e-2


def test_softmax_is_exact_for_linear_losses():
    theta = torch.randn(5, dtype=torch.float64, generator=rng(3), requires_grad=True)
    f = problems(1)["linear"]
    (gradient,) = torch.autograd.grad(f(estimators.get("softmax")(theta)), theta)
    torch.testing.assert_close(gradient, exact_gradient(theta.detach(), f))


@pytest.mark.parametrize("name", [name for name in DISCRETE if name not in NEARLY])
def test_draws_are_one_hot_with_the_right_frequencies(name):
    theta = torch.tensor([0.5, -1.0, 2.0, 0.0, -3.0])
    n = 40_000
    d = estimators.get(name)(theta.expand(n, 5), generator=rng(1))
    assert torch.equal(d.sum(-1), torch.ones(n))
    assert set(d.unique().tolist()) == {0.0, 1.0}
    expected = theta.softmax(-1) * n
    chi_square = ((d.sum(0) - expected).square() / expected).sum()
    assert chi_square < 18.47  # 99.9 % quantile, 4 degrees of freedom


@pytest.mark.parametrize("name", PATHWISE)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(1,), (4,), (3, 5), (2, 3, 4)])
def test_shapes_and_dtypes(name, dtype, shape):
    theta = torch.randn(shape, generator=rng()).to(dtype).requires_grad_()
    d = estimators.get(name)(theta, generator=rng())
    assert d.shape == shape
    assert d.dtype == dtype
    g = torch.randn(shape, generator=rng(1)).to(dtype)
    (gradient,) = torch.autograd.grad(d, theta, g)
    assert gradient.dtype == dtype
    assert gradient.isfinite().all()
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5}.get(dtype, 3e-2)
    if name in SHIFT_INVARIANT:
        assert gradient.sum(-1).abs().max() <= tolerance


@pytest.mark.parametrize("name", PATHWISE)
def test_strides_do_not_matter(name):
    base = torch.randn(5, 3, generator=rng(2), dtype=torch.float64)
    g = torch.randn(3, 5, generator=rng(3), dtype=torch.float64)
    results = []
    for theta in (base.t(), base.t().contiguous()):
        theta = theta.requires_grad_()
        d = estimators.get(name)(theta, generator=rng(4))
        results.append((d.detach(), torch.autograd.grad(d, theta, g)[0]))
    torch.testing.assert_close(results[0], results[1])
    expanded = torch.zeros(1, 5).expand(4, 5)
    assert estimators.get(name)(expanded, generator=rng()).shape == (4, 5)


@pytest.mark.parametrize("name", PATHWISE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_extreme_logits(name, dtype):
    rows = [[1e3, -1e3, 0.0], [1e3, 1e3, 1e3], [-1e3, -1e3, -1e3], [-1e3, 1e3, 1e3]]
    theta = torch.tensor(rows, dtype=dtype, requires_grad=True)
    for tau in (estimators.family(name).default_schedule.start, estimators.family(name).default_schedule.end):
        d = estimators.get(name, tau=tau)(theta, generator=rng(5))
        assert d.isfinite().all()
        assert d[0, 0] > 0.98 or tau > 1
        (gradient,) = torch.autograd.grad(
            d, theta, torch.ones_like(d) * torch.tensor([1.0, 2.0, 3.0], dtype=dtype)
        )
        assert gradient.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_generator_decides_the_draw(name):
    theta = torch.zeros(200, 5)
    estimator = estimators.get(name)
    first, again, other = (estimator(theta, generator=rng(s)) for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert torch.equal(first, other) != estimator.stochastic


@pytest.mark.parametrize("name", PATHWISE)
def test_rows_are_independent(name):
    """A batched call is the rows' own formulas: the gradient of one row ignores the others."""
    theta = torch.randn(4, 5, generator=rng(), dtype=torch.float64, requires_grad=True)
    d = estimators.get(name)(theta, generator=rng())
    g = torch.zeros(4, 5, dtype=torch.float64)
    g[2] = torch.arange(5.0)
    (gradient,) = torch.autograd.grad(d, theta, g)
    assert gradient[2].abs().sum() > 0
    assert gradient[[0, 1, 3]].abs().sum() == 0


# Candidates that do not exist

MASKS = ((0,), (2,), (4,), (0, 4), (1, 2, 3), (0, 1, 2, 3))


@contextmanager
def replayed_noise(monkeypatch, kept, recorded=None):
    """Record the noise that estimators draw, or replay what was recorded for the candidates `kept`."""
    noise = [] if recorded is None else list(recorded)
    exponential, normal = torch.Tensor.exponential_, torch.Tensor.normal_
    dirichlet = torch._sample_dirichlet

    def follow(drawn, normalised):
        if recorded is None:
            noise.append(drawn.detach().clone())
            return drawn
        some = noise.pop(0)[..., kept]
        return some / some.sum(-1, keepdim=True) if normalised else some

    with monkeypatch.context() as patch:
        patch.setattr(
            torch.Tensor, "exponential_", lambda x, **k: x.copy_(follow(exponential(x, **k), False))
        )
        patch.setattr(torch.Tensor, "normal_", lambda x, **k: x.copy_(follow(normal(x, **k), False)))
        patch.setattr(torch, "_sample_dirichlet", lambda c, *a: follow(dirichlet(c, *a), True))
        yield noise
    assert recorded is None or not noise


def estimate(estimator, theta, g, seed):
    """Draws (4, ..., K) and the estimate (..., K) from g = df/dD, or from the losses <g, D>."""
    leaf = theta.clone().requires_grad_()
    draws = estimator(leaf.expand(4, *leaf.shape), generator=rng(seed))
    losses = (draws.detach() * g).flatten(1).sum(-1)
    if estimator.signal == "gradient":
        return draws.detach(), torch.autograd.grad(draws, leaf, g.expand_as(draws))[0]
    return draws, estimator.gradient(theta, draws, losses, at_draws=g.expand_as(draws))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("missing", MASKS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_candidate_that_does_not_exist_is_as_if_it_were_not_there(name, missing, dtype, monkeypatch):
    """With the noise of the others unchanged, draws and estimates are those of the shorter row."""
    kept = [k for k in range(5) if k not in missing]
    tolerance = {torch.float64: 1e-12, torch.float32: 2e-5, torch.bfloat16: 2e-2}[dtype]
    for tau, seed in itertools.product(taus(name), range(3)):
        theta = torch.randn(3, 5, generator=rng(seed), dtype=torch.float64).to(dtype)
        g = torch.randn(3, 5, generator=rng(seed + 50), dtype=torch.float64).to(dtype)
        masked = theta.clone()
        masked[..., list(missing)] = -torch.inf
        whole, short = estimators.get(name, tau), estimators.get(name, tau)
        if name == "reinforce":
            whole.load_state({"baseline": 0.3})
            short.load_state({"baseline": 0.3})
        with replayed_noise(monkeypatch, kept) as noise:
            draws, found = estimate(whole, masked, g, seed)
        assert not draws[..., list(missing)].any()
        assert not found[..., list(missing)].any()
        assert not whole.probabilities(masked)[..., list(missing)].any()
        with replayed_noise(monkeypatch, kept, noise):
            expected_draws, expected = estimate(short, theta[..., kept], g[..., kept], seed)
        probabilities = short.probabilities(theta[..., kept])
        scale = float(expected.abs().max()) + 1
        torch.testing.assert_close(draws[..., kept], expected_draws, rtol=0, atol=tolerance)
        torch.testing.assert_close(found[..., kept], expected, rtol=0, atol=tolerance * scale)
        torch.testing.assert_close(whole.probabilities(masked)[..., kept], probabilities)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_masked_rows_and_full_rows_live_side_by_side(name, dtype):
    """The full row gets what it gets in a batch without masks, up to the noise; nothing is NaN, however
    extreme the logits, and the gradient at a missing candidate does not count."""
    inf = torch.inf
    rows = [[0.5, -1.0, 2.0], [-inf, 1e3, -1e3], [-1e3, -inf, -1e3], [-inf, -inf, -1e3], [1e3, -1e3, -inf]]
    theta = torch.tensor(rows, dtype=dtype)
    g = torch.where(theta.isinf(), 1e4, torch.tensor([1.0, 2.0, 3.0])).to(dtype)
    for end in (estimators.family(name).default_schedule.start, estimators.family(name).default_schedule.end):
        estimator = estimators.get(name, end)
        for seed in range(5):
            draws, found = estimate(estimator, theta, g, seed)
            assert draws.isfinite().all()
            assert found.isfinite().all()
            assert not found[theta.isinf()].any()
            assert not draws[:, theta.isinf()].any()
            assert not found[3].any()  # one candidate is no choice
            assert (draws.sum(-1) - 1).abs().max() < 1e-2
            assert found.abs().max() < 1e4


def test_the_dirichlet_of_the_candidates_that_exist():
    """Against the moments of the Dirichlet distribution of the shorter row, over 40,000 draws."""
    theta = torch.tensor([0.3, -torch.inf, -0.5, 1.0], dtype=torch.float64)
    draws = estimators.get("dirichlet")(theta.expand(40_000, 4), rng(1))[:, [0, 2, 3]]
    shorter = torch.distributions.Dirichlet(torch.nn.functional.elu(theta[[0, 2, 3]]) + 1)
    assert ((draws.mean(0) - shorter.mean).abs() < 4.5 * (shorter.variance / 40_000).sqrt()).all()
    torch.testing.assert_close(draws.var(0), shorter.variance, rtol=0.04, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_temperature_range_and_schedule(name):
    family = estimators.family(name)
    low, high = family.tau_range
    for bad in (low * 0.99, high * 1.01, float("nan")):
        with pytest.raises(InputError, match=f"out of range for the estimator '{name}'"):
            estimators.get(name, tau=bad)
        with pytest.raises(ValueError, match=f"out of range for the estimator '{name}'"):
            family(bad)
    for end in (family.default_schedule.start, family.default_schedule.end):
        assert family.check_tau(end) == end
    assert estimators.get(name).tau == family.default_schedule.start


@pytest.mark.parametrize("steps", [2, 3, 10, 997])
def test_schedules_hit_both_endpoints(steps):
    schedule = Schedule(10.0, 0.1)
    values = [schedule.at(step, steps) for step in range(steps)]
    assert values[0] == 10.0
    assert values[-1] == 0.1
    assert values == sorted(values, reverse=True)
    assert Schedule(1.0, 1.0).at(0, 1) == 1.0


@pytest.mark.parametrize("tau", [pytest.param(0.5, marks=pytest.mark.slow), 1.0])
def test_gumbel_rao_has_the_mean_of_st_gumbel_and_less_variance(tau):
    """Over 20,000 draws: means agree within 4.5 standard errors (< 0.01 % by chance per entry)."""
    n = 20_000
    theta = torch.randn(5, dtype=torch.float64, generator=rng(1))
    f = problems(2)["cubic"]
    moments = {}
    for name in ("st_gumbel", "gumbel_rao"):
        estimator = estimators.get(name if name == "st_gumbel" else f"{name}:samples=20", tau)
        leaf = theta.expand(n, 5).clone().requires_grad_()
        d = estimator(leaf, generator=rng(3))
        (gradient,) = torch.autograd.grad(torch.stack([f(row) for row in d]).sum(), leaf)
        moments[name] = gradient.mean(0), gradient.var(0)
    (mean_1, var_1), (mean_2, var_2) = moments["st_gumbel"], moments["gumbel_rao"]
    assert ((mean_1 - mean_2).abs() < 4.5 * ((var_1 + var_2) / n).sqrt()).all()
    assert var_2.sum() < 0.8 * var_1.sum()


def test_conditional_gumbels_are_those_that_lead_to_the_draw():
    """Given D they have D as arg-max, and over D ~ Cat(pi) they are unconditional Gumbels."""
    n = 40_000
    theta = torch.tensor([0.5, -1.0, 2.0, 0.0], dtype=torch.float64)
    d = categorical(theta.expand(n, 4), rng(1))
    perturbed = gumbel_given_argmax(theta.expand(n, 4), d, 1, rng(2))[0]
    assert torch.equal(perturbed.argmax(-1), d.argmax(-1))
    noise = perturbed - theta
    uniform = torch.exp(-torch.exp(-noise)).sort(0).values  # distribution function of a Gumbel
    grid = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    assert (uniform - grid.unsqueeze(1)).abs().max() < 1.95 / n**0.5  # Kolmogorov-Smirnov, 99.9 %


def test_dirichlet_is_pathwise():
    """The mean of the estimates is the gradient of E f for a linear f, whose mean is known."""
    n = 60_000
    theta = torch.tensor([0.3, -0.5, 1.0], dtype=torch.float64)
    a = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    estimator = estimators.get("dirichlet")
    leaf = theta.expand(n, 3).clone().requires_grad_()
    draw = estimator(leaf, generator=rng(1))
    torch.testing.assert_close(draw.sum(-1), torch.ones(n, dtype=torch.float64))
    (gradient,) = torch.autograd.grad((draw @ a).sum(), leaf)
    exact = theta.clone().requires_grad_()
    (expected,) = torch.autograd.grad(estimator.probabilities(exact) @ a, exact)
    assert ((gradient.mean(0) - expected).abs() < 4.5 * gradient.std(0) / n**0.5).all()
    torch.testing.assert_close(draw.mean(0), estimator.probabilities(theta), atol=5e-3, rtol=0)


def test_reinforce_is_unbiased_for_every_loss():
    """By enumeration: the mean of the estimates is the exact gradient, whatever the baseline."""
    for seed, baseline in itertools.product(range(5), (-3.0, 0.0, 2.0)):
        theta = torch.randn(5, dtype=torch.float64, generator=rng(seed))
        values = torch.randn(5, dtype=torch.float64, generator=rng(seed + 9)).exp()
        total = torch.zeros_like(theta)
        for k, d in enumerate(torch.eye(5, dtype=torch.float64)):
            estimator = estimators.get("reinforce")
            estimator.load_state({"baseline": baseline})
            total += theta.softmax(-1)[k] * estimator.gradient(theta, d.unsqueeze(0), values[k].view(1))
            assert estimator.state() == {"baseline": pytest.approx(0.9 * baseline + 0.1 * float(values[k]))}
        leaf = theta.clone().requires_grad_()
        (exact,) = torch.autograd.grad(leaf.softmax(-1) @ values, leaf)
        torch.testing.assert_close(total, exact, rtol=0, atol=1e-12)


def test_reinforce_with_leave_one_out_is_unbiased_for_every_loss():
    """By enumeration of all pairs and triples of draws."""
    theta = torch.randn(4, dtype=torch.float64, generator=rng(3))
    values = torch.randn(4, dtype=torch.float64, generator=rng(4)).exp()
    pi, eye = theta.softmax(-1), torch.eye(4, dtype=torch.float64)
    leaf = theta.clone().requires_grad_()
    (exact,) = torch.autograd.grad(leaf.softmax(-1) @ values, leaf)
    for n in (2, 3):
        total = torch.zeros_like(theta)
        for chosen in itertools.product(range(4), repeat=n):
            index = torch.tensor(chosen)
            estimate = estimators.get("reinforce_loo").gradient(theta, eye[index], values[index])
            total += pi[index].prod() * estimate
        torch.testing.assert_close(total, exact, rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="at least 2 draws"):
        estimators.get("reinforce_loo").gradient(theta, eye[:1], values[:1])


@pytest.mark.parametrize("name", [name for name in NAMES if name not in PATHWISE])
def test_loss_based_estimates_are_finite_and_sum_to_zero(name):
    theta = torch.tensor([[1e3, -1e3, 0.0], [0.1, 0.2, 0.3]], dtype=torch.bfloat16)
    estimator = estimators.get(name)
    draws = estimator(theta.expand(4, 2, 3), generator=rng(0))
    assert not draws.requires_grad
    if name == "reinforce":
        assert not estimator.gradient(theta, draws, torch.ones(4)).any()  # sets the baseline
    losses, slopes = torch.tensor([1.0, 2.0, 3.0, 7.0]), torch.ones_like(draws)
    estimate = estimator.gradient(theta, draws, losses, at_draws=slopes)
    assert estimate.any()
    assert estimate.shape == theta.shape
    assert estimate.dtype == theta.dtype
    assert estimate.isfinite().all()
    assert estimate.sum(-1).abs().max() < 3e-2


@pytest.mark.parametrize("name", NAMES)
def test_probabilities_are_the_means_of_the_draws(name):
    theta = torch.tensor([0.5, -1.0, 2.0, 0.0])
    estimator = estimators.get(name)
    assert estimator.probabilities(theta).sum() == pytest.approx(1)
    if estimator.discrete:
        mean = estimator(theta.expand(20_000, 4), generator=rng(1)).mean(0)
        torch.testing.assert_close(mean, estimator.probabilities(theta), atol=0.02, rtol=0)


def test_an_estimator_that_differentiates_has_no_loss_based_gradient():
    with pytest.raises(NotImplementedError, match="does not weight scores"):
        estimators.get("st").gradient(torch.zeros(3), torch.zeros(1, 3), torch.zeros(1))


def test_bad_logits_are_refused():
    estimator = estimators.get("st")
    with pytest.raises(TypeError, match="floating point"):
        estimator(torch.zeros(3, dtype=torch.long))
    with pytest.raises(ValueError, match="shape"):
        estimator(torch.tensor(1.0))


def test_hyperparameters_are_arguments_that_a_text_can_give():
    assert [estimators.get(name).inner_samples for name in ("st", "gumbel_rao", "reinmax_rao")] == [
        1,
        100,
        100,
    ]
    few = estimators.get("gumbel_rao:samples=20", tau=0.5)
    assert (few.inner_samples, few.tau) == (20, 0.5)
    assert estimators.get("reinmax_rao:7").inner_samples == 7
    assert estimators.get("gst:gap=0.5").gap == 0.5
    assert estimators.get("reinforce:decay=0.5").decay == 0.5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nothing", "unknown estimator 'nothing'"),
        ("st_gumble", "did you mean st_gumbel"),
        ("gumbel_rao:samples=0", "from 1 to 100000"),
        ("gumbel_rao:samples=100000000000000000", "from 1 to 100000"),
        ("gumbel_rao:samples=2.5", "expected an integer"),
        ("gumbel_rao:tau=2", "unknown setting 'tau', expected one of: samples"),
        ("gst:gap=-1", "at least 0"),
        ("gst:gap=nan", "expected a number"),
        ("reinforce:decay=1", "below 1"),
        ("st:samples=3", "expected no settings"),
        ("reinmax_beta:beta=1.5", "from 0 to 1"),
        ("reinmax_cv:eta=inf", "expected a number"),
        ("reinmax_cv:samples=0", "from 1 to 100000"),
        ("redge:steps=1", "from 2 to 1000"),
        ("reindge:noise=1", "from 0.001 to 0.9999"),
        ("redge:noise=1e-17", "from 0.001 to 0.9999"),
        ("double_cv:decay=1", "below 1"),
    ],
)
def test_bad_names_and_hyperparameters_are_input_errors(text, message):
    with pytest.raises(InputError, match=message):
        estimators.get(text)


@pytest.fixture
def own():
    """An estimator from outside."""

    class Own(type(estimators.get("reinmax"))):
        def __init__(self, tau=None, scale: float = 1.0):
            super().__init__(tau)
            self.scale = scale

    registry = Registry.kinds["estimator"]
    yield estimators.register("own", Own)
    registry._things.pop("own")


def test_an_estimator_from_outside(own):
    assert estimators.names()[-1] == own.name == "own"
    assert estimators.family("own") is own
    assert estimators.get("own:scale=2").scale == 2
    assert estimators.get("reinmax").name == "reinmax"
    with pytest.raises(ValueError, match="'st' exists already"):
        estimators.register("st", type("Other", (own,), {}))
    with pytest.raises(ValueError, match="is named 'own', expected 'other'"):
        estimators.register("other", own)


def test_the_example_of_an_own_estimator():
    """Straight-through at one end, ReinMax, which is exact for its quadratic loss, at the other."""
    command = [sys.executable, str(ROOT / "examples" / "own_estimator.py")]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, env=run_environment())
    words = [line.split() for line in shown.stdout.splitlines()]
    found = {name: (float(bias), float(std)) for name, _, bias, _, std, *_ in words}
    bias = {name: pair[0] for name, pair in found.items()}
    assert found["st_to_reinmax:beta=0"] == pytest.approx(found["st"], abs=0.06)
    assert found["st_to_reinmax:beta=0.5"] == pytest.approx(found["reinmax"], abs=0.06)
    assert bias["st_to_reinmax:beta=0.5"] < 0.05 < bias["st_to_reinmax:beta=0.25"] < bias["st"]


def test_signals_and_randomness():
    assert [name for name in NAMES if not estimators.family(name).stochastic] == ["softmax"]
    of_losses = [n for n in NAMES if estimators.family(n).signal == "loss"]
    assert of_losses == ["reinforce", "reinforce_loo", "reinforce_critic"]
    assert [n for n in NAMES if estimators.family(n).signal == "both"] == ["double_cv"]
    assert [n for n in NAMES if estimators.family(n).learns] == ["double_cv", "reinforce_critic"]
