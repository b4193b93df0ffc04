"""C51: the distribution of the return, on fixed values, learned from a replay memory.

M. Bellemare, W. Dabney, R. Munos, "A distributional perspective on reinforcement learning", ICML 2017.

    p(s, a): probabilities of returns z_1 … z_Z, evenly from `value_low` to `value_high`;  Q(s, a) = Σ_i z_i p_i(s, a)
    repeat
        take ε-greedy steps in B environments, put (s, a, r, s′) into the replay memory D
        for every K steps taken, once D holds enough:
            sample N transitions from D
            a* ← argmax_a Q̂(s′, a)                          double: of Q
            m ← Φ(r + γ c z) with the probabilities p̂(s′, a*)  shared between the atoms on both sides
            descend  −Σ_i m_i log p_i(s, a)
            every C updates p̂ ← p

How this differs from `dqn`: the outputs are distributions, the target is one, and the loss is a cross-entropy.
"""

from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt32

from bellmark.algorithms import replayed
from bellmark.algorithms.base import AbstractLearner
from bellmark.algorithms.replayed import Data, ReplayState
from bellmark.algorithms.value_based import from_memory, settings
from bellmark.algorithms.value_based.from_memory import Judged, Learned
from bellmark.experience.policy import Inputs, StochasticPolicy
from bellmark.experience.replay import Batch
from bellmark.maths.action_values import best_action, row_of
from bellmark.maths.distributional import atoms, cross_entropy, project
from bellmark.networks.mlp import Activation
from bellmark.networks.values import CategoricalValues
from bellmark.types import Key, Metrics


class C51(AbstractLearner):
    """Categorical DQN: the distribution of the return on a fixed set of values."""

    name: ClassVar[str] = "c51"

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
    atoms: int = 51
    value_low: float | None = None
    value_high: float | None = None
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
        settings.value_range(self)

    def steps_per_iteration(self, problem) -> int:
        return self.environments * self.rollout_length

    def init(self, problem, key: Key) -> ReplayState:
        key, network_key, episodes_key = jax.random.split(key, 3)
        inputs = Inputs.start(problem.observation_space, self.normalise_observations)
        low, high = settings.value_range(self)
        values = CategoricalValues(int(problem.action_space.n), self.atoms, low, high, self.dueling)
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
        features, values = state.inputs(batch.observation), state.outputs
        support = atoms(values.low, values.high, values.count)

        def judge(online):
            log_prob = row_of(values.log_probs(online(features)), batch.action)
            means = (jnp.exp(log_prob) @ support, target @ support)
            return Judged(cross_entropy(target, log_prob), *means)

        return from_memory.improved(self, learned, sample, judge, learning_rate)

    def targets(
        self, learned: Learned, inputs: Inputs, values: CategoricalValues, batch: Batch
    ) -> Float[Array, "N Z"]:
        """m = Φ(r + γ c z) with the probabilities of the best action at s′."""
        features = inputs(batch.next_observation)
        outputs = learned.target(features)
        chooser = values(learned.online(features) if self.double else outputs)
        best = best_action(chooser, batch.next_action_mask)
        following = jnp.exp(row_of(values.log_probs(outputs), best))
        return project(following, batch.reward, batch.discount, values.low, values.high)
