"""Deep Q-networks.

V. Mnih et al., "Human-level control through deep reinforcement learning", Nature 518, 2015.

    repeat
        take ε-greedy steps in B environments, put (s, a, r, s′) into the replay memory D
        for every K steps taken, once D holds enough:
            sample N transitions from D
            y ← r + γ c max_a′ Q̂(s′, a′)                 c: 0 where the process terminated, else 1
            descend  E[loss(Q(s, a), y)]                   Huber's or the squared one
            every C updates Q̂ ← Q̂ + τ (Q − Q̂)             τ = 1: a copy; C = 1 and a small τ: a slow average

Each named improvement is one line: double (H. van Hasselt, A. Guez, D. Silver, 2016), dueling (Z. Wang et al., 2016),
n-step targets (R. Sutton, 1988), prioritised replay (T. Schaul et al., 2016).
"""

from typing import Any, ClassVar, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, UInt32

from bellmark.algorithms.base import AbstractLearner
from bellmark.algorithms.checks import at_least, check_replay, fraction, layer_sizes, positive
from bellmark.algorithms.descent import clipped_descent
from bellmark.algorithms.value_based import settings
from bellmark.experience.policy import Inputs, StochasticPolicy
from bellmark.experience.prioritised import Priorities, new_places
from bellmark.experience.replay import Batch, Replay
from bellmark.experience.rollout import episode_metrics
from bellmark.maths import losses, means
from bellmark.maths.action_values import best_value, double_value, value_of
from bellmark.networks.convolution import Convolution
from bellmark.networks.mlp import MLP, Activation
from bellmark.networks.values import ActionValues, BoltzmannHead, EpsilonGreedyHead, ValueHead
from bellmark.types import Episodes, Finished, Key, Metrics, Rollout


class Learned(eqx.Module):
    """What an update moves."""

    online: MLP | Convolution
    target: MLP | Convolution
    optimiser: Any
    priorities: Priorities | None
    updates: Int[Array, ""]


class DQNState(eqx.Module):
    inputs: Inputs
    values: ActionValues
    learned: Learned
    replay: Replay
    episodes: Episodes
    key: Key
    iteration: Int[Array, ""]
    horizon: Int[Array, ""]


class DQN(AbstractLearner):
    """Deep Q-networks: value learning from a replay memory, with a target network."""

    name: ClassVar[str] = "dqn"

    discount: float = 0.99
    learning_rate: float = 1e-3
    anneal: bool = False
    environments: int = 4
    rollout_length: int = 4
    train_every: int = 2
    batch_size: int = 64
    replay_capacity: int = 100_000
    learning_start: int = 1_000
    loss: Literal["huber", "squared"] = "huber"
    double: bool = False
    dueling: bool = False
    n_step: int = 1
    target_every: int = 250
    target_rate: float = 1.0
    exploration: Literal["epsilon_greedy", "boltzmann"] = "epsilon_greedy"
    epsilon: float = 1.0
    epsilon_final: float = 0.05
    epsilon_schedule: settings.Schedule = "linear"
    epsilon_share: float = 0.2
    temperature: float = 1.0
    prioritised: bool = False
    priority_exponent: float = 0.6
    priority_correction: float = 0.4
    max_gradient_norm: float = 10.0
    normalise_observations: bool = False
    hidden: tuple[int, ...] = (64, 64)
    activation: Activation = "relu"

    def check(self, problem) -> None:
        settings.check_discrete(self.name, problem)
        check_replay(self, problem)
        settings.check_epsilon(self)
        fraction("discount", self.discount)
        fraction("priority_exponent", self.priority_exponent)
        fraction("priority_correction", self.priority_correction)
        layer_sizes(self.hidden)
        positive(
            learning_rate=self.learning_rate,
            max_gradient_norm=self.max_gradient_norm,
            temperature=self.temperature,
            target_rate=self.target_rate,
        )
        fraction("target_rate", self.target_rate)
        at_least(1, target_every=self.target_every, n_step=self.n_step)

    def steps_per_iteration(self, problem) -> int:
        return self.environments * self.rollout_length

    @property
    def updates_per_iteration(self) -> int:
        return self.steps_per_iteration(None) // self.train_every

    @property
    def optimiser(self) -> optax.GradientTransformation:
        return clipped_descent(self.max_gradient_norm)

    def init(self, problem, key: Key) -> DQNState:
        key, network_key, episodes_key = jax.random.split(key, 3)
        inputs = Inputs.start(problem.observation_space, self.normalise_observations)
        values = ActionValues(int(problem.action_space.n), self.dueling)
        online = inputs.network(self.hidden, values.outputs, network_key, activation=self.activation)
        episodes = problem.start(episodes_key, self.environments)
        replay = Replay.start(episodes, problem.action_space, self.replay_capacity, self.rollout_length)
        return DQNState(
            inputs=inputs,
            values=values,
            learned=Learned(
                online=online,
                target=online,
                optimiser=self.optimiser.init(online),
                priorities=Priorities.start(replay.capacity) if self.prioritised else None,
                updates=jnp.array(0, jnp.int32),
            ),
            replay=replay,
            episodes=episodes,
            key=key,
            iteration=jnp.array(0, jnp.int32),
            horizon=jnp.array(max(problem.budget // self.steps_per_iteration(problem), 1), jnp.int32),
        )

    def head(self, state: DQNState) -> ValueHead:
        """How Q is acted on now: ε falls with the share of the run that is done."""
        if self.exploration == "boltzmann":
            return BoltzmannHead(state.values, jnp.array(self.temperature, jnp.float32))
        return EpsilonGreedyHead(state.values, settings.epsilon_at(self, state.iteration / state.horizon))

    def policy(self, state: DQNState) -> StochasticPolicy:
        return StochasticPolicy(state.inputs, state.learned.online, self.head(state))

    def collect(
        self, problem, state: DQNState
    ) -> tuple[DQNState, tuple[Rollout, Finished, Bool[Array, " B"]]]:
        key, rollout_key = jax.random.split(state.key)
        begun = state.episodes.length == 0
        episodes, rollout, finished = problem.rollout(
            self.policy(state), state.episodes, rollout_key, self.rollout_length
        )
        state = eqx.tree_at(lambda s: (s.episodes, s.key), state, (episodes, key))
        return state, (rollout, finished, begun)

    def update(
        self, state: DQNState, data: tuple[Rollout, Finished, Bool[Array, " B"]]
    ) -> tuple[DQNState, Metrics]:
        rollout, finished, begun = data
        key, sample_key = jax.random.split(state.key)
        learned, values = state.learned, state.values
        inputs = state.inputs.seen(rollout.transition.observation)
        replay = state.replay.add(rollout, begun)
        if learned.priorities is not None:
            places = new_places(state.replay.position, rollout.transition.reward.size, replay.capacity)
            learned = eqx.tree_at(lambda m: m.priorities, learned, learned.priorities.add(places))

        done = state.iteration / state.horizon
        learning_rate = self.learning_rate * (jnp.maximum(1.0 - done, 0.0) if self.anneal else 1.0)
        bits = jax.random.bits(sample_key, (self.updates_per_iteration, self.batch_size))

        def one_update(index, carry):
            learned, sums = carry
            learned, metrics = self.learn(learned, inputs, values, replay, bits[index], learning_rate, done)
            return learned, jax.tree.map(jnp.add, sums, metrics)

        # a loop that may have no turns, and not a condition, which would copy what goes through it
        turns = jnp.where(replay.size >= self.learning_start, self.updates_per_iteration, 0)
        names = ("loss/value", "value/prediction", "value/target", "value/error")
        learned, sums = jax.lax.fori_loop(
            0, turns, one_update, (learned, dict.fromkeys(names, jnp.zeros(())))
        )
        state = DQNState(
            inputs, values, learned, replay, state.episodes, key, state.iteration + 1, state.horizon
        )
        return state, {
            **episode_metrics(finished),
            **{name: total / jnp.maximum(turns, 1) for name, total in sums.items()},
            "policy/epsilon": settings.epsilon_at(self, done),
            "replay/size": replay.size.astype(jnp.float32),
            "optimiser/learning_rate": jnp.asarray(learning_rate, jnp.float32),
        }

    def learn(
        self,
        learned: Learned,
        inputs: Inputs,
        values: ActionValues,
        replay: Replay,
        bits: UInt32[Array, " N"],
        learning_rate: Any,
        done: Any,
    ) -> tuple[Learned, Metrics]:
        """One update: sample, descend, and now and then move the target network."""
        priorities, weight = learned.priorities, None
        if priorities is None:
            place = replay.draw(bits)
        else:
            correction = self.priority_correction + (1.0 - self.priority_correction) * jnp.minimum(done, 1.0)
            place, weight = priorities.draw(bits, replay.size, correction)
        batch = replay.take(place, self.discount, self.n_step)
        target = self.targets(learned, inputs, values, batch)
        features = inputs(batch.observation)

        def loss(online):
            prediction = value_of(values(online(features)), batch.action)
            error = losses.huber if self.loss == "huber" else losses.squared_error
            each = error(prediction, target)
            return means.mean(each if weight is None else weight * each), prediction

        (value, prediction), gradient = jax.value_and_grad(loss, has_aux=True)(learned.online)
        direction, optimiser = self.optimiser.update(gradient, learned.optimiser, learned.online)
        online = jax.tree.map(lambda p, d: p - learning_rate * d, learned.online, direction)
        updates = learned.updates + 1
        if priorities is not None:
            priorities = priorities.set(place, target - prediction, self.priority_exponent)
        rate = jnp.where(updates % self.target_every == 0, self.target_rate, 0.0)
        return Learned(
            online=online,
            # not Q̂ + τ (Q − Q̂), which for τ = 1 is Q only up to rounding
            target=jax.tree.map(lambda old, new: (1.0 - rate) * old + rate * new, learned.target, online),
            optimiser=optimiser,
            priorities=priorities,
            updates=updates,
        ), {
            "loss/value": value,
            "value/prediction": means.mean(prediction),
            "value/target": means.mean(target),
            "value/error": means.mean(jnp.abs(target - prediction)),
        }

    def targets(
        self, learned: Learned, inputs: Inputs, values: ActionValues, batch: Batch
    ) -> Float[Array, " N"]:
        """y = r + γ c max_a′ Q̂(s′, a′); double: Q̂ at the action that Q prefers."""
        features, mask = inputs(batch.next_observation), batch.next_action_mask
        following = values(learned.target(features))
        if self.double:
            value = double_value(values(learned.online(features)), following, mask)
        else:
            value = best_value(following, mask)
        return batch.reward + batch.discount * value
