"""The contract of every estimator: written formula, exactness, sampling, robustness."""

import itertools

import pytest
import torch

import estimators
from estimators import Schedule

NAMES = estimators.names()
DISCRETE = [name for name in NAMES if estimators.family(name).discrete]
TAUS = {"reinmax": (1.0, 1.3, 2.5)}


def taus(name):
    return TAUS.get(name, (0.4, 1.0, 1.7))


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def gumbel_noise(logits, generator):
    return -torch.empty_like(logits).exponential_(generator=generator).log()


def jacobian(theta):
    """d softmax(theta) / d theta by autograd, (K, K); symmetric."""
    return torch.autograd.functional.jacobian(lambda t: t.softmax(-1), theta)


def written_formula(name, theta, tau, d, g, noise):
    """The backward formula, from explicit Jacobian matrices instead of the closed form."""

    def matrix(p):
        return torch.diag(p) - torch.outer(p, p)

    if name == "st":
        return jacobian(theta / tau) @ g / tau
    if name == "st_gumbel":
        return jacobian((theta + noise) / tau) @ g / tau
    if name == "softmax":
        return jacobian(theta / tau) @ g / tau
    if name == "reinmax":
        pi, pi_tau = theta.softmax(-1), (theta / tau).softmax(-1)
        return 2 * matrix((pi_tau + d) / 2) @ g - matrix(pi) @ g / 2
    raise AssertionError(f"write down the formula of {name} here")


@pytest.mark.parametrize("name", NAMES)
def test_backward_is_the_written_formula(name):
    for tau, seed in itertools.product(taus(name), range(5)):
        theta = torch.randn(6, dtype=torch.float64, generator=rng(seed), requires_grad=True)
        g = torch.randn(6, dtype=torch.float64, generator=rng(seed + 100))
        d = estimators.get(name, tau=tau)(theta, generator=rng(seed))
        (gradient,) = torch.autograd.grad(d, theta, g)
        noise = gumbel_noise(theta.detach(), rng(seed))
        expected = written_formula(name, theta.detach(), tau, d.detach(), g, noise)
        torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-12)


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


@pytest.mark.parametrize("name", DISCRETE)
def test_draws_are_one_hot_with_the_right_frequencies(name):
    theta = torch.tensor([0.5, -1.0, 2.0, 0.0, -3.0])
    n = 40_000
    d = estimators.get(name)(theta.expand(n, 5), generator=rng(1))
    assert torch.equal(d.sum(-1), torch.ones(n))
    assert set(d.unique().tolist()) == {0.0, 1.0}
    expected = theta.softmax(-1) * n
    chi_square = ((d.sum(0) - expected).square() / expected).sum()
    assert chi_square < 18.47  # 99.9 % quantile, 4 degrees of freedom


@pytest.mark.parametrize("name", NAMES)
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
    assert gradient.sum(-1).abs().max() <= tolerance


@pytest.mark.parametrize("name", NAMES)
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


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_extreme_logits(name, dtype):
    rows = [[1e3, -1e3, 0.0], [1e3, 1e3, 1e3], [-1e3, -1e3, -1e3], [-1e3, 1e3, 1e3]]
    theta = torch.tensor(rows, dtype=dtype, requires_grad=True)
    for tau in (estimators.family(name).default_schedule.start, estimators.family(name).default_schedule.end):
        d = estimators.get(name, tau=tau)(theta, generator=rng(5))
        assert d.isfinite().all()
        assert d[0, 0] > 0.99 or tau > 1
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
    assert torch.equal(first, other) != estimator.discrete


@pytest.mark.parametrize("name", NAMES)
def test_rows_are_independent(name):
    """A batched call is the rows' own formulas: the gradient of one row ignores the others."""
    theta = torch.randn(4, 5, generator=rng(), dtype=torch.float64, requires_grad=True)
    d = estimators.get(name)(theta, generator=rng())
    g = torch.zeros(4, 5, dtype=torch.float64)
    g[2] = torch.arange(5.0)
    (gradient,) = torch.autograd.grad(d, theta, g)
    assert gradient[2].abs().sum() > 0
    assert gradient[[0, 1, 3]].abs().sum() == 0


@pytest.mark.parametrize("name", NAMES)
def test_temperature_range_and_schedule(name):
    family = estimators.family(name)
    low, high = family.tau_range
    for bad in (low * 0.99, high * 1.01, float("nan")):
        with pytest.raises(ValueError, match=f"out of range for the estimator '{name}'"):
            estimators.get(name, tau=bad)
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


def test_pathwise_objective_is_the_loss_itself():
    theta = torch.zeros(2, 3, requires_grad=True)
    estimator = estimators.get("reinmax")
    d = estimator(theta, generator=rng())
    loss = d.square().sum()
    assert estimator.objective(loss, theta, d) is loss


def test_bad_logits_are_refused():
    estimator = estimators.get("st")
    with pytest.raises(TypeError, match="floating point"):
        estimator(torch.zeros(3, dtype=torch.long))
    with pytest.raises(ValueError, match="shape"):
        estimator(torch.tensor(1.0))
    with pytest.raises(KeyError):
        estimators.get("nothing")
