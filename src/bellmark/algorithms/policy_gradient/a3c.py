"""Asynchronous advantage actor–critic: gradients of stale parameters, applied to one shared learner.

V. Mnih et al., "Asynchronous methods for deep reinforcement learning", ICML 2016, algorithm S3.

    every actor k, on its own and never waiting for the others
        θ_k ← θ                                                       pull
        run π(a|s; θ_k) in its environments for T steps
        Â_t, V̂_t ← generalised advantage with V(s; θ_k) (λ = 1: n-step returns up to the rollout's end)
        g ← ∇_θ_k  E[Â log π(a|s)] − c_v E[½(V − V̂)²] + c_h E[H(π)]
        θ ← θ + step(g), with one optimiser's averages for all        push

Staleness is how many other gradients came to θ between an actor's pull and its push; it is counted for every push and
reported.  Whose turn it is to push is the `schedule`:

    random        every round in a new random order, from the run's own key: staleness 0 to 2K − 2, K − 1 in the mean
    round_robin   always in the same order: staleness K − 1, always
    threads       K threads, and whoever is first: the asynchrony of the paper

The first two are simulations: all K actors run side by side in one program, each under its own stale parameters, and
the order of the pushes is explicit, so that a run is reproducible and resumed bit for bit.  With threads neither is
possible (`docs/decisions/0009-asynchrony-by-a-schedule.md`).  With one actor every schedule is A2C.
"""

from typing import Any, ClassVar, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from bellmark.algorithms.base import AbstractLearner
from bellmark.algorithms.checks import at_least, divides, fraction, layer_sizes, positive
from bellmark.algorithms.descent import clipped_descent
from bellmark.errors import BadInput
from bellmark.experience.policy import Inputs, StochasticPolicy, value
from bellmark.experience.rollout import episode_metrics
from bellmark.maths import losses, means
from bellmark.maths.returns import generalised_advantage
from bellmark.networks.convolution import Convolution
from bellmark.networks.heads import Head, head_for
from bellmark.networks.mlp import MLP, Activation
from bellmark.types import Action, Episodes, Finished, Key, Metrics, Observation, Rollout


class Networks(eqx.Module):
    """Everything that the gradient moves."""

    actor: MLP | Convolution
    head: Head
    critic: MLP | Convolution


class Learner(eqx.Module):
    """The one that all actors share; `version` counts the gradients that it was given."""

    networks: Networks
    optimiser: Any
    version: Int[Array, ""]


class Actors(eqx.Module):
    """What each of the K actors pulled last, and of which version that was."""

    networks: Networks
    version: Int[Array, " K"]


class A3CState(eqx.Module):
    inputs: Inputs
    learner: Learner
    actors: Actors
    episodes: Episodes
    key: Key
    iteration: Int[Array, ""]
    horizon: Int[Array, ""]


class ActorsPolicy(eqx.Module):
    """K policies, each for its share of the environments: [B] is [K, B/K]."""

    policies: StochasticPolicy
    count: int = eqx.field(static=True)

    def randomness(self, key: Key, shape: tuple[int, ...]) -> Float[Array, "*B N"]:
        return jax.tree.map(lambda x: x[0], self.policies).randomness(key, shape)

    def __call__(
        self, observation: Observation, randomness: Array, mask: Array | None = None
    ) -> tuple[Action, Float[Array, "*B outputs"]]:
        apart = jax.tree.map(
            lambda x: x.reshape(self.count, -1, *x.shape[1:]), (observation, randomness, mask)
        )
        acted = jax.vmap(lambda policy, given: policy(*given))(self.policies, apart)
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), acted)


class A3C(AbstractLearner):
    """Asynchronous advantage actor–critic: stale gradients into one shared learner, staleness measured."""

    name: ClassVar[str] = "a3c"

    discount: float = 0.99
    trace_decay: float = 1.0
    learning_rate: float = 7e-4
    anneal: bool = True
    optimiser: Literal["rmsprop", "adam"] = "rmsprop"
    schedule: Literal["random", "round_robin", "threads"] = "random"
    actors: int = 8
    environments: int = 8
    rollout_length: int = 5
    entropy_weight: float = 0.01
    value_weight: float = 0.5
    max_gradient_norm: float = 0.5
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
        at_least(1, actors=self.actors, environments=self.environments, rollout_length=self.rollout_length)
        divides("actors", self.actors, "environments", self.environments)
        if self.schedule == "threads" and not problem.compiled:
            raise BadInput(
                "schedule is threads, and this environment is stepped in Python, which runs one thread at a time; "
                "allowed: random or round_robin, or a compiled environment"
            )

    def steps_per_iteration(self, problem) -> int:
        """One rollout and one push of every actor."""
        return self.environments * self.rollout_length

    @property
    def transformation(self) -> optax.GradientTransformation:
        return clipped_descent(self.max_gradient_norm, self.optimiser)

    def init(self, problem, key: Key) -> A3CState:
        key, actor_key, critic_key, episodes_key = jax.random.split(key, 4)
        inputs = Inputs.start(problem.observation_space)
        head = head_for(problem.action_space, self.initial_log_std)
        options: dict[str, Any] = {"activation": self.activation}
        networks = Networks(
            actor=inputs.network(self.hidden, head.outputs, actor_key, last_scale=0.01, **options),
            head=head,
            critic=inputs.network(self.hidden, 1, critic_key, **options),
        )
        return A3CState(
            inputs=inputs,
            learner=Learner(networks, self.transformation.init(networks), jnp.array(0, jnp.int32)),
            actors=Actors(
                jax.tree.map(lambda x: jnp.repeat(x[None], self.actors, axis=0), networks),
                jnp.zeros(self.actors, jnp.int32),
            ),
            episodes=problem.start(episodes_key, self.environments),
            key=key,
            iteration=jnp.array(0, jnp.int32),
            horizon=jnp.array(max(problem.budget // self.steps_per_iteration(problem), 1), jnp.int32),
        )

    def policy(self, state: A3CState) -> StochasticPolicy:
        """That of the shared learner."""
        return acting(state.inputs, state.learner.networks)

    def collect(self, problem, state: A3CState) -> tuple[A3CState, tuple[Rollout, Finished]]:
        """Every actor runs its environments under the parameters that it pulled."""
        key, rollout_key = jax.random.split(state.key)
        policy = ActorsPolicy(acting(state.inputs, state.actors.networks), self.actors)
        episodes, rollout, finished = problem.rollout(
            policy, state.episodes, rollout_key, self.rollout_length
        )
        state = eqx.tree_at(lambda s: (s.episodes, s.key), state, (episodes, key))
        return state, (rollout, finished)

    def update(self, state: A3CState, data: tuple[Rollout, Finished]) -> tuple[A3CState, Metrics]:
        """Every actor pushes once, in the order of the schedule, and pulls."""
        rollout, finished = data
        key, order_key = jax.random.split(state.key)
        # [T, B, …] to [K, T, B/K, …]
        shares = jax.tree.map(
            lambda x: jnp.moveaxis(x.reshape(x.shape[0], self.actors, -1, *x.shape[2:]), 1, 0), rollout
        )
        gradients, metrics = jax.vmap(lambda n, r: self.gradient(n, state.inputs, r))(
            state.actors.networks, shares
        )
        learning_rate = self.learning_rate_at(state)

        def push(carry, k):
            learner, actors = carry
            staleness = learner.version - actors.version[k]
            learner = self.pushed(learner, jax.tree.map(lambda g: g[k], gradients), learning_rate)
            pulled = jax.tree.map(lambda all, new: all.at[k].set(new), actors.networks, learner.networks)
            return (learner, Actors(pulled, actors.version.at[k].set(learner.version))), staleness

        order = jnp.arange(self.actors)
        if self.schedule == "random":
            order = jax.random.permutation(order_key, order)
        (learner, actors), staleness = jax.lax.scan(push, (state.learner, state.actors), order)
        state = A3CState(
            inputs=state.inputs,
            learner=learner,
            actors=actors,
            episodes=state.episodes,
            key=key,
            iteration=state.iteration + 1,
            horizon=state.horizon,
        )
        return state, {
            **episode_metrics(finished),
            **{name: jnp.mean(values) for name, values in metrics.items()},
            "staleness/mean": jnp.mean(staleness.astype(jnp.float32)),
            "staleness/largest": jnp.max(staleness).astype(jnp.float32),
            "optimiser/learning_rate": learning_rate,
        }

    def learning_rate_at(self, state: A3CState) -> Float[Array, ""]:
        remaining = 1.0 - state.iteration / state.horizon if self.anneal else jnp.array(1.0)
        return self.learning_rate * jnp.maximum(remaining, 0.0)

    def gradient(self, networks: Networks, inputs: Inputs, rollout: Rollout) -> tuple[Networks, Metrics]:
        """What one actor pushes: the gradient at its own parameters of its own rollout."""
        return jax.grad(self.loss, has_aux=True)(networks, inputs, rollout)

    def pushed(self, learner: Learner, gradient: Networks, learning_rate: Float[Array, ""]) -> Learner:
        """The shared learner after one more gradient, wherever that was taken."""
        direction, optimiser = self.transformation.update(gradient, learner.optimiser, learner.networks)
        networks = jax.tree.map(lambda p, d: p - learning_rate * d, learner.networks, direction)
        return Learner(networks, optimiser, learner.version + 1)

    def loss(self, networks: Networks, inputs: Inputs, rollout: Rollout) -> tuple[Float[Array, ""], Metrics]:
        """What is descended: −Â log π + c_v · value error − c_h · entropy."""
        transition = rollout.transition
        features = inputs(transition.observation)
        prediction = value(networks.critic, features)
        values = jax.lax.stop_gradient(prediction)
        next_values = jax.lax.stop_gradient(value(networks.critic, inputs(transition.next_observation)))
        advantage = generalised_advantage(
            transition.reward,
            values,
            next_values,
            transition.continues,
            transition.unbroken,
            self.discount,
            self.trace_decay,
        )
        distribution = networks.head.distribution(networks.actor(features), rollout.action_mask)
        score = losses.score_function(distribution.log_prob(transition.action), advantage)
        policy_loss, entropy = means.mean(score), means.mean(distribution.entropy())
        value_loss = means.mean(losses.squared_error(prediction, advantage + values))
        return policy_loss + self.value_weight * value_loss - self.entropy_weight * entropy, {
            "loss/policy": policy_loss,
            "loss/value": value_loss,
            "policy/entropy": entropy,
        }


def acting(inputs: Inputs, networks: Networks) -> StochasticPolicy:
    return StochasticPolicy(inputs, networks.actor, networks.head)
