"""The gradient of the draws: exact in both implementations, at no hidden cost."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F

import estimators
import search_spaces
from nas.bilevel.steps import frozen
from search_spaces.batched_products import _compiled
from search_spaces.cell import Cell
from search_spaces.mixed_edge import MixedEdge, read_draw
from search_spaces.products import Pixels, inner_product, normalised_inner_product, pointwise_product

pytestmark = pytest.mark.usefixtures("fixed_noise")
SPACES = [name for name in search_spaces.names() if "mobile" not in name]  # these: test_chain_spaces.py
PATHWISE = [name for name in estimators.names() if estimators.family(name).signal == "gradient"]


def build(name, edge_gradient="lean", dtype=torch.float64):
    torch.manual_seed(0)
    space = search_spaces.get(name)
    supernet = space.supernet(
        channels=4, cells=space.fewest_cells, num_classes=5, edge_gradient=edge_gradient
    ).to(dtype)
    return space, supernet


def data(dtype=torch.float64):
    g = torch.Generator().manual_seed(3)
    return torch.randn(6, 3, 9, 9, generator=g).to(dtype), torch.tensor([0, 1, 2, 3, 4, 0])


def gradient_of_logits(space, supernet, estimator_name, seed=1, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(space.num_slots, space.width, generator=g).to(dtype).requires_grad_()
    x, y = data(dtype)
    loss = F.cross_entropy(supernet(x, estimators.get(estimator_name)(logits, generator=g)), y)
    (gradient,) = torch.autograd.grad(loss, logits)
    return loss, gradient


@pytest.mark.parametrize("space_name", SPACES)
@pytest.mark.parametrize("estimator", PATHWISE)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_lean_equals_dense(space_name, estimator, dtype, tolerance):
    space, supernet = build(space_name, dtype=dtype)
    largest = 0.0  # of all seeds: a draw may have no path from input to output
    for seed in (1, 2):
        lean = gradient_of_logits(space, supernet, estimator, seed, dtype)
        supernet.set_edge_gradient("dense")
        dense = gradient_of_logits(space, supernet, estimator, seed, dtype)
        supernet.set_edge_gradient("lean")
        torch.testing.assert_close(lean, dense, rtol=tolerance, atol=tolerance)
        largest = max(largest, float(dense[1].abs().max()))
    assert largest > 1e-4


@pytest.fixture
def traced(monkeypatch):
    """torch.compile without a compiler: what is traced is run. The list of what was traced."""
    torch._dynamo.reset()
    _compiled.cache_clear()
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend, fullgraph=True))
    yield graphs
    _compiled.cache_clear()


def gradient_of_draw(supernet, mode, choice, k):
    """The gradient of the loss at a one-hot draw (E, k), weights held fixed."""
    supernet.set_edge_gradient(mode)
    x, y = data()
    draw = F.one_hot(choice, k).double().requires_grad_()
    with frozen(supernet.parameters()):
        loss = F.cross_entropy(supernet(x.contiguous(memory_format=torch.channels_last), draw), y)
        return torch.autograd.grad(loss, draw)[0]


@pytest.mark.parametrize(
    ("space_name", "shapes"),
    [
        ("micro", 3),
        ("nasbench201", 3),
        ("nasbench_macro", 6),
        pytest.param("darts", 5, marks=pytest.mark.slow),
    ],
)
def test_compiled_equals_dense(space_name, shapes, traced):
    """It is also compiled once for each shape of a cell, whatever is drawn."""
    torch.manual_seed(0)
    space = search_spaces.get(space_name)
    cells = 8 if space_name == "darts" else 1
    supernet = space.supernet(channels=4, cells=cells, num_classes=5).double()
    supernet = supernet.to(memory_format=torch.channels_last)
    k = space.width
    for seed in range(8):
        g = torch.Generator().manual_seed(seed)
        choice = torch.randint(0, k, (space.num_slots,), generator=g)
        choice[torch.rand(space.num_slots, generator=g) < 0.1 * seed] = seed % 2  # none, or skip_connect
        found = [gradient_of_draw(supernet, mode, choice, k) for mode in ("compiled", "dense")]
        torch.testing.assert_close(*found, rtol=1e-10, atol=1e-12)
    assert len(traced) == shapes


def test_the_gradient_of_a_draw_is_had_once():
    _, supernet = build("micro")
    draw = F.one_hot(torch.tensor([3, 2, 4]), 5).double().requires_grad_()
    loss = F.cross_entropy(supernet(data()[0], draw), data()[1])
    torch.autograd.grad(loss, draw, retain_graph=True)
    with pytest.raises(RuntimeError, match="run the supernet again"):
        torch.autograd.grad(loss, draw)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the compiler
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_compiled_for_real(precision):
    torch._dynamo.reset()
    _compiled.cache_clear()
    space, supernet = build("nasbench201", "compiled", torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == torch.bfloat16):
        found = gradient_of_logits(space, supernet, "reinmax", dtype=torch.float32)[1]
        supernet.set_edge_gradient("dense")
        dense = gradient_of_logits(space, supernet, "reinmax", dtype=torch.float32)[1]
    tolerance = 1e-5 if precision == torch.float32 else 0.05
    assert (found - dense).norm() / dense.norm() < tolerance


def test_every_candidate_gets_the_inner_product_with_its_output():
    """D_k of an edge receives <dL/dy, o_k(x)> for chosen and unchosen k, and the input its gradient."""
    _, supernet = build("micro")
    cell = next(m for m in supernet.modules() if isinstance(m, Cell))
    x = torch.randn(3, 4, 5, 5, dtype=torch.float64, requires_grad=True)
    weights = torch.eye(5, dtype=torch.float64)[[3, 2, 4]].requires_grad_()
    upstream = torch.randn(3, 4, 5, 5, dtype=torch.float64)
    at_weights, at_x = torch.autograd.grad(cell([x], read_draw(weights, x.device)), [weights, x], upstream)
    first, second, third = (edge.operations for edge in cell.edges)  # 0→1, 0→2, 1→2
    middle = first[3](x)
    (at_middle,) = torch.autograd.grad(third[4](middle), middle, upstream, retain_graph=True)
    for k in range(5):
        torch.testing.assert_close(at_weights[0, k], (at_middle * first[k](x)).sum())
        torch.testing.assert_close(at_weights[1, k], (upstream * second[k](x)).sum())
        torch.testing.assert_close(at_weights[2, k], (upstream * third[k](middle)).sum())
    (expected,) = torch.autograd.grad(third[4](middle) + second[2](x), x, upstream)
    torch.testing.assert_close(at_x, expected)


@pytest.mark.parametrize("space_name", SPACES)
def test_unreached_nodes_and_edges_of_nothing(space_name):
    """Cells that are cut off, in part or in whole, have the gradient of plain autograd too."""
    space, supernet = build(space_name)
    supernet = supernet.to(memory_format=torch.channels_last)
    k = space.width
    for seed in range(4):
        g = torch.Generator().manual_seed(seed)
        choice = torch.randint(0, k, (space.num_slots,), generator=g)
        choice[torch.rand(space.num_slots, generator=g) < 0.2 + 0.2 * seed] = 0
        found = [gradient_of_draw(supernet, mode, choice, k) for mode in ("lean", "dense")]
        torch.testing.assert_close(*found, rtol=1e-10, atol=1e-12)
        assert seed or found[0].abs().max() > 1e-4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
def test_products_equal_those_of_what_they_do_not_compute(dtype, order):
    g = torch.Generator().manual_seed(0)
    grad, x = (torch.randn(6, 16, 9, 9, generator=g, dtype=torch.float64) for _ in range(2))
    offset = {torch.float32: 100, torch.bfloat16: 1}[dtype]  # far from a mean of 0
    x = (x + offset * torch.arange(16).view(16, 1, 1) / 4).relu()
    weight = torch.randn(8, 16, 1, 1, generator=g, dtype=torch.float64)
    norm = torch.nn.BatchNorm2d(8, affine=False, track_running_stats=False)

    def close(found, a, b):
        assert (
            abs(found - (a * b).sum())
            < {torch.float32: 1e-5, torch.bfloat16: 1e-2}[dtype] * a.norm() * b.norm()
        )

    lower = [t.to(dtype).contiguous(memory_format=order) for t in (grad[:, :8], grad, x)]
    close(inner_product(lower[1], lower[2]), grad, x)
    z = F.conv2d(x, weight)
    close(
        normalised_inner_product(lower[0], z.to(dtype).contiguous(memory_format=order), norm),
        grad[:, :8],
        norm(z),
    )
    if dtype == torch.float32:
        found = pointwise_product(Pixels(lower[0]), Pixels(lower[2]), weight.float(), norm.eps)
        close(found, grad[:, :8], norm(z))


def test_surrogate_is_the_wrong_gradient_that_it_is_named_for():
    """GDAS gives an unchosen candidate <dL/dy, 1>: measurably another direction."""
    space, supernet = build("nasbench201")
    exact = gradient_of_logits(space, supernet, "st_gumbel")
    supernet.set_edge_gradient("surrogate")
    surrogate = gradient_of_logits(space, supernet, "st_gumbel")
    torch.testing.assert_close(exact[0], surrogate[0])
    assert F.cosine_similarity(exact[1].flatten(), surrogate[1].flatten(), dim=0) < 0.95
    edge = next(m for m in supernet.modules() if isinstance(m, MixedEdge))
    x = torch.randn(2, 4, 5, 5, dtype=torch.float64)
    weights = torch.eye(5, dtype=torch.float64)[2].requires_grad_()
    upstream = torch.randn(2, 4, 5, 5, dtype=torch.float64)
    (at_weights,) = torch.autograd.grad(
        edge(x, read_draw(weights.unsqueeze(0), x.device), 0), weights, upstream
    )
    for k, operation in enumerate(edge.operations):
        expected = (upstream * operation(x)).sum() if k == 2 else upstream.sum()
        torch.testing.assert_close(at_weights[k], expected)


@pytest.mark.parametrize("space_name", SPACES)
def test_nothing_moves_in_the_supernet(space_name):
    """Forward and backward of an architecture step leave every parameter and buffer as it was."""
    space, supernet = build(space_name)
    before = {k: v.clone() for k, v in supernet.state_dict().items()}
    with frozen(supernet.parameters()):
        gradient_of_logits(space, supernet, "reinmax")
    for k, v in supernet.state_dict().items():
        assert torch.equal(v, before[k])
    assert all(p.grad is None and p.requires_grad for p in supernet.parameters())


def test_tracked_batch_norm_is_guarded_by_construction():
    """No normalisation of a supernet keeps running statistics, all of a derived network do."""
    for name in SPACES:
        space, supernet = build(name)
        norms = [m for m in supernet.modules() if isinstance(m, torch.nn.BatchNorm2d)]
        assert norms
        assert all(m.running_mean is None for m in norms)
        import random

        network = space.network(space.random(random.Random(0)), channels=4, cells=space.fewest_cells)
        norms = [m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)]
        assert norms
        assert all(m.running_mean is not None and m.affine for m in norms)


class Counter:
    """Counts the runs of every candidate convolution, with and without a graph."""

    def __init__(self, supernet):
        self.with_graph, self.without_graph = 0, 0
        for module in supernet.modules():
            if isinstance(module, MixedEdge):
                for inner in module.modules():
                    if isinstance(inner, torch.nn.Conv2d):
                        inner.register_forward_hook(self.count)

    def count(self, module, inputs, output):
        if torch.is_grad_enabled():
            self.with_graph += 1
        else:
            self.without_graph += 1


def test_lean_keeps_a_graph_for_the_chosen_candidates_only():
    space, supernet = build("nasbench201")
    counter = Counter(supernet)
    draw = F.one_hot(torch.full((space.num_slots,), 2), 5).double().requires_grad_()
    torch.autograd.grad(F.cross_entropy(supernet(data()[0], draw), data()[1]), draw)
    edges = 3 * space.num_slots
    assert counter.with_graph == edges  # nor_conv_1x1
    assert counter.without_graph == edges  # nor_conv_3x3; the others have no convolution


def test_a_choice_runs_nothing_else():
    space, supernet = build("nasbench201")
    counter = Counter(supernet)
    supernet(data()[0], [3] * space.num_slots).sum().backward()
    assert counter.with_graph == 3 * space.num_slots
    assert counter.without_graph == 0
    for module in supernet.modules():
        if isinstance(module, MixedEdge):
            assert all(p.grad is None for p in module.operations[2].parameters())
            assert all(p.grad is not None for p in module.operations[3].parameters())


def test_bfloat16_autocast_reaches_the_backward_pass():
    """Under autocast the products are taken with outputs of the same precision as in forward."""
    space, supernet = build("nasbench201", dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        lean = gradient_of_logits(space, supernet, "reinmax", dtype=torch.float32)[1]
        supernet.set_edge_gradient("dense")
        dense = gradient_of_logits(space, supernet, "reinmax", dtype=torch.float32)[1]
    assert F.cosine_similarity(lean.flatten(), dense.flatten(), dim=0) > 0.999
    assert (lean - dense).norm() / dense.norm() < 0.05


def test_weights_that_are_not_one_hot_are_a_mixture():
    """A lone weight of one half halves the output, in lean as in dense mode."""
    _, supernet = build("micro")
    edge = next(m for m in supernet.modules() if isinstance(m, MixedEdge))
    x = torch.randn(3, 4, 5, 5, dtype=torch.float64)
    weights = torch.tensor([[0.0, 0.0, 0.0, 0.5, 0.0]], dtype=torch.float64)
    choice = read_draw(weights, x.device)
    assert choice.chosen is None
    torch.testing.assert_close(edge(x, choice, 0), 0.5 * edge.operations[3](x))
