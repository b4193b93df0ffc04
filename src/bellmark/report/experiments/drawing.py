"""Pictures of experiments, in the style of `report.plots`: curves of many seeds with bands, named where they end."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bellmark.report.plots import COLOURS, GREY, INK, end_labels, new_figure, number, save, style, title_lines
from bellmark.report.statistics import band, mean

from .base import Float, Table

__all__ = ["COLOURS", "GREY", "INK", "Sheet", "curves", "level", "note", "number", "tinted"]


class Sheet:
    """A figure with its two title lines and a row of panels, saved on leaving: `with Sheet(…) as sheet`."""

    def __init__(
        self,
        path: Path,
        title: str,
        subtitle: str,
        *,
        panels: Sequence[float] = (1.0,),
        size: tuple[float, float] = (8.0, 4.5),
        right: float = 0.82,
        **margins: float,
    ):
        self._path, self._style = path, style()
        self._style.__enter__()
        self.figure = new_figure(*size)
        title_lines(self.figure, title, subtitle)
        grid = self.figure.add_gridspec(
            1,
            len(panels),
            width_ratios=panels,
            **{"left": 0.09, "right": right, "top": 0.83, "bottom": 0.125, "wspace": 0.3, **margins},
        )
        self.panels = [self.figure.add_subplot(grid[0, place]) for place in range(len(panels))]

    def __enter__(self) -> "Sheet":
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        try:
            if kind is None:
                save(self.figure, self._path)
        finally:
            self._style.__exit__(kind, error, trace)


def curves(
    axes: Any,
    table: Table,
    *,
    colours: Mapping[str, str] | None = None,
    labels: bool = True,
    window: int = 1,
    dots: bool = False,
) -> None:
    """The mean over seeds of every curve with its 95 % bootstrap band, smoothed over `window` points."""
    ends = []
    for place, (label, values) in enumerate(table.curves.items()):
        colour = (colours or {}).get(label, COLOURS[place % len(COLOURS)])
        position, smooth = _smoothed(table.position, values, window)
        centre = mean(smooth.T)
        low, high = band(smooth.T, mean) if len(values) > 1 else (centre, centre)
        axes.fill_between(position, low, high, color=colour, alpha=0.16, linewidth=0, zorder=3)
        axes.plot(
            position,
            centre,
            color=colour,
            linewidth=2.0,
            zorder=4,
            marker="o" if dots else None,
            markersize=4.5,
            markeredgecolor="white",
        )
        known = np.flatnonzero(np.isfinite(centre))
        if len(known):
            ends.append(((float(position[known[-1]]), float(centre[known[-1]])), label, colour))
    axes.set_xlabel(table.across)
    axes.set_ylabel(table.measured)
    if labels:
        end_labels(axes, ends, outside=False)


def _smoothed(position: Float, values: Float, window: int) -> tuple[Float, Float]:
    if window <= 1:
        return position, values
    sums = np.cumsum(np.pad(values, ((0, 0), (1, 0))), axis=1)
    smooth = (sums[:, window:] - sums[:, :-window]) / window
    return position[window - 1 :], smooth


def level(
    axes: Any,
    height: float,
    text: str,
    *,
    at: float = 0.99,
    below: bool = False,
    until: float | None = None,
    colour: str = GREY,
) -> None:
    """A dashed line at an exact value, up to `until` if labels stand beyond; its name `at` a share of the axis."""
    right = axes.get_xlim()[1] if until is None else until
    axes.plot(
        [axes.get_xlim()[0], right], [height] * 2, color=colour, linewidth=1, linestyle=(0, (4, 3)), zorder=1
    )
    axes.annotate(
        text,
        (at, height),
        xycoords=("axes fraction", "data"),
        xytext=(0, -4 if below else 3),
        textcoords="offset points",
        ha="right" if at > 0.5 else "left",
        va="top" if below else "bottom",
        fontsize=8.5,
        color=colour,
        zorder=5,
    )


def tinted(colour: str, share: float) -> tuple[float, float, float]:
    """`colour` mixed with white, so that lines may cross without their crossing showing."""
    from matplotlib.colors import to_rgb

    red, green, blue = to_rgb(colour)
    return 1 - share * (1 - red), 1 - share * (1 - green), 1 - share * (1 - blue)


def note(axes: Any, x: float, y: float, text: str, **keywords: Any) -> None:
    """Small words in the picture, at data coordinates."""
    axes.annotate(text, (x, y), **{"fontsize": 8.5, "color": GREY, **keywords})


def names(axes: Any, colours: dict[str, str], x: float, y: float, down: float = 0.07) -> None:
    """What the colours stand for, one below the other from (x, y), all in fractions of the axes."""
    for place, (label, colour) in enumerate(colours.items()):
        axes.annotate(label, (x, y - down * place), xycoords="axes fraction", color=colour, fontsize=10)


def logarithmic(axes: Any, ticks: Any, words: list[str]) -> None:
    """Few places, far apart by factors, each with its words."""
    axes.set_xscale("log")
    axes.set_xticks(ticks, words)
    axes.minorticks_off()
