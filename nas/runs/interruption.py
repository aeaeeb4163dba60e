"""SIGTERM, SIGINT and SIGUSR1 as a request to stop at the next good moment."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

_DEADLY = (signal.SIGTERM, signal.SIGINT)
_SIGNALS = (*_DEADLY, *([signal.SIGUSR1] if hasattr(signal, "SIGUSR1") else []))  # not on Windows


class Interruption:
    """While it is entered, a signal sets `asked` instead of ending the process.

    A SIGTERM or SIGINT after the first signal ends the process at once. SIGUSR1 never does, so that one who
    passes a request on, as the grid does to its runs, harms nobody whom it has reached already.

    Args:
        raises: the first signal ends the block at once, by a KeyboardInterrupt.

    Attributes:
        asked: whether a signal has come.
    """

    def __init__(self, raises: bool = False) -> None:
        self.asked, self.raises = False, raises
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():  # no other thread may handle signals
            self._before = {number: signal.signal(number, self._ask) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        first, self.asked = not self.asked, True
        for deadly in _DEADLY:
            signal.signal(deadly, signal.SIG_DFL)
        if first and self.raises:
            raise KeyboardInterrupt
