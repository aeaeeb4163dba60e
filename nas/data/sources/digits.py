"""Handwritten digits: small enough for a first try."""

from __future__ import annotations

import numpy as np
import torch

from nas.data.images import Augmentation, DataSet, Images, set_aside


def load(*, test_fraction: float) -> DataSet:
    """scikit-learn's 1,797 grey 8x8 digits (UCI, 1998), a fixed stratified part of them for test."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = torch.from_numpy(np.round(digits.images * (255 / 16)).astype(np.uint8)).unsqueeze(1)
    images = Images(pixels, torch.from_numpy(digits.target.astype(np.int64)))
    train, test, _ = set_aside(images, test_fraction, "digits")
    classes = tuple(str(digit) for digit in range(10))
    return DataSet("digits", train, test, classes, Augmentation(crop_padding=1))
