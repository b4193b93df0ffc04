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

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt32

from bellmark.algorithms import replayed
from bellmark.algorithms.base import AbstractLearner
from bellmark.algorithms.checks import fraction, positive
from bellmark.algorithms.replayed import Data, ReplayState
from bellmark.algorithms.value_based import from_memory, settings
from bellmark.algorithms.value_based.from_memory import Judged, Learned
from bellmark.experience.policy import Inputs, StochasticPolicy
from bellmark.experience.replay import Batch
from bellmark.maths import losses
from bellmark.maths.action_values import best_value, double_value, value_of
from bellmark.networks.mlp import Activation
from bellmark.networks.values import ActionValues, BoltzmannHead
from bellmark.types import Key, Metrics


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
    replay_memory: Literal["compiled", "host"] = "compiled"
    image_replay: Literal["frames", "transitions"] = "frames"
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
        from_memory.check(self, problem)
        fraction("priority_exponent", self.priority_exponent)
        fraction("priority_correction", self.priority_correction)
        positive(temperature=self.temperature)

    def steps_per_iteration(self, problem) -> int:
        return self.environments * self.rollout_length

    def init(self, problem, key: Key) -> ReplayState:
        key, network_key, episodes_key = jax.random.split(key, 3)
        inputs = Inputs.start(problem.observation_space, self.normalise_observations)
        values = ActionValues(int(problem.action_space.n), self.dueling)
        online = inputs.network(self.hidden, values.outputs, network_key, activation=self.activation)
        return from_memory.start(self, problem, inputs, values, online, (key, episodes_key), self.prioritised)

    def policy(self, state: ReplayState) -> StochasticPolicy:
        if self.exploration == "boltzmann":
            head = BoltzmannHead(state.outputs, jnp.array(self.temperature, jnp.float32))
            return StochasticPolicy(state.inputs, state.learned.online, head)
        return from_memory.epsilon_greedy(self, state, state.learned.online)

    def collect(self, problem, state: ReplayState) -> tuple[ReplayState, Data]:
        return replayed.collect(self, problem, state, self.policy(state))

    def update(self, state: ReplayState, data: Data) -> tuple[ReplayState, Metrics]:
        return from_memory.update(self, state, data, self.learn)

    def learn(
        self,
        learned: Learned,
        state: ReplayState,
        bits: UInt32[Array, " N"],
        learning_rate: Any,
    ) -> tuple[Learned, Metrics]:
        """One update: sample, descend, and now and then move the target network."""
        correction = self.priority_correction + (1.0 - self.priority_correction) * jnp.minimum(
            state.done, 1.0
        )
        sample = from_memory.drawn(self, learned, state.replay, bits, correction)
        batch = sample.batch
        target = self.targets(learned, state.inputs, state.outputs, batch)
        features = state.inputs(batch.observation)
        error = losses.huber if self.loss == "huber" else losses.squared_error

        def judge(online):
            prediction = value_of(state.outputs(online(features)), batch.action)
            return Judged(error(prediction, target), prediction, target)

        return from_memory.improved(self, learned, sample, judge, learning_rate, self.priority_exponent)

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
