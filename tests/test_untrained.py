"""Architectures that are chosen before the first step, by what untrained supernets promise."""

import copy
import itertools

import pytest
import small
import torch
from torch import nn

import nas
from nas.bilevel import Search
from nas.bilevel.shrinkings import untrained
from nas.bilevel.shrinkings.untrained import ByZeroCost
from nas.data.batches import EVALUATION_BATCH
from nas.seeding import generator
from recipes import SearchOptions
from recipes.options import check
from search_spaces.cell import candidates_in

SMALL = {"channels": 4, "train_limit": 160, "batch_size": 16, "threads": 1, "tensorboard": False}


def job(space="micro", **options):
    return Search.of(SearchOptions(**(SMALL | {"space": space, "epochs": 1, "warmup_epochs": 0} | options)))


@torch.no_grad()
def agreement(network, images, *weights):
    """log det of the number of ReLUs that two images agree on, as they do on all of what has the weight 0."""
    network, codes, out = copy.deepcopy(network), [], set()
    for row, k, operation in candidates_in(network) if weights else ():
        if weights[0][row, k] == 0:
            out |= set(operation.modules())
    for module in network.modules():
        if isinstance(module, nn.ReLU):
            module.register_forward_hook(
                lambda module, given, y: codes.append(((y > 0) & (module not in out)).flatten(1))
            )
    network(images, *weights)
    alike = sum((code[:, None] == code[None]).sum(-1) for code in codes)
    return float(torch.linalg.slogdet(alike.double())[1])


def test_within_a_budget_a_proposal_takes_the_next_best(monkeypatch):
    values = itertools.cycle([4.0, 3.0, 1.0, 0.0, 2.0])  # without none, skip, 1x1, 3x3, pooling
    monkeypatch.setattr(untrained, "value_of", lambda *_: next(values))
    options = {"space": "nasbench201", "channels": 4, "train_limit": 80, "batch_size": 16, "max_skips": None}
    search = Search.of(check(SearchOptions(**options, budget=("parameters=22k",))))
    (cell,) = ByZeroCost(proposals=1)._proposal(search, 0, 0).cells
    assert {edge.operation for edge in cell.edges} == {"nor_conv_3x3", "nor_conv_1x1"}


def test_a_score_sees_as_many_images_as_it_asks_for(monkeypatch):
    """More than a batch has, where there are so many."""
    search = job(shrink="zero_cost:by=naswot:images=40,proposals=1")
    batch, seen = search.options.batch_size, []
    assert batch < 40
    monkeypatch.setattr(untrained, "value_of", lambda *given: seen.append(len(given[-1][1])) or 0.0)
    list(search.shrinking.after(search, 0))
    assert set(seen) == {min(-(-40 // batch), len(search.valid)) * batch}
    images, labels = search.valid.first(10**6)
    assert len(images) == len(labels) == len(search.valid.images)
    assert len(search.valid.first(1)[1]) <= max(batch, EVALUATION_BATCH)


def test_proposals_keep_what_the_score_is_lowest_without(monkeypatch):
    search = job(shrink="zero_cost:by=naswot:images=6,proposals=2,batches=2")
    seen, best = [], ByZeroCost._best
    monkeypatch.setattr(
        ByZeroCost, "_best", lambda self, search, cells: seen.append(cells) or best(self, search, cells)
    )
    before = search.bilevel.work.trained
    pairs = list(search.shrinking.after(search, 0))
    expected = []
    for number in range(2):
        weights = torch.softmax(search.architecture.logits.detach(), -1)
        batches = search.valid.endless(3 * number)
        for row in torch.randperm(3, generator=generator(0, "proposal", number)).tolist():
            images, scores = next(batches)[0][:6], []
            for k in range(5):
                tried = weights.clone()
                tried[row, k] = 0
                scores.append(agreement(search.supernet, images, tried))
            weights[row] = torch.eye(5)[min(range(5), key=scores.__getitem__)]
        expected.append(search.space.discretise(weights))
    (cells,) = seen
    assert cells == list(dict.fromkeys(expected))
    chosen = best(search.shrinking, search, cells)
    kept = search.space.choice(chosen)
    assert pairs == [(row, k) for row in range(3) for k in range(5) if k != kept[row]]
    looks = 2 * 15 + 2 * 2 * len(cells) * (len(cells) > 1)  # the best was chosen twice
    assert search.bilevel.work.trained - before == 6 * looks


def test_the_best_proposal_has_the_highest_sum_over_batches():
    search = job(shrink="zero_cost:by=naswot:images=8,batches=3")
    texts = ["|nor_conv_3x3~0|+|skip_connect~0|nor_conv_1x1~1|", "|nor_conv_1x1~0|+|none~0|avg_pool_3x3~1|"]
    cells = [search.space.parse(text) for text in texts]
    sums = []
    for cell in cells:
        nas.seeding.seed_everything(0, "zero-cost")
        network = search.space.network(
            cell, channels=4, num_classes=10, in_channels=1, planned_size=8
        ).train()
        batches = search.valid.endless(0)
        images = [next(batches)[0][:8] for _ in range(3)]
        sums.append(sum(agreement(network, x) for x in images))
    assert sums[0] != sums[1]
    assert search.shrinking._best(search, cells) == cells[sums.index(max(sums))]
    assert search.shrinking._best(search, cells[::-1]) == cells[sums.index(max(sums))]


def test_one_architecture_is_left_from_the_start_and_after_an_interruption():
    def make():
        return job(epochs=2, shrink="zero_cost:synflow,proposals=1")

    (whole, lines), (parts, others) = (small.in_pieces(make, 2, pieces) for pieces in (False, True))
    assert whole.architecture.mask.sum(-1).tolist() == [1, 1, 1]
    assert lines[0]["taken_out"] == whole.shrinking.named(whole.space)
    assert {row["epoch"] for row in lines[0]["taken_out"]} == {0}
    assert lines[0]["entropy"] == 0
    assert lines[0]["valid_loss"] is None
    assert others == lines
    assert torch.equal(parts.architecture.mask, whole.architecture.mask)


def test_what_is_chosen_is_within_the_budget():
    search = job(shrink="zero_cost:by=zico:images=8,proposals=1", budget=("parameters=6k",))
    search.shrinking.work(search, 0)
    assert search.budget.cost(search.would_find())["parameters"] <= 6000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shrink": "zero_cost:by=luck"}, "unknown zero-cost score 'luck'"),
        ({"shrink": "zero_cost:proposals=0"}, "proposals is 0"),
        ({"shrink": "zero_cost", "space": "s3"}, "does not say which edges the nodes of 's3' keep"),
    ],
)
def test_what_has_no_meaning_is_refused(options, message):
    with pytest.raises(nas.InputError, match=message):
        nas.search(**({"space": "micro", "epochs": 2} | options), **SMALL)
