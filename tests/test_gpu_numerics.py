"""The arithmetic of the path that a GPU takes, on the CPU: without the CPU's short cuts, and in bfloat16."""

import pytest
import torch
import torch.nn.functional as F
from small import batch, rng
from small import bilevel as setup
from torch.utils._python_dispatch import TorchDispatchMode

import search_spaces
from nas.bilevel.unroll import frozen
from search_spaces import exact_gradient, products
from search_spaces.darts import _pooled
from search_spaces.short_cuts import without_short_cuts

pytestmark = pytest.mark.usefixtures("fixed_noise")


def gradient(bilevel, dtype=torch.float32):
    """<dL/dy, o_k(x)> of every slot and candidate (E, K) in float64, and which candidates are chosen."""
    draw = bilevel.architecture.estimator(bilevel.architecture.masked().detach(), rng(5))
    images, labels = batch(1, dtype)
    images = images.contiguous(memory_format=torch.channels_last)
    leaf = draw.to(dtype).requires_grad_()
    with frozen(bilevel.parameters):
        loss = F.cross_entropy(bilevel.supernet(images, leaf), labels)
        (found,) = torch.autograd.grad(loss, leaf)
    return found.double(), draw.bool()


def built(space, dtype=torch.float32, edge_gradient="lean"):
    found = setup(space, dtype=dtype, edge_gradient=edge_gradient)
    found.supernet.to(memory_format=torch.channels_last)
    return found


@pytest.mark.parametrize("space", search_spaces.names())
def test_without_short_cuts_the_gradient_is_the_same(space):
    """In float64, to the last digits: what a GPU computes, the short cuts of the CPU, and plain autograd."""
    dense, _ = gradient(built(space, torch.float64, "dense"), torch.float64)
    bilevel = built(space, torch.float64)
    short, _ = gradient(bilevel, torch.float64)
    with without_short_cuts():
        plain, _ = gradient(bilevel, torch.float64)
    torch.testing.assert_close(plain, dense, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(plain, short, rtol=1e-10, atol=1e-12)


class Paddings(TorchDispatchMode):
    """What the backward passes of average poolings pad by."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function._opname == "avg_pool2d_backward":
            self.seen.append(args[4])
        return function(*args, **kwargs or {})


@pytest.mark.parametrize("edge_gradient", ["lean", "dense"])
@pytest.mark.parametrize("space", ["nasbench201", "darts"])
def test_average_poolings_pad_nothing_in_a_backward_pass(space, edge_gradient):
    """CUDA's is wrong for channels-last maps that it pads."""
    bilevel = built(space, edge_gradient=edge_gradient)
    with without_short_cuts(), Paddings() as paddings:
        gradient(bilevel)
        for number in range(8):
            draw = bilevel.architecture.estimator(bilevel.architecture.masked().detach(), rng(number))
            bilevel.supernet(batch(1)[0], draw.argmax(-1).tolist()).sum().backward()
    assert paddings.seen
    assert all(padding == [0, 0] for padding in paddings.seen)


def test_the_switch_turns_every_short_cut_off(monkeypatch):
    """With it, none of the functions is called that only a CPU calls; and it is on again behind the block."""
    called = []
    product = products.pointwise_product
    monkeypatch.setattr(products, "pointwise_product", lambda *a: called.append("pointwise") or product(*a))
    stats = torch.batch_norm_update_stats
    monkeypatch.setattr(torch, "batch_norm_update_stats", lambda *a: called.append("statistics") or stats(*a))
    bilevel = built("nasbench201")
    with without_short_cuts():
        gradient(bilevel)
    assert called == []
    gradient(bilevel)
    assert set(called) == {"pointwise", "statistics"}


def errors(found, exact, where):
    """Relative error and cosine of the entries of a gradient at `where`."""
    a, b = found[where], exact[where]
    return float((a - b).norm() / b.norm()), float(F.cosine_similarity(a, b, dim=0))


SIZES = {"micro": (8, 1, 32), "nasbench201": (8, 1, 32), "darts": (4, 3, 16), "s3": (4, 3, 16)}


def at_size(space_name, edge_gradient, dtype):
    """The gradient at a draw for images of 16 x 16 (E, K), in float64 or in bfloat16 under autocast."""
    channels, cells, images = SIZES[space_name]
    space = search_spaces.get(space_name)
    torch.manual_seed(0)
    size = {"channels": channels, "cells": cells, "num_classes": 10, "in_channels": 3}
    supernet = space.supernet(**size, edge_gradient=edge_gradient).to(memory_format=torch.channels_last)
    good = [[k for k, name in enumerate(slot.candidates) if name != "none"] for slot in space.slots]
    path = torch.tensor([own[row % len(own)] for row, own in enumerate(good)])
    draw = F.one_hot(path, space.width).float()
    x = torch.randn(images, 3, 16, 16, generator=rng(2)).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, 10, (images,), generator=rng(3))
    low = dtype == torch.bfloat16
    if not low:
        supernet, draw, x = supernet.to(dtype), draw.to(dtype), x.to(dtype)
    leaf = draw.requires_grad_()
    with frozen(supernet.parameters()), torch.autocast("cpu", dtype=torch.bfloat16, enabled=low):
        loss = F.cross_entropy(supernet(x, leaf), labels)
        return torch.autograd.grad(loss, leaf)[0].double(), draw.detach().bool()


@pytest.mark.parametrize("space", SIZES)
def test_bfloat16_is_as_precise_for_chosen_candidates_as_for_others(space):
    """Against float64, and no less precise than plain autograd in bfloat16; docs/performance.md has figures
    of larger networks."""
    exact, chosen = at_size(space, "lean", torch.float64)
    with without_short_cuts():
        lean, dense = (at_size(space, mode, torch.bfloat16)[0] for mode in ("lean", "dense"))
    for where in (chosen & (exact != 0), ~chosen & (exact != 0)):
        error, cosine = errors(lean, exact, where)
        assert error < 0.4
        assert cosine > 0.95
        assert error < 2 * errors(dense, exact, where)[0]


class Scales(TorchDispatchMode):
    """Gradients of a normalisation's scale as a GPU gives them: none where no scale was given."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        if function is torch.ops.aten.native_batch_norm_backward.default and args[2] is None:
            return found[0], args[1].new_empty(0), args[1].new_empty(0)
        return found


@pytest.mark.parametrize("space", ["micro", "darts"])
def test_scales_are_given_where_their_gradients_are_wanted(space):
    bilevel = built(space)
    with without_short_cuts():
        expected, _ = gradient(bilevel)
        with Scales():
            found, _ = gradient(bilevel)
    torch.testing.assert_close(found, expected)


def test_products_sum_in_float32():
    """A sum of ones in bfloat16 ends at 256; every product of bfloat16 maps goes further."""
    ones = torch.ones(4, 8, 16, 16, dtype=torch.bfloat16)
    alternating = torch.where(torch.arange(16) % 2 == 0, 1.0, -1.0).expand(4, 8, 16, 16).bfloat16()
    norm = torch.nn.BatchNorm2d(8, affine=False, track_running_stats=False)
    for context in (without_short_cuts, torch.no_grad):
        with context():
            assert products.inner_product(ones, ones).item() == ones.numel()
            found = products.normalised_inner_product(alternating, alternating, norm)
            assert found.item() == pytest.approx(ones.numel(), rel=1e-4)
            assert found.dtype == torch.float32 or context is torch.no_grad


def test_the_chosen_candidates_product_is_in_float32():
    """It comes from the backward pass of the normalisation, whose sums are float32 for bfloat16 maps."""
    x = torch.randn(4, 8, 16, 16, generator=rng()).bfloat16().requires_grad_()
    record = exact_gradient._Record([], False, [], None)
    edge = exact_gradient.RecordedEdge(0, 1, 0, (), 0)
    with without_short_cuts():
        y = exact_gradient._Normalise.apply(x, torch.zeros(0, requires_grad=True), record, edge, 1e-5)
        y.backward(y.detach())
    assert record.products[0, 0].dtype == torch.float32
    assert record.products[0, 0].item() == pytest.approx(y.detach().float().square().sum().item(), rel=1e-4)


@pytest.mark.parametrize("size", [(4, 4), (5, 5), (7, 6), (3, 2), (16, 9)])
def test_the_auxiliary_head_pools_as_adaptive_pooling_does(size):
    x = torch.randn(2, 3, *size, dtype=torch.float64, generator=rng())
    torch.testing.assert_close(_pooled(x), F.adaptive_avg_pool2d(x, 2))
