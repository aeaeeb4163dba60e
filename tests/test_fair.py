"""FairDARTS: candidates that do not exclude each other, and the term that decides each of them."""

import pytest
import torch
import torch.nn.functional as F
from small import batch, rng
from small import bilevel as setup

import estimators
import nas
import search_spaces
from estimators import Schedule
from nas.bilevel.architecture import Architecture
from nas.bilevel.budget import Budget
from nas.bilevel.budget_term import BudgetTerm
from nas.bilevel.policies import PerturbedPolicy
from nas.bilevel.terms import ZeroOne
from nas.bilevel.unroll import unrolled_gradient_exact
from nas.report.plots import plot_probabilities
from recipes import InputError
from search_spaces.cost import NetworkSize, count_costs

DTYPE = torch.float64
SMALL = {"channels": 4, "train_limit": 160, "batch_size": 32, "tensorboard": False}


# The estimator


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_every_candidate_has_the_weight_and_the_gradient_of_its_own_logit(dtype):
    theta = torch.randn(2, 3, 5, generator=rng()).to(dtype)
    theta[0, 1, 2] = theta[1, 0, 4] = -torch.inf
    theta.requires_grad_()
    estimator = estimators.get("sigmoid")
    draw = estimator(theta, generator=rng(1))
    g = torch.randn(2, 3, 5, generator=rng(2)).to(dtype)
    (found,) = torch.autograd.grad(draw, theta, g)
    p = 1 / (1 + (-theta.detach().double()).exp())
    tolerance = 1e-2 if dtype == torch.bfloat16 else 1e-6
    torch.testing.assert_close(draw.double(), p, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(found.double(), p * (1 - p) * g.double(), rtol=2 * tolerance, atol=tolerance)
    assert draw.dtype == found.dtype == dtype
    gone = theta.isinf()
    assert not draw[gone].any()
    assert not found[gone].any()
    assert not estimator.probabilities(theta.detach())[gone].any()
    assert torch.equal(draw, estimator(theta, generator=rng(9)))
    mean = estimator.probabilities(theta.detach())
    torch.testing.assert_close(mean.to(dtype), draw.detach(), rtol=0, atol=0)


def test_extreme_logits_are_finite_and_there_is_no_temperature():
    theta = torch.tensor([[1e3, -1e3, 0.0, -torch.inf]], requires_grad=True)
    draw = estimators.get("sigmoid")(theta)
    (found,) = torch.autograd.grad(draw, theta, torch.ones_like(draw))
    assert draw.tolist() == [[1.0, 0.0, 0.5, 0.0]]
    assert found.tolist() == [[0.0, 0.0, 0.25, 0.0]]
    with pytest.raises(InputError, match="out of range for the estimator 'sigmoid'"):
        estimators.get("sigmoid", tau=2.0)


def test_it_is_no_estimator_of_a_choice_and_is_compared_with_none():
    assert "sigmoid" not in estimators.names()
    assert estimators.get("sigmoid").name == "sigmoid"


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("space", ["micro", "s1"])
def test_an_architecture_step_is_plain_autograd_through_all_candidates(space, order):
    term = ZeroOne(Schedule(10.0, 10.0), "l2")
    bilevel = setup(space, "sigmoid", DTYPE, "dense", terms=[term], order=order)
    if order == 2:
        bilevel.unroll = unrolled_gradient_exact
    logits, rows = bilevel.architecture.logits, bilevel.architecture.space.slots
    leaf = logits.detach().clone().requires_grad_()
    there = torch.tensor([[k < len(slot.candidates) for k in range(leaf.shape[1])] for slot in rows])
    weights = torch.where(there, 1 / (1 + (-leaf).exp()), 0.0)
    valid, train = batch(1, DTYPE), batch(2, DTYPE)
    supernet = bilevel.supernet
    if order == 1:
        loss = F.cross_entropy(supernet(valid[0], weights), valid[1])
    else:
        named = dict(supernet.named_parameters())
        inner = F.cross_entropy(supernet(train[0], weights), train[1])
        slopes = torch.autograd.grad(inner, list(named.values()), create_graph=True, allow_unused=True)
        moved = {n: p if g is None else p - 0.1 * g for (n, p), g in zip(named.items(), slopes, strict=True)}
        output = torch.func.functional_call(supernet, moved, (valid[0], weights))
        loss = F.cross_entropy(output, valid[1])
    decided = -10.0 * ((weights - 0.5)[there] ** 2).mean()
    (expected,) = torch.autograd.grad(loss + decided, leaf)
    bilevel.architecture_step(valid, train, rng(3), 0.5)
    torch.testing.assert_close(logits.grad, expected, rtol=1e-9, atol=1e-11)
    assert expected[there].abs().min() > 0


# The zero-one loss


def test_the_term_is_the_formula_and_pushes_away_from_one_half():
    logits = torch.tensor([[0.4, -1.0, 2.0], [1.0, 0.0, -torch.inf]], dtype=DTYPE, requires_grad=True)
    p = logits.detach().sigmoid().flatten()[:5]
    for norm, distance in (("l2", (p - 0.5) ** 2), ("l1", (p - 0.5).abs())):
        term = ZeroOne(Schedule(0.0, 20.0), norm)
        value = term.of_logits(logits, 0.5)
        assert float(value.detach()) == pytest.approx(-10.0 * float(distance.mean()))
        (found,) = torch.autograd.grad(value, logits)
        assert found.isfinite().all()
        assert found[1, 2] == found[1, 1] == 0
        assert (found.flatten()[:4].sign() == -logits.flatten()[:4].sign()).all()  # descent moves them on


def test_none_does_not_count_as_it_adds_nothing():
    found = nas.search("micro", estimator="sigmoid", terms=["zero_one"], epochs=1, **SMALL)
    logits = found.logits.detach().double()
    value = float(found.search.bilevel.terms[0].of_logits(logits, 1.0))
    assert value == pytest.approx(-10.0 * float(((logits[:, 1:].sigmoid() - 0.5) ** 2).mean()))


def test_with_candidates_that_exclude_each_other_it_is_refused():
    with pytest.raises(
        InputError, match="the term 'zero_one' needs an estimator that weighs every candidate"
    ):
        nas.search("micro", estimator="softmax", terms=["zero_one"], epochs=1, **SMALL)
    with pytest.raises(InputError, match="norm is 'l3', expected "):
        nas.search("micro", estimator="sigmoid", terms=["zero_one:norm=l3"], epochs=1, **SMALL)


# In a search


def test_a_search_of_darts_keeps_the_two_strongest_weights_of_every_node():
    options = {"estimator": "sigmoid", "terms": ["zero_one:weight=10"], "arch_lr": 0.3, "epochs": 2}
    found = nas.search("s3", warmup_epochs=0, max_skips=None, **options, **SMALL)
    weights = found.logits.detach().sigmoid()
    torch.testing.assert_close(found.log_probabilities().exp(), weights)
    for cell in found.genotype.cells:
        for target in range(2, 6):
            best = {}
            for source in range(target):
                row = weights[found.space.row(cell.name, source, target)]
                best[source] = max((float(row[k]), k) for k in (1, 2))  # 0 is none
            kept = sorted(sorted(best, key=lambda s: -best[s][0])[:2])
            edges = sorted((e.source, e.operation) for e in cell.edges if e.target == target)
            assert edges == [(s, found.space.slots[0].candidates[best[s][1]]) for s in kept]


def test_the_entropy_is_that_of_a_decision_for_every_candidate():
    space = search_spaces.get("s1")
    logits = torch.randn(space.num_slots, space.width, generator=rng())
    architecture = Architecture(space, estimators.get("sigmoid"), logits)
    rows = [row[: len(slot.candidates)] for row, slot in zip(logits, space.slots, strict=True)]
    p = torch.cat(rows).sigmoid()
    expected = torch.distributions.Bernoulli(p).entropy().mean()
    assert architecture.entropy() == pytest.approx(float(expected), rel=1e-5)
    sure = Architecture(space, estimators.get("sigmoid"), torch.full_like(logits, 60.0))
    assert sure.entropy() == pytest.approx(0, abs=1e-6)


def test_perturbed_weights_need_not_sum_to_one():
    space = search_spaces.get("micro")
    architecture = Architecture(space, estimators.get("sigmoid"), torch.full((3, 5), 3.0))
    (path,) = PerturbedPolicy(Schedule(0.1, 0.1)).paths(architecture, rng(), 0, 0.0)
    assert (path - architecture.probabilities()).abs().max() <= 0.1
    assert path.sum() > 12


def test_the_expected_cost_is_of_one_candidate_a_slot():
    space = search_spaces.get("micro")
    size = NetworkSize(4, 1, 10, 1, (8, 8))
    budget = Budget(space, size, count_costs(space, size), {"parameters": 8000})
    architecture = Architecture(space, estimators.get("sigmoid"), torch.zeros(3, 5))
    expected = BudgetTerm(budget, architecture, 0.0, 10).expected(torch.zeros(3, 5))
    table = budget.costs["parameters"]
    assert float(expected) == pytest.approx(table.fixed + float(table.table.double().mean(-1).sum()))


def test_weights_that_are_no_shares_are_drawn_as_lines():
    space = search_spaces.get("micro")
    shares, weights = ([[[value] * 5] * 3] * 3 for value in (0.2, 0.9))
    for moments, lines in ((shares, 0), (weights, 5)):
        figure = plot_probabilities(space, moments, [1, 2, 3])
        assert [len(axes.lines) for axes in figure.axes[:3]] == [lines] * 3
