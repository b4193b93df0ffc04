"""Actor–critic with Kronecker-factored trust regions: natural gradients of actor and critic from small matrices.

Y. Wu, E. Mansimov, S. Liao, R. Grosse, J. Ba, "Scalable trust-region method for deep reinforcement learning using
Kronecker-factored approximation", NeurIPS 2017.

    repeat
        run π in B environments for T steps
        Â_t ← generalised advantage, V̂_t ← Â_t + V(s_t)
        for every layer of both networks: A, S ← running means of aaᵀ and ggᵀ
            a: the layer's inputs;  g: ∂log π(a|s)/∂outputs for the actor, ∂V/∂outputs for the critic
        Δ ← F̂⁻¹ ∇(E[Â log π] + c_h E[H])                              F̂ = A ⊗ S per layer, damped
        θ ← θ + min(η, √(2δ / ∇ᵀΔ)) Δ
        the same for the critic, −½(V − V̂)²/σ² being its log-likelihood and σ² the batch's mean of (V − V̂)²

The actions of the rollout are the policy's own, so the same samples serve the gradient and the Fisher matrix.  One
update per rollout, hence short rollouts.  The paper sets σ = 1; a σ of the errors' size makes the critic's limit a
number without units.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from bellmark.algorithms.base import AbstractLearner
from bellmark.algorithms.checks import at_least, fraction, layer_sizes, positive
from bellmark.errors import BadInput
from bellmark.experience.appraisal import Samples, advantages, appraise, flattened
from bellmark.experience.normalisation import RewardScale
from bellmark.experience.policy import Inputs, StochasticPolicy, value
from bellmark.experience.rollout import episode_metrics
from bellmark.maths import losses, means
from bellmark.maths.kronecker import Factors, natural_direction
from bellmark.maths.trust_region import step_length
from bellmark.networks.heads import GaussianHead, Head, head_for
from bellmark.networks.mlp import MLP, Activation, Linear
from bellmark.types import Episodes, Finished, Key, Metrics, Rollout


class Actor(eqx.Module):
    """What the policy's step moves."""

    network: MLP
    head: Head


class ACKTRState(eqx.Module):
    inputs: Inputs
    actor: Actor
    critic: MLP
    actor_factors: Factors
    critic_factors: Factors
    reward_scale: RewardScale | None
    episodes: Episodes
    key: Key
    iteration: Int[Array, ""]


class ACKTR(AbstractLearner):
    """Actor–critic with Kronecker-factored natural gradients and trust regions, one update per short rollout."""

    name: ClassVar[str] = "acktr"

    discount: float = 0.99
    trace_decay: float = 0.95
    kl_limit: float = 0.001
    value_kl_limit: float = 0.01
    largest_step: float = 1.0
    damping: float = 0.01
    factor_decay: float = 0.99
    environments: int = 16
    rollout_length: int = 20
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
        positive(
            kl_limit=self.kl_limit,
            value_kl_limit=self.value_kl_limit,
            largest_step=self.largest_step,
            damping=self.damping,
        )
        fraction("factor_decay", self.factor_decay)
        at_least(0, entropy_weight=self.entropy_weight)
        at_least(1, environments=self.environments, rollout_length=self.rollout_length)
        if Inputs.start(problem.observation_space).image:
            raise BadInput(
                f"acktr is for fully connected networks, and the observations {problem.observation_space} are images; "
                "allowed: every other observation space, or another algorithm, such as ppo or trpo"
            )

    def steps_per_iteration(self, problem) -> int:
        return self.environments * self.rollout_length

    def init(self, problem, key: Key) -> ACKTRState:
        key, actor_key, critic_key, episodes_key = jax.random.split(key, 4)
        inputs = Inputs.start(problem.observation_space, self.normalise_observations)
        head = head_for(problem.action_space, self.initial_log_std)
        network = inputs.network(
            self.hidden, head.outputs, actor_key, activation=self.activation, last_scale=0.01
        )
        critic = inputs.network(self.hidden, 1, critic_key, activation=self.activation, last_scale=1.0)
        assert isinstance(network, MLP)
        assert isinstance(critic, MLP)
        return ACKTRState(
            inputs=inputs,
            actor=Actor(network, head),
            critic=critic,
            actor_factors=Factors.start(network.sizes),
            critic_factors=Factors.start(critic.sizes),
            reward_scale=RewardScale.start(self.environments) if self.normalise_rewards else None,
            episodes=problem.start(episodes_key, self.environments),
            key=key,
            iteration=jnp.array(0, jnp.int32),
        )

    def policy(self, state: ACKTRState) -> StochasticPolicy:
        return StochasticPolicy(state.inputs, state.actor.network, state.actor.head)

    def collect(self, problem, state: ACKTRState) -> tuple[ACKTRState, tuple[Rollout, Finished]]:
        key, rollout_key = jax.random.split(state.key)
        episodes, rollout, finished = problem.rollout(
            self.policy(state), state.episodes, rollout_key, self.rollout_length
        )
        state = eqx.tree_at(lambda s: (s.episodes, s.key), state, (episodes, key))
        return state, (rollout, finished)

    def update(self, state: ACKTRState, data: tuple[Rollout, Finished]) -> tuple[ACKTRState, Metrics]:
        rollout, finished = data
        samples = self.samples(state, rollout)
        actor, actor_factors, actor_metrics = self.actor_step(state.actor, state.actor_factors, samples)
        critic, critic_factors, critic_metrics = self.critic_step(state.critic, state.critic_factors, samples)

        transition = rollout.transition
        reward_scale = state.reward_scale
        if reward_scale is not None:
            reward_scale = reward_scale.seen(transition.reward, transition.unbroken, self.discount)
        state = ACKTRState(
            inputs=state.inputs.seen(transition.observation),
            actor=actor,
            critic=critic,
            actor_factors=actor_factors,
            critic_factors=critic_factors,
            reward_scale=reward_scale,
            episodes=state.episodes,
            key=state.key,
            iteration=state.iteration + 1,
        )
        return state, {
            **episode_metrics(finished),
            **actor_metrics,
            **critic_metrics,
            "value/explained_variance": means.explained_variance(samples.value, samples.value_target),
        }

    def samples(self, state: ACKTRState, rollout: Rollout) -> Samples:
        """Advantages and value targets of a rollout, flattened to [T·B]."""
        appraisal = appraise(
            rollout, state.inputs, lambda features: value(state.critic, features), state.reward_scale
        )
        advantage = advantages(rollout, appraisal, self.discount, self.trace_decay)
        return flattened(rollout, appraisal, advantage)

    def actor_step(self, actor: Actor, factors: Factors, samples: Samples) -> tuple[Actor, Factors, Metrics]:
        """The policy after its step, and the curvature's factors after these samples."""

        def distribution(outputs):
            return actor.head.distribution(outputs, samples.action_mask)

        def scores(outputs):
            log_prob = lambda outputs: jnp.sum(distribution(outputs).log_prob(samples.action))  # noqa: E731
            return jax.grad(log_prob)(outputs)

        factors = factors.seen(*curvature(actor.network, samples.features, scores), self.factor_decay)
        (_, (old, entropy)), gradient = jax.value_and_grad(self.objective, has_aux=True)(actor, samples)
        network = as_network(
            natural_direction(factors, as_matrices(gradient.network), self.damping), actor.network
        )
        head = gradient.head
        if isinstance(head, GaussianHead):
            # log σ is the same in every state: its Fisher matrix is 2I, exactly
            head = GaussianHead(head.log_std / (2.0 + self.damping))
        direction = Actor(network, head)
        moved, step = self.step_along(actor, gradient, direction, self.kl_limit)
        sound = all_finite(moved)
        actor = jax.tree.map(lambda new, old: jnp.where(sound, new, old), moved, actor)
        new = actor.head.distribution(actor.network(samples.features), samples.action_mask)
        return (
            actor,
            factors,
            {
                "policy/entropy": entropy,
                "policy/kl": means.mean(old.kl(new)),
                "step/share": jnp.where(sound, step, 0.0),
                "step/refused": 1.0 - sound.astype(jnp.float32),
            },
        )

    def critic_step(self, critic: MLP, factors: Factors, samples: Samples) -> tuple[MLP, Factors, Metrics]:
        """The critic after its step, the Gauss–Newton one of its squared error, and its factors."""
        factors = factors.seen(*curvature(critic, samples.features, jnp.ones_like), self.factor_decay)
        loss, gradient = jax.value_and_grad(self.value_loss)(critic, samples)
        ascent = jax.tree.map(jnp.negative, gradient)
        direction = as_network(natural_direction(factors, as_matrices(ascent), self.damping), critic)
        # ½(V − V̂)² is σ² times minus the log-likelihood, and the mean of (V − V̂)² is 2 · loss
        moved, step = self.step_along(critic, ascent, direction, self.value_kl_limit * 2.0 * loss)
        sound = all_finite(moved)
        critic = jax.tree.map(lambda new, old: jnp.where(sound, new, old), moved, critic)
        return (
            critic,
            factors,
            {
                "loss/value": loss,
                "step/value_share": jnp.where(sound, step, 0.0),
                "step/value_refused": 1.0 - sound.astype(jnp.float32),
            },
        )

    def step_along(self, old: Any, gradient: Any, direction: Any, limit: Any) -> tuple[Any, Float[Array, ""]]:
        """old + min(η, √(2δ / ∇ᵀΔ)) Δ, and the factor before Δ."""
        pairs = zip(jax.tree.leaves(gradient), jax.tree.leaves(direction), strict=True)
        products = [jnp.vdot(g, d) for g, d in pairs]
        step = jnp.minimum(self.largest_step, step_length(sum(products, jnp.zeros(())), limit))
        return jax.tree.map(lambda p, d: p + step * d, old, direction), step

    def objective(self, actor: Actor, samples: Samples) -> tuple[Float[Array, ""], Any]:
        """E[Â log π] + c_h E[H], to be climbed; the distribution and E[H] with it."""
        distribution = actor.head.distribution(actor.network(samples.features), samples.action_mask)
        advantage = means.standardise(samples.advantage) if self.normalise_advantage else samples.advantage
        score = -means.mean(losses.score_function(distribution.log_prob(samples.action), advantage))
        entropy = means.mean(distribution.entropy())
        return score + self.entropy_weight * entropy, (distribution, entropy)

    def value_loss(self, critic: MLP, samples: Samples) -> Float[Array, ""]:
        """E[½(V − V̂)²]."""
        return means.mean(losses.squared_error(value(critic, samples.features), samples.value_target))


def curvature(
    network: MLP, features: Float[Array, "N F"], scores: Callable[[Float[Array, "N O"]], Float[Array, "N O"]]
) -> tuple[tuple[Float[Array, "N _i"], ...], tuple[Float[Array, "N _o"], ...]]:
    """Every layer's inputs a, and g: `scores` of the network's outputs taken back to the layer's own outputs."""
    shifts = tuple(jnp.zeros((features.shape[0], outputs)) for _, outputs in network.sizes)
    outputs, back, inputs = jax.vjp(
        lambda shifts: network.layer_by_layer(features, shifts), shifts, has_aux=True
    )
    [slopes] = back(scores(outputs))
    return inputs, slopes


def as_matrices(network: MLP) -> tuple[Float[Array, "_i _o"], ...]:
    """Weights and, as the last row, biases."""
    return tuple(jnp.concatenate([layer.weight, layer.bias[None]]) for layer in network.layers)


def as_network(matrices: tuple[Float[Array, "_i _o"], ...], like: MLP) -> MLP:
    """The inverse of `as_matrices`."""
    return MLP(tuple(Linear(matrix[:-1], matrix[-1]) for matrix in matrices), like.activation)


def all_finite(tree: Any) -> Bool[Array, ""]:
    return jnp.all(jnp.array([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))
