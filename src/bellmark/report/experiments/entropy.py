"""The entropy bonus: too little and a policy hardens too soon, too much and it never hardens.

R. J. Williams, J. Peng, "Function optimization using connectionist reinforcement learning algorithms", 1991; V. Mnih
et al., "Asynchronous methods for deep reinforcement learning", ICML 2016.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bellmark.algorithms.exact import solve
from bellmark.mdp.examples.grid_world import grid_from_text
from bellmark.mdp.model import FiniteMDP

from .base import Experiment, Findings, Table, Verdict, above, average, verdict
from .drawing import COLOURS, Sheet, curves, level, number
from .learned import followed, probabilities, varied, worth

DISCOUNT = 0.95
WEIGHTS = np.array([0.0, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0])
ENVIRONMENTS, LENGTH, ITERATIONS, POINTS = 16, 16, 400, 20
LEARNING_RATE = 0.1


def corridor() -> FiniteMDP:
    """An exit that pays 1 beside the start, and one that pays 10 at the other end."""
    return grid_from_text("1 S " + ". " * 12 + "10", noise=0.0, discount=DISCOUNT, name="corridor")


def measure(seeds: Sequence[int]) -> Findings:
    from bellmark.algorithms.policy_gradient.a2c import A2C
    from bellmark.envs.finite import FiniteEnvironment
    from bellmark.envs.wrappers.time_limit import TimeLimit
    from bellmark.experience.rollout import CompiledProblem

    mdp = corridor()
    problem = CompiledProblem(TimeLimit(FiniteEnvironment(mdp), 100), ENVIRONMENTS * LENGTH * ITERATIONS, 100)
    learner = A2C(
        discount=DISCOUNT,
        trace_decay=0.9,
        learning_rate=LEARNING_RATE,
        optimiser="adam",
        environments=ENVIRONMENTS,
        rollout_length=LENGTH,
        hidden=(),
    )
    every = ITERATIONS // POINTS
    policies = followed(
        lambda weight: (varied(learner, entropy_weight=weight), problem),
        WEIGHTS,
        seeds,
        ITERATIONS,
        probabilities(mdp.num_states),
        every=every,
    )
    optimum = float(mdp.initial_distribution @ solve(mdp, DISCOUNT).values)
    shares = 100 * worth(mdp, policies, DISCOUNT) / optimum
    steps = np.arange(1.0, POINTS + 1) * every * ENVIRONMENTS * LENGTH
    return Findings(
        seeds,
        {
            "along": Table(
                "environment steps",
                steps,
                "% of the optimum",
                {f"{weight:g}": shares[place] for place, weight in enumerate(WEIGHTS.tolist())},
            ),
        },
        {"optimum": optimum},
    )


def judge(findings: Findings) -> Verdict:
    last = {label: values[:, -1] for label, values in findings.tables["along"].curves.items()}
    none, most = f"{WEIGHTS[0]:g}", f"{WEIGHTS[-1]:g}"
    # the best weight is chosen on the even seeds and judged on the odd ones
    best = max(last, key=lambda label: average(last[label][::2]))
    judged = {label: values[1::2] for label, values in last.items()}
    parts = {
        "the best weight is neither 0 nor the largest": best not in (none, most),
        "it beats 0": above(judged[best], judged[none]),
        "it beats the largest": above(judged[best], judged[most]),
    }
    ends = ", ".join(f"{label}: {number(average(values))} %" for label, values in last.items())
    figures = (
        f"of the optimal value, {findings.exact['optimum']:.3f}, the policy that acts is worth, at the end, with a "
        f"weight of {ends}; best, chosen on half of the seeds and judged on the others, is {best}"
    )
    return verdict(parts, figures)


def draw(findings: Findings, path: Path) -> Path:
    table = findings.tables["along"]
    last = Table(
        "entropy weight",
        np.arange(float(len(WEIGHTS))),
        "% of the optimum, at the end",
        {"end": np.stack([values[:, -1] for values in table.curves.values()], axis=1)},
    )
    with Sheet(
        path,
        "The entropy bonus: hardening too soon, or never",
        "A2C with a table of logits in a corridor with an exit at either end; exact values; "
        f"{len(findings.seeds)} seeds: mean with 95 % band",
        panels=(1.3, 1.0),
        size=(10.5, 4.4),
        right=0.975,
        left=0.075,
        wspace=0.3,
    ) as sheet:
        left, right = sheet.panels
        colours = dict(zip(table.curves, COLOURS, strict=False))
        curves(left, table, colours=colours)
        left.set_xlim(0, table.position[-1] * 1.12)
        level(left, 100.0, "optimum", at=0.01)
        right.plot(last.position, last.curves["end"].T, ".", color=COLOURS[0], alpha=0.25, markersize=5)
        curves(right, last, colours={"end": COLOURS[0]}, labels=False, dots=True)
        level(right, 100.0, "optimum")
        right.set_xticks(last.position, [f"{weight:g}" for weight in WEIGHTS.tolist()])
    return path


EXPERIMENT = Experiment(
    name="entropy",
    title="The entropy bonus: hardening too soon, or never",
    about=(
        "A policy gradient visits what its policy visits. Without a bonus for entropy a policy that has found the near "
        "exit grows certain of it and never sees the far one, which pays ten times as much; with a large one it keeps "
        "wandering for the sake of it. Every policy on the way is worth what the model says, exactly. (In two easier "
        "worlds, tried first and on other seeds, every policy found the far exit without a bonus.)"
    ),
    claim=(
        "The final policy is worth most with a weight strictly between 0 and the largest tried, which beats both."
    ),
    source="Williams & Peng, 1991; Mnih et al., ICML 2016",
    seeds=20,
    measure=measure,
    judge=judge,
    draw=draw,
    least=4,
)
