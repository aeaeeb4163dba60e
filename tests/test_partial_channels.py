"""Partial channels and weights of edges, against what PC-DARTS computes, written out, and against autograd."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import estimators
import nas
import search_spaces
from nas.bilevel.architecture import Architecture
from nas.bilevel.steps import Bilevel, frozen
from nas.bilevel.unroll import unrolled_gradient, unrolled_gradient_exact
from nas.task import Classification
from recipes import InputError
from search_spaces.cell import Cell
from search_spaces.compiled_products import _all_products
from search_spaces.mixed_edge import Choice, read_draw, with_leaf
from small import batch, rng

pytestmark = pytest.mark.usefixtures("fixed_noise")


def build(name, k=2, edge_gradient="lean", dtype=torch.float64, channels=4):
    torch.manual_seed(0)
    space = search_spaces.get(name)
    supernet = space.supernet(
        channels=channels,
        cells=space.fewest_cells,
        num_classes=3,
        in_channels=1,
        edge_gradient=edge_gradient,
        partial_channels=k,
    )
    return space, supernet.to(dtype)


def searched(name="micro", estimator="reinmax", k=2, edges=True, edge_gradient="lean", rate=1.0, **options):
    """A search in float64 with plain SGD for its logits, so that a step shows its gradient."""
    space, supernet = build(name, k, edge_gradient)
    logits = torch.randn(space.num_slots, space.width, generator=rng(1), dtype=torch.float64)
    edge_logits = torch.randn(space.num_slots, generator=rng(2), dtype=torch.float64) if edges else None
    architecture = Architecture(space, estimators.get(estimator), logits, edge_logits)
    return Bilevel(
        supernet,
        architecture,
        Classification(),
        torch.optim.SGD(supernet.parameters(), 0.1),
        torch.optim.SGD(architecture.leaves, rate),
        **options,
    )


def authors_edge(module, x, weights, k):
    """The mixed operation of PC-DARTS as its authors compute it."""
    first, rest = x[:, : x.shape[1] // k], x[:, x.shape[1] // k :]
    mixed = sum(w * operation(first) for w, operation in zip(weights, module.operations, strict=False))
    y = torch.cat([mixed, rest if mixed.shape[2] == x.shape[2] else F.max_pool2d(rest, 2, 2)], 1)
    return nn.ChannelShuffle(k)(y)


def authors_cell(cell, inputs, weights, edges, k):
    states = list(inputs)
    for target in range(cell.plan.inputs, cell.plan.nodes):
        into = [(m, e) for m, e in zip(cell.edges, cell.plan.edges, strict=True) if e.target == target]
        states.append(
            sum(edges[e.row] * authors_edge(m, states[e.source], weights[e.row], k) for m, e in into)
        )
    return torch.cat([states[node] for node in cell.plan.concat or (cell.plan.nodes - 1,)], 1)


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("kind", ["mixture", "one-hot"])
@pytest.mark.parametrize(("name", "number", "k"), [("darts", 0, 4), ("darts", 1, 2), ("nasbench201", 0, 2)])
def test_a_cell_is_that_of_the_authors(name, number, k, kind, order):
    """Values and gradients of all: weights of candidates, of edges, of the network, and inputs. With one-hot
    weights the authors' cell still runs all candidates."""
    space, supernet = build(name, k)
    cell = [m for m in supernet.modules() if isinstance(m, Cell)][number]
    channels = k * next(p for p in cell.parameters() if p.shape[2:] == (1, 1)).shape[1]
    shape = (3, channels, 8, 8)
    inputs = [torch.randn(shape, generator=rng(i), dtype=torch.float64) for i in range(cell.plan.inputs)]
    inputs = [x.contiguous(memory_format=order).requires_grad_() for x in inputs]
    weights = torch.rand(space.num_slots, space.width, generator=rng(5), dtype=torch.float64)
    if kind == "one-hot":  # some `none` among them
        weights = F.one_hot(weights.argmax(-1), space.width).double()
        weights[0] = F.one_hot(torch.tensor(0), space.width)
    edges = torch.rand(space.num_slots, generator=rng(6), dtype=torch.float64)
    choice, leaf = with_leaf(Choice(*read_draw(weights, inputs[0].device)[:2], edges), inputs[0].device)
    found = cell(inputs, choice)
    expected_leaf = torch.cat([weights.flatten(), edges]).requires_grad_()
    own = expected_leaf[: weights.numel()].view_as(weights), expected_leaf[weights.numel() :]
    expected = authors_cell(cell, inputs, *own, k)
    torch.testing.assert_close(found, expected)
    upstream = torch.randn(found.shape, generator=rng(7), dtype=torch.float64)
    parameters = [p for p in cell.parameters() if p.requires_grad]
    got = torch.autograd.grad(found, [leaf, *inputs, *parameters], upstream, allow_unused=True)
    wanted = torch.autograd.grad(expected, [expected_leaf, *inputs, *parameters], upstream)
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(torch.zeros_like(b) if a is None else a, b, rtol=1e-9, atol=1e-10)
    at_edges = wanted[0][weights.numel() :]
    assert sum(float(g) != 0 for g in at_edges) == len(cell.plan.edges)  # `none` has a bypass


@pytest.mark.parametrize("mode", ["lean", "compiled"])
@pytest.mark.parametrize("name", ["micro", "nasbench201", "darts", "s1", "s4", "nasnet"])
def test_lean_is_dense(name, mode, monkeypatch):
    """At the draws and at the weights of the edges, in networks of several cells."""
    monkeypatch.setattr("search_spaces.compiled_products._compiled", lambda: _all_products)
    space, supernet = build(name)
    mask = space.mask()
    for seed in (1, 2):
        random = torch.rand(space.num_slots, space.width, generator=rng(seed), dtype=torch.float64)
        random = random if mask is None else random.masked_fill(~mask, 0)
        draw = F.one_hot(random.argmax(-1), space.width).double()
        edges = torch.rand(space.num_slots, generator=rng(seed), dtype=torch.float64)
        found = []
        for way in (mode, "dense"):
            supernet.set_edge_gradient(way)
            choice, leaf = with_leaf(Choice(*read_draw(draw, draw.device)[:2], edges), draw.device)
            x, y = batch(1, torch.float64)
            with frozen(supernet.parameters()):
                loss = F.cross_entropy(supernet(x.contiguous(memory_format=torch.channels_last), choice), y)
                found.append((loss.detach(), *torch.autograd.grad(loss, leaf)))
        torch.testing.assert_close(*found, rtol=1e-9, atol=1e-11)
        assert found[0][1][-space.num_slots :].abs().max() > 1e-4


@pytest.mark.parametrize("estimator", estimators.names())
def test_a_step_moves_logits_and_edges_by_their_gradients(estimator):
    """With every estimator: edges by autograd through the mean loss of the same draws, logits as if the
    weights of the edges were constants."""
    bilevel = searched(estimator=estimator)
    architecture, valid = bilevel.architecture, batch(1, torch.float64)
    if architecture.estimator.learns:
        architecture.estimator.load_state({"baseline": 0.0})
    before = [leaf.detach().clone() for leaf in architecture.leaves]
    weights = [w.clone() for w in bilevel.supernet.parameters()]
    bilevel.architecture_step(valid, valid, rng(3))
    steps = [a - b.detach() for a, b in zip(before, architecture.leaves, strict=True)]
    logits, edge_logits = (leaf.clone().requires_grad_() for leaf in before)
    edges = torch.cat([edge_logits[:1].softmax(0), edge_logits[1:].softmax(0)])  # micro: 0→1; 0→2, 1→2
    n = bilevel.draws
    draws = architecture.estimator(logits.expand(n, -1, -1), rng(3))
    read = [read_draw(draw.detach(), draw.device) for draw in draws]
    bilevel.supernet.set_edge_gradient("dense")
    losses = [
        F.cross_entropy(bilevel.supernet(valid[0], Choice(draw, one.chosen, edges)), valid[1])
        for draw, one in zip(draws, read, strict=True)
    ]
    (at_edges,) = torch.autograd.grad(torch.stack(losses).mean(), edge_logits, retain_graph=True)
    torch.testing.assert_close(steps[1], at_edges, rtol=1e-9, atol=1e-12)
    assert at_edges[1:].abs().max() > 1e-5
    if architecture.estimator.signal == "gradient":
        (at_logits,) = torch.autograd.grad(torch.stack(losses).mean(), logits)
        torch.testing.assert_close(steps[0], at_logits, rtol=1e-9, atol=1e-12)
    assert steps[0].abs().max() > 0
    assert all(torch.equal(a, b) for a, b in zip(weights, bilevel.supernet.parameters(), strict=True))
    torch.testing.assert_close(bilevel.supernet.edge_weights, architecture.edge_weights().detach())
