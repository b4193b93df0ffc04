"""Pictures of runs in one style: light, restrained, legible at the size of a README, safe for colour-blind
readers.

    learning_curve          one run: return against steps, interquartile mean, 95 % bootstrap band, every seed
    faintly comparison              several runs on the same axes, against steps, seconds or both
    evaluation_histogram    the returns of the final policies

Each writes one file (PNG, SVG or PDF by its suffix) completely or not at all.  Matplotlib is imported when
the first picture is drawn, through its object interface: no window, no global figure, safe beside a user's
own plotting.

Colours: Okabe and Ito, "Color universal design", 2008, without the yellow that vanishes on white.
"""

import dataclasses
import io
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from bellmark.errors import BadInput
from bellmark.report.statistics import Learning, interquartile_mean, interval, learning, mean
from bellmark.run.disk import write_atomic

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#4D4D4D")
INK, GREY, FAINT = "#1F2933", "#6B7785", "#E4E7EB"
FORMATS = (".png", ".svg", ".pdf")
DPI = 150

STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": "#B8C0CA",
    "axes.facecolor": "white",
    "axes.linewidth": 0.8,
    "axes.labelcolor": GREY,
    "axes.labelsize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.8,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.major.size": 3,
    "xtick.major.width": 0.8,
    "ytick.major.size": 0,
    "figure.facecolor": "white",
    "lines.solid_capstyle": "round",
    "svg.fonttype": "path",
    "svg.hashsalt": "bellmark",
}

# What to show beside the return, the most telling first, by what the metric's name contains.
DIAGNOSTICS = ("entropy", "kl", "explained_variance", "loss/value", "loss/policy", "loss/", "gap", "norm")


GAPS = {"gap/greedy": "greedy policy", "gap/behaviour": "policy that acts"}
"""Drawn without being asked for, wherever the model's optimum is known."""


@dataclasses.dataclass(frozen=True)
class Run:
    """One run as `comparison` draws it: `columns` as for `learning_curve`, the rest for labels and lines."""

    label: str
    columns: Mapping[str, np.ndarray]
    environment: str = ""
    threshold: float | None = None


def learning_curve(
    columns: Mapping[str, np.ndarray],
    config: Mapping[str, Any],
    path: str | os.PathLike[str],
    *,
    metric: str = "episode/return",
    diagnostics: int = 3,
) -> Path:
    """Draw how one run learned, with up to `diagnostics` small panels of losses and the like; returns `path`.

    `columns` are the run's metrics as `bellmark.run.metrics.read_metrics` gives them, `config` its
    config.json. Before any episode has ended the picture says so.

    Raises: `BadInput` for an unknown metric or another ending than .png, .svg, .pdf; `BellmarkError` where
    the disk refuses.
    """
    environment = config["environment"]
    threshold = environment.get("threshold") if metric == "episode/return" else None
    nothing_yet = np.full((len(columns["step"]), len(config["seeds"])), np.nan)
    curve = learning({metric: nothing_yet, **columns}, metric)
    gaps = [name for name in GAPS if name in columns and np.isfinite(columns[name]).any()]
    chosen = _choose({name: column for name, column in columns.items() if name not in gaps}, diagnostics)
    with style():
        tall = 7.2 if gaps else 4.5
        figure = new_figure(8.0, tall)
        grid = figure.add_gridspec(
            max(1, len(chosen)),
            2 if chosen else 1,
            width_ratios=[3.6, 1] if chosen else None,
            left=0.1,
            right=0.965 if chosen else 0.91,
            top=1 - 0.765 / tall,
            bottom=0.5175 / tall,
            wspace=0.3,
            hspace=0.62,
        )
        place = grid[:, 0]
        if gaps:
            upper = place.subgridspec(2, 1, hspace=0.34)
            place = upper[0, 0]
            _draw_gaps(figure.add_subplot(upper[1, 0]), columns, gaps, config)
        axes = figure.add_subplot(place)
        seeds = curve.seeds.shape[1]
        summary = ", interquartile mean with 95 % bootstrap band" if seeds > 1 else ""
        title_lines(
            figure,
            f"{algorithm_title(config['algorithm']['name'])} on {environment['id']}",
            f"{plural(seeds, 'seed')}{summary}, averaged over {compact(curve.window)} steps",
        )
        if seeds > 1:
            axes.plot(curve.position, curve.seeds, color=COLOURS[0], alpha=0.22, linewidth=0.8, zorder=2)
        draw_learning(axes, curve, COLOURS[0])
        if np.isfinite(curve.centre).any():
            _threshold(axes, curve.position, threshold)
            end_labels(axes, [(_last(curve), number(_last(curve)[1]), COLOURS[0])], bold=True)
        else:
            axes.text(0.5, 0.5, "no episode has ended yet", transform=axes.transAxes, ha="center", color=GREY)
            axes.set_yticks([])
        _values(axes, _words(metric))
        steps_axis(axes, "environment steps per seed" if seeds > 1 else "environment steps")
        if not np.isfinite(curve.centre).any():
            axes.set_xticks([])
        for index, name in enumerate(chosen):
            small = figure.add_subplot(grid[index, 1])
            detail = learning(columns, name, points=60)
            draw_learning(small, detail, COLOURS[-1], width=1.2)
            small.set_title(_words(name), loc="left", fontsize=8.5, color=INK, pad=4)
            small.tick_params(labelsize=7.5)
            steps_axis(small, "", ticks=2)
            small.yaxis.set_major_locator(_locator(3))
            if index < len(chosen) - 1:
                small.set_xticklabels([])
        return save(figure, path)


def _draw_gaps(
    axes, columns: Mapping[str, np.ndarray], gaps: Sequence[str], config: Mapping[str, Any]
) -> None:
    """How far the policies are from Bellman's exact optimum; rows where one never ends, an infinite gap, are left out.

    Gaps span powers of ten, and 0 is what is hoped for: the axis is logarithmic down to a thousandth of the top.
    """
    ends, largest = [], 0.0
    for name, colour in zip(gaps, COLOURS[1:], strict=False):
        finite = _finite(columns, name)
        curve = learning(finite, name)
        draw_learning(axes, curve, colour, width=1.8)
        ends.append((f"{GAPS[name]}  {number(_last(curve)[1])}", colour))
        largest = max(largest, float(np.nanmax(finite[name])))
    _gap_axis(axes, largest)
    discount = config["algorithm"]["fields"].get("discount")
    of = f", discount {discount:g}" if isinstance(discount, int | float) else ""
    axes.set_title(f"exact gap to the optimum{of}", loc="left", fontsize=9.5, color=INK)
    for place, (text, colour) in enumerate(ends):
        axes.text(
            1.0 - 0.33 * place, 1.03, text, transform=axes.transAxes, ha="right", color=colour, fontsize=9
        )
    steps_axis(axes, "")


def _gap_axis(axes, largest: float) -> None:
    """Logarithmic from `largest` down to a thousandth of it, then linear to 0."""
    top = math.floor(math.log10(max(largest, 1e-9)))
    axes.set_yscale("symlog", linthresh=10.0 ** (top - 3), linscale=0.5)
    axes.set_yticks([0.0, *(10.0**power for power in range(top - 3, top + 1))])
    axes.set_ylim(0, 1.3 * max(largest, 1e-9))
    axes.set_yticks([], minor=True)


def _finite(columns: Mapping[str, np.ndarray], metric: str) -> Mapping[str, np.ndarray]:
    """A gap is infinite where a policy never ends: such rows are left out."""
    if metric not in GAPS or metric not in columns:
        return columns
    return {**columns, metric: np.where(np.isfinite(columns[metric]), columns[metric], np.nan)}


def comparison(
    runs: Sequence[Run],
    path: str | os.PathLike[str],
    *,
    axis: str = "both",
    metric: str = "episode/return",
) -> Path:
    """Draw several runs, labelled at their line ends, against `steps`, `seconds` or `both`; returns `path`.

    The threshold is drawn where all runs share it.  The colours repeat after seven runs, with dashes. Gaps to the
    optimum are drawn on a logarithmic axis that ends at 0.
    """
    if not runs:
        raise BadInput("no run to compare; allowed: one or more")
    shown = ["steps", "seconds"] if axis == "both" else [axis]
    curves = {
        name: [learning(_finite(run.columns, metric), metric, axis=name) for run in runs] for name in shown
    }
    thresholds = {run.threshold for run in runs}
    threshold = thresholds.pop() if len(thresholds) == 1 and metric == "episode/return" else None
    environments = list(dict.fromkeys(run.environment for run in runs if run.environment))
    seeds = sorted({curve.seeds.shape[1] for curve in curves[shown[0]]})
    with style():
        figure = new_figure(10.0 if len(shown) == 2 else 8.0, 4.5)
        margin = 0.013 * max(len(run.label) for run in runs) * 8.0 / figure.get_figwidth() + 0.03
        panels = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
        figure.subplots_adjust(
            left=0.08 if len(shown) == 2 else 0.1,
            right=1 - min(margin, 0.4),
            top=0.83,
            bottom=0.115,
            wspace=0.11,
        )
        title_lines(
            figure,
            _title(metric) + (f" on {' and '.join(environments)}" if environments else ""),
            f"interquartile mean over {_span(seeds)}, 95 % bootstrap band",
        )
        for panel, name in zip(panels, shown, strict=True):
            for index, curve in enumerate(curves[name]):
                draw_learning(panel, curve, COLOURS[index % len(COLOURS)], dashed=index >= len(COLOURS))
            position = np.concatenate([curve.position for curve in curves[name]])
            _threshold(panel, position, threshold, labelled=panel is panels[0])
            if name == "steps":
                steps_axis(panel, "environment steps per seed")
            else:
                steps_axis(panel, "training seconds, all seeds together")
        _values(panels[0], _words(metric))
        if metric in GAPS:
            _gap_axis(panels[0], max(float(np.nanmax(c.high, initial=0.0)) for c in curves[shown[0]]))
        ends = [
            (_last(curve), run.label, COLOURS[index % len(COLOURS)])
            for index, (run, curve) in enumerate(zip(runs, curves[shown[-1]], strict=True))
        ]
        end_labels(panels[-1], ends, outside=True)
        for curve, (_, _, colour) in zip(curves[shown[0]], ends, strict=True):
            dot(panels[0], *_last(curve), colour)
        return save(figure, path)


def evaluation_histogram(
    returns: ArrayLike,
    path: str | os.PathLike[str],
    *,
    title: str = "Return of the final policy",
    threshold: float | None = None,
) -> Path:
    """Draw the returns `[seeds, episodes]` of finished training: all episodes, each seed's mean, their
    summary.
    """
    returns = np.atleast_2d(np.asarray(returns, np.float64))
    finite = returns[np.isfinite(returns)]
    if not finite.size:
        raise BadInput(f"returns {returns.shape} hold no finite number; allowed: one or more")
    scores = mean(returns)
    centre, (low, high) = float(interquartile_mean(scores)), interval(returns, interquartile_mean)
    with style():
        figure = new_figure(8.0, 4.0)
        axes = figure.add_subplot()
        figure.subplots_adjust(left=0.085, right=0.965, top=0.81, bottom=0.13)
        sure = f", 95 % interval {number(low)} to {number(high)}" if math.isfinite(low) else ""
        title_lines(
            figure,
            title,
            f"{plural(len(returns), 'seed')}, {finite.size:,} episodes; interquartile mean of the seeds "
            f"{number(centre)}{sure}",
        )
        spread = float(np.ptp(finite))
        # Equal returns are common (a solved CartPole): one bar of a sensible width then.
        half = max(0.01 * abs(centre), 0.05) if spread == 0 else 0.0
        edges = np.linspace(finite.min() - half, finite.max() + half, _bins(finite) + 1)
        axes.hist(finite, bins=edges, color=COLOURS[0], alpha=0.35, edgecolor="white", linewidth=0.8)
        if math.isfinite(low):
            axes.axvspan(low, high, color=COLOURS[0], alpha=0.18, linewidth=0)
        axes.axvline(centre, color=COLOURS[0], linewidth=2)
        top = axes.get_ylim()[1]
        axes.plot(scores, np.full(len(scores), -0.035 * top), "|", color=INK, markersize=9, clip_on=False)
        axes.set_ylim(-0.07 * top, top)
        if spread == 0:
            axes.set_xlim(centre - 6 * half, centre + 6 * half)
        if threshold is not None and axes.get_xlim()[0] - spread <= threshold <= axes.get_xlim()[1] + spread:
            axes.axvline(threshold, color=GREY, linewidth=1, linestyle=(0, (4, 3)))
            axes.annotate(
                f"threshold {number(threshold)} ",
                (threshold, 0.97),
                xycoords=("data", "axes fraction"),
                ha="right",
                va="top",
                fontsize=9,
                color=GREY,
            )
        axes.set_ylabel("episodes")
        axes.yaxis.set_major_locator(_locator(5, integer=True))
        axes.set_xlabel("return of an episode; the ticks below are the seeds' means")
        return save(figure, path)


def picture_path(path: str | os.PathLike[str]) -> Path:
    """The file that a picture will be written to, or `BadInput` saying why it cannot: ask before working."""
    path = Path(path).expanduser()
    if path.suffix.lower() not in FORMATS:
        raise BadInput(f"cannot draw {path.name!r}; allowed endings: {', '.join(FORMATS)}")
    if not path.parent.is_dir():
        raise BadInput(f"{path.parent} is not a folder; make it first, or name a file elsewhere")
    if path.is_dir():
        raise BadInput(f"{path} is a folder; allowed: a file's name")
    return path


def style():
    import matplotlib

    return matplotlib.rc_context(STYLE)


def new_figure(width: float, height: float):
    """A figure that belongs to nobody but us: pyplot never hears of it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI)
    FigureCanvasAgg(figure)
    return figure


def save(figure, path: str | os.PathLike[str]) -> Path:
    path = picture_path(path)
    content = io.BytesIO()
    kind = path.suffix.lower()[1:]
    # Without its date, the same run always gives the same bytes.
    figure.savefig(
        content, format=kind, metadata={"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind)
    )
    write_atomic(path, content.getvalue())
    return path


def title_lines(figure, title: str, subtitle: str) -> None:
    """Two lines at the top left, placed by distance and not by share, so that they fit figures of any
    height.
    """
    height = figure.get_figheight()
    figure.text(0.018, 1 - 0.2 / height, title, fontsize=14, fontweight="bold", color=INK, va="top")
    figure.text(0.018, 1 - 0.5 / height, subtitle, fontsize=9, color=GREY, va="top")


def draw_learning(axes, curve: Learning, colour: str, *, width: float = 2.2, dashed: bool = False) -> None:
    axes.fill_between(curve.position, curve.low, curve.high, color=colour, alpha=0.16, linewidth=0, zorder=3)
    line = (0, (4, 2)) if dashed else "-"
    axes.plot(curve.position, curve.centre, color=colour, linewidth=width, linestyle=line, zorder=4)


def _threshold(axes, position: np.ndarray, threshold: float | None, *, labelled: bool = True) -> None:
    if threshold is None or not len(position):
        return
    axes.axhline(threshold, color=GREY, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    if labelled:
        axes.annotate(
            f"threshold {number(threshold)}",
            (0.01, threshold),
            xycoords=("axes fraction", "data"),
            # Below the line: above it is where the curves end up.
            xytext=(0, -4),
            textcoords="offset points",
            va="top",
            fontsize=8.5,
            color=GREY,
            zorder=5,
        )


def end_labels(axes, ends, *, bold: bool = False, outside: bool = False) -> None:
    """A dot at each line's last value, its label to the right, labels pushed apart where they would
    overlap.
    """
    ends = [end for end in ends if math.isfinite(end[0][1])]
    scale = axes.yaxis.get_transform()
    limits = axes.get_ylim()
    bottom, top = scale.transform(np.array(limits))
    height = axes.get_position().height * axes.figure.get_figheight() * 72  # points
    gap = 13 * (top - bottom) / height
    heights = scale.transform(np.array([end[0][1] for end in ends], np.float64))
    places = scale.inverted().transform(np.array(_apart(heights, gap, bottom, top), np.float64))
    axes.set_ylim(*limits)
    right = axes.get_xlim()[1] if outside else None
    for ((x, y), label, colour), place in zip(ends, places, strict=True):
        dot(axes, x, y, colour)
        axes.annotate(
            label,
            (x if right is None else right, place),
            xytext=(7, 0),
            textcoords="offset points",
            va="center",
            color=colour,
            fontsize=10,
            fontweight="bold" if bold else "normal",
            annotation_clip=False,
            zorder=6,
        )


def dot(axes, x: float, y: float, colour: str) -> None:
    axes.plot(x, y, "o", color=colour, markersize=5.5, markeredgecolor="white", zorder=6, clip_on=False)


def _apart(values: Sequence[float], gap: float, bottom: float, top: float) -> list[float]:
    """Positions in the order of `values`, at least `gap` from each other, moved together where they crowd."""
    order = np.argsort(values, kind="stable")
    blocks: list[tuple[float, int]] = []  # (centre, members), bottom to top
    for index in order:
        centre, members = float(values[index]), 1
        while True:
            half = 0.5 * gap * (members - 1)
            centre = max(min(centre, top - half), bottom + half)
            if not blocks or centre - blocks[-1][0] >= 0.5 * gap * (members + blocks[-1][1]):
                break
            other, more = blocks.pop()
            centre, members = (centre * members + other * more) / (members + more), members + more
        blocks.append((centre, members))
    placed = [centre + gap * (place - (n - 1) / 2) for centre, n in blocks for place in range(n)]
    result = np.zeros(len(placed))
    result[order] = placed
    return result.tolist()


def _last(curve: Learning) -> tuple[float, float]:
    known = np.flatnonzero(np.isfinite(curve.centre))
    return (
        (float(curve.position[known[-1]]), float(curve.centre[known[-1]])) if len(known) else (0.0, math.nan)
    )


def steps_axis(axes, label: str, *, ticks: int = 6) -> None:
    from matplotlib.ticker import FuncFormatter

    axes.xaxis.set_major_locator(_locator(ticks))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: compact(value)))
    # A hair of room, so that 999,424 steps still show the tick of a million.
    axes.set_xlim(0, 1.004 * max(axes.dataLim.x1, 1e-9) if math.isfinite(axes.dataLim.x1) else 1)
    axes.set_xlabel(label)


def _values(axes, label: str) -> None:
    from matplotlib.ticker import FuncFormatter

    axes.set_ylabel(label)
    # Long numbers would push the label out of the picture.
    axes.yaxis.set_major_formatter(
        FuncFormatter(lambda value, _: compact(value) if abs(value) >= 10_000 else number(value))
    )


def _locator(count: int, *, integer: bool = False):
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(count, integer=integer, steps=[1, 2, 2.5, 5, 10])


def _choose(columns: Mapping[str, np.ndarray], count: int) -> list[str]:
    """The most telling metrics that are not about episodes and that have something to show."""
    names = [
        name
        for name, column in columns.items()
        if np.ndim(column) == 2 and not name.startswith("episode/") and np.isfinite(column).any()
    ]
    ranked = [name for part in DIAGNOSTICS for name in names if part in name]
    return list(dict.fromkeys(ranked))[:count]


def _bins(values: np.ndarray) -> int:
    """Freedman and Diaconis' rule, between 1 and 40."""
    width = 2 * float(np.subtract(*np.percentile(values, [75, 25]))) / len(values) ** (1 / 3)
    if np.ptp(values) == 0:
        return 1
    return int(np.clip(np.ptp(values) / width if width > 0 else 20, 5, 40))


def algorithm_title(name: str) -> str:
    """`ppo` as PPO, `recurrent_ppo` as Recurrent PPO, `q_learning` as Q learning."""
    if "_" not in name and (len(name) <= 5 or name == "reinforce"):
        return name.upper()
    return _capital(" ".join(word.upper() if word in _ABBREVIATIONS else word for word in name.split("_")))


_ABBREVIATIONS = ("a2c", "dqn", "ppo", "qr", "sac", "sarsa", "td")


def _words(metric: str) -> str:
    """`episode/return` as "return", `loss/policy` as "policy loss", `optimisation/gradient_norm` as "gradient
    norm".
    """
    group, _, name = metric.rpartition("/")
    if metric in GAPS:
        return "gap"
    words = f"{name} {group}" if group == "loss" else name.replace("_", " ")
    return " ".join("KL" if word == "kl" else word for word in words.split())


def _title(metric: str) -> str:
    return f"Exact gap to the optimum, {GAPS[metric]}" if metric in GAPS else _capital(_words(metric))


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def compact(value: float) -> str:
    """1500000 as 1.5M, 20000 as 20k."""
    for size, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{suffix}".replace("-", "−")
    return f"{value:.3g}".replace("-", "−")


def number(value: float) -> str:
    """About four digits, a true minus sign."""
    if not math.isfinite(value):
        return "?"
    if 0 < abs(value) < 0.01:
        return f"{value:.2g}".replace("-", "−")
    text = f"{value:,.{0 if abs(value) >= 1000 else 1 if abs(value) >= 10 else 3}f}"
    return (text.rstrip("0").rstrip(".") if "." in text else text).replace("-", "−")


def plural(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")


def _span(counts: Sequence[int]) -> str:
    return plural(counts[0], "seed") if len(counts) == 1 else f"{counts[0]} to {counts[-1]} seeds"
