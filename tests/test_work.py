"""How many images a search has run: what it costs beside trainings from scratch."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

import nas
from ablation import grid_records
from nas import tables
from nas.bilevel import Policy, Rule
from recipes import SearchOptions

# 60 images to train on and 20 to choose by: 3 steps an epoch.
TOY = {"data": "digits", "train_limit": 80, "batch_size": 16, "channels": 4, "val_fraction": 0.25}
STEPS, BATCH = 3, 16


def search(**options):
    return nas.search("micro", **(TOY | {"epochs": 2, "warmup_epochs": 0, "progress": False} | options))


class Three(Policy):
    """Three paths a batch."""

    def paths(self, architecture, generator, step, progress):
        return [architecture.uniform(generator) for _ in range(3)]


class Works(Rule):
    """Scores one architecture, tests one on a batch of 5 images, and trains on a batch."""

    def select(self, search):
        best = search.space.discretise(search.architecture.log_probabilities())
        search.score(best)
        images, labels = next(search.train.epoch(search.options.epochs))
        with torch.no_grad():
            search.bilevel.loss(search.space.choice(best), (images[:5], labels[:5]))
        search.bilevel.weight_step((images, labels), torch.Generator().manual_seed(0))
        yield

    def selected(self, search):
        return search.space.discretise(search.architecture.log_probabilities())


def rounds(trained, evaluated=0):
    """What as many passes over a batch come to, in each step of two epochs."""
    return trained * 2 * STEPS * BATCH, evaluated * 2 * STEPS * BATCH


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({}, rounds(2)),
        ({"warmup_epochs": 1}, rounds(1.5)),
        ({"draws": 3}, rounds(4)),
        ({"draw_per": "image"}, rounds(2)),
        ({"order": 2}, rounds(5)),
        ({"estimator": "reinforce_loo"}, rounds(1, 4)),
        ({"estimator": "reinforce_loo", "draw_per": "image"}, rounds(1, 1)),
        ({"estimator": "reinforce_critic"}, rounds(1, 4)),
        ({"estimator": "double_cv"}, rounds(5)),
        ({"policy": Three()}, rounds(4)),
        ({"evaluate_every": 1, "measure_every": 1}, rounds(2)),
    ],
)
def test_images_of_steps(options, wanted):
    result = search(**options)
    found = result.summary["images_trained"], result.summary["images_evaluated"]
    assert found == wanted
    assert [line["images_trained"] for line in result.history][1] == wanted[0]


def test_a_skipped_step_has_been_run():
    result = search(lr=1e30, clip=0, max_skipped_steps=99)
    assert sum(line["skipped_steps"] for line in result.history) > 0
    assert result.summary["images_trained"] == rounds(2)[0]


def test_images_of_a_rule():
    result = search(derive=Works())
    held_out = len(result.search.valid.images)
    assert result.summary["images_trained"] == rounds(2)[0] + BATCH
    assert result.summary["images_evaluated"] == held_out + 5
    several = search(derive="sample:20")
    assert several.summary["images_evaluated"] == held_out * len(several.summary["considered"]) > held_out


def test_a_resumed_search_has_counted_all():
    whole = search(out="whole", epochs=3, derive="sample:5")
    search(out="parts", epochs=3, derive="sample:5", callback=lambda metrics: metrics["epoch"] == 2)
    resumed = nas.search(out="parts", resume=True, progress=False)
    for key in ("images_trained", "images_evaluated"):
        assert resumed.summary[key] == whole.summary[key] > 0


def test_the_cost_is_what_was_run(tmp_path):
    known = replace(tables.packaged("micro", "digits"), images_per_training=30)
    trial = SimpleNamespace(
        folder=tmp_path, options=SearchOptions(batch_size=16, epochs=4, warmup_epochs=2, draws=2)
    )
    result, metrics = tmp_path / "result.json", tmp_path / "metrics.jsonl"
    result.write_text(json.dumps({"images_trained": 300, "images_evaluated": 90}))
    assert grid_records.fair_evaluations(trial, known) == 11
    assert grid_records.fair_evaluations(trial, replace(known, images_per_training=10**9)) == 1
    result.write_text("{}")
    metrics.write_text(json.dumps({"step": 12}) + "\n")
    assert grid_records.fair_evaluations(trial, known) == round((12 * 16 + 2 * 12 * 16 / 2) / 30)
