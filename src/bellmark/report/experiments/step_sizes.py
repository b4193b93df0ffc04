"""Step sizes: Robbins and Monro's conditions satisfied and violated, and the exact error ever after.

H. Robbins, S. Monro, 1951; E. Even-Dar, Y. Mansour, "Learning rates for Q-learning", 2003.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bellmark.algorithms.tabular.base import AbstractTableLearner, TableState
from bellmark.algorithms.tabular.q_learning import QLearning
from bellmark.mdp.examples import grid_world
from bellmark.report.statistics import mean
from bellmark.run.yardstick import Yardstick

from .base import Experiment, Findings, Table, Verdict, above, average, verdict
from .drawing import COLOURS, Sheet, curves, number
from .sampling import along_the_way

DISCOUNT = 0.9
STEPS = np.unique(np.logspace(2, 6, 41).astype(int)).astype(float)
EARLIER = 10
"""Points of `STEPS` per tenfold: how far back the last tenfold begins."""
CONSTANT, HARMONIC, POLYNOMIAL, SUMMABLE = "constant 0.1", "1/n", "1/n^0.8", "1/n^1.5"
SATISFIED, VIOLATED = (HARMONIC, POLYNOMIAL), (CONSTANT, SUMMABLE)
LEAST_FALL = 0.1


def _scheduled(schedule: Any, step_size: float = 1.0, power: float = 1.0) -> QLearning:
    """Q-learning that tries every action equally often, so that every pair is visited for ever."""
    return QLearning(
        discount=DISCOUNT,
        epsilon=1.0,
        step_size=step_size,
        step_size_schedule=schedule,
        step_size_power=power,
    )


LEARNERS = {
    CONSTANT: _scheduled("constant", 0.1),
    HARMONIC: _scheduled("harmonic"),
    POLYNOMIAL: _scheduled("polynomial", power=0.8),
    # `bellmark train` refuses such a power, with reason
    SUMMABLE: _scheduled("polynomial", power=1.5),
}


def measure(seeds: Sequence[int]) -> Findings:
    mdp = grid_world(noise=0.2)
    yardstick = Yardstick(mdp, DISCOUNT)
    compared = mdp.available & yardstick.reached[:, None]
    exact = yardstick.action_values[compared]

    def error(_: AbstractTableLearner, state: TableState) -> list[float]:
        return [float(np.abs(state.values[compared] - exact).max())]

    errors = {
        label: along_the_way(learner, mdp, seeds, STEPS, error)[0] for label, learner in LEARNERS.items()
    }
    return Findings(
        seeds, {"errors": Table("environment steps", STEPS, "largest error of Q, max |Q − Q*|", errors)}
    )


def judge(findings: Findings) -> Verdict:
    errors = findings.tables["errors"].curves
    before = {label: errors[label][:, -1 - EARLIER] for label in LEARNERS}
    after = {label: errors[label][:, -1] for label in LEARNERS}
    fall = {label: 1.0 - average(after[label]) / average(before[label]) for label in LEARNERS}
    parts = {
        **{f"the error of {label} keeps falling": fall[label] >= LEAST_FALL for label in SATISFIED},
        **{f"the error of {label} stays": fall[label] < LEAST_FALL for label in VIOLATED},
        "1/n^0.8 ends nearest": all(
            above(after[label], after[POLYNOMIAL]) for label in LEARNERS if label != POLYNOMIAL
        ),
    }
    texts = [f"{label} {number(average(after[label]))} ({-100 * fall[label]:+.0f} %)" for label in LEARNERS]
    figures = (
        "the largest error of Q after a million steps, and its change over the last tenfold of them, is "
        + ", ".join(texts).replace("-", "−")
    )
    return verdict(parts, figures)


def draw(findings: Findings, path: Path) -> Path:
    from matplotlib.ticker import FuncFormatter

    from bellmark.report.plots import compact

    colours = dict(zip(LEARNERS, (COLOURS[1], COLOURS[4], COLOURS[0], COLOURS[5]), strict=True))
    names = {
        CONSTANT: "constant 0.1:  Σα² = ∞",
        HARMONIC: "1/n: satisfied, slow",
        POLYNOMIAL: "1/n$^{0.8}$: satisfied",
        SUMMABLE: "1/n$^{1.5}$:  Σα < ∞",
    }
    table = findings.tables["errors"]
    with Sheet(
        path,
        "Step sizes: Σα = ∞ and Σα² < ∞, satisfied and violated",
        f"Q-learning on the noisy 4×3 grid, γ = 0.9, random actions; {len(findings.seeds)} seeds: mean with 95 % band",
        right=0.72,
        left=0.1,
    ) as sheet:
        [axes] = sheet.panels
        axes.set_xscale("log")
        axes.set_yscale("log")
        curves(axes, table, colours=colours, labels=False)
        ends = {label: float(mean(table.curves[label].T)[-1]) for label in LEARNERS}
        for label, height in ends.items():
            axes.plot(
                STEPS[-1],
                height,
                "o",
                color=colours[label],
                markersize=5.5,
                markeredgecolor="white",
                zorder=6,
            )
            axes.annotate(
                names[label],
                (STEPS[-1], height),
                xytext=(9, 0),
                textcoords="offset points",
                va="center",
                color=colours[label],
                annotation_clip=False,
            )
        axes.set_xlim(STEPS[0], STEPS[-1])
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: compact(value)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.minorticks_off()
    return path


EXPERIMENT = Experiment(
    name="step-sizes",
    title="Step sizes: Robbins and Monro's conditions, satisfied and violated",
    about=(
        "Stochastic approximation converges if step sizes add up to infinity (any distance can be "
        "covered) and their squares "
        "do not (noise dies out). A constant step never lets the noise die out; 1/n^1.5 stops short, "
        "wherever it is by then; "
        "1/n satisfies both and is still slow, because early, wrong targets are forgotten only like n^(γ−1); 1/n^0.8 "
        "satisfies both and forgets sooner."
    ),
    claim=(
        "Where both conditions hold the exact error of Q keeps falling, by at least a tenth over the "
        "last tenfold of steps; "
        "where one is violated it does not; and 1/n^0.8 ends nearest to Q*."
    ),
    source="Robbins & Monro, 1951; Watkins & Dayan, 1992; Even-Dar & Mansour, 2003",
    seeds=30,
    measure=measure,
    judge=judge,
    draw=draw,
)
