"""Processes that compute beside this one, for work that is kept piece by piece."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context

from ablation.executors import die_with_parent
from nas.runs.interruption import Interruption
from recipes import InterruptionError
from recipes.plugins import import_plugins


@contextmanager
def workers(count: int, plugins: Sequence[str] = ()) -> Iterator[ProcessPoolExecutor]:
    """At most `count` processes, which know what the plugins register and end with this one.

    Where the block ends by an error or a signal, what is under way is finished and the rest dropped. Raises
    InterruptionError at a signal.
    """
    try:
        with (
            Interruption(raises=True),
            ProcessPoolExecutor(count, get_context("spawn"), _prepare, (os.getpid(), tuple(plugins))) as pool,
        ):
            try:
                yield pool
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
    except KeyboardInterrupt:
        raise InterruptionError("what was under way is kept, the same command goes on") from None


def _prepare(parent: int, plugins: tuple[str, ...]) -> None:
    """What a process does first."""
    for number in (signal.SIGINT, signal.SIGTERM):  # a terminal, or `timeout`, sends it to all
        signal.signal(number, signal.SIG_IGN)
    if (ends := die_with_parent(parent)) is not None:
        ends()
    import_plugins(plugins)
