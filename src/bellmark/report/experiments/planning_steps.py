"""Dyna's planning steps on the maze: experience used once, six times, fifty-one times.

Sutton & Barto, 2nd ed., example 8.1 and figure 8.2.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bellmark.algorithms.exact import evaluate_policy, solve
from bellmark.algorithms.tabular.dyna import DynaQ
from bellmark.mdp.examples import dyna_maze
from bellmark.mdp.model import FiniteMDP
from bellmark.report.statistics import mean

from .base import Experiment, Findings, Float, Table, Verdict, above, average, verdict
from .drawing import COLOURS, Sheet, curves, level, number
from .sampling import by_episode

PLANNING = (0, 5, 50)
EPISODES, EPSILON = 50, 0.1
SETTLED = 1.5
"""Times the exact length of the optimal policy's episodes: from where on a curve counts as settled."""


def _name(planning: int) -> str:
    return f"{planning} planning steps"


def measure(seeds: Sequence[int]) -> Findings:
    mdp = dyna_maze()
    lengths = {
        _name(n): by_episode(
            DynaQ(discount=0.95, step_size=0.1, epsilon=EPSILON, planning_steps=n), mdp, seeds, EPISODES
        ).lengths
        for n in PLANNING
    }
    table = Table("episode", np.arange(1.0, EPISODES + 1), "steps of the episode", lengths)
    return Findings(seeds, {"lengths": table}, {"steps, optimal with ε": expected_steps(mdp)})


def expected_steps(mdp: FiniteMDP) -> float:
    """The mean length of an episode of the optimal policy that explores with ε, exactly."""
    policy = np.eye(mdp.num_actions)[solve(mdp, 0.95, tolerance=1e-12).policy]
    mixed = ((1 - EPSILON) * policy + EPSILON / mdp.num_actions) * ~mdp.terminal[:, None]
    # the values of the same world in which every step pays 1
    counted = FiniteMDP.from_function(
        [mdp.states[int(np.argmax(mdp.initial_distribution))]],
        lambda s: () if mdp.terminal[mdp.index(s)] else mdp.actions,
        lambda s, a: [
            (chance, mdp.states[following], 1.0, over)
            for chance, following, _, over in mdp.transitions(mdp.index(s), mdp.actions.index(a))
        ],
    )
    order = [mdp.index(state) for state in counted.states]
    values = evaluate_policy(counted, mixed[order], 1.0)
    return float(counted.initial_distribution @ values)


def settles(lengths: Float, exact: float) -> int:
    """The first episode from which on the mean length of every later one stays below SETTLED times the exact one."""
    late = np.flatnonzero(mean(lengths.T) >= SETTLED * exact)
    return int(late[-1]) + 2 if len(late) else 1


def judge(findings: Findings) -> Verdict:
    lengths, exact = findings.tables["lengths"].curves, findings.exact["steps, optimal with ε"]
    none, few, many = (_name(n) for n in PLANNING)
    # the first episode is the same for all: nobody knows anything
    total = {name: lengths[name][:, 1:].sum(axis=1) for name in lengths}
    settled = {name: settles(lengths[name], exact) for name in lengths}
    parts = {
        "5 planning steps need less experience than none": above(total[none], total[few]),
        "50 need less than 5": above(total[few], total[many]),
        "50 settle within 5 episodes": settled[many] <= 5,
        "5 settle within 10 episodes": settled[few] <= 10,
        "without planning it takes at least 15": settled[none] >= 15,
    }
    texts = [
        f"{name}: from episode {settled[name]} on, {average(total[name]):,.0f} steps in episodes 2 to {EPISODES}"
        if settled[name] <= EPISODES
        else f"{name}: not within {EPISODES} episodes, {average(total[name]):,.0f} steps in episodes 2 to {EPISODES}"
        for name in lengths
    ]
    figures = (
        f"mean lengths stay below {SETTLED} times the exact length of the optimal policy's episodes with "
        f"ε = 0.1, which is "
        f"{number(exact)} steps, with " + "; with ".join(texts)
    )
    return verdict(parts, figures)


def draw(findings: Findings, path: Path) -> Path:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    exact = findings.exact["steps, optimal with ε"]
    with Sheet(
        path,
        "Dyna: planning in the place of experience",
        f"Dyna-Q on the maze, α = 0.1, γ = 0.95, ε = 0.1; {len(findings.seeds)} seeds: mean with 95 % band",
        right=0.965,
    ) as sheet:
        [axes] = sheet.panels
        axes.set_yscale("log")
        curves(
            axes,
            findings.tables["lengths"],
            colours=dict(zip(map(_name, PLANNING), (COLOURS[6], COLOURS[4], COLOURS[0]), strict=True)),
            labels=False,
        )
        axes.set_ylim(8, 1500)
        axes.set_xlim(1, EPISODES)
        axes.set_xticks([1, 10, 20, 30, 40, 50])
        axes.yaxis.set_major_locator(FixedLocator([10, 30, 100, 300, 1000]))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_locator(NullLocator())
        names = {0: "no planning", 5: "5 planning steps", 50: "50 planning steps"}
        places = ((12, COLOURS[6], (8, 6)), (4, COLOURS[4], (6, 4)), (3, COLOURS[0], (-8, -27)))
        for n, (episode, colour, shift) in zip(PLANNING, places, strict=True):
            height = float(mean(findings.tables["lengths"].curves[_name(n)].T)[episode - 1])
            axes.annotate(names[n], (episode, height), xytext=shift, textcoords="offset points", color=colour)
        level(axes, exact, f"optimal policy with ε, exactly {number(exact)} steps", below=True)
    return path


EXPERIMENT = Experiment(
    name="planning-steps",
    title="Dyna: planning in the place of experience",
    about=(
        "Dyna-Q remembers what each step led to and replays remembered steps between real ones. In a "
        "world without chance "
        "that memory is an exact model, so every walk through the maze is used many times, and the "
        "goal's value spreads "
        "through the whole of what is known before the second walk is over."
    ),
    claim=(
        "With 50 planning steps the walks are near-optimal within 5 episodes, with 5 within 10, without "
        "planning after 15 at "
        "the earliest; and each needs less experience than the one with less planning."
    ),
    source="Sutton & Barto, 2nd ed., example 8.1, figure 8.2",
    seeds=100,
    measure=measure,
    judge=judge,
    draw=draw,
)
