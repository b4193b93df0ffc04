"""What all learners from a replay memory have in common, whatever they learn: acting, storing, the loop of updates.

    start      the first state, with an empty memory
    collect    a rollout of the policy
    update     the rollout into the memory; for every `train_every` steps of it, `learn` `gradient_steps` times

What they move, their targets and their losses are in `value_based` and `continuous`.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt32

from bellmark.experience.host_replay import Handed
from bellmark.experience.policy import Inputs
from bellmark.experience.rollout import episode_metrics
from bellmark.types import Episodes, Finished, Key, Metrics, Rollout

Data = tuple[Rollout, Finished, Any]
"""A rollout, and what its memory must know of the rollout's beginning: which steps begin an episode [B], at least."""


class ReplayState(eqx.Module):
    """The state of a learner from a replay memory.

    `replay` is a memory of `experience`, `learned` what an update moves; `outputs` what the networks' outputs mean:
    kinds of action values, or the bounds of the action space, or None where they are plain logits.
    """

    inputs: Inputs
    learned: Any
    replay: Any
    episodes: Episodes
    key: Key
    iteration: Int[Array, ""]
    horizon: Int[Array, ""]
    outputs: Any = eqx.field(static=True)

    @property
    def done(self) -> Float[Array, ""]:
        """The share of the run that is over."""
        return self.iteration / self.horizon


def start(
    learner: Any,
    problem: Any,
    inputs: Inputs,
    outputs: Any,
    learned: Any,
    memory: Callable[[Episodes], Any],
    keys: tuple[Key, Key],
) -> ReplayState:
    """The first state; `memory` makes the empty one for `episodes`, `keys` are the state's own and the episodes'."""
    key, episodes_key = keys
    episodes = problem.start(episodes_key, learner.environments)
    return ReplayState(
        inputs=inputs,
        learned=learned,
        replay=memory(episodes),
        episodes=episodes,
        key=key,
        iteration=jnp.array(0, jnp.int32),
        horizon=jnp.array(max(problem.budget // learner.steps_per_iteration(problem), 1), jnp.int32),
        outputs=outputs,
    )


def collect(learner: Any, problem: Any, state: ReplayState, policy: Any) -> tuple[ReplayState, Data]:
    """A rollout of `policy`, and which environments' first step in it begins an episode."""
    key, rollout_key = jax.random.split(state.key)
    begun = state.episodes.length == 0
    episodes, rollout, finished = problem.rollout(policy, state.episodes, rollout_key, learner.rollout_length)
    return dataclasses.replace(state, episodes=episodes, key=key), (rollout, finished, begun)


def update(
    learner: Any,
    state: ReplayState,
    data: Data,
    learn: Callable[..., tuple[Any, Metrics]],
    measured: tuple[str, ...],
    noise_shape: tuple[int, ...] | None = None,
) -> tuple[ReplayState, Metrics]:
    """Store the rollout, then learn from what is stored.

    `learn(learned, state, bits, learning_rate)` is one update, which gives back what was learned and the `measured`
    metrics; `state` has the memory and the inputs as they are now.  With a `noise_shape`, standard normal numbers
    [*noise_shape, N, action size] come after the bits.
    """
    rollout, finished, begun = data
    key, _, noise_key = jax.random.split(state.key, 3)
    now = dataclasses.replace(
        state,
        inputs=state.inputs.seen(rollout.transition.observation),
        replay=state.replay.add(rollout, begun),
    )
    learning_rate = learner.learning_rate * (jnp.maximum(1.0 - state.done, 0.0) if learner.anneal else 1.0)
    # the random numbers of all updates in one call
    drawn = [sampling_bits(learner, state.key, rollout.transition.reward.size)]
    updates = len(drawn[0])
    if noise_shape is not None:
        size = 0 if state.outputs is None else state.outputs.size
        drawn.append(jax.random.normal(noise_key, (updates, *noise_shape, learner.batch_size, size)))

    def one_update(index, carry):
        learned, sums = carry
        here = now
        if isinstance(now.replay, Handed):
            here = dataclasses.replace(now, replay=now.replay.at(index))
        learned, metrics = learn(learned, here, *(numbers[index] for numbers in drawn), learning_rate)
        return learned, jax.tree.map(jnp.add, sums, metrics)

    # a loop that may have no turns, and not a condition, which would copy what goes through it
    turns = jnp.where(now.replay.size >= learner.learning_start, updates, 0)
    zeros = dict.fromkeys(measured, jnp.zeros(()))
    learned, sums = jax.lax.fori_loop(0, turns, one_update, (state.learned, zeros))
    return dataclasses.replace(now, learned=learned, key=key, iteration=state.iteration + 1), {
        **episode_metrics(finished),
        **{name: total / jnp.maximum(turns, 1) for name, total in sums.items()},
        "replay/size": now.replay.size.astype(jnp.float32),
        "optimiser/learning_rate": jnp.asarray(learning_rate, jnp.float32),
    }


def sampling_bits(learner: Any, key: Key, transitions: int) -> UInt32[Array, "U N"]:
    """What says which transitions the updates after a rollout of so many transitions learn from."""
    updates = transitions // learner.train_every * getattr(learner, "gradient_steps", 1)
    _, sample_key, _ = jax.random.split(key, 3)
    return jax.random.bits(sample_key, (updates, learner.batch_size))
