"""The command `nas`, and trainings that start from saved weights."""

import itertools
import json
import shlex
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from conftest import run_environment
from PIL import Image

import ablate
import nas
import search_spaces
import train_final
from nas.training import weights
from recipes import FinalOptions, InputError, SearchOptions, command_line, commands, presets

CELL = "|nor_conv_3x3~0|+|nor_conv_3x3~0|skip_connect~1|"
SMALL = {"train_limit": 160, "batch_size": 16, "tensorboard": False, "progress": False}
FLAGS = ["--channels", "4", "--train-limit", "160", "--batch-size", "16", "--epochs", "1", "--no-tensorboard"]


def train(genotype=CELL, data="digits", **options):
    return nas.train(genotype, data, **SMALL | options)


def call(argv, capsys):
    code = commands.main(argv)
    return code, capsys.readouterr()


def test_help_and_bad_options_need_no_torch():
    code = """
import sys
from recipes import commands

assert commands.main(["--help"]) == commands.main(["presets"]) == 0
for prefix, table in ([], commands.NAS.table), (["ablate"], commands.ABLATE.table):
    for name in table:
        assert commands.main([*prefix, name, "--nonsense"]) == 2
        try:
            assert commands.main([*prefix, name, "--help"]) == 0 and name == "ablate"
        except SystemExit as stop:
            assert stop.code == 0
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], env=run_environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(f"\n  {name} " in done.stdout for name in commands.NAS.table)
    for name in ("search", "ablate", "ablate rank", "export", "latency", "convert", "presets"):
        assert f"usage: nas {name} " in done.stdout


def test_the_package_is_the_command():
    def run(*words):
        return subprocess.run(
            [sys.executable, "-m", "nas", *words], env=run_environment(), capture_output=True, text=True
        )

    done = run("train", "--genotype", "nonsense")
    assert done.returncode == 2
    assert "unknown published cell" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ([], ""),
        (["serach"], "unknown command 'serach', expected one of: search, train"),
        (["search", "--estimator", "reinmx"], "did you mean reinmax"),
        (["train"], "--genotype is missing"),
        (["ablate", "nsa"], "unknown command 'nsa'"),
        (["export"], "no model is given"),
        (["predict"], "no model is given"),
        (["presets", "--all"], "--all"),
    ],
)
def test_bad_input_is_exit_code_2(argv, words, capsys):
    code, printed = call(argv, capsys)
    assert code == 2
    assert words in printed.err
    assert printed.err.count("\n") == (1 if argv else 0)


def test_subcommands_are_called_by_their_names(monkeypatch, capsys):
    """They see their own arguments and name, and the process keeps its own."""
    before = list(sys.argv)
    for argv, usage in ((["search"], "usage: nas search"), (["train"], "usage: nas train")):
        with pytest.raises(SystemExit) as stop:
            commands.main([*argv, "--help"])
        assert stop.value.code == 0
        assert usage in capsys.readouterr().out
    assert "nas ablate COMMAND" in call(["ablate", "--help"], capsys)[1].out
    assert ablate.main(["--help"]) == 0
    assert "ablate.py COMMAND" in capsys.readouterr().out
    assert sys.argv == before


def test_from_a_search_to_predictions(tmp_path, capsys):
    search, final = tmp_path / "search", tmp_path / "final"
    assert call(["search", "--space", "micro", "--out", str(search), *FLAGS], capsys)[0] == 0
    genotype = ["--genotype", str(search / "genotype.json")]
    assert call(["train", *genotype, "--out", str(final), *FLAGS], capsys)[0] == 0
    assert json.loads((final / "environment.json").read_text())["command"].startswith("nas train --genotype")
    code, printed = call(["export", str(final), "--out", str(tmp_path / "export")], capsys)
    assert code == 0
    assert "model.safetensors" in printed.out
    code, printed = call(["export", str(search), "--out", str(tmp_path / "e")], capsys)
    assert code == 2
    assert "is the folder of a search" in printed.err


def test_presets_are_explained(capsys):
    assert presets.ABOUT.keys() == presets.SEARCH.keys() | presets.FINAL.keys()
    code, printed = call(["presets"], capsys)
    assert code == 0
    for command, recipes in (("search", presets.SEARCH), ("train", presets.FINAL)):
        for name in recipes:
            published = name in presets.PUBLISHED
            more = f"    published: {presets.published(name)}\n" if published else ""
            assert f"nas {command} --preset {name}\n    {presets.ABOUT[name]}\n{more}" in printed.out
    assert "--epochs 600 --batch-size 96" in printed.out


def test_the_options_of_a_preset_by_hand_are_the_preset(capsys):
    """Also those that it sets to nothing."""
    _, printed = call(["presets"], capsys)
    lines, looked = printed.out.splitlines(), 0
    for command, kind in (("search", SearchOptions), ("train", FinalOptions)):
        cell = ["--genotype", CELL] if command == "train" else []
        for i, line in enumerate(lines):
            if line.startswith(f"nas {command} --preset "):
                name = line.split()[-1]
                rest = itertools.takewhile(lambda text: text.startswith("    "), lines[i + 1 :])
                words = [word for text in rest if text.startswith("    --") for word in shlex.split(text)]
                by_hand = command_line.parse(kind, [*cell, *words])
                assert replace(by_hand, preset=name) == command_line.parse(kind, [*cell, "--preset", name])
                looked += bool(words)
    assert looked > 20


def test_weights_bring_their_architecture_and_go_on(tmp_path):
    first = train(epochs=4, channels=5, out=tmp_path / "first", lr=0.1)
    again = train(None, epochs=1, lr=1e-9, weights=tmp_path / "first", out=tmp_path / "second")
    assert str(again) == CELL
    assert again.options.channels == 5
    assert abs(again.accuracy - first.accuracy) < 3  # nothing but the statistics has moved
    report = json.loads((tmp_path / "second" / "weights.json").read_text())
    assert report["new"] == report["unused"] == []
    assert report["taken"] == len(first.model.state_dict())
    assert (
        again.messages[0] == f"weights {tmp_path / 'first' / 'model.safetensors'}: {report['taken']} tensors"
    )
    # Resumed or at once, with the weights of the same file.
    options = {"epochs": 2, "weights": tmp_path / "first", "lr": 0.01}
    whole = train(None, out=tmp_path / "whole", **options)
    train(None, out=tmp_path / "parts", callback=lambda m: True, **options)
    (tmp_path / "first" / "model.safetensors").unlink()  # the checkpoint has all that was in it
    parts = nas.train(out=tmp_path / "parts", resume=True, progress=False)
    for a, b in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_weights_bring_the_size_of_their_network_and_images(tmp_path, capsys):
    for i in range(16):
        (tmp_path / "p" / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), (i, 90 * (i % 2), 0)).save(tmp_path / "p" / "ab"[i % 2] / f"{i}.png")
    pictures, first = f"folder:{tmp_path / 'p'}", str(tmp_path / "first")
    small = {"epochs": 1, "batch_size": 8, "train_limit": None}
    train(data=pictures, channels=4, image_size=12, out=first, **small)
    said = []
    again = train(None, pictures, weights=first, announce=said.append, **small)
    assert again.options.image_size == 12
    assert again.model.description["image_size"] == [12, 12]
    assert not any("was trained on images" in line for line in said)
    for name, value in (("channels", 16), ("space", "darts")):  # the first is the usual value, too
        with pytest.raises(InputError, match=f"`{name}` is {value}, but the network in"):
            train(None, pictures, weights=first, **small, **{name: value})
    words = ["--weights", first, "--dataset", pictures]
    assert command_line.parse(FinalOptions, words).image_size == 12
    assert train_final.main([*words, "--channels", "16", "--out", str(tmp_path / "second")]) == 2
    assert "--channels is 16, but the network in" in capsys.readouterr().err
    config = tmp_path / "own.json"
    config.write_text(json.dumps({"weights": first, "image_size": 8}))
    assert command_line.parse(FinalOptions, ["--config", str(config)]).image_size == 8
    train(None, pictures, weights=first, image_size=8, announce=said.append, **small)
    assert "was trained on images of [12, 12] pixels, these have [8, 8]" in said[-1]


def test_weights_of_another_network_are_taken_where_they_fit(tmp_path, capsys):
    first = train(epochs=1, channels=4)
    first.save_model(tmp_path / "first.safetensors")
    own = nas.nas_net(genotype=CELL, channels=4, num_classes=3, cells=1)  # another head, other channels
    before = own.classifier.weight.clone()
    taken = weights.take(own, tmp_path / "first.safetensors")
    assert taken["new"] == ["stem.0.weight (4, 3, 3, 3)", "classifier.weight (3, 16)", "classifier.bias (3,)"]
    assert sorted(taken["unused"]) == [
        "classifier.bias (10,)", "classifier.weight (10, 16)", "stem.0.weight (4, 1, 3, 3)",
    ]  # fmt: skip
    assert torch.equal(own.classifier.weight, before)
    assert torch.equal(own.blocks[0].edges[0][1].weight, first.model.blocks[0].edges[0][1].weight)
    assert "3 and 1 more" not in weights.summary(taken)
    images, labels = torch.rand(60, 3, 8, 8), torch.arange(60) % 3
    found = train(data=(images, labels), epochs=1, channels=4, weights=tmp_path / "first.safetensors")
    assert "classifier.bias (3,)" in found.messages[0]
    assert capsys.readouterr().err.startswith("note: weights ")


def test_a_head_is_arranged_by_class(tmp_path):
    about = {"genotype": search_spaces.get("micro").parse(CELL).to_json(), "channels": 4, "cells": 1}
    about |= {"num_classes": 3, "in_chans": 1, "classes": ["ant", "bee", "cow"]}
    first, own = (nas.nas_net(genotype=CELL, channels=4, cells=1, num_classes=3, in_chans=1) for _ in "ab")
    nas.save(tmp_path / "m.safetensors", first, about)
    before = own.classifier.weight.clone()
    taken = weights.take(own, tmp_path / "m.safetensors", classes=["bee", "dog", "ant"])
    assert taken["new_classes"] == ["dog"]
    assert weights.summary(taken).endswith("; head arranged by class, new: 'dog'")
    rows = first.classifier.weight[1], before[1], first.classifier.weight[0]
    assert torch.equal(own.classifier.weight, torch.stack(rows))
    for classes in ("012", ["ant", "bee", "cow"]):  # the first are no names
        assert "new_classes" not in weights.take(own, tmp_path / "m.safetensors", classes=classes)
        assert torch.equal(own.classifier.weight, first.classifier.weight)


def test_weights_of_a_state_dict(tmp_path):
    """As timm leaves them: with a name in front, or in the checkpoint of a training."""
    state = train(epochs=1, channels=4).model.state_dict()
    for content in (state, {"state_dict": {f"module.{k}": v for k, v in state.items()}}):
        torch.save(content, tmp_path / "state.pth")
        model = nas.nas_net(genotype=CELL, channels=4, cells=1, in_chans=1)
        assert weights.take(model, tmp_path / "state.pth")["new"] == []
        assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    torch.save(state | {"classifier.bias": torch.full((10,), torch.nan)}, tmp_path / "state.pth")
    with pytest.raises(InputError, match=r"classifier.bias in .* is infinite or not a number"):
        weights.take(model, tmp_path / "state.pth")
    torch.save({"classifier.weight": "no tensor", "x": torch.zeros(2)}, tmp_path / "state.pth")
    with pytest.raises(InputError, match=r"no weight in .* x \(2,\): the network has stem\.0\.weight"):
        weights.take(model, tmp_path / "state.pth")


class Opened:
    def __reduce__(self):
        return open, ("opened", "w")


def test_bad_weights_are_refused(tmp_path, capsys):
    train(epochs=1, channels=4, out=tmp_path / "first")
    (tmp_path / "text.safetensors").write_text("text")
    torch.save({"x": Opened()}, tmp_path / "program.pth")
    torch.save(train(epochs=1, channels=4).model.state_dict(), tmp_path / "state.pth")
    first = str(tmp_path / "first")
    for arguments, words in (
        (["--weights", "nowhere"], "there is no file or folder nowhere"),
        (["--weights", str(tmp_path)], "holds no model.safetensors"),
        (["--weights", str(tmp_path / "text.safetensors")], "cannot read the weights"),
        (["--weights", str(tmp_path / "state.pth")], "give --genotype, too"),
        (["--genotype", CELL, "--weights", str(tmp_path / "program.pth")], "cannot read the weights"),
        (["--weights", first, "--channels", "8"], "--channels is 8, but the network in"),
        (["--weights", first, "--space", "darts"], "--space is darts, but"),
        (["--weights", first, "--out", first, "--overwrite"], "lies in the folder of this run"),
        (
            ["--out", first, "--resume", "--epochs", "9"],
            f"with --weights {first}/model.safetensors, which trains its network",
        ),
    ):
        assert train_final.main(arguments) == 2
        message = capsys.readouterr().err
        assert words in message
        assert message.count("\n") == 1
    assert not (tmp_path / "opened").exists()
    assert (tmp_path / "first" / "model.safetensors").exists()
