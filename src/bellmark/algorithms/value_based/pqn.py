"""PQN: Q-learning from parallel environments, with normalised layers instead of a replay memory and a target network.

M. Gallici et al., "Simplifying deep temporal difference learning", ICLR 2025.

    repeat
        take ε-greedy steps in B environments for T steps
        G_t ← r_t + γ c_t [(1 − λ u_t) max_a Q(s′_t, a) + λ u_t G_{t+1}]         c, u as in `bellmark.types.Transition`
        for K epochs, for each of M random minibatches:
            descend  E[½ (Q(s, a) − G)²]

Normalising every hidden layer bounds what one update can do to the values of other states, which is what a target
network is for; many environments at once do for the replay memory what it is for, samples that differ.
"""

from typing import Any, ClassVar, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from bellmark.algorithms.base import AbstractLearner
from bellmark.algorithms.checks import (
    at_least,
    check_discrete,
    check_steps,
    divides,
    fraction,
    layer_sizes,
    positive,
)
from bellmark.algorithms.descent import clipped_descent
from bellmark.algorithms.value_based import settings
from bellmark.experience.minibatches import flatten, minibatch_indices, take
from bellmark.experience.policy import Inputs, StochasticPolicy
from bellmark.experience.rollout import episode_metrics
from bellmark.maths import losses, means
from bellmark.maths.action_values import best_value, value_of
from bellmark.maths.returns import lambda_return
from bellmark.networks.convolution import Convolution
from bellmark.networks.mlp import MLP, Activation
from bellmark.networks.values import ActionValues, EpsilonGreedyHead
from bellmark.types import Episodes, Finished, Key, Metrics, Rollout


class Samples(eqx.Module):
    """A rollout, flattened, with the targets of its values."""

    features: Float[Array, "N *F"]
    action: Array
    target: Float[Array, " N"]


class PQNState(eqx.Module):
    inputs: Inputs
    values: ActionValues
    network: MLP | Convolution
    optimiser: Any
    episodes: Episodes
    key: Key
    iteration: Int[Array, ""]
    horizon: Int[Array, ""]


class PQN(AbstractLearner):
    """Parallelised Q-network: on-line Q(λ) from many environments, without replay and target network."""

    name: ClassVar[str] = "pqn"

    discount: float = 0.99
    trace_decay: float = 0.65
    learning_rate: float = 5e-4
    anneal: bool = True
    optimiser: Literal["radam", "adam"] = "radam"
    environments: int = 32
    rollout_length: int = 64
    epochs: int = 4
    minibatches: int = 16
    dueling: bool = False
    layer_norm: bool = True
    epsilon: float = 1.0
    epsilon_final: float = 0.05
    epsilon_schedule: settings.Schedule = "linear"
    epsilon_share: float = 0.2
    max_gradient_norm: float = 10.0
    normalise_observations: bool = False
    hidden: tuple[int, ...] = (64, 64)
    activation: Activation = "relu"

    def check(self, problem) -> None:
        check_discrete(self.name, problem)
        settings.check_epsilon(self)
        check_steps(self)
        fraction("discount", self.discount)
        fraction("trace_decay", self.trace_decay)
        layer_sizes(self.hidden)
        positive(learning_rate=self.learning_rate, max_gradient_norm=self.max_gradient_norm)
        at_least(1, epochs=self.epochs, minibatches=self.minibatches)
        divides(
            "minibatches",
            self.minibatches,
            "environments × rollout_length",
            self.steps_per_iteration(problem),
        )

    def steps_per_iteration(self, problem) -> int:
        return self.environments * self.rollout_length

    @property
    def descent(self) -> optax.GradientTransformation:
        return clipped_descent(self.max_gradient_norm, self.optimiser)

    def init(self, problem, key: Key) -> PQNState:
        key, network_key, episodes_key = jax.random.split(key, 3)
        inputs = Inputs.start(problem.observation_space, self.normalise_observations)
        values = ActionValues(int(problem.action_space.n), self.dueling)
        network = inputs.network(
            self.hidden, values.outputs, network_key, activation=self.activation, normalised=self.layer_norm
        )
        return PQNState(
            inputs=inputs,
            values=values,
            network=network,
            optimiser=self.descent.init(network),
            episodes=problem.start(episodes_key, self.environments),
            key=key,
            iteration=jnp.array(0, jnp.int32),
            horizon=jnp.array(max(problem.budget // self.steps_per_iteration(problem), 1), jnp.int32),
        )

    def policy(self, state: PQNState) -> StochasticPolicy:
        epsilon = settings.epsilon_at(self, state.iteration / state.horizon)
        return StochasticPolicy(state.inputs, state.network, EpsilonGreedyHead(state.values, epsilon))

    def collect(self, problem, state: PQNState) -> tuple[PQNState, tuple[Rollout, Finished]]:
        key, rollout_key = jax.random.split(state.key)
        episodes, rollout, finished = problem.rollout(
            self.policy(state), state.episodes, rollout_key, self.rollout_length
        )
        state = eqx.tree_at(lambda s: (s.episodes, s.key), state, (episodes, key))
        return state, (rollout, finished)

    def update(self, state: PQNState, data: tuple[Rollout, Finished]) -> tuple[PQNState, Metrics]:
        rollout, finished = data
        key, minibatch_key = jax.random.split(state.key)
        samples = self.samples(state, rollout)
        done = state.iteration / state.horizon
        learning_rate = self.learning_rate * (jnp.maximum(1.0 - done, 0.0) if self.anneal else 1.0)

        def descend(carry, index):
            network, optimiser = carry
            gradient, metrics = jax.grad(self.loss, has_aux=True)(network, state.values, take(samples, index))
            direction, optimiser = self.descent.update(gradient, optimiser, network)
            network = jax.tree.map(lambda p, d: p - learning_rate * d, network, direction)
            return (network, optimiser), metrics

        size = self.steps_per_iteration(None)
        indices = minibatch_indices(minibatch_key, size, self.minibatches, self.epochs)
        (network, optimiser), metrics = jax.lax.scan(descend, (state.network, state.optimiser), indices)
        state = PQNState(
            inputs=state.inputs.seen(rollout.transition.observation),
            values=state.values,
            network=network,
            optimiser=optimiser,
            episodes=state.episodes,
            key=key,
            iteration=state.iteration + 1,
            horizon=state.horizon,
        )
        return state, {
            **episode_metrics(finished),
            **{name: jnp.mean(each) for name, each in metrics.items()},
            "policy/epsilon": settings.epsilon_at(self, done),
            "optimiser/learning_rate": jnp.asarray(learning_rate, jnp.float32),
        }

    def samples(self, state: PQNState, rollout: Rollout) -> Samples:
        """The λ-returns of the greedy policy's values, in one batched call of the network."""
        transition = rollout.transition
        following = state.values(state.network(state.inputs(transition.next_observation)))
        target = lambda_return(
            transition.reward,
            best_value(following, rollout.next_action_mask),
            transition.continues,
            transition.unbroken,
            self.discount,
            self.trace_decay,
        )
        features = state.inputs(transition.observation)
        return Samples(flatten(features), flatten(transition.action), flatten(target))

    def loss(
        self, network: MLP | Convolution, values: ActionValues, samples: Samples
    ) -> tuple[Float[Array, ""], Metrics]:
        """What a minibatch descends: E[½ (Q(s, a) − G)²]."""
        prediction = value_of(values(network(samples.features)), samples.action)
        loss = means.mean(losses.squared_error(prediction, samples.target))
        return loss, {
            "loss/value": loss,
            "value/prediction": means.mean(prediction),
            "value/target": means.mean(samples.target),
            "value/error": means.mean(jnp.abs(samples.target - prediction)),
        }
