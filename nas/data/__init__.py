"""Image data: from a name, a folder or tensors to augmented batches on the training device."""

from __future__ import annotations

from nas.data.batches import Batches, Delivery, delivery
from nas.data.concerns import concerns
from nas.data.images import Augmentation, DataSet, Images, Policy, split
from nas.data.preprocessing import Preprocessing
from nas.data.sources import load, register

__all__ = [
    "Augmentation",
    "Batches",
    "DataSet",
    "Delivery",
    "Images",
    "Policy",
    "Preprocessing",
    "concerns",
    "delivery",
    "load",
    "register",
    "split",
]
