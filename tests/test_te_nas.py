"""Small untrained supernets without each candidate: kernel, regions and ranks, written out."""

import math

import numpy as np
import pytest
import small
import torch
from torch import nn

import nas
from nas.bilevel import Search
from nas.bilevel.shrinkings.te_nas import Alone, ByTrainability, condition, patches, ranks, regions_of
from nas.bilevel.shrinkings.untrained import Mixture
from nas.seeding import generator, seed_everything
from recipes import SearchOptions
from search_spaces.cell import candidates_in
from search_spaces.nasbench201 import micro

SMALL = {"channels": 4, "train_limit": 160, "batch_size": 32, "threads": 1, "tensorboard": False}


def job(space="micro", **options):
    return Search.of(SearchOptions(**(SMALL | {"space": space, "epochs": 1, "warmup_epochs": 0} | options)))


def supernet(channels=3, in_channels=1):
    torch.manual_seed(0)
    return micro.supernet(channels=channels, num_classes=4, in_channels=in_channels)


def test_the_condition_number_is_that_of_the_gradients_of_all_images():
    weights = torch.rand(3, 5, generator=small.rng())
    network, images = (
        Mixture(supernet().double(), weights),
        torch.randn(5, 1, 8, 8, generator=small.rng()).double(),
    )
    found = condition(network, images)
    rows = []
    for i in range(5):
        network.zero_grad()
        network(images)[i].sum().backward()
        rows.append([x for p in network.parameters() if p.dim() > 1 for x in p.grad.flatten().tolist()])
    values = np.linalg.svd(np.array(rows), compute_uv=False) ** 2
    assert found == pytest.approx(values[0] / values[-1], rel=1e-6)
    alike = images[:1].expand(3, -1, -1, -1)
    assert condition(network, alike) > 1e10


def test_regions_are_different_patterns_of_all_relus():
    images = torch.randn(2, 40, 1, 3, 3, generator=small.rng())
    images[:, 30:] = images[:, :10]
    weights = torch.full((3, 5), 0.2)
    weights[1, 3] = 0
    network = Mixture(Alone(supernet(channels=1)), weights)
    found, codes = regions_of(network, images), {}
    blind = {m for row, k, op in candidates_in(network) if (row, k) == (1, 3) for m in op.modules()}
    for module in network.modules():
        if isinstance(module, nn.ReLU) and module not in blind:
            module.register_forward_hook(
                lambda module, given, y: codes.setdefault(module, []).append((y > 0).flatten(1))
            )
    with torch.no_grad():
        for batch in images:
            network(batch)
    patterns = zip(*(torch.cat(parts).tolist() for parts in codes.values()), strict=True)
    assert found == len({tuple(map(tuple, pattern)) for pattern in patterns})
    assert len(codes) == 3 * 2  # the ReLUs of 5 convolutions, and the one behind the cell
    assert 2 < found <= 60


def test_patches_are_squares_of_one_channel_of_an_image():
    images = torch.arange(2 * 3 * 25.0).view(2, 3, 5, 5)
    found = patches(images, (2, 50), 3, small.rng())
    assert found.shape == (2, 50, 1, 3, 3)
    corners = found[..., 0, 0].flatten()
    steps = torch.tensor([[0, 1, 2], [5, 6, 7], [10, 11, 12]])
    assert torch.equal(found.flatten(0, 2), corners.view(-1, 1, 1) + steps)
    assert {int(corner) // 25 for corner in corners} == set(range(6))
    assert {int(corner) % 25 for corner in corners} == {0, 1, 2, 5, 6, 7, 10, 11, 12}


def test_equal_changes_have_equal_ranks():
    assert ranks([0.2, -1.0, 0.2, 0.5]) == [1, 0, 1, 2]


def test_every_slot_loses_the_lowest_sum_of_ranks_in_every_round(monkeypatch):
    search, rounds = job(shrink="te_nas"), []

    def changes(self, search, pairs, number):
        values = torch.rand(2, len(pairs), generator=small.rng(number)).mul(10).round().tolist()
        rounds.append((pairs, *values))
        return values

    monkeypatch.setattr(ByTrainability, "changes", changes)
    search.shrinking.work(search, 0)
    left, expected = [{1, 2, 3, 4} for _ in range(3)], [(0, row, 0) for row in range(3)]
    for pairs, conditions, regions in rounds:
        assert pairs == [(row, k) for row in range(3) for k in sorted(left[row])]
        for row in range(3):
            sums = {}
            for (at, k), lower, fewer in zip(pairs, conditions, regions, strict=True):
                better = len({c for c in conditions if c > lower}) + len({r for r in regions if r < fewer})
                if at == row:
                    sums[k] = better
            worst = min(sums, key=sums.__getitem__)
            left[row].remove(worst)
            expected.append((0, row, worst))
    assert len(rounds) == 3
    assert search.shrinking.taken == expected
    assert all(len(line) == 1 for line in left)


def fresh(channels, outputs):
    """A supernet whose weights have the variance 2 / fan, of outputs or inputs."""
    network = micro.supernet(channels=channels, num_classes=10, in_channels=1, planned_size=8)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            fan = module.weight[:, 0].numel() if outputs else module.weight[0].numel()
            nn.init.normal_(module.weight, std=math.sqrt(2 / fan))
    return network


def test_changes_are_relative_means_over_fresh_weights(monkeypatch):
    monkeypatch.setattr(ByTrainability, "PATCHES", (2, 30))
    search = job(shrink="te_nas:images=6,repeats=2")
    pairs, before = [(0, 3), (2, 1)], search.bilevel.work.trained
    torch.manual_seed(5)
    expected_next = torch.rand(1)
    torch.manual_seed(5)
    found = search.shrinking.changes(search, pairs, 1)
    assert torch.rand(1) == expected_next
    assert search.bilevel.work.trained - before == 2 * 3 * 6
    images, probabilities = next(iter(search.valid))[0], search.architecture.probabilities()
    for n, (row, k) in enumerate(pairs):
        less = probabilities.clone()
        less[row, k] = 0
        less[row] /= 1 - probabilities[row, k]
        conditions, regions = [], []
        for repeat in range(2):
            seed_everything(0, "te-nas", 1, repeat)
            wide, thin = fresh(3, outputs=True), Alone(fresh(1, outputs=False))
            seen = patches(images, (2, 30), 3, generator(0, "patches", 1, repeat))
            whole, without = (condition(Mixture(wide, w), images[:6]) for w in (probabilities, less))
            conditions.append(round((whole - without) / whole, 3))
            whole, without = (regions_of(Mixture(thin, w), seen) for w in (probabilities, less))
            regions.append(round((whole - without) / whole, 3))
        assert found[0][n] == pytest.approx(sum(conditions) / 2, abs=2e-3)
        assert found[1][n] == pytest.approx(sum(regions) / 2)
    assert any(found[1])


def test_one_architecture_is_left_within_the_budget(monkeypatch):
    monkeypatch.setattr(ByTrainability, "PATCHES", (1, 20))
    options = {"epochs": 1, "warmup_epochs": 0, "shrink": "te_nas:images=3,repeats=1"} | SMALL
    result = nas.search("micro", budget="parameters=9k", **options)
    assert result.summary["budget"]["costs"]["parameters"] <= 9000
    assert {row["epoch"] for row in result.summary["taken_out"]} == {0}
    assert sum(result.search.architecture.mask.sum(-1).tolist()) < 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shrink": "te_nas:images=1"}, "images is 1, expected 2"),
        ({"shrink": "te_nas:repeats=0"}, "repeats is 0"),
        ({"shrink": "te_nas", "space": "nasbench_macro"}, "none of 'nasbench_macro' has all slots"),
        ({"shrink": "te_nas", "space": "s3"}, "does not say which edges the nodes of 's3' keep"),
    ],
)
def test_what_has_no_meaning_is_refused(options, message):
    with pytest.raises(nas.InputError, match=message):
        nas.search(**({"space": "micro", "epochs": 2} | options), **SMALL)
