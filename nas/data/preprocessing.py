"""What becomes of the pixels of an image before a network sees them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Preprocessing:
    """What a user of a network has to do with an image, and what its outputs mean.

    A value x of channel c of an image becomes ((x - low) / (high - low) - mean[c]) / std[c].

    Attributes:
        channels: of an image, 1: grey.
        image_size: height and width in pixels.
        low, high: values in the files, or arrays, that count as 0 and 1; 0 and 255 of 8-bit images.
        mean, std: per channel, of the training images in [0, 1].
        classes: names, in the order of the outputs.
    """

    channels: int
    image_size: tuple[int, int]
    low: float
    high: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The keys of a model's description that say so."""
        return {
            "in_chans": self.channels,
            "image_size": list(self.image_size),
            "classes": list(self.classes),
            "range": [self.low, self.high],
            "mean": list(self.mean),
            "std": list(self.std),
        }

    @classmethod
    def from_json(cls, description: dict[str, Any]) -> Preprocessing:
        """What a description says; of one that states no range, which older versions wrote, 8 bits."""
        low, high = description.get("range", (0.0, 255.0))
        return cls(
            description["in_chans"],
            tuple(description["image_size"]),
            low,
            high,
            tuple(description["mean"]),
            tuple(description["std"]),
            tuple(description["classes"]),
        )
