"""How searches start and end: the prior of the logits, and rules of selection that evaluate and train."""

import copy
import itertools
import json
import math
import os
import re
import signal
from collections import Counter

import pytest
import torch

import nas
import search_spaces
from nas.bilevel import Search
from nas.bilevel.rules.ascent import Ascent
from nas.bilevel.rules.evolution import Evolution
from nas.bilevel.rules.halving import Halving
from nas.bilevel.rules.perturbation import Perturbation
from nas.bilevel.rules.rule import pool
from nas.seeding import generator
from nas.zero_cost import Synflow, ZeroCost
from recipes import InputError, SearchOptions
from recipes.options import check
from search_spaces.cell import candidate_parameters

SMALL = {"channels": 4, "train_limit": 320, "batch_size": 32, "tensorboard": False}


# The prior


@pytest.mark.parametrize("space", ["micro", "nasbench201", "darts", "s4"])
def test_the_parameters_of_a_candidate_are_what_it_adds_to_a_derived_network(space):
    space = search_spaces.get(space)
    size = {"channels": 8, "cells": space.fewest_cells, "num_classes": 10, "in_channels": 3}
    sizes = candidate_parameters(space.supernet(**size), space.num_slots, space.width)
    assert sizes.shape == (space.num_slots, space.width)

    def parameters(genotype):  # normalisations have none in a supernet
        return sum(p.numel() for p in space.network(genotype, **size).parameters() if p.dim() > 1)

    scores = torch.randn(len(space.slots), space.width, generator=torch.Generator().manual_seed(0))
    first = space.discretise(scores)
    for seed in range(1, 4):
        scores = torch.randn(scores.shape, generator=torch.Generator().manual_seed(seed))
        other = space.discretise(scores)
        counted = [
            sum(int(sizes[row, k]) for row, k in enumerate(space.choice(one)) if k >= 0)
            for one in (first, other)
        ]
        assert counted[1] - counted[0] == parameters(other) - parameters(first)


def test_a_prior_starts_the_search_at_the_largest_architecture():
    found = nas.search("nasbench201", prior=3.0, epochs=1, arch_lr=1e-12, **SMALL)
    assert set(found.space.choice(found.genotype)) == {3}
    p = found.log_probabilities().exp()
    expected = torch.tensor([0.0, 0.0, 3 / 9, 3.0, 0.0]).softmax(0)  # 1 x 1 and 3 x 3 weights
    flat = nas.search("nasbench201", epochs=1, arch_lr=1e-12, **SMALL).log_probabilities().exp()
    assert flat.max() < 0.21
    torch.testing.assert_close(p, expected.expand_as(p), atol=0.01, rtol=0.0)


# The end of a search


def test_a_search_ends_when_it_has_decided_and_so_does_one_in_pieces(tmp_path):
    options = {"epochs": 8, "warmup_epochs": 1, "arch_lr": 0.5, "derive": "sample:3"} | SMALL
    whole = nas.search("micro", stop_entropy=0.7, **options)
    entropies = [line["entropy"] for line in whole.history]
    assert 1 < len(entropies) < 8
    assert entropies[-1] < 0.7 < min(entropies[:-1])
    result = nas.search("micro", stop_entropy=0.7, out=tmp_path / "run", callback=bool, **options)
    while result.stopped:  # after every epoch
        result = nas.search(out=tmp_path / "run", resume=True, callback=bool)
    assert result.history == whole.history
    assert result.summary["considered"] == whole.summary["considered"]
    again = nas.search(out=tmp_path / "run", resume=True)
    assert again.history == whole.history
    assert again.genotype == whole.genotype


def test_nothing_has_been_decided_before_the_first_architecture_step():
    result = nas.search("micro", prior=50.0, stop_entropy=2.0, epochs=4, warmup_epochs=2, **SMALL)
    assert len(result.history) == 3


# Coordinate ascent


@pytest.fixture(scope="module")
def searched():
    return {name: nas.search(name, epochs=2, **SMALL) for name in ("micro", "s1")}


@pytest.mark.parametrize("space", ["micro", "s1"])
def test_ascent_ends_where_no_slot_has_a_better_candidate_and_goes_on_where_it_was(searched, space):
    result = searched[space]
    whole = Ascent()
    for _ in whole.select(result.search):
        pass
    found = whole.selected(result.search)
    assert result.space.validate(found) == found == result.select("ascent")
    accuracy = result.score(found)[1]
    assert accuracy == max(row["accuracy"] for row in whole.considered(result.search))
    assert accuracy >= result.score(result.genotype)[1]
    if space == "micro":
        chosen = result.space.choice(found)
        for row, slot in enumerate(result.space.slots):
            for candidate in range(len(slot.candidates)):
                other = [*chosen[:row], candidate, *chosen[row + 1 :]]
                names = [s.candidates[k] for s, k in zip(result.space.slots, other, strict=True)]
                assert result.score(result.space.genotype(names))[1] <= accuracy
    first = Ascent()
    for count, _ in enumerate(first.select(result.search), 1):
        if count == 5:
            break
    rest = Ascent()
    rest.restore(first.state())
    assert sum(1 for _ in rest.select(result.search)) == len(whole.scores) - 5
    assert rest.scores == whole.scores
    assert rest.selected(result.search) == found


# Successive halving


@pytest.mark.parametrize("by", ["shared", "synflow"])
def test_halving_trains_the_better_half_twice_as_long_until_one_is_left(searched, by):
    result = searched["micro"]
    rule, before = Halving(5, 30, by, 1), copy.copy(result.search.bilevel.work)
    assert sum(1 for _ in rule.select(result.search)) == rule.pieces(result.search)
    rows = rule.considered(result.search)
    assert [row["epochs"] for row in rows] == [1] * 5 + [2] * 2
    after, scored = result.search.bilevel.work, len(rule.scores)
    images = (5 * 1 + 2 * 2) * result.search.steps * SMALL["batch_size"]
    assert after.trained - before.trained == images + scored * (by == "synflow")
    passes = 7 + scored * (by == "shared")
    assert after.evaluated - before.evaluated == passes * len(result.search.valid.images)
    cells = [result.space.parse(text) for text in rule.scores]
    forms = {result.space.canonical(cell) for cell in cells}
    assert len(forms) == len(cells) > 5
    assert cells[0] == result.genotype
    if by == "shared":
        found = {text: -result.score(cell)[0] for text, cell in zip(rule.scores, cells, strict=True)}
        assert found == rule.scores
    best = sorted(rule.scores, key=rule.scores.__getitem__, reverse=True)[:5]
    assert [row["genotype"] for row in rows[:5]] == best
    first = sorted(rows[:5], key=lambda row: -row["accuracy"])
    assert [row["genotype"] for row in rows[5:]] == [row["genotype"] for row in first[:2]]
    last = max(rows[5:], key=lambda row: row["accuracy"])
    assert result.space.format(rule.selected(result.search)) == last["genotype"]


def test_without_a_training_the_score_decides(tmp_path):
    found = nas.search(
        "micro", epochs=1, derive="halving:1,draws=20,by=synflow", out=tmp_path / "run", **SMALL
    )
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    rows = {row["genotype"]: row["synflow"] for row in result["considered"]}
    assert result["genotype"] == max(rows, key=rows.get)
    assert len(rows) > 5
    steps = found.history[-1]["images_trained"]
    assert result["images_trained"] - steps <= 125  # an image for each score


def test_the_score_of_halving_takes_settings(tmp_path):
    found = nas.search(
        "micro", epochs=1, derive="halving:1,draws=0,by=naswot:images=8", out=tmp_path / "run", **SMALL
    )
    rows = found.summary["considered"]
    assert len(rows) > 5
    assert all(row.keys() == {"genotype", "naswot"} for row in rows)
    assert found.summary["images_trained"] - found.history[-1]["images_trained"] == 8 * len(rows)


def test_neighbours_of_the_arg_max_are_among_what_halving_looks_at():
    result = nas.search("nasbench201", epochs=1, prior=4.0, **SMALL)
    space = result.space
    looked = {space.canonical(cell) for cell in pool(result.search, 0)}
    largest = ["nor_conv_3x3"] * 6
    for slot, name in itertools.product(range(6), space.operations):
        assert space.canonical(space.genotype([*largest[:slot], name, *largest[slot + 1 :]])) in looked
    assert len(looked) == 25
    more = pool(result.search, 200)
    assert len(more) > 30
    assert [space.canonical(cell) for cell in more[:25]] == [
        space.canonical(cell) for cell in pool(result.search, 0)
    ]
    s1 = nas.search("s1", epochs=1, **SMALL)
    assert len(pool(s1.search, 10)) > 10


def test_the_report_lists_the_longest_trainings_first(tmp_path):
    found = nas.search("micro", epochs=1, derive="halving:4,draws=0,epochs=1", out=tmp_path / "run", **SMALL)
    rows = re.findall(r"<t[dh][^>]*>(\|[^<]*)</t[dh]>", (tmp_path / "run" / "report.html").read_text())
    assert len(rows) == 4 + 2
    assert rows[0] == str(found)
    twice = {row["genotype"] for row in found.summary["considered"] if row["epochs"] == 2}
    assert set(rows[:2]) == twice
    assert "4 considered, the first 6 of 6 rows" in (tmp_path / "run" / "report.html").read_text()


def test_what_no_score_can_be_said_of_is_not_trained_unless_there_is_nothing_else(searched, monkeypatch):
    search = searched["micro"].search
    values = iter([2.0, -math.inf, 1.0])
    monkeypatch.setattr(Synflow, "score", lambda *_: next(values, math.nan))
    rule = Halving(9, 0, "synflow", 1)
    for _ in rule.select(search):
        pass
    cells = list(rule.scores)
    assert [row["genotype"] for row in rule.considered(search) if row["epochs"] == 1] == [cells[0], cells[2]]
    rule = Halving(2, 0, "synflow", 1)
    for _ in rule.select(search):
        pass
    assert [sorted(row) for row in rule.considered(search)] == [["accuracy", "epochs", "genotype"]] * 2


def test_halving_trains_with_the_momentum_of_the_search():
    for nesterov in (True, False):
        search = nas.search("micro", epochs=1, nesterov=nesterov, **SMALL).search
        training = Halving(2)._training(search, search.space.format(search.would_find()), 1)
        assert training.optimizer.param_groups[0]["nesterov"] is nesterov


def test_a_training_without_momentum_has_no_nesterov():
    training = nas.train(
        "|skip_connect~0|+|none~0|nor_conv_1x1~1|", epochs=1, momentum=0.0, **SMALL
    ).ended.job
    assert training.optimizer.param_groups[0]["nesterov"] is False


def test_halving_without_momentum():
    found = nas.search("micro", epochs=1, derive="halving:2,draws=0,epochs=1", momentum=0.0, **SMALL)
    assert len(found.summary["considered"]) == 2


def test_what_cannot_score_is_named_before_the_first_step():
    """Not after the last, where the rule of a run can no longer be changed."""

    class Picky(ZeroCost):
        name = "picky"

        def score(self, network, images, labels, task):
            raise InputError("the network is too plain")

    seen, rule = [], Halving(2, 0)
    rule.score = Picky()
    with pytest.raises(InputError, match="too plain"):
        nas.search("micro", epochs=1, derive=rule, callback=seen.append, **SMALL)
    assert not seen


def test_what_halving_trains_is_what_final_training_gives(searched):
    job = searched["micro"].search
    rule = Halving(2, 0, epochs=2)
    for _ in rule.select(job):
        pass
    parts = [(images.pixels, images.labels) for images in (job.train.images, job.valid.images)]
    for row in rule.considered(job):
        done = nas.train(
            row["genotype"], data=tuple(parts), epochs=2, channels=4, batch_size=32, space="micro",
            flip=job.dataset.augmentation.flip, crop_padding=job.dataset.augmentation.crop_padding,
            tensorboard=False,
        )  # fmt: skip
        assert done.summary["test_accuracy"] == row["accuracy"]


@pytest.mark.parametrize("piece", [2, 15, 35, 50])
def test_a_search_that_is_stopped_while_halving_ends_as_without_the_stop(tmp_path, piece):
    class Stopped(Halving):
        def select(self, search):
            for count, _ in enumerate(super().select(search), 1):
                if count == piece:
                    os.kill(os.getpid(), signal.SIGTERM)
                yield

    whole = nas.search("micro", epochs=2, derive="halving:5,draws=10,epochs=1", **SMALL)
    out = tmp_path / "run"
    first = nas.search("micro", epochs=2, derive=Stopped(5, 10, epochs=1), out=out, **SMALL)
    assert "while selecting" in first.stopped
    rest = nas.search(derive=Halving(5, 10, epochs=1), out=out, resume=True)
    assert rest.summary["considered"] == whole.summary["considered"]
    assert rest.genotype == whole.genotype


def test_evolution_looks_at_architectures_that_descend_from_the_best_and_goes_on_where_it_was(searched):
    job = searched["s1"].search
    whole = Evolution(60, first=20)
    for _ in whole.select(job):
        pass
    rows = whole.considered(job)
    accuracies = [row["accuracy"] for row in rows]
    assert whole.selected(job) == job.space.parse(rows[accuracies.index(max(accuracies))]["genotype"])
    assert 20 < len(rows) <= 60
    assert whole.pieces(job) == 60
    assert max(accuracies) >= max(accuracies[:20])
    for row in rows:
        genotype = job.space.parse(row["genotype"])
        assert job.space.validate(genotype)
        assert job.score_uncounted(genotype)[1] == row["accuracy"]
    part = Evolution(60, first=20)
    for count, _ in enumerate(part.select(job), 1):
        if count == 37:
            break
    rest = Evolution(60, first=20)
    rest.restore(part.state())
    for _ in rest.select(job):
        pass
    assert rest.considered(job) == rows
    assert rest.selected(job) == whole.selected(job)


def test_children_take_every_slot_from_their_parents_or_draw_it_anew(searched):
    job = searched["micro"].search
    rule = Evolution(1000, first=2)
    a, b = torch.zeros(3, 5), torch.ones(3, 5)
    rule.parents = {"a": a, "b": b}
    crossed = [rule._individual(job, number) for number in range(3, 203, 2)]
    assert {float(value) for child in crossed for value in child.flatten()} == {0.0, 1.0}
    assert 0 < sum(0 < child.mean() < 1 for child in crossed) < 100
    changed = [rule._individual(job, number) for number in range(2, 402, 2)]
    anew = [sum(not set(row.tolist()) <= {0.0, 1.0} for row in child) for child in changed]
    assert min(anew) == 1
    assert 1.0 < sum(anew) / len(anew) < 1.5
    first = [rule._individual(job, number) for number in (0, 1)]
    assert torch.equal(first[0], job.architecture.log_probabilities())
    assert not torch.equal(*first)


# Perturbation


@pytest.mark.parametrize("space", ["micro", "s1"])
def test_perturbation_keeps_what_the_supernet_misses_most(space):
    job = nas.search(space, epochs=1, max_skips=None, **SMALL).search
    rule, before = Perturbation(epochs=0), copy.deepcopy(job.supernet.state_dict())
    assert len(list(rule.select(job))) == rule.pieces(job) == len(rule.considered(job))
    found = job.space.validate(rule.selected(job))
    # Written out: every decision in its order, on the mixture of what is left.
    weights, looks = job.architecture.probabilities().clone(), iter(rule.considered(job))
    kept = {}
    draws = generator(0, "decisions")
    for row in torch.randperm(job.space.num_slots, generator=draws).tolist():
        slot, losses = job.space.slots[row], {}
        for name in job.space.derivable(slot):
            without = weights.clone()
            without[row, slot.candidates.index(name)] = 0.0
            losses[name] = job.score_draw(without)[1]
            look = next(looks)
            assert look["accuracy"] == losses[name]
            assert look["genotype"] == f"without {name} in {slot.label}"
        kept[row] = min(losses, key=losses.__getitem__)
        weights[row] = 0.0
        weights[row, slot.candidates.index(kept[row])] = 1.0
    groups = job.space.contested()
    for number in torch.randperm(len(groups), generator=draws).tolist():
        rows, count = groups[number]
        left = list(rows)
        while len(left) > count:
            accuracies = {}
            for row in left:
                without = weights.clone()
                without[row] = 0.0
                accuracies[row] = job.score_draw(without)[1]
                assert next(looks)["accuracy"] == accuracies[row]
            out = max(left, key=accuracies.__getitem__)
            left.remove(out)
            del kept[out]
            weights[out] = 0.0
    assert next(looks, None) is None
    assert found == job.space.genotype([kept.get(row) for row in range(job.space.num_slots)])
    for name, tensor in job.supernet.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_within_a_budget_perturbation_takes_what_is_missed_next():
    options = {"space": "nasbench201", "channels": 4, "train_limit": 80, "batch_size": 16}
    job = Search.of(check(SearchOptions(**options, budget=("parameters=22k",))))
    rule, names = Perturbation(0), job.space.slots[0].candidates
    missed = {"nor_conv_1x1": 40.0, "nor_conv_3x3": 50.0}
    rule.missed = {(row, k): missed.get(name, 1.0) for row in range(6) for k, name in enumerate(names)}
    found = [edge.operation for edge in rule.selected(job).cells[0].edges]
    assert set(found) == {"nor_conv_3x3", "nor_conv_1x1"}


def test_perturbation_keeps_its_edges_where_skips_are_limited():
    options = {"space": "darts", "channels": 4, "train_limit": 80, "batch_size": 16, "max_skips": 2}
    job = Search.of(check(SearchOptions(**options)))
    rule, missed = Perturbation(0), {"skip_connect": 9.0, "sep_conv_3x3": 8.0}
    for row, slot in enumerate(job.space.slots):
        names = job.space.derivable(slot)
        rule.missed |= {(row, slot.candidates.index(name)): missed.get(name, 1.0) for name in names}
    for rows, _ in job.space.contested():
        rule.dropped += [row for row in rows if job.space.slots[row].source > 1]
    cells = {cell.name: cell for cell in rule.selected(job).cells}
    assert {edge.source for cell in cells.values() for edge in cell.edges} == {0, 1}
    normal = Counter(edge.operation for edge in cells["normal"].edges)
    assert normal == {"skip_connect": 2, "sep_conv_3x3": 6}


def test_between_decisions_perturbation_trains_what_is_decided(monkeypatch):
    job = nas.search("micro", epochs=1, **SMALL).search
    rule, steps, policy = Perturbation(epochs=1), [], job.bilevel.policy
    step = job.bilevel.weight_step

    def watched(batch, draws, *position):
        (path,) = job.bilevel.policy.paths(job.architecture, torch.Generator(), 0, 1.0)
        steps.append((dict(rule.decided), path, job.weight_optimizer.param_groups[0]["lr"]))
        return step(batch, draws, *position)

    monkeypatch.setattr(job.bilevel, "weight_step", watched)
    assert len(list(rule.select(job))) == rule.pieces(job) == 15 + 2 * len(job.train)
    assert len(steps) == 2 * len(job.train)
    assert job.bilevel.policy is policy
    for number, (decided, path, rate) in enumerate(steps):
        assert len(decided) == 1 + number // len(job.train)
        assert all(path[row] == candidate for row, candidate in decided.items())
        assert rate == pytest.approx(0.1 * job.options.lr)


@pytest.mark.parametrize(
    ("piece", "estimator"), [(3, "reinmax"), (9, "reinmax"), (21, "reinmax"), (6, "concrete")]
)
def test_perturbation_goes_on_where_it_was(tmp_path, piece, estimator):
    """Trainings between decisions draw at the last temperature."""

    class Stopped(Perturbation):
        def select(self, search):
            for count, _ in enumerate(super().select(search), 1):
                if count == piece:
                    os.kill(os.getpid(), signal.SIGTERM)
                yield

    given = {"estimator": estimator, "epochs": 1, **SMALL}
    whole = nas.search("micro", derive="perturbation:1", **given)
    first = nas.search("micro", derive=Stopped(1), out=tmp_path / "run", **given)
    assert "while selecting" in first.stopped
    rest = nas.search(derive=Perturbation(1), out=tmp_path / "run", resume=True)
    assert rest.summary["considered"] == whole.summary["considered"]
    assert rest.genotype == whole.genotype
    assert all(
        torch.equal(a, b)
        for a, b in zip(rest.supernet.parameters(), whole.supernet.parameters(), strict=True)
    )


@pytest.mark.parametrize("rule", ["ascent", "evolution:8", "halving:4,draws=0"])
def test_the_time_that_a_rule_takes_counts_and_its_work_is_kept(tmp_path, monkeypatch, rule):
    whole = nas.search("micro", epochs=2, derive=rule, out=tmp_path / "run", **SMALL)
    timings = [json.loads(line) for line in (tmp_path / "run" / "timings.jsonl").read_text().splitlines()]
    assert whole.summary["total_seconds"] > 1.2 * sum(line["seconds"] for line in timings)
    monkeypatch.setattr(Search, "score", lambda *_: pytest.fail("what was scored is scored again"))
    again = nas.search(out=tmp_path / "run", resume=True)
    assert again.genotype == whole.genotype


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("halving:0", "count is 0, expected 1"),
        ("halving:4,epochs=0", "epochs is 0"),
        ("halving", "count"),
        ("evolution:0", "count is 0, expected 1"),
        ("evolution:9,first=0", "first is 0, expected 1"),
        ("halving:4,by=luck", "by is 'luck', expected shared or"),
        ("halving:4,by=shared:images=3", "by is 'shared:images=3', expected shared or"),
        ("halving:4,by=naswot:luck=3", "zero-cost score 'naswot:luck=3'.*luck"),
    ],
)
def test_what_a_rule_cannot_do_is_refused(text, message):
    with pytest.raises(nas.InputError, match=message):
        nas.search("micro", derive=text, **SMALL)
