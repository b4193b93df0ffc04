"""A watchdog for host environments: a step that never returns becomes an error, not a run that hangs.

A daemon thread looks a few times per timeout whether the guarded call has moved on.  If it has not, three
things are tried in turn:

1. It is interrupted: by a signal in the main thread (which also ends a sleep or a read), by an asynchronous
   exception in any other.
2. Code that cannot be interrupted, such as a loop inside a C library, gets a few seconds' grace; then the
   process prints the same line and exits with status 1, because nothing in Python can take control back from
   it.
3. C code that also keeps Python's lock stops this very thread.  For that case a timer outside the interpreter
   (`faulthandler`'s) is wound up anew at every look; when it runs down it prints where everything stands and
   exits with status 1.  It is long, because it also runs while a shell has suspended the process.

The guarded code pays a few attribute writes per step and never reads a clock.
"""

import ctypes
import faulthandler
import os
import signal
import sys
import threading
import time
import weakref
from typing import Any, Protocol

# Ignored by default and used by nobody in practice, so that owning it disturbs no program (SIGALRM would).
SIGNAL: int | None = getattr(signal, "SIGURG", None)
GRACE = 5.0
LAST_RESORT = 900.0


class Hung(BaseException):
    """Raised inside the guarded call; no Exception, so that an `except Exception` there cannot swallow it."""


class Guarded(Protocol):
    """What is watched: `busy` is set during calls into foreign code, `beat` differs from call to call."""

    busy: bool

    @property
    def beat(self) -> tuple[int, int]: ...

    def describe_hang(self) -> str: ...


_condemned: tuple[Any, tuple[int, int]] | None = None


def _on_signal(number, frame) -> None:
    """Runs in the main thread between two bytecodes, so what it reads here cannot change under it."""
    global _condemned
    condemned, _condemned = _condemned, None
    if condemned is not None and condemned[0].busy and condemned[0].beat == condemned[1]:
        raise Hung


class Watchdog:
    """Interrupts `guarded`'s calls, made from the thread that constructs this, after `timeout` seconds."""

    def __init__(self, guarded: Guarded, timeout: float):
        self._guarded = weakref.ref(guarded)
        self._timeout, self._grace = timeout, min(GRACE, timeout)
        self._look_every = min(1.0, timeout / 10)
        self._thread_id = threading.get_ident()
        self._in_main = threading.current_thread() is threading.main_thread() and SIGNAL is not None
        if self._in_main and SIGNAL is not None:
            signal.signal(SIGNAL, _on_signal)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="bellmark-watchdog", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closed.set()

    def _watch(self) -> None:
        seen, waited, looked, interrupted = (-1, -1), 0.0, time.monotonic(), False
        try:
            while not self._closed.wait(self._look_every):
                guarded = self._guarded()
                if guarded is None:
                    return
                if sys.__stderr__ is not None:
                    faulthandler.dump_traceback_later(LAST_RESORT, exit=True, file=sys.__stderr__)
                now = time.monotonic()
                if not guarded.busy or guarded.beat != seen:
                    seen, waited, interrupted = guarded.beat, 0.0, False
                else:
                    # Time during which the whole process was suspended is nobody's hang.
                    waited += min(now - looked, 2 * self._look_every)
                looked = now
                if not interrupted and waited > self._timeout:
                    interrupted, waited = True, 0.0
                    self._interrupt(guarded, seen)
                elif interrupted and waited > self._grace:
                    print(f"bellmark: {guarded.describe_hang()}", file=sys.stderr, flush=True)
                    _kill_children()
                    os._exit(1)
                del guarded
        finally:
            faulthandler.cancel_dump_traceback_later()

    def _interrupt(self, guarded: Guarded, beat: tuple[int, int]) -> None:
        global _condemned
        if self._in_main and SIGNAL is not None:
            _condemned = (guarded, beat)
            signal.pthread_kill(self._thread_id, SIGNAL)
        else:
            ctypes.pythonapi.PyThreadState_SetAsyncExc(
                ctypes.c_ulong(self._thread_id), ctypes.py_object(Hung)
            )


def _kill_children() -> None:
    """End the workers that an environment started: after `os._exit` nobody else would."""
    multiprocessing = sys.modules.get("multiprocessing")
    if multiprocessing is not None:
        for child in multiprocessing.active_children():
            child.kill()
