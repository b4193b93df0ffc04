"""What the value-based learners check and schedule alike."""

from typing import Any, Literal

import gymnasium
import jax.numpy as jnp
from jaxtyping import Array, Float

from bellmark.algorithms.checks import at_least, divides, fraction
from bellmark.errors import BadInput

Schedule = Literal["constant", "linear", "exponential"]


def check_discrete(name: str, problem: Any) -> None:
    """Refuse action spaces whose actions cannot be listed."""
    space = problem.action_space
    if not isinstance(space, gymnasium.spaces.Discrete):
        described = " ".join(str(space).split())
        raise BadInput(
            f"{name} compares the values of all actions, so the action space must be Discrete; it is {described}"
        )


def check_steps(learner: Any) -> None:
    at_least(
        1,
        environments=learner.environments,
        rollout_length=learner.rollout_length,
    )


def check_replay(learner: Any, problem: Any) -> None:
    """Refuse sizes with which no update could ever be made, or the wrong number of them."""
    check_steps(learner)
    at_least(1, batch_size=learner.batch_size, train_every=learner.train_every)
    rollout = learner.steps_per_iteration(problem)
    divides("train_every", learner.train_every, "environments × rollout_length", rollout)
    if learner.replay_capacity < rollout:
        raise BadInput(
            f"replay_capacity is {learner.replay_capacity:,}; allowed: at least environments × rollout_length = "
            f"{rollout:,}"
        )
    capacity = learner.replay_capacity // rollout * rollout
    if learner.learning_start > capacity:
        raise BadInput(
            f"learning_start is {learner.learning_start:,} stored transitions, and the replay holds {capacity:,}: "
            "learning would never start"
        )
    if learner.batch_size > max(learner.learning_start, rollout):
        raise BadInput(
            f"batch_size is {learner.batch_size:,}, and when learning starts {max(learner.learning_start, rollout):,} "
            "transitions are stored (learning_start); allowed: a batch of at most that many"
        )
    budget = problem.budget
    if budget > 1 and learner.learning_start > -(-budget // rollout) * rollout:
        raise BadInput(
            f"learning_start is {learner.learning_start:,} and the run has {budget:,} steps: learning would never start"
        )


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
