"""Chains of blocks: the spaces mobile, mobile_se and nasbench_macro."""

import csv
import gzip
import random
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from small import batch, bilevel, rng
from torch import nn

import estimators
import nas
import search_spaces
from nas import tables
from nas.bilevel.rules.names import collapse_warnings
from nas.bilevel.steps import frozen
from nas.training.final import count_macs
from search_spaces import batched_products
from search_spaces.cell import Cell, CellPlan, EdgeFactory, PlannedEdge
from search_spaces.chain import ChainSpace
from search_spaces.mixed_edge import MixedEdge, read_draw
from search_spaces.operations import Residual, Zero, candidate_norm, family, supernet_norm
from search_spaces.skeleton import Size

MACRO, MOBILE = search_spaces.get("nasbench_macro"), search_spaces.get("mobile")
CHAINS = [space for space in map(search_spaces.get, search_spaces.names()) if isinstance(space, ChainSpace)]
IMAGE = (3, 32, 32)


def parameters(network):
    return sum(p.numel() for p in network.parameters())


# What is published of nasbench_macro


@pytest.mark.parametrize(
    ("text", "count", "macs"),
    [
        ("22222222", 2_932_586, 105_660_928),
        ("00000000", 387_882, 7_713_280),
        ("22212202", 1_985_514, 85_164_544),
    ],
)
def test_published_counts(text, count, macs):
    network = MACRO.network(MACRO.parse(text))
    assert parameters(network) == count
    assert count_macs(network, IMAGE) == macs


@pytest.fixture
def table(shared_data):
    with gzip.open(shared_data / "nas_bench_macro_cifar10.csv.gz", "rt") as file:
        return list(csv.DictReader(file))


def test_counts_of_all_networks(table):
    """Every block adds what it adds anywhere, which a handful of whole networks bears out."""
    with torch.device("meta"):
        derived = MACRO.network(MACRO.parse("11111111"))
    places = [(stage, i) for stage, count in enumerate((2, 3, 3)) for i in range(count)]
    costs = [[block_costs(*place, k) for k in range(3)] for place in places]
    ones = [row[1] for row in costs]
    rest = (
        parameters(derived) - sum(count for count, _ in ones),
        count_macs(derived, IMAGE) - sum(macs for _, macs in ones),
    )
    assert len(table) == MACRO.size == 6_561
    for row in table:
        found = [costs[i][int(digit)] for i, digit in enumerate(row["arch"])]
        assert rest[0] + sum(p for p, _ in found) == int(row["parameters"])
        assert rest[1] + sum(m for _, m in found) == int(row["macs"])
    for row in random.Random(0).sample(table, 12):
        with torch.device("meta"):
            network = MACRO.network(MACRO.parse(row["arch"]))
        assert parameters(network) == int(row["parameters"])
        assert count_macs(network, IMAGE) == int(row["macs"])


@cache
def block_costs(stage, number, k):
    """Parameters and multiply-adds of a block, which has the layers of the published code."""
    width = 32 * 2**stage
    size = 32 // 2**stage  # of the feature map before the stage
    before, stride = (width, 2) if number == 0 else (2 * width, 1)
    width, size = 2 * width, size if number == 0 else size // 2
    after = (size // stride) ** 2
    if k == 0:
        return (0, 0) if number else (before * width + 2 * width, before * width * after)
    kernel, wide = {1: (3, 3 * before), 2: (5, 6 * before)}[k]
    weights = before * wide, wide * kernel**2, wide * width
    count = sum(weights) + 2 * (wide + wide + width)
    return count, weights[0] * size**2 + (weights[1] + weights[2]) * after


def test_networks_that_compute_the_same(table):
    """Of one canonical form are exactly those that the benchmark trained once."""
    forms = {}
    for row in table:
        forms.setdefault(MACRO.canonical(MACRO.parse(row["arch"])), []).append(row)
    assert all(len({(r["cifar10"], r["std"], r["macs"]) for r in rows}) == 1 for rows in forms.values())
    assert len(forms) == len({(r["cifar10"], r["std"], r["macs"], r["parameters"]) for r in table}) == 3_969


def test_notation():
    genotype = MACRO.parse(" 01200120\n")
    assert MACRO.format(genotype) == "01200120"
    assert MACRO.canonical(genotype) == "01200120"
    assert MACRO.canonical(MACRO.parse("00002001")) == "00020010"
    assert [len(cell.edges) for cell in genotype.cells] == [2, 3, 3]
    assert nas.genotypes.read_genotype("22212202") == MACRO.parse("22212202")
    for wrong in ("2221220", "222122021", "22212203", "2221220x", ""):
        with pytest.raises(search_spaces.GenotypeError, match="8 digits"):
            MACRO.parse(wrong)
    with pytest.raises(nas.InputError, match="8 digits 0, 1 and 2"):
        nas.genotypes.read_genotype("99999999")


# The space mobile


@pytest.mark.parametrize(
    ("size", "stem", "stages"),
    [(8, 1, (1, 1, 1, 1, 2)), (16, 1, (1, 1, 2, 1, 2)), (32, 1, (1, 2, 2, 1, 2)), (64, 1, (2, 2, 2, 1, 2)),
     (96, 1, (2, 2, 2, 1, 2)), (128, 2, (2, 2, 2, 1, 2)), (224, 2, (2, 2, 2, 1, 2)), (3, 1, (1, 1, 1, 1, 1))],
)  # fmt: skip
def test_strides_follow_the_images(size, stem, stages):
    layout = MOBILE.layout(16, size)
    assert (layout.stem_stride, tuple(stride for _, stride in layout.stages)) == (stem, stages)
    network = MOBILE.network(MOBILE.random(random.Random(0)), channels=4, planned_size=size)
    side = -(-size // network.stages[-1].reduction)
    assert network.forward_features(torch.zeros(2, 3, size, size)).shape == (2, 320, side, side)


@pytest.mark.parametrize(
    ("channels", "widths"),
    [(16, (16, 24, 40, 80, 112, 160, 1280)), (8, (8, 16, 24, 40, 56, 80, 640)),
     (24, (24, 40, 64, 120, 168, 240, 1920)), (4, (8, 8, 16, 24, 32, 40, 320))],
)  # fmt: skip
def test_width_multiplier(channels, widths):
    layout = MOBILE.layout(channels, 32)
    assert (layout.stem, *(width for width, _ in layout.stages), layout.features) == widths


def test_depth_is_a_choice_where_the_shape_stays():
    for space in CHAINS:
        for cell in space.genotype([slot.candidates[0] for slot in space.slots]).cells:
            assert [(e.source, e.target) for e in cell.edges] == [(i, i + 1) for i in range(len(cell.edges))]
    for slot in MOBILE.slots:
        assert ("identity" in slot.candidates) == (slot.source > 0)
        assert len(slot.candidates) == 6 + (slot.source > 0)
    assert search_spaces.get("mobile_se").width == 13
    shallow = MOBILE.network(MOBILE.genotype([slot.candidates[0] for slot in MOBILE.slots]), channels=4)
    assert sum(isinstance(m, torch.nn.Identity) for stage in shallow.blocks for m in stage) == 15


def test_cells_and_planned_size_are_refused_where_they_mean_nothing():
    with pytest.raises(nas.InputError, match="`cells` is 2, expected 1 in the space 'mobile'"):
        nas.search("mobile", cells=2)
    with pytest.raises(nas.InputError, match=r"`planned_size` is for the spaces darts, .*mobile"):
        nas.search("nasbench_macro", planned_size=64)


# The gradient of the draws


def gradient(space, supernet, mode, estimator="reinmax", order=torch.channels_last):
    supernet.set_edge_gradient(mode)
    generator = rng(1)
    logits = torch.randn(space.num_slots, space.width, generator=generator).double().requires_grad_()
    mask = space.mask()
    masked = logits if mask is None else logits.masked_fill(~mask, -torch.inf)
    x = torch.randn(4, 3, 9, 9, generator=rng(2)).double().contiguous(memory_format=order)
    draw = estimators.get(estimator)(masked, generator=generator)
    with frozen(supernet.parameters()):
        loss = F.cross_entropy(supernet(x, draw), torch.arange(4))
        return torch.autograd.grad(loss, logits)[0]


@pytest.mark.parametrize("order", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("name", ["mobile", "mobile_se"])
def test_lean_equals_dense(name, order):
    torch.manual_seed(0)
    space = search_spaces.get(name)
    supernet = space.supernet(channels=4, num_classes=5).double().to(memory_format=order)
    lean, dense = (gradient(space, supernet, mode, order=order) for mode in ("lean", "dense"))
    torch.testing.assert_close(lean, dense, rtol=1e-11, atol=1e-13)
    assert dense.abs().max() > 1e-4


@pytest.mark.parametrize("name", ["nasbench_macro", "mobile"])
def test_several_draws(name):
    """The estimates of three draws are averaged, and are equal in both implementations."""
    steps = []
    for mode in ("lean", "dense"):
        search = bilevel(name, dtype=torch.float64, edge_gradient=mode, draws=3)
        search.architecture_step(batch(3, torch.float64), batch(4, torch.float64), rng(5))
        steps.append(search.architecture.logits.grad)
    torch.testing.assert_close(*steps, rtol=1e-10, atol=1e-12)
    assert steps[0].norm() > 1e-4


@pytest.mark.parametrize("chosen", [0, 1, 2])
@pytest.mark.parametrize("compiled", [False, True])
def test_products_of_residual_candidates(chosen, compiled, monkeypatch):
    """With and without a last normalisation, a candidate that adds its input gets <dL/dy, x + branch(x)>."""
    monkeypatch.setattr(batched_products, "_compiled", lambda: batched_products.batched_products)
    torch.manual_seed(0)
    plain = Residual(nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.Tanh()))
    normal = Residual(nn.Sequential(nn.Conv2d(4, 4, 1, bias=False), candidate_norm(4)))
    operations = [plain.double(), normal.double(), nn.Identity()]
    edge = MixedEdge(zip("abc", operations, strict=True), Zero(4, 1))
    edge.edge_gradient = "compiled" if compiled else "lean"
    cell = Cell(CellPlan(1, 2, (PlannedEdge(0, 1, 0, None, ("a", "b", "c")),)), lambda _: edge)
    x, upstream = torch.randn(2, 2, 4, 5, 5, dtype=torch.float64)
    weights = torch.eye(3, dtype=torch.float64)[[chosen]].requires_grad_()
    y = cell([x], read_draw(weights, x.device))
    torch.testing.assert_close(y, operations[chosen](x))
    (at_weights,) = torch.autograd.grad(y, weights, upstream)
    expected = torch.stack([(upstream * operation(x)).sum() for operation in operations])
    torch.testing.assert_close(at_weights[0], expected)


def kept_bytes(network, *arguments):
    """Bytes that a forward pass keeps for backward, besides weights."""
    weights = {tensor.data_ptr() for tensor in network.state_dict().values()}
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor, tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = network(*arguments)
    assert output.requires_grad
    return sum(size for storage, (_, size) in kept.items() if storage not in weights)


@pytest.mark.parametrize("space", CHAINS, ids=lambda space: space.name)
def test_an_architecture_step_keeps_what_the_sampled_network_keeps(space):
    torch.manual_seed(0)
    genotype = space.random(random.Random(4))
    choice = space.choice(genotype)
    supernet = space.supernet(channels=8).to(memory_format=torch.channels_last)
    factory = EdgeFactory(candidate_norm, supernet_norm)
    alone = space.skeleton(space.plans(genotype), factory, Size(8, 1, 10, 3))
    alone = alone.to(memory_format=torch.channels_last)
    x = torch.randn(3, 3, 16, 16).contiguous(memory_format=torch.channels_last)
    draw = F.one_hot(torch.tensor(choice), space.width).float().requires_grad_()
    small, lean = kept_bytes(alone, x), kept_bytes(supernet, x, draw)
    assert kept_bytes(supernet, x, choice) == small
    assert lean < 1.02 * small
    supernet.set_edge_gradient("dense")
    assert kept_bytes(supernet, x, draw) > 3 * small


def test_only_what_is_chosen_is_trained():
    supernet = MOBILE.supernet(channels=4)
    choice = MOBILE.choice(MOBILE.random(random.Random(0)))
    supernet(torch.randn(2, 3, 8, 8), choice).sum().backward()
    edges = [module for module in supernet.modules() if isinstance(module, MixedEdge)]
    assert len(edges) == MOBILE.num_slots
    for edge, chosen in zip(edges, choice, strict=True):
        for k, operation in enumerate(edge.operations):
            assert all((p.grad is not None) == (k == chosen) for p in operation.parameters())


def test_drop_path_drops_the_branch_and_keeps_the_input():
    network = MOBILE.network(MOBILE.random(random.Random(0)), channels=4, drop_path=True).train()
    network.set_drop_path(1 - 1e-7)
    residual = [block for stage in network.blocks for block in stage if isinstance(block, Residual)]
    assert residual
    for block in residual:
        x = torch.randn(2, next(block.parameters()).shape[1], 4, 4)
        assert torch.equal(block(x), x)


# Searches


DATA = torch.rand(48, 1, 8, 8), torch.arange(48) % 3
SMALL = {"channels": 4, "batch_size": 8, "tensorboard": False}


def test_a_search_is_resumed(tmp_path):
    options = SMALL | {"data": DATA, "epochs": 2, "warmup_epochs": 0}
    whole = nas.search("nasbench_macro", **options)
    part = tmp_path / "part"
    stopped = nas.search("nasbench_macro", out=part, callback=lambda metrics: True, **options)
    assert stopped.stopped
    resumed = nas.search(out=part, data=DATA, resume=True)
    assert torch.equal(resumed.logits, whole.logits)
    assert str(resumed) == str(whole)


def test_what_is_found_is_trained_saved_and_loaded(tmp_path):
    found = nas.search("mobile", DATA, epochs=1, warmup_epochs=0, **SMALL)
    assert sum(found.history[-1]["skip_connects"].values()) == sum(
        edge.operation == "identity" for cell in found.genotype.cells for edge in cell.edges
    )
    trained = nas.train(found.genotype, DATA, epochs=1, drop_path=0.1, planned_size=32, **SMALL)
    trained.save_model(tmp_path / "model.safetensors")
    again = nas.load(tmp_path / "model.safetensors")
    x = torch.randn(2, 1, 8, 8)
    torch.testing.assert_close(again(x), trained.model(x), rtol=1e-5, atol=1e-6)
    assert again.description["planned_size"] == 32
    assert again.stages[-1].reduction == 8


def test_a_shallow_network_is_told():
    first = [slot.candidates[0] for slot in MOBILE.slots]
    assert sum(family(name) == "skip" for name in first) == 15
    (warning,) = collapse_warnings(MOBILE.genotype(first))
    assert warning == "the network is shallow: 15 of its 20 blocks are the identity"
    assert collapse_warnings(MACRO.parse("22212202")) == []


# Its table


def write_table(path, header, row):
    lines = [header, *(row(i, MACRO.format(genotype)) for i, genotype in enumerate(MACRO.all()))]
    path.write_text("\n".join(lines))
    return path


def test_a_table_with_deviations_and_costs_is_read(tmp_path):
    path = write_table(
        tmp_path / "t.csv",
        "arch,cifar10,std,parameters,macs",
        lambda i, text: f"{text},{i / 100},0.5,1,{10**9}",
    )
    known = tables.read(path, "nasbench_macro")
    assert known.lookup(MACRO.parse("00000012")) == (0.05, 0.5, 6_556, 6_561)
    assert known.optimum[0] == "22222222"
    assert list(tables.read_all(path, "nasbench_macro")) == ["cifar10"]
    several = write_table(tmp_path / "u.csv", "arch,std,a,b", lambda i, text: f"{text},0.5,1,2")
    assert tables.read(several, "nasbench_macro", "b").lookup(MACRO.parse("00000012")).std is None


def test_the_published_table_is_read(shared_data):
    known = tables.read(shared_data / "nas_bench_macro_cifar10.csv.gz", "nasbench_macro")
    assert known.optimum[0] == "22212202"
    assert known.optimum[1].accuracy == pytest.approx(93.1267)
    assert known.lookup(MACRO.parse("22222222")) == pytest.approx((92.9533, 0.0772, 21, 6_561))
