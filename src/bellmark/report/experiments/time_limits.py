"""Time limits: bootstrapping where an episode is cut, and what becomes of a learner that does not.

F. Pardo, A. Tavakoli, V. Levdik, P. Kormushev, "Time limits in reinforcement learning", ICML 2018.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bellmark.algorithms.exact import evaluate_policy, solve
from bellmark.mdp.examples.table import tabulate
from bellmark.mdp.model import FiniteMDP, Transition

from .base import Experiment, Findings, Float, Table, Verdict, above, average, verdict
from .drawing import COLOURS, Sheet, curves, level, logarithmic, names, number
from .learned import followed

DISCOUNT = 0.98
PLACES, NEAR, FAR = 10, 0.2, 0.4
LIMITS = np.array([5.0, 10.0, 20.0, 40.0, 80.0])
ENVIRONMENTS, LENGTH, ITERATIONS = 16, 16, 1000
LEARNING_RATE = 0.05
GOOD, SHORT = 95.0, 10.0
RIGHT, WRONG = "a cut is a cut", "a cut is an end"


def two_springs() -> FiniteMDP:
    """A row of places and no end: staying at the left one pays NEAR per step, at the right one FAR."""

    def outcomes(place: int, action: str) -> Iterator[Transition]:
        successor = min(max(place + (1 if action == "right" else -1), 0), PLACES - 1)
        paid = {0: NEAR, PLACES - 1: FAR}.get(place, 0.0) if successor == place else 0.0
        yield 1.0, successor, paid, False

    return tabulate(range(PLACES), ["left", "right"], outcomes, name="two-springs", discount=DISCOUNT)


def measure(seeds: Sequence[int]) -> Findings:
    mdp = two_springs()
    optimum = float(mdp.initial_distribution @ solve(mdp, DISCOUNT).values)
    worths: dict[str, Float] = {}
    errors: dict[str, Float] = {}
    for label, policies, predictions in zip((RIGHT, WRONG), *_learn(mdp, seeds), strict=True):
        found = np.array([[evaluate_policy(mdp, p, DISCOUNT) for p in row] for row in policies])
        worths[label] = 100 * found @ mdp.initial_distribution / optimum
        errors[label] = (predictions - found).mean(axis=2)
    return Findings(
        seeds,
        {
            "policy": Table("time limit, steps", LIMITS, "worth of the policy, % of the optimum", worths),
            "critic": Table(
                "time limit, steps", LIMITS, "what the critic is off by, mean of all states", errors
            ),
        },
        {"optimum": optimum},
    )


def _learn(mdp: FiniteMDP, seeds: Sequence[int]) -> tuple[Float, Float]:
    """The final policies [right or wrong, seeds, limits, S, A], and what their critics say of every state."""
    import jax.numpy as jnp

    from bellmark.algorithms.policy_gradient.a2c import A2C
    from bellmark.envs.finite import FiniteEnvironment
    from bellmark.experience.rollout import CompiledProblem

    learner = A2C(
        discount=DISCOUNT,
        trace_decay=0.9,
        learning_rate=LEARNING_RATE,
        optimiser="adam",
        environments=ENVIRONMENTS,
        rollout_length=LENGTH,
        hidden=(),
    )
    world, places = FiniteEnvironment(mdp), jnp.arange(PLACES)

    def setting(value):
        ends, limit = value
        return learner, CompiledProblem(cut(world, limit, ends), ENVIRONMENTS * LENGTH * ITERATIONS, None)

    def seen(learner, state, metrics):
        del metrics
        logs = learner.policy(state).distribution(places).log_probs
        return jnp.exp(logs), state.networks(state.inputs(places))[1]

    ends, limits = (x.ravel() for x in np.meshgrid([0.0, 1.0], LIMITS, indexing="ij"))
    found = followed(setting, (ends, limits), seeds, ITERATIONS, seen, every=ITERATIONS)
    policies, predictions = (
        np.asarray(x[:, :, -1], np.float64).reshape(2, len(LIMITS), len(seeds), *x.shape[3:]).swapaxes(1, 2)
        for x in found
    )
    return policies / policies.sum(axis=-1, keepdims=True), predictions


def cut(environment: Any, limit: Any, ends: Any) -> Any:
    """`environment` cut after `limit` steps, which is told as a truncation, or as the end where `ends` is not 0.

    `TimeLimit` with a limit that may be traced, and with the mistake that it does not make.
    """
    import jax.numpy as jnp
    from jaxtyping import Array

    from bellmark.envs.base import AbstractEnvironment, Step

    class Cut(AbstractEnvironment):
        environment: AbstractEnvironment
        limit: Array
        ends: Array

        @property
        def observation_space(self):
            return self.environment.observation_space

        @property
        def action_space(self):
            return self.environment.action_space

        def reset(self, key):
            return self.environment.reset(key), jnp.zeros((), jnp.int32)

        def observe(self, state):
            return self.environment.observe(state[0])

        def step(self, state, action, key):
            inner, outcome = self.environment.step(state[0], action, key)
            over = state[1] + 1 >= self.limit
            told = Step(outcome.reward, outcome.terminated | (over & (self.ends > 0)), over)
            return (inner, state[1] + 1), told

    return Cut(environment, limit, ends)


def judge(findings: Findings) -> Verdict:
    worths, errors = findings.tables["policy"].curves, findings.tables["critic"].curves
    right, wrong = worths[RIGHT], worths[WRONG]
    optimum = findings.exact["optimum"]
    short = LIMITS <= SHORT
    parts = {
        f"bootstrapping at the cut, the policy is worth {GOOD:g} % of the optimum whatever the limit": bool(
            right.mean(axis=0).min() >= GOOD
        ),
        f"without, it is worth less for limits up to {SHORT:g}": all(
            above(right[:, place], wrong[:, place]) for place in np.flatnonzero(short)
        ),
        "the critic that takes a cut for the end is below the truth for every limit": all(
            above(np.zeros(len(wrong)), errors[WRONG][:, place]) for place in range(len(LIMITS))
        ),
        "the one that bootstraps is nearer to it for every limit": all(
            above(np.abs(errors[WRONG][:, place]), np.abs(errors[RIGHT][:, place]))
            for place in range(len(LIMITS))
        ),
    }
    rows = "; ".join(
        f"with a limit of {limit:g} steps {number(average(right[:, place]))} % and, without, "
        f"{number(average(wrong[:, place]))} %, critics off by {number(average(errors[RIGHT][:, place]))} and "
        f"{number(average(errors[WRONG][:, place]))}"
        for place, limit in enumerate(LIMITS.tolist())
    )
    return verdict(
        parts, f"of the optimum, {optimum:.2f}, the policy is worth, bootstrapping at the cut, {rows}"
    )


def draw(findings: Findings, path: Path) -> Path:
    with Sheet(
        path,
        "Time limits: a cut is not an end",
        f"A2C with tables in a world without an end, γ = {DISCOUNT}; exact values; {len(findings.seeds)} seeds: "
        "mean with 95 % band",
        panels=(1.0, 1.0),
        size=(10.0, 4.3),
        right=0.975,
        left=0.075,
        wspace=0.25,
    ) as sheet:
        left, right = sheet.panels
        colours = {RIGHT: COLOURS[0], WRONG: COLOURS[1]}
        curves(left, findings.tables["policy"], colours=colours, labels=False, dots=True)
        curves(right, findings.tables["critic"], colours=colours, labels=False, dots=True)
        for axes in (left, right):
            logarithmic(axes, LIMITS, [f"{limit:g}" for limit in LIMITS.tolist()])
        left.set_ylim(0, 108)
        level(left, 100.0, "optimum", at=0.01)
        level(right, 0.0, "the truth", at=0.01)
        names(left, colours, 0.03, 0.06, down=-0.08)
    return path


EXPERIMENT = Experiment(
    name="time-limits",
    title="Time limits: a cut is not an end",
    about=(
        "Two springs, a poorer one on the left and a richer one on the right, and nothing ever ends; only the "
        "experiment is cut after some steps and begun anew, anywhere. A learner that bootstraps where it is cut learns "
        "of the world without an end; one that takes the cut for the end learns that nothing lasts, and drinks from "
        "whichever spring is nearer. What each policy is really worth is solved for exactly."
    ),
    claim=(
        f"Bootstrapping at the cut, the policy is worth {GOOD:g} % of the optimum whatever the limit; taking the cut "
        f"for the end, it is worth less for limits up to {SHORT:g} steps, and the critic lies below the truth for "
        "every limit."
    ),
    source="Pardo et al., ICML 2018",
    seeds=20,
    measure=measure,
    judge=judge,
    draw=draw,
)
