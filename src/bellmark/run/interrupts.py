"""Ctrl-C: once is a request, twice is an order.

    starting, compiling, evaluating     the first Ctrl-C raises KeyboardInterrupt where the main thread waits
    training                            it is noted; the loop ends at the next row, saves and reports
    stepping a slow environment         it raises there, and the row that was begun is given up
    at any time, the second             the process ends at once; checkpoints are never half-written

Long compiled calls are made in other threads, so that the main thread can always be reached.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType
from typing import Any

SHOW_CURSOR = b"\x1b[?25h"


class Interrupts:
    """Owns SIGINT while a run goes on; does nothing outside the main thread, where signals do not arrive."""

    def __init__(self) -> None:
        self.asked = False
        self._may_raise: Callable[[], bool] = lambda: True
        self._before: Any = None
        self._installed = False

    def __enter__(self) -> "Interrupts":
        # where SIGINT is ignored (a background job of a shell script) it stays ignored
        if (
            threading.current_thread() is threading.main_thread()
            and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN
        ):
            self._before = signal.signal(signal.SIGINT, self._handle)
            self._installed = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._installed:
            signal.signal(signal.SIGINT, self._before)
            self._installed = False

    @contextlib.contextmanager
    def noted(self, may_raise: Callable[[], bool]) -> Iterator[None]:
        """While the block runs, Ctrl-C only sets `asked`, unless `may_raise()` says that it may interrupt."""
        before, self._may_raise = self._may_raise, may_raise
        try:
            yield
        finally:
            self._may_raise = before

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            end_at_once()
        self.asked = True
        if self._may_raise():
            raise KeyboardInterrupt


def end_at_once() -> None:
    """Leave without looking back: no thread is waited for, only the terminal is given back."""
    multiprocessing = sys.modules.get("multiprocessing")
    for child in multiprocessing.active_children() if multiprocessing is not None else ():
        child.kill()
    with contextlib.suppress(OSError):
        os.write(2, (SHOW_CURSOR if os.isatty(2) else b"") + b"\nbellmark: ended at once\n")
    os._exit(130)
