"""Supernets that grow in stages: what their weights, rates and logits are then, and runs that go on there."""

import copy
import gc
import json
import weakref

import pytest
import small
import torch

import estimators
import nas
import search_spaces
from ablation.ranking import rank_epochs
from nas.bilevel import Search
from nas.bilevel.growth import Growth, widen, widened
from nas.bilevel.skips import SkipSchedules
from recipes import InputError, SearchOptions
from recipes.options import check
from search_spaces.cell import candidates_in
from search_spaces.operations import FactorizedReduce

SMALL = {
    "space": "micro", "estimator": "softmax", "channels": 4, "train_limit": 80, "batch_size": 16,
    "warmup_epochs": 0, "threads": 1, "tensorboard": False,
}  # fmt: skip
WIDER = {"partial_channels": 2, "grow": "partial_channels=4", "epochs": 4}
DEEPER = {"cells": 3, "grow": "cells=1:2,channels=2:3", "epochs": 6}


def job(**options):
    return Search.of(check(SearchOptions(**(SMALL | options))))


def epochs(search, *numbers):
    for number in numbers:
        for _ in search.epoch(number, 0):
            pass
    return search


# Weights that are widened


def test_channels_are_copied_in_turn_and_what_reads_copies_is_divided():
    conv = torch.tensor([[1.0, 10.0], [2.0, 20.0]])  # (out, in)
    written = [[0.5, 10.0, 0.5], [1.0, 20.0, 1.0], [0.5, 10.0, 0.5]]
    assert widened(conv, torch.Size([3, 3]), shared=True).tolist() == written
    assert widened(conv, torch.Size([3, 3])).tolist() == [[1, 10, 1], [2, 20, 2], [1, 10, 1]]
    depthwise = torch.tensor([[[3.0, 4.0]], [[5.0, 6.0]]])
    assert widened(depthwise, torch.Size([3, 1, 2]), shared=True)[:, 0].tolist() == [[3, 4], [5, 6], [3, 4]]
    assert widened(conv, conv.shape, shared=True) is conv


def supernet(space, partial, channels):
    torch.manual_seed(partial)
    space = search_spaces.get(space)
    return space.supernet(channels=channels, cells=space.fewest_cells, partial_channels=partial).double()


@pytest.mark.parametrize(("space", "before", "after"), [("nasbench201", 4, 2), ("darts", 3, 2), ("s4", 4, 1)])
def test_a_widened_candidate_makes_copies_of_copies(space, before, after):
    old, new = (supernet(space, partial, 12) for partial in (before, after))
    optimizers = [torch.optim.SGD(net.parameters(), 0.1, 0.9) for net in (old, new)]
    widen(old, new, *optimizers)
    seen = set()
    for (_, k, a), (_, _, b) in zip(candidates_in(old), candidates_in(new), strict=True):
        reduces = any(isinstance(module, FactorizedReduce) for module in a.modules())
        narrow, wide = ([p.shape for p in operation.parameters()] for operation in (a, b))
        assert len(narrow) == len(wide)
        if not narrow or reduces or (k, *narrow) in seen:
            continue
        seen.add((k, *narrow))
        width = narrow[0][0]
        x = torch.randn(3, width, 6, 6, dtype=torch.float64, generator=small.rng(k))
        copies = torch.arange(width * before // after) % width
        torch.testing.assert_close(b(x[:, copies]), a(x)[:, copies], rtol=1e-10, atol=1e-9)
    assert len(seen) > 2


def test_a_stage_of_fewer_partial_channels_begins_with_the_weights_and_the_momentum_there_were():
    search = epochs(job(**WIDER), 0, 1)
    assert (search.stage, search.bilevel.supernet) == (0, search.supernet)
    old, optimizer = search.supernet, search.weight_optimizer
    search._grow(1)
    grown = {}
    for (name, a), (other, b) in zip(old.named_parameters(), search.supernet.named_parameters(), strict=True):
        assert name == other
        momentum, after = (
            o.state[p].get("momentum_buffer") for o, p in ((optimizer, a), (search.weight_optimizer, b))
        )
        assert (momentum is None) == (after is None)
        if a.shape == b.shape:
            assert a.equal(b)
            assert momentum is None or momentum.equal(after)
            continue
        grown[name] = b.shape
        out, into = (torch.arange(n) % m for n, m in zip(b.shape[:2], a.shape[:2], strict=True))
        share = a.shape[1] / b.shape[1]
        torch.testing.assert_close(b.detach(), a.detach()[out][:, into] * share)
        assert after.equal(momentum[out][:, into])
    convolutions = [k for _, k, _ in candidates_in(old) if k in (2, 3)]
    assert len(grown) == len(convolutions)
    assert search.bilevel.supernet is search.supernet
    assert search.bilevel.weight_optimizer is search.weight_optimizer
    assert search.bilevel.parameters == list(search.supernet.parameters())
    assert {edge.partial for m in search.supernet.modules() for edge in getattr(m, "edges", [])} == {2}


@pytest.mark.parametrize("edge_gradient", ["lean", "captured"])
def test_nothing_is_kept_of_a_supernet_that_has_been_outgrown(edge_gradient):
    search = job(**DEEPER, estimator="reinmax", edge_gradient=edge_gradient)
    for _ in zip(range(2), search.epoch(0, 0), strict=False):
        pass
    old = [weakref.ref(parameter) for parameter in search.supernet.parameters()]
    gc.disable()  # what is freed is freed by the search
    try:
        search._grow(1)
        left = [parameter() for parameter in old if parameter() is not None]
    finally:
        gc.enable()
    assert not left


def test_what_is_stopped_for_good_stays_stopped_where_weights_are_widened():
    search = job(**WIDER, terms=("oles:threshold=1,comparisons=1",))
    (term,) = search.bilevel.terms
    for _ in search.epoch(0, 0):
        pass
    stopped = list(term.stops.stopped)
    assert any(stopped)
    search._grow(1)
    assert term.stops.stopped == stopped
    own = {id(p) for p in search.supernet.parameters()}
    assert all(id(weight) in own for weights in term.stops.operations for weight in weights)


def test_rates_go_on_where_weights_are_widened_and_begin_anew_with_new_ones():
    def rates(**options):
        search, seen = job(lr=0.1, lr_min=0.01, **options), []
        for epoch in range(options["epochs"]):
            for _ in search.epoch(epoch, 0):
                pass
            seen.append(search.weight_optimizer.param_groups[0]["lr"])
        return seen

    def cosine(epoch, length):
        return 0.01 + 0.045 * (1 + torch.tensor(epoch / length * torch.pi).cos().item())

    few = {"train_limit": 40, "batch_size": 16}
    assert rates(**WIDER, **few) == pytest.approx([cosine(epoch, 4) for epoch in range(4)])
    assert rates(**DEEPER, **few) == pytest.approx([cosine(epoch % 2, 2) for epoch in range(6)])


def test_deeper_supernets_have_new_weights_and_all_see_them():
    options = {"estimator": "softmax", "terms": ("oles",), "alignment_every": 1, "curvature_every": 6}
    search, seen = job(**DEEPER, **options), []
    for epoch in range(6):
        before = search.architecture.logits.detach().clone()
        steps = search.epoch(epoch, 0)
        next(steps)
        moved = (search.architecture.logits - before).abs().max()
        assert moved < 0.1  # candidates keep their logits
        for _ in steps:
            pass
        line = search.describe(epoch)
        assert ("alignment" in line, "curvature" in line) == (True, epoch == 5)
        assert line["stage"] == epoch // 2 + 1
        seen.append(search.supernet)
        assert search.bilevel.supernet is search.supernet
        (term,) = search.bilevel.terms
        assert len(term.stops.operations) == sum(
            bool(list(operation.parameters())) for _, _, operation in candidates_in(search.supernet)
        )
    assert [len(net.blocks) for net in seen] == [5, 5, 8, 8, 11, 11]
    assert [net.num_features for net in seen] == [8, 8, 12, 12, 16, 16]
    assert len(set(map(id, seen))) == 3
    assert not seen[0].stem[0].weight.equal(seen[2].stem[0].weight)


def test_what_an_own_estimator_begins_with_is_what_it_goes_back_to():
    class Counting(estimators.family("reinforce_loo")):
        name = "counting"

        def __init__(self, tau=None):
            super().__init__(tau)
            self.seen = 0

        def advantages(self, losses, mean=None):
            self.seen += 1
            return super().advantages(losses, mean)

        def state(self):
            return {"seen": self.seen}

        def load_state(self, state):
            self.seen = state["seen"]

    found = nas.search(**SMALL | DEEPER | {"estimator": Counting()})
    assert found.search.architecture.estimator.seen == 2 * found.search.steps  # of the last stage


@pytest.mark.parametrize("name", ["reinforce_critic", "reinforce", "double_cv"])
def test_what_an_estimator_remembers_is_of_weights_that_are_still_there(name):
    for sizes, kept in ((DEEPER, False), (WIDER, True)):
        search = job(**sizes, estimator=name)
        for epoch in (0, 1):
            for _ in search.epoch(epoch, 0):
                pass
        before = dict(search.architecture.estimator.state())
        assert before
        search._grow(1)
        assert bool(search.architecture.estimator.state()) == kept


# Logits and candidates


def test_stages_of_any_number_keep_the_largest_logits_and_may_forget_them():
    search = job(**DEEPER, shrink="stages:keep=4:2,freeze=1,restart=true", arch_lr=0.3)
    assert [epoch for epoch in range(6) if search.shrinking.rests(search, epoch)] == [0, 2, 4]
    architecture = search.architecture
    epochs(search, 0)
    first = architecture.logits.detach().clone()
    epochs(search, 1)
    learned, mask = architecture.logits.detach().clone(), architecture.mask
    assert (learned - first).abs().max() > 0.1
    for row in range(3):
        assert mask[row].tolist() == [value > learned[row].min() for value in learned[row]]
    assert search.architecture_optimizer.state
    steps = search.epoch(2, 0)
    next(steps)  # of the weights alone
    assert architecture.logits.abs().max() < 0.01
    assert not search.architecture_optimizer.state
    assert architecture.mask.sum(-1).tolist() == [4, 4, 4]
    for _ in steps:
        pass
    epochs(search, 3, 4, 5)
    assert architecture.mask.sum(-1).tolist() == [2, 2, 2]
    assert [epoch for epoch, _, _ in search.shrinking.taken] == [2] * 3 + [4] * 6


def test_none_can_be_no_candidate_from_the_start():
    search = epochs(job(shrink="stages:keep=3,freeze=0,keep_none=false", epochs=2), 0)
    assert [taken for taken in search.shrinking.taken if taken[0] == 0] == [(0, row, 0) for row in range(3)]
    assert search.architecture.mask.sum(-1).tolist() == [3, 3, 3]


def test_each_stage_has_its_dropout():
    options = SearchOptions(skip_dropout="0.1:0,0.4:0.2,0.7", space="darts")
    dropout = SkipSchedules.of(options, search_spaces.get("darts")).dropout
    places = [0, 1 / 6, 1 / 3, 1 / 2, 2 / 3, 5 / 6, 1]
    assert [dropout(place) for place in places] == pytest.approx([0.1, 0.05, 0.4, 0.3, 0.7, 0.7, 0.7])
    for length in range(1, 200):  # at each first step, whatever the rounding
        for stage, value in enumerate((0.1, 0.4, 0.7)):
            assert dropout(stage * length / (3 * length)) == pytest.approx(value)


# Runs


@pytest.mark.parametrize("growth", [WIDER, DEEPER | {"shrink": "stages:keep=4:3,freeze=1,restart=true"}])
def test_an_interrupted_search_is_the_same_search(growth):
    options = growth | {"edge_normalisation": True}
    total = options["epochs"]
    whole = epochs(job(**options), *range(total))
    stage = total // len(whole.growth.stages)
    # In the first stage, after a step of its last epoch; at the boundary; after the first step of the next.
    for epoch, steps in ((stage - 1, 1), (stage, 0), (stage, 1)):
        search = epochs(job(**options), *range(epoch))
        begun = search.epoch(epoch, 0)
        for _ in range(steps):
            next(begun)
        state = copy.deepcopy(search.state())
        search = job(**options)
        search.restore(state)
        assert search.stage == (1 if (epoch, steps) == (stage, 1) else 0)
        for _ in search.epoch(epoch, steps):
            pass
        epochs(search, *range(epoch + 1, total))
        torch.testing.assert_close(search.state(), whole.state(), rtol=0, atol=0)


def test_a_search_that_stops_after_the_last_step_of_an_epoch_writes_the_same_line():
    """The temperature, and the strengths of skips, are those of that step."""
    options = {
        "estimator": "st_gumbel", "auxiliary_skip": "1:0", "skip_dropout": "0.3:0", "epochs": 3,
        "evaluate_every": 2, "measure_every": 2,
    }  # fmt: skip
    whole = epochs(job(**options), 0, 1)
    search = job(**options)
    search.restore(copy.deepcopy(whole.state()))
    for _ in search.epoch(1, search.steps):
        pass
    torch.testing.assert_close(search.state(), whole.state(), rtol=0, atol=0)
    assert search.describe(1) == whole.describe(1)
    assert 0.1 < search.architecture.estimator.tau < 10


@pytest.mark.slow
def test_p_darts_from_the_first_to_the_last_stage(tmp_path):
    recipe = {
        "preset": "darts-p-darts", "channels": 2, "cells": 5, "grow": "cells=3:4", "epochs": 3,
        "shrink": "stages:keep=5:3,freeze=0,restart=true", "train_limit": 40, "batch_size": 16,
        "threads": 1, "tensorboard": False, "image_size": 8, "out": str(tmp_path / "run"),
    }  # fmt: skip
    stopped = nas.search(**recipe, callback=lambda line: line["epoch"] == 2)
    assert stopped.stopped
    result = nas.search(**recipe, resume=True)
    assert len(result.supernet.cells) == 5
    assert result.search.architecture.mask.sum(-1).tolist() == [3] * 28
    normal = result.genotype.cells[0]
    assert sum(edge.operation == "skip_connect" for edge in normal.edges) <= 2
    assert "none" not in str(result.genotype)
    assert result.summary["parameters"] == sum(p.numel() for p in result.supernet.parameters())
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [len(line.get("taken_out", [])) for line in lines] == [28 * 3, 28 * 2, 0]
    assert (tmp_path / "run" / "report.html").exists()


def test_a_run_folder_goes_on_in_the_stage_that_it_was_in(tmp_path):
    recipe = SMALL | WIDER | {"train_limit": 40, "derive": "sample:3", "skip_dropout": "0.2:0,0.4:0"}
    whole = nas.search(**recipe, progress=False)
    for last in (2, 3):
        out = {"out": str(tmp_path / f"after {last}"), "keep_weights_every": 2}
        nas.search(**recipe, **out, callback=lambda line, last=last: line["epoch"] == last)
        result = nas.search(**recipe, **out, resume=True)
        assert result.logits.equal(whole.logits)
        assert result.summary["considered"] == whole.summary["considered"]
        for name, tensor in whole.search.weights().items():
            assert tensor.equal(result.search.weights()[name])
    assert result.summary["parameters"] == sum(
        p.numel() for p in job(partial_channels=2).supernet.parameters()
    )


def test_kept_weights_are_ranked_in_the_supernet_of_their_stage():
    options = SMALL | {"cells": 2, "grow": "cells=1", "epochs": 4, "train_limit": 40}
    result = nas.search(**options, keep_weights_every=1, callback=lambda line: line["epoch"] == 3)
    state = copy.deepcopy(result.search.state())
    weights, end = rank_epochs(result, cells=5, progress=False, epochs=[2, 3])
    assert (weights.epoch, end.epoch, len(result.supernet.blocks)) == (2, 3, 8)
    torch.testing.assert_close(result.search.state(), state, rtol=0, atol=0)
    search = epochs(Search.of(SearchOptions(**options)), 0, 1)
    genotype = search.would_find()
    score = search.score(genotype)
    result.search.take(result.ended.folder.kept_weights(2), 2)
    assert result.search.score(genotype) == score
    with pytest.raises(InputError, match="not of this search"):
        result.search.take(copy.deepcopy(result.search.weights()), 3)


# What has no meaning


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"grow": "cells"}, r"`grow` is 'cells', expected SIZE=N:N"),
        ({"grow": "cells=0:1", "cells": 3}, "expected SIZE=N:N"),
        ({"grow": "cell=1", "cells": 3}, "cell.*nearest: cells|unknown size that grows"),
        ({"grow": "cells=1,cells=2", "cells": 3}, "names cells twice"),
        ({"grow": "cells=1:2,channels=2", "cells": 3}, "equally many sizes of each"),
        ({"grow": "cells=1"}, r"`grow=cells=1` goes before `cells=1`, expected sizes that rise"),
        ({"grow": "cells=2:1", "cells": 3, "epochs": 3}, "expected sizes that rise"),
        ({"grow": "partial_channels=2", "partial_channels": 4}, "expected sizes that fall"),
        ({"grow": "partial_channels=2"}, None),
        ({"grow": "partial_channels=3"}, "`partial_channels=3` does not go with .*4 channels has no 3"),
        ({"grow": "cells=1", "cells": 2, "epochs": 3}, "`epochs` is 3, expected a multiple of 2"),
        ({"grow": "cells=1", "space": "mobile"}, "expected sizes that rise"),
        ({"grow": "cells=2", "cells": 5, "space": "darts"}, "`cells` is 2, expected at least 3"),
        ({"grow": "cells=1", "cells": 2, "stop_entropy": 0.1}, "`stop_entropy` could end the search"),
        ({"grow": "cells=1", "cells": 2, "skip_dropout": "0.1,0.2,0.3"}, "3 schedules, expected 1, or 2"),
        (
            {"grow": "cells=1", "cells": 2, "epochs": 6, "shrink": "stages:keep=4:3,freeze=0"},
            "has 3 stages, `grow` 2",
        ),
        (
            {"grow": "partial_channels=2", "estimator": "reinmax", "edge_gradient": "captured"},
            "captured.* does not go with `partial_channels=2`",
        ),
        ({"shrink": "stages:keep=3:3,freeze=0"}, "keep is 3:3, expected fewer from stage to stage"),
        ({"shrink": "stages:keep=a"}, "keep is 'a', expected an integer, or several"),
        ({"skip_dropout": "0.1,x"}, "expected a number or START:END"),
    ],
)
def test_what_has_no_meaning_is_refused_in_a_line(options, message):
    if message is None:
        assert len(job(**options, epochs=2).growth.stages) == 2
        return
    with pytest.raises(InputError, match=message) as error:
        job(**({"epochs": 2} | options))
    assert "\n" not in str(error.value)


def test_a_search_without_growth_is_one_stage():
    growth = Growth.of(SearchOptions(epochs=7), search_spaces.get("micro"))
    assert ({growth.stage(epoch) for epoch in range(7)}, growth.schedule) == ({0}, 7)
