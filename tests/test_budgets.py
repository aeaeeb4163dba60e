"""Searches under a budget: what is asked for, what the term does, and that every rule keeps the limits."""

import itertools
import json

import pytest
import torch

import estimators
import nas
import search_spaces
from nas.bilevel.architecture import Architecture
from nas.bilevel.budget import Budget
from nas.bilevel.budget_term import BudgetTerm
from nas.bilevel.rules.ascent import Ascent
from nas.bilevel.rules.front import Front, pareto, write_front
from nas.bilevel.rules.sample import Sample
from recipes import InputError, SearchOptions
from recipes.budget import format_cost, parse_budget, parse_budgets
from recipes.options import check
from search_spaces.cost import NetworkSize, count_costs, count_macs, count_parameters

SMALL = {"channels": 4, "train_limit": 320, "batch_size": 32, "tensorboard": False, "progress": False}


def budget_of(name, **limits):
    space = search_spaces.get(name)
    size = NetworkSize(4, space.fewest_cells, 10, 1, (8, 8))
    return Budget(space, size, count_costs(space, size), limits)


# What is asked for


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("parameters=1.5M", 1_500_000), ("parameters=0.1k", 100), ("macs=60M", 60_000_000),
        ("macs=1.1G", 1_100_000_000), ("macs=123456", 123_456), ("latency=12ms", 12_000_000),
        ("latency=800us", 800_000), ("latency=0.5 s", 500_000_000), ("latency=7µs", 7_000),
    ],
)  # fmt: skip
def test_a_budget_is_read_exactly(text, limit):
    assert parse_budget([text]) == {text.partition("=")[0]: limit}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("parameters", "KIND=VALUE"), ("flops=60M", "unknown kind of budget 'flops'"),
        ("macs=60", "60 of what"),
        ("macs=1234.5", "of what"), ("macs=60m", "millions are M"), ("latency=12", "12ms or 800us"),
        ("latency=12M", "12ms or 800us"), ("macs=12ms", "1.5M or 800k"), ("macs=-60M", "a number"),
        ("macs=0k", "more than 0"), ("macs=nan", "a number"), ("macs=1e9", "a number"), ("macs=", "a number"),
        ("macs=9999999G", "less than"),
    ],
)  # fmt: skip
def test_a_budget_that_could_be_mistaken_is_refused(text, said):
    with pytest.raises(InputError, match=said):
        parse_budget([text])


def test_budgets_that_do_not_go_together_are_refused():
    assert parse_budgets("macs=60M,20M,40M") == ("macs", [20_000_000, 40_000_000, 60_000_000])
    for options, said in (
        ({"budget": ("macs=1M", "macs=2M")}, "twice"),
        ({"budget": ("macs=1M",), "budgets": "macs=1M,2M"}, "both limit macs"),
        ({"budgets": "macs=1M,1000k"}, "a value twice"),
        ({"budgets": "macs=1M"}, "expected several values: for one there is `budget`"),
        ({"budget": ("latency=3ms",)}, "needs `latency_table`"),
        ({"budget_channels": 8}, "`budget_channels` is the size that a budget speaks of"),
    ):
        with pytest.raises(InputError, match=said):
            check(SearchOptions(**options))


def test_costs_have_three_digits_and_a_unit():
    shown = [format_cost("macs", v) for v in (0, 999, 1000, 999_999, 61_234_567)]
    assert shown == ["0", "999", "1 k", "1000 k", "61.2 M"]
    assert [format_cost("latency", v) for v in (1_234, 5_600_000)] == ["1.23 µs", "5.6 ms"]


def test_what_no_architecture_keeps_is_refused_before_anything_is_trained(tmp_path):
    for budget, said in (
        (["macs=20k"], r"no architecture of the space 'nasbench201' is within it.*31.1 k to 197 k"),
        (["parameters=4700", "macs=1M"], "4.82 k to 23.3 k"),
    ):
        with pytest.raises(InputError, match=said):
            nas.search("nasbench201", budget=budget, epochs=2, out=str(tmp_path / "run"), **SMALL)
    assert not (tmp_path / "run").exists()


def test_a_space_with_rules_or_costs_of_its_own_is_refused():
    class Odd(type(search_spaces.get("micro"))):
        def discretise(self, scores):
            return super().discretise(-scores)

    odd = Odd("odd", nodes=3, channels=8, cells=1)
    size = NetworkSize(4, 1, 10, 1, (8, 8))
    with pytest.raises(InputError, match="rules of its own"):
        Budget(odd, size, count_costs(odd, size), {"macs": 10**9}).require_reachable()


# The term


def term_of(budget, estimator="reinmax"):
    return BudgetTerm(budget, Architecture(budget.space, estimators.get(estimator)), 0.0, 10)


def random_logits(space, seed=0, dtype=torch.float64):
    shape, generator = (space.num_slots, space.width), torch.Generator().manual_seed(seed)
    logits = torch.randn(shape, generator=generator, dtype=dtype)
    mask = space.mask()
    return logits if mask is None else logits.masked_fill(~mask, -torch.inf)


@pytest.mark.parametrize("estimator", ["reinmax", "dirichlet", "reinforce"])
def test_the_expected_cost_is_the_mean_over_all_architectures(estimator):
    budget = budget_of("micro", parameters=6000, macs=50_000)
    term = term_of(budget, estimator)
    logits = random_logits(budget.space).requires_grad_()
    p = estimators.get(estimator).probabilities(logits.detach())
    mean = torch.zeros(2, dtype=torch.float64)
    for choice in itertools.product(range(5), repeat=3):
        probability = p[range(3), choice].prod()
        mean += probability * torch.tensor([budget.costs[kind].of(choice) for kind in budget.limits])
    torch.testing.assert_close(term.expected(logits).detach(), mean)


def test_the_gradient_of_the_expected_cost_is_that_of_softmax():
    budget = budget_of("s1", macs=50_000)
    term = term_of(budget_of("nasbench201", macs=50_000))
    logits = random_logits(term.budget.space).requires_grad_()
    (found,) = torch.autograd.grad(term.expected(logits).sum(), logits)
    p, table = logits.detach().softmax(-1), term.budget.costs["macs"].table
    torch.testing.assert_close(found, p * (table - (p * table).sum(-1, keepdim=True)))
    term = term_of(budget)
    masked = random_logits(budget.space).requires_grad_()
    assert torch.autograd.grad(term.of_logits(masked, 0.5), masked)[0].isfinite().all()


@pytest.mark.parametrize("name", ["s3", "darts"])
def test_where_two_edges_are_kept_the_expected_cost_is_that_of_derived_cells(name):
    budget = budget_of(name, macs=50_000)
    space, table = budget.space, budget.costs["macs"]
    term = term_of(budget)
    logits = random_logits(space)
    expected = float(table.fixed)
    for target, cell in itertools.product(range(2, 6), space.cell_names):
        into = [row for row, s in enumerate(space.slots) if (s.cell, s.target) == (cell, target)]
        pairs = list(itertools.combinations(into, 2))
        for row in [row for pair in pairs for row in pair]:
            p = logits[row, 1:].softmax(-1)  # without none
            expected += float((p * table.table[row, 1:]).sum()) / len(pairs)
    assert float(term.expected(logits)) == pytest.approx(expected)


@pytest.mark.parametrize("limits", [{"macs": 60_000}, {"macs": 90_000, "parameters": 8_000}])
def test_multipliers_bring_a_search_that_wants_what_is_dear_to_its_limits(limits):
    """The loss falls with the convolutions, so that the best allowed distribution is at a limit."""
    budget = budget_of("nasbench201", **limits)
    torch.manual_seed(0)
    architecture, steps = Architecture(budget.space, estimators.get("reinmax")), 300
    term = BudgetTerm(budget, architecture, 0.0, steps)
    optimizer = torch.optim.Adam([architecture.logits], 0.02, (0.5, 0.999))
    worth = torch.tensor([0.0, 0.05, 0.15, 0.3, 0.06])
    for step in range(steps):
        optimizer.zero_grad()
        masked = architecture.masked()
        loss = -(masked.softmax(-1) * worth).sum() + 0.02 * torch.randn(masked.shape).mul(masked).sum()
        (loss + term.of_logits(masked, step / steps)).backward()
        optimizer.step()
        term.learn(architecture, step / steps)
        if step == int(0.74 * steps):
            found = term.describe(architecture, step / steps)
            assert max(k["expected"] / k["limit"] for k in found.values()) == pytest.approx(1, abs=0.03)
            assert max(k["multiplier"] for k in found.values()) > 0.1
    found = term.describe(architecture, 1.0)  # the likeliest is within the limits: nothing presses any more
    assert all(kind["expected"] <= 1.1 * kind["limit"] for kind in found.values())
    assert all(kind["likely"] <= kind["limit"] for kind in found.values())
    assert all(kind["derived"] <= kind["limit"] for kind in found.values())


def test_in_the_last_quarter_the_likeliest_architecture_counts():
    budget = budget_of("micro", macs=40_000)
    architecture = Architecture(budget.space, estimators.get("reinmax"), torch.zeros(3, 5))
    with torch.no_grad():
        architecture.logits[:, 3] = 0.01  # three 3 x 3 convolutions, though hardly
    term = BudgetTerm(budget, architecture, 0.0, 100)
    begun = float(term.expected(architecture.logits.detach()))
    aims = [float(term.aim(progress)) for progress in (0, 0.25, 0.5, 1)]
    assert aims == pytest.approx([begun, (begun + 40_000) / 2, 40_000, 40_000])
    for progress, cost in ((0.5, float(term.expected(architecture.logits.detach()))), (0.75, None)):
        term.multipliers.fill_(1.0)
        term.learn(architecture, progress)
        cost = budget.cost(budget.space.discretise(architecture.logits))["macs"] if cost is None else cost
        moved = term.rate * max(-0.05, min(0.05, cost / 40_000 - 1))
        assert float(term.multipliers) == pytest.approx(1.0 + moved)
        assert moved > 0
    other = BudgetTerm(budget, architecture, 0.0, 100)
    other.restore(json.loads(json.dumps(term.state())))
    assert torch.equal(other.multipliers, term.multipliers)


# Searches


@pytest.mark.parametrize(
    ("space", "limits", "options"),
    [
        ("micro", ["macs=45k"], {"derive": "sample:12"}),
        ("nasbench201", ["parameters=7k", "macs=80k"], {"derive": "ascent", "estimator": "softmax"}),
        ("micro", ["macs=45k"], {"derive": "halving:3,draws=10,epochs=1", "estimator": "reinforce"}),
        ("s1", ["parameters=6k"], {"estimator": "st_gumbel", "order": 2}),
        ("nasbench201", ["macs=100k"], {"budget_channels": 6, "budget_cells": 2, "budget_image_size": 6}),
    ],
)
def test_a_search_ends_within_its_budget_by_every_rule(space, limits, options):
    result = nas.search(space, budget=limits, epochs=2, arch_lr=0.1, **SMALL, **options)
    found, size = result.summary["budget"], result.search.budget.size
    assert found["limits"] == parse_budget(limits)
    assert size.channels == options.get("budget_channels", 4)

    def costs(text):
        network = size.network(result.space, result.space.parse(text))
        return {"parameters": count_parameters(network), "macs": count_macs(network, size.shape)}

    assert costs(result.summary["genotype"]) == found["costs"]
    looked_at = [row["genotype"] for row in result.summary.get("considered", [])]
    for text in {*looked_at, *(line["genotype"] for line in result.history), str(result)}:
        assert all(costs(text)[kind] <= limit for kind, limit in found["limits"].items())
    assert looked_at or "derive" not in options
    for line in result.history:
        assert set(line["budget"]) == set(found["limits"])
        assert line["budget"]["parameters" if "parameters" in found["limits"] else "macs"]["derived"] > 0


def test_a_budget_is_kept_where_draws_are_all_above_it(tmp_path):
    result = nas.search("nasbench201", budget="macs=31136", epochs=2, prior=20.0, **SMALL)
    assert result.summary["budget"]["costs"]["macs"] == 31_136
    assert result.history[-1]["budget"]["macs"]["likely"] > 100_000
    for rule in (Sample(5), Ascent()):
        for _ in rule.select(result.search):
            pass
        assert result.search.budget.cost(rule.selected(result.search))["macs"] == 31_136
        assert len(rule.considered(result.search)) > 0


def test_a_rule_that_selects_what_is_above_the_budget_is_stopped():
    class Largest(Sample):
        name = "largest"

        def selected(self, search):
            scores = torch.zeros(search.space.num_slots, search.space.width)
            scores[:, 3] = 1
            return search.space.discretise(scores)

    with pytest.raises(InputError, match="'largest' selects an architecture above the budget"):
        nas.search("micro", budget="macs=40k", epochs=1, derive=Largest(1), **SMALL)


def test_a_search_under_a_budget_goes_on_exactly_where_it_was(tmp_path):
    options = {"budget": ["macs=45k", "parameters=7k"], "epochs": 4, "arch_lr": 0.1, **SMALL}
    options |= {"train_limit": 200}
    whole = nas.search("nasbench201", out=str(tmp_path / "whole"), **options)
    nas.search(
        "nasbench201", out=str(tmp_path / "run"), callback=lambda metrics: metrics["epoch"] == 3, **options
    )
    resumed = nas.search(out=str(tmp_path / "run"), resume=True, progress=False)
    assert resumed.history == whole.history
    assert max(line["budget"]["macs"]["multiplier"] for line in whole.history[:3]) > 0
    logs = [(tmp_path / run / "metrics.jsonl").read_bytes() for run in ("whole", "run")]
    assert logs[0] == logs[1]
    assert resumed.summary["budget"] == whole.summary["budget"]


# Several budgets of one search


def test_one_search_ends_in_an_architecture_for_every_budget(tmp_path):
    options = {
        "budgets": "macs=40k,60k,120k",
        "budget": ["parameters=12k"],
        "prior": 3.0,
        "epochs": 2,
        **SMALL,
    }
    options |= {"derive": "sample:6"}
    result = nas.search("nasbench201", out=str(tmp_path / "run"), **options)
    front = result.summary["front"]
    assert (front["kind"], [row["limit"] for row in front["rows"]]) == ("macs", [40_000, 60_000, 120_000])
    for row in front["rows"]:
        assert row["costs"]["macs"] <= row["limit"]
        assert row["costs"]["parameters"] <= 12_000
        genotype = result.space.parse(row["genotype"])
        assert row["costs"] == result.search.budget.cost(genotype)
        assert row["derived_accuracy"] == result.search.score(genotype)[1]
    assert str(result) == front["rows"][-1]["genotype"]
    files = {path.name: json.loads(path.read_text())["text"] for path in (tmp_path / "run/front").iterdir()}
    assert files == {
        f"macs-{row['limit'] // 1000}k.json": row["genotype"] for row in front["rows"]
    }  # fmt: skip
    assert "An architecture for every budget" in (tmp_path / "run/report.html").read_text()
    assert result.search.budget.limits["macs"] == 120_000


def test_the_rule_of_every_budget_goes_on_where_it_was():
    result = nas.search("micro", budgets="macs=40k,70k", derive="ascent", epochs=2, **SMALL)
    whole, search = result.search.rule, result.search
    part = Front(Ascent(), whole.budgets)
    for _ in zip(range(5), part.select(search), strict=False):
        pass
    rest = Front(Ascent(), whole.budgets)
    rest.restore(json.loads(json.dumps(part.state())))
    for _ in rest.select(search):
        pass
    assert rest.found(search) == whole.found(search)
    assert search.budget.limits == {"macs": 70_000}


def test_work_that_knows_no_budget_is_done_once_for_all():
    several = nas.search("micro", budgets="macs=40k,70k", derive="perturbation:1", epochs=2, **SMALL)
    alone = nas.search("micro", budget=("macs=70k",), derive="perturbation:1", epochs=2, **SMALL)
    assert several.genotype == alone.genotype
    assert several.search.bilevel.work == alone.search.bilevel.work
    smaller, larger = several.search.rule.found(several.search)
    assert larger == several.genotype
    assert several.search.budget.cost(smaller)["macs"] <= 40_000


def test_budgets_that_differ_in_later_digits_have_a_file_each(tmp_path):
    space, text = search_spaces.get("micro"), "|none~0|+|none~0|nor_conv_1x1~1|"
    rows = [{"limit": limit, "genotype": text} for limit in (20_010, 20_020, 30_000)]
    write_front(tmp_path, space, {"kind": "parameters", "rows": rows})
    names = {path.name for path in (tmp_path / "front").iterdir()}
    assert names == {"parameters-20010.json", "parameters-20020.json", "parameters-30k.json"}


def test_the_pareto_front_is_what_nothing_beats():
    points = [(1, 5), (2, 5), (2, 7), (3, 6), (4, 9), (4, 9)]
    assert pareto(points) == [True, False, True, False, True, False]
