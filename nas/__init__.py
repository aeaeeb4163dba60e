"""Search, derive, retrain: joins estimators (tensors) and search spaces (modules).

Importing this package registers the timm model `nas_net`.
"""

from __future__ import annotations

from nas.compat import prepare_torchvision

prepare_torchvision()

from nas.training.model import load, nas_net, save  # noqa: E402

__all__ = ["load", "nas_net", "save"]
