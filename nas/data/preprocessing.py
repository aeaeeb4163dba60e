"""What is done to an image before a network sees it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

LARGEST_SIDE = 65_536  # pixels, of a file that says what a network wants
_PLAIN = ((0.0, 255.0), (0.0, 1.0))  # ranges of 8-bit images, and of arrays in [0, 1]


@dataclass(frozen=True)
class Preprocessing:
    """JSON-ready; stored with every trained network, next to its classes.

    A picture is resized to `image_size` as a whole (bicubic, sides by themselves), without a crop. A value x
    of channel c then becomes ((x - low) / (high - low) - mean[c]) / std[c].

    Attributes:
        image_size: rows and columns in pixels.
        in_chans: channels, 1: grey.
        mean, std: per channel, of values in [0, 1].
        range: low and high, the values that count as 0 and 1; 0 and 255 of 8-bit images.
        deep: whether 8 bits do not hold the values of a picture; None: as `range` says.
        reduced: low and high of pictures of more bits among those of 8, which become 0 and 255; None: 0 and
            65535.
    """

    image_size: tuple[int, int]
    in_chans: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    range: tuple[float, float] = _PLAIN[0]  # older files have none, nor what follows
    deep: bool | None = None
    reduced: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        sides = self.image_size
        if len(sides) != 2 or any(type(n) is not int or not 1 <= n <= LARGEST_SIDE for n in sides):
            raise ValueError(f"its image_size is {list(sides)}, expected two numbers of pixels")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != self.in_chans or not _numbers(values):
                raise ValueError(f"its {name} is {list(values)}, expected a number for each channel")
        if min(self.std, default=1.0) <= 0:
            raise ValueError(f"its std is {list(self.std)}, expected positive numbers")
        for name, ends in (("range", self.range), ("reduced", self.reduced)):
            if ends is not None and (len(ends) != 2 or not _numbers(ends) or ends[0] >= ends[1]):
                raise ValueError(f"its {name} is {list(ends)}, expected two numbers, the lower one first")
        if not isinstance(self.deep, bool | None):
            raise ValueError(f"its deep is {self.deep!r}, expected true or false")

    @property
    def is_deep(self) -> bool:
        """Whether 8 bits do not hold the values of a picture."""
        return self.range not in _PLAIN if self.deep is None else self.deep

    def to_json(self) -> dict[str, Any]:
        """The fields that say something, with lists for tuples."""
        known = {k: v for k, v in asdict(self).items() if v is not None}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in known.items()}

    @classmethod
    def of(cls, description: Mapping[str, Any]) -> Preprocessing | None:
        """That of a network, among whose `description` its fields are; None where they are missing.

        Raises:
            TypeError, ValueError: they make no sense.
        """
        if "mean" not in description or "image_size" not in description:
            return None
        names = cls.__dataclass_fields__
        fields: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value
            for key, value in description.items()
            if key in names
        }
        return cls(**fields)

    def for_timm(self) -> dict[str, Any]:
        """As fields of timm's `pretrained_cfg`, from which timm builds the same transform, of pictures of 8
        bits."""
        return {
            "input_size": (self.in_chans, *self.image_size),
            "mean": list(self.mean),
            "std": list(self.std),
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "crop_mode": "squash",
        }


def _numbers(values: tuple[Any, ...]) -> bool:
    return all(type(x) in (int, float) and math.isfinite(x) for x in values)
