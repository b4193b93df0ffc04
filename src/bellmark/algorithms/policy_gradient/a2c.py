"""Advantage actor–critic: one gradient step after every short rollout of many environments, in step with each other.

V. Mnih et al., "Asynchronous methods for deep reinforcement learning", ICML 2016, made synchronous.

    repeat
        run π in B environments for T steps (a few)
        Â_t ← generalised advantage (λ = 1: n-step returns up to the rollout's end), V̂_t ← Â_t + V(s_t)
        ascend  E[Â log π(a|s)] − c_v E[½(V − V̂)²] + c_h E[H(π)]        once

The environments take the place of A3C's asynchronous workers: what they show at one moment is different enough to
make one gradient of it.  PPO with one epoch, one minibatch and no clip active takes the same step (S. Huang et al.,
"A2C is a special case of PPO", 2022); what is left out here is the ratio and everything that reuses a sample.
"""

import dataclasses
from typing import Any, ClassVar, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from bellmark.algorithms.base import AbstractLearner
from bellmark.algorithms.checks import at_least, fraction, layer_sizes, positive
from bellmark.algorithms.descent import clipped_descent
from bellmark.experience.appraisal import Samples, advantages, appraise, flattened
from bellmark.experience.normalisation import RewardScale
from bellmark.experience.policy import Inputs, StochasticPolicy
from bellmark.experience.rollout import episode_metrics, two_keys
from bellmark.maths import losses, means
from bellmark.networks.convolution import Convolution
from bellmark.networks.heads import Head, head_for
from bellmark.networks.mlp import MLP, Activation
from bellmark.types import Episodes, Finished, Key, Metrics, Rollout


class Networks(eqx.Module):
    """Everything that the gradient moves.  Without a critic of its own, the value is the actor's last output."""

    actor: MLP | Convolution
    head: Head
    critic: MLP | Convolution | None

    def __call__(
        self, features: Float[Array, "*B F"]
    ) -> tuple[Float[Array, "*B outputs"], Float[Array, "*B"]]:
        """The parameters of π(·|s), and V(s)."""
        outputs = self.actor(features)
        if self.critic is None:
            return outputs[..., :-1], outputs[..., -1]
        return outputs, self.critic(features)[..., 0]


class A2CState(eqx.Module):
    inputs: Inputs
    networks: Networks
    optimiser: Any
    reward_scale: RewardScale | None
    episodes: Episodes
    key: Key
    iteration: Int[Array, ""]
    horizon: Int[Array, ""]


class A2C(AbstractLearner):
    """Advantage actor–critic: one gradient step per short rollout of parallel environments."""

    name: ClassVar[str] = "a2c"

    discount: float = 0.99
    trace_decay: float = 1.0
    learning_rate: float = 7e-4
    anneal: bool = True
    optimiser: Literal["rmsprop", "adam"] = "rmsprop"
    environments: int = 8
    rollout_length: int = 5
    entropy_weight: float = 0.01
    value_weight: float = 0.5
    max_gradient_norm: float = 0.5
    shared: bool = False
    normalise_advantage: bool = False
    normalise_observations: bool = False
    normalise_rewards: bool = False
    hidden: tuple[int, ...] = (64, 64)
    activation: Activation = "tanh"
    initial_log_std: float = 0.0

    def check(self, problem) -> None:
        head_for(problem.action_space)
        fraction("discount", self.discount)
        fraction("trace_decay", self.trace_decay)
        layer_sizes(self.hidden)
        positive(learning_rate=self.learning_rate, max_gradient_norm=self.max_gradient_norm)
        at_least(0, entropy_weight=self.entropy_weight, value_weight=self.value_weight)
        at_least(1, environments=self.environments, rollout_length=self.rollout_length)

    def steps_per_iteration(self, problem) -> int:
        return self.environments * self.rollout_length

    @property
    def transformation(self) -> optax.GradientTransformation:
        return clipped_descent(self.max_gradient_norm, self.optimiser)

    def init(self, problem, key: Key) -> A2CState:
        key, actor_key, critic_key, episodes_key = jax.random.split(key, 4)
        inputs = Inputs.start(problem.observation_space, self.normalise_observations)
        head = head_for(problem.action_space, self.initial_log_std)
        options: dict[str, Any] = {"activation": self.activation}
        if self.shared:
            both = inputs.network(self.hidden, head.outputs + 1, actor_key, **options)
            networks = Networks(both.scaled(head.outputs, 0.01), head, None)
        else:
            actor = inputs.network(self.hidden, head.outputs, actor_key, last_scale=0.01, **options)
            networks = Networks(actor, head, inputs.network(self.hidden, 1, critic_key, **options))
        return A2CState(
            inputs=inputs,
            networks=networks,
            optimiser=self.transformation.init(networks),
            reward_scale=RewardScale.start(self.environments) if self.normalise_rewards else None,
            episodes=problem.start(episodes_key, self.environments),
            key=key,
            iteration=jnp.array(0, jnp.int32),
            horizon=jnp.array(max(problem.budget // self.steps_per_iteration(problem), 1), jnp.int32),
        )

    def policy(self, state: A2CState) -> StochasticPolicy:
        actor, head = state.networks.actor, state.networks.head
        return StochasticPolicy(state.inputs, actor.first(head.outputs) if self.shared else actor, head)

    def collect(self, problem, state: A2CState) -> tuple[A2CState, tuple[Rollout, Finished]]:
        key, rollout_key = two_keys(state.key)
        episodes, rollout, finished = problem.rollout(
            self.policy(state), state.episodes, rollout_key, self.rollout_length
        )
        state = dataclasses.replace(state, episodes=episodes, key=key)
        return state, (rollout, finished)

    def update(self, state: A2CState, data: tuple[Rollout, Finished]) -> tuple[A2CState, Metrics]:
        rollout, finished = data
        samples = self.samples(state, rollout)
        remaining = 1.0 - state.iteration / state.horizon if self.anneal else 1.0
        learning_rate = self.learning_rate * jnp.maximum(remaining, 0.0)

        gradient, metrics = jax.grad(self.loss, has_aux=True)(state.networks, samples)
        direction, optimiser = self.transformation.update(gradient, state.optimiser, state.networks)
        networks = jax.tree.map(lambda p, d: p - learning_rate * d, state.networks, direction)

        transition = rollout.transition
        reward_scale = state.reward_scale
        if reward_scale is not None:
            reward_scale = reward_scale.seen(transition.reward, transition.unbroken, self.discount)
        state = A2CState(
            inputs=state.inputs.seen(transition.observation),
            networks=networks,
            optimiser=optimiser,
            reward_scale=reward_scale,
            episodes=state.episodes,
            key=state.key,
            iteration=state.iteration + 1,
            horizon=state.horizon,
        )
        return state, {
            **episode_metrics(finished),
            **metrics,
            "value/explained_variance": means.explained_variance(samples.value, samples.value_target),
            "optimiser/learning_rate": learning_rate,
            "optimiser/gradient_norm": optax.tree.norm(gradient),
        }

    def samples(self, state: A2CState, rollout: Rollout) -> Samples:
        """Advantages and value targets of a rollout, flattened to [T·B]."""
        appraisal = appraise(
            rollout, state.inputs, lambda features: state.networks(features)[1], state.reward_scale
        )
        advantage = advantages(rollout, appraisal, self.discount, self.trace_decay)
        return flattened(rollout, appraisal, advantage)

    def loss(self, networks: Networks, samples: Samples) -> tuple[Float[Array, ""], Metrics]:
        """What is descended: −Â log π + c_v · value error − c_h · entropy."""
        outputs, prediction = networks(samples.features)
        distribution = networks.head.distribution(outputs, samples.action_mask)
        advantage = means.standardise(samples.advantage) if self.normalise_advantage else samples.advantage
        score = losses.score_function(distribution.log_prob(samples.action), advantage)
        policy_loss = means.mean(score)
        value_loss = means.mean(losses.squared_error(prediction, samples.value_target))
        entropy = means.mean(distribution.entropy())
        return policy_loss + self.value_weight * value_loss - self.entropy_weight * entropy, {
            "loss/policy": policy_loss,
            "loss/value": value_loss,
            "policy/entropy": entropy,
        }
