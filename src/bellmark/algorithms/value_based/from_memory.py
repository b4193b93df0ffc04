"""What the value learners from a replay memory have in common: sampling, descending, target networks.

    epsilon_greedy   how they act
    drawn            a batch, uniformly or by priority
    improved         one descent of a loss per sample, new priorities, and now and then the target network

What they differ in is in their own files: what a network's outputs mean, the target, and the loss.
`algorithms.replayed` acts and stores.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt32

from bellmark.algorithms import replayed
from bellmark.algorithms.checks import at_least, check_discrete, check_replay, fraction, layer_sizes, positive
from bellmark.algorithms.descent import clipped_descent
from bellmark.algorithms.replayed import Data, ReplayState
from bellmark.algorithms.value_based import settings
from bellmark.experience.frames import Memory, memory_for
from bellmark.experience.host_replay import Handed
from bellmark.experience.policy import Inputs, StochasticPolicy
from bellmark.experience.prioritised import Priorities, new_places
from bellmark.maths import means
from bellmark.networks.targets import towards
from bellmark.networks.values import EpsilonGreedyHead, Values
from bellmark.types import Episodes, Key, Metrics

MEASURED = ("loss/value", "value/prediction", "value/target", "value/error")


class Learned(eqx.Module):
    """What an update moves."""

    online: Any
    target: Any
    optimiser: Any
    priorities: Priorities | None
    updates: Int[Array, ""]


class Sample(eqx.Module):
    """A batch, where it lay, and by how much each of it counts (None: all alike)."""

    place: Int[Array, " N"]
    weight: Float[Array, " N"] | None
    batch: Any


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
    memory: Callable[[Episodes], Any] | None = None,
) -> ReplayState:
    """The first state; `keys` are the state's own and that of the episodes, `memory` makes another than the usual."""
    moved = Learned(
        online=online,
        target=online,
        optimiser=clipped_descent(learner.max_gradient_norm).init(online),
        priorities=None,
        updates=jnp.array(0, jnp.int32),
    )
    usual = functools.partial(memory_for, learner, problem)
    state = replayed.start(learner, problem, inputs, values, moved, memory or usual, keys)
    if not prioritised:
        return state
    priorities = Priorities.start(state.replay.capacity)
    return dataclasses.replace(state, learned=dataclasses.replace(moved, priorities=priorities))


def epsilon_greedy(learner: Any, state: ReplayState, network: Any) -> StochasticPolicy:
    """How Q is acted on now: ε falls with the share of the run that is done."""
    head = EpsilonGreedyHead(state.outputs, settings.epsilon_at(learner, state.done))
    return StochasticPolicy(state.inputs, network, head)


def update(
    learner: Any, state: ReplayState, data: Data, learn: Callable[..., tuple[Learned, Metrics]]
) -> tuple[ReplayState, Metrics]:
    """`replayed.update`; what is new has the largest priority."""
    priorities = state.learned.priorities
    now = state
    if priorities is not None:
        places = new_places(state.replay.position, data[0].transition.reward.size, state.replay.capacity)
        learned = dataclasses.replace(state.learned, priorities=priorities.add(places))
        now = dataclasses.replace(state, learned=learned)
    now, metrics = replayed.update(learner, now, data, learn, MEASURED)
    return now, metrics | {"policy/epsilon": settings.epsilon_at(learner, state.done)}


def drawn(
    learner: Any, learned: Learned, replay: Memory | Handed, bits: UInt32[Array, " N"], correction: Any = 1.0
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
