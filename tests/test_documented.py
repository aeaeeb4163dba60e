"""The commands that the documentation shows are ones: their options exist, and those of searches and grids go
together."""

import os
import re
import shlex
import subprocess
import sys

import pytest
from conftest import ROOT

from ablation import grid
from nas.bilevel import parts
from recipes import SearchOptions, command_line
from recipes.ablation import GridOptions
from recipes.commands import NAS

SCRIPTS = {"train_search": ["search"], "train_final": ["train"], "ablate": ["ablate"], "nas": []}


def commands():
    """Every command line of ours in a page, as words after `nas`."""
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        blocks = re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
        for block in (text for language, text in blocks if language in ("", "sh")):
            for line in block.replace("\\\n", " ").splitlines():
                line = line.removeprefix("$ ")
                if "$" in line or not re.match(r"(python|torchrun|nas|ablate|train_)", line):
                    continue
                words = shlex.split(line, comments=True)
                names = [re.sub(r"\.py$", "", word) for word in words]
                starts = [i for i, name in enumerate(names[:6]) if name in SCRIPTS]
                if starts:
                    rest = words[starts[0] + 1 :]
                    rest = rest[
                        : min((i for i, word in enumerate(rest) if word in ("|", ">", "&")), default=None)
                    ]
                    yield pytest.param([*SCRIPTS[names[starts[0]]], *rest], id=f"{page.name}: {line[:70]}")


@pytest.mark.parametrize("words", list(commands()))
def test_a_documented_command_is_one(words, tmp_path, monkeypatch, capsys):
    if "--weights" in words:
        pytest.skip("sizes come from the network in a file")
    monkeypatch.chdir(ROOT)
    assert exit_code(words, tmp_path) == 0, capsys.readouterr().err


def exit_code(words, folder):
    """Of a command of `nas` whose options are read and planned with, and which is not done."""
    command = NAS
    while not hasattr(command, "run"):
        command, words = command.table[words[0]], words[1:]

    def check(options):
        if isinstance(options, SearchOptions):
            parts.without_data(options, {})
        if isinstance(options, GridOptions):
            grid._require_used(options)
            grid.plan(options, folder)
            grid.zero_cost_scores(options)

    return command_line.main(command._options_class(), check, words)


PLACES = {"DATA": "folder:cifar", "TABLE": "nb201.csv", "MNIST": "mnist"}
NOT_PYTHON = """#!/bin/bash
if [ "$1" = -c ]; then exec {python} "$@"; fi
printf '%s\\0' "$@" > "{folder}/call-$(ls {folder} | wc -l)"
"""


@pytest.mark.parametrize(
    ("script", "calls"),
    [
        ("cifar10.sh folder:cifar nb201.csv", 1), ("search-quality.sh folder:cifar nb201.csv", 1),
        ("collapse.sh", 4), ("macro.sh folder:cifar OUT 0 1", 2), ("published.sh digits", 1),
        ("published.sh cifar10", 1), ("published.sh gpu", 15), ("estimators.sh gradients", 1),
        ("estimators.sh inside", 1), ("estimators.sh searches", 2), ("estimators.sh cifar10", 1),
        ("estimators.sh tasks", 1),
    ],
)  # fmt: skip
def test_the_scripts_of_the_results_call_commands(script, calls, tmp_path, monkeypatch, capsys):
    said, python = tmp_path / "said", tmp_path / "python"
    said.mkdir()
    python.write_text(NOT_PYTHON.format(python=sys.executable, folder=said))
    python.chmod(0o755)
    name, *rest = script.replace("OUT", str(tmp_path / "out")).split()
    path = str(ROOT / "docs" / "results" / name)
    subprocess.run(["bash", path, *rest], env=os.environ | PLACES | {"PYTHON": str(python)}, check=True)
    assert len(list(said.iterdir())) == calls
    for call in said.iterdir():
        first, *words = call.read_text().removesuffix("\0").split("\0")
        assert first in ("ablate.py", "-m")
        words = words[1:] if (first, words[0]) == ("-m", "nas") else ["ablate", *words]
        assert exit_code(words, tmp_path) == 0, capsys.readouterr().err


def test_there_are_many():
    assert len(list(commands())) >= 60
