"""Rainbow: six improvements of DQN in one learner, each of which can be left out.

M. Hessel et al., "Rainbow: Combining improvements in deep reinforcement learning", AAAI 2018.

    repeat
        draw noisy weights, take steps in B environments by their Q, put (s, a, r, s′) into the memory D           noisy
        for every K steps taken, once D holds enough:
            sample N n-step transitions by priority                                          prioritised, n_step
            draw noise anew for all networks
            a* ← argmax_a Q(s′, a), valued by the target network                                          double
            m ← Φ(r + γ^n c z) with the probabilities p̂(s′, a*)                                   distributional
            descend  w · KL(m ‖ p(s, a)),  p from V + A − mean A                                         dueling
            the new priority is the KL; every C updates the target network ← the online one

Without `distributional` values are single numbers and the loss is Huber's; without `noisy` exploration is ε-greedy.
"""

from typing import Any, ClassVar, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, UInt32

from bellmark.algorithms import replayed
from bellmark.algorithms.base import AbstractLearner
from bellmark.algorithms.checks import fraction, positive
from bellmark.algorithms.replayed import Data, ReplayState
from bellmark.algorithms.value_based import from_memory, settings
from bellmark.algorithms.value_based.from_memory import Judged, Learned
from bellmark.experience.policy import Inputs, StochasticPolicy
from bellmark.maths import losses
from bellmark.maths.action_values import best_action, row_of, value_of
from bellmark.maths.distributional import atoms, cross_entropy, entropy, project
from bellmark.networks.convolution import Convolution
from bellmark.networks.mlp import MLP, Activation
from bellmark.networks.noisy import Noisy
from bellmark.networks.values import ActionValues, CategoricalValues, EpsilonGreedyHead
from bellmark.types import Key, Metrics


class Rainbow(AbstractLearner):
    """Rainbow: double, dueling, prioritised, n-step, distributional and noisy DQN at once."""

    name: ClassVar[str] = "rainbow"

    discount: float = 0.99
    learning_rate: float = 5e-4
    anneal: bool = False
    environments: int = 4
    rollout_length: int = 4
    train_every: int = 2
    batch_size: int = 64
    replay_capacity: int = 100_000
    image_replay: Literal["frames", "transitions"] = "frames"
    learning_start: int = 1_000
    double: bool = True
    dueling: bool = True
    n_step: int = 3
    prioritised: bool = True
    priority_exponent: float = 0.5
    priority_correction: float = 0.4
    distributional: bool = True
    atoms: int = 51
    value_low: float | None = None
    value_high: float | None = None
    noisy: bool = True
    noise: float = 0.5
    epsilon: float = 1.0
    epsilon_final: float = 0.05
    epsilon_schedule: settings.Schedule = "linear"
    epsilon_share: float = 0.2
    target_every: int = 250
    target_rate: float = 1.0
    max_gradient_norm: float = 10.0
    normalise_observations: bool = False
    hidden: tuple[int, ...] = (64, 64)
    activation: Activation = "relu"

    def check(self, problem) -> None:
        from_memory.check(self, problem)
        fraction("priority_exponent", self.priority_exponent)
        fraction("priority_correction", self.priority_correction)
        positive(noise=self.noise)
        if self.distributional:
            settings.value_range(self)

    def steps_per_iteration(self, problem) -> int:
        return self.environments * self.rollout_length

    def init(self, problem, key: Key) -> ReplayState:
        key, network_key, episodes_key = jax.random.split(key, 3)
        inputs = Inputs.start(problem.observation_space, self.normalise_observations)
        values = self.values(int(problem.action_space.n))
        network = inputs.network(self.hidden, values.outputs, network_key, activation=self.activation)
        online = Noisy.start(network, self.noise) if self.noisy else network
        return from_memory.start(self, problem, inputs, values, online, (key, episodes_key), self.prioritised)

    def values(self, actions: int) -> ActionValues | CategoricalValues:
        """What the outputs mean."""
        if not self.distributional:
            return ActionValues(actions, self.dueling)
        low, high = settings.value_range(self)
        return CategoricalValues(actions, self.atoms, low, high, self.dueling)

    def policy(self, state: ReplayState) -> StochasticPolicy:
        """By the weights without noise."""
        online = state.learned.online
        return self.acting(state, online.mean if isinstance(online, Noisy) else online)

    def acting(self, state: ReplayState, network: MLP | Convolution) -> StochasticPolicy:
        if not self.noisy:
            return from_memory.epsilon_greedy(self, state, network)
        return StochasticPolicy(state.inputs, network, EpsilonGreedyHead(state.outputs, jnp.zeros(())))

    def collect(self, problem, state: ReplayState) -> tuple[ReplayState, Data]:
        key, noise_key = jax.random.split(state.key)
        state = eqx.tree_at(lambda s: s.key, state, key)
        policy = self.acting(state, noised(state.learned.online, noise_key))
        return replayed.collect(self, problem, state, policy)

    def update(self, state: ReplayState, data: Data) -> tuple[ReplayState, Metrics]:
        key, noise_key = jax.random.split(state.key)

        def learn(learned, state, bits, learning_rate):
            one = jax.random.fold_in(noise_key, learned.updates)
            return self.learn(learned, state, bits, one, learning_rate)

        state = eqx.tree_at(lambda s: s.key, state, key)
        state, metrics = from_memory.update(self, state, data, learn)
        return state, metrics | ({"policy/epsilon": jnp.zeros(())} if self.noisy else {})

    def learn(
        self,
        learned: Learned,
        state: ReplayState,
        bits: UInt32[Array, " N"],
        noise_key: Key,
        learning_rate: Any,
    ) -> tuple[Learned, Metrics]:
        """One update: sample, descend, and now and then move the target network."""
        online_key, chooser_key, target_key = jax.random.split(noise_key, 3)
        correction = self.priority_correction + (1.0 - self.priority_correction) * jnp.minimum(
            state.done, 1.0
        )
        sample = from_memory.drawn(self, learned, state.replay, bits, correction)
        batch = sample.batch
        inputs, values = state.inputs, state.outputs
        features, following = inputs(batch.observation), inputs(batch.next_observation)

        outputs = noised(learned.target, target_key)(following)
        chooser = noised(learned.online, chooser_key)(following) if self.double else outputs
        best = best_action(values(chooser), batch.next_action_mask)

        if isinstance(values, CategoricalValues):
            support = atoms(values.low, values.high, values.count)
            probability = jnp.exp(row_of(values.log_probs(outputs), best))
            target = project(probability, batch.reward, batch.discount, values.low, values.high)

            def judge(online):
                log_prob = row_of(values.log_probs(noised(online, online_key)(features)), batch.action)
                loss = cross_entropy(target, log_prob)
                return Judged(loss, jnp.exp(log_prob) @ support, target @ support, loss - entropy(target))
        else:
            wanted = batch.reward + batch.discount * value_of(values(outputs), best)

            def judge(online):
                prediction = value_of(values(noised(online, online_key)(features)), batch.action)
                return Judged(losses.huber(prediction, wanted), prediction, wanted)

        return from_memory.improved(self, learned, sample, judge, learning_rate, self.priority_exponent)


def noised(network: Noisy | MLP | Convolution, key: Key) -> MLP | Convolution:
    """The network as it is with newly drawn noise, if it has any."""
    return network.sampled(key) if isinstance(network, Noisy) else network
