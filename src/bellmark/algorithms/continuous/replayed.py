"""What the actor–critics with a replay memory have in common: acting, storing, and the loop of their updates.

    collect    steps of the policy
    update     into the replay; for every `train_every` of them, `learn` `gradient_steps` times
    descend    one step of Adam

What they differ in is in their own files: the actor, the critics' target, and the losses.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from bellmark.algorithms.checks import at_least, check_replay, fraction, layer_sizes, positive
from bellmark.envs import spaces
from bellmark.errors import BadInput
from bellmark.experience.policy import Inputs
from bellmark.experience.replay import Replay
from bellmark.experience.rollout import episode_metrics
from bellmark.networks.actors import Bounds
from bellmark.types import Episodes, Finished, Key, Metrics, Rollout

Data = tuple[Rollout, Finished, Bool[Array, " B"]]
Parameters = TypeVar("Parameters")

ADAM = optax.scale_by_adam()


class ActorCriticState(eqx.Module):
    """The state of an actor–critic with a replay memory; `bounds` are None where actions are numbered."""

    inputs: Inputs
    learned: Any
    replay: Replay
    episodes: Episodes
    key: Key
    iteration: Int[Array, ""]
    horizon: Int[Array, ""]
    bounds: Any = eqx.field(static=True)


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


def feature_size(inputs: Inputs) -> int:
    return spaces.flat_size(inputs.fixed.space)


def start(
    learner: Any, problem: Any, inputs: Inputs, bounds: Bounds | None, learned: Any, keys: tuple[Key, Key]
) -> ActorCriticState:
    """The first state; `keys` are the state's own and that of the episodes."""
    key, episodes_key = keys
    episodes = problem.start(episodes_key, learner.environments)
    return ActorCriticState(
        inputs=inputs,
        learned=learned,
        replay=Replay.start(
            episodes,
            problem.action_space,
            learner.replay_capacity,
            learner.rollout_length,
            both_masks=True,
        ),
        episodes=episodes,
        key=key,
        iteration=jnp.array(0, jnp.int32),
        horizon=jnp.array(max(problem.budget // learner.steps_per_iteration(problem), 1), jnp.int32),
        bounds=bounds,
    )


def collect(
    learner: Any, problem: Any, state: ActorCriticState, policy: Any
) -> tuple[ActorCriticState, Data]:
    """A rollout of `policy`, and which environments' first step in it begins an episode."""
    key, rollout_key = jax.random.split(state.key)
    begun = state.episodes.length == 0
    episodes, rollout, finished = problem.rollout(policy, state.episodes, rollout_key, learner.rollout_length)
    return dataclasses.replace(state, episodes=episodes, key=key), (rollout, finished, begun)


def update(
    learner: Any,
    state: ActorCriticState,
    data: Data,
    learn: Callable[..., tuple[Any, Metrics]],
    noise_shape: tuple[int, ...],
) -> tuple[ActorCriticState, Metrics]:
    """Store the rollout, then learn from what is stored.

    `learn(learned, inputs, replay, bits, noise, learning_rate)` is one update; its noise is standard normal, of
    `noise_shape` × the batch's size × the action's.
    """
    rollout, finished, begun = data
    key, sample_key, noise_key = jax.random.split(state.key, 3)
    inputs = state.inputs.seen(rollout.transition.observation)
    replay = state.replay.add(rollout, begun)
    done = state.iteration / state.horizon
    learning_rate = learner.learning_rate * (jnp.maximum(1.0 - done, 0.0) if learner.anneal else 1.0)
    updates = rollout.transition.reward.size // learner.train_every * learner.gradient_steps
    size = 0 if state.bounds is None else state.bounds.size
    # the random numbers of all updates in one call
    bits = jax.random.bits(sample_key, (updates, learner.batch_size))
    noise = jax.random.normal(noise_key, (updates, *noise_shape, learner.batch_size, size))

    def one_update(index, carry):
        learned, sums = carry
        learned, metrics = learn(learned, inputs, replay, bits[index], noise[index], learning_rate)
        return learned, jax.tree.map(jnp.add, sums, metrics)

    # a loop that may have no turns, and not a condition, which would copy what goes through it
    turns = jnp.where(replay.size >= learner.learning_start, updates, 0)
    zeros = dict.fromkeys(learner.measured, jnp.zeros(()))
    learned, sums = jax.lax.fori_loop(0, turns, one_update, (state.learned, zeros))
    moved = dataclasses.replace(
        state, inputs=inputs, learned=learned, replay=replay, key=key, iteration=state.iteration + 1
    )
    return moved, {
        **episode_metrics(finished),
        **{name: total / jnp.maximum(turns, 1) for name, total in sums.items()},
        "replay/size": replay.size.astype(jnp.float32),
        "optimiser/learning_rate": jnp.asarray(learning_rate, jnp.float32),
    }


def descend(
    parameters: Parameters, gradient: Parameters, optimiser: Any, learning_rate: Float[Array, ""] | float
) -> tuple[Parameters, Any]:
    """One step of Adam; the parameters and the optimiser after it."""
    direction, optimiser = ADAM.update(gradient, optimiser)
    return jax.tree.map(lambda p, d: p - learning_rate * d, parameters, direction), optimiser
