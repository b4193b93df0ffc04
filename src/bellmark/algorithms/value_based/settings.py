"""What the value-based learners check and schedule alike."""

import math
from typing import Any, Literal

import jax.numpy as jnp
from jaxtyping import Array, Float

from bellmark.algorithms.checks import at_least, fraction
from bellmark.errors import BadInput

Schedule = Literal["constant", "linear", "exponential"]


def value_range(learner: Any) -> tuple[float, float]:
    """The returns between which a categorical distribution lies; by default those of rewards from −1 to 1."""
    at_least(2, atoms=learner.atoms)
    if learner.discount >= 1.0 and None in (learner.value_low, learner.value_high):
        raise BadInput(
            "value_low and value_high are ±1 / (1 − discount) unless they are given, and the discount is 1: give both"
        )
    low = -1.0 / (1.0 - learner.discount) if learner.value_low is None else learner.value_low
    high = 1.0 / (1.0 - learner.discount) if learner.value_high is None else learner.value_high
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise BadInput(
            f"value_low is {low} and value_high {high}; allowed: two finite numbers, the first below"
        )
    return float(low), float(high)


def check_epsilon(learner: Any) -> None:
    fraction("epsilon", learner.epsilon)
    fraction("epsilon_final", learner.epsilon_final)
    fraction("epsilon_share", learner.epsilon_share)
    if learner.epsilon_schedule == "exponential" and min(learner.epsilon, learner.epsilon_final) <= 0.0:
        raise BadInput(
            f"epsilon is {learner.epsilon} and epsilon_final {learner.epsilon_final}; an exponential decay goes from "
            "one number above 0 to another, and epsilon_schedule=linear can end at 0"
        )
    if learner.epsilon_schedule != "constant" and learner.epsilon_share == 0.0:
        raise BadInput("epsilon_share is 0; allowed: more than 0, at most 1, of the run's steps")


def epsilon_at(learner: Any, done: Float[Array, "*N"]) -> Float[Array, "*N"]:
    """ε when the share `done` of the run is over."""
    if learner.epsilon_schedule == "constant":
        return jnp.full_like(jnp.asarray(done, jnp.float32), learner.epsilon)
    share = jnp.minimum(done / learner.epsilon_share, 1.0)
    if learner.epsilon_schedule == "linear":
        return learner.epsilon + (learner.epsilon_final - learner.epsilon) * share
    return learner.epsilon * (learner.epsilon_final / learner.epsilon) ** share
