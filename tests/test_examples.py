"""The examples run as they are; what they add from outside reaches everything that names it."""

import subprocess
import sys

import pytest
from conftest import ROOT, run_environment

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
PLUGINS = [path for path in EXAMPLES if path.name.startswith("own_")]
ADDED = {  # by the example: what --help has to name, and the words of a search with it
    "own_data": ("data set shapes", ["--dataset", "shapes", "--space", "micro"]),
    "own_estimator": (
        "estimator st_to_reinmax",
        ["--estimator", "st_to_reinmax:beta=0.25", "--space", "micro"],
    ),
    "own_operation": ("operation shuffled_conv; search space micro_shuffled", ["--space", "micro_shuffled"]),
    "own_space": ("search space small_mobile", ["--space", "small_mobile"]),
    "own_term": ("term parameter_cost", ["--terms", "parameter_cost:weight=0.5", "--space", "micro"]),
}
SMALL = ["--epochs", "2", "--channels", "4", "--batch-size", "16", "--train-limit", "160", "--threads", "1"]


def run(*words, cwd):
    return subprocess.run(
        [sys.executable, "-W", "error", *map(str, words)], cwd=cwd, env=run_environment(),
        capture_output=True, text=True, timeout=280,
    )  # fmt: skip


def test_every_example_is_here():
    assert {path.stem for path in PLUGINS} == set(ADDED)
    assert all(len(path.read_text().splitlines()) <= 130 for path in EXAMPLES)
    assert len((ROOT / "examples" / "minimal_search.py").read_text().splitlines()) <= 80


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs(path, tmp_path):
    done = run(path, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert {file.name for file in tmp_path.iterdir()} <= {"cache"}  # nothing is left behind


@pytest.mark.parametrize("path", PLUGINS, ids=lambda path: path.stem)
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


def test_the_ablation_knows_what_was_registered(tmp_path):
    plugin = ROOT / "examples" / "own_estimator.py"
    words = ["nas", "--plugins", plugin, "--methods", "st", "st_to_reinmax,beta=0.25", "--seeds", "1"]
    search = "--epochs 2 --train-limit 160 --batch-size 16"
    done = run(
        ROOT / "ablate.py",
        *words,
        "--measure",
        "1",
        "--search",
        search,
        "--out",
        tmp_path / "grid",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    report = (tmp_path / "grid" / "report.html").read_text()
    assert "st_to_reinmax" in report
    assert "st_to_reinmax" in (tmp_path / "grid" / "gradients.csv").read_text()


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
