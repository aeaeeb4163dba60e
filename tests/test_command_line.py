"""Bad input, as a user would give it: one line, exit code 2, nothing half-written."""

import json
import os
import re
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, run_environment

import ablate
import train_final
import train_search
from nas import data
from nas.runs import checkpoint
from recipes import InputError, SearchOptions, command_line, presets
from recipes.options import FinalOptions

TINY = [
    "--space",
    "micro",
    "--channels",
    "4",
    "--train-limit",
    "160",
    "--batch-size",
    "16",
    "--no-tensorboard",
]
CELL = "|nor_conv_3x3~0|+|skip_connect~0|avg_pool_3x3~1|"


def fails(main, arguments, *words, out=None, capsys=None):
    """`main` returns 2 after one line on stderr that contains `words`."""
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1, captured.err
    for word in words:
        assert word in captured.err, captured.err
    if out is not None:
        assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--estimator", "reinmx"], ["unknown estimator 'reinmx'", "did you mean reinmax"]),
        (["--space", "nasbench"], ["unknown search space", "nasbench201"]),
        (["--preset", "dart-first-order"], ["unknown preset", "darts-first-order"]),
        (["--dataset", "cifar"], ["unknown data set", "cifar10"]),
        (["--dataset", "cifar10", "--data-root", "nowhere"], ["missing", "--download"]),
        (["--dataset", "folder:nowhere"], ["does not exist"]),
        (["--tau", "0.5"], ["out of range", "reinmax", "from 1 to 1000"]),
        (["--tau", "3:0.2"], ["out of range"]),
        (["--tau", "hot"], ["--tau is 'hot'", "START:END"]),
        (["--tau", "nan"], ["--tau is 'nan', expected a number"]),
        (["--epochs", "0"], ["--epochs is 0"]),
        (["--epochs", "many"], ["--epochs", "many"]),
        (["--lr", "nan"], ["--lr is nan"]),
        (["--lr", "-1"], ["--lr is -1"]),
        (["--momentum", "1"], ["--momentum is 1"]),
        (["--val-fraction", "1"], ["--val-fraction is 1"]),
        (["--warmup-epochs", "6", "--epochs", "5"], ["--warmup-epochs is 6", "at most 5, as --epochs is 5"]),
        (["--derive", "sample:0"], ["--derive: rule of selection 'sample:0': count is 0, expected 1 to"]),
        (
            ["--derive", "best"],
            ["--derive: unknown rule of selection 'best', expected one of: argmax, sample"],
        ),
        (["--estimator", "softmax", "--edge-gradient", "surrogate"], ["surrogate", "'softmax' mixes all"]),
        (["--estimator", "softmax", "--edge-gradient", "compiled"], ["compiled", "'softmax' mixes all"]),
        (["--estimator", "reinforce", "--edge-gradient", "compiled"], ["compiled", "not 'reinforce'"]),
        (["--edge-gradient", "compiled", "--sync-batch-norm"], ["compiled", "--sync-batch-norm"]),
        (["--estimator", "softmax", "--edge-gradient", "captured"], ["captured", "'softmax' mixes all"]),
        (["--edge-gradient", "captured", "--sync-batch-norm"], ["captured", "--sync-batch-norm"]),
        (["--edge-gradient", "captured", "--draw-per", "image"], ["captured", "--draw-per image"]),
        (["--edge-gradient", "compiled", "--draw-per", "image"], ["compiled", "--draw-per image"]),
        (["--estimator", "reinforce_loo", "--draws", "1"], ["--draws is 1", "at least 2"]),
        (["--estimator", "reinforce", "--order", "2"], ["--order 2", "'reinforce'"]),
        (["--draw-per", "image", "--draws", "3"], ["--draws does not go with --draw-per image"]),
        (["--draw-per", "image", "--order", "2"], ["--order 2 does not go with --draw-per image"]),
        (["--draw-per", "image", "--estimator", "softmax"], ["softmax, which draws nothing"]),
        (["--dataset", "folder:pictures\udcff"], ["--dataset is not valid UTF-8"]),
        (["--order", "3"], ["--order", "'1', '2'"]),
        (["--space", "darts", "--cells", "2"], ["--cells is 2", "at least 3"]),
        (["--train-limit", "3"], ["--train-limit is 3", "10 classes"]),
        (["--batch-size", "1"], ["--batch-size is 1", "at least 2"]),
        (["--val-fraction", "0.0001"], ["there are 10 validation images, too few for one batch"]),
        (["--nonsense", "1"], ["--nonsense"]),
        (["--batch-size", "2000"], ["too few for one batch of 2000", "--batch-size"]),
        (["--device", "cuda:77"], ["device 'cuda:77' is not available"]),
        (["--device", "abacus"], ["device 'abacus' is not available"]),
        (["--resume", "--overwrite"], ["--resume and --overwrite"]),
        (["--config", "nowhere.json"], ["cannot read the configuration"]),
        (["--config", "x.json", "--preset", "quick"], ["--config and --preset"]),
    ],
)
def test_bad_search_options(arguments, words, tmp_path, capsys):
    out = tmp_path / "run"
    fails(train_search.main, [*arguments, "--out", str(out)], *words, out=out, capsys=capsys)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["--genotype is missing"]),
        (["--genotype", "dart_v2"], ["unknown published cell", "darts_v2"]),
        (["--genotype", "|nor_conv_3x3~0|"], ["malformed genotype", "nasbench201"]),
        (["--genotype", CELL.replace("3x3", "7x7")], ["unknown operation 'nor_conv_7x7'"]),
        (["--genotype", CELL, "--space", "nasbench201"], ["no edge leads to node 3", "'micro' holds it"]),
        (["--genotype", "darts_v2", "--space", "micro"], ["belongs to the space 'darts'"]),
        (["--genotype", "Genotype(normal=1)"], ["the genotype has no 'normal_concat'"]),
        (["--genotype", CELL, "--drop-path", "0.2"], ["--drop-path", "'micro'"]),
        (["--genotype", CELL, "--optimizer", "sdg"], ["unknown optimizer 'sdg'", "sgd"]),
        (["--genotype", CELL, "--scheduler", "cosin"], ["unknown scheduler", "cosine"]),
        (["--genotype", CELL, "--mixup", "0.2", "--batch-size", "15"], ["must be even"]),
        (["--genotype", CELL, "--auto-augment", "random"], ["--auto-augment is 'random'"]),
        (["--genotype", CELL, "--label-smoothing", "1.5"], ["--label-smoothing is 1.5"]),
        (["--genotype", CELL, "--optimizer", "adahessian"], ["second derivatives"]),
        (["--genotype", "x" * 5000], ["unknown published cell"]),
    ],
)
def test_bad_final_options(arguments, words, tmp_path, capsys):
    out = tmp_path / "run"
    fails(train_final.main, [*arguments, "--out", str(out)], *words, out=out, capsys=capsys)


def test_errors_of_the_library_name_arguments_and_those_of_the_command_line_flags(tmp_path, capsys):
    with pytest.raises(InputError, match=r"give `download`, or `data_root=FOLDER`"):
        data.load("cifar10", data_root=tmp_path)
    arguments = ["--dataset", "cifar10", "--data-root", str(tmp_path)]
    fails(train_search.main, arguments, "give --download, or --data-root FOLDER", capsys=capsys)
    for message, shown in {
        "drop `draw_per=image`, or `order`": "drop --draw-per image, or --order",
        "no `A`, `a b`, `` or `1`": "no `A`, `a b`, `` or `1`",
        "`tau=2 to 3` and `x=`": "--tau 2 to 3 and --x",
    }.items():
        assert command_line.with_flags(message) == shown


@pytest.mark.parametrize("answer", [None, 1])
def test_nothing_to_compile_with(answer, tmp_path, monkeypatch, capsys):
    """A compiler that is missing, or that fails, is named before anything is written."""
    compiler, out = tmp_path / "c++", tmp_path / "run"
    if answer is not None:
        compiler.write_text(f"#!/bin/sh\nexit {answer}\n")
        compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    words = ["needs a C++ compiler", str(compiler)]
    search = ["--space", "micro", "--edge-gradient", "compiled", "--device", "cpu", "--out", str(out)]
    fails(train_search.main, search, "--edge-gradient compiled", *words, out=out, capsys=capsys)
    final = ["--genotype", CELL, "--compile", "--device", "cpu", "--out", str(out)]
    fails(train_final.main, final, "--compile", *words, out=out, capsys=capsys)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", ["malformed genotype"]),
        ("{", ["genotype.json", "Expecting"]),
        ("{}", ["genotype.json", "'space'"]),
        ('{"space": "mcro", "cells": []}', ["unknown search space 'mcro'", "micro"]),
        ('{"space": "micro", "cells": []}', ["genotype.json"]),
        ('{"space": "micro", "cells": [{"name": "x", "edges": [], "concat": []}]}', ["genotype.json"]),
        ('{"space": "darts", "cells": [{"name": "normal", "edges": [], "concat": [2]}]}', ["genotype.json"]),
        ('{"space": "darts", "cells": [{"name": "normal", "edges": [], "concat": []}]}', ["do not fit"]),
    ],
)
def test_bad_genotype_files(content, words, tmp_path, capsys):
    path = tmp_path / "genotype.json"
    path.write_text(content)
    out = tmp_path / "run"
    fails(train_final.main, ["--genotype", str(path), "--out", str(out)], *words, out=out, capsys=capsys)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("not json", ["cannot read the configuration"]),
        ("[]", ["must be a JSON object"]),
        ('{"kind": "final"}', ["not that of a search run"]),
        ('{"epochss": 3}', ["unknown option in", "did you mean epochs"]),
        ('{"epochs": "3"}', ["option 'epochs'", '"3"']),
        ('{"epochs": true}', ["option 'epochs'"]),
        ('{"order": 7}', ["option 'order'"]),
        ('{"epochs": 0}', ["--epochs is 0"]),
    ],
)
def test_bad_configurations(content, words, tmp_path, capsys):
    path = tmp_path / "config.json"
    path.write_text(content)
    fails(train_search.main, ["--config", str(path), "--out", str(tmp_path / "r")], *words, capsys=capsys)


def test_nothing_is_overwritten_unasked(tmp_path, capsys):
    out = tmp_path / "run"
    arguments = [*TINY, "--epochs", "1", "--out", str(out)]
    assert train_search.main(arguments) == 0
    before = (out / "metrics.jsonl").read_text()
    capsys.readouterr()
    fails(train_search.main, arguments, "holds a run already", "--resume", "--overwrite", capsys=capsys)
    assert (out / "metrics.jsonl").read_text() == before
    assert train_search.main([*arguments, "--overwrite", "--seed", "3"]) == 0
    assert (out / "metrics.jsonl").read_text() != before


def test_strangers_folders_are_left_alone(tmp_path, capsys):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("years of work")
    (tmp_path / "file").write_text("x")
    for flag in ([], ["--overwrite"], ["--resume"]):
        arguments = [*TINY, *flag, "--out", str(tmp_path / "thesis")]
        fails(train_search.main, arguments, "not a run folder", capsys=capsys)
    fails(
        train_search.main,
        [*TINY, "--out", str(tmp_path / "file")],
        "cannot be used as a folder",
        capsys=capsys,
    )
    fails(train_search.main, [*TINY, "--out", "x" * 300], "cannot be used as a folder", capsys=capsys)
    assert (tmp_path / "thesis" / "chapter.tex").read_text() == "years of work"
    (tmp_path / "thesis" / "config.json").write_text('{"model_type": "bert"}')
    for flag in ([], ["--overwrite"]):
        arguments = [*TINY, *flag, "--out", str(tmp_path / "thesis")]
        fails(train_search.main, arguments, "not a run folder", capsys=capsys)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--lr", "x"], "--lr is 'x', expected a number"),
        (["--seed", "1.5"], "--seed is '1.5', expected an integer"),
        (["--max-skips", "many"], "--max-skips is 'many', expected None or an integer or auto"),
        (["--epoch", "3"], "unknown option --epoch, perhaps --epochs or --warmup-epochs"),
        (["--nonsense"], "unknown option --nonsense; see --help"),
        (["--nonsense", "4", "--epochs", "2"], "unknown option --nonsense; see --help"),
        (["--precision", "half"], "invalid choice 'half' for argument '--precision'"),
        (["--val-fraction"], "Missing value for argument '--val-fraction'"),
    ],
)
def test_the_parser_speaks_plainly(words, says, capsys):
    assert train_search.main(words) == 2
    assert capsys.readouterr().err.startswith(f"error: {says}")


def test_a_genotype_file_that_is_missing_is_said_to_be(capsys):
    assert train_final.main(["--genotype", "runs/c10/genotype.json"]) == 2
    assert "the genotype file 'runs/c10/genotype.json' does not exist" in capsys.readouterr().err


def test_options_of_the_searches_of_a_grid_have_their_place(capsys):
    assert ablate.main(["nas", "--epochs", "2"]) == 2
    said = "unknown option --epochs; see --help; options of the searches go into --search '--epochs ...'"
    assert said in capsys.readouterr().err
    assert ablate.main(["nas", "--methods", "st,draw=4"]) == 2
    assert "in the searches of 'st,draw=4': unknown option --draw, perhaps" in capsys.readouterr().err


def test_overwriting_deletes_what_a_run_wrote_and_nothing_else(tmp_path):
    out = tmp_path / "run"
    arguments = ["--space", "micro", "--channels", "4", "--train-limit", "160", "--batch-size", "16"]
    arguments += ["--epochs", "1", "--out", str(out)]
    assert train_search.main(arguments) == 0
    (out / "notes.txt").write_text("mine")
    (out / "tensorboard" / "old").write_text("")
    assert train_search.main([*arguments, "--overwrite"]) == 0
    assert (out / "notes.txt").read_text() == "mine"
    assert not (out / "tensorboard" / "old").exists()


@pytest.fixture
def interrupted(tmp_path, monkeypatch, capsys):
    """Folder of a search that was killed after its first of two epochs."""
    from nas.runs.run_folder import RunFolder

    original = RunFolder.save_checkpoint

    def save(self, epoch, *rest):
        original(self, epoch, *rest)
        if epoch == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(RunFolder, "save_checkpoint", save)
    assert train_search.main([*TINY, "--epochs", "2", "--out", str(tmp_path / "run")]) == 130
    monkeypatch.setattr(RunFolder, "save_checkpoint", original)
    assert capsys.readouterr().err.startswith("interrupted: continue")
    return tmp_path / "run"


def test_resuming_another_configuration_is_refused(interrupted, capsys):
    resume = ["--resume", "--out", str(interrupted)]
    fails(
        train_search.main,
        [*resume, "--epochs", "9"],
        "another configuration",
        "--epochs was 2, now 9",
        capsys=capsys,
    )
    fails(train_search.main, [*resume, "--estimator", "st"], "--estimator was reinmax, now st", capsys=capsys)
    fails(train_search.main, [*resume, "--preset", "darts-first-order"], "--preset was None", capsys=capsys)
    assert train_search.main([*resume, "--epochs", "2"]) == 0


def test_resuming_nothing_is_refused(tmp_path, capsys):
    out = tmp_path / "typo"
    fails(train_search.main, [*TINY, "--resume", "--out", str(out)], "no run in", out=out, capsys=capsys)


def test_resuming_with_other_data_is_refused(interrupted, capsys):
    splits = json.loads((interrupted / "splits.json").read_text())
    splits["train"][0] += 1
    (interrupted / "splits.json").write_text(json.dumps(splits, indent=2) + "\n")
    fails(train_search.main, ["--resume", "--out", str(interrupted)], "no longer matches", capsys=capsys)


def test_a_finished_run_without_its_report_gets_it(tmp_path):
    out = tmp_path / "run"
    assert train_search.main([*TINY, "--epochs", "1", "--out", str(out)]) == 0
    (out / "report.html").unlink()
    assert train_search.main(["--resume", "--out", str(out)]) == 0
    assert (out / "report.html").exists()


@pytest.mark.parametrize(
    "damage", ["truncated", "flipped", "empty", "text", "other format", "no state", "format 1"]
)
def test_damaged_checkpoints_are_named(interrupted, damage, capsys):
    path = interrupted / "checkpoint.pt"
    content = path.read_bytes()
    if damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "flipped":
        path.write_bytes(content[:200] + bytes(b ^ 255 for b in content[200:400]) + content[400:])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "text":
        path.write_text("hello")
    elif damage == "no state":
        checkpoint.save(interrupted, {"epoch": 1})
    elif damage == "other format":
        path.write_bytes(content.replace(b'{"format": 3,', b'{"format": 4,'))
    else:
        torch.save({"format": 1, "epoch": 1, "state": {}}, path)
    (interrupted / checkpoint.PREVIOUS).unlink(missing_ok=True)
    damaged = path.read_bytes()
    before = (interrupted / "metrics.jsonl").read_text()
    fails(train_search.main, ["--resume", "--out", str(interrupted)], "no checkpoint", capsys=capsys)
    assert (interrupted / "metrics.jsonl").read_text() == before
    assert path.read_bytes() == damaged


@pytest.mark.parametrize("damage", ["weight missing", "logits missing", "other logits", "other estimator"])
def test_checkpoint_of_another_network_does_not_fit(interrupted, damage, capsys):
    path = interrupted / "checkpoint.pt"
    data = torch.load(path, weights_only=True)
    if damage == "weight missing":
        data["state"]["supernet"].pop(next(iter(data["state"]["supernet"])))
    elif damage == "logits missing":
        del data["state"]["logits"]
    elif damage == "other logits":
        data["state"]["logits"] = torch.zeros(6, 5)
    else:
        data["state"]["estimator"] = {"baseline": 1.0}
    checkpoint.save(interrupted, data)
    fails(train_search.main, ["--resume", "--out", str(interrupted)], "does not fit", capsys=capsys)


def test_a_checkpoint_executes_nothing(interrupted, capsys, tmp_path, monkeypatch):
    class Evil:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "owned"),))

    monkeypatch.setattr(checkpoint, "_require_plain", lambda *arguments: None)  # somebody else has written it
    checkpoint.save(interrupted, dict.fromkeys(checkpoint.PARTS, Evil()))  # with a checksum that is right
    (interrupted / checkpoint.PREVIOUS).unlink()
    fails(train_search.main, ["--resume", "--out", str(interrupted)], "damaged", capsys=capsys)
    assert not (tmp_path / "owned").exists()


def test_infinite_loss_ends_the_run_and_keeps_the_checkpoint(tmp_path, capsys):
    out = tmp_path / "run"
    arguments = [
        *TINY,
        "--epochs",
        "30",
        "--lr",
        "1e30",
        "--clip",
        "0",
        "--weight-decay",
        "1",
        "--out",
        str(out),
    ]
    fails(train_search.main, arguments, "not finite", "--lr", capsys=capsys)
    assert not (out / "result.json").exists()


def test_unwritable_folder(tmp_path, capsys):
    (tmp_path / "file").write_text("x")
    arguments = [*TINY, "--out", str(tmp_path / "file" / "run")]
    fails(train_search.main, arguments, "file", capsys=capsys)


def test_loading_something_else(tmp_path):
    import nas

    for content in (b"", b"hello", b"\x08\x00\x00\x00\x00\x00\x00\x00{}      "):
        (tmp_path / "m.safetensors").write_bytes(content)
        with pytest.raises(InputError, match="cannot load the network"):
            nas.load(tmp_path / "m.safetensors")
    with pytest.raises(InputError, match="cannot load the network"):
        nas.load(tmp_path / "missing.safetensors")


def test_presets_are_valid_and_can_be_overridden():
    for kind, recipes in ((SearchOptions, presets.SEARCH), (FinalOptions, presets.FINAL)):
        for name in recipes:
            shorter = ["--warmup-epochs", "5"] if recipes[name].get("warmup_epochs", 0) >= 6 else []
            options = command_line.parse(kind, ["--preset", name, "--epochs", "6", "--lr", "0.5", *shorter])
            assert (options.epochs, options.lr, options.preset) == (6, 0.5, name)
    gdas = command_line.parse(SearchOptions, ["--preset", "nasbench201-gdas"])
    assert (gdas.epochs, gdas.batch_size, gdas.lr, gdas.lr_min) == (250, 64, 0.025, 0.001)
    assert (gdas.momentum, gdas.weight_decay, gdas.arch_lr, gdas.arch_weight_decay) == (0.9, 5e-4, 3e-4, 1e-3)


def run_script(*arguments, **options):
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        env=run_environment(),
        check=False,
        **options,
    )


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ([str(ROOT / "train_search.py"), "--help"], 0, ""),
        ([str(ROOT / "ablate.py"), "--help"], 0, ""),
        ([str(ROOT / "train_search.py"), *TINY, "--epochs", "1"], 2, "error: the run in runs/"),
        (["-m", "nas", "presets"], 141, "interrupted: nobody reads the output"),
    ],
)
def test_output_that_nobody_reads(words, code, says, tmp_path):
    """As in `train_search.py --help | head -1`, whose pipe is closed."""
    reads, writes = os.pipe()
    os.close(reads)
    done = subprocess.run(
        [sys.executable, *words], cwd=tmp_path, env=run_environment(),
        stdout=writes, stderr=subprocess.PIPE, text=True, timeout=280,
    )  # fmt: skip
    os.close(writes)
    assert done.returncode == code, done.stderr
    assert done.stderr.startswith(says)
    assert len(done.stderr.splitlines()) == bool(says)


def test_scripts_as_a_user_runs_them(tmp_path):
    """The real processes: help, one bad option, one good run that is quiet without a terminal."""
    for script in ("train_search.py", "train_final.py"):
        shown = run_script(str(ROOT / script), "--help")
        assert shown.returncode == 0
        for option in (
            "--space",
            "--dataset",
            "--epochs",
            "--batch-size",
            "--seed",
            "--out",
            "--resume",
            "--overwrite",
        ):
            assert option in shown.stdout
        bad = run_script(str(ROOT / script), "--epochs", "0")
        assert (bad.returncode, bad.stdout) == (2, "")
        assert bad.stderr.startswith("error: ")
        assert "Traceback" not in bad.stderr
    good = run_script(str(ROOT / "train_search.py"), *TINY, "--epochs", "1", cwd=tmp_path)
    assert good.returncode == 0, good.stderr
    assert good.stderr == ""
    assert good.stdout.startswith("data: digits: 159 training and 359 test images")
    assert "\nfound |" in good.stdout
    out = tmp_path / "runs" / "search-micro-reinmax-digits-s0"
    assert json.loads((out / "config.json").read_text())["out"].endswith("digits-s0")


def test_help_imports_nothing_heavy():
    code = "import sys, recipes.command_line, train_search, train_final; print('torch' in sys.modules)"
    assert run_script("-c", code).stdout == "False\n"


def test_the_demo_runs(tmp_path):
    arguments = [
        "-m",
        "nas.demo",
        "--space",
        "micro",
        "--random",
        "2",
        "--epochs",
        "1",
        "--out",
        str(tmp_path / "d"),
    ]
    shown = run_script(*arguments)
    assert shown.returncode == 0, shown.stderr
    assert "test accuracy" in shown.stdout
    assert "(2 cells, same training)" in shown.stdout
    result = json.loads((tmp_path / "d" / "final" / "result.json").read_text())
    assert len(result["baseline"]["random_accuracies"]) == 2
    largest = json.loads((tmp_path / "d" / "largest" / "result.json").read_text())
    assert set(re.findall(r"(\w+)~", largest["genotype"])) == {"nor_conv_3x3"}
    assert result["baseline"]["largest_accuracy"] == largest["test_accuracy"]
    assert f"largest cell   {largest['test_accuracy']:.2f} %" in shown.stdout


def test_every_estimator_fits_every_search_preset():
    """A preset brings no temperature or gradient along that would spoil another estimator."""
    import estimators
    from nas.bilevel import parts

    for preset in presets.SEARCH:
        for name in estimators.names():
            options = command_line.parse(SearchOptions, ["--preset", preset, "--estimator", name])
            assert options.edge_gradient == "lean"
            if options.order == 1:
                estimator = estimators.get(options.estimator)
                parts.temperature(options, estimator)
                parts.check(options, estimator)
