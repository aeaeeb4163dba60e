"""A search and a training as functions: what a notebook does."""

import copy
import json
import math
import os
import pickle
import random
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, run_environment
from torch import nn

import estimators
import nas
import search_spaces
import train_search
from estimators import Schedule
from estimators.base import categorical
from nas.bilevel.policies import UniformPolicy
from nas.bilevel.rules.names import RULES
from nas.bilevel.rules.rule import Rule
from nas.bilevel.rules.sample import Sample
from nas.bilevel.terms import Entropy
from nas.runs import checkpoint
from nas.task import Classification, balanced_weights
from nas.training.average import Average
from recipes import InputError

SMALL = {"channels": 4, "train_limit": 160, "batch_size": 16, "tensorboard": False}
WORDS = ["--channels", "4", "--train-limit", "160", "--batch-size", "16", "--no-tensorboard"]


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_search_in_memory_is_the_search_of_the_entry_point(tmp_path):
    result = nas.search(space="micro", data="digits", estimator="st", epochs=3, seed=2, **SMALL)
    words = ["--space", "micro", "--estimator", "st", "--epochs", "3", "--seed", "2"]
    assert train_search.main([*WORDS, *words, "--out", str(tmp_path / "run")]) == 0
    assert result.history == lines(tmp_path / "run")
    assert str(result) == json.loads((tmp_path / "run" / "genotype.json").read_text())["text"]
    assert [p.name for p in tmp_path.iterdir()] == ["run"]  # nothing else was written
    assert result.stopped is None
    assert result.logits.shape == result.log_probabilities().shape == (3, 5)
    torch.testing.assert_close(result.log_probabilities().exp().sum(-1), torch.ones(3))
    assert result.space.discretise(result.log_probabilities()) == result.genotype
    output = result.supernet(torch.randn(4, 1, 8, 8), [1, 2, 3])
    assert output.shape == (4, 10)
    assert result.summary["derived_accuracy"] == result.score(result.genotype)[1]
    assert result.select("sample:4").space == "micro"


def test_names_and_objects_are_the_same(tmp_path):
    names = nas.search(
        space="micro", data="digits", estimator="gumbel_rao:samples=10", terms=["entropy:weight=0:0.5"],
        policy="uniform", derive="sample:6", epochs=3, **SMALL,
    )  # fmt: skip
    objects = nas.search(
        space=search_spaces.get("micro"), data=nas.data.load("digits"),
        estimator=estimators.get("gumbel_rao:samples=10"),
        terms=[Entropy(Schedule(0.0, 0.5))], policy=UniformPolicy(), derive=Sample(6), epochs=3, **SMALL,
    )  # fmt: skip
    assert names.history == objects.history
    assert names.genotype == objects.genotype
    assert names.summary["considered"] == objects.summary["considered"]
    assert objects.options.terms == ("entropy",)
    assert objects.options.dataset == "digits"


def test_a_result_can_be_saved_as_the_run_folder_that_the_entry_point_leaves(tmp_path):
    result = nas.search(space="micro", epochs=2, **SMALL)
    result.save(tmp_path / "saved")
    arguments = ["--space", "micro", "--epochs", "2"]
    assert train_search.main([*WORDS, *arguments, "--out", str(tmp_path / "run")]) == 0
    assert {p.name for p in (tmp_path / "saved").iterdir()} >= {
        "checkpoint.pt", "config.json", "genotype.json", "metrics.jsonl", "report.html", "result.json",
        "splits.json", "cell.svg", "environment.json", "timings.jsonl",
    }  # fmt: skip
    for name in ("metrics.jsonl", "genotype.json", "splits.json"):
        assert (tmp_path / "saved" / name).read_bytes() == (tmp_path / "run" / name).read_bytes()
    states = [checkpoint.read(tmp_path / f / checkpoint.NEWEST) for f in ("saved", "run")]
    assert torch.equal(states[0]["state"]["logits"], states[1]["state"]["logits"])
    assert train_search.main(["--resume", "--out", str(tmp_path / "saved")]) == 0  # finished
    with pytest.raises(InputError, match="holds a run already"):
        result.save(tmp_path / "saved")


def test_a_callback_sees_every_epoch_and_stops_the_run_as_a_signal_does(tmp_path):
    seen = []
    whole = nas.search(space="micro", epochs=4, callback=lambda m: seen.append(m["epoch"]), **SMALL)
    assert seen == [1, 2, 3, 4]
    out = tmp_path / "stopped"
    stopped = nas.search(space="micro", epochs=4, callback=lambda m: m["epoch"] == 2, out=out, **SMALL)
    assert "saved after epoch 2" in stopped.stopped
    assert stopped.history == whole.history[:2]
    assert stopped.genotype.space == "micro"

    asked = tmp_path / "asked"
    nas.search(
        space="micro", epochs=4, out=asked, **SMALL,
        callback=lambda m: os.kill(os.getpid(), signal.SIGTERM) if m["epoch"] == 2 else None,
    )  # fmt: skip
    a, b = (checkpoint.read(f / checkpoint.NEWEST) for f in (out, asked))
    assert (a["epoch"], a["step"]) == (b["epoch"], b["step"]) == (2, 0)
    assert torch.equal(a["state"]["logits"], b["state"]["logits"])
    for name, tensor in a["state"]["supernet"].items():
        assert torch.equal(tensor, b["state"]["supernet"][name])

    resumed = nas.search(space="micro", epochs=4, out=out, resume=True, **SMALL)
    assert resumed.stopped is None
    assert resumed.history == whole.history
    again = nas.search(out=out, resume=True)  # finished: nothing is done
    assert (again.genotype, again.history) == (whole.genotype, whole.history)
    assert again.summary["derived_accuracy"] == whole.summary["derived_accuracy"]


def test_the_last_epoch_is_evaluated_where_a_search_ends_early():
    decided = {"stop_entropy": 10.0, "evaluate_every": 9, "warmup_epochs": 1}
    history = nas.search(space="micro", epochs=4, **decided, **SMALL).history
    assert [line["derived_accuracy"] is None for line in history] == [True, False]


@pytest.mark.parametrize("failing", ["environment.json", "checkpoint.pt", "result.json", "report.html"])
def test_a_result_that_cannot_be_saved_leaves_nothing_and_can_be_saved_again(failing, tmp_path, monkeypatch):
    result = nas.search(space="micro", epochs=1, keep_weights_every=1, **SMALL)
    replace_file = os.replace

    def fail(source, target):
        if Path(target).name == failing:
            raise OSError(28, "No space left on device")
        replace_file(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", fail)
        with pytest.raises(InputError, match=r"cannot write the run folder .*saved: .*No space left"):
            result.save(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()
    assert (result.save(tmp_path / "saved") / "report.html").exists()


def test_a_stopped_search_in_memory_can_be_saved_and_continued(tmp_path):
    whole = nas.search(space="micro", epochs=4, **SMALL)
    stopped = nas.search(space="micro", epochs=4, callback=lambda m: m["epoch"] == 3, **SMALL)
    stopped.save(tmp_path / "run")
    assert train_search.main(["--resume", "--out", str(tmp_path / "run")]) == 0
    assert lines(tmp_path / "run") == whole.history


def test_training_as_a_function(tmp_path):
    cell = "|nor_conv_3x3~0|+|nor_conv_3x3~0|skip_connect~1|"
    trained = nas.train(cell, data="digits", epochs=2, **SMALL)
    assert trained.accuracy == trained.history[-1]["test_accuracy"]
    assert trained.model(torch.randn(3, 1, 8, 8)).shape == (3, 10)
    assert not trained.model.training
    trained.save_model(tmp_path / "m.safetensors")
    loaded = nas.load(tmp_path / "m.safetensors")
    x = torch.randn(3, 1, 8, 8)
    torch.testing.assert_close(loaded(x), trained.model(x))  # in another memory order
    assert loaded.description["test_accuracy"] == trained.accuracy
    genotype = search_spaces.get("micro").parse(cell)
    assert nas.train(genotype, data="digits", epochs=2, **SMALL).history == trained.history
    trained.save(tmp_path / "run")
    assert nas.load(tmp_path / "run").description == loaded.description


def shapes(count=120, channels=2, seed=0):
    """Images of one or two bars, a class each, with several channels."""
    rng = np.random.default_rng(seed)
    images = rng.normal(0.4, 0.05, (count, channels, 12, 12))
    labels = np.arange(count) % 2
    images[labels == 1, :, 4:6] += 0.4
    return images.clip(0, 1).astype(np.float32), labels


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_images_of_any_channels_in_memory(channels, tmp_path):
    images, labels = shapes(channels=channels)
    sizes = {"channels": 4, "batch_size": 16, "tensorboard": False}
    found = nas.search(space="micro", data=(images, labels), epochs=2, out=tmp_path / "s", **sizes)
    found = pickle.loads(pickle.dumps(found))
    assert repr(found) == f"<SearchResult of 2 epochs: {found}>"
    trained = nas.train(found.genotype, data=(torch.tensor(images), torch.tensor(labels)), epochs=6, **sizes)
    assert trained.accuracy > 90
    assert trained.model(torch.randn(2, channels, 12, 12)).shape == (2, 2)
    # No name leads to the images: such a run is continued where they are.
    config = json.loads((tmp_path / "s" / "config.json").read_text())
    assert config["objects"] == ["dataset"]
    (tmp_path / "s" / "result.json").unlink()
    with pytest.raises(InputError, match="`dataset` as a Python object"):
        nas.search(out=tmp_path / "s", resume=True)
    with pytest.raises(InputError, match=r"data.json no longer matches the data"):
        nas.search(data=(images[:, :, ::-1], labels), out=tmp_path / "s", resume=True)
    again = nas.search(data=(images, labels), out=tmp_path / "s", resume=True)
    assert again.genotype == found.genotype


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"space": "mikro"}, "unknown search space 'mikro'.*did you mean micro"),
        ({"epochz": 3}, "unknown option 'epochz'.*did you mean epochs"),
        ({"epochs": "3"}, "`epochs` is '3', expected an integer"),
        ({"epochs": 0}, "`epochs` is 0, expected a number of at least 1"),
        ({"precision": "float16"}, "`precision` is 'float16', expected 'auto' or 'float32' or 'bfloat16'"),
        ({"resume": True}, "`resume` needs `out`"),
        ({"tau": "x"}, "`tau` is 'x', expected a number or START:END"),
        ({"terms": ["entropie"]}, "unknown term 'entropie'"),
        ({"terms": ["entropy:weight=x"]}, "weight is 'x', expected START:END or a number"),
        ({"policy": "uniforn"}, "unknown policy"),
        ({"derive": "sample:0"}, "count is 0, expected 1 to"),
        ({"estimator": "gumbel_rao:sample=3"}, "unknown setting 'sample'"),
        (
            {"estimator": "softmax", "draw_per": "image"},
            "`estimator=softmax`, which draws nothing, does not go",
        ),
        ({"task": Classification(10), "label_smoothing": 0.1}, "are those of a `task`"),
        ({"data": "folder:nowhere"}, "does not exist"),
    ],
)
def test_bad_arguments_end_in_one_line_that_speaks_of_arguments(arguments, message):
    with pytest.raises(InputError, match=message) as caught:
        nas.search(**{"space": "micro", "epochs": 1} | arguments)
    assert "--" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_numbers_and_devices_are_taken_for_their_texts():
    given = {"auxiliary_skip": 1.0, "skip_dropout": 0, "channels_in": 3, "device": torch.device("cpu")}
    options = nas.search(space="micro", epochs=1, **SMALL, **given).options
    assert [getattr(options, name) for name in given] == ["1.0", "0", "3", "cpu"]


def test_the_command_line_speaks_of_its_options(capsys):
    assert train_search.main(["--space", "micro", "--estimator", "softmax", "--draw-per", "image"]) == 2
    error = capsys.readouterr().err
    assert "--estimator softmax, which draws nothing, does not go with --draw-per image" in error
    assert "`" not in error
    assert train_search.main(["--epochs", "0"]) == 2
    assert "--epochs is 0" in capsys.readouterr().err


def test_a_run_leaves_the_process_as_it_was():
    torch.manual_seed(5)
    random.seed(5)
    np.random.seed(5)
    wanted = torch.rand(2), random.random(), np.random.rand()
    torch.manual_seed(5)
    random.seed(5)
    np.random.seed(5)
    hook, handler = threading.excepthook, signal.getsignal(signal.SIGINT)
    nas.search(space="micro", epochs=1, deterministic=True, threads=1, **SMALL | {"tensorboard": True})
    assert torch.equal(torch.rand(2), wanted[0])
    assert (random.random(), np.random.rand()) == wanted[1:]
    assert not torch.are_deterministic_algorithms_enabled()
    assert threading.excepthook is hook
    assert signal.getsignal(signal.SIGINT) is handler


def test_threads_search_one_after_another():
    began, histories = threading.Event(), []

    def search(announce=None, callback=None):
        found = nas.search(space="micro", epochs=2, announce=announce, callback=callback, **SMALL)
        histories.append(found.history)

    other = threading.Thread(target=search, args=(lambda line: began.set(),))

    def while_one_runs(metrics):
        if metrics["epoch"] == 1:
            other.start()
            assert not began.wait(1)

    search(callback=while_one_runs)
    other.join()
    assert began.is_set()
    assert histories[0] == histories[1]


def test_modes_and_types_around_a_run_are_not_its_own(tmp_path):
    wanted = nas.search(space="micro", epochs=1, **SMALL)
    try:
        torch.set_default_dtype(torch.float64)
        with torch.inference_mode():
            result = nas.search(space="micro", epochs=1, **SMALL)
            assert result.select("perturbation:1") == wanted.select("perturbation:1")
            assert torch.is_inference_mode_enabled()
        with torch.no_grad():
            trained = nas.train(result.genotype, epochs=1, **SMALL)
        trained.save_model(tmp_path / "m.safetensors")
        assert next(nas.load(tmp_path / "m.safetensors").parameters()).dtype == torch.float32
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert result.history == wanted.history
    assert trained.accuracy == nas.train(wanted.genotype, epochs=1, **SMALL).accuracy


def test_importing_changes_nothing_of_others():
    program = (
        "import logging, threading, torch\nbefore = threading.excepthook, "
        "torch.are_deterministic_algorithms_enabled()\nimport timm.scheduler\nlevel = "
        "logging.getLogger('timm.scheduler').level\nimport nas, nas.report.tensorboard, nas.bilevel.search, "
        "nas.training.final\nassert before == (threading.excepthook, "
        "torch.are_deterministic_algorithms_enabled())\nassert logging.getLogger('timm.scheduler').level == "
        "level\n"
    )
    # timm needs torchvision, which nas prepares: so it comes first where that is needed.
    program = "import nas.compat\n" + program
    done = subprocess.run([sys.executable, "-c", program], env=run_environment(), cwd=ROOT)
    assert done.returncode == 0


# Rules that take their time


class Tuned(Rule):
    """Tries single operations in turn, training the supernet between two looks, and remembers the best."""

    name = "tuned_for_test"

    def __init__(self) -> None:
        self.losses = []

    def pieces(self, search):
        return 6

    def candidates(self, search):
        return [search.space.random(random.Random(seed)) for seed in range(6)]

    def select(self, search):
        for i, genotype in enumerate(self.candidates(search)[len(self.losses) :], len(self.losses)):
            for batch in search.train.epoch(1000 + i):
                search.bilevel.weight_step(batch, torch.Generator().manual_seed(i))
            self.losses.append(search.score(genotype)[0])
            yield

    def selected(self, search):
        return self.candidates(search)[int(np.argmin(self.losses))]

    def state(self):
        return {"losses": self.losses}

    def restore(self, state):
        self.losses = list(state["losses"])


def test_a_rule_trains_is_interrupted_and_goes_on_where_it_was(tmp_path):
    first = nas.search(space="micro", epochs=2, derive=Tuned(), **SMALL)
    losses = first.search.rule.losses
    assert len(losses) == len(set(losses)) == 6

    class Stopped(Tuned):
        def select(self, search):
            for count, _ in enumerate(super().select(search), 1):
                if count == 3:
                    os.kill(os.getpid(), signal.SIGTERM)
                yield

    out = tmp_path / "run"
    stopped = nas.search(space="micro", epochs=2, derive=Stopped(), out=out, **SMALL)
    assert "saved while selecting" in stopped.stopped
    assert not (out / "result.json").exists()
    second = nas.search(derive=Tuned(), out=out, resume=True)
    assert second.search.rule.losses == losses
    assert second.genotype == first.genotype
    again = nas.search(derive=Tuned(), out=out, resume=True)  # finished: the work is not done again
    assert again.search.rule.losses == losses
    assert again.genotype == first.genotype


def test_sampled_rules_say_what_they_looked_at():
    result = nas.search(space="micro", epochs=2, derive="sample:12", **SMALL)
    rows = result.summary["considered"]
    assert 2 < len(rows) <= 12
    assert max(row["accuracy"] for row in rows) == result.summary["derived_accuracy"]
    assert {"argmax", "ascent", "halving", "sample"} <= set(RULES.names())


# The task


def test_class_weights_and_smoothing_reach_both_phases():
    output, labels = torch.randn(6, 3), torch.tensor([0, 0, 0, 0, 1, 2])
    weights = balanced_weights(labels, 3)
    torch.testing.assert_close(weights, torch.tensor([0.5, 2.0, 2.0]))
    task = Classification(3, 0.1, weights)
    log_p = output.log_softmax(-1)
    smooth = 0.9 * torch.nn.functional.one_hot(labels, 3) + 0.1 / 3
    each = -(smooth * weights * log_p).sum(-1)
    torch.testing.assert_close(task.loss(output, labels), each.mean())
    torch.testing.assert_close(task.loss(output, labels, "none"), each)
    torch.testing.assert_close(task.plain_loss(output, labels), -log_p[range(6), labels].mean())

    seen = []

    class Spy(Classification):
        def loss(self, output, target, reduction="mean"):
            seen.append(reduction)
            return super().loss(output, target, reduction)

    nas.search(space="micro", epochs=2, task=Spy(10), **SMALL)
    steps, seen = len(seen), []
    assert steps == 1 + 4 * 2 + 4  # it is looked at; weight steps of two epochs, architecture steps of one
    for option in ({"class_weights": "balanced"}, {"label_smoothing": 0.2}):
        plain = nas.search(space="micro", epochs=1, **SMALL)
        changed = nas.search(space="micro", epochs=1, **SMALL, **option)
        assert changed.history[0]["train_loss"] != plain.history[0]["train_loss"]
        trained = nas.train(plain.genotype, epochs=1, **SMALL)
        other = nas.train(plain.genotype, epochs=1, **SMALL, **option)
        assert trained.history[0]["train_loss"] != other.history[0]["train_loss"]


def test_bfloat16_runs_leave_no_autocast_behind():
    nas.search(space="micro", epochs=2, precision="bfloat16", order=2, measure_every=2, **SMALL)
    assert not torch.is_autocast_enabled("cpu")
    trained = nas.train("|none~0|+|nor_conv_3x3~0|skip_connect~1|", epochs=1, precision="bfloat16", **SMALL)
    assert not torch.is_autocast_enabled("cpu")
    assert trained.accuracy is not None
    assert not math.isnan(trained.history[0]["train_loss"])


def test_a_bar_is_shown_in_a_notebook_though_it_is_no_terminal(monkeypatch):
    from types import SimpleNamespace

    from nas.runs.progress import progress_bar

    with progress_bar(3, 0, None) as bar:
        assert bar.disable  # the tests have no terminal
    shell = SimpleNamespace(config={"IPKernelApp": {}})
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    with progress_bar(3, 1, None) as bar:  # in words, where there are no widgets
        assert not bar.disable
        assert (bar.n, bar.total) == (1, 3)
    with progress_bar(3, 1, False) as bar:
        assert bar.disable


# Objects


class Focal(Classification):
    """A loss that looks away from what is easy."""

    def loss(self, output, target, reduction="mean"):
        p = output.softmax(1).gather(1, target[:, None])[:, 0]
        each = -((1 - p) ** 2) * p.log()
        return each.mean() if reduction == "mean" else each


def test_a_run_with_objects_is_continued_with_them_and_not_without(tmp_path, capsys):
    given = {"task": Focal(10), "estimator": estimators.get("gumbel_rao:samples=3")}
    given |= {"terms": [Entropy(Schedule(5.0, 5.0)), "beta_decay"], "derive": Sample(4)}
    whole = nas.search(space="micro", epochs=4, **given, **SMALL)
    stop = {"callback": lambda metrics: np.bool_(metrics["epoch"] == 2)}
    nas.search(space="micro", epochs=4, **given, **stop, **SMALL).save(tmp_path / "saved")
    nas.search(space="micro", epochs=4, **given, **stop, **SMALL, out=tmp_path / "written")
    for folder in (tmp_path / "saved", tmp_path / "written"):
        config = json.loads((folder / "config.json").read_text())
        assert config["objects"] == ["derive", "estimator", "task", "terms"]
        assert config["terms"] == ["entropy", "beta_decay"]
        assert train_search.main(["--resume", "--out", str(folder)]) == 2
        assert "as a Python object" in capsys.readouterr().err
        with pytest.raises(InputError, match="`task` as a Python object"):
            nas.search(**{k: v for k, v in given.items() if k != "task"}, out=folder, resume=True)
        with pytest.raises(InputError, match="`estimator` was gumbel_rao, now st"):
            nas.search(**given | {"estimator": estimators.get("st")}, out=folder, resume=True)
        resumed = nas.search(**given, out=folder, resume=True)
        assert resumed.history == whole.history
        assert resumed.genotype == whole.genotype


def test_an_object_cannot_take_the_place_of_a_name_on_resume(tmp_path):
    out = tmp_path / "run"
    nas.search(space="micro", epochs=4, out=out, callback=lambda m: m["epoch"] == 2, **SMALL)
    with pytest.raises(InputError, match="begun with a name for `terms`"):
        nas.search(terms=[Entropy()], out=out, resume=True)


@pytest.mark.parametrize(("tau", "last"), [(None, 0.1), (10.0, 10), (3.0, 3)])
def test_a_temperature_that_was_asked_for_is_kept(tau, last):
    found = nas.search(space="micro", epochs=2, estimator=estimators.get("st_gumbel", tau), **SMALL)
    assert found.history[-1]["tau"] == last


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({}, "`derive=argmax`"),
        ({"derive": "sample:3", "shrink": "probability"}, "`shrink=probability`"),
        ({"derive": "sample:3", "stop_entropy": 0.5}, "`stop_entropy`"),
        ({"derive": "sample:3", "terms": ["entropy"]}, "the term 'entropy'"),
        ({"derive": "sample:3", "space": "nasbench201", "edge_normalisation": True}, "`edge_normalisation`"),
    ],
)
def test_without_architecture_steps_nothing_goes_by_them(options, what):
    given = {"space": "micro", "epochs": 1, "warmup_epochs": 1} | SMALL | options
    with pytest.raises(InputError, match=f"{re.escape(what)} goes by architecture steps"):
        nas.search(**given)
    found = nas.search("micro", epochs=1, warmup_epochs=1, derive="sample:3", **SMALL)
    assert found.history[0]["valid_loss"] is None


def test_what_an_object_remembers_of_one_search_is_not_for_the_next():
    given = {"estimator": estimators.get("st_gumbel"), "derive": Sample(3), "terms": [Entropy()]}
    runs = [nas.search(space="micro", epochs=3, seed=seed, **given, **SMALL) for seed in (0, 1, 0)]
    assert runs[0].history == runs[2].history
    assert runs[0].summary["considered"] == runs[2].summary["considered"] != runs[1].summary["considered"]
    assert given["estimator"].tau == 10
    baseline = estimators.get("reinforce")
    runs = [nas.search(space="micro", epochs=3, estimator=baseline, **SMALL) for _ in range(2)]
    assert torch.equal(runs[0].logits, runs[1].logits)
    rule = Sample(3)
    assert runs[0].select(rule) == runs[0].select(rule) == runs[0].select("sample:3")


class Careless(Sample):
    """Keeps what a checkpoint cannot hold."""

    def state(self):
        return {"accuracies": [np.float64(a) for a in self.accuracies]}


def test_a_state_that_could_not_be_read_back_is_refused_when_it_is_written(tmp_path):
    with pytest.raises(InputError, match=r"holds a float64 at .*'rule'.*'accuracies'"):
        nas.search(space="micro", epochs=1, derive=Careless(3), out=tmp_path / "run", **SMALL)


def test_a_finished_run_without_its_checkpoints_says_so(tmp_path):
    out = tmp_path / "run"
    nas.search(space="micro", epochs=1, out=out, **SMALL)
    for path in out.glob("checkpoint*"):
        path.unlink()
    with pytest.raises(InputError, match="holds a result but no checkpoint"):
        nas.search(out=out, resume=True)


def test_there_is_nothing_to_stop_after_the_last_epoch():
    result = nas.search(
        space="micro", epochs=2, callback=lambda metrics: 1 if metrics["epoch"] == 2 else 0, **SMALL
    )
    assert result.stopped is None
    assert result.summary["genotype"] == str(result)


def test_looking_at_a_result_leaves_the_generators_alone():
    result = nas.search(space="micro", epochs=1, **SMALL)
    drawn = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        result.score(result.genotype)
        result.select("sample:2")
        drawn.append(float(torch.rand(1)))
    assert drawn[0] != drawn[1]


class Sum(Entropy):
    name = "sum"

    def __init__(self, shape):
        self.shape = shape

    def of_logits(self, logits, progress):
        return None

    def of_draw(self, draw, progress):
        return {"all": draw.sum(), "rows": draw.sum(-1), "number": 0.5}[self.shape]


class Wrong(Focal):
    """A task with something else in place of what it has."""

    def __init__(self, **given):
        super().__init__(10)
        vars(self).update(given)


class NoGradient(estimators.Estimator):
    name = "own"

    def sample(self, logits, generator):
        return categorical(logits.detach(), generator)


class NoAdvantages(NoGradient):
    signal = "loss"


class OddPolicy(UniformPolicy):
    def __init__(self, paths):
        self.odd = paths

    def paths(self, architecture, generator, step, progress):
        return self.odd


class OddRule(Rule):
    name = "odd"

    def select(self, search):
        yield from ()

    def selected(self, search):
        return "|skip_connect~0|"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"estimator": 5}, "`estimator` is '5', expected a name or an object of a subclass of Estimator"),
        (
            {"estimator": estimators.family("st")},
            "`estimator` is the class StraightThrough, expected an object",
        ),
        ({"terms": [Entropy]}, "`terms` is the class Entropy"),
        ({"terms": [5]}, "`terms` is '5', expected a name or"),
        ({"terms": "entropie"}, "unknown term 'entropie'"),
        ({"policy": UniformPolicy}, "`policy` is the class UniformPolicy"),
        ({"derive": 0}, "`derive` is '0'"),
        ({"task": "focal"}, "`task` is 'focal', expected an object of a subclass of Task"),
        (
            {"task": Wrong(correct=lambda output, target: output.argmax(1) == target)},
            r"`task`: `correct` of Wrong is of the shape \(2,\) for 2 images, expected .* \(\): their number",
        ),
        ({"task": Wrong(loss=lambda output, target: output[:, 0])}, r"`loss` of Wrong is of the .* the mean"),
        ({"task": Wrong(plain_loss=lambda output, target: 0.5)}, "`plain_loss` of Wrong is 0.5 for 2 images"),
        ({"task": Wrong(outputs=None)}, "`task`: its `outputs` are None"),
        ({"estimator": NoGradient()}, "the estimator 'own' makes a draw without a gradient"),
        ({"estimator": NoAdvantages()}, "the estimator 'own' has the signal 'loss' and no `advantages`"),
        ({"space": 5}, "`space` is '5'"),
        ({"callback": 5}, "`callback` is 5, expected a function"),
        ({"out": ""}, "`out` is empty"),
        ({"config": "x", "preset": "quick"}, "both given"),
        (
            {"terms": [Sum("all")], "draws": 4},
            r"term 'sum': of_draw of \(4, 3, 5\) is \(\), expected .* \(4,\)",
        ),
        ({"terms": [Sum("rows")]}, r"of_draw of .* expected a tensor of shape \(1,\)"),
        ({"policy": OddPolicy([])}, "the policy 'uniform' returns \\[\\], expected a list of architectures"),
        ({"policy": OddPolicy([0, 1, 2])}, "expected a list of architectures"),
        ({"policy": OddPolicy([[0, 1]])}, "each of the 3 slots"),
        ({"policy": OddPolicy([[0, 1, 5]])}, "each of the 3 slots"),
        ({"derive": OddRule()}, "the rule 'odd' selects a str, expected a Genotype"),
    ],
)
def test_wrong_objects_end_in_one_line(arguments, message):
    with pytest.raises(InputError, match=message) as caught:
        nas.search(**{"space": "micro", "epochs": 2, "warmup_epochs": 0} | SMALL | arguments)
    assert "\n" not in str(caught.value)


def test_a_term_may_be_a_number_and_two_of_one_name_are_told_apart():
    result = nas.search(
        space="micro", epochs=1, warmup_epochs=0, **SMALL,
        terms=[Sum("number"), "entropy:weight=1", "entropy:weight=-1"],
    )  # fmt: skip
    terms = result.history[0]["terms"]
    assert terms["sum"] == 0.5
    assert terms["entropy"] == -terms["entropy_3"] > 0


def test_a_training_takes_paths_and_results(tmp_path):
    found = nas.search(space="micro", epochs=1, out=tmp_path / "s", **SMALL)
    histories = [
        nas.train(genotype, epochs=1, **SMALL).history
        for genotype in (found, found.genotype, tmp_path / "s" / "genotype.json", str(found))
    ]
    assert all(history == histories[0] for history in histories)
    with pytest.raises(InputError, match="`genotype` is 42, expected"):
        nas.train(42, epochs=1, **SMALL)
    with pytest.raises(InputError, match="`out` is None"):
        found.save(None)


def test_a_users_own_deterministic_choice_holds_inside_a_run():
    torch.use_deterministic_algorithms(True)
    try:
        seen = []
        nas.search(
            space="micro", epochs=1, **SMALL,
            callback=lambda m: seen.append(torch.are_deterministic_algorithms_enabled()),
        )  # fmt: skip
        assert seen == [True]
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)


def test_the_average_of_weights_is_that_of_timm():
    from timm.utils import ModelEmaV3

    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    ours, theirs = Average(model, 0.9), ModelEmaV3(model, 0.9)
    for step in range(3):
        model(torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(step))).sum().backward()
        with torch.no_grad():
            for p in model.parameters():
                p.add_(p.grad)
        ours.update()
        theirs.update(model)
    found = ours.module.state_dict()
    for name, value in theirs.module.state_dict().items():
        assert torch.equal(found[name], value)
    assert int(ours.module[1].num_batches_tracked) == 3
    copied = copy.deepcopy(ours)
    copied.update()
    assert not torch.equal(copied.module[0].weight, ours.module[0].weight)
    assert not ours.module.training
