"""Cliff walking: SARSA's safe path and Q-learning's optimal one, with returns while learning.

Sutton & Barto, 2nd ed., example 6.6: ε = 0.1, undiscounted, 500 episodes.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bellmark.algorithms.tabular.base import AbstractTableLearner
from bellmark.algorithms.tabular.q_learning import QLearning
from bellmark.algorithms.tabular.sarsa import Sarsa
from bellmark.mdp.examples import cliff_walking
from bellmark.mdp.examples.cliff_walking import CLIFF, COLUMNS, GOAL, ROWS, START
from bellmark.mdp.model import FiniteMDP
from bellmark.report.statistics import mean

from .base import Experiment, Findings, Float, Table, Verdict, above, average, verdict
from .drawing import COLOURS, GREY, INK, Sheet, curves, level, number, tinted
from .sampling import by_episode

EPISODES, LAST = 500, 100
LONGEST_ROUTE = 40
OPTIMUM = -13.0
EDGE = ROWS - 2
"""The row right above the cliff."""

LEARNERS: dict[str, AbstractTableLearner] = {
    "SARSA": Sarsa(discount=1.0, step_size=0.5, epsilon=0.1),
    "Q-learning": QLearning(discount=1.0, step_size=0.5, epsilon=0.1),
}


def measure(seeds: Sequence[int]) -> Findings:
    mdp = cliff_walking()
    returns, routes = {}, {}
    for label, learner in LEARNERS.items():
        seen = by_episode(learner, mdp, seeds, EPISODES, keep_tables=True)
        returns[label] = seen.returns
        # constant steps keep the last table noisy: the route is that of the estimates' mean over the last episodes
        routes[label] = np.array([_route(mdp, table) for table in seen.tables[:, -LAST:].mean(axis=1)])
    return Findings(
        seeds,
        {
            "returns": Table("episode", np.arange(1.0, EPISODES + 1), "return of the episode", returns),
            "routes": Table("step", np.arange(LONGEST_ROUTE + 1.0), "state", routes),
        },
        {"optimal return": OPTIMUM},
    )


def _route(mdp: FiniteMDP, table: Float) -> Float:
    """States of the greedy path [LONGEST_ROUTE + 1], NaN after its end."""
    route, state = np.full(LONGEST_ROUTE + 1, np.nan), START
    for step in range(LONGEST_ROUTE + 1):
        route[step] = state
        if state == GOAL:
            break
        [(_, state, _, _)] = mdp.transitions(state, int(np.argmax(table[state])))
    return route


def judge(findings: Findings) -> Verdict:
    returns, routes = findings.tables["returns"].curves, findings.tables["routes"].curves
    late = {label: mean(values[:, -LAST:]) for label, values in returns.items()}
    optimal = np.mean([_worth(route) == OPTIMUM for route in routes["Q-learning"]])
    along = {label: np.array([_along_the_edge(route) for route in routes[label]]) for label in routes}
    parts = {
        "Q-learning's greedy path is optimal for most seeds": bool(optimal > 0.5),
        "SARSA's return while learning is higher": above(late["SARSA"], late["Q-learning"]),
        "SARSA's path keeps away from the edge": above(along["Q-learning"], along["SARSA"]),
    }
    figures = (
        f"over the last {LAST} of {EPISODES} episodes SARSA collects {number(average(late['SARSA']))} per episode and "
        f"Q-learning {number(average(late['Q-learning']))}; Q-learning's greedy path is the optimal one, "
        f"worth −13, for "
        f"{100 * optimal:.0f} % of the seeds; of SARSA's path {number(average(along['SARSA']))} cells "
        f"lie at the edge, of "
        f"Q-learning's {number(average(along['Q-learning']))}"
    )
    return verdict(parts, figures)


def _worth(route: Float) -> float:
    """−1 per step of a path that ends at the goal without a fall; −∞ of any other."""
    states = route[np.isfinite(route)]
    goes_home = states[-1] == GOAL and (states[1:] != START).all() and len(states) > 1
    return -float(len(states) - 1) if goes_home else -np.inf


def _along_the_edge(route: Float) -> float:
    """How many cells right above the cliff the path visits."""
    states = route[np.isfinite(route)]
    return float(len({s for s in states if s // COLUMNS == EDGE and int(s) + COLUMNS in CLIFF}))


def draw(findings: Findings, path: Path) -> Path:
    colours = {"SARSA": COLOURS[0], "Q-learning": COLOURS[1]}
    seeds = len(findings.seeds)
    with Sheet(
        path,
        "Cliff walking: the safe path and the optimal one",
        f"ε = 0.1, α = 0.5, undiscounted; {seeds} seeds: mean with 95 % band, over 10 episodes; right: "
        f"greedy paths at the end",
        panels=(1.0, 1.12),
        size=(10.0, 4.2),
        right=0.985,
        left=0.075,
        bottom=0.13,
        top=0.8,
        wspace=0.24,
    ) as sheet:
        left, right = sheet.panels
        curves(left, findings.tables["returns"], colours=colours, window=10)
        left.set_ylim(-100, 0)
        left.set_xlim(0, EPISODES * 1.26)
        left.set_xticks(range(0, EPISODES + 1, 100))
        level(left, OPTIMUM, "optimal path −13", at=0.02, until=EPISODES)
        right.set_axis_off()
        for place, label in enumerate(colours):
            box = right.get_position()
            half = box.height / 2
            bottom = box.y0 + (1 - place) * half
            panel = sheet.figure.add_axes((box.x0, bottom, box.width, half - 0.045))
            _draw_map(panel, findings.tables["routes"].curves[label], colours[label])
            panel.set_title(label, loc="left", fontsize=10, color=colours[label], pad=4)
    return path


def _draw_map(axes: Any, routes: Float, colour: str) -> None:
    """The world, and on it every seed's path: the wider the line, the more seeds go there."""
    from matplotlib.patches import Rectangle

    for row in range(ROWS):
        for column in range(COLUMNS):
            cliff = row * COLUMNS + column in CLIFF
            face = "#F3DCD2" if cliff else "#F6F7F9"
            axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor=face, edgecolor="white"))
    axes.text(5.5, 3, "the cliff, −100", ha="center", va="center", fontsize=9, color="#A34A28")
    share: dict[tuple[int, int], float] = {}
    for route in routes:
        states = route[np.isfinite(route)].astype(int)
        for edge in set(zip(states[:-1].tolist(), states[1:].tolist(), strict=True)):
            share[edge] = share.get(edge, 0.0) + 1.0 / len(routes)
    for (first, second), part in sorted(share.items(), key=lambda item: item[1]):
        if second == START and first not in (START - COLUMNS, START):
            continue  # the fall: nobody walks back across the map
        (y1, x1), (y2, x2) = divmod(first, COLUMNS), divmod(second, COLUMNS)
        axes.plot([x1, x2], [y1, y2], color=tinted(colour, 0.3 + 0.6 * part), linewidth=0.8 + 6 * part)
    for state, mark in ((START, "S"), (GOAL, "G")):
        row, column = divmod(state, COLUMNS)
        axes.text(
            column, row + 0.02, mark, ha="center", va="center", fontsize=11, fontweight="bold", color=INK
        )
    axes.set_xlim(-0.5, COLUMNS - 0.5)
    axes.set_ylim(ROWS - 0.5, -0.5)
    axes.set_aspect("equal", anchor="W")
    axes.grid(False)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[["bottom"]].set_visible(False)
    axes.tick_params(colors=GREY)


EXPERIMENT = Experiment(
    name="cliff-walking",
    title="Cliff walking: the safe path and the optimal one",
    about=(
        "The shortest way home runs along a cliff. Q-learning learns the value of the best path "
        "whatever it does on the "
        "way, walks at the edge, and falls whenever it explores there; SARSA learns the value of what it really does, "
        "exploring included, and keeps a distance. So the learner with the better policy has the worse "
        "returns while it "
        "learns."
    ),
    claim=(
        "With ε = 0.1 throughout, Q-learning's greedy path becomes the optimal one along the edge, "
        "SARSA's keeps away from "
        "it, and SARSA's return while learning is higher."
    ),
    source="Sutton & Barto, 2nd ed., example 6.6",
    seeds=100,
    measure=measure,
    judge=judge,
    draw=draw,
)
