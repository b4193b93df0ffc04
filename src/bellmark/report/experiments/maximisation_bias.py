"""Maximisation bias: Q-learning is drawn to noise, and double Q-learning much less.

Sutton & Barto, 2nd ed., example 6.7; H. van Hasselt, "Double Q-learning", 2010.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from bellmark.algorithms.tabular.base import AbstractTableLearner
from bellmark.algorithms.tabular.q_learning import DoubleQLearning, QLearning
from bellmark.mdp.model import FiniteMDP, Transition
from bellmark.report.statistics import mean

from .base import Experiment, Findings, Table, Verdict, above, average, verdict
from .drawing import COLOURS, Sheet, curves, level
from .sampling import by_episode

EPISODES, EARLY, LAST = 300, 50, 50
ACTIONS, NODES = 10, 11
MEAN_REWARD = -0.1
EPSILON = 0.1
OPTIMAL = EPSILON / 2
"""How often the optimal ε-greedy policy still goes left."""

LEARNERS: dict[str, AbstractTableLearner] = {
    "Q-learning": QLearning(discount=1.0, step_size=0.1, epsilon=EPSILON),
    "double Q-learning": DoubleQLearning(discount=1.0, step_size=0.1, epsilon=EPSILON),
}


def left_or_right() -> FiniteMDP:
    """From A, right ends and pays 0; left leads to B, where each of ten actions ends and pays N(−0.1, 1).

    The normal reward is one of eleven numbers, Gauss and Hermite's, which share its first 21 moments.
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(NODES)
    chances = (weights / weights.sum()).tolist()
    rewards = (MEAN_REWARD + nodes).tolist()

    def actions(state: str) -> Sequence[str]:
        return {"A": ("left", "right"), "B": tuple(f"b{i}" for i in range(ACTIONS)), "end": ()}[state]

    def outcomes(state: str, action: str) -> Iterator[Transition]:
        if state == "B":
            yield from (
                (chance, "end", reward, True) for chance, reward in zip(chances, rewards, strict=True)
            )
        elif action == "left":
            yield 1.0, "B", 0.0, False
        else:
            yield 1.0, "end", 0.0, True

    return FiniteMDP.from_function(["A"], actions, outcomes)


def measure(seeds: Sequence[int]) -> Findings:
    mdp = left_or_right()
    # going left takes two steps, going right one
    left = {
        label: 100.0 * (by_episode(learner, mdp, seeds, EPISODES).lengths == 2.0)
        for label, learner in LEARNERS.items()
    }
    position = np.arange(1.0, EPISODES + 1)
    return Findings(
        seeds, {"left": Table("episode", position, "left from A, %", left)}, {"optimal": 100.0 * OPTIMAL}
    )


def judge(findings: Findings) -> Verdict:
    left = findings.tables["left"].curves
    early = {label: mean(values[:, :EARLY]) for label, values in left.items()}
    late = {label: mean(values[:, -LAST:]) for label, values in left.items()}
    half = np.full(len(findings.seeds), 50.0)
    parts = {
        "Q-learning prefers left early": above(early["Q-learning"], half),
        "double Q-learning goes left less often early": above(
            early["Q-learning"], early["double Q-learning"]
        ),
        "and late": above(late["Q-learning"], late["double Q-learning"]),
    }
    figures = (
        f"over the first {EARLY} episodes Q-learning goes left {average(early['Q-learning']):.0f} % of "
        f"the time and double "
        f"Q-learning {average(early['double Q-learning']):.0f} %; over the last {LAST} of {EPISODES} it is "
        f"{average(late['Q-learning']):.1f} % and {average(late['double Q-learning']):.1f} %, where "
        f"{100 * OPTIMAL:.0f} % is "
        "optimal at ε = 0.1"
    )
    return verdict(parts, figures)


def draw(findings: Findings, path: Path) -> Path:
    colours = {"Q-learning": COLOURS[1], "double Q-learning": COLOURS[0]}
    with Sheet(
        path,
        "Maximisation bias: drawn to the noise",
        f"ε = 0.1, α = 0.1, undiscounted; {len(findings.seeds):,} seeds: mean with 95 % band",
        right=0.965,
    ) as sheet:
        [axes] = sheet.panels
        curves(axes, findings.tables["left"], colours=colours)
        axes.set_ylim(0, 100)
        axes.set_xlim(0, EPISODES * 1.3)
        axes.set_xticks(range(0, EPISODES + 1, 50))
        level(axes, 100 * OPTIMAL, "optimal 5 %", below=True, at=0.01, until=EPISODES)
        _sketch(axes.inset_axes((0.5, 0.6, 0.46, 0.34)))
    return path


def _sketch(axes) -> None:
    """The problem itself, small."""
    axes.set_axis_off()
    axes.set_xlim(-0.3, 3.3)
    axes.set_ylim(-0.75, 0.75)
    arrow = {"arrowstyle": "-|>", "color": "#6B7785", "shrinkA": 10, "shrinkB": 10, "linewidth": 1}
    for x, name in ((0.0, ""), (1.0, "B"), (2.0, "A"), (3.0, "")):
        axes.plot(x, 0, "o" if name else "s", color="#E4E7EB", markersize=17 if name else 12)
        axes.text(x, -0.02, name, ha="center", va="center", fontsize=9.5)
    axes.annotate("", (3.0, 0), (2.0, 0), arrowprops=arrow)
    axes.annotate("", (1.0, 0), (2.0, 0), arrowprops=arrow)
    for bend in (-0.45, -0.2, 0.2, 0.45):
        axes.annotate("", (0.0, 0), (1.0, 0), arrowprops={**arrow, "connectionstyle": f"arc3,rad={bend}"})
    words = {"ha": "center", "fontsize": 8, "color": "#6B7785"}
    axes.text(2.5, 0.16, "right, 0", **words)
    axes.text(1.5, 0.16, "left, 0", **words)
    axes.text(0.5, 0.5, "ten actions, N(−0.1, 1)", **words)


EXPERIMENT = Experiment(
    name="maximisation-bias",
    title="Maximisation bias and double Q-learning",
    about=(
        "Left of the start ten actions pay noise around −0.1, right pays 0: right is better. But the "
        "largest of ten noisy "
        "estimates is above 0 for long, and Q-learning, whose target is that maximum, goes left far too often. Double "
        "Q-learning chooses with one table and values with the other, whose noise is independent."
    ),
    claim=(
        "Early on Q-learning goes left more often than not, and both early and late more often than double Q-learning."
    ),
    source="Sutton & Barto, 2nd ed., example 6.7; van Hasselt, 2010",
    seeds=1000,
    measure=measure,
    judge=judge,
    draw=draw,
)
