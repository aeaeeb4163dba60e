"""Estimators on tasks: the data, the models, the objectives, the choice of settings, the command."""

import csv
import gzip
import itertools
import json
import math
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
import torch

import ablate
import estimators
from estimators.base import one_hot_argmax
from recipes import InputError
from studies.tasks import task_grid, tasks, vae
from studies.tasks.latent_tree import CLASSES, MASKED, RANDOM, LatentTree, ListOps, _merge, accuracy, uniform
from studies.tasks.listops import CLOSE, OPERATIONS, PADDING, Grammar, encode, evaluate, generate
from studies.tasks.polynomial import Polynomial
from studies.tasks.task_grid import Setting, Trial, choose
from studies.tasks.task_plots import Panel, plot_dots
from studies.tasks.vae import CategoricalVAE, MnistVAE, load_mnist

ROOT = Path(__file__).resolve().parent.parent
DISCRETE = [name for name in estimators.names() if estimators.family(name).discrete]
PATHWISE = [name for name in DISCRETE if estimators.family(name).signal == "gradient"]


# ListOps


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("7", 7),
        ("[MAX 2 9 [MIN 4 7 ] 0 ]", 9),
        ("[MIN 2 9 [MIN 4 1 ] 3 ]", 1),
        ("[MED 1 9 8 ]", 8),
        ("[MED 1 2 ]", 1),
        ("[MED 2 9 4 5 ]", 4),
        ("[SM 9 9 9 ]", 7),
        ("[SM 4 [MAX 1 6 ] [MED 0 [SM 8 5 ] 9 ] ]", 3),
        ("[MAX 3 ]", 3),
    ],
)
def test_evaluation_by_hand(text, value):
    assert evaluate(text.split()) == value


@pytest.mark.parametrize(
    "text", ["", "]", "1 2", "[MAX 1 2", "[MAX ]", "1 ]", "[MAX 1 ] 2", "[AVG 1 2 ]", "[MAX 12 3 ]", "[SM"]
)
def test_malformed_expressions_are_refused(text):
    with pytest.raises(ValueError, match=r"malformed|unknown token"):
        evaluate(text.split())


def _by_python(tokens):
    """The value of an expression, by Python's own parser."""
    words = {"[MAX": "MAX(", "[MIN": "MIN(", "[MED": "MED(", "[SM": "SM(", CLOSE: "),"}
    source = "".join(words.get(token, token + ",") for token in tokens).rstrip(",")

    def middle(*values):
        ordered, half = sorted(values), len(values) // 2
        return ordered[half] if len(values) % 2 else (ordered[half - 1] + ordered[half]) // 2

    def digit_sum(*values):
        return int(str(sum(values))[-1])

    names = {"MAX": lambda *v: sorted(v)[-1], "MIN": lambda *v: sorted(v)[0], "MED": middle, "SM": digit_sum}
    return eval(source, names)


def _depth(tokens):
    steps = [1 if token in OPERATIONS else -1 if token == CLOSE else 0 for token in tokens]
    return max(itertools.accumulate(steps))


@pytest.mark.parametrize("grammar", [Grammar(), Grammar(2, 5, 0.5, 6, 25), Grammar(1, 4, 0.9, 4, 6)])
def test_generated_expressions(grammar):
    expressions = generate(600, grammar, seed=3)
    assert [evaluate(tokens) for tokens in expressions] == [_by_python(tokens) for tokens in expressions]
    assert len(set(map(tuple, expressions))) == 600
    assert all(grammar.shortest <= len(tokens) <= grammar.longest for tokens in expressions)
    assert max(map(_depth, expressions)) == grammar.depth
    assert expressions == generate(600, grammar, seed=3)
    assert expressions != generate(600, grammar, seed=4)


def test_labels_and_lengths_are_spread_alike_over_the_parts():
    train, validation, test = ListOps(1, 0, training=4000, held_out=1000).data()
    for part in (train, validation, test):
        shares = [count / len(part) for count in Counter(part.labels.tolist()).values()]
        assert len(shares) == 10
        assert min(shares) > 0.05
        assert max(shares) < 0.2
    assert abs(float(train.lengths.double().mean() - test.lengths.double().mean())) < 0.3
    rows = [tuple(row) for part in (train, validation, test) for row in part.tokens.tolist()]
    assert len(set(rows)) == 6000


def test_a_grammar_with_too_few_expressions_is_named():
    with pytest.raises(ValueError, match="found 400 different expressions instead of 401"):
        generate(401, Grammar(depth=1, arguments=2, longest=4), seed=0)
    assert len(generate(400, Grammar(depth=1, arguments=2, longest=4), seed=0)) == 400


def test_batches_hold_everything_once():
    data = encode(generate(130, Grammar(), seed=0))
    batches = data.batches(32)
    assert sum(map(len, batches)) == 130
    assert sorted(int(label) for batch in batches for label in batch.labels) == sorted(data.labels.tolist())
    for batch in batches:
        assert batch.tokens.shape[1] == batch.lengths.max()
        assert torch.equal((batch.tokens != PADDING).sum(1), batch.lengths)


# The latent tree


def _tree(seed=0, width=8):
    torch.manual_seed(seed)
    tree = LatentTree(width)
    torch.nn.init.normal_(tree.score.weight, std=5.0)
    return tree


def _mixed_lengths():
    expressions = [["3"], ["3", "4"], *generate(12, Grammar(), seed=1)]
    rows = [encode([tokens]) for tokens in expressions[2:]]
    longest = max(int(row.lengths) for row in rows)
    tokens = torch.full((14, longest), PADDING)
    tokens[0, 0], tokens[1, :2] = 3, torch.tensor([3, 4])
    for i, row in enumerate(rows):
        tokens[i + 2, : int(row.lengths)] = row.tokens[0]
    lengths = torch.tensor([1, 2, *(int(row.lengths) for row in rows)])
    return tokens, lengths


@pytest.mark.parametrize("name", DISCRETE)
def test_no_estimator_ever_merges_what_is_not_there(name):
    tokens, lengths = _mixed_lengths()
    estimator, rng = estimators.get(name), torch.Generator().manual_seed(0)
    seen = []

    def choose_pair(scores):
        draw = estimator(scores, rng)
        seen.append((scores.detach(), draw.detach()))
        return draw

    logits, log_probability = _tree()(tokens, lengths, choose_pair)
    assert torch.isfinite(logits).all()
    assert (log_probability <= 0).all()
    for merged, (scores, draw) in enumerate(seen):
        pairs = lengths - merged - 1
        for row in range(len(lengths)):
            existing = scores[row] > MASKED / 2
            assert int(existing.sum()) == max(1, int(pairs[row]))
            assert draw[row].sum() == 1
            assert int(draw[row].argmax()) < max(1, int(pairs[row]))
    logits.sum().backward()


def test_a_batch_gives_what_its_sequences_give_alone():
    tokens, lengths = _mixed_lengths()
    tree = _tree()
    logits, log_probability = tree(tokens, lengths, one_hot_argmax)
    for i, length in enumerate(lengths.tolist()):
        alone, probability = tree(tokens[i : i + 1, :length], lengths[i : i + 1], one_hot_argmax)
        torch.testing.assert_close(alone[0], logits[i])
        torch.testing.assert_close(probability[0], log_probability[i])


def test_short_sequences_have_nothing_to_choose():
    def never(scores):
        raise AssertionError("nothing to choose")

    tree = _tree()
    one = tree(torch.tensor([[3]]), torch.tensor([1]), never)
    two = tree(torch.tensor([[3, 4]]), torch.tensor([2]), never)
    assert one[0].shape == two[0].shape == (1, CLASSES)
    assert one[1].item() == two[1].item() == 0
    leaves = tree.embedding(torch.tensor([[3, 4]])).tanh().chunk(2, -1)
    torch.testing.assert_close(two[0], tree.classify(tree._compose(*leaves)[0][:, 0]))


def test_the_merge_is_the_tree_that_was_drawn():
    """Left to right by hand: ((a b) c)."""
    tree = _tree()

    def first(scores):
        return one_hot_argmax(-torch.arange(float(scores.shape[1])).expand_as(scores))

    tokens = torch.tensor([[1, 2, 3]])
    h, c = tree.embedding(tokens).tanh().chunk(2, -1)
    left = tree._compose(h[:, :2], c[:, :2])
    root, _ = tree._compose(*(torch.cat((a, b[:, 2:]), 1) for a, b in zip(left, (h, c), strict=True)))
    torch.testing.assert_close(tree(tokens, torch.tensor([3]), first)[0], tree.classify(root[:, 0]))


def test_the_draw_receives_the_gradient_of_every_pair():
    """The merged nodes are affine in the draw: its gradient is that of a finite difference."""
    torch.manual_seed(0)
    nodes, parents, g = torch.randn(1, 4, 5), torch.randn(1, 3, 5), torch.randn(1, 3, 5)
    active, pairs = torch.tensor([True]), torch.eye(3).unsqueeze(1)
    draw = pairs[1].clone().requires_grad_()
    (found,) = torch.autograd.grad((_merge(nodes, parents, draw, active) * g).sum(), draw)
    nothing = _merge(nodes, parents, torch.zeros(1, 3), active)
    expected = [((_merge(nodes, parents, pair, active) - nothing) * g).sum() for pair in pairs]
    torch.testing.assert_close(found[0], torch.stack(expected))
    assert torch.equal(
        _merge(nodes, parents, pairs[1], active)[0], torch.stack((nodes[0, 0], parents[0, 1], nodes[0, 3]))
    )


@pytest.mark.parametrize("name", PATHWISE)
def test_the_gradient_reaches_the_scores_through_the_estimator(name):
    tokens, lengths = _mixed_lengths()
    tree, rng = _tree(), torch.Generator().manual_seed(0)
    torch.nn.init.normal_(tree.score.weight, std=0.1)
    estimator = estimators.get(name)
    tree(tokens, lengths, lambda scores: estimator(scores, rng))[0].square().sum().backward()
    assert tree.score.weight.grad.abs().sum() > 0
    tree.zero_grad()
    tree(tokens, lengths, lambda scores: estimator(scores, rng).detach())[0].square().sum().backward()
    assert tree.score.weight.grad is None or tree.score.weight.grad.abs().sum() == 0


def test_a_tree_learns_the_maximum_of_two_digits():
    task = ListOps(150, 0, 80, 10, batch_size=20, width=16, grammar=Grammar(1, 2, 0.0, 4, 4))
    train, _, _ = task.data()
    assert task.train(Setting("reinmax", 1.0, 0.02), 0)["train"] > 60
    torch.manual_seed(0)
    assert accuracy(LatentTree(16), train) < 40


# The score function


def test_advantages_weight_the_log_probabilities_to_the_gradient_of_the_estimators():
    torch.manual_seed(0)
    logits = torch.randn(3, 4, requires_grad=True)
    for name in ("reinforce", "reinforce_loo"):
        estimator, other = estimators.get(name), estimators.get(name)
        n, rng = estimator.default_draws, torch.Generator().manual_seed(1)
        for losses in torch.rand(3, n):
            draws = estimator(logits.expand(n, -1, -1), rng)
            log_probability = (draws * logits.log_softmax(-1)).sum((-2, -1))
            value = (other.advantages(losses.view(-1, 1)) * log_probability.view(-1, 1)).mean()
            (ours,) = torch.autograd.grad(value, logits)
            torch.testing.assert_close(ours, estimator.gradient(logits, draws, losses))


# The auto-encoder


def _tiny_vae():
    torch.manual_seed(0)
    model = CategoricalVAE(3, 2, pixels=5, hidden=(6, 7)).double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.6)
    return model, torch.rand(1, 5, dtype=torch.float64)


def _exact_negative_elbo(model, image):
    """By enumeration of all nine latents."""
    logits = model.encode(image)[0]
    q = logits.softmax(-1)
    total = torch.zeros((), dtype=torch.float64)
    for i, j in itertools.product(range(3), repeat=2):
        z = torch.zeros(2, 3, dtype=torch.float64)
        z[0, i] = z[1, j] = 1
        p = model.decoder(z.flatten()).sigmoid()
        log_likelihood = (image[0] * p.log() + (1 - image[0]) * (1 - p).log()).sum()
        posterior = q[0, i] * q[1, j]
        total = total + posterior * (posterior.log() - math.log(1 / 9) - log_likelihood)
    return total


def test_divergence_from_the_uniform_prior():
    model, _ = _tiny_vae()
    logits = torch.randn(4, 2, 3, dtype=torch.float64)
    prior = torch.distributions.Categorical(logits=torch.zeros(2, 3, dtype=torch.float64))
    expected = torch.distributions.kl_divergence(torch.distributions.Categorical(logits=logits), prior).sum(1)
    torch.testing.assert_close(model.divergence(logits), expected)
    assert model.divergence(torch.zeros(1, 2, 3)).item() == pytest.approx(0, abs=1e-6)
    sure = torch.tensor([[[1e3, 0.0, 0.0], [0.0, -1e3, 1e3]]])
    assert model.divergence(sure).item() == pytest.approx(2 * math.log(3))


def test_elbo_by_enumeration():
    model, image = _tiny_vae()
    many, rng = image.expand(20_000, -1), torch.Generator().manual_seed(0)
    with torch.no_grad():
        estimate = model.objective(many, estimators.get("st"), rng)[1]
        assert estimate.item() == pytest.approx(_exact_negative_elbo(model, image).item(), abs=0.02)


@pytest.mark.parametrize("name", ["reinforce", "reinforce_loo"])
def test_score_function_gradients_of_the_elbo_are_unbiased(name):
    model, image = _tiny_vae()
    parameters = list(model.parameters())
    exact = torch.autograd.grad(_exact_negative_elbo(model, image), parameters)
    estimator, rng = estimators.get(name), torch.Generator().manual_seed(0)
    many = image.expand(60_000, -1)
    model.objective(many, estimator, rng)  # the first call of reinforce sets its baseline
    found = torch.autograd.grad(model.objective(many, estimator, rng)[0], parameters)
    scale = torch.cat([g.flatten() for g in exact]).norm()
    difference = torch.cat([(g - e).flatten() for g, e in zip(found, exact, strict=True)]).norm()
    assert difference < 0.03 * scale


def test_the_straight_through_gradient_is_exact_for_a_linear_decoder_loss():
    """ST at tau = 1 has no bias where the loss is linear in the draw; the encoder gets that gradient."""
    model, image = _tiny_vae()
    slope = torch.randn(2, 3, dtype=torch.float64)
    model.reconstruction = lambda images, draws: (draws * slope).sum((-2, -1))
    value, _ = model.objective(image, estimators.get("st", 1.0), torch.Generator().manual_seed(0))
    found = torch.autograd.grad(value, list(model.encoder.parameters()))
    logits = model.encode(image)
    expected = (logits.softmax(-1) * slope).sum() + model.divergence(logits).sum()
    for ours, exact in zip(
        found, torch.autograd.grad(expected, list(model.encoder.parameters())), strict=True
    ):
        torch.testing.assert_close(ours, exact)


def test_the_decoder_begins_with_the_mean_image():
    model, _ = _tiny_vae()
    mean = torch.tensor([0.0, 1.0, 0.5, 0.2, 0.9], dtype=torch.float64)
    model.begin_with(mean)
    torch.testing.assert_close(model.decoder[-1].bias.sigmoid(), mean.clamp(1e-3, 1 - 1e-3))


def _write_mnist(root, images):
    """Files as torchvision keeps them, with random images."""
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    rng = torch.Generator().manual_seed(0)
    for part, count in (("train", images), ("t10k", images // 2)):
        pixels = torch.randint(256, (count, 28, 28), generator=rng, dtype=torch.uint8)
        header = struct.pack(">iiii", 2051, count, 28, 28)
        (raw / f"{part}-images-idx3-ubyte").write_bytes(header + pixels.numpy().tobytes())
        labels = struct.pack(">ii", 2049, count) + bytes(count)
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(labels)
    return root


def test_real_mnist(shared_data, tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for packed in (shared_data / "mnist" / "MNIST" / "raw").glob("*.gz"):
        shutil.copy(packed, raw)
    images = load_mnist(str(tmp_path))
    assert [tuple(part.shape) for part in images] == [(50_000, 784), (10_000, 784), (10_000, 784)]
    assert float(images.train.float().mean()) == pytest.approx(33.3, abs=0.5)


def test_the_latents_come_to_carry_information(tmp_path, monkeypatch):
    monkeypatch.setattr(vae, "VALIDATION", 20)
    task = MnistVAE(4, 2, 1, str(_write_mnist(tmp_path, 100)), batch_size=10)
    first = task.train(Setting("gst", 1.0, 0.001), 0)
    longer = MnistVAE(4, 2, 6, str(tmp_path), batch_size=10).train(Setting("gst", 1.0, 0.001), 0)
    assert longer["train"] < first["train"]
    assert task.train(Setting("gst", 1.0, 0.001), 0) == first
    assert task.train(Setting("gst", 1.0, 0.001), 1) != first


# Polynomials


@pytest.mark.parametrize("power", [1.5, 2.0, 3.0])
def test_expected_loss_by_enumeration(power):
    task = Polynomial(power, 1, variables=3)
    logits = torch.randn(3, 2, dtype=torch.float64)
    p, total = logits.softmax(-1), 0.0
    for values in itertools.product((0, 1), repeat=3):
        weight = math.prod(float(p[i, v]) for i, v in enumerate(values))
        total += weight * sum(abs(v - 0.45) ** power for v in values) / 3
        draws = torch.eye(2, dtype=torch.float64)[list(values)]
        assert task.losses(draws[None]).item() == pytest.approx(
            sum(abs(v - 0.45) ** power for v in values) / 3
        )
    assert task.expected(logits) == pytest.approx(total)
    assert task.expected(torch.tensor([[99.0, 0.0]] * 3)) == pytest.approx(task.optimum)
    assert task.expected(torch.tensor([[0.0, 99.0]] * 3)) == pytest.approx(task.worst)


def test_second_order_settles_what_first_order_cannot():
    """At p = 2 ReinMax is exact; the fixed point of ST is a probability of 0.45, far from the optimum."""
    task = Polynomial(2.0, 150)
    reinmax, st = (task.train(Setting(name, 1.0, 0.1), 0)["curve"] for name in ("reinmax", "st"))
    assert len(reinmax) == len(st) == 51
    share = [(curve[-1] - task.optimum) / (task.worst - task.optimum) for curve in (reinmax, st)]
    assert share[0] < 0.06
    assert share[1] == pytest.approx(0.45, abs=0.04)


def test_the_polynomial_is_chosen_for_at_another_seed():
    assert Polynomial(2.0, 1).selection_seed(3) not in range(3, 1000)
    assert ListOps(1, 0).selection_seed(3) == 3


# Grid and trials


def test_every_estimator_gets_the_temperatures_in_its_range():
    task = ListOps(1, 0)
    assert {setting.tau for setting in task.grid("reinmax")} == {1.0, 1.5}
    assert {setting.tau for setting in task.grid("st_gumbel")} == set(task.taus)
    assert {setting.tau for setting in task.grid("reinforce_loo")} == {1.0}
    assert len(task.grid("st")) == len(task.taus) * len(task.lrs)
    for name in DISCRETE:
        assert all(setting.build().tau == setting.tau for setting in task.grid(name))


def test_the_choice_is_the_lowest_finite_validation_figure():
    a, b, c, d = (Setting("st", 1.0, lr) for lr in (1.0, 2.0, 3.0, 4.0))
    values = {a: math.nan, b: 0.3, c: 0.2, d: -math.inf}
    results = {setting: {"validation": value, "test": -value} for setting, value in values.items()}
    assert choose(results) == c
    assert choose({a: {"validation": math.nan}}) == a


def test_a_trial_is_computed_once(tmp_path, monkeypatch):
    trial = Trial(Polynomial(2.0, 3), Setting("gumbel_rao", 0.5, 0.1), 0)
    ((_, result),) = task_grid.complete([trial], tmp_path, 1, 1)
    stored = json.loads(trial.path(tmp_path).read_text())
    assert stored["identity"]["steps"] == 3
    assert stored["result"] == result
    assert not [path for path in tmp_path.rglob("*") if path.suffix == ".tmp"]

    def fail(*arguments):
        raise AssertionError("computed again")

    with monkeypatch.context() as patch:
        patch.setattr(task_grid, "compute", fail)
        assert list(task_grid.complete([trial], tmp_path, 1, 1)) == [(trial, result)]
        for other in (
            trial._replace(seed=1),
            trial._replace(task=Polynomial(2.0, 4)),
            trial._replace(setting=Setting("gumbel_rao", 0.5, 0.2)),
        ):
            with pytest.raises(AssertionError, match="computed again"):
                list(task_grid.complete([other], tmp_path, 1, 1))
    monkeypatch.setattr(task_grid, "RAO_SAMPLES", 3)
    assert task_grid.stored(trial, tmp_path) is None


def test_results_do_not_depend_on_the_number_of_jobs(tmp_path):
    trials = [Trial(Polynomial(3.0, 3), Setting("reinmax", 1.0, 0.1), seed) for seed in (0, 1)]
    one = dict(task_grid.complete(trials, tmp_path / "one", 1, 1))
    two = dict(task_grid.complete(trials, tmp_path / "two", 2, 1))
    assert [one[t]["curve"] for t in trials] == [two[t]["curve"] for t in trials]
    assert one[trials[0]]["curve"] != one[trials[1]]["curve"]


WORK = """
import os, sys, time
from pathlib import Path
from studies.pool import workers

def work(name):
    Path(f"{name}.begun").write_text(str(os.getpid()))
    assert "mine" in sys.modules
    time.sleep(1)
    Path(f"{name}.done").touch()

if __name__ == "__main__":
    with workers(1, ["mine"]) as pool:
        for future in [pool.submit(work, str(i)) for i in range(9)]:
            future.result()
"""


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_workers_know_plugins_finish_what_is_under_way_and_do_not_outlive_their_parent(end, tmp_path):
    (tmp_path / "work.py").write_text(WORK)
    (tmp_path / "mine.py").touch()
    process = subprocess.Popen(
        [sys.executable, "work.py"], cwd=tmp_path, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    first = tmp_path / "0.begun"
    while not (first.exists() and first.read_text()) and process.poll() is None:
        time.sleep(0.05)
    for number in (signal.SIGINT, signal.SIGTERM):  # as a terminal, or `timeout`, does to all
        os.kill(int(first.read_text()), number)
    process.send_signal(end)
    errors = process.communicate()[1]  # when the worker has ended, too
    done = {path.stem for path in tmp_path.glob("*.done")}
    if end == signal.SIGKILL:
        assert not done
    else:
        assert "what was under way is kept, the same command goes on" in errors
        assert "0" in done == {path.stem for path in tmp_path.glob("*.begun")}
        assert len(done) < 9


@pytest.mark.parametrize("damaged", ["{}", "[]", '{"identity": 3', {"result": {}}, {"result": None}])
def test_a_damaged_result_is_named(damaged, tmp_path):
    trial = Trial(Polynomial(2.0, 3), Setting("reinmax", 1.0, 0.1), 0)
    path = trial.path(tmp_path)
    path.parent.mkdir()
    text = damaged if isinstance(damaged, str) else json.dumps({"identity": trial.identity()} | damaged)
    path.write_text(text)
    with pytest.raises(InputError, match=r"seed0.json is (missing or )?damaged.*delete it"):
        task_grid.stored(trial, tmp_path)


# Figures


def test_far_estimators_are_pointed_at_and_the_rest_keeps_its_scale():
    values = {"st": [1.0, 1.2], "gst": [1.4, 1.5], "reinmax": [0.9, 1.0], "reinforce": [50.0, 51.0]}
    (axes,) = plot_dots([Panel("", values, {})], "", best=min, digits=1).axes
    assert axes.get_xlim()[1] < 2
    texts = [text.get_text() for text in axes.texts]
    assert sorted(texts) == sorted(["1.1", "1.4", "0.9", "50.5 →"])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["reinmax", "st", "gst", "reinforce"]
    near = dict(list(values.items())[:3])
    (axes,) = plot_dots([Panel("", near, {})], "", best=max, digits=0).axes
    assert axes.get_yticklabels()[0].get_text() == "gst"
    assert not any("→" in text.get_text() for text in axes.texts)


# The command


@pytest.fixture
def small(monkeypatch):
    """The tasks at toy size."""
    monkeypatch.setattr(tasks, "ListOps", partial(ListOps, training=64, held_out=40, width=8))
    monkeypatch.setattr(vae, "VALIDATION", 10)
    return ["--polynomial-steps", "4", "--listops-steps", "3", "--vae-epochs", "1", "--jobs", "1"]


def test_end_to_end(tmp_path, small, capsys, monkeypatch):
    out, data = tmp_path / "out", _write_mnist(tmp_path / "data", 40)
    words = ["tasks", *small, "--estimators", "reinmax", "reinforce_loo", "--seeds", "2", "--out", str(out)]
    assert ablate.main([*words, "--data", str(data)]) == 0
    rows = list(csv.DictReader((out / "results.csv").read_text().splitlines()))
    names = {row["task"] for row in rows}
    assert names == {
        "polynomial-1.5",
        "polynomial-2",
        "polynomial-3",
        "listops",
        "vae-8x4",
        "vae-4x24",
        "vae-8x16",
    }
    final = [row for row in rows if row["part"] == "chosen"]
    assert len(final) == 7 * 2 * 2 + 2  # ListOps with random trees, too
    assert {row["seed"] for row in final} == {"0", "1"}
    assert len([row for row in rows if row["part"] == "grid"]) == 3 * (6 + 3) + 4 * (4 + 2) + 2
    for task in names:  # the choice is the best of the grid, and its mean is in the table
        tried = [r for r in rows if (r["task"], r["part"], r["estimator"]) == (task, "grid", "reinmax")]
        best = min(tried, key=lambda row: float(row["validation"]))
        chosen = [r for r in final if (r["task"], r["estimator"]) == (task, "reinmax")]
        assert {(r["tau"], r["lr"]) for r in chosen} == {(best["tau"], best["lr"])}
    listops = [float(r["test"]) for r in final if (r["task"], r["estimator"]) == ("listops", "reinmax")]
    markdown = (out / "results.md").read_text()
    assert (
        f"| reinmax | {sum(listops) / 2:.1f} ± {abs(listops[0] - listops[1]) / math.sqrt(2):.1f} |"
        in markdown
    )
    html = (out / "report.html").read_text()
    assert html.count("<svg") == 4
    assert "nan" not in markdown.lower()

    def fail(*arguments):
        raise AssertionError("computed again")

    monkeypatch.setattr(task_grid, "compute", fail)
    before = (out / "results.csv").read_text()
    assert ablate.main([*words, "--data", str(data)]) == 0
    assert (out / "results.csv").read_text() == before


def test_auto_encoders_of_other_shapes(tmp_path, small):
    words = ["tasks", *small, "--estimators", "st", "--seeds", "1", "--out", str(tmp_path / "out")]
    words += ["--tasks", "vae", "--data", str(_write_mnist(tmp_path / "data", 40))]
    assert ablate.main([*words, "--vae-shapes", "2x3", "12x1", "2x3"]) == 0
    rows = csv.DictReader((tmp_path / "out" / "results.csv").read_text().splitlines())
    assert [row["task"] for row in rows if row["part"] == "chosen"] == ["vae-2x3", "vae-12x1"]
    assert "3 latents of 2 classes" in (tmp_path / "out" / "report.html").read_text()


def test_without_data_the_auto_encoder_is_left_out(tmp_path, small, capsys):
    words = ["tasks", *small, "--estimators", "st", "--seeds", "1", "--out", str(tmp_path / "out")]
    assert ablate.main(words) == 0
    captured = capsys.readouterr()
    assert [line for line in captured.err.splitlines() if "vae" in line] == [
        "vae is left out: it needs MNIST, give --data FOLDER or --download"
    ]
    html = (tmp_path / "out" / "report.html").read_text()
    assert "ListOps" in html
    assert "Auto-encoder" not in html


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--tasks", "polynomal"], ["unknown task 'polynomal'", "did you mean polynomial"]),
        (["--tasks", "vae"], ["needs MNIST", "--data FOLDER"]),
        (["--estimators", "reinmx"], ["unknown discrete estimator 'reinmx'", "did you mean reinmax"]),
        (["--estimators", "softmax"], ["unknown discrete estimator 'softmax'"]),
        (["--data", "nowhere"], ["MNIST is missing or damaged in nowhere", "--download"]),
        (["--seeds", "0"], ["--seeds is 0"]),
        (["--jobs", "0"], ["--jobs is 0"]),
        (["--listops-steps", "0"], ["--listops-steps is 0"]),
        (["--vae-epochs", "many"], ["--vae-epochs", "many"]),
        (["--vae-shapes", "8x4", "8"], ["--vae-shapes has '8'", "CLASSESxLATENTS", "8x4"]),
        (["--vae-shapes", "1x4"], ["--vae-shapes has '1x4'", "2 classes"]),
        (["--tasks", "vae", "--data", ".", "--vae-shapes"], ["--vae-shapes is empty"]),
    ],
)
def test_bad_input(arguments, words, tmp_path, capsys):
    out = tmp_path / "out"
    assert ablate.main(["tasks", *arguments, "--out", str(out)]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    for word in words:
        assert word in captured.err
    assert not out.exists()


def test_the_results_need_a_folder(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert ablate.main(["tasks", "--tasks", "polynomial", "--out", str(tmp_path / "file")]) == 2
    assert "cannot be used as a folder" in capsys.readouterr().err


def test_packed_files_are_unpacked_beside_them(tmp_path, monkeypatch):
    monkeypatch.setattr(vae, "VALIDATION", 10)
    plain, packed = (_write_mnist(tmp_path / name, 40) for name in ("plain", "packed"))
    for path in (packed / "MNIST" / "raw").iterdir():
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    for part, expected in zip(load_mnist(str(packed)), load_mnist(str(plain)), strict=True):
        torch.testing.assert_close(part, expected)
    assert len(list((packed / "MNIST" / "raw").iterdir())) == 8


def test_damaged_files_are_named(tmp_path):
    _write_mnist(tmp_path, 40)
    with pytest.raises(InputError, match="has 40 training images, expected 60000"):
        load_mnist(str(tmp_path))
    (tmp_path / "MNIST" / "raw" / "t10k-images-idx3-ubyte").write_bytes(b"\0\0\x08\x03")
    with pytest.raises(InputError, match="missing or damaged"):
        load_mnist(str(tmp_path))
    (tmp_path / "MNIST" / "raw" / "t10k-images-idx3-ubyte").unlink()
    (tmp_path / "MNIST" / "raw" / "t10k-images-idx3-ubyte.gz").write_bytes(b"\x1f\x8b\x08cut")
    with pytest.raises(InputError, match="missing or damaged"):
        load_mnist(str(tmp_path))
    assert not (tmp_path / "MNIST" / "raw" / "t10k-images-idx3-ubyte").exists()


def test_estimators_that_learn_fit_tasks_of_one_problem(tmp_path, small, capsys):
    """They are left out of the others, and refused where nothing else is asked for."""
    words = ["tasks", *small, "--seeds", "1", "--estimators", "reinforce_critic", "double_cv", "st"]
    assert ablate.main([*words, "--tasks", "polynomial", "listops", "--out", str(tmp_path / "out")]) == 0
    rows = list(csv.DictReader((tmp_path / "out" / "results.csv").read_text().splitlines()))
    fitting = {
        name: {row["estimator"] for row in rows if row["task"] == name}
        for name in ("polynomial-2", "listops")
    }
    assert fitting == {
        "polynomial-2": {"reinforce_critic", "double_cv", "st"},
        "listops": {"st", "random trees"},
    }
    capsys.readouterr()
    assert ablate.main([*words, "--tasks", "listops", "--out", str(tmp_path / "other")]) == 2
    assert "'reinforce_critic' learns from past draws" in capsys.readouterr().err


def test_random_trees_are_uniform_and_teach_the_scores_nothing():
    """Every pair that exists is as likely, whatever its score, in training and when tested."""
    scores = torch.tensor([[5.0, -2.0, 0.0, MASKED]]).expand(4000, -1)
    draws = uniform(torch.Generator().manual_seed(0))(scores)
    shares = draws.mean(0)
    assert shares[3] == 0
    assert (shares[:3] - 1 / 3).abs().max() < 0.03
    task = ListOps(3, 0, training=64, held_out=40, width=8)
    model = LatentTree(8)
    batch = task.data()[0]
    logits, _ = model(batch.tokens, batch.lengths, uniform(torch.Generator().manual_seed(0)))
    logits.sum().backward()
    assert model.score.weight.grad is None
    results = [task.train(Setting(RANDOM, 1.0, 0.01), seed) for seed in (0, 0, 1)]
    assert results[0] == results[1]


@pytest.mark.parametrize("name", ["reinforce_critic", "double_cv"])
def test_estimators_that_learn_solve_a_polynomial(name):
    task = Polynomial(2.0, 60, variables=12)
    assert (
        task.train(Setting(name, 1.0, 0.1), 0)["test"]
        < 0.5 * task.expected(torch.zeros(12, 2)) + 0.5 * task.optimum
    )
