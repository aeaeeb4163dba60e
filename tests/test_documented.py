"""The commands that the documentation shows are ones: their options exist and go together."""

import re
import shlex

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
        for block in re.findall(r"```(?:sh)?\n(.*?)```", page.read_text(), re.DOTALL):
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
    command = NAS
    while not hasattr(command, "run"):
        command, words = command.table[words[0]], words[1:]

    def check(options):
        if isinstance(options, SearchOptions):
            parts.without_data(options, {})
        if isinstance(options, GridOptions):
            grid.plan(options, tmp_path)

    code = command_line.main(command._options_class(), check, words)
    assert code == 0, capsys.readouterr().err


def test_there_are_many():
    assert len(list(commands())) > 40
