"""Functions compiled once for every kind of input that they get."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

RECOMPILE_LIMIT = 256  # kinds of cells, or of candidates, each with and without frozen weights


@contextmanager
def within_limit() -> Iterator[None]:
    """Call what `torch.compile` has returned. Past its limit of kinds dynamo would run the function as it is,
    without a word; here that is an error."""
    with torch._dynamo.config.patch(
        recompile_limit=RECOMPILE_LIMIT,
        accumulated_recompile_limit=RECOMPILE_LIMIT,
        fail_on_recompile_limit_hit=True,
    ):
        yield
