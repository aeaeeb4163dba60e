"""Whole runs: reproducible, resumable bit for bit, and a network that can be used afterwards."""

import itertools
import json
import os
import random
import signal

import numpy as np
import pytest
import timm
import torch
from torch.nn import functional as F

import estimators
import nas
import search_spaces
import train_final
import train_search
from nas.bilevel.architecture import Architecture
from nas.bilevel.budget import Budget
from nas.bilevel.rules.names import collapse_warnings
from nas.bilevel.rules.rule import sample
from nas.bilevel.rules.sample import Sample
from nas.bilevel.search import Search
from nas.runs import checkpoint, kept
from nas.runs.run_folder import RunFolder
from nas.seeding import seed_everything
from nas.training.final import Training, count_macs
from recipes import FinalOptions, InputError, SearchOptions
from recipes.config_file import read_config
from search_spaces.cost import NetworkSize
from search_spaces.zoo import PUBLISHED

MIXED = "|nor_conv_3x3~0|+|nor_conv_3x3~0|skip_connect~1|"
SMALL = ["--channels", "4", "--train-limit", "160", "--batch-size", "16", "--no-tensorboard"]


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def read(path):
    return json.loads(path.read_text())


class StoppedError(Exception):
    """Stands for the machine going away."""


def stop_after(monkeypatch, epochs):
    """Let a run die right after its `epochs`-th metrics line, before the checkpoint."""
    original = RunFolder.log

    def log(self, line, seconds):
        original(self, line, seconds)
        if line["epoch"] == epochs:
            raise StoppedError

    monkeypatch.setattr(RunFolder, "log", log)


def stop_in(monkeypatch, job, count):
    """Send this process a SIGTERM in the `count`-th step that is done from now on."""
    original, steps = job.epoch, itertools.count(1)

    def epoch(self, *position):
        for _ in original(self, *position):
            if next(steps) == count:
                os.kill(os.getpid(), signal.SIGTERM)
            yield

    monkeypatch.setattr(job, "epoch", epoch)


SEARCHES = {
    "reinmax": ["--space", "nasbench201"],
    "st_gumbel": ["--space", "micro", "--estimator", "st_gumbel", "--order", "2"],
    "per image": ["--space", "micro", "--draw-per", "image"],
    "reinforce": ["--space", "micro", "--estimator", "reinforce", "--draws", "2"],
    "softmax": ["--space", "darts", "--estimator", "softmax", "--train-limit", "64"],
    "sampled": ["--space", "micro", "--estimator", "st", "--derive", "sample:5", "--checkpoint-every", "2"],
}


@pytest.mark.parametrize("case", SEARCHES)
def test_search_resumes_bit_for_bit(case, tmp_path, monkeypatch):
    arguments = [*SMALL, "--epochs", "4", "--warmup-epochs", "1", *SEARCHES[case]]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert train_search.main([*arguments, "--out", str(whole)]) == 0
    stop_after(monkeypatch, 3)
    with pytest.raises(StoppedError):
        train_search.main([*arguments, "--out", str(broken)])
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert not (broken / "result.json").exists()
    torch.manual_seed(99)  # nothing may depend on the global generators' state
    stop_in(monkeypatch, Search, 1)
    assert train_search.main(["--resume", "--out", str(broken)]) == 75
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert checkpoint.read(broken / checkpoint.NEWEST)["step"] == 1
    assert train_search.main(["--resume", "--out", str(broken)]) == 0
    assert (broken / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    assert len(metrics(broken)) == len((broken / "timings.jsonl").read_text().splitlines()) == 4
    assert read(broken / "genotype.json") == read(whole / "genotype.json")
    assert read(broken / "splits.json") == read(whole / "splits.json")
    states = [torch.load(f / "checkpoint.pt", weights_only=True)["state"] for f in (whole, broken)]
    assert torch.equal(states[0]["logits"], states[1]["logits"])
    for name, tensor in states[0]["supernet"].items():
        assert torch.equal(tensor, states[1]["supernet"][name]), name


FINALS = {
    "plain": ["--genotype", "|nor_conv_3x3~0|+|skip_connect~0|avg_pool_3x3~1|"],
    "darts": ["--genotype", "darts_v2", "--drop-path", "0.2", "--auxiliary-weight", "0.4", "--cutout", "3"],
    "timm": [
        "--genotype", "|nor_conv_3x3~0|+|skip_connect~0|nor_conv_1x1~1|", "--optimizer", "adamw",
        "--lr", "0.002",
        "--scheduler", "poly", "--warmup-epochs", "1", "--mixup", "0.2", "--cutmix", "0.5",
        "--label-smoothing", "0.1", "--ema-decay", "0.9", "--auto-augment", "rand-m5-n1",
    ],
}  # fmt: skip


@pytest.mark.parametrize("case", FINALS)
def test_final_training_resumes_bit_for_bit(case, tmp_path, monkeypatch):
    arguments = [*SMALL, "--epochs", "4", *FINALS[case]]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert train_final.main([*arguments, "--out", str(whole)]) == 0
    stop_after(monkeypatch, 3)
    with pytest.raises(StoppedError):
        train_final.main([*arguments, "--out", str(broken)])
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    random.seed(99)  # nothing may depend on the global generators' state
    np.random.seed(99)
    torch.manual_seed(99)
    stop_in(monkeypatch, Training, 3)
    assert train_final.main(["--resume", "--out", str(broken)]) == 75
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert checkpoint.read(broken / checkpoint.NEWEST)["step"] == 3
    assert train_final.main(["--resume", "--out", str(broken)]) == 0
    assert (broken / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    assert (broken / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()

    # The saved network is the one that was tested.
    model = nas.load(whole / "model.safetensors")
    training = Training.of(FinalOptions(**read_config(FinalOptions, whole / "config.json")))
    correct = sum(int((model(x).argmax(1) == y).sum()) for x, y in training.test)
    accuracy = 100 * correct / len(training.test.images)
    assert accuracy == pytest.approx(read(whole / "result.json")["test_accuracy"])
    assert metrics(whole)[-1]["test_accuracy"] == pytest.approx(accuracy)


def test_the_same_seed_is_the_same_run_and_another_is_not(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        arguments = [*SMALL, "--epochs", "2", "--space", "micro", "--seed", str(seed)]
        assert train_search.main([*arguments, "--out", str(tmp_path / name)]) == 0
    assert metrics(tmp_path / "a") == metrics(tmp_path / "b")
    assert metrics(tmp_path / "a") != metrics(tmp_path / "c")


def test_a_run_is_reproducible_from_its_configuration(tmp_path):
    first = [*SMALL, "--epochs", "2", "--space", "micro", "--tau", "1.5:1", "--lr", "0.03"]
    assert train_search.main([*first, "--out", str(tmp_path / "a")]) == 0
    again = ["--config", str(tmp_path / "a" / "config.json"), "--out", str(tmp_path / "b")]
    assert train_search.main([*again[:2], "--seed", "1"]) == 0  # into a folder of its own
    assert train_search.main(again) == 0
    assert metrics(tmp_path / "a") == metrics(tmp_path / "b")
    assert [line["tau"] for line in metrics(tmp_path / "a")][-1] == 1.0


def test_run_folder_holds_everything_and_a_finished_run_stays(tmp_path, capsys):
    out = tmp_path / "run"
    arguments = [
        "--channels",
        "4",
        "--train-limit",
        "160",
        "--batch-size",
        "16",
        "--epochs",
        "2",
        "--out",
        str(out),
    ]
    assert train_search.main([*arguments, "--space", "micro"]) == 0
    expected = {
        "config.json", "metrics.jsonl", "genotype.json", "result.json", "checkpoint.pt",
        "checkpoint-previous.pt", "timings.jsonl", "lock", "tensorboard",
        "cell.svg", "cell.png", "report.html", "environment.json", "splits.json",
    }  # fmt: skip
    assert {p.name for p in out.iterdir()} == expected
    splits = read(out / "splits.json")
    assert not set(splits["train"]) & set(splits["valid"])
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*")}
    assert train_search.main([*arguments, "--space", "micro", "--resume"]) == 0
    assert "finished" in capsys.readouterr().out
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*")} == before


def test_search_then_final_from_the_genotype_file(tmp_path):
    assert train_search.main([*SMALL, "--epochs", "2", "--space", "micro", "--out", str(tmp_path / "s")]) == 0
    genotype = str(tmp_path / "s" / "genotype.json")
    assert (
        train_final.main([*SMALL, "--epochs", "1", "--genotype", genotype, "--out", str(tmp_path / "f")]) == 0
    )
    assert (
        read(tmp_path / "f" / "result.json")["genotype"] == read(tmp_path / "s" / "result.json")["genotype"]
    )


def test_timm_creates_the_network_by_name():
    model = timm.create_model("nas_net", genotype="darts_v2", channels=4, cells=3, num_classes=7, in_chans=1)
    model.eval()
    x = torch.randn(2, 1, 16, 16)
    assert model(x).shape == (2, 7)
    assert torch.equal(model.forward_head(model.forward_features(x)), model(x))
    assert model.forward_head(model.forward_features(x), pre_logits=True).shape == (2, model.num_features)
    model.reset_classifier(3)
    assert model(x).shape == (2, 3)
    assert "nas_net" in timm.list_models("nas_*")
    published = timm.create_model("nas_net", genotype="darts_v2")
    assert sum(p.numel() for p in published.parameters()) == 3_349_342
    for bad in ({}, {"genotype": "darts_v2", "nonsense": 1}, {"genotype": "darts_v2", "pretrained": True}):
        with pytest.raises(ValueError, match="nas_net"):
            timm.create_model("nas_net", **bad)


def test_saved_networks_give_identical_outputs(tmp_path):
    torch.manual_seed(0)
    for name, text in (
        ("darts", PUBLISHED["gdas"][1]),
        ("micro", "|none~0|+|nor_conv_3x3~0|skip_connect~1|"),
    ):
        genotype = search_spaces.get(name).parse(text)
        model = nas.nas_net(genotype=genotype, channels=4, cells=3, auxiliary=name == "darts").train()
        for _ in range(3):
            model(torch.randn(8, 3, 16, 16))  # moves the normalisation statistics
        sizes = {"channels": 4, "cells": 3, "num_classes": 10, "in_chans": 3}
        nas.save(
            tmp_path / "m.safetensors", model, {"genotype": genotype.to_json(), **sizes, "classes": ["é"]}
        )
        loaded = nas.load(tmp_path / "m.safetensors")
        x = torch.randn(4, 3, 16, 16)
        assert torch.equal(loaded(x), model.eval()(x))
        assert loaded.description["classes"] == ["é"]


def test_counting_macs_is_exact_and_moves_nothing():
    space = search_spaces.get("nasbench201")
    model = space.network(
        space.parse("|nor_conv_1x1~0|+|none~0|none~1|+|none~0|none~1|skip_connect~2|"), channels=4, cells=1
    )
    before = {k: v.clone() for k, v in model.state_dict().items()}
    stem = 27 * 4 * 64
    reductions = sum(9 * c * 2 * c * p + 9 * 4 * c * c * p + 2 * c * c * p for c, p in ((4, 16), (8, 4)))
    cells = 16 * 64 + 64 * 16 + 256 * 4
    assert count_macs(model.train(), (3, 8, 8)) == stem + reductions + cells + 16 * 10
    assert model.training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_multiply_accumulates_of_darts_v2_have_their_order_of_magnitude():
    """A guard against counting twice or leaving out the grouped convolutions."""
    model = timm.create_model("nas_net", genotype="darts_v2")
    assert round(count_macs(model, (3, 32, 32)) / 1e6) in range(520, 560)


def test_derivation_samples_follow_the_distribution():
    space = search_spaces.get("micro")
    logits = torch.tensor([[0.0, 1.0, 2.0, 0.5, -1.0]] * 3)
    generator = torch.Generator().manual_seed(0)
    counts = torch.zeros(5)
    for _ in range(3000):
        counts[space.choice(sample(space, logits, generator))[0]] += 1
    expected = logits[0].softmax(-1) * 3000
    assert ((counts - expected).square() / expected).sum() < 18.47  # 99.9 %, 4 degrees of freedom


def test_best_of_draws_scores_each_architecture_once():
    space = search_spaces.get("micro")
    scored = {}

    class Scorer:
        options = SearchOptions()
        architecture = Architecture(space, estimators.get("st"), torch.zeros(3, 5))
        budget = Budget(space, NetworkSize(4, 1, 10, 1, (8, 8)), {}, {})

        def score(self, genotype):
            assert genotype not in scored
            scored[genotype] = float(genotype.count("nor_conv_3x3")["cell"])
            return 0.0, scored[genotype]

    search, rule = Scorer(), Sample(400)
    search.space = space
    assert sum(1 for _ in rule.select(search)) == len(scored) == rule.pieces(search) > 90
    best = rule.selected(search)
    assert scored[best] == max(scored.values()) >= 2
    assert next(genotype for genotype in scored if scored[genotype] == scored[best]) == best


def test_collapse_is_noticed():
    """More than half of the edges have to be idle; half of them may be."""
    space = search_spaces.get("nasbench201")
    for skips, nones in ((4, 0), (2, 2), (0, 6)):
        idle = ["skip_connect"] * skips + ["none"] * nones
        (warning,) = collapse_warnings(space.genotype(idle + ["nor_conv_3x3"] * (6 - len(idle))))
        assert warning.startswith(f"the search has collapsed: {skips} skip_connect and {nones} none on the 6")
    for idle in ([], ["none"] * 3, ["skip_connect", "none", "skip_connect"]):
        genotype = space.genotype(idle + ["avg_pool_3x3"] * (6 - len(idle)))
        assert collapse_warnings(genotype) == []


def test_validation_never_sees_training_augmentation_and_training_does():
    search = Search.of(SearchOptions(epochs=1, flip=True, cutout=2))
    assert search.train.augmentation.flip
    assert search.train.augmentation.cutout == 2
    assert search.valid.augmentation == type(search.valid.augmentation)()


def test_logits_and_weights_both_learn(tmp_path):
    out = tmp_path / "s"
    options = {"--space": "micro", "--channels": "8", "--epochs": "16", "--warmup-epochs": "8"}
    arguments = [word for pair in options.items() for word in pair]
    assert train_search.main([*arguments, "--no-tensorboard", "--out", str(out)]) == 0
    lines = metrics(out)
    assert lines[7]["valid_loss"] is None
    assert lines[8]["valid_loss"] is not None
    assert lines[-1]["train_loss"] < 0.8 * lines[0]["train_loss"]
    assert lines[0]["entropy"] == lines[7]["entropy"] > lines[-1]["entropy"] + 0.02
    p = torch.tensor(lines[-1]["probabilities"])
    assert torch.allclose(p.sum(-1), torch.ones(3), atol=1e-4)


@pytest.mark.slow
def test_digits_reach_98_percent(tmp_path):
    """The promise of the demo, on two seeds."""
    for seed in ("0", "1"):
        s, f = tmp_path / f"s{seed}", tmp_path / f"f{seed}"
        assert train_search.main(["--seed", seed, "--out", str(s)]) == 0
        genotype = ["--genotype", str(s / "genotype.json")]
        assert train_final.main([*genotype, "--seed", seed, "--out", str(f)]) == 0
        assert read(f / "result.json")["test_accuracy"] >= 98


@pytest.mark.parametrize("mixup", [0.0, 0.4])
def test_loss_of_final_training_is_that_of_mixed_and_smoothed_targets(mixup):
    """Against the definitions: targets are smoothed once, and mixed in the proportion of the images."""
    options = FinalOptions(genotype=MIXED, channels=4, mixup=mixup, label_smoothing=0.2, precision="float32")
    training, alone = Training.of(options), Training.of(options)
    images, labels = next(iter(training.train))
    smooth = 0.8 * F.one_hot(labels, 10) + 0.02
    alone.model.train()
    inputs, targets = images, smooth
    if mixup:
        seed_everything(0, "mixing")
        inputs, _ = alone.mixup(images.clone(), labels)
        apart = images[0] - images[-1]
        share = ((inputs[0] - images[-1]) * apart).sum() / apart.square().sum()
        assert 0.01 < share < 0.99
        targets = share * smooth + (1 - share) * smooth.flip(0)
    expected = -(targets * alone.forward(inputs).log_softmax(1)).sum(1).mean()
    seed_everything(0, "mixing")
    torch.testing.assert_close(training.step(images, labels).loss, expected.detach())


# Weights after chosen epochs

KEEPS = [*SMALL, "--space", "micro", "--epochs", "5", "--checkpoint-every", "3", "--keep-weights-every", "2"]


def kept_files(folder):
    return {path.name: path.read_bytes() for path in (folder / "weights").iterdir()}


def test_kept_weights_are_those_of_their_epochs_also_of_a_resumed_run(tmp_path, monkeypatch):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert train_search.main([*KEEPS, "--out", str(whole)]) == 0
    expected = kept_files(whole)
    assert sorted(expected) == ["epoch-2.safetensors", "epoch-4.safetensors"]
    short = [*KEEPS, "--out", str(tmp_path / "short")]
    with monkeypatch.context() as patch:
        stop_after(patch, 5)
        with pytest.raises(StoppedError):
            train_search.main([*KEEPS, "--out", str(broken)])
    assert kept_files(broken) == expected
    # The checkpoint is that of epoch 3: what is kept of epoch 4 goes, and comes back the same.
    (broken / "weights" / ".epoch-4.safetensors.12345678.tmp").write_bytes(b"half")
    with monkeypatch.context() as patch:
        stop_in(patch, Search, 1)
        assert train_search.main(["--resume", "--out", str(broken)]) == 75
    assert sorted(kept_files(broken)) == ["epoch-2.safetensors"]
    assert train_search.main(["--resume", "--out", str(broken)]) == 0
    assert kept_files(broken) == expected
    # Those of epoch 4 are the weights of the checkpoint there.
    with monkeypatch.context() as patch:
        stop_after(patch, 5)
        with pytest.raises(StoppedError):
            train_search.main([*short, "--checkpoint-every", "1"])
    state = checkpoint.read(tmp_path / "short" / checkpoint.NEWEST)["state"]
    found = kept.load(whole, 4)
    assert torch.equal(found.pop("logits"), state["logits"])
    assert {f"supernet.{name}" for name in state["supernet"]} == set(found)
    for name, tensor in state["supernet"].items():
        assert torch.equal(found[f"supernet.{name}"], tensor), name


def test_keeping_weights_changes_nothing_else_and_they_go_with_the_run(tmp_path):
    plain, keeping = tmp_path / "plain", tmp_path / "keeping"
    assert train_search.main([*KEEPS[:-2], "--out", str(plain)]) == 0
    assert not (plain / "weights").exists()
    assert train_search.main([*KEEPS, "--out", str(keeping)]) == 0
    assert (keeping / "metrics.jsonl").read_bytes() == (plain / "metrics.jsonl").read_bytes()
    assert train_search.main([*KEEPS, "--out", str(keeping), "--epochs", "1", "--overwrite"]) == 0
    assert not (keeping / "weights").exists()


def test_weights_are_kept_in_memory_until_there_is_a_folder(tmp_path):
    small = {"space": "micro", "channels": 4, "train_limit": 160, "batch_size": 16, "progress": False}
    result = nas.search(**small, epochs=3, keep_weights_every=1)
    folder = result.save(tmp_path / "saved")
    nas.search(**small, epochs=3, keep_weights_every=1, out=tmp_path / "direct", tensorboard=False)
    assert kept_files(folder) == kept_files(tmp_path / "direct")
    assert kept.epochs(folder) == [1, 2, 3]
    last = kept.load(folder, 3)
    assert torch.equal(last["logits"], result.logits)
    result.search.take(kept.load(folder, 1))
    assert not torch.equal(last["logits"], result.logits)
    result.search.take(last)
    assert all(torch.equal(tensor, last[name]) for name, tensor in result.search.weights().items())


def test_kept_weights_that_are_damaged_or_of_another_search_are_refused(tmp_path):
    kept.save(tmp_path, 1, {"logits": torch.zeros(3, 5)})
    with pytest.raises(InputError, match="not of this search"):
        Search.of(SearchOptions(space="micro", channels=4)).take(kept.load(tmp_path, 1))
    path = tmp_path / "weights" / "epoch-1.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(InputError, match=r"cannot read the kept weights .*epoch-1.safetensors"):
        kept.load(tmp_path, 1)
    with pytest.raises(InputError, match=r"epoch-2.safetensors"):
        kept.load(tmp_path, 2)
