"""Baselines: the same mean, less noise.

J. Greensmith, P. Bartlett, J. Baxter, "Variance reduction techniques for gradient estimates in reinforcement learning",
JMLR 2004; Sutton & Barto, 2nd ed., section 13.4.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bellmark.mdp.examples import grid_world

from .base import Experiment, Findings, Float, Table, Verdict, above, average, verdict
from .drawing import COLOURS, Sheet, curves, note
from .gradients import World, sampled_gradients, softmax_world, squared_bias, variance

DISCOUNT, LENGTH, ENVIRONMENTS = 0.95, 100, 8
GROUPS = 48
SHARPNESS = np.array([0.0, 2.0, 4.0, 8.0])
NAMES = {
    "none": "none",
    "constant": "constant",
    "others": "other environments",
    "time": "of the same age",
    "state": "V(s)",
}
"""REINFORCE's `baseline` and what it is called in the picture."""


def measure(seeds: Sequence[int]) -> Findings:
    spread = {name: np.zeros((len(seeds), len(SHARPNESS))) for name in NAMES.values()}
    off = {name: np.zeros((len(seeds), len(SHARPNESS))) for name in NAMES.values()}
    sizes: dict[str, float] = {}
    for place, sharpness in enumerate(SHARPNESS.tolist()):
        world = softmax_world(grid_world(noise=0.2, living_reward=-0.04), DISCOUNT, sharpness)
        size = float(np.square(world.gradient).sum())
        sizes[f"|∇J|² at sharpness {sharpness:g}"] = size
        for row, found in enumerate(_estimates(world, seeds)):
            for label, name in NAMES.items():
                spread[name][row, place] = variance(found[label]) / size
                off[name][row, place] = squared_bias(found[label], world.gradient) / size
    across = "sharpness β of the policy π ∝ exp(βQ*)"
    return Findings(
        seeds,
        {
            "variance": Table(across, SHARPNESS, "variance / |∇J|²", spread),
            "bias": Table(across, SHARPNESS, "squared bias / |∇J|²", off),
        },
        sizes,
    )


def _estimates(world: World, seeds: Sequence[int]) -> list[dict[str, Float]]:
    import jax.numpy as jnp

    from bellmark.algorithms.policy_gradient.reinforce import Reinforce

    values = jnp.asarray(world.values, jnp.float32)
    start = jnp.asarray(world.mdp.initial_distribution @ world.values, jnp.float32)
    fresh = jnp.ones(ENVIRONMENTS, bool)

    def scored(rollout: Any) -> dict[str, Any]:
        """What REINFORCE multiplies ∇log π by: with V(s) and the constant as they would be learned in the long run."""
        known = {"constant": start, "state": values[rollout.transition.observation]}
        return {
            label: Reinforce(
                environments=ENVIRONMENTS,
                rollout_length=LENGTH,
                discount=DISCOUNT,
                baseline=label,  # type: ignore[arg-type]
            )
            .steps(rollout, fresh, LENGTH, known.get(label, 0.0))
            .score
            for label in NAMES
        }

    sizes = {"groups": GROUPS, "environments": ENVIRONMENTS, "length": LENGTH}
    return sampled_gradients(world, scored, seeds, **sizes)


def judge(findings: Findings) -> Verdict:
    spread, off = findings.tables["variance"].curves, findings.tables["bias"].curves
    none, best = spread["none"], spread["V(s)"]
    others = [name for name in NAMES.values() if name != "none"]
    parts = {
        "every baseline reduces the variance": all(
            above(none.mean(axis=1), spread[name].mean(axis=1)) for name in others
        ),
        "V(s) has the least of all": all(
            above(spread[name].mean(axis=1), best.mean(axis=1)) for name in others if name != "V(s)"
        ),
        "none moves the mean": all(
            abs(off[name].mean()) < 4.0 * off[name].mean(axis=1).std(ddof=1) / len(off[name]) ** 0.5
            for name in others
        ),
    }
    shares = ", ".join(
        f"{name} {100 * average(spread[name].mean(axis=1) / none.mean(axis=1)):.2g} %" for name in others
    )
    return verdict(
        parts, f"of the variance without a baseline there remains, over all policies, with {shares}"
    )


def draw(findings: Findings, path: Path) -> Path:
    with Sheet(
        path,
        "Baselines: the same mean, less noise",
        f"REINFORCE's gradient from {ENVIRONMENTS} episodes in the 4 × 3 grid, γ = {DISCOUNT}; "
        f"{len(findings.seeds)} seeds, {GROUPS} estimates each",
        panels=(1.0, 1.0),
        size=(10.5, 4.4),
        right=0.86,
        wspace=0.28,
    ) as sheet:
        left, right = sheet.panels
        colours = dict(zip(NAMES.values(), COLOURS, strict=False))
        left.set_yscale("log")
        left.set_yticks([3, 5, 10, 20], ["3", "5", "10", "20"])
        left.minorticks_off()
        curves(left, findings.tables["variance"], colours=colours, labels=False, dots=True)
        curves(right, findings.tables["bias"], colours=colours, dots=True)
        right.axhline(0.0, color="0.6", linewidth=1)
        note(right, 0.0, right.get_ylim()[1], "0 but for noise: none of them biases", va="top")
    return path


EXPERIMENT = Experiment(
    name="baselines",
    title="Baselines: the same mean, less noise",
    about=(
        "What is subtracted from a return before it multiplies ∇log π may be anything that does not know the action: "
        "the mean of the estimates stays the exact gradient, here differentiated from the model, and only their "
        "variance changes. A constant helps where all returns are alike, the state's own value everywhere. That every "
        "baseline helps every policy was our first claim, and it failed: near the optimum three of the four add noise."
    ),
    claim=(
        "Over the policies tried, every baseline reduces the variance of REINFORCE's gradient, V(s) reduces it the "
        "most, and none of them moves its mean."
    ),
    source="Greensmith, Bartlett & Baxter, 2004; Sutton & Barto, 2nd ed., section 13.4",
    seeds=20,
    measure=measure,
    judge=judge,
    draw=draw,
)
