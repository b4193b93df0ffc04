"""Steps that may change a policy by so much and no more.

J. Schulman, S. Levine, P. Moritz, M. I. Jordan, P. Abbeel, "Trust region policy optimization", ICML 2015;
J. Schulman et al., "Proximal policy optimization algorithms", 2017 (the adaptive penalty).
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from bellmark.types import Scalar

Vector = Float[Array, " D"]
MOST_PENALTY = 2.0**20
"""The coefficient stays between this and its inverse, so that halving and doubling for ever leave a number."""


def surrogate(
    log_prob: Float[Array, "*N"], old_log_prob: Float[Array, "*N"], advantage: Float[Array, "*N"]
) -> Float[Array, "*N"]:
    """ρÂ with ρ = π(a|s)/π_old(a|s), to be maximised: at π = π_old its gradient is the policy gradient's, Â∇log π."""
    return jnp.exp(log_prob - old_log_prob) * advantage


def step_length(curvature: Scalar, limit: Scalar) -> Float[Array, ""]:
    """The β at which ½ β² xᵀFx, the divergence's quadratic model along x, is `limit`; `curvature` is xᵀFx.

    0 where the curvature is not a positive number: there is no direction to go, or none to be trusted.
    """
    sound = jnp.isfinite(curvature) & (curvature > 0)
    return jnp.where(sound, jnp.sqrt(2.0 * limit / jnp.where(sound, curvature, 1.0)), 0.0)


class Searched(eqx.Module):
    """Where a line search ended: the start itself, with `gain` and `divergence` 0, if it was not `accepted`."""

    parameters: Vector
    accepted: Bool[Array, ""]
    tries: Int[Array, ""]
    gain: Float[Array, ""]
    divergence: Float[Array, ""]


def line_search(
    measure: Callable[[Vector], tuple[Float[Array, ""], Float[Array, ""]]],
    start: Vector,
    step: Vector,
    limit: Scalar,
    backtrack: float,
    tries: int | Int[Array, ""],
) -> Searched:
    """The first of start + κʲ · step, j = 0, 1, …, that gains something and keeps to the limit; `start` if none does.

    `measure` gives the gain over `start` and the divergence from it.  A NaN in either is no gain.
    """

    def going_on(searched):
        return ~searched.accepted & (searched.tries < tries)

    def attempt(searched):
        candidate = start + backtrack**searched.tries * step
        gain, divergence = measure(candidate)
        accepted = (gain > 0) & (divergence <= limit) & jnp.isfinite(gain)
        return Searched(
            parameters=jnp.where(accepted, candidate, start),
            accepted=accepted,
            tries=searched.tries + 1,
            gain=jnp.where(accepted, gain, 0.0),
            divergence=jnp.where(accepted, divergence, 0.0),
        )

    nothing = jnp.zeros(())
    return jax.lax.while_loop(
        going_on, attempt, Searched(start, jnp.array(False), jnp.array(0, jnp.int32), nothing, nothing)
    )


def adapted_penalty(coefficient: Scalar, divergence: Scalar, target: Scalar) -> Float[Array, ""]:
    """β/2 where the divergence came to less than target/1.5, 2β where to more than 1.5 · target (PPO, section 4)."""
    halved = jnp.where(divergence < target / 1.5, coefficient / 2.0, coefficient)
    adapted = jnp.where(divergence > target * 1.5, coefficient * 2.0, halved)
    return jnp.clip(adapted, 1.0 / MOST_PENALTY, MOST_PENALTY)
