"""The random walk: n-step TD between one step and Monte Carlo, over all step sizes.

Sutton & Barto, 2nd ed., example 7.1 and figure 7.2: 19 states, error over the first 10 episodes.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bellmark.algorithms.tabular.td import NStepTD
from bellmark.mdp.examples import random_walk
from bellmark.report.statistics import mean

from .base import Experiment, Findings, Float, Table, Verdict, above, average, verdict
from .drawing import Sheet, note, number
from .sampling import by_episode

STATES, EPISODES = 19, 10
STEPS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
MONTE_CARLO = STEPS[-1]
"""Only one episode in a hundred thousand is longer: bootstrapping never comes."""
STEP_SIZES = np.array([0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.1, 0.125, *np.arange(0.15, 1.001, 0.05)])
TOP = 0.55
"""Of the picture, as in the textbook: beyond, a learner knows less than it began with."""
TRUTH = (np.arange(1, STATES + 1) - (STATES + 1) / 2) / ((STATES + 1) / 2)


def measure(seeds: Sequence[int]) -> Findings:
    mdp = random_walk(STATES, left=-1.0)
    errors = {}
    for n in STEPS:
        columns = []
        for step_size in STEP_SIZES.tolist():
            learner = NStepTD(discount=1.0, n=n, step_size=step_size)
            tables = by_episode(learner, mdp, seeds, EPISODES, keep_tables=True).tables[:, :, :, 0]
            columns.append(np.sqrt(((tables - TRUTH) ** 2).mean(axis=2)).mean(axis=1))
        errors[f"n = {n}"] = np.stack(columns, axis=1)
    table = Table("step size α", STEP_SIZES, f"RMS error, first {EPISODES} episodes", errors)
    return Findings(seeds, {"errors": table})


def judge(findings: Findings) -> Verdict:
    curves = findings.tables["errors"].curves
    best = {label: best_of(errors) for label, errors in curves.items()}
    size, _ = min(best.values(), key=lambda pair: average(pair[1]))
    winner = min(best, key=lambda label: average(best[label][1]))
    one, monte_carlo = f"n = {STEPS[0]}", f"n = {MONTE_CARLO}"
    parts = {
        "an n in between has the smallest error": winner not in (one, monte_carlo),
        "it beats one-step TD": above(best[one][1], best[winner][1]),
        "it beats Monte Carlo": above(best[monte_carlo][1], best[winner][1]),
        "one-step TD beats Monte Carlo": above(best[monte_carlo][1], best[one][1]),
    }
    figures = (
        f"each n at its best step size, chosen on half of the seeds and reported on the other half, has its smallest "
        f"error with {winner}, {number(average(best[winner][1]))} at α = {number(size)}; one-step TD comes to "
        f"{number(average(best[one][1]))}, Monte Carlo (n = {MONTE_CARLO}) to {number(average(best[monte_carlo][1]))}"
    )
    return verdict(parts, figures)


def best_of(errors: Float) -> tuple[float, Float]:
    """The step size with the smallest mean error over every other seed, and the errors of the seeds between."""
    choice = int(np.argmin(mean(errors[::2].T)))
    return float(STEP_SIZES[choice]), errors[1::2, choice]


def draw(findings: Findings, path: Path) -> Path:
    from matplotlib import colormaps

    curves = findings.tables["errors"].curves
    ramp = colormaps["viridis"](np.linspace(0.0, 0.88, len(STEPS)))
    with Sheet(
        path,
        "Between TD and Monte Carlo on the random walk",
        f"19 states; RMS error of the values, mean of the first {EPISODES} episodes and of "
        f"{len(findings.seeds)} seeds; at the curves: n",
        size=(8.0, 4.8),
        top=0.82,
        right=0.97,
    ) as sheet:
        [axes] = sheet.panels
        leaving: list[tuple[float, str, Any]] = []
        for (label, errors), colour in zip(curves.items(), ramp, strict=True):
            centre = mean(errors.T)
            axes.plot(STEP_SIZES, centre, color=colour, linewidth=2.0)
            n, last = label.split()[-1], int(np.flatnonzero(centre < TOP)[-1])
            if last == len(STEP_SIZES) - 1:
                _name(axes, STEP_SIZES[-1], centre[-1], n, colour, ha="left", va="center", xytext=(6, 0))
                continue
            share = (TOP - centre[last]) / (centre[last + 1] - centre[last])
            x = STEP_SIZES[last] + share * (STEP_SIZES[last + 1] - STEP_SIZES[last])
            if leaving and leaving[-1][0] - x < 0.03:
                leaving[-1] = (x, f"{n}, {leaving[-1][1]}", colour)
            else:
                leaving.append((x, n, colour))
        for x, n, colour in leaving:
            side = "right" if "," in n else "center"
            _name(axes, x, TOP, n, colour, ha=side, va="bottom", xytext=(5 if "," in n else 0, 2))
        lowest = min(curves, key=lambda label: float(mean(curves[label].T).min()))
        floor = mean(curves[lowest].T)
        low = int(np.argmin(floor))
        axes.plot(STEP_SIZES[low], floor[low], "o", color="#1F2933", markersize=5, zorder=6)
        note(
            axes,
            STEP_SIZES[low],
            floor[low],
            f"smallest error {number(float(floor[low]))}, {lowest}",
            xytext=(0, -14),
            textcoords="offset points",
            ha="center",
        )
        axes.set_ylim(0.2, TOP)
        axes.set_xlim(0.0, 1.06)
        axes.set_xlabel("step size α")
        axes.set_ylabel("RMS error")
    return path


def _name(axes: Any, x: float, y: float, text: str, colour: Any, **place: Any) -> None:
    note(axes, x, y, text, textcoords="offset points", color=colour, fontsize=9.5, fontweight="bold", **place)


EXPERIMENT = Experiment(
    name="random-walk",
    title="Between TD and Monte Carlo on the random walk",
    about=(
        "n-step TD learns the values of a walk of 19 states from ten episodes. One-step TD bootstraps "
        "from estimates that "
        "know nothing at first; Monte Carlo waits for returns that vary much; an n in between has less "
        "of either trouble, "
        "and wants a smaller step size the larger it is."
    ),
    claim=(
        "At its best step size an intermediate n has a smaller error than one-step TD and than Monte "
        "Carlo, and one-step TD "
        "a smaller one than Monte Carlo."
    ),
    source="Sutton & Barto, 2nd ed., example 7.1, figure 7.2",
    seeds=100,
    measure=measure,
    judge=judge,
    draw=draw,
)
