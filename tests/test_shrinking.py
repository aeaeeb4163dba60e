"""Candidates that are taken out of a search while it runs, and what nothing draws from then on."""

import itertools
import json
import math
import zlib
from collections import Counter
from functools import partial

import pytest
import small
import torch

import estimators
import nas
import search_spaces
from nas.bilevel import Architecture, Search
from nas.bilevel.policies import POLICIES
from nas.bilevel.rules.evolution import Evolution
from nas.bilevel.rules.names import RULES
from nas.bilevel.rules.rule import drawn, pool
from nas.bilevel.shrinkings.information import ByInformation, information
from nas.bilevel.shrinkings.probability import ByProbability
from nas.bilevel.shrinkings.shrinking import may_go
from nas.bilevel.shrinkings.stages import Stages
from recipes import SearchOptions
from search_spaces.cell import Cell, candidates_in, leave_out
from search_spaces.derivation import fit

SMALL = {"channels": 4, "train_limit": 160, "batch_size": 32, "threads": 1, "tensorboard": False}


def job(space="micro", **options):
    return Search.of(SearchOptions(**(SMALL | {"space": space, "epochs": 2, "warmup_epochs": 0} | options)))


def one_and_two_left(architecture, seed=0):
    """Take out at random, until the slots have one and two candidates by turns; those that are left."""
    for row, slot in enumerate(architecture.space.slots):
        derivable = [slot.candidates.index(name) for name in architecture.space.derivable(slot)]
        kept = derivable[int(torch.randint(len(derivable), (), generator=small.rng(seed + row)))]
        others = [k for k in range(len(slot.candidates)) if k != kept]
        for k in others[row % 2 :]:
            architecture.take_out(row, k)
    return [architecture.candidates(row) for row in range(architecture.space.num_slots)]


# What nothing draws any more


@pytest.mark.parametrize("name", estimators.names())
def test_an_estimator_gives_what_is_out_no_draw_and_no_gradient(name):
    bilevel = small.bilevel("nasbench201", name)
    architecture = bilevel.architecture
    left = one_and_two_left(architecture)
    out = ~architecture.mask
    draws = architecture.estimator(architecture.masked().detach().expand(50, -1, -1), small.rng())
    assert draws[:, out].eq(0).all()
    assert architecture.probabilities()[out].eq(0).all()
    bilevel.architecture_step(small.batch(1), small.batch(2), small.rng(3))
    gradient = architecture.logits.grad
    assert gradient.isfinite().all()
    assert gradient[out].eq(0).all()
    alone = [row for row, line in enumerate(left) if len(line) == 1]
    torch.testing.assert_close(gradient[alone], torch.zeros(len(alone), 5), atol=1e-6, rtol=0.0)
    log_p = architecture.log_probabilities()
    assert log_p[out].max() < log_p[~out].min() - 1e5


@pytest.mark.parametrize("policy", POLICIES.names())
@pytest.mark.parametrize("space", ["nasbench201", "s3"])
def test_a_policy_trains_what_is_left_alone_and_all_of_it(policy, space):
    architecture = Architecture(search_spaces.get(space), estimators.get("reinmax"))
    left, seen = one_and_two_left(architecture), [set() for _ in architecture.space.slots]
    for step in range(30):
        for path in POLICIES.build(policy).paths(architecture, small.rng(step), step, 1.0):
            weights = path.nonzero().tolist() if isinstance(path, torch.Tensor) else enumerate(path)
            for row, k in weights:
                seen[row].add(k)
    assert seen == [set(line) for line in left]


def test_dense_paths_weigh_every_candidate_by_how_many_there_were():
    architecture = Architecture(search_spaces.get("s1"), estimators.get("softmax"))
    architecture.take_out(0, 1)
    (weights,) = POLICIES.build("dense").paths(architecture, small.rng(), 0, 0.0)
    assert weights[0].tolist() == [0.5, 0.0]
    assert weights[1:].eq(0.5).all()


@pytest.mark.parametrize(
    ("space", "budget"), [("nasbench201", ()), ("s3", ()), ("nasbench201", ("parameters=30k",))]
)
def test_rules_look_at_what_is_left_alone(space, budget, monkeypatch):
    monkeypatch.setattr(Search, "score_draw", lambda _, draw: (0.0, zlib.crc32(str(draw).encode()) % 1000))
    search = job(space, budget=budget, max_skips=None)
    left = one_and_two_left(search.architecture)
    assert search.budget.reaches(search.architecture.mask)
    cells = [*drawn(search, 20), *pool(search, 20), search.would_find()]
    for name in ("sample:10", "evolution:60,first=20", "ascent", "perturbation:0"):
        rule = RULES.build(name)
        assert len(list(rule.select(search))) <= rule.pieces(search) or name == "ascent"
        rows = [search.space.parse(row["genotype"]) for row in rule.considered(search) if name[0] != "p"]
        cells += [rule.selected(search), *rows]
    assert len(set(cells)) > 5
    for cell in cells:
        choice = search.space.choice(cell)
        for row, (k, line) in enumerate(zip(choice, left, strict=True)):
            # `none` is what darts calls an edge that is not kept, and a budget one that leads nowhere.
            nothing = search.space.slots[row].candidates[k] == "none" and (budget or space == "s3")
            assert k in line or nothing


def test_what_evolution_draws_anew_is_any_candidate_that_is_left():
    search = job("nasbench201", epochs=1)
    left = one_and_two_left(search.architecture)
    rule, seen = Evolution(400, 1), [set() for _ in left]
    rule.parents = {"": search.architecture.log_probabilities()}
    for number in range(2, 400, 2):
        chosen = search.space.choice(search.space.discretise(rule._individual(search, number)))
        for row, k in enumerate(chosen):
            seen[row].add(k)
    assert seen == [set(line) for line in left]


# When, and which


def watched(monkeypatch, kind):
    """The logits and the mask after every epoch, before anything is taken out then."""
    seen, after = [], kind.after

    def before(self, search, epoch):
        mask = torch.ones_like(search.architecture.logits, dtype=torch.bool)
        known = search.architecture.mask
        if epoch:
            logits = search.architecture.logits.detach().clone()
            seen.append((logits, mask if known is None else known.clone()))
        return after(self, search, epoch)

    monkeypatch.setattr(kind, "after", before)
    return seen


def test_the_least_probable_go_one_after_another_evenly_over_the_epochs(monkeypatch):
    seen = watched(monkeypatch, ByProbability)
    options = {"epochs": 6, "warmup_epochs": 2, "arch_lr": 0.3}
    result = nas.search("micro", shrink="probability:keep=2,decay=0.5", **options, **SMALL)
    left, mean, expected = [set(range(5)) for _ in range(3)], None, []
    for epoch, (logits, mask) in enumerate(seen, 1):
        assert [set(line.nonzero().flatten().tolist()) for line in mask] == left
        if epoch <= 2:
            continue
        p = torch.where(mask, logits.exp(), 0.0)
        p = p / p.sum(-1, keepdim=True)
        mean = p if mean is None else (mean + p) / 2
        while len(expected) < [2, 4, 6, 9][epoch - 3]:  # 3 of 5 candidates of 3 slots: 9 in 4 epochs
            shares = {
                (row, k): float(mean[row, k] / sum(mean[row, j] for j in left[row]))
                for row in range(3) if len(left[row]) > 2 for k in left[row]
            }  # fmt: skip
            row, k = min(shares, key=shares.__getitem__)
            left[row].remove(k)
            expected.append((epoch, row, k))
    assert result.search.shrinking.taken == expected
    assert len({row for _, row, _ in expected[:6]}) > 1
    named = [
        {"epoch": epoch, "slot": slot.label, "candidate": slot.candidates[k]}
        for epoch, slot, k in ((e, result.space.slots[row], k) for e, row, k in expected)
    ]
    assert result.summary["taken_out"] == named
    assert [row for line in result.history for row in line.get("taken_out", ())] == named
    assert all("taken_out" not in line for line in result.history[:2])
    for line, chosen in zip(left, result.space.choice(result.genotype), strict=True):
        assert chosen in line


def test_until_one_architecture_is_left():
    result = nas.search("micro", shrink="probability", epochs=2, warmup_epochs=0, **SMALL)
    assert result.search.architecture.mask.sum(-1).tolist() == [1, 1, 1]
    assert result.history[-1]["entropy"] == 0
    for rule in ("sample:5", "ascent", "evolution:5", "perturbation:1", "halving:2,draws=5,epochs=1"):
        assert result.select(rule) == result.genotype


def test_stages_keep_the_largest_logits_and_rest_at_their_starts(monkeypatch):
    seen = watched(monkeypatch, Stages)
    result = nas.search(
        "micro", estimator="dirichlet", shrink="stages:keep=2,freeze=1", epochs=5, warmup_epochs=0, **SMALL
    )  # the stages are epochs 1 and 2, and 3 to 5
    logits = [logits for logits, _ in seen]
    assert [line["valid_loss"] is None for line in result.history] == [True, False, True, False, False]
    assert torch.equal(logits[1], logits[2])
    assert not torch.equal(logits[0], logits[1])
    kept = logits[1].topk(2).indices.sort().values
    assert [result.search.architecture.candidates(row) for row in range(3)] == kept.tolist()
    assert {epoch for epoch, _, _ in result.search.shrinking.taken} == {2}


# Limits


def test_a_budget_is_in_reach_where_an_architecture_of_what_is_left_is_within_it():
    found = set()
    for options in (
        {"budget": ("parameters=5k",)},
        {"budget": ("parameters=6k", "macs=240k")},
        {"budget": ("parameters=8k",), "max_skips": 0},
        {"max_skips": 0},
    ):
        search = job(**options)
        for seed in range(8):
            left = torch.rand(3, 5, generator=small.rng(seed)) < 0.35
            left[range(3), torch.randint(5, (3,), generator=small.rng(seed))] = True
            lines = [line.nonzero().flatten().tolist() for line in left]
            choices = [list(choice) for choice in itertools.product(*lines)]
            names = [[s.candidates[k] for s, k in zip(search.space.slots, c, strict=True)] for c in choices]
            genotypes = zip(choices, map(search.space.genotype, names), strict=True)
            connected = [choice for choice, genotype in genotypes if search.space.is_connected(genotype)]
            within = any(fit(search.space, c, *search.budget._room()) is not None for c in connected)
            assert search.budget.reaches(left) == within
            found.add(within)
    assert found == {True, False}


def test_a_search_that_shrinks_stays_within_its_budgets():
    options = {"epochs": 3, "warmup_epochs": 1, "prior": 5.0} | SMALL
    free = nas.search("micro", shrink="probability", **options)
    assert free.space.choice(free.genotype) == [3, 3, 3]  # the largest, far above
    result = nas.search("micro", shrink="probability", budgets="parameters=6k,9k", **options)
    rows = result.summary["front"]["rows"]
    assert len(rows) == 2
    for row in rows:
        assert row["costs"]["parameters"] <= row["limit"]
        chosen = result.space.choice(result.space.parse(row["genotype"]))
        for number, k in enumerate(chosen):
            assert k in result.search.architecture.candidates(number) or k == 0


def test_a_slot_keeps_a_candidate_that_can_be_derived():
    result = nas.search("s3", shrink="stages:keep=2,freeze=0", epochs=2, warmup_epochs=0, **SMALL)
    left = [result.search.architecture.candidates(row) for row in range(28)]
    assert {len(line) for line in left} == {2}
    search, taken = job("s3"), []
    for row, k in itertools.product(range(3), range(3)):
        if may_go(search, row, k):
            search.architecture.take_out(row, k)
            taken.append((row, k))
    assert taken == [(row, k) for row in range(3) for k in (0, 1)]  # none, skip_connect


# Interruptions, and what is said


def test_a_search_by_stages_goes_on_where_it_was():
    def make():
        return job(shrink="stages:keep=2,freeze=1", epochs=6, warmup_epochs=1, arch_lr=0.2)

    (whole, lines), (parts, others) = (small.in_pieces(make, 6, pieces) for pieces in (False, True))
    assert others == lines
    assert parts.shrinking.taken == whole.shrinking.taken != []
    assert torch.equal(parts.architecture.mask, whole.architecture.mask)
    assert torch.equal(parts.architecture.logits, whole.architecture.logits)


def test_a_run_says_what_was_taken_out_and_goes_on_where_it_was(tmp_path):
    options = {"epochs": 3, "warmup_epochs": 0, "shrink": "probability:keep=1", "arch_lr": 0.2} | SMALL
    whole = nas.search("micro", **options)
    part = nas.search("micro", out=tmp_path / "run", callback=bool, **options)
    assert part.stopped
    rest = nas.search(out=tmp_path / "run", resume=True)
    assert rest.history == whole.history
    assert rest.search.shrinking.taken == whole.search.shrinking.taken
    again = nas.search(out=tmp_path / "run", resume=True)
    assert torch.equal(again.search.architecture.mask, whole.search.architecture.mask)
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Taken out" in page
    assert len(whole.summary["taken_out"]) == 12
    for row in whole.summary["taken_out"]:
        assert f"{row['candidate']} in {row['slot']}" in page
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [row for line in lines for row in json.loads(line)["taken_out"]] == whole.summary["taken_out"]


def test_a_shrinking_of_ones_own():
    class NoPooling(nas.bilevel.Shrinking):
        name = "no_pooling"

        def after(self, search, epoch):
            if epoch == 1:
                yield from ((row, 4) for row in range(3) if may_go(search, row, 4))

    own = NoPooling()
    result = nas.search("micro", shrink=own, epochs=2, warmup_epochs=0, **SMALL)
    assert result.search.architecture.mask[:, 4].tolist() == [False] * 3
    assert [row["candidate"] for row in result.history[0]["taken_out"]] == ["avg_pool_3x3"] * 3
    assert result.summary["shrink"] == "no_pooling"
    assert own.taken == []  # the search has a copy


def test_what_is_done_after_the_last_step_of_an_epoch_is_done_once(monkeypatch):
    whole, parts = (job(shrink="probability", epochs=1) for _ in range(2))
    for _ in whole.epoch(0, 0):
        pass
    steps = parts.epoch(0, 0)
    for _ in range(parts.steps):
        next(steps)
    state = parts.state()
    assert state["shrinking"]["taken"] == []
    rest = job(shrink="probability", epochs=1)
    rest.restore(state)
    assert list(rest.epoch(0, rest.steps)) == []
    assert rest.shrinking.taken == whole.shrinking.taken
    assert len(rest.shrinking.taken) == 12


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shrink": "probability:keep=0"}, "keep is 0, expected an integer of at least 1"),
        ({"shrink": "probability:keep=5"}, "keeps 5 candidates of every slot, .* have 5 at most: lower keep"),
        ({"shrink": "probability:decay=1"}, "decay is 1.0, expected"),
        ({"shrink": "stages:freeze=-1"}, "freeze is -1"),
        ({"shrink": "stages:freeze=2"}, "chooses after 2 epochs .* freeze is 2"),
        ({"shrink": "stages:freeze=1", "warmup_epochs": 3}, "`warmup_epochs` is 3"),
        ({"shrink": "stage"}, "unknown shrinking 'stage'"),
        ({"shrink": "probability", "space": "s1"}, "cannot shrink 's1': its slots have 2 candidates"),
        ({"shrink": "probability", "space": "s3"}, "the nodes of 's3' choose their edges .* raise keep to 2"),
        ({"shrink": Stages}, "`shrink` is the class Stages"),
    ],
)
def test_what_has_no_meaning_is_refused(options, message):
    with pytest.raises(nas.InputError, match=message):
        nas.search(**({"space": "micro", "epochs": 4, "warmup_epochs": 0} | options), **SMALL)


# Information


def written_out(search):
    """The score of every candidate: node by node, pixel by pixel."""
    total = torch.zeros(3, 5, dtype=torch.float64)
    cells = [module for module in search.supernet.modules() if isinstance(module, Cell)]
    inputs = {}
    handles = [
        cell.register_forward_pre_hook(lambda module, given, i=i: inputs.update({i: given[0][0]}))
        for i, cell in enumerate(cells)
    ]
    weights = torch.zeros(3, 5)
    for row in range(3):
        weights[row, search.architecture.candidates(row)] = 1 / 5
    count = 0
    for images, _ in search.train:
        search.supernet(images, weights)
        count += len(images)
        for i, cell in enumerate(cells):
            nodes = [inputs[i]]
            for source, target, row in ((0, 1, 0), (0, 2, 1), (1, 2, 2)):  # the edges of micro
                edge = next(e for e, p in zip(cell.edges, cell.plan.edges, strict=True) if p.row == row)
                outputs = [operation(nodes[source]) for operation in edge.operations]
                for k, output in enumerate(outputs):
                    vectors = output.permute(0, 2, 3, 1).reshape(-1, output.shape[1]).double()
                    mean = vectors.sum(1, keepdim=True) / vectors.shape[1]
                    variance = (vectors - mean).square().sum(1) / (vectors.shape[1] - 1)
                    each = (3 * (vectors - mean).square().mean(1) / variance**3).nan_to_num(nan=math.inf)
                    total[row, k] += each.mean() * len(images)
                y = sum(weights[row, k] * output for k, output in enumerate(outputs))
                nodes = [*nodes, y] if target == len(nodes) else [*nodes[:-1], nodes[-1] + y]
    for handle in handles:
        handle.remove()
    return total / (count * len(cells))


@torch.no_grad()
def count(counts, what, *_):
    counts[what] += 1


@pytest.mark.parametrize(
    ("estimator", "edge_gradient"),
    [("reinmax", "lean"), ("reinmax", "dense"), ("softmax", "lean")],
)
@pytest.mark.parametrize("space", ["nasbench201", "darts"])
def test_what_was_taken_out_is_not_run_and_changes_no_step(space, estimator, edge_gradient):
    """Not even where its weights have become NaN."""
    states, run = [], []
    for spared in (False, True):
        bilevel = small.bilevel(space, estimator, torch.float64, edge_gradient)
        left = one_and_two_left(bilevel.architecture)
        if spared:
            leave_out(bilevel.supernet, bilevel.architecture.mask)
        counts = Counter()  # of passes, by whether they are of what is left
        for row, k, module in candidates_in(bilevel.supernet):
            there = k in left[row]
            if spared and not there:
                for p in module.parameters():
                    p.data.fill_(torch.nan)
            for layer in module.modules():
                if isinstance(layer, torch.nn.Conv2d):
                    layer.register_forward_hook(partial(count, counts, there))
        valid, train = small.batch(1, torch.float64), small.batch(2, torch.float64)
        results = [
            bilevel.architecture_step(valid, train, small.rng(1)),
            bilevel.weight_step(train, small.rng(2)),
        ]
        assert not any(result.skipped for result in results)
        run.append(counts)
        weights = [
            p for row, k, m in candidates_in(bilevel.supernet) if k in left[row] for p in m.parameters()
        ]
        states.append([bilevel.architecture.logits.detach(), *weights])
    torch.testing.assert_close(*states)
    assert run[0][True] == run[1][True] > 0
    assert run[0][False] > run[1][False] == 0


def test_the_score_of_information_is_that_of_a_computation_that_is_written_out():
    search = job(train_limit=100)
    search.architecture.take_out(0, 3)
    search.architecture.take_out(1, 1)
    before = search.bilevel.work.evaluated
    found = information(search)
    assert search.bilevel.work.evaluated - before == len(search.train.images)
    expected = written_out(search)
    assert found.isinf().equal(expected.isinf())
    assert found[:, 0].isinf().all()
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=0.0)
    assert search.supernet.training
    assert not any(module._forward_hooks for module in search.supernet.modules())


def test_every_slot_loses_the_largest_score_in_every_round_and_the_architecture_learns_nothing(monkeypatch):
    found = []
    measured = ByInformation.after.__globals__["information"]
    monkeypatch.setitem(
        ByInformation.after.__globals__,
        "information",
        lambda search: found.append(measured(search)) or found[-1],
    )
    options = {"epochs": 9, "estimator": "softmax", "policy": "dense", "shrink": "information:every=2"}
    result = nas.search("micro", **options, **SMALL)
    left = [set(range(5)) for _ in range(3)]
    expected = []
    for epoch, scores in zip((2, 4, 6, 8), found, strict=True):
        for row, line in enumerate(left):
            worst = max(line, key=scores[row].tolist().__getitem__)
            line.remove(worst)
            expected.append((epoch, row, worst))
    assert result.search.shrinking.taken == expected
    assert [k for _, _, k in expected[:3]] == [0, 0, 0]  # none
    assert [{k} for k in result.space.choice(result.genotype)] == left
    assert all(line["valid_loss"] is None for line in result.history)
    start = job(**options).architecture.logits
    assert torch.equal(result.logits, start)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 7}, "takes 4 rounds, 2 epochs apart, and `epochs` is 7: give at least 8"),
        ({"shrink": "information:every=0"}, "every is 0"),
        ({"partial_channels": 4}, "candidates have one"),
        ({"space": "s3"}, "does not say which edges the nodes of 's3' keep"),
        (
            {"terms": ("oles", "entropy")},
            "the term 'entropy' goes by architecture steps, and .* leaves none",
        ),
        ({"edge_normalisation": True, "space": "nasbench201"}, "`edge_normalisation` goes by arch"),
    ],
)
def test_what_information_cannot_do_is_refused(options, message):
    with pytest.raises(nas.InputError, match=message):
        nas.search(**({"space": "micro", "epochs": 30, "shrink": "information"} | options), **SMALL)


@pytest.mark.parametrize("pairs", [[(0, k) for k in range(5)], [(0, 1), (0, 1)], [(0, 9)]])
def test_a_shrinking_that_takes_out_what_has_to_stay_is_named(pairs):
    class Hasty(nas.bilevel.Shrinking):
        name = "hasty"

        def after(self, search, epoch):
            yield from pairs if epoch == 1 else []

    with pytest.raises(nas.InputError, match="the shrinking 'hasty' takes out candidate"):
        nas.search("micro", epochs=2, shrink=Hasty(), **SMALL)
