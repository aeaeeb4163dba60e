"""Operations of others, whose parts look like ours and are not: every way to the gradient is right."""

import pytest
import torch
import torch.nn.functional as F
from small import rng
from torch import nn

import estimators
import search_spaces
from nas.bilevel.architecture import Architecture
from nas.bilevel.steps import Bilevel
from nas.task import Classification
from search_spaces import operations
from search_spaces.nasbench201 import DenseCellSpace


class Unused(nn.Module):
    """Has a parameter that no output depends on."""

    def __init__(self, channels):
        super().__init__()
        self.conv, self.extra = nn.Conv2d(channels, channels, 1), nn.Parameter(torch.zeros(channels))

    def forward(self, x):
        return self.conv(x)


class Scaled(nn.AvgPool2d):
    """A pooling with a factor in a buffer."""

    def __init__(self, factor):
        super().__init__(3, 1, 1)
        self.register_buffer("factor", torch.tensor(factor))

    def forward(self, x):
        return self.factor * super().forward(x)


class Standardised(nn.Conv2d):
    """A convolution that centres its weights."""

    def forward(self, x):
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return self._conv_forward(x, weight, self.bias)


def hooked(channels_in, channels_out, size):
    """A convolution whose weight a hook computes, as that of the older `weight_norm`."""
    conv = nn.Conv2d(channels_in, channels_out, size, 1, size // 2, bias=False)
    conv.own = nn.Parameter(conv.weight.detach().clone())
    del conv._parameters["weight"]
    conv.weight = torch.zeros(())
    conv.register_forward_pre_hook(lambda module, _: setattr(module, "weight", module.own.flip(0)))
    return conv


BUILD = {
    "inplace_pool": lambda i, o, s, norm: nn.Sequential(
        nn.MaxPool2d(3, s, 1), nn.Hardswish(inplace=True), nn.Conv2d(i, o, 1, bias=False), norm(o)
    ),
    "hooked_1x1": lambda i, o, s, norm: nn.Sequential(nn.ReLU(), hooked(i, o, 1), norm(o)),
    "hooked_3x3": lambda i, o, s, norm: nn.Sequential(nn.ReLU(), hooked(i, o, 3), norm(o)),
    "empty": lambda i, o, s, norm: nn.Sequential(),
    "dropped_conv": lambda i, o, s, norm: nn.Sequential(
        nn.ReLU(), nn.Dropout(0.5), nn.Conv2d(i, o, 3, s, 1, bias=False), norm(o)
    ),
    "unused_conv": lambda i, o, s, norm: Unused(i),
    "listed_pool": lambda i, o, s, norm: nn.Sequential(
        nn.MaxPool2d([3, 3], s, [1, 1]), nn.Conv2d(i, o, 1, bias=False), norm(o)
    ),
    "pool_by_2": lambda i, o, s, norm: nn.Sequential(Scaled(2.0), nn.Conv2d(i, o, 1)),
    "pool_by_5": lambda i, o, s, norm: nn.Sequential(Scaled(5.0), nn.Conv2d(i, o, 1)),
    "standardised_1x1": lambda i, o, s, norm: nn.Sequential(
        nn.ReLU(), Standardised(i, o, 1, bias=False), norm(o)
    ),
    "standardised_3x3": lambda i, o, s, norm: nn.Sequential(
        nn.ReLU(), Standardised(i, o, 3, 1, 1, bias=False), norm(o)
    ),
}


def passes(space, edge_gradient, chosen, images):
    """Loss and gradient of a draw, and the gradients of the weights by their names."""
    torch.manual_seed(0)
    supernet = space.supernet(
        channels=4, cells=1, num_classes=3, in_channels=1, edge_gradient=edge_gradient
    ).double()
    logits = torch.zeros(space.num_slots, space.width).double()
    architecture = Architecture(space, estimators.get("reinmax"), logits)
    weights = torch.optim.SGD(supernet.parameters(), 0.1)
    bilevel = Bilevel(supernet, architecture, Classification(3), weights, torch.optim.SGD([logits], 1.0))
    draw = F.one_hot(torch.tensor(chosen), space.width).double()
    batch = (images, torch.arange(len(images)) % 3)
    torch.manual_seed(9)
    loss, _, gradient = bilevel.gradient_at(draw, batch)[:3]
    torch.manual_seed(9)
    bilevel.loss(chosen, batch)[0].backward()
    found = {name: p.grad for name, p in supernet.named_parameters()}
    return loss, gradient, found


@pytest.mark.parametrize("edge_gradient", ["lean", "captured"])
@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    ("candidates", "chosen"),
    [
        (("none", "nor_conv_1x1", "dropped_conv"), [2, 2, 2]),
        (("none", "nor_conv_1x1", "unused_conv"), [2, 1, 2]),
        (("none", "nor_conv_1x1", "listed_pool"), [2, 1, 2]),
        (("none", "pool_by_2", "pool_by_5"), [1, 2, 1]),
        (("none", "max_pool_3x3", "inplace_pool"), [2, 1, 1]),
        (("none", "max_pool_3x3", "inplace_pool"), [1, 2, 2]),
        (("none", "skip_connect", "hooked_1x1", "hooked_3x3"), [1, 1, 3]),
        (("none", "nor_conv_1x1", "empty"), [2, 1, 2]),
        (("none", "skip_connect", "standardised_1x1", "standardised_3x3"), [1, 1, 3]),
    ],
    ids=lambda value: value[-1] if isinstance(value, tuple) else "",
)
def test_equal_to_plain_autograd(edge_gradient, order, candidates, chosen):
    for name in candidates:
        if name in BUILD:
            operations.register(name, BUILD[name], "convolution")
    space = DenseCellSpace("of_others", nodes=3, channels=4, cells=1, candidates=candidates)
    search_spaces.register(space)
    images = torch.randn(6, 1, 8, 8, generator=rng(2)).double().contiguous(memory_format=order)
    loss, gradient, weights = passes(space, "dense", chosen, images)
    found_loss, found_gradient, found_weights = passes(space, edge_gradient, chosen, images)
    torch.testing.assert_close(found_loss, loss)
    drawn = slice(None)
    if "dropped_conv" in candidates:  # what is random is known of what was drawn alone
        drawn = (torch.arange(len(chosen)), torch.tensor(chosen))
    torch.testing.assert_close(found_gradient[drawn], gradient[drawn], rtol=1e-8, atol=1e-10)
    for name, expected in weights.items():
        if expected is None or found_weights[name] is None:  # plain autograd knows of all candidates
            assert found_weights[name] is None or not found_weights[name].any()
            assert expected is None or not expected.any()
        else:
            torch.testing.assert_close(found_weights[name], expected, rtol=1e-8, atol=1e-10)
