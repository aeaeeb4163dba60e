"""Studies beside the product: the tasks of the ReinMax paper, and the builder of the shipped tables."""

from __future__ import annotations

import nas.compat  # noqa: F401  (nas prepares torchvision before anything imports it)
