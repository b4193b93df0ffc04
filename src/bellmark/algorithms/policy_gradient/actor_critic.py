"""One-step actor–critic: learn from every step as soon as it is taken.

R. S. Sutton, A. G. Barto, "Reinforcement Learning: An Introduction", 2nd ed., 2018, section 13.5; A. G. Barto,
R. S. Sutton, C. W. Anderson, "Neuronlike adaptive elements that can solve difficult learning control problems", 1983.

    repeat
        a ~ π(·|s); take a; see r and s′                                in B environments (1: as in the book)
        δ ← r + γ V(s′) − V(s)                                          V(s′) = 0 where the process terminated
        V(s) moves towards r + γ V(s′)
        ascend  I δ log π(a|s) + c_h H(π)                               I = γ^t with `discounted_states`, otherwise 1

δ > 0 says that the action was better than expected, and makes it more probable.  It estimates the advantage without
bias only where V is that of the policy; a critic that is wrong biases every step.  A Q in the place of V
makes another algorithm: `q_actor_critic`.
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
from bellmark.experience.minibatches import flatten
from bellmark.experience.policy import Inputs, StochasticPolicy, value
from bellmark.experience.rollout import episode_metrics, two_keys
from bellmark.maths import losses, means
from bellmark.maths.returns import td_error
from bellmark.networks.convolution import Convolution
from bellmark.networks.heads import Head, head_for
from bellmark.networks.mlp import MLP, Activation
from bellmark.types import Episodes, Finished, Key, Metrics, Rollout


class Actor(eqx.Module):
    """What the policy's gradient moves."""

    network: MLP | Convolution
    head: Head


class Samples(eqx.Module):
    """Steps, with what the policy and the critic are to learn from them."""

    features: Float[Array, "N *F"]
    action: Array
    action_mask: Array | None
    error: Float[Array, " N"]
    value_target: Float[Array, " N"]
    weight: Float[Array, " N"]


class Taken(eqx.Module):
    """One step of every environment, and how many steps of the episode came before it."""

    rollout: Rollout
    age: Int[Array, "T B"]
    finished: Finished


class ActorCriticState(eqx.Module):
    inputs: Inputs
    actor: Actor
    critic: MLP | Convolution
    actor_optimiser: Any
    critic_optimiser: Any
    episodes: Episodes
    key: Key
    iteration: Int[Array, ""]


class ActorCritic(AbstractLearner):
    """One-step actor–critic with a state-value critic, updated after every step."""

    name: ClassVar[str] = "actor_critic"

    discount: float = 0.99
    discounted_states: bool = False
    learning_rate: float = 1e-3
    value_learning_rate: float = 3e-3
    optimiser: Literal["adam", "sgd"] = "adam"
    environments: int = 1
    entropy_weight: float = 0.0
    max_gradient_norm: float = 1.0
    normalise_observations: bool = False
    hidden: tuple[int, ...] = (64, 64)
    activation: Activation = "tanh"
    initial_log_std: float = 0.0

    def check(self, problem) -> None:
        head_for(problem.action_space)
        fraction("discount", self.discount)
        layer_sizes(self.hidden)
        positive(
            learning_rate=self.learning_rate,
            value_learning_rate=self.value_learning_rate,
            max_gradient_norm=self.max_gradient_norm,
        )
        at_least(0, entropy_weight=self.entropy_weight)
        at_least(1, environments=self.environments)

    def steps_per_iteration(self, problem) -> int:
        return self.environments

    def transformation(self, learning_rate: float) -> optax.GradientTransformation:
        scale = optax.adam(learning_rate) if self.optimiser == "adam" else optax.sgd(learning_rate)
        # one flat vector: with a gradient per step, kernel launches are most of what it costs
        return optax.flatten(optax.chain(optax.clip_by_global_norm(self.max_gradient_norm), scale))

    def init(self, problem, key: Key) -> ActorCriticState:
        key, actor_key, critic_key, episodes_key = jax.random.split(key, 4)
        inputs = Inputs.start(problem.observation_space, self.normalise_observations)
        head = head_for(problem.action_space, self.initial_log_std)
        network = inputs.network(
            self.hidden, head.outputs, actor_key, activation=self.activation, last_scale=0.01
        )
        actor = Actor(network, head)
        critic = inputs.network(self.hidden, 1, critic_key, activation=self.activation, last_scale=1.0)
        return ActorCriticState(
            inputs=inputs,
            actor=actor,
            critic=critic,
            actor_optimiser=self.transformation(self.learning_rate).init(actor),
            critic_optimiser=self.transformation(self.value_learning_rate).init(critic),
            episodes=problem.start(episodes_key, self.environments),
            key=key,
            iteration=jnp.array(0, jnp.int32),
        )

    def policy(self, state: ActorCriticState) -> StochasticPolicy:
        return StochasticPolicy(state.inputs, state.actor.network, state.actor.head)

    def collect(self, problem, state: ActorCriticState) -> tuple[ActorCriticState, Taken]:
        key, rollout_key = two_keys(state.key)
        age = state.episodes.length[None]
        episodes, rollout, finished = problem.rollout(self.policy(state), state.episodes, rollout_key, 1)
        state = dataclasses.replace(state, episodes=episodes, key=key)
        return state, Taken(rollout, age, finished)

    def update(self, state: ActorCriticState, data: Taken) -> tuple[ActorCriticState, Metrics]:
        samples = self.samples(state, data.rollout, data.age)

        gradient, metrics = jax.grad(self.policy_loss, has_aux=True)(state.actor, samples)
        direction, actor_optimiser = self.transformation(self.learning_rate).update(
            gradient, state.actor_optimiser, state.actor
        )
        value_loss, value_gradient = jax.value_and_grad(self.value_loss)(state.critic, samples)
        value_direction, critic_optimiser = self.transformation(self.value_learning_rate).update(
            value_gradient, state.critic_optimiser, state.critic
        )
        state = ActorCriticState(
            inputs=state.inputs.seen(data.rollout.transition.observation),
            actor=eqx.apply_updates(state.actor, direction),
            critic=eqx.apply_updates(state.critic, value_direction),
            actor_optimiser=actor_optimiser,
            critic_optimiser=critic_optimiser,
            episodes=state.episodes,
            key=state.key,
            iteration=state.iteration + 1,
        )
        return state, {**episode_metrics(data.finished), **metrics, "loss/value": value_loss}

    def samples(self, state: ActorCriticState, rollout: Rollout, age: Int[Array, "T B"]) -> Samples:
        """δ and the critic's target, flattened to [T·B]; `age` counts the steps since the episode began."""
        transition = rollout.transition
        features = state.inputs(transition.observation)
        values = value(state.critic, jnp.stack([features, state.inputs(transition.next_observation)]))
        error = td_error(transition.reward, values[0], values[1], transition.continues, self.discount)
        weight = self.discount ** age.astype(jnp.float32) if self.discounted_states else jnp.ones_like(error)
        return Samples(
            features=flatten(features),
            action=flatten(transition.action),
            action_mask=flatten(rollout.action_mask),
            error=flatten(error),
            value_target=flatten(error + values[0]),
            weight=flatten(weight),
        )

    def policy_loss(self, actor: Actor, samples: Samples) -> tuple[Float[Array, ""], Metrics]:
        """−E[I δ log π] − c_h E[H]."""
        distribution = actor.head.distribution(actor.network(samples.features), samples.action_mask)
        log_prob = distribution.log_prob(samples.action)
        score = means.mean(losses.score_function(log_prob, samples.weight * samples.error))
        entropy = means.mean(distribution.entropy())
        return score - self.entropy_weight * entropy, {"loss/policy": score, "policy/entropy": entropy}

    def value_loss(self, critic: MLP | Convolution, samples: Samples) -> Float[Array, ""]:
        """E[½(V − (r + γV(s′)))²], the target held fixed."""
        return means.mean(losses.squared_error(value(critic, samples.features), samples.value_target))
