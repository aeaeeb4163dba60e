"""Gradient estimators compared: on single gradients, on tasks outside NAS, and in searches."""

from __future__ import annotations

import nas.compat  # noqa: F401  (nas prepares torchvision before anything imports it)
