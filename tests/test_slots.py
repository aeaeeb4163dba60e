"""Slots: each decision has candidates of its own, and everything that is built from them agrees."""

import itertools
import random

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import search_spaces
from recipes import InputError
from recipes.registry import Registry
from search_spaces import ABSENT, GenotypeError, SearchSpace, Slot, operations
from search_spaces.cell import Cell
from search_spaces.darts import DartsSpace
from search_spaces.mixed_edge import MixedEdge
from search_spaces.nasbench201 import DenseCellSpace
from search_spaces.skeleton import Skeleton
from search_spaces.split import Split, layer_key
from tests.test_search_spaces import copy_weights

pytestmark = pytest.mark.usefixtures("fixed_noise")


class ChainNetwork(Skeleton):
    """One block after another, of which the second halves the resolution."""

    def __init__(self, plan, factory, size):
        super().__init__()
        c = size.channels
        widths = [c, c, 2 * c, 2 * c]
        self.stem = nn.Sequential(nn.Conv2d(size.in_channels, c, 3, padding=1), factory.frame_norm(c))
        self.blocks = nn.ModuleList(
            Cell(block, lambda e, i=i: factory.edge(e, widths[i], widths[i + 1], 2 if i == 1 else 1))
            for i, block in enumerate(plan.chain())
        )
        self.num_features = widths[-1]
        self.reset_classifier(size.num_classes)

    def features(self, x, choice):
        x = self.stem(x)
        for block in self.blocks:
            x = block([x], choice)
        return x, None


class Chain(SearchSpace):
    """Three blocks with 3, 2 and 4 candidates."""

    name, channels, cells = "chain", 4, 1
    slots = (
        Slot("chain", 0, 1, ("nor_conv_3x3", "skip_connect", "avg_pool_3x3"), "first"),
        Slot("chain", 1, 2, ("sep_conv_3x3", "nor_conv_1x1"), "second"),
        Slot("chain", 2, 3, ("skip_connect", "max_pool_3x3", "dil_conv_3x3", "noise"), "third"),
    )

    def skeleton(self, plans, factory, size):
        return ChainNetwork(plans["chain"], factory, size)


CHAIN = Chain()
UNEVEN = DartsSpace(  # edges with 1, 2 or 3 candidates that can be derived
    "uneven",
    [("none", "skip_connect"), ("sep_conv_3x3", "skip_connect"), *[("skip_connect",)] * 12],
    [("max_pool_3x3", "avg_pool_3x3", "none", "sep_conv_3x3"), *[("none", "skip_connect", "noise")] * 13],
)
SPACES = [search_spaces.get(f"s{i}") for i in range(1, 5)] + [CHAIN, UNEVEN]
EVERY = [*SPACES, *(search_spaces.get(name) for name in ("nasbench201", "darts", "micro"))]


def ids(space):
    return space.name


def random_draw(space, seed):
    g = torch.Generator().manual_seed(seed)
    chosen = torch.tensor([int(torch.randint(len(s.candidates), (), generator=g)) for s in space.slots])
    return F.one_hot(chosen, space.width).double().requires_grad_()


def build(space, mode="lean"):
    torch.manual_seed(0)
    return space.supernet(channels=4, cells=space.fewest_cells, num_classes=5, edge_gradient=mode).double()


def batch():
    g = torch.Generator().manual_seed(3)
    x = torch.randn(6, 3, 9, 9, generator=g, dtype=torch.float64)
    return x.contiguous(memory_format=torch.channels_last), torch.tensor([0, 1, 2, 3, 4, 0])


@pytest.mark.parametrize("space", SPACES, ids=ids)
def test_lean_equals_autograd_over_all_candidates(space):
    supernet = build(space)
    x, y = batch()
    for seed in range(3):
        found = {}
        for mode in ("lean", "dense"):
            supernet.set_edge_gradient(mode)
            draw = random_draw(space, seed)
            loss = F.cross_entropy(supernet(x, draw), y)
            parts = [draw, supernet.stem[0].weight]
            found[mode] = (loss, *torch.autograd.grad(loss, parts, materialize_grads=True))
        torch.testing.assert_close(found["lean"], found["dense"], rtol=1e-10, atol=1e-12)
        mask = space.mask()
        if mask is not None:
            assert (found["lean"][1][~mask] == 0).all()
        assert found["lean"][1].abs().max() > 1e-4


@pytest.mark.parametrize("space", [CHAIN, search_spaces.get("s4")], ids=ids)
def test_compiled_and_surrogate_take_candidates_of_different_number(space, monkeypatch):
    from search_spaces.batched_products import _compiled

    _compiled.cache_clear()
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    supernet, (x, y), found = build(space), batch(), {}
    for mode in ("compiled", "dense", "surrogate"):
        supernet.set_edge_gradient(mode)
        draw = random_draw(space, 1)
        (found[mode],) = torch.autograd.grad(F.cross_entropy(supernet(x, draw), y), draw)
    _compiled.cache_clear()
    torch.testing.assert_close(found["compiled"], found["dense"], rtol=1e-10, atol=1e-12)
    chosen = draw.detach() == 1
    torch.testing.assert_close(found["surrogate"][chosen], found["dense"][chosen], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("space", SPACES, ids=ids)
def test_a_draw_of_each_image(space):
    """Rows of weights (B, E, K), with 0 where there is no candidate, mix the outputs of each image."""
    supernet = build(space)
    x, _ = batch()
    draw = random_draw(space, 2).detach()
    torch.testing.assert_close(supernet(x, draw.expand(len(x), -1, -1)), supernet(x, draw))


def test_the_gradient_is_that_of_the_noise_that_was_drawn(monkeypatch):
    """A fresh value would have another inner product: every call of forward is counted and differs."""
    outputs = []

    def forward(self, x):
        outputs.append(torch.randn_like(operations._shaped(x, self.channels, self.stride)))
        return outputs[-1]

    monkeypatch.setattr(operations.Noise, "forward", forward)
    supernet = build(CHAIN)
    x, _ = batch()
    draw = torch.zeros(3, 4, dtype=torch.float64)
    draw[0, 0] = draw[1, 0] = draw[2, 3] = 1
    draw.requires_grad_()
    for mode in ("lean", "compiled"):
        outputs.clear()
        supernet.set_edge_gradient(mode)
        if mode == "compiled":
            monkeypatch.setattr(torch, "compile", lambda function, **options: function)
        features = supernet.features(x, search_spaces.mixed_edge.read_draw(draw, x.device))[0]
        upstream = torch.randn_like(features)
        (gradient,) = torch.autograd.grad(features, draw, upstream)
        torch.testing.assert_close(gradient[2, 3], (outputs[0] * upstream).sum())
    search_spaces.batched_products._compiled.cache_clear()


@pytest.mark.parametrize("space", EVERY, ids=ids)
def test_rows_masks_and_operations(space):
    assert space.num_slots == len(space.labels) == len(set(space.labels))
    mask = space.mask()
    full = torch.ones(space.num_slots, space.width, dtype=torch.bool) if mask is None else mask
    assert full.sum(1).tolist() == [len(slot.candidates) for slot in space.slots]
    assert (mask is None) == (len({len(slot.candidates) for slot in space.slots}) == 1)
    for row, slot in enumerate(space.slots):
        assert space.row(slot.cell, slot.source, slot.target) == row
    assert set(space.operations) == {name for slot in space.slots for name in slot.candidates}
    with pytest.raises(KeyError):
        space.row(space.cell_names[0], 5, 1)


@pytest.mark.parametrize("space", EVERY, ids=ids)
def test_choices_and_notation_are_inverses(space):
    for seed in range(20):
        genotype = space.random(random.Random(seed))
        text = space.format(genotype)
        assert space.validate(genotype) == space.parse(text) == genotype
        assert space.recognises(text)
        choice = space.choice(genotype)
        for slot, index in zip(space.slots, choice, strict=True):
            assert index == ABSENT or 0 <= index < len(slot.candidates)
            assert index != ABSENT or "none" not in slot.candidates
        scores = (torch.tensor(choice).unsqueeze(1) == torch.arange(space.width)).float()
        scores += 1e-3 * torch.rand(scores.shape)
        assert space.discretise(scores) == genotype


@pytest.mark.parametrize("space", [CHAIN, UNEVEN], ids=ids)
def test_discretisation_looks_at_own_candidates_only(space):
    scores = torch.rand(space.num_slots, space.width, generator=torch.Generator().manual_seed(1))
    mask = space.mask()
    assert space.discretise(scores.masked_fill(~mask, 100.0)) == space.discretise(scores)
    assert space.discretise(scores.masked_fill(~mask, -torch.inf)) == space.discretise(scores)


@pytest.mark.parametrize("space", SPACES, ids=ids)
def test_supernet_runs_the_derived_network_with_absent_edges(space):
    """Edges that are not chosen and have no `none` are not run and contribute nothing."""
    torch.manual_seed(0)
    genotype = space.random(random.Random(4))
    sizes = {"channels": 4, "cells": space.fewest_cells, "num_classes": 7}
    supernet, network = space.supernet(**sizes), space.network(genotype, **sizes).train()
    if space is CHAIN:
        supernet.stem.load_state_dict(network.stem.state_dict(), strict=False)
    copy_weights(supernet, network)
    for module in supernet.modules():
        if isinstance(module, MixedEdge) and space.pool_norm:
            for name, operation in module.candidates.items():
                if operations.family(name) == "pooling":
                    operation[1] = nn.Identity()
    x = torch.randn(5, 3, 9, 9)
    torch.testing.assert_close(supernet(x, space.choice(genotype)), network(x), rtol=1e-4, atol=1e-4)


def test_a_node_without_edges_is_zero():
    space = search_spaces.get("s2")
    supernet = space.supernet(channels=4, cells=3)
    assert supernet(torch.randn(2, 3, 9, 9), [ABSENT] * space.num_slots).shape == (2, 10)
    chain = CHAIN.supernet(channels=4)
    assert chain(torch.randn(2, 3, 9, 9), [ABSENT, ABSENT, 0]).shape == (2, 10)


def two_edges(sizes):
    """Ways to choose two of some edges and a candidate on each."""
    return sum(a * b for a, b in itertools.combinations(sizes, 2))


def test_sizes():
    assert CHAIN.size == 3 * 2 * 4
    for i in range(1, 5):  # two candidates that can be derived on every edge
        assert search_spaces.get(f"s{i}").size == (two_edges([2] * 2) * 12 * 24 * 40) ** 2
    normal = [two_edges(s) for s in ([1, 2], [1] * 3, [1] * 4, [1] * 5)]
    reduce = [two_edges(s) for s in ([3, 2], [2] * 3, [2] * 4, [2] * 5)]
    expected = 1
    for ways in normal + reduce:
        expected *= ways
    assert UNEVEN.size == expected


def test_random_architectures_are_uniform():
    """Into the first node of the normal cell of a space with 1, 2 and 1 candidates lead 5 pairs of edges."""
    space = DartsSpace(
        "toy",
        [("skip_connect",)] * 2 + [("skip_connect",), ("sep_conv_3x3", "noise"), ("none", "skip_connect")] +
        [("skip_connect",)] * 9,
        ("skip_connect",),
    )  # fmt: skip
    counts = {}
    rng = random.Random(0)
    for _ in range(5000):
        edges = tuple(e for e in space.random(rng).cells[0].edges if e.target == 3)
        counts[edges] = counts.get(edges, 0) + 1
    assert len(counts) == 5
    assert sum((n - 1000) ** 2 / 1000 for n in counts.values()) < 18.47  # 99.9 %, 4 degrees of freedom
    chain = {CHAIN.format(CHAIN.random(rng)) for _ in range(400)}
    assert len(chain) == CHAIN.size


def test_notation_of_slots():
    text = "chain(avg_pool_3x3, nor_conv_1x1, noise)"
    assert CHAIN.format(CHAIN.parse(text)) == text
    for wrong in ("", "chain", "chain()", text[:-1], text.replace("noise", "none"), text + ")", "x" + text):
        with pytest.raises(GenotypeError, match="chain"):
            CHAIN.parse(wrong)


def test_an_edge_takes_its_own_candidates_only():
    s1 = search_spaces.get("s1")
    text = s1.format(s1.random(random.Random(0)))
    assert "dil_conv_5x5" in text
    with pytest.raises(GenotypeError, match="unknown operation 'sep_conv_5x5' for the space 's1'"):
        s1.parse(text.replace("dil_conv_5x5", "sep_conv_5x5"))


def test_registration(monkeypatch):
    monkeypatch.setattr(search_spaces._SPACES, "_things", dict(search_spaces._SPACES._things))
    registry = Registry.kinds["operation"]
    monkeypatch.setattr(registry, "_things", dict(registry._things))
    assert search_spaces.register(CHAIN) is CHAIN is search_spaces.get("chain")
    assert search_spaces.register(CHAIN) is CHAIN  # once more, as where a cell of a notebook is
    with pytest.raises(ValueError, match="search space 'chain' exists already"):
        search_spaces.register(DenseCellSpace("chain", nodes=3, channels=4, cells=1))
    with pytest.raises(InputError, match="did you mean chain"):
        search_spaces.get("chian")
    operations.register("swish", lambda channels_in, channels_out, stride, norm: nn.SiLU(), "other")
    assert operations.family("swish") == "other"
    assert isinstance(operations.build("swish", 4, 4, 1, nn.BatchNorm2d), nn.SiLU)
    with pytest.raises(ValueError, match="family of operations 'convolutions'"):
        operations.register("conv", lambda *_: nn.SiLU(), "convolutions")
    with pytest.raises(ValueError, match="distinct candidates"):
        Slot("cell", 0, 1, ("none", "none"), "0→1")


def slots(*ends):
    return tuple(Slot("chain", *pair, ("skip_connect", "none"), f"{pair}") for pair in ends)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"slots": ()}, "space 'own' has no slots"),
        ({"slots": None}, "space 'own' has no slots"),
        ({"slots": [*slots((0, 1)), "slot"]}, "space 'own' has no slots"),
        (
            {"slots": slots((0, 1), (0, 2), (0, 1))},
            "space 'own' has two slots from node 0 to node 1 of 'chain'",
        ),
        (
            {"slots": slots((0, 1), (2, 2))},
            r"slot '\(2, 2\)' .* leads from node 2 to node 2, expected a later",
        ),
        ({"slots": slots((-1, 1))}, "leads from node -1"),
        ({"name": "My Space"}, "'My Space' is no name for a search space"),
        ({"name": None}, "None is no name for a search space"),
    ],
)
def test_a_space_that_cannot_be_is_refused_when_it_is_registered(changes, words):
    space = type("Own", (type(CHAIN),), {"name": "own", **changes})()
    with pytest.raises(ValueError, match=words) as caught:
        search_spaces.register(space)
    assert "\n" not in str(caught.value)
    assert "own" not in search_spaces.names()


def test_a_class_is_no_space():
    with pytest.raises(ValueError, match=r"the class .* is no search space, expected an object"):
        search_spaces.register(type(CHAIN))
    nameless = type("Nameless", (SearchSpace,), {"skeleton": None, "slots": CHAIN.slots})()
    with pytest.raises(ValueError, match="None is no name for a search space"):
        search_spaces.register(nameless)


def test_drop_path_of_a_skeleton():
    """None unless a network builds it in; then it is found."""
    cell = CHAIN.random(random.Random(0))
    assert CHAIN.network(cell, num_classes=3).drop_path is None
    darts = search_spaces.get("darts")
    network = darts.network(darts.random(random.Random(0)), channels=4, cells=3, drop_path=True)
    network.set_drop_path(0.25)
    assert network.drop_path.probability == 0.25


@pytest.mark.parametrize("name", [n for n in operations.names() if operations.family(n) != "pooling"])
@pytest.mark.parametrize(("channels_out", "stride"), [(4, 1), (4, 2), (6, 1), (6, 2)])
def test_operations_map_channels_and_strides(name, channels_out, stride):
    module = operations.build(name, 4, channels_out, stride, nn.BatchNorm2d)
    assert module(torch.randn(2, 4, 9, 7)).shape == (2, channels_out, -(-9 // stride), -(-7 // stride))


def test_poolings_keep_channels():
    with pytest.raises(ValueError, match="4 channels into 6"):
        operations.build("avg_pool_3x3", 4, 6, 1, nn.BatchNorm2d)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (nn.AvgPool2d(3, 1, 1), nn.AvgPool2d(3, 1, 1, count_include_pad=False)),
        (nn.AvgPool2d(3, 2, 1), nn.AvgPool2d(3, 2, 1, ceil_mode=True)),
        (nn.AvgPool2d(3, 1, 1), nn.AvgPool2d(3, 1, 1, divisor_override=4)),
        (nn.MaxPool2d(3, 1, 1), nn.MaxPool2d(3, 1, 1, dilation=2)),
        (nn.MaxPool2d(3, 2, 1), nn.MaxPool2d(3, 2, 1, ceil_mode=True)),
        (nn.ReLU(), nn.ReLU(inplace=True)),
    ],
)
def test_layers_are_shared_if_all_their_settings_are_equal(one, other):
    assert layer_key(one) != layer_key(other)
    assert layer_key(one) == layer_key(type(one)(**settings(one)))
    x = torch.randn(2, 3, 8, 8)
    cache = {}
    first, second = (Split.of(nn.Sequential(layer, nn.Conv2d(3, 3, 1))) for layer in (one, other))
    first.before_pointwise(x, cache)
    second.before_pointwise(x.clone(), cache)
    assert len(cache) == 2


def settings(layer):
    return {k: v for k, v in vars(layer).items() if not k.startswith("_") and k != "training"}
