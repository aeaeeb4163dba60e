"""Estimators against exact gradients: the enumeration, the statistics, the known values, the command."""

import csv
import itertools
import math

import pytest
import torch

import ablate
import estimators
from ablation import cost, gradient
from ablation.cost import Way
from ablation.objectives import OBJECTIVES, draw_problems
from estimators.exact import count_outcomes, mean_and_gradient
from nas.seeding import generator
from recipes import InputError
from recipes.ablation import GradientOptions

SINGLE = gradient.SUITES[1]

# |E g - gradient| / std of an estimate, relative to the norm of the exact gradient: medians over 20
# random problems with K = 5 and theta ~ N(0, 1), measured independently of this code.
KNOWN = {
    ("st", 1.0): ("0.00/0.00", "0.39/1.11", "0.79/1.89", "0.30/0.55"),
    ("reinmax", 1.0): ("0.00/0.75", "0.00/2.10", "0.66/3.63", "0.29/0.77"),
    ("reinmax", 1.3): ("0.10/0.69", "0.13/2.08", "0.74/3.65", "0.33/0.77"),
    ("st_gumbel", 1.0): ("0.30/0.51", "0.39/1.31", "0.64/2.29", "0.45/0.62"),
    ("st_gumbel", 0.5): ("0.10/1.12", "0.21/2.25", "0.62/3.98", "0.37/1.23"),
    ("gumbel_rao", 0.5): ("0.10/0.46", "0.21/1.55", "0.62/2.84", "0.37/0.55"),
    ("reinmax_rao", 0.5): ("0.25/0.72", "0.22/1.94", "0.52/3.35", "0.50/0.71"),
    ("reinforce", 1.0): ("0.00/1.51", "0.00/1.42", "0.00/1.80", "0.00/2.00"),
}


@pytest.fixture(scope="module")
def problems():
    return draw_problems(SINGLE, 300, choices=1, candidates=5, seed=0)


def measure(name, tau, problems, draws, seed=0):
    return gradient.measure(estimators.get(name, tau), problems, draws, generator(seed, "draws"))


@pytest.mark.parametrize(("name", "tau"), KNOWN)
def test_known_values(name, tau, problems):
    """Each is one median of 20 problems; here are the medians of 300 problems, and the spread of medians
    of 20 of them. Tolerance: 3.5 of these standard errors, and 0.02 for rounding and draws."""
    measured = measure(name, tau, problems, 500 if "rao" in name else 400)
    subsets = torch.randint(300, (500, 20), generator=torch.Generator().manual_seed(0))
    for objective, cell in zip(SINGLE, KNOWN[name, tau], strict=True):
        for metric, expected in zip(("bias", "std"), map(float, cell.split("/")), strict=True):
            values = measured[objective].metrics()[metric]
            error = float(values[subsets].median(1).values.std())
            assert float(values.median()) == pytest.approx(expected, abs=3.5 * error + 0.02), (
                objective,
                metric,
            )


@pytest.mark.parametrize(
    ("name", "objectives"),
    [
        ("st", ("linear",)),
        ("softmax", ("linear",)),
        ("reinmax", ("linear", "quadratic")),
        ("reinforce", SINGLE),
        ("reinforce_loo", SINGLE),
    ],
)
def test_no_bias_where_theory_says_so(name, objectives, problems):
    """The unbiased estimate of the squared bias is 0 on average, within 4 standard errors."""
    measured = measure(name, 1.0, problems, 400)
    for objective in objectives:
        chance = measured[objective].bias2 / (measured[objective].variance / 400).clamp_min(1e-12)
        assert abs(float(chance.mean())) < 4 * float(chance.std()) / 300**0.5 + 1e-6, objective


@pytest.mark.parametrize(
    ("name", "objective"), [("st", "quadratic"), ("reinmax", "cubic"), ("gst", "linear")]
)
def test_bias_where_theory_says_so(name, objective, problems):
    measured = measure(name, 1.0, problems, 400)[objective]
    chance = measured.bias2 / (measured.variance / 400)
    assert float(chance.mean()) > 4 * float(chance.std()) / 300**0.5
    assert float(measured.metrics()["bias"].median()) > 0.15


def test_reinmax_is_exact_for_the_quadratic_polynomial_only():
    problems = draw_problems(("power1.5", "power2", "power3"), 100, choices=3, candidates=5, seed=1)
    measured = measure("reinmax", 1.0, problems, 1000)
    chance = {name: (m.bias2 / (m.variance / 1000)).mean() for name, m in measured.items()}
    assert abs(chance["power2"]) < 0.5
    assert chance["power1.5"] > 2
    assert chance["power3"] > 2


def test_gumbel_rao_has_the_mean_of_st_gumbel_and_less_spread(problems):
    plain, smooth = (measure(name, 0.5, problems, 500)["tanh"] for name in ("st_gumbel", "gumbel_rao"))
    assert float((plain.bias2 - smooth.bias2).median()) == pytest.approx(0, abs=0.02)
    assert float(smooth.variance.median()) < 0.5 * float(plain.variance.median())


# Cost


def test_what_an_estimate_costs():
    """Forward passes, and with gradients their price; mixtures have a price of their own."""
    found = {
        name: cost.passes(estimators.get(name), Way(4), 5.0, 8.0)["cost"]
        for name in ("st", "reinforce_loo", "reinforce_critic", "double_cv", "concrete")
    }
    assert found == {"st": 20, "reinforce_loo": 4, "reinforce_critic": 4, "double_cv": 20, "concrete": 32}
    assert list(cost.ways(estimators.get("softmax"))) == [Way(1)]
    assert Way(2) in cost.ways(estimators.get("reinforce_loo"))
    most = {
        name: max(way.draws for way in cost.ways(estimators.get(name))) for name in ("st", "reinforce_loo")
    }
    assert most == {"st": 32, "reinforce_loo": 128}
    assert Way(1) not in cost.ways(estimators.get("reinforce_loo"))
    assert Way(8, systematic=True) in cost.ways(estimators.get("st_gumbel"))
    assert Way(8, systematic=True) not in cost.ways(estimators.get("reinforce_loo"))


def test_the_best_for_a_cost_is_the_cheapest_of_the_best():
    rows = [
        {"estimator": name, "coupling": "independent", "objective": "f", "forward": 1, "cost": price,
         "rmse": rmse, "draw_cosine": 1 - rmse / 2}
        for name, price, rmse in [("st", 5, 0.5), ("reinmax", 5, 0.4), ("gst", 9, 0.4), ("concrete", 2, 0.9)]
    ]  # fmt: skip
    chosen = {budget: cost.best(rows, "f", budget) for budget in (1, 2, 5, 40)}
    assert chosen[1] is None
    assert [chosen[b]["estimator"] for b in (2, 5, 40)] == ["concrete", "reinmax", "reinmax"]
    assert cost.best(rows, "f", 40, "draw_cosine")["estimator"] == "reinmax"
    assert cost.winners(rows, "f") == {"concrete", "reinmax"}
    table = cost.table(rows, "rmse", "heading", "note")
    assert table.rows[0] == ["2", "concrete: 0.90"]


@pytest.mark.parametrize(("name", "objective"), [("reinmax", "quadratic"), ("st_gumbel", "tanh")])
def test_estimates_of_several_draws_are_means(name, objective, problems):
    """A quarter of the variance with four independent draws, less with systematic ones; the same bias."""
    few = {objective: problems[objective]}
    one, four, even = (
        gradient.measure(estimators.get(name, 1.0), few, 300, generator(0, "x"), way)[objective]
        for way in (Way(1), Way(4), Way(4, systematic=True))
    )
    assert float((four.variance / one.variance).median()) == pytest.approx(0.25, abs=0.02)
    assert float((even.variance / four.variance).median()) < 0.9
    assert float((even.bias2 - one.bias2).median()) == pytest.approx(0, abs=0.02)


@pytest.mark.parametrize("name", ["reinforce_critic", "double_cv"])
def test_estimators_that_learn_are_measured_after_a_past(name):
    """Unbiased, and with less spread than without it; what measures does not learn."""
    problems = draw_problems(("network",), 8, choices=3, candidates=5, seed=0)
    measured = measure(name, 1.0, problems, 60)["network"]
    plain = measure("reinforce_loo", 1.0, problems, 60)["network"]
    assert float((measured.variance / plain.variance).median()) < 0.7
    chance = measured.bias2 / (measured.variance / 60)
    assert abs(float(chance.mean())) < 4 * float(chance.std()) / 8**0.5
    taught = gradient.teach(estimators.get(name), problems, generator(0, "past"))["network"]
    before = taught.state()
    gradient.estimates(estimators.get(name), problems, 3, generator(0, "x"), None, {"network": taught})
    assert all(torch.equal(torch.as_tensor(v), torch.as_tensor(before[k])) for k, v in taught.state().items())


# The statistics


def test_statistics_are_those_of_the_estimates(problems):
    """Against the definitions, written out for one problem and all its estimates."""
    n, some = 50, 7
    every = gradient.estimates(estimators.get("st_gumbel", 0.7), problems, n, generator(0, "draws"))
    measured = measure("st_gumbel", 0.7, problems, n)
    for name, estimates in every.items():
        g, target = estimates[:, some].flatten(1), problems[name].gradient[some].flatten()
        unit, mean = target.norm(), g.mean(0)
        variance = ((g - mean) ** 2).sum() / (n - 1)
        expected = {
            "bias2": (((mean - target) ** 2).sum() - variance / n) / unit**2,
            "variance": variance / unit**2,
            "mse": ((g - target) ** 2).sum(1).mean() / unit**2,
            "cosine": (mean @ target / unit / (mean @ mean - variance / n).sqrt()).clamp_max(1),
            "draw_cosine": torch.cosine_similarity(g, target.unsqueeze(0), dim=1).mean(),
        }
        for metric, value in expected.items():
            found = float(getattr(measured[name], metric)[some])
            assert found == pytest.approx(float(value), rel=1e-9), metric


def test_mse_is_squared_bias_plus_variance(problems):
    for name in ("reinmax", "concrete", "reinforce_loo"):
        for measured in measure(name, 1.0, problems, 40).values():
            torch.testing.assert_close(measured.mse, measured.bias2 + measured.variance, rtol=1e-9, atol=1e-9)


def test_a_chunk_is_only_a_matter_of_memory(problems, monkeypatch):
    few = {"tanh": problems["tanh"]}
    measurements = []
    for draws_at_a_time in (1000, 300):
        monkeypatch.setattr(gradient, "_CHUNK", few["tanh"].logits.numel() * draws_at_a_time)
        measurements.append(measure("st", 1.0, few, 1000)["tanh"])
    whole, parts = measurements
    assert whole.draws == parts.draws == 1000
    assert float((whole.mse / parts.mse).median()) == pytest.approx(1, abs=0.03)


def test_batched_score_estimates_are_those_of_single_calls():
    problems = draw_problems(("quadratic",), 3, choices=2, candidates=4, seed=3)
    logits, loss, mean, _ = problems["quadratic"]
    for name in ("reinforce", "reinforce_loo"):
        batched = gradient.estimates(estimators.get(name), problems, 5, generator(0, "x"))["quadratic"]
        n = estimators.family(name).default_draws
        draws = estimators.get(name)(logits.repeat(5 * n, 1, 1, 1), generator(0, "x")).unflatten(0, (5, n))
        for i in range(5):
            for p in range(3):
                single = estimators.get(name)
                if name == "reinforce":
                    single.load_state({"baseline": float(mean[p])})
                expected = single.gradient(logits[p], draws[i, :, p], loss(draws[i])[:, p])
                torch.testing.assert_close(batched[i, p], expected)


@pytest.mark.parametrize("n", [6, 20, 101])
def test_median_interval_covers_the_median(n):
    """The coverage of order statistics is at least 95 %, and not much more."""
    sample = torch.randn(4000, n, generator=torch.Generator().manual_seed(n))
    covered = sum(low <= 0 <= high for low, high in map(gradient.median_interval, sample)) / 4000
    assert 0.94 < covered < 0.985
    assert gradient.median_interval(torch.tensor([3.0])) == (3.0, 3.0)


# Exact gradients


def test_enumeration_of_a_case_done_by_hand():
    """Two candidates with probabilities 1/4 and 3/4, losses 2 and 6: E f = 5, and the gradient with
    respect to the first logit is pi_1 (f_1 - E f) = -3/4."""
    logits = torch.tensor([[[0.0, math.log(3)]]], dtype=torch.float64)
    mean, grad = mean_and_gradient(logits, lambda d: (d * torch.tensor([2.0, 6.0])).sum((-2, -1)))
    assert mean.tolist() == pytest.approx([5.0])
    assert grad.flatten().tolist() == pytest.approx([-0.75, 0.75])


def test_enumeration_of_two_choices_that_interact():
    """f = 1 if both choose the first candidate: E f = pi_1 rho_1."""
    logits = torch.randn(2, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mean, grad = mean_and_gradient(logits, lambda d: d[..., 0, 0] * d[..., 1, 0])
    leaf = logits.clone().requires_grad_()
    expected = leaf.softmax(-1)[:, :, 0].prod(1)
    torch.testing.assert_close(mean, expected.detach())
    torch.testing.assert_close(grad, torch.autograd.grad(expected.sum(), leaf)[0])


@pytest.mark.parametrize("shape", [(4,), (1, 4), (3, 4), (2, 3, 4)])
def test_enumeration_is_autograd_over_the_outcomes_that_exist(shape):
    """The sum over all outcomes of p(outcome) f(outcome), written out with a product of log-softmaxes."""
    rng = torch.Generator().manual_seed(len(shape))
    logits = torch.randn(shape if len(shape) > 1 else (1, *shape), dtype=torch.float64, generator=rng)
    logits[..., 0, 1] = logits[..., -1, 3] = -torch.inf
    w = torch.randn(logits.shape[-2:], dtype=torch.float64, generator=rng)

    def loss(draws):
        assert draws[..., logits.reshape(-1, *w.shape)[0].isinf()].sum() == 0
        return (draws * w).sum((-2, -1)).exp()

    leaf = logits.clone().requires_grad_()
    allowed = [row.isfinite().nonzero().flatten().tolist() for row in logits.reshape(-1, *w.shape)[0]]
    expected = torch.zeros(logits.shape[:-2], dtype=torch.float64)
    for choice in itertools.product(*allowed):
        value = sum(w[i, k] for i, k in enumerate(choice)).exp()
        expected = expected + value * leaf.softmax(-1)[..., range(len(choice)), choice].prod(-1)
    (gradient,) = torch.autograd.grad(expected.sum(), leaf)
    mean, found = mean_and_gradient(logits, loss)
    torch.testing.assert_close(mean, expected.detach())
    torch.testing.assert_close(found, gradient)
    assert count_outcomes(logits.reshape(-1, *w.shape)[0]) == math.prod(map(len, allowed))


def test_polynomials_of_binary_variables_are_those_of_the_paper():
    problems = draw_problems(("power3",), 2, choices=3, candidates=2, seed=0)["power3"]
    binary = torch.tensor([[1, 0, 1], [0, 0, 1]])
    losses = problems.loss(torch.nn.functional.one_hot(binary, 2).double())
    expected = ((binary - 0.45).abs() ** 3).mean(1)
    torch.testing.assert_close(losses, expected.double(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_problems_of_a_batch_are_independent(name):
    problems = draw_problems((name,), 3, choices=2, candidates=4, seed=0)[name]
    other = problems.logits.clone()
    other[0] += torch.randn(2, 4, generator=torch.Generator().manual_seed(1))
    mean, grad = mean_and_gradient(other, problems.loss)
    torch.testing.assert_close(mean[1:], problems.mean[1:])
    torch.testing.assert_close(grad[1:], problems.gradient[1:])
    assert not torch.allclose(grad[0], problems.gradient[0])


def test_too_many_outcomes_are_refused():
    with pytest.raises(ValueError, match="9 choices have 1953125 outcomes"):
        draw_problems(("linear",), 1, choices=9, candidates=5, seed=0)


# The command


def test_command_writes_report_and_results(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(gradient, "SWEEP", (2, 8))
    monkeypatch.setattr(cost, "COUNTS", (1, 2, 4))
    monkeypatch.setattr(cost, "MORE", (8,))
    monkeypatch.setattr(gradient, "PAST", 12)
    arguments = [
        "gradient",
        "--problems",
        "4",
        "--draws",
        "20",
        "--out",
        "folder",
        "--seed",
        "3",
        "--threads",
        "1",
    ]
    assert ablate.main(arguments) == 0
    folder = tmp_path / "folder"
    assert capsys.readouterr().out.splitlines()[-1] == "report: folder/report.html"
    page = (folder / "report.html").read_text()
    assert page.count("<svg") == 4
    assert "Bias / standard deviation" in (folder / "results.md").read_text()
    with open(folder / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    methods = gradient.methods()
    by_cost = [row for row in rows if row["part"] == "cost"]
    assert len(rows) - len(by_cost) == len(methods) * len(OBJECTIVES) + 2 * 2 * len(estimators.names())
    ways = sum(len(list(cost.ways(estimators.get(name, 1.0)))) for name in estimators.names())
    assert len(by_cost) == ways * len(OBJECTIVES)
    markdown = (folder / "results.md").read_text()
    assert markdown.count("The best estimate for a cost") == 3
    assert "| 160 | st: 0.00 |" in markdown
    assert {row["estimator"] for row in rows} == set(estimators.names())
    for row in rows:
        for metric in (column.removesuffix("_low") for column in row if column.endswith("_low")):
            low, value, high = (float(row[metric + end]) for end in ("_low", "", "_high"))
            assert low <= value <= high
            assert math.isfinite(value)
        assert int(row["draws"]) == (4 if estimators.get(row["estimator"], 1.0).inner_samples > 1 else 20)


def test_an_estimator_that_does_not_take_temperature_1_is_measured_where_it_begins(monkeypatch):
    class Hot(type(estimators.get("st"))):
        tau_range = (5.0, 50.0)
        default_schedule = estimators.Schedule(10.0, 5.0)

    monkeypatch.setattr(estimators._REGISTRY, "_things", dict(estimators._REGISTRY._things))
    estimators.register("hot", Hot)
    assert [method.tau for name, method in gradient.methods() if name == "hot"] == [10]
    monkeypatch.setattr(gradient, "SWEEP", (2,))
    monkeypatch.setattr(cost, "COUNTS", (1, 2))
    texts = ("gumbel_rao:samples=2", "hot")
    options = gradient.GradientOptions(problems=2, draws=10, seed=0, estimators=texts)
    rows = list(gradient.measure_all(options))
    for part in ("temperature", "candidates", "cost"):
        assert {row["estimator"] for row in rows if row["part"] == part} == {"gumbel_rao,samples=2", "hot"}
    assert len(gradient._pictures(rows)) == 4
    assert "gumbel_rao,samples=2" in str(gradient._tables(rows, options))
    for text, message in (
        ("sigmoid", "do not exclude each other"),
        ("st:x=1", "unknown setting|expected no"),
    ):
        with pytest.raises(InputError, match=message):
            gradient.methods([text])
    gradient._pictures([row for row in rows if row["estimator"] == "hot"])
    Hot.tau_range, Hot.default_schedule = (0.01, 0.3), estimators.Schedule(0.2, 0.1)
    low = gradient.GradientOptions(problems=2, draws=10, seed=0, estimators=("hot",))
    assert len(gradient._pictures(list(gradient.measure_all(low)))) == 4  # below all axes
    Hot.tau_range, Hot.default_schedule = (50.0, 5.0), estimators.Schedule(10.0, 5.0)
    with pytest.raises(ValueError, match="temperature 10, out of its tau_range"):
        estimators.register("hot", Hot)


def test_seed_decides_the_results():
    def first_rows(seed):
        problems = draw_problems(("tanh",), 5, choices=1, candidates=3, seed=seed)
        return gradient.summary(measure("st_gumbel", 1.0, problems, 20, seed)["tanh"])

    assert first_rows(0) == first_rows(0)
    assert first_rows(0) != first_rows(1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--draws", "19"], "--draws is 19, expected an integer of at least 20"),
        (["--problems", "0"], "--problems is 0, expected a number of at least 1"),
        (["--out", "occupied"], "cannot write the folder occupied"),
    ],
)
def test_bad_input_is_one_line(arguments, message, tmp_path, capsys):
    (tmp_path / "occupied").write_text("a file")
    assert ablate.main(["gradient", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_run_itself_raises_input_error():
    with pytest.raises(InputError, match="at least 20"):
        gradient.run(GradientOptions(draws=5))
