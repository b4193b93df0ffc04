"""What a person sees while a run goes on: a live display on a terminal, a line now and then everywhere else.

    started → phase, update, update, message, … → finished

The display draws itself in a thread of its own four times a second, so `update` only puts numbers down
(microseconds). Nothing here can stop a run: a stream that breaks is not written to again.
"""

import contextlib
import dataclasses
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Protocol, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from bellmark.run.progress_layout import View, duration, plain_line, view_lines

_SECONDS_BETWEEN_LINES = 5.0
_DRAWINGS_PER_SECOND = 4
_RATE_WINDOW = 10.0


class Progress(Protocol):
    """What the training loop says; every method returns at once and none raises."""

    def started(self, title: str, note: str, seeds: int, steps: int) -> None:
        """A run of `steps` environment steps for each seed begins; `note` is a remark beside the title."""

    def phase(self, text: str) -> None:
        """Something without steps goes on, such as compiling; it ends with the next `phase` or `update`."""

    def update(
        self,
        step: int,
        steps_per_second: float,
        seconds: float,
        returns: Sequence[float | None] = (),
        return_std: float | None = None,
        episodes: int | None = None,
        shares: Mapping[str, float] | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """The latest numbers.

        `step` counts one seed's environment steps and `steps_per_second` those of all seeds together;
        `seconds` is the training time so far; `returns` has one recent mean per seed (None or NaN where no
        episode has ended); `return_std` is the spread over episodes, shown where there is one seed only;
        `shares` says where the time goes (fractions or seconds); `metrics` holds the latest losses by name.
        """

    def message(self, text: str) -> None:
        """A remark, such as a checkpoint that was saved."""

    def warning(self, text: str) -> None:
        """Something that should not be overlooked; it is shown even where all else is quiet."""

    def finished(self, summary: str) -> None:
        """The run has ended; `summary` may have several lines."""

    def close(self) -> None:
        """Give the terminal back, whatever happened.  Harmless after `finished`."""

    def __enter__(self) -> "Progress": ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


def make_progress(stream: TextIO | None = None, quiet: bool = False) -> Progress:
    """The progress that suits `stream` (standard error unless given): live on a terminal, lines otherwise.

    NO_COLOR is respected; terminals that cannot move the cursor (TERM=dumb) get lines.
    """
    stream = sys.stderr if stream is None else stream
    if quiet:
        return Lines(stream, quiet=True)
    console = Console(file=stream, highlight=False)
    if stream.isatty() and console.is_terminal and not console.is_dumb_terminal:
        return Display(console)
    return Lines(stream)


class _Recorder:
    """The numbers that both kinds of progress show, and the time left that follows from them."""

    def __init__(self, clock: Callable[[], float]):
        self.clock = clock
        self.view = View()
        self._marks: list[tuple[float, int]] = []
        self._history: list[float] = []
        self._merged = 1
        self._pending: list[float] = []

    def start(self, title: str, note: str, seeds: int, steps: int) -> None:
        self.view = View(title=title, note=note, seeds=seeds, steps=steps, began=self.clock())

    def set(self, **changes: Any) -> None:
        self.view = dataclasses.replace(self.view, **changes)

    def update(self, step: int, returns: Sequence[float | None], **numbers: Any) -> None:
        present = tuple(float(value) for value in returns if value is not None and math.isfinite(value))
        if present:
            self._remember(sum(present) / len(present))
        self.set(
            step=step,
            returns=present,
            history=tuple(self._history),
            seconds_left=self._seconds_left(step),
            phase="",
            moving=True,
            **{name: value for name, value in numbers.items() if value is not None},
        )

    def _seconds_left(self, step: int) -> float | None:
        """By the pace of the last ten seconds: compiling, which happens once, does not count."""
        now = self.clock()
        self._marks.append((now, step))
        while len(self._marks) > 2 and now - self._marks[1][0] > _RATE_WINDOW:
            self._marks.pop(0)
        then, before = self._marks[0]
        if step <= before or now <= then:
            return None
        return max(0.0, (self.view.steps - step) * (now - then) / (step - before))

    def _remember(self, value: float) -> None:
        """The learning curve so far in at most 128 points: when it is full, neighbours are averaged."""
        self._pending.append(value)
        if len(self._pending) < self._merged:
            return
        self._history.append(sum(self._pending) / len(self._pending))
        self._pending = []
        if len(self._history) == 128:
            self._history = [
                (a + b) / 2 for a, b in zip(self._history[::2], self._history[1::2], strict=True)
            ]
            self._merged *= 2


class Display:
    """The live display on a terminal."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic):
        self._console = console
        self._recorder = _Recorder(clock)
        self._live: Live | None = None
        self._drawn: list[int] = []

    def started(self, title: str, note: str, seeds: int, steps: int) -> None:
        self._recorder.start(title, note, seeds, steps)
        self._live = Live(
            get_renderable=self._frame, console=self._console, refresh_per_second=_DRAWINGS_PER_SECOND
        )
        self._quietly(self._live.start, True)

    def phase(self, text: str) -> None:
        self._recorder.set(phase=text, phase_began=self._recorder.clock())

    def update(
        self,
        step: int,
        steps_per_second: float,
        seconds: float,
        returns: Sequence[float | None] = (),
        return_std: float | None = None,
        episodes: int | None = None,
        shares: Mapping[str, float] | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        self._recorder.update(
            step,
            returns,
            steps_per_second=steps_per_second,
            seconds=seconds,
            return_std=return_std,
            episodes=episodes,
            shares=shares,
            metrics=metrics,
        )

    def message(self, text: str) -> None:
        if self._live is None:
            self._quietly(self._console.print, Text(text, "dim"))
        else:
            self._recorder.set(message=text)

    def warning(self, text: str) -> None:
        self._quietly(self._console.print, Text.assemble(("warning ", "yellow"), text))

    def finished(self, summary: str) -> None:
        self._recorder.set(phase="", seconds_left=None, message="")
        self.close()
        if summary:
            self._quietly(self._console.print, Text(summary))

    def close(self) -> None:
        if self._live is not None:
            live, self._live = self._live, None
            self._quietly(live.stop)

    def __enter__(self) -> "Display":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _frame(self) -> Group:
        width = self._console.width
        unicode = self._console.encoding.startswith("utf")
        lines = view_lines(self._recorder.view, self._recorder.clock(), width, unicode)
        if self._drawn and width < max(self._drawn):
            self._count_folded_rows(width)
        self._drawn = [line.cell_len for line in lines]
        return Group(*lines)

    def _count_folded_rows(self, width: int) -> None:
        """A terminal that became narrower has folded the last frame's lines: Rich must erase more rows."""
        rows = sum(max(1, math.ceil(cells / width)) for cells in self._drawn)
        render: Any = getattr(self._live, "_live_render", None)
        # Not public.  Where Rich has changed, a remnant stays on the screen, and nothing else happens.
        if getattr(render, "_shape", None) is not None:
            render._shape = (width, rows)

    def _quietly(self, call: Callable[..., Any], *arguments: Any) -> None:
        with contextlib.suppress(OSError, ValueError):
            call(*arguments)


class Lines:
    """Plain lines for pipes and logs: the first, the last, and one every five seconds."""

    def __init__(self, stream: TextIO, quiet: bool = False, clock: Callable[[], float] = time.monotonic):
        self._stream = stream
        self._quiet = quiet
        self._recorder = _Recorder(clock)
        self._last_line = -math.inf
        self._unsaid = False

    def started(self, title: str, note: str, seeds: int, steps: int) -> None:
        self._recorder.start(title, note, seeds, steps)
        many = f"{seeds} seeds, {steps:,} steps each" if seeds > 1 else f"{steps:,} steps"
        self._say(f"{title}: {many}" + (f" ({note})" if note else ""))

    def phase(self, text: str) -> None:
        self._say(f"{text} …")

    def update(
        self,
        step: int,
        steps_per_second: float,
        seconds: float,
        returns: Sequence[float | None] = (),
        return_std: float | None = None,
        episodes: int | None = None,
        shares: Mapping[str, float] | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        self._recorder.update(
            step,
            returns,
            steps_per_second=steps_per_second,
            seconds=seconds,
            return_std=return_std,
            episodes=episodes,
            shares=shares,
            metrics=metrics,
        )
        self._unsaid = True
        if self._recorder.clock() - self._last_line >= _SECONDS_BETWEEN_LINES:
            self._say_numbers()

    def message(self, text: str) -> None:
        self._say(text)

    def warning(self, text: str) -> None:
        self._write(f"warning: {text}")

    def finished(self, summary: str) -> None:
        if self._unsaid:
            self._say_numbers()
        if self._recorder.view.seconds:
            self._say(f"trained for {duration(self._recorder.view.seconds)}")
        if summary:
            self._say(summary)

    def close(self) -> None:
        return None

    def __enter__(self) -> "Lines":
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def _say_numbers(self) -> None:
        self._unsaid = False
        self._last_line = self._recorder.clock()
        self._say(plain_line(self._recorder.view))

    def _say(self, text: str) -> None:
        if not self._quiet:
            self._write(text)

    def _write(self, text: str) -> None:
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text.encode(encoding, "replace").decode(encoding) + "\n")
            self._stream.flush()
