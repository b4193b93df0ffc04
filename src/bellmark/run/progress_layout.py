"""How the numbers of a run are laid out: pure functions from a `View` to lines of any width.

    ppo on CartPole-v1 · 10 seeds · compiled twin of Gymnasium's
    ━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━╸──────────────  68 %   68,750 of 100,000 steps
    return   434.9 ± 15.9   (411.2 to 462.6)   1,320 episodes   ▁▂▃▅▆▆▇▇███
    speed    493,394 steps/s   0:03 left   0:06 so far
    time     train 69 %   compile 28 %   checkpoint 3 %
    loss     policy -0.0123   value 8.07   entropy 0.543

Each line is made of pieces in order of importance; on a narrow terminal the last pieces are left out.
"""

import itertools
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from rich.text import Text

_SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_SPARKS = "▁▂▃▄▅▆▇█"
_LABEL = 9
_WIDEST = 100

Piece = tuple[str, str]
"""A text and its style."""


@dataclass(frozen=True)
class View:
    """Everything that is shown."""

    title: str = ""
    note: str = ""
    seeds: int = 1
    steps: int = 0
    step: int = 0
    steps_per_second: float = 0.0
    seconds: float = 0.0
    seconds_left: float | None = None
    returns: tuple[float, ...] = ()
    return_std: float | None = None
    history: tuple[float, ...] = ()
    episodes: int = 0
    shares: Mapping[str, float] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    phase: str = ""
    phase_began: float = 0.0
    began: float = 0.0
    message: str = ""
    moving: bool = False


def view_lines(view: View, now: float, width: int, unicode: bool = True) -> list[Text]:
    """The live display, `width` columns wide at most."""
    width = min(width, _WIDEST)
    seeds = f"{view.seeds} seeds" if view.seeds > 1 else ""
    lines = [
        _line([(view.title, "bold"), (seeds, ""), (view.note, "dim")], width, " · " if unicode else " - ")
    ]
    if view.moving:
        lines.append(_bar(view, width, unicode))
        lines += [line for line in _numbers(view, width, unicode) if line.plain]
    if view.phase:
        spinner = _SPINNER[int(now * 8) % len(_SPINNER)] if unicode else "|/-\\"[int(now * 8) % 4]
        elapsed = duration(now - view.phase_began)
        lines.append(_line([(spinner, "cyan"), (view.phase, ""), (elapsed, "dim")], width, " "))
    elif view.message:
        lines.append(_line([(view.message, "dim")], width))
    return lines


def plain_line(view: View) -> str:
    """The same in one line, for logs."""
    share = f" ({percent(view.step / view.steps)})" if view.steps else ""
    parts = [f"{view.step:,} of {view.steps:,} steps{share}", f"{view.steps_per_second:,.0f} steps/s"]
    if view.returns:
        parts.append(f"return {_return(view, '±')}")
    if view.seconds_left:
        parts.append(f"{duration(view.seconds_left)} left")
    return ", ".join(parts)


def duration(seconds: float) -> str:
    """`0:07`, `12:30`, `3:05:00`; `2 d 03:05` from a day on."""
    whole = max(0, round(seconds)) if math.isfinite(seconds) else 0
    minutes, second = divmod(whole, 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f"{days} d {hour:02d}:{minute:02d}"
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"


def percent(fraction: float) -> str:
    """Whole per cent, rounded down so that 100 % means the end."""
    return f"{math.floor(100 * min(max(fraction, 0.0), 1.0) + 1e-9)} %"


def number(value: float) -> str:
    """About three digits that matter: `423.1`, `-0.0123`, `1.2e+06`."""
    if not math.isfinite(value):
        return str(value)
    size = abs(value)
    if size >= 1e5 or 0 < size < 1e-4:
        return f"{value:.1e}"
    if size >= 1000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if size >= 10 else f"{value:.3g}"


def spark(values: Sequence[float], width: int) -> str:
    """A curve of `width` characters, each the mean of its share of `values`, from lowest to highest."""
    if len(values) < 2 or width < 2:
        return ""
    count = min(width, len(values))
    edges = [round(place * len(values) / count) for place in range(count + 1)]
    means = [statistics.fmean(values[a:b]) for a, b in itertools.pairwise(edges)]
    low, high = min(means), max(means)
    if high == low:
        return ""
    return "".join(_SPARKS[min(7, int(8 * (value - low) / (high - low)))] for value in means)


def _numbers(view: View, width: int, unicode: bool) -> list[Text]:
    lines = []
    if view.returns:
        spread: list[Piece] = []
        if len(view.returns) > 1:
            spread = [(f"({number(min(view.returns))} to {number(max(view.returns))})", "dim")]
        episodes = f"{view.episodes:,} episodes" if view.episodes else ""
        pieces = [(_return(view, "±" if unicode else "+/-"), "bold"), *spread, (episodes, "dim")]
        line = _labelled("return", pieces, width)
        curve = spark(view.history, min(16, width - line.cell_len - 3)) if unicode else ""
        lines.append(line.append(f"   {curve}", "cyan") if curve else line)
    elif view.moving:
        lines.append(_labelled("return", [("no episode has ended yet", "dim")], width))
    times = [(f"{view.steps_per_second:,.0f} steps/s", ""), (f"{duration(view.seconds)} so far", "dim")]
    if view.seconds_left is not None:
        times.insert(1, (f"{duration(view.seconds_left)} left", ""))
    lines.append(_labelled("speed", times, width))
    total = sum(view.shares.values())
    if total > 0:
        ordered = sorted(view.shares.items(), key=lambda share: -share[1])
        shares = [(f"{name} {round(100 * value / total)} %", "dim") for name, value in ordered]
        lines.append(_labelled("time", shares, width))
    losses = [
        (f"{name.removeprefix('loss/')} {number(value)}", "dim") for name, value in view.metrics.items()
    ]
    if losses:
        lines.append(_labelled("loss", losses, width))
    return lines


def _return(view: View, plus_minus: str) -> str:
    """The mean and its spread: over the seeds, or over the episodes where there is one seed."""
    mean = statistics.fmean(view.returns)
    spread = statistics.stdev(view.returns) if len(view.returns) > 1 else view.return_std
    if spread is None or not math.isfinite(spread):
        return number(mean)
    same_digits = 10 <= abs(mean) < 1000 and spread < 1000
    return f"{number(mean)} {plus_minus} {f'{spread:.1f}' if same_digits else number(spread)}"


def _bar(view: View, width: int, unicode: bool) -> Text:
    fraction = min(max(view.step / view.steps, 0.0), 1.0) if view.steps else 0.0
    ending, longest = f"{percent(fraction):>6}", 6
    if width >= 60:
        ending += f"   {view.step:,} of {view.steps:,} steps"
        longest += len(f"   {view.steps:,} of {view.steps:,} steps")  # so that the bar keeps its length
    length = max(4, width - longest)
    halves = int(fraction * length * 2)
    full, half, rest = ("━", "╸", "─") if unicode else ("=", "", "-")
    done = full * (halves // 2) + (half if halves % 2 else "")
    return Text.assemble((done, "cyan"), (rest * (length - len(done)), "bright_black"), (ending, ""))


def _labelled(label: str, pieces: Iterable[Piece], width: int) -> Text:
    line = Text(label.ljust(_LABEL), "dim")
    return line.append_text(_line(pieces, width - _LABEL, "   "))


def _line(pieces: Iterable[Piece], width: int, separator: str = "") -> Text:
    """The pieces that fit, in order; the first is cut short where even it does not."""
    line = Text(no_wrap=True)
    for text, style in pieces:
        lead = separator if line.plain else ""
        if not text:
            continue
        if not line.plain:
            line.append(text, style)
            line.truncate(max(1, width), overflow="ellipsis")
        elif line.cell_len + len(lead) + Text(text).cell_len <= width:
            line.append(lead, "dim").append(text, style)
    return line
