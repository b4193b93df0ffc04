"""Asynchrony put to the test: A3C with more and more actors against A2C, on CartPole.

V. Mnih et al., "Asynchronous methods for deep reinforcement learning", ICML 2016; that waiting for all actors is no
worse was found by those who rewrote it in step, in a note rather than in a paper (Y. Wu et al., OpenAI, 2017).
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .base import Experiment, Findings, Float, Table, Verdict, above, average, verdict
from .drawing import COLOURS, Sheet, curves, logarithmic, names, note, number
from .learned import ended, followed, returns

STEPS = 40_000
ACTORS = np.array([1, 4, 16, 32])
EACH, LENGTH = 2, 5
"""Environments of one actor, and steps in a rollout: every update is made of ten steps, of however many actors."""
LEARNING_RATE = 2e-3
HIDDEN = (64, 64)
POINTS = 40
"""Of which the first half is what is compared: later, all that learned at all are near what the others reach."""
STALE, IN_STEP, ONE = "A3C, stale gradients", "A2C, all environments in step", "A2C"


def measure(seeds: Sequence[int]) -> Findings:
    alone = _returns(None, 1, seeds)
    stale, together, behind = [], [], {}
    for actors in ACTORS.tolist():
        returns, staleness = _returns(actors, actors, seeds)
        stale.append(_mean(returns))
        behind[f"staleness measured, {actors} actors"] = staleness
        together.append(_mean(_returns(None, actors, seeds)[0] if actors > 1 else alone[0]))
    position = np.arange(1, POINTS + 1) * STEPS / POINTS
    curves_of = {ONE: alone[0], f"A3C, {ACTORS[-1]} actors": returns}
    tables = {
        "actors": Table(
            "actors, each with two environments",
            ACTORS.astype(np.float64),
            "mean return in the run's first half",
            {STALE: np.stack(stale, axis=1), IN_STEP: np.stack(together, axis=1)},
        ),
        "learning": Table("environment steps", position, "return of an episode", curves_of),
    }
    return Findings(seeds, tables, behind)


def _mean(returns: Float) -> Float:
    return np.nanmean(returns[:, : max(POINTS // 2, 1)], axis=1)


def _returns(actors: int | None, shares: int, seeds: Sequence[int]) -> tuple[Float, float]:
    """Returns of the episodes that ended along the way, [seeds, POINTS], and the mean staleness.

    `actors` None is A2C on `shares` times as many environments as an actor has.
    """
    import jax.numpy as jnp

    from bellmark.algorithms.policy_gradient.a2c import A2C
    from bellmark.algorithms.policy_gradient.a3c import A3C
    from bellmark.envs.registry import resolve
    from bellmark.experience.rollout import CompiledProblem

    common: dict = {
        "environments": shares * EACH,
        "rollout_length": LENGTH,
        "learning_rate": LEARNING_RATE,
        "hidden": HIDDEN,
    }
    learner = A2C(**common) if actors is None else A3C(**common, actors=actors)
    environment = resolve("CartPole-v1").compiled
    assert environment is not None
    problem = CompiledProblem(environment, STEPS, 500)

    def seen(learner, state, metrics):
        return ended(learner, state, metrics), metrics.get("staleness/mean", jnp.zeros(()))

    sums, staleness = followed(
        lambda _: (learner, problem), np.zeros(1), seeds, STEPS // (shares * EACH * LENGTH), seen
    )
    return returns(sums, POINTS)[0], float(np.mean(staleness))


def judge(findings: Findings) -> Verdict:
    stale = findings.tables["actors"].curves[STALE]
    many = ACTORS > 1
    behind = [findings.exact[f"staleness measured, {actors} actors"] for actors in ACTORS.tolist()]
    parts = {
        "a gradient of one of K actors is K − 1 updates old": bool(np.abs(behind - (ACTORS - 1)).max() < 0.5),
        "no number of actors does better than A2C with the same updates": not any(
            above(stale[:, place], stale[:, 0]) for place in np.flatnonzero(many)
        ),
        f"{ACTORS[-1]} actors learn more slowly": above(stale[:, 0], stale[:, -1]),
    }
    worth = ", ".join(
        f"{number(average(stale[:, place]))} with {actors} "
        f"(staleness {findings.exact[f'staleness measured, {actors} actors']:.1f})"
        for place, actors in enumerate(ACTORS.tolist())
    )
    together = findings.tables["actors"].curves[IN_STEP]
    figures = (
        f"the mean return of the episodes in the first half of {STEPS:,} steps is {worth} of A3C's actors, where one "
        f"actor is A2C; A2C with all the environments of {ACTORS[-1]} actors in step, and so with {ACTORS[-1]} times "
        f"fewer updates, as large as they were, comes to {number(average(together[:, -1]))}"
    )
    return verdict(parts, figures)


def draw(findings: Findings, path: Path) -> Path:
    table, learning = findings.tables["actors"], findings.tables["learning"]
    colours = {STALE: COLOURS[1], IN_STEP: COLOURS[2], ONE: COLOURS[0]}
    with Sheet(
        path,
        "Asynchrony: what stale gradients cost",
        f"CartPole-v1, {STEPS:,} steps, every update from {EACH * LENGTH} of them; "
        f"{len(findings.seeds)} seeds: mean with 95 % band",
        panels=(1.0, 1.0),
        size=(10.0, 4.3),
        right=0.87,
        left=0.075,
        wspace=0.3,
    ) as sheet:
        left, right = sheet.panels
        curves(left, table, colours=colours, labels=False, dots=True)
        logarithmic(left, ACTORS, [f"{actors}" for actors in ACTORS.tolist()])
        left.set_ylim(0, None)
        names(left, {label: colours[label] for label in (STALE, IN_STEP)}, 0.4, 0.5, down=0.08)
        for actors, height in zip(ACTORS.tolist(), table.curves[STALE].mean(axis=0), strict=True):
            behind = findings.exact[f"staleness measured, {actors} actors"]
            words = "A2C" if actors == 1 else f"{behind:.0f} behind"
            # above a line that falls; the last one below it, inside the axes
            last = actors == ACTORS[-1]
            side = {"xytext": (0, -20), "ha": "right"} if last else {"xytext": (0, 8), "ha": "center"}
            note(left, actors, height, words, textcoords="offset points", **side)
        curves(right, learning, colours={ONE: COLOURS[0], f"A3C, {ACTORS[-1]} actors": COLOURS[1]}, window=4)
        right.set_xticks(np.linspace(0, STEPS, 5), [f"{steps:,.0f}" for steps in np.linspace(0, STEPS, 5)])
    return path


EXPERIMENT = Experiment(
    name="staleness",
    title="Asynchrony: what stale gradients cost",
    about=(
        "K actors push gradients of parameters that they pulled some pushes ago into one shared learner, in a random "
        "order that the run's seed decides. Every update is made of ten steps, so that at an equal number of steps the "
        "only thing that grows with K is how stale a gradient is (and how many environments it comes from). "
        f"That {ACTORS[-1]} actors do worse over the whole run was our first claim, and it failed on the seeds that it "
        "was made up on."
    ),
    claim=(
        "Per environment step, asynchrony brings no benefit: no number of actors learns faster than A2C with updates "
        f"of the same size, and with {ACTORS[-1]} the stale gradients make it slower. (What asynchrony gains in "
        "wall-clock time, it gains from processors that need not wait, which a schedule cannot show.)"
    ),
    source="Mnih et al., ICML 2016; Wu et al., OpenAI, 2017",
    seeds=10,
    measure=measure,
    judge=judge,
    draw=draw,
)
