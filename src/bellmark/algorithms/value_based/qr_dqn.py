"""QR-DQN: the distribution of the return by its quantiles, learned from a replay memory.

W. Dabney, M. Rowland, M. Bellemare, R. Munos, "Distributional reinforcement learning with quantile regression",
AAAI 2018.

    θ(s, a): quantiles of the return at τ̂_1 … τ̂_K, the middles of K equal parts of [0, 1];  Q(s, a) = mean_i θ_i(s, a)
    repeat
        take ε-greedy steps in B environments, put (s, a, r, s′) into the replay memory D
        for every K steps taken, once D holds enough:
            sample N transitions from D
            a* ← argmax_a Q̂(s′, a)                          double: of Q
            y_j ← r + γ c θ̂_j(s′, a*)                          for every j
            descend  Σ_i E_j [ |τ̂_i − 1{y_j < θ_i(s, a)}| L_κ(y_j − θ_i(s, a)) / κ ]
            every C updates θ̂ ← θ

How this differs from `c51`: values move and probabilities are fixed, so no range of returns has to be known.
"""

from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt32

from bellmark.algorithms import replayed
from bellmark.algorithms.base import AbstractLearner
from bellmark.algorithms.checks import at_least
from bellmark.algorithms.replayed import Data, ReplayState
from bellmark.algorithms.value_based import from_memory, settings
from bellmark.algorithms.value_based.from_memory import Judged, Learned
from bellmark.experience.policy import Inputs, StochasticPolicy
from bellmark.experience.replay import Batch
from bellmark.maths.action_values import best_action, row_of
from bellmark.maths.distributional import quantile_huber
from bellmark.networks.mlp import Activation
from bellmark.networks.values import QuantileValues
from bellmark.types import Key, Metrics


class QRDQN(AbstractLearner):
    """Quantile-regression DQN: the distribution of the return by its quantiles."""

    name: ClassVar[str] = "qr_dqn"

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
    quantiles: int = 50
    threshold: float = 1.0
    double: bool = False
    dueling: bool = False
    n_step: int = 1
    target_every: int = 250
    target_rate: float = 1.0
    epsilon: float = 1.0
    epsilon_final: float = 0.05
    epsilon_schedule: settings.Schedule = "linear"
    epsilon_share: float = 0.2
    max_gradient_norm: float = 10.0
    normalise_observations: bool = False
    hidden: tuple[int, ...] = (64, 64)
    activation: Activation = "relu"

    def check(self, problem) -> None:
        from_memory.check(self, problem)
        at_least(1, quantiles=self.quantiles)
        at_least(0, threshold=self.threshold)

    def steps_per_iteration(self, problem) -> int:
        return self.environments * self.rollout_length

    def init(self, problem, key: Key) -> ReplayState:
        key, network_key, episodes_key = jax.random.split(key, 3)
        inputs = Inputs.start(problem.observation_space, self.normalise_observations)
        values = QuantileValues(int(problem.action_space.n), self.quantiles, self.dueling)
        online = inputs.network(self.hidden, values.outputs, network_key, activation=self.activation)
        return from_memory.start(self, problem, inputs, values, online, (key, episodes_key))

    def policy(self, state: ReplayState) -> StochasticPolicy:
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
        sample = from_memory.drawn(self, learned, state.replay, bits)
        batch = sample.batch
        target = self.targets(learned, state.inputs, state.outputs, batch)
        features = state.inputs(batch.observation)

        def judge(online):
            quantile = row_of(state.outputs.quantiles(online(features)), batch.action)
            means = (jnp.mean(quantile, axis=-1), jnp.mean(target, axis=-1))
            return Judged(quantile_huber(quantile, target, self.threshold), *means)

        return from_memory.improved(self, learned, sample, judge, learning_rate)

    def targets(
        self, learned: Learned, inputs: Inputs, values: QuantileValues, batch: Batch
    ) -> Float[Array, "N K"]:
        """y_j = r + γ c θ̂_j(s′, a*)."""
        features = inputs(batch.next_observation)
        outputs = learned.target(features)
        chooser = values(learned.online(features) if self.double else outputs)
        best = best_action(chooser, batch.next_action_mask)
        following = row_of(values.quantiles(outputs), best)
        return batch.reward[:, None] + batch.discount[:, None] * following
