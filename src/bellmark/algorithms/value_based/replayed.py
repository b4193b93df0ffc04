"""What the learners from a replay memory have in common: acting, storing, sampling, descending, target networks.

    collect    ε-greedy steps
    update     into the replay; for every `train_every` of them, `learn` once
    drawn      a batch, uniformly or by priority
    improved   one descent of a loss per sample, new priorities, and now and then the target network

What they differ in is in their own files: what a network's outputs mean, the target, and the loss.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt32

from bellmark.algorithms.checks import at_least, check_discrete, check_replay, fraction, layer_sizes, positive
from bellmark.algorithms.descent import clipped_descent
from bellmark.algorithms.value_based import settings
from bellmark.experience.frames import Memory, memory_for
from bellmark.experience.policy import Inputs
from bellmark.experience.prioritised import Priorities, new_places
from bellmark.experience.replay import Batch
from bellmark.experience.rollout import episode_metrics
from bellmark.maths import means
from bellmark.networks.targets import towards
from bellmark.networks.values import Values
from bellmark.types import Episodes, Finished, Key, Metrics, Rollout

Data = tuple[Rollout, Finished, Bool[Array, " B"]]


class Learned(eqx.Module):
    """What an update moves."""

    online: Any
    target: Any
    optimiser: Any
    priorities: Priorities | None
    updates: Int[Array, ""]


class ReplayState(eqx.Module):
    """The state of a learner from a replay memory."""

    inputs: Inputs
    values: Any
    learned: Learned
    replay: Memory
    episodes: Episodes
    key: Key
    iteration: Int[Array, ""]
    horizon: Int[Array, ""]

    @property
    def done(self) -> Float[Array, ""]:
        """The share of the run that is over."""
        return self.iteration / self.horizon


class Sample(eqx.Module):
    """A batch, where it lay, and by how much each of it counts (None: all alike)."""

    place: Int[Array, " N"]
    weight: Float[Array, " N"] | None
    batch: Batch


class Judged(eqx.Module):
    """A batch's losses, and in numbers of value what was predicted and what it should have been."""

    loss: Float[Array, " N"]
    prediction: Float[Array, " N"]
    target: Float[Array, " N"]
    surprise: Float[Array, " N"] | None = None
    """What priorities follow, where it is not the difference of the two."""


def check(learner: Any, problem: Any) -> None:
    """What all of these learners need of their fields."""
    check_discrete(learner.name, problem)
    check_replay(learner, problem)
    settings.check_epsilon(learner)
    fraction("discount", learner.discount)
    layer_sizes(learner.hidden)
    positive(
        learning_rate=learner.learning_rate,
        max_gradient_norm=learner.max_gradient_norm,
        target_rate=learner.target_rate,
    )
    fraction("target_rate", learner.target_rate)
    at_least(1, target_every=learner.target_every, n_step=learner.n_step)


def start(
    learner: Any,
    problem: Any,
    inputs: Inputs,
    values: Values,
    online: Any,
    keys: tuple[Key, Key],
    prioritised: bool = False,
) -> ReplayState:
    """The first state; `keys` are the state's own and that of the episodes."""
    key, episodes_key = keys
    episodes = problem.start(episodes_key, learner.environments)
    replay = memory_for(learner, problem, episodes)
    return ReplayState(
        inputs=inputs,
        values=values,
        learned=Learned(
            online=online,
            target=online,
            optimiser=clipped_descent(learner.max_gradient_norm).init(online),
            priorities=Priorities.start(replay.capacity) if prioritised else None,
            updates=jnp.array(0, jnp.int32),
        ),
        replay=replay,
        episodes=episodes,
        key=key,
        iteration=jnp.array(0, jnp.int32),
        horizon=jnp.array(max(problem.budget // learner.steps_per_iteration(problem), 1), jnp.int32),
    )


def collect(learner: Any, problem: Any, state: ReplayState, policy: Any) -> tuple[ReplayState, Data]:
    """A rollout of `policy`, and which environments' first step in it begins an episode."""
    key, rollout_key = jax.random.split(state.key)
    begun = state.episodes.length == 0
    episodes, rollout, finished = problem.rollout(policy, state.episodes, rollout_key, learner.rollout_length)
    state = eqx.tree_at(lambda s: (s.episodes, s.key), state, (episodes, key))
    return state, (rollout, finished, begun)


def update(
    learner: Any,
    state: ReplayState,
    data: Data,
    learn: Callable[[Learned, Inputs, Memory, UInt32[Array, " N"], Any], tuple[Learned, Metrics]],
) -> tuple[ReplayState, Metrics]:
    """Store the rollout, then `learn(learned, inputs, replay, bits, learning_rate)` once per `train_every` steps."""
    rollout, finished, begun = data
    key, sample_key = jax.random.split(state.key)
    learned = state.learned
    inputs = state.inputs.seen(rollout.transition.observation)
    replay = state.replay.add(rollout, begun)
    if learned.priorities is not None:
        places = new_places(state.replay.position, rollout.transition.reward.size, replay.capacity)
        learned = eqx.tree_at(lambda m: m.priorities, learned, learned.priorities.add(places))

    learning_rate = learner.learning_rate * (jnp.maximum(1.0 - state.done, 0.0) if learner.anneal else 1.0)
    updates = rollout.transition.reward.size // learner.train_every
    bits = jax.random.bits(sample_key, (updates, learner.batch_size))

    def one_update(index, carry):
        learned, sums = carry
        learned, metrics = learn(learned, inputs, replay, bits[index], learning_rate)
        return learned, jax.tree.map(jnp.add, sums, metrics)

    # a loop that may have no turns, and not a condition, which would copy what goes through it
    turns = jnp.where(replay.size >= learner.learning_start, updates, 0)
    names = ("loss/value", "value/prediction", "value/target", "value/error")
    learned, sums = jax.lax.fori_loop(0, turns, one_update, (learned, dict.fromkeys(names, jnp.zeros(()))))
    moved = ReplayState(
        inputs, state.values, learned, replay, state.episodes, key, state.iteration + 1, state.horizon
    )
    return moved, {
        **episode_metrics(finished),
        **{name: total / jnp.maximum(turns, 1) for name, total in sums.items()},
        "policy/epsilon": settings.epsilon_at(learner, state.done),
        "replay/size": replay.size.astype(jnp.float32),
        "optimiser/learning_rate": jnp.asarray(learning_rate, jnp.float32),
    }


def drawn(
    learner: Any, learned: Learned, replay: Memory, bits: UInt32[Array, " N"], correction: Any = 1.0
) -> Sample:
    """N n-step transitions: each as likely as any other, or by priority, `correction` (β) of that made up for."""
    if learned.priorities is None:
        place, weight = replay.draw(bits), None
    else:
        place, weight = learned.priorities.draw(bits, replay.size, correction)
    return Sample(place, weight, replay.take(place, learner.discount, learner.n_step))


def improved(
    learner: Any,
    learned: Learned,
    sample: Sample,
    judge: Callable[[Any], Judged],
    learning_rate: Any,
    priority_exponent: float = 0.0,
) -> tuple[Learned, Metrics]:
    """One descent of the mean of `judge(online).loss`, and of what follows from it."""

    def loss(online):
        judged = judge(online)
        each = judged.loss if sample.weight is None else sample.weight * judged.loss
        return means.mean(each), judged

    (value, judged), gradient = jax.value_and_grad(loss, has_aux=True)(learned.online)
    direction, optimiser = clipped_descent(learner.max_gradient_norm).update(
        gradient, learned.optimiser, learned.online
    )
    online = jax.tree.map(lambda p, d: p - learning_rate * d, learned.online, direction)
    updates, priorities = learned.updates + 1, learned.priorities
    error = judged.target - judged.prediction
    if priorities is not None:
        surprise = error if judged.surprise is None else judged.surprise
        priorities = priorities.set(sample.place, surprise, priority_exponent)
    rate = jnp.where(updates % learner.target_every == 0, learner.target_rate, 0.0)
    return Learned(
        online=online,
        target=towards(learned.target, online, rate),
        optimiser=optimiser,
        priorities=priorities,
        updates=updates,
    ), {
        "loss/value": value,
        "value/prediction": means.mean(judged.prediction),
        "value/target": means.mean(judged.target),
        "value/error": means.mean(jnp.abs(error)),
    }
