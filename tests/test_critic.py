"""reinforce_critic: its algebra by enumeration, its memory, and what it buys."""

import itertools

import pytest
import torch

import estimators
from estimators.exact import mean_and_gradient, outcomes
from recipes import InputError

L, K = 2, 3  # nine outcomes, 81 pairs
DOUBLE = {"dtype": torch.float64}


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def problem(seed=0):
    """Logits (L, K), all outcomes, and a loss for each of them from a random table."""
    logits = torch.randn(L, K, generator=rng(seed), **DOUBLE)
    every = outcomes(logits)
    return logits, every, torch.randn(len(every), generator=rng(seed + 50), **DOUBLE).exp()


def exact(logits, every, values):
    def loss(draws):
        return torch.stack([values[(every == draw).all(-1).all(-1)][0] for draw in draws])

    return mean_and_gradient(logits, loss)[1]


def probabilities(logits, every):
    return (every * logits.softmax(-1)).sum(-1).prod(-1)


def trained(seed=0, steps=6, slope=False, **settings):
    """A critic with draws from elsewhere in its memory, and losses of no meaning."""
    critic = estimators.family("reinforce_critic")(slope=slope, **settings)
    g = rng(seed + 7)
    for size in range(2, 2 + steps):
        draws = estimators.get("reinforce_loo")(torch.zeros(size, L, K, **DOUBLE), g)
        at_draws = torch.randn(size, L, K, generator=g, **DOUBLE) if slope else None
        losses = torch.randn(size, generator=g, **DOUBLE)
        critic.learn(torch.zeros(L, K), draws, losses, at_draws)
    return critic


def mean_over_pairs(critic, logits, every, values):
    """Mean and second moment of the estimate from two draws."""
    p, none = probabilities(logits, every), torch.zeros(())
    first = second = 0
    for i, j in itertools.product(range(len(every)), repeat=2):
        pair = [i, j]
        found = critic.gradient(logits, every[pair], values[pair], mean=none)
        first = first + p[i] * p[j] * found
        second = second + p[i] * p[j] * found.square().sum()
    return first, second


def test_without_a_memory_it_is_reinforce_loo():
    logits, every, values = problem()
    for chosen in ([0, 3], [1, 1], [8, 2, 5, 5]):
        found, expected = (
            estimators.get(name).gradient(logits, every[chosen], values[chosen])
            for name in ("reinforce_critic", "reinforce_loo")
        )
        assert torch.equal(found, expected)


@pytest.mark.parametrize("slope", [False, True])
@pytest.mark.parametrize("seed", [0, 1])
def test_unbiased_for_every_loss_whatever_it_remembers(seed, slope):
    """The mean over all pairs of outcomes is the exact gradient; the spread is another than without."""
    logits, every, values = problem(seed)
    critic = trained(seed, slope=slope)
    mean, second = mean_over_pairs(critic, logits, every, values)
    torch.testing.assert_close(mean, exact(logits, every, values), rtol=0, atol=1e-12)
    plain = mean_over_pairs(estimators.get("reinforce_loo"), logits, every, values)[1]
    assert abs(second - plain) > 1e-3


def test_unbiased_where_candidates_do_not_exist():
    logits, _, _ = problem()
    logits[0, 1] = -torch.inf
    every = outcomes(logits)
    values = torch.randn(len(every), generator=rng(1), **DOUBLE)
    mean, _ = mean_over_pairs(trained(), logits, every, values)
    torch.testing.assert_close(mean, exact(logits, every, values), rtol=0, atol=1e-12)
    assert not mean[0, 1]


@pytest.mark.parametrize("slope", [False, True])
def test_its_mean_has_the_gradient_that_autograd_gives(slope):
    """E b over all outcomes, differentiated, against what the estimate adds: with losses b(D) the scores
    have nothing left to weight."""
    logits, every, _ = problem(2)
    critic, none = trained(2, slope=slope), torch.zeros(())
    b = critic._critic(every.argmax(-1), critic._past, K)
    if slope:
        b = b + (critic.slope * every).sum((-2, -1))
    leaf = logits.clone().requires_grad_()
    (expected,) = torch.autograd.grad(probabilities(leaf, every) @ b, leaf)
    for pair in ([0, 5], [3, 8]):
        found = critic.gradient(logits, every[pair], b[pair], mean=none)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    assert expected.norm() > 0.01


def test_kernel_and_fit_are_the_written_ones():
    """k with loops, and C (C K C + lambda 1)^-1 C y with matrices."""
    critic = trained(3, rho=0.7, ridge=0.2)
    chosen, losses, steps = critic._past
    m = len(losses)
    k = torch.tensor(
        [[1.7 ** sum(int(a == b) for a, b in zip(x, y, strict=True)) for y in chosen] for x in chosen],
        **DOUBLE,
    )
    same = (steps.unsqueeze(0) == steps.unsqueeze(1)).double()
    c = torch.eye(m, **DOUBLE) - same / same.sum(1, keepdim=True)
    beta = c @ torch.linalg.inv(c @ k @ c + 0.2 * torch.eye(m, **DOUBLE)) @ c @ losses
    torch.testing.assert_close(critic._coefficients(critic._past, K), beta)
    torch.testing.assert_close(critic._critic(chosen.long(), critic._past, K), k @ beta)
    default = estimators.get("reinforce_critic")
    assert default._rho(28) == 2 / 28


def test_all_outcomes_in_memory_leave_no_spread():
    """A table is multilinear: with next to no ridge the critic is the loss, up to a constant."""
    logits, every, values = problem(4)
    critic = estimators.get("reinforce_critic:ridge=1e-9,rho=0.5")
    critic.learn(logits, every, values)
    target = exact(logits, every, values)
    for pair in ([0, 8], [2, 3]):
        found = critic.gradient(logits, every[pair], values[pair], mean=torch.zeros(()))
        assert (found - target).norm() < 1e-6 * target.norm()


def test_a_slope_of_a_linear_loss_leaves_no_spread():
    logits, every, _ = problem(5)
    a = torch.randn(L, K, generator=rng(3), **DOUBLE)
    values = (every * a).sum((-2, -1))
    critic = estimators.get("reinforce_critic:slope=true")
    assert critic.signal == "both"
    target = exact(logits, every, values)
    critic.gradient(logits, every[[0, 4]], values[[0, 4]], at_draws=a.expand(2, L, K))
    for pair in ([0, 8], [2, 3]):
        found = critic.gradient(logits, every[pair], values[pair], mean=torch.zeros(()))
        torch.testing.assert_close(found, target, rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="needs the gradients"):
        critic.gradient(logits, every[:2], values[:2])


def test_only_the_past_shapes_the_estimate():
    """It is affine in the losses of this step."""
    logits, every, values = problem(6)
    critic, pair, none = trained(6), [1, 7], torch.zeros(())
    other = torch.randn(2, generator=rng(0), **DOUBLE)

    def at(losses):
        return critic.gradient(logits, every[pair], losses, mean=none)

    middle = at((values[pair] + other) / 2)
    torch.testing.assert_close(middle, (at(values[pair]) + at(other)) / 2, rtol=0, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(5,), (3, 5), (2, 3, 4)])
def test_rows_sum_to_zero_in_every_shape_and_dtype(shape, dtype):
    critic = estimators.get("reinforce_critic")
    theta = torch.randn(shape, generator=rng(0)).to(dtype)
    for seed in range(4):
        draws = critic(theta.expand(4, *shape), rng(seed))
        found = critic.gradient(theta, draws, torch.randn(4, generator=rng(seed)).to(dtype))
        assert found.shape == shape
        assert found.dtype == dtype
        assert found.sum(-1).abs().max() < {torch.float64: 1e-12, torch.float32: 1e-6}.get(dtype, 3e-2)


def test_many_problems_at_once_are_each_its_own():
    """Losses (N, P): memory, fit and estimate of each problem are those of a critic by itself."""
    critics = [estimators.get("reinforce_critic:memory=10") for _ in range(3)]
    together = estimators.get("reinforce_critic:memory=10")
    logits = torch.randn(3, L, K, generator=rng(0), **DOUBLE)
    for seed in range(5):
        draws = together(logits.expand(4, 3, L, K), rng(seed))
        losses = torch.randn(4, 3, generator=rng(seed), **DOUBLE)
        found = together.gradient(logits, draws, losses)
        for p, alone in enumerate(critics):
            expected = alone.gradient(logits[p], draws[:, p], losses[:, p])
            torch.testing.assert_close(found[p], expected, rtol=0, atol=1e-12)
    assert together.state()["losses"].shape == (3, 10)
    draws = together(logits.expand(4, 6, 3, L, K), rng(9))  # six estimates of every problem, nothing learned
    losses = torch.randn(4, 6, 3, generator=rng(9), **DOUBLE)
    found = together.gradient(logits, draws, losses, mean=torch.zeros(3))
    expected = critics[1].gradient(logits[1], draws[:, 2, 1], losses[:, 2, 1], mean=torch.zeros(()))
    torch.testing.assert_close(found[2, 1], expected, rtol=0, atol=1e-12)
    assert together.step == 5


def test_problems_may_share_their_logits():
    """Losses (N, P) for logits that are broadcast to P, with a memory as without."""
    shared, repeated = (estimators.get("reinforce_critic:memory=10") for _ in range(2))
    logits = torch.randn(L, K, generator=rng(0), **DOUBLE)
    for seed in range(3):
        draws = shared(logits.expand(4, 3, L, K), rng(seed))
        losses = torch.randn(4, 3, generator=rng(seed), **DOUBLE)
        found = shared.gradient(logits, draws, losses)
        torch.testing.assert_close(found, repeated.gradient(logits.expand(3, L, K), draws, losses))


def test_the_offset_of_a_batch_does_not_count():
    """A constant added to all losses of a step, now or in the past, changes nothing."""
    logits, every, values = problem(1)
    plain, shifted = (estimators.get("reinforce_critic") for _ in range(2))
    for seed in range(6):
        index = torch.randint(len(every), (4,), generator=rng(seed))
        a = plain.gradient(logits, every[index], values[index])
        b = shifted.gradient(logits, every[index], values[index] + 1000.0 * seed)
        torch.testing.assert_close(a, b, rtol=0, atol=1e-9)


def test_the_memory_is_bounded_and_goes_into_a_state():
    """A critic that takes up a state goes on bit by bit like the one that wrote it; the oldest draws go."""
    logits, every, values = problem(0)
    whole, first = (estimators.get("reinforce_critic:memory=10,slope=true") for _ in range(2))
    slopes = torch.randn(len(every), L, K, generator=rng(1), **DOUBLE)

    def step(critic, seed):
        index = torch.randint(len(every), (4,), generator=rng(seed))
        return critic.gradient(logits, every[index], values[index], at_draws=slopes[index])

    for seed in range(4):
        assert torch.equal(step(whole, seed), step(first, seed))
    second = estimators.get("reinforce_critic:memory=10,slope=true")
    second.load_state(first.state())
    for seed in range(4, 8):
        assert torch.equal(step(whole, seed), step(second, seed))
    state = second.state()
    assert state["chosen"].shape == (10, L)
    assert state["steps"].tolist() == [6, 6, 7, 7, 7, 7, 8, 8, 8, 8]
    assert estimators.get("reinforce_critic").state() == {}
    with pytest.raises(ValueError, match="has no state"):
        second.load_state({"baseline": 1.0})


def test_losses_that_are_not_finite_are_not_remembered():
    logits, every, values = problem(0)
    critic = trained()
    before = critic.state()
    for bad in (torch.nan, torch.inf):
        losses = values[:2].clone()
        losses[1] = bad
        assert not critic.gradient(logits, every[:2], losses).isfinite().all()
    assert all(torch.equal(torch.as_tensor(v), torch.as_tensor(before[k])) for k, v in critic.state().items())


def test_many_equal_draws_of_many_choices_can_be_fitted():
    """With the largest kernel and next to no ridge, a memory of equal draws makes a singular system."""
    critic = estimators.get("reinforce_critic:rho=1,ridge=1e-9,memory=200")
    logits = torch.randn(40, 4, generator=rng(0))
    draws = critic(logits.expand(4, 40, 4), rng(1))
    for seed in range(60):
        found = critic.gradient(logits, draws[[0, 0, 1, seed % 4]], torch.randn(4, generator=rng(seed)))
    assert found.isfinite().all()


def test_it_learns_to_spread_less():
    """Of a fixed loss with interactions, 200 past draws leave less than a tenth of the variance."""
    logits, every, values = problem(8)
    critic, loo = estimators.get("reinforce_critic"), estimators.get("reinforce_loo")
    for seed in range(50):
        index = torch.multinomial(probabilities(logits, every), 4, replacement=True, generator=rng(seed))
        critic.gradient(logits, every[index], values[index])
    square = exact(logits, every, values).square().sum()
    spread, plain = (mean_over_pairs(e, logits, every, values)[1] - square for e in (critic, loo))
    assert 0 <= spread < 0.1 * plain


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("memory=0", "from 1 to 5,000"),
        ("memory=20000", "from 1 to 5,000"),
        ("rho=0", "rho is 0, expected a number above 0"),
        ("rho=2", "at most 1"),
        ("ridge=-1", "ridge is -1"),
        ("slope=maybe", "expected true or false"),
    ],
)
def test_bad_settings_are_one_line(text, message):
    with pytest.raises(InputError, match=message):
        estimators.get(f"reinforce_critic:{text}")
