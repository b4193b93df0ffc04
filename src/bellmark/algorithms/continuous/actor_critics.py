"""What the actor–critics with a replay memory have in common: one step of the critics, one of the temperature.

    critic_step         descend  E[Σ_k ½ (Q_k − y)²]
    temperature_step    descend  E[log α · (H(π(·|s)) − H̄)]
    descend             one step of Adam

What they differ in is in their own files: the actor, and the critics' target.  `algorithms.replayed` acts and stores.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from bellmark.algorithms import replayed
from bellmark.algorithms.checks import at_least, check_replay, divides, fraction, layer_sizes, positive
from bellmark.algorithms.replayed import ReplayState
from bellmark.envs import spaces
from bellmark.errors import BadInput
from bellmark.experience.policy import Inputs
from bellmark.experience.replay import Replay
from bellmark.maths import losses, means
from bellmark.maths.soft import temperature_loss
from bellmark.networks.actors import Bounds
from bellmark.types import Key

Parameters = TypeVar("Parameters")
Rate = Float[Array, ""] | float

ADAM = optax.scale_by_adam()


def check(learner: Any, problem: Any) -> None:
    """What all of these learners need of their fields and of the observations."""
    if spaces.is_image(problem.observation_space):
        raise BadInput(
            f"{learner.name} reads vectors, and the observations are images: {problem.observation_space}; "
            "ppo and dqn read them"
        )
    check_replay(learner, problem)
    fraction("discount", learner.discount)
    fraction("target_rate", learner.target_rate)
    layer_sizes(learner.hidden)
    positive(learning_rate=learner.learning_rate, target_rate=learner.target_rate)
    at_least(1, gradient_steps=learner.gradient_steps, n_step=learner.n_step)


def check_hold(learner: Any) -> None:
    at_least(1, noise_hold=learner.noise_hold)
    divides("noise_hold", learner.noise_hold, "rollout_length", learner.rollout_length)


def feature_size(inputs: Inputs) -> int:
    return spaces.flat_size(inputs.fixed.space)


def start(
    learner: Any, problem: Any, inputs: Inputs, bounds: Bounds | None, learned: Any, keys: tuple[Key, Key]
) -> ReplayState:
    """The first state; `keys` are the state's own and that of the episodes."""

    def memory(episodes):
        size = (learner.replay_capacity, learner.rollout_length)
        return Replay.start(episodes, problem.action_space, *size, both_masks=True)

    return replayed.start(learner, problem, inputs, bounds, learned, memory, keys)


def critic_step(
    critics: Parameters,
    optimiser: Any,
    predict: Callable[[Parameters], Float[Array, "K N"]],
    target: Float[Array, " N"],
    learning_rate: Rate,
) -> tuple[Parameters, Any, Float[Array, ""], Float[Array, "K N"]]:
    """Every critic towards the same target: critics and optimiser after it, the loss, and the values before it."""

    def loss(critics):
        q = predict(critics)
        return means.mean(jnp.sum(losses.squared_error(q, jnp.broadcast_to(target, q.shape)), axis=0)), q

    (value, q), gradient = jax.value_and_grad(loss, has_aux=True)(critics)
    critics, optimiser = descend(critics, gradient, optimiser, learning_rate)
    return critics, optimiser, value, q


def temperature_step(
    log_temperature: Float[Array, ""],
    optimiser: Any,
    entropy: Float[Array, " N"],
    wanted: float,
    learning_rate: Rate,
) -> tuple[Float[Array, ""], Any]:
    """α rises while the policy's entropy is below the one `wanted`, and falls above it."""
    gradient = jax.grad(lambda x: means.mean(temperature_loss(x, entropy, wanted)))(log_temperature)
    return descend(log_temperature, gradient, optimiser, learning_rate)


def descend(
    parameters: Parameters, gradient: Parameters, optimiser: Any, learning_rate: Rate
) -> tuple[Parameters, Any]:
    """One step of Adam; the parameters and the optimiser after it."""
    direction, optimiser = ADAM.update(gradient, optimiser)
    return jax.tree.map(lambda p, d: p - learning_rate * d, parameters, direction), optimiser
