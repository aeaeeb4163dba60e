"""The architecture gradient measured inside a search, against plain autograd."""

import itertools

import pytest
import torch
import torch.nn.functional as F

import estimators
from estimators.compare import Errors
from nas.bilevel.measures import gradient as measure
from nas.bilevel.measures.gradient import GradientMeasure
from nas.bilevel.search import Search
from nas.seeding import generator
from recipes import SearchOptions

TOY = {
    "space": "micro",
    "channels": 4,
    "epochs": 2,
    "warmup_epochs": 0,
    "batch_size": 16,
    "train_limit": 80,
    "threads": 1,
    "tensorboard": False,
}


@pytest.fixture(scope="module")
def measured():
    """A measurement of a briefly trained supernet with logits that are not uniform."""
    return measurement(torch.randn(3, 5, generator=torch.Generator().manual_seed(0)))


@pytest.fixture(scope="module")
def masked():
    """The same where the edges have 2, 5 and 3 candidates."""
    logits = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    logits[0, [0, 2, 4]] = logits[2, [1, 3]] = -torch.inf
    return measurement(logits)


def measurement(logits):
    search = Search.of(SearchOptions(**TOY))
    for _ in search.epoch(0, 0):
        pass
    with torch.no_grad():
        search.architecture.logits.copy_(logits)
    images, labels = next(iter(search.valid))
    return GradientMeasure(search.bilevel, (images[:16], labels[:16]), seed=0, position=0)


@pytest.mark.parametrize("which", ["measured", "masked"])
def test_exact_gradient_is_that_of_the_sum_over_all_architectures(which, request):
    measured = request.getfixturevalue(which)
    logits = measured.logits.double().requires_grad_()
    p = logits.softmax(-1)
    total = torch.zeros((), dtype=torch.float64)
    supernet, (images, labels) = measured.bilevel.supernet, measured.batch
    for choice in itertools.product(*(row.isfinite().nonzero().flatten().tolist() for row in logits)):
        with torch.no_grad():
            loss = F.cross_entropy(supernet(images, list(choice)), labels)
        total = total + loss.double() * torch.stack([p[edge, k] for edge, k in enumerate(choice)]).prod()
    (expected,) = torch.autograd.grad(total, logits)
    torch.testing.assert_close(measured.mean, total.detach(), rtol=1e-6, atol=0)
    torch.testing.assert_close(measured.gradient, expected, rtol=1e-4, atol=1e-7)
    assert measured.noise == 0


@pytest.mark.parametrize("name", ["reinmax", "st", "st_gumbel", "gumbel_rao", "gst", "reinmax_rao"])
def test_estimates_are_those_of_a_pass_through_the_supernet(measured, name, monkeypatch):
    monkeypatch.setattr(measure, "ESTIMATES", 6)
    estimator = estimators.get(name)
    estimates = measured.estimates(estimator)
    leaf = measured.logits.repeat(6, 1, 1).requires_grad_()
    draws = estimator(leaf, generator(0, "measured draw", 0))
    supernet, (images, labels) = measured.bilevel.supernet, measured.batch
    loss = sum(F.cross_entropy(supernet(images, draw), labels) for draw in draws)
    (expected,) = torch.autograd.grad(loss, leaf)
    torch.testing.assert_close(estimates.float(), expected, rtol=1e-3, atol=1e-6)


def test_score_estimates_are_those_of_the_estimator(measured, monkeypatch):
    monkeypatch.setattr(measure, "ESTIMATES", 3)
    estimator = estimators.get("reinforce_loo")
    estimates = measured.estimates(estimator)
    draws = estimator(measured.logits.repeat(12, 1, 1), generator(0, "measured draw", 0))
    losses = torch.tensor([measured._loss(draw) for draw in draws], dtype=torch.float64)
    for i in range(3):
        group = slice(4 * i, 4 * i + 4)
        expected = estimator.gradient(measured.logits.double(), draws[group].double(), losses[group])
        torch.testing.assert_close(estimates[i], expected)


def test_candidates_that_do_not_exist_are_not_run_and_have_no_gradient(masked, monkeypatch):
    monkeypatch.setattr(measure, "ESTIMATES", 50)
    monkeypatch.setattr(measure, "DENSE_DRAWS", 3)
    missing = masked.logits.isinf()
    assert masked.enumerated
    assert len(masked.evaluated) == 2 * 5 * 3
    for name in estimators.names():
        estimates = masked.estimates(estimators.get(name))
        assert estimates.isfinite().all()
        assert estimates[:, ~missing].any()
        assert not estimates[:, missing].any()
    assert len(masked.evaluated) == 2 * 5 * 3


@pytest.mark.parametrize("which", ["measured", "masked"])
@pytest.mark.parametrize("name", ["reinforce", "reinforce_loo"])
def test_unbiased_estimators_measure_as_unbiased(which, name, request):
    measured = request.getfixturevalue(which)
    estimates = measured.estimates(estimators.get(name))
    error = (estimates.mean(0) - measured.gradient).square().sum()
    assert error < 2 * estimates.var(0).sum() / len(estimates)


def test_biased_estimator_is_found_out(measured):
    found = measured.compare(estimators.get("softmax"))
    assert found["std"] == pytest.approx(0, abs=1e-4)
    assert found["bias"] > 0.05
    assert found["bias2"] == pytest.approx(found["bias"] ** 2)
    assert "standard_error" in found
    assert found["rmse"] == pytest.approx(found["bias"], rel=1e-3)


@pytest.mark.parametrize("which", ["measured", "masked"])
def test_sampled_reference_agrees_with_enumeration(which, request, monkeypatch):
    measured = request.getfixturevalue(which)
    monkeypatch.setattr(measure, "ENUMERABLE", 0)
    sampled = GradientMeasure(measured.bilevel, measured.batch, seed=0, position=0)
    distance2 = (sampled.gradient - measured.gradient).square().sum()
    assert 0 < distance2 < 3 * sampled.noise  # the mean of distance2 is the noise
    described = sampled.describe(0.5)
    assert described["reference"] == "reinforce_loo"
    truth = float(measured.gradient.norm())
    assert described["norm"] == pytest.approx(truth, abs=3 * float(sampled.noise.sqrt()))
    assert described["reference_error"] == pytest.approx(float(sampled.noise.sqrt()) / described["norm"])


def test_a_reference_that_says_nothing_measures_nothing(measured, monkeypatch):
    monkeypatch.setattr(measure, "_TOO_NOISY", 1e-9)
    monkeypatch.setattr(measure, "ENUMERABLE", 0)
    described = GradientMeasure(measured.bilevel, measured.batch, seed=0, position=0).describe(0.5)
    assert described["estimators"] == {}
    assert described["reference_error"] is None


def test_noise_of_the_reference_is_taken_out():
    """Estimates and reference scatter around the same gradient: the bias that is left is their chance."""
    rng = torch.Generator().manual_seed(0)
    truth = torch.randn(1, 2, 3, generator=rng, dtype=torch.float64)
    found = []
    for _ in range(300):
        reference = truth + 0.3 * torch.randn(1, 2, 3, generator=rng, dtype=torch.float64)
        errors = Errors(reference, torch.tensor([6 * 0.09], dtype=torch.float64))
        errors.add(truth + torch.randn(50, 1, 2, 3, generator=rng, dtype=torch.float64))
        measured = errors.measured()
        found.append(float(measured.bias2 * truth.square().sum()))
    mean = torch.tensor(found)
    assert abs(float(mean.mean())) < 4 * float(mean.std()) / 300**0.5 + 0.05
    uncorrected = 6 * 0.09
    assert abs(float(mean.mean())) < uncorrected / 4


def test_measuring_changes_nothing_else(monkeypatch):
    monkeypatch.setattr(measure, "ESTIMATES", 200)
    plain, with_measures = (Search.of(SearchOptions(**TOY, measure_every=n)) for n in (0, 1))
    for epoch in range(2):
        for search in (plain, with_measures):
            for _ in search.epoch(epoch, 0):
                pass
        one, two = plain.describe(epoch), with_measures.describe(epoch)
        gradient = two.pop("gradient")
        assert one == two
        assert set(gradient["estimators"]) == {
            n for n in estimators.names() if not estimators.family(n).learns
        }
    assert torch.equal(plain.architecture.logits, with_measures.architecture.logits)
    again = with_measures.measure(1)
    assert again == gradient  # a function of seed and epoch


@pytest.mark.parametrize("name", ["reinforce_critic", "double_cv"])
def test_what_learns_is_measured_with_what_it_remembers(name, monkeypatch):
    """In a search of its own: unbiased, and nothing is learned from the measurement."""
    monkeypatch.setattr(measure, "ESTIMATES", 400)
    search = Search.of(SearchOptions(**TOY, estimator=name))
    for _ in search.epoch(0, 0):
        pass
    estimator = search.architecture.estimator
    state = estimator.state()
    gradient = search.measure(0)
    assert gradient["estimators"][name]["bias"] < 0.5
    others = {"reinforce_critic", "double_cv"} - {name}
    assert not others & set(gradient["estimators"])
    assert all(value is estimator.state()[key] for key, value in state.items() if key != "step")
    assert state


def test_the_estimator_of_a_search_is_measured_as_it_is(monkeypatch):
    """With its settings and temperature, and with as many draws as a step has."""
    monkeypatch.setattr(measure, "ESTIMATES", 3)
    search = Search.of(SearchOptions(**TOY, estimator="reinmax_beta:beta=0.9", tau="4"))
    found = search.measure(0)["estimators"]
    own = GradientMeasure(search.bilevel, next(iter(search.valid)), 0, 0)
    assert found["reinmax_beta"]["tau"] == 4
    assert found["reinmax"]["tau"] == 1
    assert not own.estimates(search.architecture.estimator).equal(
        own.estimates(estimators.get("reinmax_beta", 4))
    )
    search = Search.of(SearchOptions(**TOY, estimator="reinforce_loo", draws=2))
    own, estimator = (
        GradientMeasure(search.bilevel, next(iter(search.valid)), 0, 0),
        search.architecture.estimator,
    )
    draws = estimator(own.logits.repeat(6, 1, 1), generator(0, "measured draw", 0))
    losses = torch.tensor([own._loss(draw) for draw in draws], dtype=torch.float64)
    expected = estimator.gradient(own.logits.double(), draws[:2].double(), losses[:2])
    torch.testing.assert_close(own.estimates(estimator)[0], expected)


def test_double_cv_is_measured_with_the_gradients_of_the_supernet(measured, monkeypatch):
    monkeypatch.setattr(measure, "ESTIMATES", 3)
    estimator = estimators.get("double_cv")
    estimator.load_state({"moments": torch.tensor([0.5, 1.0], dtype=torch.float64)})
    estimates = measured.estimates(estimator)
    draws = estimator(measured.logits.repeat(12, 1, 1), generator(0, "measured draw", 0))
    supernet, (images, labels) = measured.bilevel.supernet, measured.batch
    leaf = draws.clone().requires_grad_()
    losses = torch.stack([F.cross_entropy(supernet(images, draw), labels) for draw in leaf])
    (at_draws,) = torch.autograd.grad(losses.sum(), leaf)
    for i in range(3):
        group = slice(4 * i, 4 * i + 4)
        expected = estimator.gradient(
            measured.logits.double(), draws[group], losses[group], measured.mean, at_draws[group]
        )
        torch.testing.assert_close(estimates[i], expected, rtol=1e-3, atol=1e-6)
