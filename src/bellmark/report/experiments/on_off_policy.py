"""On- against off-policy: SARSA and Q-learning on the bridge, each held to its own exact answer.

Sutton & Barto, 2nd ed., section 5.4 (the best of all ε-soft policies) and sections 6.4 to 6.5.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bellmark.algorithms.exact import evaluate_policy, solve
from bellmark.algorithms.tabular.base import AbstractTableLearner, TableState
from bellmark.algorithms.tabular.q_learning import QLearning
from bellmark.algorithms.tabular.sarsa import Sarsa
from bellmark.mdp.examples import bridge_grid
from bellmark.mdp.model import FiniteMDP
from bellmark.report.finite_plots import backup

from .base import Experiment, Findings, Float, Table, Verdict, above, average, verdict
from .drawing import COLOURS, Sheet, curves, note, number
from .sampling import along_the_way

DISCOUNT, STEPS = 0.9, 200_000
EPSILONS = np.array([0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3])
BEST, OPTIMAL = "best ε-soft policy", "optimal policy, acting with ε"
OPTIMISTIC = 10.0
"""Nothing is worth more: so the far end is found before the learner settles for the near one."""
CLOSE = 0.5
"""A twentieth of what the far exit pays: what counts as having found the exact answer. Chosen after seeing data."""


def measure(seeds: Sequence[int]) -> Findings:
    mdp = bridge_grid(noise=0.0)
    greedy, acting = {}, {}
    for label, kind in (("SARSA", Sarsa), ("Q-learning", QLearning)):
        columns = []
        for epsilon in EPSILONS.tolist():
            learner = kind(
                discount=DISCOUNT,
                epsilon=epsilon,
                step_size=1.0,
                step_size_schedule="polynomial",
                step_size_power=0.6,
                initial_value=OPTIMISTIC,
            )
            columns.append(along_the_way(learner, mdp, seeds, np.array([STEPS]), _worth)[:, :, 0])
        acting[label], greedy[label] = np.stack(columns, axis=-1)
    best, optimal = exact_answers(mdp)
    exact = {
        f"{name}, ε = {epsilon:g}": float(value)
        for name, values in ((BEST, best), (OPTIMAL, optimal))
        for epsilon, value in zip(EPSILONS, values, strict=True)
    }
    tables = {
        "acting": Table("ε", EPSILONS, "value of the policy that acts", acting),
        "greedy": Table("ε", EPSILONS, "value of the greedy policy", greedy),
    }
    return Findings(seeds, tables, {**exact, "optimum": _optimum(mdp)})


def _worth(learner: AbstractTableLearner, state: TableState) -> list[float]:
    """The exact values, from the start, of the policy that acts and of the greedy one."""
    problem = state.problem
    assert problem.mdp is not None
    behaviour = learner.behaviour(state)
    policies = (behaviour, np.argmax(behaviour, axis=1))
    start = problem.mdp.initial_distribution
    return [float(start @ evaluate_policy(problem.mdp, policy, DISCOUNT)) for policy in policies]


def exact_answers(mdp: FiniteMDP) -> tuple[Float, Float]:
    """For every ε: what the best ε-soft policy is worth from the start, and what the optimal one, acting with ε."""
    best, optimal = [], []
    shares = mdp.available / np.maximum(mdp.available.sum(axis=1, keepdims=True), 1)
    policy = np.eye(mdp.num_actions)[solve(mdp, DISCOUNT, tolerance=1e-10).policy] * (shares > 0)
    for epsilon in EPSILONS:
        values = np.zeros(mdp.num_states)
        for _ in range(2000):
            q = backup(mdp, values, DISCOUNT)
            highest = np.where(mdp.available, q, -np.inf).max(axis=1)
            mixed = (1 - epsilon) * highest + epsilon * (shares * np.where(mdp.available, q, 0.0)).sum(axis=1)
            values, before = np.where(mdp.terminal, 0.0, mixed), values
            if np.abs(values - before).max() < 1e-12:
                break
        best.append(float(mdp.initial_distribution @ values))
        soft = (1 - epsilon) * policy + epsilon * shares
        optimal.append(float(mdp.initial_distribution @ evaluate_policy(mdp, soft, DISCOUNT)))
    return np.array(best), np.array(optimal)


def _optimum(mdp: FiniteMDP) -> float:
    return float(mdp.initial_distribution @ solve(mdp, DISCOUNT, tolerance=1e-10).values)


def _exact(findings: Findings, name: str) -> Float:
    return np.array([findings.exact[f"{name}, ε = {epsilon:g}"] for epsilon in EPSILONS])


def judge(findings: Findings) -> Verdict:
    acting, greedy = findings.tables["acting"].curves, findings.tables["greedy"].curves
    best, optimum = _exact(findings, BEST), findings.exact["optimum"]
    off = np.abs(acting["SARSA"].mean(axis=0) - best)
    found = off <= CLOSE
    crosses = (greedy["Q-learning"] >= optimum - 1e-6).mean(axis=0)
    large = EPSILONS >= 0.05
    parts = {
        "SARSA comes to the best ε-soft policy at every ε": bool(found.all()),
        "Q-learning's greedy policy is optimal at every ε": bool((crosses > 0.5).all()),
        "from ε = 0.05 on SARSA's acting policy is worth more": all(
            above(acting["SARSA"][:, place], acting["Q-learning"][:, place])
            for place in np.flatnonzero(large)
        ),
    }
    worst = int(np.argmax(off))
    at = int(np.flatnonzero(EPSILONS == 0.1)[0])
    figures = (
        f"at ε = 0.1 SARSA's acting policy is worth {number(average(acting['SARSA'][:, at]))} (the best "
        f"possible with that ε "
        f"is {number(float(best[at]))}) and Q-learning's {number(average(acting['Q-learning'][:, at]))}, "
        f"while its greedy "
        f"policy is worth {number(average(greedy['Q-learning'][:, at]))} of {number(optimum)}; SARSA is "
        f"furthest from the "
        f"best ε-soft policy at ε = {EPSILONS[worst]:g}, by {number(float(off[worst]))}"
    )
    return verdict(parts, figures)


def draw(findings: Findings, path: Path) -> Path:
    colours = {"SARSA": COLOURS[0], "Q-learning": COLOURS[1]}
    with Sheet(
        path,
        "On-policy and off-policy, each held to its exact answer",
        f"the bridge over the chasm, γ = 0.9, {STEPS:,} steps; {len(findings.seeds)} seeds: mean with 95 "
        f"% band; lines: exact",
        panels=(1.0, 1.0),
        size=(10.0, 4.3),
        right=0.9,
        left=0.075,
        wspace=0.18,
        top=0.78,
    ) as sheet:
        left, right = sheet.panels
        for axes, name, words in zip(
            sheet.panels,
            ("acting", "greedy"),
            ("with exploring: the policy that acts", "without: the greedy policy"),
            strict=True,
        ):
            curves(axes, findings.tables[name], colours=colours, labels=axes is right, dots=True)
            axes.set_title(words, loc="left", fontsize=10, color="#1F2933")
            axes.set_ylabel("value of the start" if axes is left else "")
        for name, colour in ((BEST, COLOURS[0]), (OPTIMAL, COLOURS[1])):
            left.plot(
                EPSILONS,
                _exact(findings, name),
                color="#1F2933",
                linewidth=1,
                linestyle=(0, (4, 3)),
                zorder=5,
            )
            place = 6 if name == BEST else 7
            note(
                left,
                EPSILONS[place],
                _exact(findings, name)[place],
                f"exact: {name}",
                xytext=(2, 8) if name == BEST else (-10, -4),
                textcoords="offset points",
                ha="left" if name == BEST else "right",
                color=colour,
            )
        right.set_ylim(0, 6.6)
        note(
            right,
            0.3,
            findings.exact["optimum"],
            "exact optimum",
            xytext=(0, 7),
            textcoords="offset points",
            ha="right",
        )
    return path


EXPERIMENT = Experiment(
    name="on-off-policy",
    title="On-policy and off-policy, each held to its exact answer",
    about=(
        "A bridge over a chasm leads to 10; on the near side there is 1. SARSA learns the value of the "
        "policy that explores, "
        "so the answer that it should find is the best of all ε-soft policies, which model and ε give "
        "exactly; Q-learning "
        "learns the optimum, which ignores exploring, and pays for that while it explores. What counts as "
        "close, 0.5, a twentieth of what the far exit pays, was chosen after first data had been seen."
    ),
    claim=(
        "At every ε SARSA's acting policy comes within 0.5 of the exact best ε-soft policy and "
        "Q-learning's greedy policy is optimal; "
        "from ε = 0.05 on SARSA's acting policy is worth more than Q-learning's."
    ),
    source="Sutton & Barto, 2nd ed., sections 5.4, 6.4 and 6.5",
    seeds=30,
    measure=measure,
    judge=judge,
    draw=draw,
)
