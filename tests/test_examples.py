"""The examples run as they are; what they add from outside reaches everything that names it."""

import importlib.util
import io
import re
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, run_environment

import estimators
import nas
import search_spaces
from estimators import Schedule
from nas.bilevel import Architecture, Search
from nas.task import Classification

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
ADDED = {  # by the example: what --help has to name, and the words of a search with it
    "own_data": ("data set shapes", ["--dataset", "shapes", "--space", "micro"]),
    "own_estimator": (
        "estimator st_to_reinmax",
        ["--estimator", "st_to_reinmax:beta=0.25", "--space", "micro"],
    ),
    "own_operation": ("operation shuffled_conv; search space micro_shuffled", ["--space", "micro_shuffled"]),
    "own_policy": ("policy fair_first", ["--policy", "fair_first:epsilon=1:0.1", "--space", "micro"]),
    "own_rule": ("rule of selection frugal", ["--derive", "frugal", "--space", "micro"]),
    "own_score": ("zero-cost score grad_norm", ["--space", "micro"]),
    "own_shrinking": ("shrinking trials", ["--shrink", "trials:count=3", "--space", "micro"]),
    "own_space": ("search space small_mobile", ["--space", "small_mobile"]),
    "own_term": ("term parameter_cost", ["--terms", "parameter_cost:weight=0.5", "--space", "micro"]),
}
PLUGINS = [path for path in EXAMPLES if path.stem in ADDED]
QUICKLY = ("own_operation",)  # the gate asks this one, the others take as long
SMALL = ["--epochs", "2", "--channels", "4", "--batch-size", "16", "--train-limit", "160", "--threads", "1"]


def run(*words, cwd):
    return subprocess.run(
        [sys.executable, "-W", "error", *map(str, words)], cwd=cwd, env=run_environment(),
        capture_output=True, text=True, timeout=280,
    )  # fmt: skip


def example(name):
    """An example as a module, imported anew."""
    spec = importlib.util.spec_from_file_location(f"{name}_for_test", ROOT / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_example_is_here():
    assert {path.stem for path in EXAMPLES if re.search(r"\bregister\w*\(", path.read_text())} == set(ADDED)
    assert all(len(path.read_text().splitlines()) <= 130 for path in EXAMPLES)
    assert len((ROOT / "examples" / "minimal_search.py").read_text().splitlines()) <= 80


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs(path, tmp_path):
    done = run(path, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert {file.name for file in tmp_path.iterdir()} <= {"cache"}  # nothing is left behind


@pytest.mark.parametrize(
    "path",
    [pytest.param(p, id=p.stem, marks=[] if p.stem in QUICKLY else [pytest.mark.slow]) for p in PLUGINS],
)
def test_what_an_example_adds_reaches_the_command_line_and_the_report(path, tmp_path):
    named, words = ADDED[path.stem]
    shown = run(ROOT / "train_search.py", "--plugins", path, "--help", cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert named in " ".join(shown.stdout.replace("│", " ").split())
    out = tmp_path / "run"
    searched = run(ROOT / "train_search.py", "--plugins", path, *words, *SMALL, "--out", out, cwd=tmp_path)
    assert searched.returncode == 0, searched.stderr
    assert "<svg" in (out / "report.html").read_text()
    # A folder imports nothing by itself.
    (out / "result.json").unlink()
    refused = run(ROOT / "train_search.py", "--resume", "--out", out, cwd=tmp_path)
    assert refused.returncode == 2
    assert f"needs --plugins {path}" in refused.stderr
    again = run(ROOT / "train_search.py", "--resume", "--out", out, "--plugins", path, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    final = [ROOT / "train_final.py", "--plugins", path, "--genotype", out / "genotype.json", *SMALL]
    if path.stem == "own_data":
        final += ["--dataset", "shapes"]
    trained = run(*final, "--out", tmp_path / "final", cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    assert "test accuracy" in trained.stdout


def test_the_snippets_of_the_library_page_run():
    snippets = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "library.md").read_text(), re.DOTALL)
    names = {}
    for snippet in snippets:
        exec(snippet, names)
    assert len(snippets) == 4
    assert (len(names["result"].history), names["result"].stopped) == (4, None)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("import nonsense_of_nobody", "ModuleNotFoundError"),
        ("x = 1 / 0", "ZeroDivisionError"),
        (None, "cannot be imported"),
        (
            "import estimators\nestimators.register('st', estimators.family('st'))",
            "exists already",
        ),
    ],
)
def test_a_bad_plugin_ends_in_one_line(content, message, tmp_path):
    path = tmp_path / "bad_plugin.py"
    if content is not None:
        path.write_text(content)
    done = run(ROOT / "train_search.py", "--plugins", path, *SMALL, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


SEARCH = {"data": "digits", "epochs": 2, "channels": 4, "batch_size": 16, "train_limit": 160}


def test_the_paths_of_the_policy_are_fair_where_they_are_not_drawn():
    fair = example("own_policy").FairFirst
    for name in ("nasbench201", "s1"):  # slots of s1 have different numbers of candidates
        space = search_spaces.get(name)
        architecture = Architecture(space, estimators.get("reinmax"))
        paths = fair(Schedule(1.0, 0.0)).paths(architecture, torch.Generator().manual_seed(0), 0, 0.0)
        assert len(paths) == space.width
        for row, slot in enumerate(space.slots):
            assert {path[row] for path in paths} == set(range(len(slot.candidates)))
        with torch.no_grad():
            architecture.logits.zero_()[:, 1] = 50.0
        paths = fair(Schedule(1.0, 0.0)).paths(architecture, torch.Generator().manual_seed(0), 0, 1.0)
        assert paths == [[1] * space.num_slots] * space.width
    for bad in (Schedule(1.0, 1.5), Schedule(-0.1, 1.0), Schedule(float("nan"), 1.0)):
        with pytest.raises(ValueError, match="expected probabilities"):
            fair(bad)


def test_the_rule_takes_the_smallest_that_is_good_enough_and_goes_on_where_it_was():
    frugal = example("own_rule").Frugal
    result = nas.search("micro", derive="argmax", **SEARCH)
    whole = frugal(20, 5.0)
    assert sum(1 for _ in whole.select(result.search)) == whole.pieces(result.search) > 5
    rows = whole.considered(result.search)
    good = [row for row in rows if row["accuracy"] >= max(r["accuracy"] for r in rows) - 5.0]
    assert 1 < len(good) < len(rows)
    found = result.space.format(whole.selected(result.search))
    assert {row["genotype"]: row["parameters"] for row in good}[found] == min(r["parameters"] for r in good)
    first, saved = frugal(20, 5.0), io.BytesIO()
    for count, _ in enumerate(first.select(result.search), 1):
        if count == 5:
            break
    torch.save(first.state(), saved)
    saved.seek(0)
    rest = frugal(20, 5.0)
    rest.restore(torch.load(saved, weights_only=True))
    assert sum(1 for _ in rest.select(result.search)) == len(rows) - 5
    assert rest.considered(result.search) == rows


def test_the_shrinking_gives_up_the_worst_of_its_trials_and_remembers_them(monkeypatch):
    trials = example("own_shrinking").Trials
    monkeypatch.setattr(Search, "score_draw", lambda self, draw: (0.0, 90.0 - 10 * (draw[1] == 3)))
    options = SEARCH | {"epochs": 3, "warmup_epochs": 1, "derive": "argmax"}
    whole = nas.search("micro", shrink=trials(), **options).search.shrinking
    assert [epoch for epoch, *_ in whole.taken] == [2, 3]
    assert whole.taken[0][1:] == (1, 3)
    assert whole.sums[1].sum(1).tolist() == [40, 40, 40]
    saved = io.BytesIO()
    torch.save(whole.state(), saved)
    saved.seek(0)
    again = trials()
    again.restore(torch.load(saved, weights_only=True))
    assert again.taken == whole.taken
    assert torch.equal(again.sums, whole.sums)


def test_the_task_is_a_loss_of_labels_and_of_mixed_labels_and_serves_every_kind_of_step():
    focal = example("own_task").Focal
    output, labels = torch.randn(7, 10, requires_grad=True), torch.arange(7)
    p = output.softmax(1)[range(7), labels]
    torch.testing.assert_close(focal(10).loss(output, labels, "none"), -((1 - p) ** 2) * p.log())
    torch.testing.assert_close(focal(10, 0.0).loss(output, labels), Classification(10).loss(output, labels))
    mixed = torch.nn.functional.one_hot(labels, 10) * 0.7 + 0.03
    torch.testing.assert_close(focal(10, 0.0).loss(output, mixed), Classification(10).loss(output, mixed))
    assert torch.autograd.grad(focal(10).loss(output, mixed), output)[0].isfinite().all()
    for kind in (
        {"estimator": "reinforce"},
        {"order": 2, "edge_gradient": "dense"},
        {"precision": "bfloat16"},
    ):
        result = nas.search("micro", task=focal(10), **SEARCH, **kind)
        assert result.summary["derived_accuracy"] > 0
    assert nas.train(result.genotype, task=focal(10), mixup=0.2, **SEARCH).accuracy > 0
