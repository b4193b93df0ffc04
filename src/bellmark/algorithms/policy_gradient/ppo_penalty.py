"""Proximal policy optimisation with a penalty on the KL divergence, whose weight adapts.

J. Schulman, F. Wolski, P. Dhariwal, A. Radford, O. Klimov, "Proximal policy optimization algorithms", 2017, section 4.

    repeat
        run π_old in B environments for T steps
        Â_t ← generalised advantage, V̂_t ← Â_t + V(s_t)
        for each of E epochs, for each of M minibatches of the T·B samples
            ascend  E[ρÂ] − β E[KL(π_old ‖ π)] − c_v E[½(V − V̂)²] + c_h E[H(π)],   ρ = π(a|s)/π_old(a|s)
        d ← E[KL(π_old ‖ π)] over the whole rollout
        β ← β/2 if d < d_target/1.5,   2β if d > 1.5 d_target

Against PPO only the loss of the policy is new, and the coefficient β, which is part of the state.  The KL is that of
the two distributions, exact for every sample, and not an estimate from the actions taken.
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
from bellmark.maths import losses, means
from bellmark.maths.trust_region import adapted_penalty, surrogate
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
    behaviour: Any
    """The distribution that every action was drawn from."""
    advantage: Float[Array, " N"]
    value: Float[Array, " N"]
    value_target: Float[Array, " N"]


class PPOPenaltyState(eqx.Module):
    inputs: Inputs
    networks: Networks
    optimiser: Any
    penalty: Float[Array, ""]
    reward_scale: RewardScale | None
    episodes: Episodes
    key: Key
    iteration: Int[Array, ""]
    horizon: Int[Array, ""]


class PPOPenalty(AbstractLearner):
    """Proximal policy optimisation with an adaptive KL penalty in the place of clipping."""

    name: ClassVar[str] = "ppo_penalty"

    discount: float = 0.99
    trace_decay: float = 0.95
    kl_target: float = 0.01
    penalty: float = 1.0
    learning_rate: float = 2.5e-4
    anneal: bool = True
    environments: int = 8
    rollout_length: int = 128
    epochs: int = 4
    minibatches: int = 4
    entropy_weight: float = 0.01
    value_weight: float = 0.5
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
        positive(
            kl_target=self.kl_target,
            penalty=self.penalty,
            learning_rate=self.learning_rate,
            max_gradient_norm=self.max_gradient_norm,
        )
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

    def init(self, problem, key: Key) -> PPOPenaltyState:
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
        return PPOPenaltyState(
            inputs=inputs,
            networks=networks,
            optimiser=self.optimiser.init(networks),
            penalty=jnp.array(self.penalty, jnp.float32),
            reward_scale=RewardScale.start(self.environments) if self.normalise_rewards else None,
            episodes=problem.start(episodes_key, self.environments),
            key=key,
            iteration=jnp.array(0, jnp.int32),
            horizon=jnp.array(max(problem.budget // self.steps_per_iteration(problem), 1), jnp.int32),
        )

    def policy(self, state: PPOPenaltyState) -> StochasticPolicy:
        return StochasticPolicy(state.inputs, state.networks.actor, state.networks.head)

    def collect(self, problem, state: PPOPenaltyState) -> tuple[PPOPenaltyState, tuple[Rollout, Finished]]:
        key, rollout_key = jax.random.split(state.key)
        episodes, rollout, finished = problem.rollout(
            self.policy(state), state.episodes, rollout_key, self.rollout_length
        )
        state = eqx.tree_at(lambda s: (s.episodes, s.key), state, (episodes, key))
        return state, (rollout, finished)

    def update(
        self, state: PPOPenaltyState, data: tuple[Rollout, Finished]
    ) -> tuple[PPOPenaltyState, Metrics]:
        rollout, finished = data
        key, minibatch_key = jax.random.split(state.key)
        samples, penalty = self.samples(state, rollout), state.penalty
        remaining = 1.0 - state.iteration / state.horizon if self.anneal else 1.0
        learning_rate = self.learning_rate * jnp.maximum(remaining, 0.0)

        def descend(carry, index):
            networks, optimiser = carry
            minibatch = take(samples, index)
            gradient, metrics = jax.grad(self.loss, has_aux=True)(networks, minibatch, penalty)
            direction, optimiser = self.optimiser.update(gradient, optimiser, networks)
            networks = jax.tree.map(lambda p, d: p - learning_rate * d, networks, direction)
            return (networks, optimiser), metrics

        batch = self.steps_per_iteration(None)
        indices = minibatch_indices(minibatch_key, batch, self.minibatches, self.epochs)
        (networks, optimiser), metrics = jax.lax.scan(descend, (state.networks, state.optimiser), indices)
        new = networks.head.distribution(networks.actor(samples.features), samples.action_mask)
        divergence = means.mean(samples.behaviour.kl(new))

        transition = rollout.transition
        reward_scale = state.reward_scale
        if reward_scale is not None:
            reward_scale = reward_scale.seen(transition.reward, transition.unbroken, self.discount)
        state = PPOPenaltyState(
            inputs=state.inputs.seen(transition.observation),
            networks=networks,
            optimiser=optimiser,
            penalty=adapted_penalty(penalty, divergence, self.kl_target),
            reward_scale=reward_scale,
            episodes=state.episodes,
            key=key,
            iteration=state.iteration + 1,
            horizon=state.horizon,
        )
        return state, {
            **episode_metrics(finished),
            **{name: jnp.mean(values) for name, values in metrics.items()},
            "policy/kl": divergence,
            "policy/penalty": penalty,
            "value/explained_variance": means.explained_variance(samples.value, samples.value_target),
            "optimiser/learning_rate": learning_rate,
        }

    def samples(self, state: PPOPenaltyState, rollout: Rollout) -> Samples:
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
            behaviour=flatten(behaviour),
            advantage=flatten(advantage),
            value=flatten(appraisal.value),
            value_target=flatten(advantage + appraisal.value),
        )

    def loss(
        self, networks: Networks, samples: Samples, penalty: Float[Array, ""]
    ) -> tuple[Float[Array, ""], Metrics]:
        """What a minibatch descends: −surrogate + β · KL + c_v · value error − c_h · entropy."""
        distribution = networks.head.distribution(networks.actor(samples.features), samples.action_mask)
        advantage = means.standardise(samples.advantage) if self.normalise_advantage else samples.advantage
        old_log_prob = samples.behaviour.log_prob(samples.action)
        gain = means.mean(surrogate(distribution.log_prob(samples.action), old_log_prob, advantage))
        policy_loss = penalty * means.mean(samples.behaviour.kl(distribution)) - gain

        error = losses.squared_error(value(networks.critic, samples.features), samples.value_target)
        value_loss = means.mean(error)
        entropy = means.mean(distribution.entropy())
        return policy_loss + self.value_weight * value_loss - self.entropy_weight * entropy, {
            "loss/policy": policy_loss,
            "loss/value": value_loss,
            "policy/entropy": entropy,
        }
