"""Proximal policy optimisation with the clipped surrogate.

J. Schulman, F. Wolski, P. Dhariwal, A. Radford, O. Klimov, "Proximal policy optimization algorithms", 2017.

    repeat
        run π_old in B environments for T steps
        Â_t ← generalised advantage, V̂_t ← Â_t + V(s_t)
        for each of E epochs, for each of M minibatches of the T·B samples
            ascend  E[min(ρÂ, clip(ρ, 1−ε, 1+ε)Â)] − c_v E[½(V − V̂)²] + c_h E[H(π)],   ρ = π(a|s)/π_old(a|s)

The published details that make it work (orthogonal initialisation, Adam with ε = 1e-5, advantages standardised per
minibatch, clipping of the global gradient norm, linear annealing, value clipping, normalised observations and rewards)
are one field or one line each (S. Huang et al., "The 37 implementation details of PPO", 2022).
"""

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from bellmark.algorithms.base import AbstractLearner
from bellmark.algorithms.checks import at_least, divides, fraction, layer_sizes, positive
from bellmark.algorithms.descent import clipped_descent
from bellmark.experience.appraisal import advantages, appraise
from bellmark.experience.minibatches import flatten, minibatch_indices, take
from bellmark.experience.normalisation import RewardScale
from bellmark.experience.policy import Inputs, StochasticPolicy, value
from bellmark.experience.rollout import episode_metrics
from bellmark.maths import divergences, losses, means
from bellmark.networks.convolution import Convolution
from bellmark.networks.heads import Head, head_for
from bellmark.networks.mlp import MLP, Activation
from bellmark.types import Episodes, Finished, Key, Metrics, Rollout


class Networks(eqx.Module):
    """Everything that the gradient moves."""

    actor: MLP | Convolution
    head: Head
    critic: MLP | Convolution


class Samples(eqx.Module):
    """A rollout, flattened: what a minibatch is drawn from."""

    features: Float[Array, "N *F"]
    action: Array
    action_mask: Array | None
    log_prob: Float[Array, " N"]
    advantage: Float[Array, " N"]
    value: Float[Array, " N"]
    value_target: Float[Array, " N"]


class PPOState(eqx.Module):
    inputs: Inputs
    networks: Networks
    optimiser: Any
    reward_scale: RewardScale | None
    episodes: Episodes
    key: Key
    iteration: Int[Array, ""]
    horizon: Int[Array, ""]


class PPO(AbstractLearner):
    """Proximal policy optimisation: clipped policy-ratio updates on fresh rollouts."""

    name: ClassVar[str] = "ppo"

    discount: float = 0.99
    trace_decay: float = 0.95
    clip: float = 0.2
    learning_rate: float = 2.5e-4
    anneal: bool = True
    environments: int = 8
    rollout_length: int = 128
    epochs: int = 4
    minibatches: int = 4
    entropy_weight: float = 0.01
    value_weight: float = 0.5
    value_clip: float | None = None
    max_gradient_norm: float = 0.5
    normalise_advantage: bool = True
    normalise_observations: bool = False
    normalise_rewards: bool = False
    hidden: tuple[int, ...] = (64, 64)
    activation: Activation = "tanh"
    initial_log_std: float = 0.0

    def check(self, problem) -> None:
        head_for(problem.action_space)
        fraction("discount", self.discount)
        layer_sizes(self.hidden)
        fraction("trace_decay", self.trace_decay)
        positive(clip=self.clip, learning_rate=self.learning_rate, max_gradient_norm=self.max_gradient_norm)
        if self.value_clip is not None:
            positive(value_clip=self.value_clip)
        at_least(0, entropy_weight=self.entropy_weight, value_weight=self.value_weight)
        at_least(
            1,
            environments=self.environments,
            rollout_length=self.rollout_length,
            epochs=self.epochs,
            minibatches=self.minibatches,
        )
        divides(
            "minibatches",
            self.minibatches,
            "environments × rollout_length",
            self.steps_per_iteration(problem),
        )

    def steps_per_iteration(self, problem) -> int:
        return self.environments * self.rollout_length

    @property
    def optimiser(self) -> optax.GradientTransformation:
        return clipped_descent(self.max_gradient_norm)

    def init(self, problem, key: Key) -> PPOState:
        key, actor_key, critic_key, episodes_key = jax.random.split(key, 4)
        inputs = Inputs.start(problem.observation_space, self.normalise_observations)
        head = head_for(problem.action_space, self.initial_log_std)
        networks = Networks(
            actor=inputs.network(
                self.hidden, head.outputs, actor_key, activation=self.activation, last_scale=0.01
            ),
            head=head,
            critic=inputs.network(self.hidden, 1, critic_key, activation=self.activation, last_scale=1.0),
        )
        return PPOState(
            inputs=inputs,
            networks=networks,
            optimiser=self.optimiser.init(networks),
            reward_scale=RewardScale.start(self.environments) if self.normalise_rewards else None,
            episodes=problem.start(episodes_key, self.environments),
            key=key,
            iteration=jnp.array(0, jnp.int32),
            horizon=jnp.array(max(problem.budget // self.steps_per_iteration(problem), 1), jnp.int32),
        )

    def policy(self, state: PPOState) -> StochasticPolicy:
        return StochasticPolicy(state.inputs, state.networks.actor, state.networks.head)

    def collect(self, problem, state: PPOState) -> tuple[PPOState, tuple[Rollout, Finished]]:
        key, rollout_key = jax.random.split(state.key)
        episodes, rollout, finished = problem.rollout(
            self.policy(state), state.episodes, rollout_key, self.rollout_length
        )
        state = eqx.tree_at(lambda s: (s.episodes, s.key), state, (episodes, key))
        return state, (rollout, finished)

    def update(self, state: PPOState, data: tuple[Rollout, Finished]) -> tuple[PPOState, Metrics]:
        rollout, finished = data
        key, minibatch_key = jax.random.split(state.key)
        samples = self.samples(state, rollout)
        remaining = 1.0 - state.iteration / state.horizon if self.anneal else 1.0
        learning_rate = self.learning_rate * jnp.maximum(remaining, 0.0)

        def descend(carry, index):
            networks, optimiser = carry
            minibatch = take(samples, index)
            gradient, metrics = jax.grad(self.loss, has_aux=True)(networks, minibatch)
            direction, optimiser = self.optimiser.update(gradient, optimiser, networks)
            networks = jax.tree.map(lambda p, d: p - learning_rate * d, networks, direction)
            return (networks, optimiser), metrics

        batch = self.steps_per_iteration(None)
        indices = minibatch_indices(minibatch_key, batch, self.minibatches, self.epochs)
        (networks, optimiser), metrics = jax.lax.scan(descend, (state.networks, state.optimiser), indices)

        transition = rollout.transition
        reward_scale = state.reward_scale
        if reward_scale is not None:
            reward_scale = reward_scale.seen(transition.reward, transition.unbroken, self.discount)
        state = PPOState(
            inputs=state.inputs.seen(transition.observation),
            networks=networks,
            optimiser=optimiser,
            reward_scale=reward_scale,
            episodes=state.episodes,
            key=key,
            iteration=state.iteration + 1,
            horizon=state.horizon,
        )
        return state, {
            **episode_metrics(finished),
            **{name: jnp.mean(values) for name, values in metrics.items()},
            "value/explained_variance": means.explained_variance(samples.value, samples.value_target),
            "optimiser/learning_rate": learning_rate,
        }

    def samples(self, state: PPOState, rollout: Rollout) -> Samples:
        """Advantages and value targets of a rollout, flattened to [T·B]."""
        appraisal = appraise(
            rollout,
            state.inputs,
            lambda features: value(state.networks.critic, features),
            state.reward_scale,
        )
        advantage = advantages(rollout, appraisal, self.discount, self.trace_decay)
        behaviour = state.networks.head.distribution(rollout.remembered, rollout.action_mask)
        return Samples(
            features=flatten(appraisal.features),
            action=flatten(rollout.transition.action),
            action_mask=flatten(rollout.action_mask),
            log_prob=flatten(behaviour.log_prob(rollout.transition.action)),
            advantage=flatten(advantage),
            value=flatten(appraisal.value),
            value_target=flatten(advantage + appraisal.value),
        )

    def loss(self, networks: Networks, samples: Samples) -> tuple[Float[Array, ""], Metrics]:
        """What a minibatch descends: −surrogate + c_v · value error − c_h · entropy."""
        distribution = networks.head.distribution(networks.actor(samples.features), samples.action_mask)
        log_prob = distribution.log_prob(samples.action)
        advantage = means.standardise(samples.advantage) if self.normalise_advantage else samples.advantage
        surrogate = losses.clipped_surrogate(log_prob, samples.log_prob, advantage, self.clip)

        prediction = value(networks.critic, samples.features)
        if self.value_clip is None:
            error = losses.squared_error(prediction, samples.value_target)
        else:
            error = losses.clipped_squared_error(
                prediction, samples.value, samples.value_target, self.value_clip
            )
        policy_loss, value_loss = means.mean(surrogate), means.mean(error)
        entropy = means.mean(distribution.entropy())
        ratio = jnp.exp(log_prob - samples.log_prob)
        return policy_loss + self.value_weight * value_loss - self.entropy_weight * entropy, {
            "loss/policy": policy_loss,
            "loss/value": value_loss,
            "policy/entropy": entropy,
            "policy/kl": means.mean(divergences.k3(log_prob, samples.log_prob)),
            "policy/clipped": means.mean((jnp.abs(ratio - 1.0) > self.clip).astype(jnp.float32)),
        }
