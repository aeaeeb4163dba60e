"""A candidate operation taken apart, into what candidates can share and what has products of its own."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from search_spaces.depthwise import AvgPool3x3
from search_spaces.operations import Residual, Zero

_SHARED = (nn.ReLU, nn.AvgPool2d, nn.MaxPool2d, AvgPool3x3)  # these alone: a subclass may do something else
Cache = dict[tuple[object, ...], Tensor]  # outputs of shared layers for one input, by their keys


@dataclass(frozen=True)
class Split:
    """An operation o(x) = norm(pointwise(body(shared(x)))), each part of which may be missing; plus x, where
    it is residual.

    Attributes:
        shared: the first layer if it has no weights, so that operations on the same input need it once, and
            the next one leaves its output as it is; `key` is equal for layers that compute the same.
        pointwise: a 1x1 convolution right before `norm`.
        norm: the last layer if it only normalises, with the batch at hand.
        is_zero: whether this is the operation `none`.
        residual: whether the input is added.
    """

    shared: nn.Module | None
    key: tuple[object, ...]
    body: tuple[nn.Module, ...]
    pointwise: nn.Conv2d | None
    norm: nn.BatchNorm2d | None
    is_zero: bool = False
    residual: bool = False

    @staticmethod
    def of(operation: nn.Module) -> Split:
        """The parts of a candidate operation."""
        residual = type(operation) is Residual
        branch = operation.branch if type(operation) is Residual else operation
        layers = list(branch) if type(branch) is nn.Sequential and len(branch) else [branch]
        shared, norm, last = None, None, layers[-1]
        pointwise: nn.Conv2d | None = None
        if type(last) is nn.BatchNorm2d and not last.affine and last.running_mean is None:
            norm = last
            layers.pop()
            if layers and type(layers[-1]) is nn.Conv2d and _is_pointwise(layers[-1]):
                pointwise = layers[-1]
                layers.pop()
        overwrites = len(layers) > 1 and getattr(layers[1], "inplace", False)
        if layers and type(layers[0]) in _SHARED and not overwrites:
            shared = layers.pop(0)
        zero = isinstance(operation, Zero)
        return Split(shared, layer_key(shared), tuple(layers), pointwise, norm, zero, residual)

    @property
    def has_weights(self) -> bool:
        """Whether anything is computed beside the shared layer and the normalisation."""
        return self.pointwise is not None or any(type(layer) is not nn.Identity for layer in self.body)

    def shared_part(self, x: Tensor, cache: Cache) -> Tensor:
        """shared(x); `cache` holds the outputs of shared layers for x so far, and is added to."""
        if self.shared is None:
            return x
        if self.key not in cache:
            cache[self.key] = self.shared(x)
        return cache[self.key]

    def before_pointwise(self, x: Tensor, cache: Cache) -> Tensor:
        """body(shared(x)), see `shared_part`."""
        x = self.shared_part(x, cache)
        for layer in self.body:
            x = layer(x)
        return x

    def before_norm(self, x: Tensor, cache: Cache) -> Tensor:
        """pointwise(body(shared(x)))."""
        x = self.before_pointwise(x, cache)
        return x if self.pointwise is None else self.pointwise(x)

    def __call__(self, x: Tensor, cache: Cache) -> Tensor:
        """The operation on x, see `shared_part`."""
        y = self.before_norm(x, cache)
        y = y if self.norm is None else self.norm(y)
        return x + y if self.residual else y


NOTHING = Split(None, (), (), None, None, is_zero=True)
"""In the place of a candidate whose product is not wanted."""


def layer_key(layer: nn.Module | None) -> tuple[object, ...]:
    """The type of a layer without weights and all its settings."""
    settings = {} if layer is None else vars(layer)
    public = (item for item in settings.items() if item[0][0] != "_" and item[0] != "training")
    return (type(layer), *sorted((name, tuple(v) if isinstance(v, list) else v) for name, v in public))


def _is_pointwise(conv: nn.Conv2d) -> bool:
    plain = conv.kernel_size == conv.stride == (1, 1) and conv.padding == (0, 0)
    return plain and conv.groups == 1 and conv.bias is None and has_its_weight(conv)


def has_its_weight(conv: nn.Conv2d) -> bool:
    """Whether the weight of a convolution is what a call of it would use: a hook may compute it, as that of
    `torch.nn.utils.weight_norm` does."""
    return not (conv._forward_pre_hooks or conv._forward_hooks)
