"""A piece of work that a GPU does again and again: recorded as a CUDA graph, then replayed in one launch."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch


class Piece:
    """A function that reads and writes tensors which stay where they are.

    Attributes:
        warm: whether it may be recorded: what it calls has been tried out.
    """

    def __init__(self, function: Callable[[], None], device: torch.device, pool: Any) -> None:
        self.function, self.device, self.pool = function, device, pool
        self.warm, self.graph = False, None  # type: bool, torch.cuda.CUDAGraph | None
        self.stale: torch.cuda.CUDAGraph | None = None  # keeps its pool until there is another graph

    def forget(self) -> None:
        """Record anew at the next launch."""
        self.graph, self.stale = None, self.graph or self.stale

    def launch(self) -> None:
        """Do it."""
        if self.graph is None and self.warm and self.device.type == "cuda":
            self.graph, self.stale = self._record(), None
        if self.graph is None:
            self.function()
        else:
            self.graph.replay()

    def _record(self) -> torch.cuda.CUDAGraph:
        _make_room(self.device)
        graph, stream = torch.cuda.CUDAGraph(), _stream(self.device)
        stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(stream), _uncollected():
            graph.capture_begin(pool=self.pool, capture_error_mode="thread_local")
            try:
                self.function()
            finally:
                graph.capture_end()
        torch.cuda.current_stream(self.device).wait_stream(stream)
        return graph


@contextmanager
def _uncollected() -> Iterator[None]:
    """No garbage is collected: freeing an old graph would end the recording of another."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def _make_room(device: torch.device) -> None:
    """Let the allocator give back what it keeps, which a recording cannot use, if little else is free."""
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if torch.cuda.mem_get_info(device)[0] < kept:
        torch.cuda.empty_cache()


@cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    """The stream on which everything is recorded: backward passes run where their forward passes did."""
    return torch.cuda.Stream(device)


def memory_pool(device: torch.device) -> Any:
    """Memory for graphs of which only one is in use at a time; None where there are no graphs."""
    return torch.cuda.graph_pool_handle() if device.type == "cuda" else None
