"""Cells that run by pieces: they compute what the others do, and launch less."""

import copy
import gc
from contextlib import nullcontext
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from lane import META, Watch, accelerator
from small import batch, rng, slow_in
from small import bilevel as setup

import search_spaces
from nas import device as devices
from nas.bilevel.unroll import frozen, unrolled_gradient
from search_spaces import batched_products, captured, recording
from search_spaces.cell import Cell, Chain
from search_spaces.split import Split

pytestmark = pytest.mark.usefixtures("fixed_noise")
DTYPE = torch.float64


def draws(bilevel, count=3):
    logits = bilevel.architecture.masked().detach()
    return [bilevel.architecture.estimator(logits, rng(seed)) for seed in range(count)]


def gradients(bilevel, draw, dtype=DTYPE):
    """The loss, its gradient at a draw, and those of all weights in a weight step of the same path."""
    found = bilevel.gradient_at(draw, batch(1, dtype))
    bilevel.supernet.zero_grad()
    loss, _ = bilevel.loss(draw.argmax(-1).tolist(), batch(2, dtype))
    loss.backward()
    return found[0], found[2], {name: p.grad for name, p in bilevel.supernet.named_parameters()}


@pytest.mark.parametrize("space", slow_in(search_spaces.names(), "mobile_se", "nasnet"))
def test_pieces_compute_what_the_whole_does(space):
    """One draw after another, in the same places: losses, gradients of the draw and of the weights, and which
    weights have one."""
    pieces, lean = setup(space, dtype=DTYPE, edge_gradient="captured"), setup(space, dtype=DTYPE)
    for draw in draws(lean):
        found, expected = gradients(pieces, draw), gradients(lean, draw)
        torch.testing.assert_close(found[:2], expected[:2], rtol=1e-11, atol=1e-13)
        for name, gradient in expected[2].items():
            if gradient is None:
                assert found[2][name] is None
            else:
                torch.testing.assert_close(found[2][name], gradient, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("space", ["micro", "darts"])
def test_pieces_agree_with_plain_autograd(space):
    pieces = setup(space, dtype=DTYPE, edge_gradient="captured")
    dense = setup(space, dtype=DTYPE, edge_gradient="dense")
    draw = draws(dense, 1)[0]
    found, expected = (b.gradient_at(draw, batch(1, DTYPE))[2] for b in (pieces, dense))
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_second_order_by_pieces():
    found = []
    for mode in ("captured", "lean"):
        bilevel = setup(dtype=DTYPE, edge_gradient=mode)
        parts = batch(1, DTYPE), batch(2, DTYPE)
        found.append(unrolled_gradient(bilevel.supernet, F.cross_entropy, draws(bilevel, 1)[0], *parts, 0.3))
    torch.testing.assert_close(found[0], found[1], rtol=1e-7, atol=1e-10)


def test_training_passes_share_their_pieces_whatever_weighs_them(monkeypatch):
    """Those of a path, and those at a draw without its gradient, as second order has them."""
    made, make = [], captured._Places.__init__
    monkeypatch.setattr(captured._Places, "__init__", lambda *given: made.append(given[3:]) or make(*given))
    bilevel = setup(dtype=DTYPE, edge_gradient="captured")
    parts = batch(1, DTYPE), batch(2, DTYPE)
    unrolled_gradient(bilevel.supernet, F.cross_entropy, draws(bilevel, 1)[0], *parts, 0.3)
    bilevel.weight_step(parts[0], rng(3))
    assert [learns for _, learns in made].count(False) == 1
    assert (torch.Size((3, 5)), True) in made


def test_noise_has_no_backward_pass(monkeypatch):
    """A graph of nothing would be a warning on a GPU."""
    launched = []
    launch = captured.Piece.launch
    monkeypatch.setattr(captured.Piece, "launch", lambda self: launched.append(self) or launch(self))
    bilevel = setup("s4", edge_gradient="captured")
    noise = [slot.candidates.index("noise") for slot in bilevel.architecture.space.slots]
    for step in range(2):
        launched.clear()
        loss, _ = bilevel.loss(noise, batch(1))
        loss.backward()
        backward = [piece for piece in launched if piece.function.__name__ == "_backward"]
        assert bool(backward) == (step == 0)


def test_in_bfloat16():
    low = {"precision": devices.autocast("bfloat16", torch.device("cpu"))}
    found = []
    for mode in ("captured", "lean"):
        bilevel = setup("nasbench201", edge_gradient=mode, **low)
        found.append(bilevel.gradient_at(draws(bilevel, 1)[0], batch(1))[2])
    assert (found[0] - found[1]).norm() < 0.3 * found[1].norm()  # of rounding, see test_gpu_numerics.py


def test_steps_by_pieces_are_the_same_steps():
    """With clipping, several draws, and weights that share a batch."""
    states = []
    for mode in ("captured", "lean"):
        bilevel = setup("nasbench201", dtype=DTYPE, edge_gradient=mode, draws=2, clip=5.0)
        for seed in range(3):
            bilevel.architecture_step(batch(1, DTYPE), batch(2, DTYPE), rng(seed))
            bilevel.weight_step(batch(2, DTYPE), rng(seed + 9))
        states.append(bilevel.supernet.state_dict() | {"logits": bilevel.architecture.logits.detach()})
    torch.testing.assert_close(*states, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("space", ["nasbench201", "darts"])
def test_a_second_pass_before_the_backward_of_the_first_is_an_error(space):
    """Its nodes would be those of the second, without a word."""
    bilevel = setup(space, edge_gradient="captured")
    path = [3] * bilevel.architecture.space.num_slots
    loss, _ = bilevel.loss(path, batch(1))
    bilevel.loss(path, batch(2))
    with pytest.raises(RuntimeError, match=r"modified by an inplace operation|came after another pass"):
        loss.backward()
    loss, _ = bilevel.loss(path, batch(1))
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match=r"modified by an inplace operation|came after another pass"):
        loss.backward()


def test_weights_that_are_frozen_or_exchanged_in_between_are_seen():
    path, losses = [3] * 6, []
    for mode in ("captured", "lean"):
        bilevel = setup("nasbench201", edge_gradient=mode)
        bilevel.loss(path, batch(1))[0].backward()
        one = bilevel.supernet.get_parameter(
            next(name for name, p in bilevel.supernet.named_parameters() if "nor_conv_3x3" in name)
        )
        for fixed in (True, False):
            one.requires_grad_(not fixed).grad = None
            bilevel.loss(path, batch(1))[0].backward()
            assert (one.grad is None) == fixed
        state = {name: 1.5 * tensor for name, tensor in bilevel.supernet.state_dict().items()}
        bilevel.supernet.load_state_dict(state, assign=True)
        losses.append(bilevel.loss(path, batch(1))[0].detach())
        if mode == "captured":  # of evaluation, which random layers mind, and of training again
            (chain,) = (part for part in vars(bilevel.supernet).values() if isinstance(part, Chain))
            for training in (False, True):
                bilevel.supernet.train(training)
                bilevel.loss(path, batch(1))
                assert len(chain.pieces.places) == 2
    torch.testing.assert_close(*losses)


def test_a_copy_has_pieces_of_its_own():
    bilevel = setup(edge_gradient="captured", dtype=DTYPE)
    draw = draws(bilevel, 1)[0]
    first = bilevel.gradient_at(draw, batch(1, DTYPE))
    other = copy.deepcopy(bilevel.supernet)
    with torch.no_grad():
        for p in bilevel.supernet.parameters():
            p.mul_(1.5)
    bilevel.supernet = other
    torch.testing.assert_close(bilevel.gradient_at(draw, batch(1, DTYPE)), first)


class Launches(Watch):
    """Counts a piece as one launch."""

    inside = False

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        before = self.launches.copy()
        result = super().__torch_dispatch__(function, types, args, kwargs)
        if self.inside:
            self.launches = before
        return result

    def watch(self, monkeypatch):
        launch = captured.Piece.launch

        def one(piece):
            self.inside, outside = True, self.inside
            launch(piece)
            self.inside = outside
            self.launches["piece"] += 1

        monkeypatch.setattr(captured.Piece, "launch", one)
        return self


def launches(space, cells, mode, monkeypatch, path):
    """Of a weight step and an architecture step in bfloat16, on the path of one candidate on all edges."""
    from test_accelerator import setup as on_meta

    bilevel = on_meta(space, edge_gradient=mode, precision="bfloat16", cells=cells)
    x = torch.empty(4, 1, 8, 8, device=META).contiguous(memory_format=torch.channels_last)
    images = x, torch.zeros(4, dtype=torch.long, device=META)
    bilevel.architecture.draw = lambda generator: path
    one_hot = F.one_hot(torch.tensor(path), bilevel.architecture.space.width).float()
    counts = []
    for step in (
        lambda: bilevel.weight_step(images, rng(0)),
        lambda: bilevel.gradient_at(one_hot, images),
    ):
        with Watch():
            step()  # makes the places
        with monkeypatch.context() as patch, Launches().watch(patch) as watch:
            step()
        counts.append(sum(watch.launches.values()))
    return counts


@pytest.mark.parametrize(("space", "cells", "path"), [("nasbench201", 1, [3] * 6)])
def test_pieces_take_a_third_of_the_launches(space, cells, path, monkeypatch):
    with accelerator():
        weight, architecture = launches(space, cells, "captured", monkeypatch, path)
        lean = launches(space, cells, "lean", monkeypatch, path)
    assert architecture < lean[1] / 3
    assert weight < lean[0] / 1.5
    assert weight + architecture < (lean[0] + lean[1]) / 2.5  # a third and less with more cells


def test_products_of_maps_with_a_large_mean_keep_their_digits():
    """The variance comes from sums of squares."""
    conv = torch.nn.Conv2d(4, 4, 1, bias=False)
    norm = torch.nn.BatchNorm2d(4, affine=False, track_running_stats=False)
    x = torch.randn(8, 4, 6, 6, generator=rng()) + 5000
    grad = torch.randn(8, 4, 6, 6, generator=rng(1))
    found = []
    for dtype in (torch.float32, torch.float64):
        split = Split.of(torch.nn.Sequential(conv.to(dtype), norm))
        batches, _ = batched_products.planned([(0, 1, [split])], residuals=False)
        nodes = [x.to(dtype), grad.to(dtype)]
        with torch.no_grad():
            found.append(float(batched_products.batched_products(batches, nodes, nodes)))
            expected = float((norm(conv(nodes[0])) * nodes[1]).sum())
    assert found[1] == pytest.approx(expected, rel=1e-9)
    assert found[0] == pytest.approx(expected, rel=1e-2)  # to which the convolution itself rounds


def test_weights_are_frozen_for_architecture_steps():
    """Their gradients are not computed then, by pieces of their own."""
    bilevel = setup("nasbench201", edge_gradient="captured")
    path = [3] * 6
    with frozen(bilevel.parameters):
        bilevel.gradient_at(F.one_hot(torch.tensor(path), 5).float(), batch(1))
    bilevel.loss(path, batch(1))[0].backward()
    kinds = bilevel.supernet.chain.pieces.places
    assert len(kinds) == 2
    for places in kinds.values():
        trained = [c.parameters for c in places.candidates.values()]
        assert any(trained) != places.learns


class Recorded:
    """Stands for a CUDA graph: what is recorded is done."""

    def capture_begin(self, pool, capture_error_mode):
        assert not gc.isenabled()  # an old graph that is freed now would end the recording

    def capture_end(self):
        assert not gc.isenabled()

    def replay(self):
        pass


@pytest.mark.parametrize(("free", "emptied"), [(10, 0), (3, 1)])
def test_nothing_disturbs_a_recording(free, emptied, monkeypatch):
    """No garbage is collected, and memory that the allocator keeps is given back if little else is free."""
    gave_back = []
    for name, value in {
        "CUDAGraph": Recorded,
        "current_stream": lambda device: mock.Mock(),
        "stream": lambda stream: nullcontext(),
        "mem_get_info": lambda device: (free, 20),
        "memory_reserved": lambda device: 9,
        "memory_allocated": lambda device: 4,
        "empty_cache": lambda: gave_back.append(1),
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(recording, "_stream", lambda device: mock.Mock())
    piece = recording.Piece(lambda: None, torch.device("cuda"), None)
    piece.warm = True
    piece.launch()
    assert isinstance(piece.graph, Recorded)
    assert len(gave_back) == emptied
    assert gc.isenabled()

    def fail():
        raise RuntimeError("no such operation")

    piece = recording.Piece(fail, torch.device("cuda"), None)
    piece.warm = True
    with pytest.raises(RuntimeError, match="no such operation"):
        piece.launch()
    assert gc.isenabled()


def test_candidates_of_a_kind_are_compiled_once(monkeypatch):
    """Those with weights other than those of a convolution, wherever they are; the others with their cell."""
    compiled = []

    def backend(module, inputs):
        compiled.append(sum(node.op.startswith("call") for node in module.graph.nodes))
        return module.forward

    function = torch.compile(batched_products.batched_products, dynamic=False, backend=backend)
    monkeypatch.setattr(batched_products, "_compiled", lambda: function)
    monkeypatch.setattr(captured, "batched_products", batched_products.compiled_products)
    found = setup("s3", edge_gradient="captured")
    found.architecture_step(batch(1), batch(2), rng(1))
    cells = [m.captured() for m in found.supernet.modules() if isinstance(m, Cell)]
    calls = [call for cell in cells for p in cell.places.values() for one in p.cells for call in one.calls]
    assert sum(compiled) < 300  # cell by cell 1,452
    assert len(calls) > 20


def test_the_products_of_convolutions_are_one_call():
    found = setup("nasbench201", edge_gradient="captured")
    found.architecture_step(batch(1), batch(2), rng(1))
    products = [one for places in found.supernet.chain.pieces.places.values() for one in places.cells]
    assert [len(one.calls) for one in products] == [1] * 3
