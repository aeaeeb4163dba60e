"""What is done to an image before a network sees it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

LARGEST_SIDE = 65_536  # pixels, of a file that says what a network wants


@dataclass(frozen=True)
class Preprocessing:
    """JSON-ready; stored with every trained network, next to its classes.

    A picture is resized to `image_size` as a whole (bicubic, sides by themselves), without a crop. Its values
    in [0, 1] are then normalised by channel: (x - mean) / std.

    Attributes:
        image_size: rows and columns in pixels.
        in_chans: channels.
        mean, std: per channel.
    """

    image_size: tuple[int, int]
    in_chans: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        sides = self.image_size
        if len(sides) != 2 or any(type(n) is not int or not 1 <= n <= LARGEST_SIDE for n in sides):
            raise ValueError(f"its image_size is {list(sides)}, expected two numbers of pixels")
        for name, values in (("mean", self.mean), ("std", self.std)):
            numbers = all(type(x) in (int, float) and math.isfinite(x) for x in values)
            if len(values) != self.in_chans or not numbers:
                raise ValueError(f"its {name} is {list(values)}, expected a number for each channel")
        if min(self.std, default=1.0) <= 0:
            raise ValueError(f"its std is {list(self.std)}, expected positive numbers")

    def to_json(self) -> dict[str, Any]:
        """The fields, with lists for tuples."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

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
        """As fields of timm's `pretrained_cfg`, from which timm builds the same transform."""
        return {
            "input_size": (self.in_chans, *self.image_size),
            "mean": list(self.mean),
            "std": list(self.std),
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "crop_mode": "squash",
        }
