"""Partial channels and weights of edges, against what PC-DARTS computes, written out, and autograd."""

import pytest
import torch
import torch.nn.functional as F
from lane import META, Watch, accelerator
from small import batch, rng
from torch import nn

import estimators
import nas
import search_spaces
from nas import device as devices
from nas.bilevel.architecture import Architecture
from nas.bilevel.steps import Bilevel, frozen
from nas.bilevel.unroll import unrolled_gradient, unrolled_gradient_exact
from nas.task import Classification
from recipes import InputError
from search_spaces.batched_products import batched_products
from search_spaces.cell import Cell
from search_spaces.mixed_edge import Choice, read_draw, with_leaf

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
        Classification(3),
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
@pytest.mark.parametrize(
    "name",
    [
        "micro",
        "nasbench201",
        "darts",
        "s4",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("s1", "nasnet")),
    ],
)
def test_lean_is_dense(name, mode, monkeypatch):
    """At the draws and at the weights of the edges, in networks of several cells."""
    monkeypatch.setattr("search_spaces.batched_products._compiled", lambda: batched_products)
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


def test_auxiliary_skips_are_part_of_the_edge():
    """With weights of edges; lean and dense."""
    torch.manual_seed(0)
    space = search_spaces.get("micro")
    supernet = space.supernet(channels=4, num_classes=3, in_channels=1, auxiliary_skip=True).double()
    supernet.set_skips(0.7, 0.0)
    cell = next(m for m in supernet.modules() if isinstance(m, Cell))
    x = torch.randn(3, 4, 5, 5, dtype=torch.float64)
    edges = torch.tensor([1.0, 0.3, 0.6], dtype=torch.float64)
    found = []
    for way in ("lean", "dense"):
        supernet.set_edge_gradient(way)
        draw = torch.eye(5, dtype=torch.float64)[[3, 2, 0]]
        choice, leaf = with_leaf(Choice(*read_draw(draw, x.device)[:2], edges), x.device)
        y = cell([x], choice)
        found += torch.autograd.grad(y.square().sum(), leaf)
    first, second, _ = (edge.operations for edge in cell.edges)  # 0→1, 0→2, 1→2
    middle = first[3](x) + 0.7 * x
    torch.testing.assert_close(y, 0.3 * (second[2](x) + 0.7 * x) + 0.6 * 0.7 * middle)
    torch.testing.assert_close(*found, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("estimator", estimators.names())
def test_a_step_moves_logits_and_edges_by_their_gradients(estimator):
    """With every estimator: edges by autograd through the mean loss of the same draws, logits as if the
    weights of the edges were constants."""
    bilevel = searched(estimator=estimator)
    architecture, valid = bilevel.architecture, batch(1, torch.float64)
    if estimator == "reinforce":
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


@pytest.mark.parametrize("estimator", ["reinmax", "reinforce_loo"])
def test_a_draw_for_every_image(estimator):
    bilevel = searched(estimator=estimator, draw_per="image")
    architecture, valid = bilevel.architecture, batch(1, torch.float64)
    logits, edge_logits = (leaf.detach().clone().requires_grad_() for leaf in architecture.leaves)
    bilevel.architecture_step(valid, valid, rng(3))
    draws = architecture.estimator(logits.expand(6, -1, -1), rng(3))
    edges = torch.cat([edge_logits[:1].softmax(0), edge_logits[1:].softmax(0)])
    loss = F.cross_entropy(bilevel.supernet(valid[0], Choice(draws, None, edges)), valid[1])
    at_logits, at_edges = torch.autograd.grad(loss, [logits, edge_logits], allow_unused=True)
    torch.testing.assert_close(edge_logits - at_edges, architecture.edge_logits)
    if estimator == "reinmax":
        torch.testing.assert_close(logits - at_logits, architecture.logits)


def test_second_order():
    """By double backward as written out; by finite differences the same with lean and with dense edges, and
    close to it."""
    space, supernet = build("micro", 2, "dense")
    train, valid = batch(2, torch.float64), batch(1, torch.float64)
    draw = F.one_hot(torch.tensor([3, 2, 4]), space.width).double()
    edges = torch.tensor([1.0, 0.3, 0.7], dtype=torch.float64)
    choice = Choice(*read_draw(draw, draw.device)[:2], edges)
    written, leaf = with_leaf(choice, draw.device)
    weights = dict(supernet.named_parameters())
    loss = F.cross_entropy(supernet(train[0], written), train[1])
    slopes = torch.autograd.grad(loss, list(weights.values()), create_graph=True, allow_unused=True)
    moved = {
        name: w if g is None else w - 0.1 * g for (name, w), g in zip(weights.items(), slopes, strict=True)
    }
    after = torch.func.functional_call(supernet, moved, (valid[0], written))
    (expected,) = torch.autograd.grad(F.cross_entropy(after, valid[1]), leaf)
    arguments = (supernet, F.cross_entropy, choice, valid, train, 0.1)
    torch.testing.assert_close(unrolled_gradient_exact(*arguments)[2], expected, rtol=1e-9, atol=1e-12)
    dense = unrolled_gradient(*arguments, epsilon=1e-3)[2]
    supernet.set_edge_gradient("lean")
    lean = unrolled_gradient(*arguments, epsilon=1e-3)[2]
    torch.testing.assert_close(lean, dense, rtol=1e-6, atol=1e-9)
    for part in (slice(None), slice(-3, None)):
        assert (lean - expected)[part].norm() < 0.02 * expected[part].norm()
    bilevel = searched(order=2)
    bilevel.architecture_step(valid, train, rng(3))
    assert bilevel.architecture.edge_logits.grad[1:].abs().max() > 1e-5


def test_bfloat16_autocast():
    space, supernet = build("nasbench201", 2, dtype=torch.float32, channels=8)
    draw = F.one_hot(torch.tensor([3, 2, 4, 1, 0, 3]), space.width).float()
    edges = torch.rand(6, generator=rng(1))
    found = []
    for way in ("lean", "dense"):
        supernet.set_edge_gradient(way)
        choice, leaf = with_leaf(Choice(*read_draw(draw, draw.device)[:2], edges), draw.device)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = F.cross_entropy(supernet(batch(1)[0], choice), batch(1)[1])
        found += torch.autograd.grad(loss, leaf)
    assert (found[0] - found[1]).norm() < 0.05 * found[1].norm()


def test_an_edge_that_is_dropped_has_no_bypass():
    """In a choice, in a mixture whose weights of it are 0, and where `none` is a candidate of it."""
    space, supernet = build("s3")
    genotype = space.discretise(torch.randn(space.num_slots, space.width, generator=rng(4)))
    path, x = space.path(genotype), batch(1, torch.float64)[0]
    present = torch.tensor([k != search_spaces.ABSENT for k in path])
    assert present.sum() == 16
    assert search_spaces.ABSENT not in space.choice(genotype)
    one_hot = F.one_hot(torch.tensor(path).clamp_min(0), space.width).double()
    expected = supernet(x, Choice(one_hot, None, present.double()))
    torch.testing.assert_close(supernet(x, path), expected)
    dropped = one_hot * present.unsqueeze(1)
    assert read_draw(dropped, x.device).chosen is None
    torch.testing.assert_close(supernet(x, dropped), expected)
    assert not torch.allclose(supernet(x, space.choice(genotype)), expected)  # bypasses of `none`


def test_edges_are_picked_by_both_weights():
    """As the authors do in the cells of DARTS: by the weight of an edge times that of its best operation."""
    space = search_spaces.get("darts")
    logits = torch.randn(space.num_slots, space.width, generator=rng(1))
    edge_logits = 2 * torch.randn(space.num_slots, generator=rng(2))
    architecture = Architecture(space, estimators.get("softmax"), logits, edge_logits)
    alpha, first = logits.softmax(-1), 0
    expected = []
    for nodes in (2, 3, 4, 5) * 2:
        rows = range(first, first + nodes)
        beta = edge_logits[first : first + nodes].softmax(0)
        best = [(float(beta[i] * alpha[row, 1:].max()), i) for i, row in enumerate(rows)]
        for _, source in sorted(sorted(best)[-2:], key=lambda pair: pair[1]):
            operation = space.operations[1 + int(alpha[first + source, 1:].argmax())]
            expected.append((source, operation))
        first += nodes
    found = space.discretise(architecture.scores())
    assert [(e.source, e.operation) for cell in found.cells for e in cell.edges] == expected
    assert found != space.discretise(architecture.log_probabilities())
    torch.testing.assert_close(architecture.edge_weights()[2:5], edge_logits[2:5].softmax(0))


SMALL = {"channels": 4, "batch_size": 32, "train_limit": 128, "tensorboard": False, "warmup_epochs": 0}
PC = {"partial_channels": 4, "edge_normalisation": True}


def test_a_resumed_search_is_the_same(tmp_path):
    options = SMALL | PC | {"space": "micro", "derive": "sample:3", "keep_weights_every": 2}
    whole = nas.search(data="digits", epochs=3, **options)
    weights = [metrics["edge_weights"] for metrics in whole.history]
    assert all(abs(sum(w[1:]) - 1) < 1e-5 and w[0] == 1 for w in weights)
    assert weights[0] != weights[2]
    out = tmp_path / "run"
    first = nas.search(data="digits", epochs=3, out=out, callback=lambda m: m["epoch"] == 2, **options)
    assert len(first.history) == 2
    rest = nas.search(out=out, resume=True)
    assert rest.history == whole.history
    assert rest.genotype == whole.genotype
    assert torch.equal(rest.edge_weights, whole.edge_weights)
    assert torch.equal(rest.supernet.edge_weights, rest.edge_weights)
    assert (out / "report.html").exists()
    one = whole.score(whole.genotype)
    whole.search.take({name: t.clone() for name, t in rest.search.weights().items()})
    assert whole.score(whole.genotype) == one


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"space": "mobile", "partial_channels": 2}, "channels before and"),
        ({"space": "mobile_se", "partial_channels": 2}, "channels before and"),
        ({"space": "nasbench_macro", "partial_channels": 2}, "channels before and"),
        ({"space": "mobile", "edge_normalisation": True}, "one leads to each"),
        ({"space": "nasbench_macro", "edge_normalisation": True}, "one leads to each"),
        ({"space": "darts", "partial_channels": 3}, "an edge of 4 channels has no 3 equal parts"),
        ({"partial_channels": 2, "auxiliary_skip": "1:0"}, "are a skip connection already"),
        ({"space": "micro", "partial_channels": 0}, "of at least 1"),
        ({"shrink": "information", "edge_normalisation": True}, "`shrink=information` leaves none"),
        ({"edge_gradient": "captured", "partial_channels": 4}, "`edge_gradient=captured` does not go with"),
        ({"edge_gradient": "captured", "edge_normalisation": True}, "`edge_gradient=captured` does not go"),
        (
            {"estimator": "reinforce_loo", "architecture_loss": "error", "edge_normalisation": True},
            "needs a gradient",
        ),
    ],
)
def test_where_it_means_nothing_it_is_refused(options, words, tmp_path):
    with pytest.raises(InputError, match=words) as caught:
        nas.search(data="digits", epochs=1, out=tmp_path / "run", **SMALL | options)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "estimator", "edge_gradient"), [("s3", "reinmax", "lean"), ("micro", "softmax", "dense")]
)
def test_steps_wait_for_a_device_once(name, estimator, edge_gradient):
    with accelerator():
        space = search_spaces.get(name)
        with torch.device(META):
            supernet = space.supernet(
                channels=4, cells=3, num_classes=3, in_channels=1, edge_gradient=edge_gradient,
                partial_channels=2,
            )  # fmt: skip
        weight_optimizer = torch.optim.SGD(supernet.parameters(), 0.1, 0.9)
        weight_optimizer.param_groups[0]["fused"] = True
        architecture = Architecture(space, estimators.get(estimator))
        architecture.start_edges()
        optimizer = torch.optim.Adam(architecture.leaves, 0.01)
        bilevel = Bilevel(
            devices.place(supernet, META), architecture, Classification(3), weight_optimizer, optimizer
        )
        images = torch.empty(6, 1, 8, 8, device=META), torch.zeros(6, dtype=torch.long, device=META)
        with Watch() as watch:
            bilevel.weight_step(images, rng(2))
            bilevel.architecture_step(images, images, rng(1))
        assert watch.waits == [("copy to the host", "nas/bilevel/steps.py _fetch")]
