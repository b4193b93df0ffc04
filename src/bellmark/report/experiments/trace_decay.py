"""λ from 0 to 1: the bias of a wrong critic against the variance of a whole return.

J. Schulman et al., "High-dimensional continuous control using generalized advantage estimation", ICLR 2016.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bellmark.mdp.examples import grid_world

from .base import Experiment, Findings, Table, Verdict, above, average, verdict
from .drawing import COLOURS, Sheet, curves
from .gradients import sampled_gradients, softmax_world, squared_bias, variance

DISCOUNT, LENGTH, ENVIRONMENTS = 0.95, 100, 16
GROUPS = 64
SHARPNESS, BEHIND = 4.0, 0.0
"""The policy is π ∝ exp(4Q*); the critic is still that of the uniform policy that it came from."""
TRACE_DECAYS = np.array([0.0, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 1.0])


def measure(seeds: Sequence[int]) -> Findings:
    import jax.numpy as jnp

    from bellmark.maths.returns import generalised_advantage

    mdp = grid_world(noise=0.2, living_reward=-0.04)
    world = softmax_world(mdp, DISCOUNT, SHARPNESS)
    critics = {"behind": softmax_world(mdp, DISCOUNT, BEHIND).values, "exact": world.values}

    def scored(rollout: Any) -> dict[str, Any]:
        step, found = rollout.transition, {}
        for which, values in critics.items():
            table = jnp.asarray(values, jnp.float32)
            for decay in TRACE_DECAYS.tolist():
                found[f"{which} {decay}"] = generalised_advantage(
                    step.reward,
                    table[step.observation],
                    table[step.next_observation],
                    step.continues,
                    step.unbroken,
                    DISCOUNT,
                    decay,
                )
        return found

    size = float(np.square(world.gradient).sum())
    parts: dict[str, np.ndarray] = {
        name: np.zeros((len(seeds), len(TRACE_DECAYS)))
        for name in ("squared bias", "variance", "error", "error, exact critic")
    }
    sizes = {"groups": GROUPS, "environments": ENVIRONMENTS, "length": LENGTH}
    for row, found in enumerate(sampled_gradients(world, scored, seeds, **sizes)):
        for place, decay in enumerate(TRACE_DECAYS.tolist()):
            behind, exact = found[f"behind {decay}"], found[f"exact {decay}"]
            parts["squared bias"][row, place] = squared_bias(behind, world.gradient) / size
            parts["variance"][row, place] = variance(behind) / size
            parts["error"][row, place] = np.square(behind - world.gradient).sum(axis=1).mean() / size
            parts["error, exact critic"][row, place] = (
                np.square(exact - world.gradient).sum(axis=1).mean() / size
            )
    return Findings(
        seeds, {"errors": Table("trace decay λ", TRACE_DECAYS, "share of |∇J|²", parts)}, {"|∇J|²": size}
    )


def judge(findings: Findings) -> Verdict:
    found = findings.tables["errors"].curves
    bias, spread, error = (found[name] for name in ("squared bias", "variance", "error"))
    # the best λ is chosen on the even seeds and judged on the odd ones
    best = int(np.argmin(error[::2].mean(axis=0)))
    judged = error[1::2]
    parts = {
        "the bias falls from λ = 0 to λ = 1": above(bias[:, 0], bias[:, -1]),
        "the variance grows from λ = 0 to λ = 1": above(spread[:, -1], spread[:, 0]),
        "at λ = 1 there is no bias": abs(average(bias[:, -1])) < 0.05 * average(bias[:, 0]),
        "the error is least strictly between": 0 < best < len(TRACE_DECAYS) - 1
        and above(judged[:, 0], judged[:, best])
        and above(judged[:, -1], judged[:, best]),
        "with an exact critic even λ = 0 beats λ = 1": above(
            found["error, exact critic"][:, -1], found["error, exact critic"][:, 0]
        ),
    }
    figures = (
        f"with the critic of an earlier policy the squared error of the gradient, as a share of |∇J|², is "
        f"{average(error[:, 0]):.2f} at λ = 0 (of it bias {average(bias[:, 0]):.2f}), "
        f"{average(error[:, best]):.2f} at λ = {TRACE_DECAYS[best]:g}, and {average(error[:, -1]):.2f} at λ = 1 "
        f"(bias {abs(average(bias[:, -1])):.2f})"
    )
    return verdict(parts, figures)


def draw(findings: Findings, path: Path) -> Path:
    with Sheet(
        path,
        "λ from 0 to 1: bias against variance",
        f"generalised advantages in the 4 × 3 grid, γ = {DISCOUNT}, gradients from {ENVIRONMENTS} episodes; "
        f"{len(findings.seeds)} seeds",
        size=(8.5, 4.6),
        right=0.8,
    ) as sheet:
        [axes] = sheet.panels
        colours = dict(zip(findings.tables["errors"].curves, COLOURS, strict=False))
        axes.set_yscale("symlog", linthresh=0.01)
        table = findings.tables["errors"]
        curves(axes, table, colours=colours, labels=False, dots=True)
        for (label, values), lift in zip(table.curves.items(), (0, -5, 7, -9), strict=True):
            axes.annotate(
                label,
                (1.0, max(average(values[:, -1]), 0.0)),
                xytext=(9, lift),
                textcoords="offset points",
                va="center",
                color=colours[label],
                fontsize=10,
            )
        axes.set_xlim(0, 1)
        axes.set_ylim(bottom=0)
    return path


EXPERIMENT = Experiment(
    name="trace-decay",
    title="λ from 0 to 1: bias against variance",
    about=(
        "A critic lags behind its policy, so it is wrong, and the one-step advantage (λ = 0) carries its error into "
        "the gradient. The whole return (λ = 1) does not, and carries the noise of every step that follows. "
        "Generalised advantage estimation lies between. Bias is measured against the exact gradient of the model. "
        "(That with an exact critic λ = 0 has the smallest error of all was our first claim; it differs from "
        "λ = 0.3 by less than the noise.)"
    ),
    claim=(
        "With a critic that lags behind, bias falls and variance grows from λ = 0 to λ = 1, and the error is least for "
        "a λ strictly between; with an exact critic even λ = 0 beats λ = 1."
    ),
    source="Schulman et al., 2016, section 3",
    seeds=20,
    measure=measure,
    judge=judge,
    draw=draw,
)
