"""The vanilla policy gradient: one step of the policy per rollout, and a critic that is fitted in between.

R. S. Sutton, D. McAllester, S. Singh, Y. Mansour, "Policy gradient methods for reinforcement learning with function
approximation", NeurIPS 1999; advantages: J. Schulman et al., "High-dimensional continuous control using generalized
advantage estimation", ICLR 2016; this arrangement: J. Achiam, "Spinning Up in deep RL", 2018.

    repeat
        run π in B environments for T steps
        Â_t ← generalised advantage, from the critic as it is          (or an n-step return, less V)
        ascend  E[Â log π(a|s)] + c_h E[H(π)]                          once
        for each of E epochs, for each of M minibatches
            descend  E[½(V − Û)²]                                      Û the return, bootstrapped where it is cut

λ is the way from the one end to the other: 0 is the one-step δ, which is as biased as the critic is wrong; 1 is the
Monte Carlo return less V(s), which is unbiased for whole episodes whatever V is, and varies most.  The policy moves
before the critic does, so no sample meets a value that was fitted to it.
"""

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from bellmark.algorithms.base import AbstractLearner
from bellmark.algorithms.checks import at_least, divides, fraction, layer_sizes, positive
from bellmark.experience.appraisal import Samples, advantages, appraise, flattened
from bellmark.experience.minibatches import minibatch_indices, take
from bellmark.experience.normalisation import RewardScale
from bellmark.experience.policy import Inputs, StochasticPolicy, value
from bellmark.experience.rollout import episode_metrics
from bellmark.maths import losses, means
from bellmark.maths.returns import lambda_return, n_step_return
from bellmark.networks.convolution import Convolution
from bellmark.networks.heads import Head, head_for
from bellmark.networks.mlp import MLP, Activation
from bellmark.types import Episodes, Finished, Key, Metrics, Rollout


class Actor(eqx.Module):
    """What the policy's step moves."""

    network: MLP | Convolution
    head: Head


class VPGState(eqx.Module):
    inputs: Inputs
    actor: Actor
    critic: MLP | Convolution
    actor_optimiser: Any
    critic_optimiser: Any
    reward_scale: RewardScale | None
    episodes: Episodes
    key: Key
    iteration: Int[Array, ""]


class VPG(AbstractLearner):
    """Vanilla policy gradient with generalised advantages: one policy step per rollout, the critic fitted between."""

    name: ClassVar[str] = "vpg"

    discount: float = 0.99
    trace_decay: float = 0.97
    n_steps: int | None = None
    learning_rate: float = 3e-3
    value_learning_rate: float = 1e-3
    value_epochs: int = 10
    value_minibatches: int = 8
    environments: int = 8
    rollout_length: int = 256
    entropy_weight: float = 0.0
    max_gradient_norm: float = 1.0
    normalise_advantage: bool = True
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
        positive(
            learning_rate=self.learning_rate,
            value_learning_rate=self.value_learning_rate,
            max_gradient_norm=self.max_gradient_norm,
        )
        at_least(0, entropy_weight=self.entropy_weight)
        at_least(
            1,
            environments=self.environments,
            rollout_length=self.rollout_length,
            value_epochs=self.value_epochs,
            value_minibatches=self.value_minibatches,
        )
        if self.n_steps is not None:
            at_least(1, n_steps=self.n_steps)
        divides(
            "value_minibatches",
            self.value_minibatches,
            "environments × rollout_length",
            self.steps_per_iteration(problem),
        )

    def steps_per_iteration(self, problem) -> int:
        return self.environments * self.rollout_length

    @property
    def actor_optimiser(self) -> optax.GradientTransformation:
        clip = optax.clip_by_global_norm(self.max_gradient_norm)
        return optax.flatten(optax.chain(clip, optax.adam(self.learning_rate)))

    @property
    def critic_optimiser(self) -> optax.GradientTransformation:
        return optax.flatten(optax.adam(self.value_learning_rate))

    def init(self, problem, key: Key) -> VPGState:
        key, actor_key, critic_key, episodes_key = jax.random.split(key, 4)
        inputs = Inputs.start(problem.observation_space, self.normalise_observations)
        head = head_for(problem.action_space, self.initial_log_std)
        network = inputs.network(
            self.hidden, head.outputs, actor_key, activation=self.activation, last_scale=0.01
        )
        actor = Actor(network, head)
        critic = inputs.network(self.hidden, 1, critic_key, activation=self.activation, last_scale=1.0)
        return VPGState(
            inputs=inputs,
            actor=actor,
            critic=critic,
            actor_optimiser=self.actor_optimiser.init(actor),
            critic_optimiser=self.critic_optimiser.init(critic),
            reward_scale=RewardScale.start(self.environments) if self.normalise_rewards else None,
            episodes=problem.start(episodes_key, self.environments),
            key=key,
            iteration=jnp.array(0, jnp.int32),
        )

    def policy(self, state: VPGState) -> StochasticPolicy:
        return StochasticPolicy(state.inputs, state.actor.network, state.actor.head)

    def collect(self, problem, state: VPGState) -> tuple[VPGState, tuple[Rollout, Finished]]:
        key, rollout_key = jax.random.split(state.key)
        episodes, rollout, finished = problem.rollout(
            self.policy(state), state.episodes, rollout_key, self.rollout_length
        )
        state = eqx.tree_at(lambda s: (s.episodes, s.key), state, (episodes, key))
        return state, (rollout, finished)

    def update(self, state: VPGState, data: tuple[Rollout, Finished]) -> tuple[VPGState, Metrics]:
        rollout, finished = data
        key, minibatch_key = jax.random.split(state.key)
        samples = self.samples(state, rollout)

        gradient, metrics = jax.grad(self.policy_loss, has_aux=True)(state.actor, samples)
        direction, actor_optimiser = self.actor_optimiser.update(gradient, state.actor_optimiser, state.actor)
        actor = eqx.apply_updates(state.actor, direction)

        def fit(carry, index):
            critic, optimiser = carry
            loss, gradient = jax.value_and_grad(self.value_loss)(critic, take(samples, index))
            direction, optimiser = self.critic_optimiser.update(gradient, optimiser, critic)
            return (eqx.apply_updates(critic, direction), optimiser), loss

        indices = minibatch_indices(
            minibatch_key, self.steps_per_iteration(None), self.value_minibatches, self.value_epochs
        )
        (critic, critic_optimiser), value_losses = jax.lax.scan(
            fit, (state.critic, state.critic_optimiser), indices
        )

        transition = rollout.transition
        reward_scale = state.reward_scale
        if reward_scale is not None:
            reward_scale = reward_scale.seen(transition.reward, transition.unbroken, self.discount)
        state = VPGState(
            inputs=state.inputs.seen(transition.observation),
            actor=actor,
            critic=critic,
            actor_optimiser=actor_optimiser,
            critic_optimiser=critic_optimiser,
            reward_scale=reward_scale,
            episodes=state.episodes,
            key=key,
            iteration=state.iteration + 1,
        )
        return state, {
            **episode_metrics(finished),
            **metrics,
            "loss/value": jnp.mean(value_losses),
            "value/explained_variance": means.explained_variance(samples.value, samples.value_target),
            "optimiser/gradient_norm": optax.tree.norm(gradient),
        }

    def samples(self, state: VPGState, rollout: Rollout) -> Samples:
        """Advantages and value targets of a rollout, flattened to [T·B]."""
        appraisal = appraise(
            rollout, state.inputs, lambda features: value(state.critic, features), state.reward_scale
        )
        transition = rollout.transition
        factors = (transition.continues, transition.unbroken, self.discount)
        if self.n_steps is None:
            advantage = advantages(rollout, appraisal, self.discount, self.trace_decay)
        else:
            returns = n_step_return(appraisal.reward, appraisal.next_value, *factors, self.n_steps)
            advantage = returns - appraisal.value
        # the critic's own target is the longest return there is: its error must not feed on itself
        target = lambda_return(appraisal.reward, appraisal.next_value, *factors, 1.0)
        return flattened(rollout, appraisal, advantage, target)

    def policy_loss(self, actor: Actor, samples: Samples) -> tuple[Float[Array, ""], Metrics]:
        """−E[Â log π] − c_h E[H]."""
        distribution = actor.head.distribution(actor.network(samples.features), samples.action_mask)
        advantage = means.standardise(samples.advantage) if self.normalise_advantage else samples.advantage
        score = means.mean(losses.score_function(distribution.log_prob(samples.action), advantage))
        entropy = means.mean(distribution.entropy())
        return score - self.entropy_weight * entropy, {"loss/policy": score, "policy/entropy": entropy}

    def value_loss(self, critic: MLP | Convolution, samples: Samples) -> Float[Array, ""]:
        """E[½(V − Û)²]."""
        return means.mean(losses.squared_error(value(critic, samples.features), samples.value_target))
