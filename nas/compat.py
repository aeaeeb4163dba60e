"""Lets torchvision be imported beside a torch build that it was not compiled for.

torchvision registers the fake implementations of its compiled operators on import, which fails
where the compiled library does not load (a CUDA wheel beside CPU torch). Declaring the two schemas
it looks up first is enough: nothing here calls the operators.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import torch

_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_library: torch.library.Library | None = None  # the schemas live as long as this object


def prepare_torchvision() -> None:
    """Declare the operators if torchvision is not imported yet and its library does not load."""
    global _library
    if _library is not None or "torchvision" in sys.modules:
        return
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return
    try:
        for path in sorted(Path(spec.origin).parent.glob("_C*.so")):
            torch.ops.load_library(path)
    except OSError:
        _library = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            _library.define(name + _SCHEMA)
