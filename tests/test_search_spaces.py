"""Search spaces: notation, counts published elsewhere, and one skeleton for both networks."""

import copy
import itertools
import json
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.fx
import torch.nn.utils.prune

import search_spaces
from search_spaces import Edge, Genotype, GenotypeError, operations
from search_spaces.cell import Cell
from search_spaces.mixed_edge import MixedEdge
from search_spaces.zoo import PUBLISHED

pytestmark = pytest.mark.usefixtures("fixed_noise")
SPACES = [search_spaces.get(name) for name in search_spaces.names()]
NASBENCH = search_spaces.get("nasbench201")
DARTS = search_spaces.get("darts")
DARTS_V2 = PUBLISHED["darts_v2"][1]
# The benchmark's best architecture on CIFAR-10 (index 6111), and all skip-connects (index 1835).
BEST = "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_1x1~2|"
SKIPS = "|skip_connect~0|+|skip_connect~0|skip_connect~1|+|skip_connect~0|skip_connect~1|skip_connect~2|"


def parameters(network):
    return sum(p.numel() for p in network.parameters())


def ids(space):
    return space.name


@pytest.mark.parametrize("space", SPACES, ids=ids)
def test_genotypes_round_trip(space):
    for seed in range(20):
        genotype = space.random(random.Random(seed))
        assert space.parse(space.format(genotype)) == genotype
        assert Genotype.from_json(json.loads(json.dumps(genotype.to_json()))) == genotype
        assert space.validate(genotype) == genotype
        assert hash(genotype) == hash(space.parse(space.format(genotype)))
        with pytest.raises(AttributeError):
            genotype.space = "other"
    assert space.random(np.random.default_rng(0)).space == space.name


@pytest.mark.parametrize("space", SPACES, ids=ids)
def test_random_architectures_differ(space):
    assert len({space.random(random.Random(seed)) for seed in range(50)}) > 25


def test_sizes():
    assert NASBENCH.size == 15_625
    assert search_spaces.get("micro").size == 125
    assert DARTS.size == (3 * 6 * 10 * 7**8) ** 2


def test_canonical_count_is_the_benchmarks():
    cells = (NASBENCH.genotype(c) for c in itertools.product(NASBENCH.operations, repeat=6))
    assert len({NASBENCH.canonical(cell) for cell in cells}) == 6_466


def test_what_is_connected_has_its_input_in_its_canonical_form():
    for space in (NASBENCH, search_spaces.get("micro")):
        assert all(space.is_connected(cell) == ("0" in space.canonical(cell)) for cell in space.all())


@pytest.mark.parametrize(("text", "count"), [(BEST, 1_073_466), (SKIPS, 73_306)])
def test_nasbench201_parameters(text, count):
    assert parameters(NASBENCH.network(NASBENCH.parse(text), channels=16, cells=5, num_classes=10)) == count


def test_darts_v2_parameters():
    genotype = DARTS.parse(DARTS_V2)
    assert parameters(DARTS.network(genotype, channels=36, cells=20, num_classes=10)) == 3_349_342


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_cells(name):
    space_name, text, citation = PUBLISHED[name]
    space = search_spaces.get(space_name)
    genotype = space.parse(text)
    assert space.parse(space.format(genotype)) == genotype
    assert "arXiv" in citation
    network = space.network(genotype, channels=4, cells=3)
    assert network(torch.randn(2, 3, 8, 8)).shape == (2, 10)


@pytest.mark.parametrize("space", SPACES, ids=ids)
def test_supernet_and_derived_network_compute_the_same(space):
    """With equal weights, a supernet that is given the choice of a genotype is its network."""
    torch.manual_seed(0)
    genotype = space.random(random.Random(5))
    sizes = {"channels": 4, "cells": space.fewest_cells, "num_classes": 7, "in_channels": 1}
    supernet = space.supernet(**sizes)
    network = space.network(genotype, **sizes).train()
    copy_weights(supernet, network, genotype)
    x = torch.randn(5, 1, 9, 9)
    choice = space.choice(genotype)
    if space.pool_norm:  # the supernet alone normalises pooling candidates, by design of DARTS
        for module in supernet.modules():
            if isinstance(module, MixedEdge):
                for name, operation in module.candidates.items():
                    if operations.family(name) == "pooling":
                        operation[1] = torch.nn.Identity()
    torch.testing.assert_close(supernet(x, choice), network(x), rtol=1e-5, atol=1e-5)


def operation_of(genotype, block):
    """The operation of a block `blocks.STAGE.NUMBER` of a chain."""
    stage, number = map(int, block.split(".")[1:])
    return genotype.cells[stage].edges[number].operation


def copy_weights(supernet, network, genotype=None):
    """Copy what both have; a mixed edge's chosen candidate sits under its own name."""
    source = dict(supernet.named_modules())
    for name, module in network.named_modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            twin = source.get(name)
            if twin is None and ".edges." not in name:  # an operation of a chain, in a cell of its own there
                block = ".".join(name.split(".")[:3])
                chosen = source[f"{block}.edges.0"].candidates[operation_of(genotype, block)]
                twin = chosen.get_submodule(name.removeprefix(block).removeprefix("."))
            elif twin is None:  # .edges.i.j in the network is .edges.row.candidates.operation.j there
                prefix, _, rest = name.partition(".edges.")
                position, _, inner = rest.partition(".")
                cell = dict(network.named_modules())[prefix]
                planned = cell.plan.edges[int(position)]
                twin_cell = source[prefix]
                row = next(
                    i
                    for i, e in enumerate(twin_cell.plan.edges)
                    if (e.source, e.target) == (planned.source, planned.target)
                )
                twin = source[f"{prefix}.edges.{row}.candidates.{planned.operation}.{inner}"]
            module.load_state_dict(twin.state_dict())


@pytest.mark.parametrize("size", [8, 9, 16, 25])
@pytest.mark.parametrize("space", SPACES, ids=ids)
def test_any_image_size(space, size):
    network = space.supernet(channels=4, cells=space.fewest_cells)
    choice = space.choice(space.random(random.Random(1)))
    assert network(torch.randn(2, 3, size, size), choice).shape == (2, 10)


def test_auxiliary_head_and_drop_path():
    network = DARTS.network(
        DARTS.parse(DARTS_V2), channels=4, cells=3, num_classes=5, auxiliary=True, drop_path=True
    )
    x = torch.randn(4, 3, 32, 32)
    logits, auxiliary = network.train()(x)
    assert logits.shape == auxiliary.shape == (4, 5)
    assert network.eval()(x).shape == (4, 5)
    assert torch.equal(network(x), network(x))
    network.train().set_drop_path(0.5)
    assert not torch.equal(network(x)[0], network(x)[0])
    with pytest.raises(ValueError, match="have no auxiliary"):
        NASBENCH.network(NASBENCH.parse(BEST), auxiliary=True)


def test_drop_path_keeps_the_mean_and_drops_whole_images():
    drop = search_spaces.operations.DropPath().train()
    drop.probability.fill_(0.3)
    x = torch.ones(20_000, 2, 2, 2)
    y = drop(x)
    per_image = y.flatten(1)
    assert torch.equal(per_image, per_image[:, :1].expand(-1, 8))
    assert sorted(y.unique().tolist()) == pytest.approx([0.0, 1 / 0.7])
    assert y.mean().item() == pytest.approx(1.0, abs=0.02)
    assert torch.equal(drop.eval()(x), x)


def test_derivation_is_the_argmax():
    scores = torch.zeros(6, 5)
    for row, k in enumerate([3, 3, 1, 0, 2, 4]):
        scores[row, k] = 1
    expected = "|nor_conv_3x3~0|+|nor_conv_3x3~0|skip_connect~1|+|none~0|nor_conv_1x1~1|avg_pool_3x3~2|"
    assert NASBENCH.format(NASBENCH.discretise(scores)) == expected


def test_darts_derivation_keeps_two_edges_and_never_none():
    scores = torch.full((28, 8), -5.0)
    scores[:, 0] = 10.0  # none is favoured everywhere
    scores[3, 4] = scores[4, 2] = 1.0  # edges 1->3 and 2->3 of the normal cell
    genotype = DARTS.discretise(scores)
    assert genotype.count("none") == {"normal": 0, "reduce": 0}
    normal = [e for e in genotype.cells[0].edges if e.target == 3]
    assert normal == [Edge(1, 3, "sep_conv_3x3"), Edge(2, 3, "avg_pool_3x3")]
    for cell in genotype.cells:
        assert [e.target for e in cell.edges] == [2, 2, 3, 3, 4, 4, 5, 5]


@pytest.mark.parametrize("name", ["darts", "nasnet"])
def test_a_supernet_has_no_cell_of_another_output(name):
    space = search_spaces.get(name)
    found = space.random(random.Random(0))
    space.choice(found)
    other = replace(found, cells=tuple(replace(cell, concat=cell.concat[-1:]) for cell in found.cells))
    with pytest.raises(GenotypeError, match=r"concatenates nodes|no other"):
        space.path(other)


def test_choice_is_the_inverse_of_derivation():
    for space in SPACES:
        genotype = space.random(random.Random(3))
        choice = torch.tensor(space.choice(genotype))
        one_hot = (choice.unsqueeze(1) == torch.arange(space.width)).float()  # an absent edge is all 0
        assert space.discretise(one_hot) == genotype


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nor_conv_3x3",
        BEST[:-1],
        BEST.replace("nor_conv_1x1", "nor_conv_9x9"),
        BEST.replace("~2", "~1"),
        BEST.replace("~2", "~9"),
        BEST + "+|none~0|",
        DARTS_V2,
    ],
)
def test_malformed_nasbench201_strings(text):
    with pytest.raises(GenotypeError, match="nasbench201"):
        NASBENCH.parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        BEST,
        "Genotype()",
        DARTS_V2[:-1],
        DARTS_V2.replace("Genotype", "eval"),
        DARTS_V2.replace("'sep_conv_3x3', 0", "'none', 0", 1),
        DARTS_V2.replace("'sep_conv_3x3', 0", "'sep_conv_9x9', 0", 1),
        DARTS_V2.replace("'sep_conv_3x3', 0", "'sep_conv_3x3', 1", 1),
        DARTS_V2.replace("'sep_conv_3x3', 0", "'sep_conv_3x3', True", 1),
        DARTS_V2.replace("'sep_conv_3x3', 0", "'sep_conv_3x3', -1", 1),
        DARTS_V2.replace("range(2, 6)", "range(2, 60)"),
        DARTS_V2.replace("range(2, 6)", "range(10**9)"),
        DARTS_V2.replace("range(2, 6)", "__import__('os').getcwd()"),
        DARTS_V2.replace("'sep_conv_3x3', 0", "'sep_conv_3x3', " + "(" * 500, 1),
        "[" * 5_000,
        "Genotype(" + "1+" * 4_000 + "1)",
        DARTS_V2 * 100,
    ],
)
def test_malformed_darts_genotypes(text):
    with pytest.raises(GenotypeError):
        DARTS.parse(text)


@pytest.mark.parametrize(
    "data",
    [None, [], {}, {"space": "micro"}, {"space": 1, "cells": []}, {"space": "micro", "cells": [{}]},
     {"space": "micro", "cells": [{"name": "cell", "edges": [["none", "0", 1]], "concat": []}]}],
)  # fmt: skip
def test_malformed_json(data):
    with pytest.raises(GenotypeError, match="genotype JSON"):
        Genotype.from_json(data)


def test_validation_changes_nothing_silently():
    """Three edges into one node and one into the next are no DARTS cell, though as many pairs."""
    genotype = DARTS.parse(DARTS_V2)
    normal = genotype.cells[0]
    moved = replace(normal, edges=(*normal.edges[:2], replace(normal.edges[2], target=2), *normal.edges[3:]))
    with pytest.raises(GenotypeError, match="node 2 of 'normal' has 3 edges"):
        DARTS.validate(replace(genotype, cells=(moved, genotype.cells[1])))
    with pytest.raises(GenotypeError, match="must name distinct nodes"):
        DARTS.validate(replace(genotype, cells=(replace(normal, concat=()), genotype.cells[1])))


def test_networks_say_what_they_are_called_with():
    space = search_spaces.get("micro")
    x = torch.randn(2, 3, 8, 8)
    with pytest.raises(TypeError, match="called with a draw"):
        space.supernet(channels=4)(x)
    with pytest.raises(TypeError, match="called with a draw"):
        space.network(space.random(random.Random(0)), channels=4)(x, [0, 0, 0])


def test_genotype_of_another_space_is_refused():
    with pytest.raises(GenotypeError, match="belongs to the space 'micro'"):
        NASBENCH.network(search_spaces.get("micro").random(random.Random(0)))


@pytest.mark.parametrize("space", SPACES, ids=ids)
def test_hooks_on_the_operations_of_a_derived_network_fire(space):
    network = space.network(space.random(random.Random(2)), channels=4, cells=space.fewest_cells)
    called = set()
    for name, module in network.named_modules():
        module.register_forward_hook(lambda module, inputs, output, name=name: called.add(name))
    network(torch.randn(2, 3, 16, 16))
    cells = {name: module for name, module in network.named_modules() if isinstance(module, Cell)}
    edges = {
        f"{name}.edges.{i}"
        for name, cell in cells.items()
        for i, edge in enumerate(cell.plan.edges)
        if operations.family(edge.operation) != "none"
    }
    assert edges <= called
    layers = {name for name, m in network.named_modules() if isinstance(m, torch.nn.Conv2d | torch.nn.ReLU)}
    assert layers <= called


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("space", SPACES, ids=ids)
def test_derived_networks_can_be_traced_and_copied(space, training):
    features = dict.fromkeys(space.features, True)
    for seed in range(3):
        torch.manual_seed(seed)
        genotype = space.random(random.Random(seed))
        network = space.network(genotype, channels=4, cells=space.fewest_cells, **features).train(training)
        x = torch.randn(3, 3, 9, 9).contiguous(memory_format=torch.channels_last)
        outputs = []
        for model in (network, torch.fx.symbolic_trace(network), copy.deepcopy(network)):
            torch.manual_seed(1)
            outputs.append(model(x))
        torch.testing.assert_close(outputs[1], outputs[0], rtol=0, atol=0)
        torch.testing.assert_close(outputs[2], outputs[0], rtol=0, atol=0)


def test_operations_of_a_derived_network_can_be_pruned():
    network = NASBENCH.network(NASBENCH.parse(BEST), channels=4, cells=1).eval()
    x = torch.randn(2, 3, 8, 8)
    before = network(x)
    conv = network.blocks[0].edges[0][1]
    torch.nn.utils.prune.l1_unstructured(conv, "weight", amount=0.5)
    assert not torch.equal(network(x), before)
