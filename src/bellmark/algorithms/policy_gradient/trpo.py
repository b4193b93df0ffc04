"""Trust region policy optimisation: the natural gradient's step, shortened until it keeps its promises.

J. Schulman, S. Levine, P. Moritz, M. I. Jordan, P. Abbeel, "Trust region policy optimization", ICML 2015.

    repeat
        run π_old in B environments for T steps
        Â_t ← generalised advantage, from the critic as it is
        L(θ) = E[ρÂ] + c_h E[H(π_θ)],   ρ = π_θ(a|s)/π_old(a|s)
        g ← ∇L(θ_old);   x ← F⁻¹ g by conjugate gradients, F v by differentiating the KL twice
        s ← √(2δ / xᵀFx) · x
        for j = 0, 1, … until  L(θ_old + κʲs) > L(θ_old)  and  E[KL(π_old ‖ π)] ≤ δ,   K times at most
        θ ← θ_old + κʲs,  or θ_old, if none was good                   refused steps are counted
        for each of E epochs, for each of M minibatches
            descend  E[½(V − V̂)²]

Everything is of the whole rollout at once: the limit holds for the samples' exact KL, not for an estimate of it.
"""

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int

from bellmark.algorithms.base import AbstractLearner
from bellmark.algorithms.checks import at_least, divides, fraction, layer_sizes, positive
from bellmark.errors import BadInput
from bellmark.experience.appraisal import Samples, advantages, appraise, flattened
from bellmark.experience.minibatches import minibatch_indices, take
from bellmark.experience.normalisation import RewardScale
from bellmark.experience.policy import Inputs, StochasticPolicy, value
from bellmark.experience.rollout import episode_metrics
from bellmark.maths import losses, means
from bellmark.maths.fisher import natural_gradient
from bellmark.maths.trust_region import line_search, step_length, surrogate
from bellmark.networks.convolution import Convolution
from bellmark.networks.heads import Head, head_for
from bellmark.networks.mlp import MLP, Activation
from bellmark.types import Episodes, Finished, Key, Metrics, Rollout


class Actor(eqx.Module):
    """What the policy's step moves."""

    network: MLP | Convolution
    head: Head


class TRPOState(eqx.Module):
    inputs: Inputs
    actor: Actor
    critic: MLP | Convolution
    critic_optimiser: Any
    reward_scale: RewardScale | None
    episodes: Episodes
    key: Key
    iteration: Int[Array, ""]


class TRPO(AbstractLearner):
    """Trust region policy optimisation: a natural-gradient step, line-searched to keep within a KL limit."""

    name: ClassVar[str] = "trpo"

    discount: float = 0.99
    trace_decay: float = 0.97
    kl_limit: float = 0.01
    conjugate_gradient_iterations: int = 10
    damping: float = 0.1
    line_search_steps: int = 10
    backtrack: float = 0.8
    curvature_stride: int = 1
    value_learning_rate: float = 1e-3
    value_epochs: int = 10
    value_minibatches: int = 8
    environments: int = 8
    rollout_length: int = 256
    entropy_weight: float = 0.0
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
        positive(kl_limit=self.kl_limit, damping=self.damping, value_learning_rate=self.value_learning_rate)
        at_least(0, entropy_weight=self.entropy_weight)
        at_least(
            1,
            environments=self.environments,
            rollout_length=self.rollout_length,
            conjugate_gradient_iterations=self.conjugate_gradient_iterations,
            line_search_steps=self.line_search_steps,
            curvature_stride=self.curvature_stride,
            value_epochs=self.value_epochs,
            value_minibatches=self.value_minibatches,
        )
        if not 0.0 < self.backtrack < 1.0:
            raise BadInput(f"backtrack is {self.backtrack}; allowed: between 0 and 1, both excluded")
        batch = self.steps_per_iteration(problem)
        divides("value_minibatches", self.value_minibatches, "environments × rollout_length", batch)
        divides("curvature_stride", self.curvature_stride, "environments × rollout_length", batch)

    def steps_per_iteration(self, problem) -> int:
        return self.environments * self.rollout_length

    @property
    def critic_optimiser(self) -> optax.GradientTransformation:
        return optax.flatten(optax.adam(self.value_learning_rate))

    def init(self, problem, key: Key) -> TRPOState:
        key, actor_key, critic_key, episodes_key = jax.random.split(key, 4)
        inputs = Inputs.start(problem.observation_space, self.normalise_observations)
        head = head_for(problem.action_space, self.initial_log_std)
        network = inputs.network(
            self.hidden, head.outputs, actor_key, activation=self.activation, last_scale=0.01
        )
        critic = inputs.network(self.hidden, 1, critic_key, activation=self.activation, last_scale=1.0)
        return TRPOState(
            inputs=inputs,
            actor=Actor(network, head),
            critic=critic,
            critic_optimiser=self.critic_optimiser.init(critic),
            reward_scale=RewardScale.start(self.environments) if self.normalise_rewards else None,
            episodes=problem.start(episodes_key, self.environments),
            key=key,
            iteration=jnp.array(0, jnp.int32),
        )

    def policy(self, state: TRPOState) -> StochasticPolicy:
        return StochasticPolicy(state.inputs, state.actor.network, state.actor.head)

    def collect(self, problem, state: TRPOState) -> tuple[TRPOState, tuple[Rollout, Finished]]:
        key, rollout_key = jax.random.split(state.key)
        episodes, rollout, finished = problem.rollout(
            self.policy(state), state.episodes, rollout_key, self.rollout_length
        )
        state = eqx.tree_at(lambda s: (s.episodes, s.key), state, (episodes, key))
        return state, (rollout, finished)

    def update(self, state: TRPOState, data: tuple[Rollout, Finished]) -> tuple[TRPOState, Metrics]:
        rollout, finished = data
        key, minibatch_key = jax.random.split(state.key)
        samples = self.samples(state, rollout)
        actor, metrics = self.trusted_step(state.actor, samples)

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
        state = TRPOState(
            inputs=state.inputs.seen(transition.observation),
            actor=actor,
            critic=critic,
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
        }

    def samples(self, state: TRPOState, rollout: Rollout) -> Samples:
        """Advantages and value targets of a rollout, flattened to [T·B]."""
        appraisal = appraise(
            rollout, state.inputs, lambda features: value(state.critic, features), state.reward_scale
        )
        advantage = advantages(rollout, appraisal, self.discount, self.trace_decay)
        return flattened(rollout, appraisal, advantage)

    def trusted_step(self, actor: Actor, samples: Samples) -> tuple[Actor, Metrics]:
        """The first acceptable point on the way of the natural gradient; `actor` itself where there is none."""
        parameters, unflatten = ravel_pytree(actor)
        some = jax.tree.map(lambda x: x[:: self.curvature_stride], samples)
        advantage = means.standardise(samples.advantage) if self.normalise_advantage else samples.advantage

        def distribution(parameters, samples):
            actor = unflatten(parameters)
            return actor.head.distribution(actor.network(samples.features), samples.action_mask)

        def objective(new, old_log_prob):
            gain = surrogate(new.log_prob(samples.action), old_log_prob, advantage)
            return means.mean(gain) + self.entropy_weight * means.mean(new.entropy())

        old = distribution(parameters, samples)
        old_log_prob = old.log_prob(samples.action)
        start, gradient = jax.value_and_grad(
            lambda parameters: objective(distribution(parameters, samples), old_log_prob)
        )(parameters)
        solved, curvature = natural_gradient(
            lambda parameters: distribution(parameters, some),
            parameters,
            gradient,
            self.damping,
            self.conjugate_gradient_iterations,
        )
        step = step_length(curvature, self.kl_limit) * solved.x

        def measure(parameters):
            new = distribution(parameters, samples)
            return objective(new, old_log_prob) - start, means.mean(old.kl(new))

        # where there is no sound direction nothing is tried
        tries = jnp.where(solved.sound & (curvature > 0), self.line_search_steps, 0)
        searched = line_search(measure, parameters, step, self.kl_limit, self.backtrack, tries)
        return unflatten(searched.parameters), {
            "policy/entropy": means.mean(old.entropy()),
            "policy/kl": searched.divergence,
            "policy/gain": searched.gain,
            "step/refused": 1.0 - searched.accepted.astype(jnp.float32),
            "step/broken": 1.0 - solved.sound.astype(jnp.float32),
            "step/tries": searched.tries.astype(jnp.float32),
            "step/conjugate_gradients": solved.iterations.astype(jnp.float32),
            "optimiser/gradient_norm": jnp.sqrt(jnp.vdot(gradient, gradient)),
        }

    def value_loss(self, critic: MLP | Convolution, samples: Samples) -> Float[Array, ""]:
        """E[½(V − V̂)²]."""
        return means.mean(losses.squared_error(value(critic, samples.features), samples.value_target))
