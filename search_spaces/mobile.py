"""The space `mobile`: inverted residual blocks for images of 32 to 224 pixels. Its networks are of timm's
EfficientNet family.

Stem, first block and widths are those of MobileNetV3-Large (Howard et al., 2019, arXiv 1905.02244), stages of
up to four blocks those of OFA (Cai et al., 2020, arXiv 1908.09791), and the layers after the last block those
of EfficientNet.
"""

from __future__ import annotations

from search_spaces.chain import ChainLayout, ChainSpace
from search_spaces.inverted_residual import BLOCKS

WIDTHS = (24, 40, 80, 112, 160)  # channels of the stages where the stem has STEM
STEM, FEATURES = 16, 1280
# The stem and stages that halve the resolution of pictures of 128 pixels and more: all but the fourth stage.
# With every halving of the picture the first of them keeps it.
_HALVING = (True, True, True, True, False, True)
_SMALLEST_MAP = 4  # pixels of the last feature map, if possible


class MobileSpace(ChainSpace):
    """Five stages of one to four blocks, each with its kernel and expansion.

    `channels` are those of the stem: all others grow with them, 16 being a width multiplier of 1.

    Args:
        name: registry name.
        squeeze: whether squeeze-and-excitation is a choice, too.
    """

    plans_size = True

    def __init__(self, name: str, squeeze: bool) -> None:
        blocks = tuple(
            name
            for name, block in BLOCKS.items()
            if block.activation == "hard_swish" and (squeeze or not block.squeeze)
        )
        super().__init__(name, blocks, ("identity", *blocks), [4] * len(WIDTHS), channels=STEM)

    def layout(self, channels: int, planned_size: int) -> ChainLayout:
        multiplier = channels / STEM
        most = (planned_size // _SMALLEST_MAP).bit_length() - 1
        strides, left = [], min(most, sum(_HALVING))
        for halves in reversed(_HALVING):
            strides.append(2 if halves and left > 0 else 1)
            left -= halves
        stem_stride, *stages = reversed(strides)
        widths = [divisible(multiplier * width) for width in WIDTHS]
        return ChainLayout(
            stem=divisible(channels),
            stem_stride=stem_stride,
            separable=True,
            stages=tuple(zip(widths, stages, strict=True)),
            features=divisible(multiplier * FEATURES),
            activation="hard_swish",
        )


def divisible(channels: float, by: int = 8) -> int:
    """The nearest multiple of 8, at least 8, that is no more than a tenth below `channels`: timm's rule."""
    nearest = max(by, int(channels + by / 2) // by * by)
    return nearest if nearest >= 0.9 * channels else nearest + by


mobile = MobileSpace("mobile", squeeze=False)
mobile_se = MobileSpace("mobile_se", squeeze=True)
