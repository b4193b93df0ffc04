"""One-step actor–critic whose critic is Q: both forms of the policy gradient.

R. S. Sutton, D. McAllester, S. Singh, Y. Mansour, "Policy gradient methods for reinforcement learning with function
approximation", NeurIPS 1999; all actions at once: C. Allen et al., "Mean actor critic", 2017.

    repeat
        a ~ π(·|s); take a; see r and s′                                in B environments
        a′ ~ π(·|s′), for the target only: the next step draws its own
        Q(s, a) moves towards r + γ Q(s′, a′)                           Q(s′, ·) = 0 where the process terminated
        ascend  I (Q(s, a) − b) log π(a|s)                              the sampled score
            or  I Σ_a π(a|s) Q(s, a)                                    all actions, where they are numbered
        both with + c_h H(π);  I = γ^t with `discounted_states`, otherwise 1

The two forms have the same mean; the second is free of the noise of drawing a.  The baseline b of the first is Q(s, ã)
with ã ~ π(·|s) drawn beside a, so b knows the state and not the action.  What multiplies the score is Q, not the
critic's own error: δ = Q − (r + γQ′), as some notes define it, would point downhill.
"""

import dataclasses
from typing import Any, ClassVar, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from gymnasium import spaces
from jaxtyping import Array, Float, Int

from bellmark.algorithms.base import AbstractLearner
from bellmark.algorithms.checks import at_least, fraction, layer_sizes, positive
from bellmark.envs.spaces import flat_size
from bellmark.errors import BadInput
from bellmark.experience.minibatches import flatten
from bellmark.experience.policy import Inputs, StochasticPolicy
from bellmark.experience.rollout import episode_metrics, two_keys
from bellmark.maths import losses, means
from bellmark.networks.action_value import ActionValue
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
    advantage: Float[Array, " N"]
    action_values: Float[Array, "N A"] | None
    value_target: Float[Array, " N"]
    weight: Float[Array, " N"]


class Taken(eqx.Module):
    """One step of every environment, and how many steps of the episode came before it."""

    rollout: Rollout
    age: Int[Array, "T B"]
    finished: Finished


class QActorCriticState(eqx.Module):
    inputs: Inputs
    actor: Actor
    critic: ActionValue
    actor_optimiser: Any
    critic_optimiser: Any
    episodes: Episodes
    key: Key
    iteration: Int[Array, ""]


class QActorCritic(AbstractLearner):
    """One-step actor–critic with an action-value critic, updated after every step."""

    name: ClassVar[str] = "q_actor_critic"

    discount: float = 0.99
    gradient: Literal["sampled", "all_actions"] = "sampled"
    baseline: bool = True
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
        numbered = isinstance(problem.action_space, spaces.Discrete)
        if self.gradient == "all_actions" and not numbered:
            raise BadInput(
                f"gradient is all_actions; {problem.action_space} has no list of actions to sum over: "
                "sampled is allowed"
            )
        if not numbered and Inputs.start(problem.observation_space).image:
            raise BadInput(
                f"a critic of images and actions of {problem.action_space} is not there; Discrete actions are allowed, "
                "or the algorithm actor_critic"
            )
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

    def init(self, problem, key: Key) -> QActorCriticState:
        key, actor_key, critic_key, episodes_key = jax.random.split(key, 4)
        inputs = Inputs.start(problem.observation_space, self.normalise_observations)
        head = head_for(problem.action_space, self.initial_log_std)
        network = inputs.network(
            self.hidden, head.outputs, actor_key, activation=self.activation, last_scale=0.01
        )
        actor = Actor(network, head)
        more, outputs = ActionValue.layout(head)
        valued: MLP | Convolution
        if more:
            size = flat_size(problem.observation_space) + more
            valued = MLP.start(size, self.hidden, outputs, critic_key, activation=self.activation)
        else:
            valued = inputs.network(self.hidden, outputs, critic_key, activation=self.activation)
        critic = ActionValue.of(valued, head)
        return QActorCriticState(
            inputs=inputs,
            actor=actor,
            critic=critic,
            actor_optimiser=self.transformation(self.learning_rate).init(actor),
            critic_optimiser=self.transformation(self.value_learning_rate).init(critic),
            episodes=problem.start(episodes_key, self.environments),
            key=key,
            iteration=jnp.array(0, jnp.int32),
        )

    def policy(self, state: QActorCriticState) -> StochasticPolicy:
        return StochasticPolicy(state.inputs, state.actor.network, state.actor.head)

    def collect(self, problem, state: QActorCriticState) -> tuple[QActorCriticState, Taken]:
        key, rollout_key = two_keys(state.key)
        age = state.episodes.length[None]
        episodes, rollout, finished = problem.rollout(self.policy(state), state.episodes, rollout_key, 1)
        state = dataclasses.replace(state, episodes=episodes, key=key)
        return state, Taken(rollout, age, finished)

    def update(self, state: QActorCriticState, data: Taken) -> tuple[QActorCriticState, Metrics]:
        key, samples_key = jax.random.split(state.key)
        samples = self.samples(state, data.rollout, data.age, samples_key)

        gradient, metrics = jax.grad(self.policy_loss, has_aux=True)(state.actor, samples)
        direction, actor_optimiser = self.transformation(self.learning_rate).update(
            gradient, state.actor_optimiser, state.actor
        )
        value_loss, value_gradient = jax.value_and_grad(self.value_loss)(state.critic, samples)
        value_direction, critic_optimiser = self.transformation(self.value_learning_rate).update(
            value_gradient, state.critic_optimiser, state.critic
        )
        state = QActorCriticState(
            inputs=state.inputs.seen(data.rollout.transition.observation),
            actor=eqx.apply_updates(state.actor, direction),
            critic=eqx.apply_updates(state.critic, value_direction),
            actor_optimiser=actor_optimiser,
            critic_optimiser=critic_optimiser,
            episodes=state.episodes,
            key=key,
            iteration=state.iteration + 1,
        )
        return state, {**episode_metrics(data.finished), **metrics, "loss/value": value_loss}

    def samples(
        self, state: QActorCriticState, rollout: Rollout, age: Int[Array, "T B"], key: Key
    ) -> Samples:
        """Q of what was done and the critic's target, flattened to [T·B]; `age` counts the episode's steps so far."""
        transition, policy, critic = rollout.transition, self.policy(state), state.critic
        target_key, baseline_key = jax.random.split(key)
        features = state.inputs(transition.observation)
        following = policy.distribution(transition.next_observation, rollout.next_action_mask)
        next_value = critic(state.inputs(transition.next_observation), following.sample(target_key))
        target = transition.reward + self.discount * transition.continues * next_value
        advantage = critic(features, transition.action)
        if self.baseline:
            beside = policy.distribution(transition.observation, rollout.action_mask).sample(baseline_key)
            advantage = advantage - critic(features, beside)
        every = critic.all(features) if self.gradient == "all_actions" else None
        weight = self.discount ** age.astype(jnp.float32) if self.discounted_states else jnp.ones_like(target)
        return Samples(
            features=flatten(features),
            action=flatten(transition.action),
            action_mask=flatten(rollout.action_mask),
            advantage=flatten(advantage),
            action_values=flatten(every),
            value_target=flatten(target),
            weight=flatten(weight),
        )

    def policy_loss(self, actor: Actor, samples: Samples) -> tuple[Float[Array, ""], Metrics]:
        """−E[I (Q − b) log π] or −E[I Σ_a π Q], and − c_h E[H]."""
        distribution = actor.head.distribution(actor.network(samples.features), samples.action_mask)
        if samples.action_values is not None:
            gain = losses.expected_action_value(distribution.log_probs, samples.action_values)  # type: ignore[union-attr]
        else:
            gain = losses.score_function(distribution.log_prob(samples.action), samples.advantage)
        gain = means.mean(samples.weight * gain)
        entropy = means.mean(distribution.entropy())
        return gain - self.entropy_weight * entropy, {"loss/policy": gain, "policy/entropy": entropy}

    def value_loss(self, critic: ActionValue, samples: Samples) -> Float[Array, ""]:
        """E[½(Q − (r + γQ(s′, a′)))²], the target held fixed."""
        return means.mean(
            losses.squared_error(critic(samples.features, samples.action), samples.value_target)
        )
