"""Advantage actor–critic for policies with memory: one gradient step per rollout, through the memory that made it.

V. Mnih et al., "Asynchronous methods for deep reinforcement learning", ICML 2016 (its recurrent agent), in step.

    repeat
        run π(a | what was seen of the episode) in B environments for T steps
        h_t ← the memory after s_t, unrolled from the one that the rollout began with, zeros where an episode begins
        V(s_t) ← critic(h_t),  V(s′_t) ← critic(GRU(s′_t, h_t))
        Â_t ← generalised advantage (λ = 1: n-step returns up to the rollout's end), V̂_t ← Â_t + V(s_t)
        ascend  E[Â log π] − c_v E[½(V − V̂)²] + c_h E[H(π)]        once, back through all T steps of the memory

How this differs from `a2c`: the rollout is unrolled and not flattened, and gradients reach back over the T steps of it,
never across an episode's end.  T is longer than the five steps of `a2c`, or nothing could be learned to be remembered
for longer.
"""

from typing import Any, ClassVar, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from bellmark.algorithms.base import AbstractLearner
from bellmark.algorithms.checks import at_least, encoded, fraction, positive
from bellmark.algorithms.descent import clipped_descent
from bellmark.experience.appraisal import advantages, appraise_remembering
from bellmark.experience.memory import begun
from bellmark.experience.normalisation import RewardScale
from bellmark.experience.policy import Inputs, RecurrentPolicy, value
from bellmark.experience.rollout import episode_metrics
from bellmark.maths import losses, means
from bellmark.networks.heads import Head, head_for
from bellmark.networks.mlp import MLP, Activation
from bellmark.networks.recurrent import Recurrent
from bellmark.types import Episodes, Finished, Key, Metrics, Rollout


class Networks(eqx.Module):
    """Everything that the gradient moves: one memory, read by actor and critic."""

    core: Recurrent
    actor: MLP
    head: Head
    critic: MLP


class Steps(eqx.Module):
    """A rollout in order, with what the policy and the critic are to learn from it."""

    memory: Float[Array, "B H"]
    features: Float[Array, "T B *F"]
    begins: Bool[Array, "T B"]
    action: Array
    action_mask: Array | None
    advantage: Float[Array, "T B"]
    value: Float[Array, "T B"]
    value_target: Float[Array, "T B"]


class RecurrentA2CState(eqx.Module):
    inputs: Inputs
    networks: Networks
    optimiser: Any
    reward_scale: RewardScale | None
    episodes: Episodes
    key: Key
    iteration: Int[Array, ""]
    horizon: Int[Array, ""]


class RecurrentA2C(AbstractLearner):
    """Advantage actor–critic with a memory (GRU), for what one observation does not tell."""

    name: ClassVar[str] = "recurrent_a2c"

    discount: float = 0.99
    trace_decay: float = 1.0
    learning_rate: float = 7e-4
    anneal: bool = True
    optimiser: Literal["rmsprop", "adam"] = "rmsprop"
    environments: int = 8
    rollout_length: int = 20
    entropy_weight: float = 0.01
    value_weight: float = 0.5
    max_gradient_norm: float = 0.5
    normalise_advantage: bool = False
    normalise_observations: bool = False
    normalise_rewards: bool = False
    hidden: tuple[int, ...] = (64,)
    memory: int = 64
    activation: Activation = "tanh"
    initial_log_std: float = 0.0

    def check(self, problem) -> None:
        head_for(problem.action_space)
        fraction("discount", self.discount)
        fraction("trace_decay", self.trace_decay)
        encoded(self.hidden)
        positive(learning_rate=self.learning_rate, max_gradient_norm=self.max_gradient_norm)
        at_least(0, entropy_weight=self.entropy_weight, value_weight=self.value_weight)
        at_least(1, environments=self.environments, rollout_length=self.rollout_length, memory=self.memory)

    def steps_per_iteration(self, problem) -> int:
        return self.environments * self.rollout_length

    @property
    def transformation(self) -> optax.GradientTransformation:
        return clipped_descent(self.max_gradient_norm, self.optimiser)

    def init(self, problem, key: Key) -> RecurrentA2CState:
        key, core_key, actor_key, critic_key, episodes_key = jax.random.split(key, 5)
        inputs = Inputs.start(problem.observation_space, self.normalise_observations)
        head = head_for(problem.action_space, self.initial_log_std)
        networks = Networks(
            core=inputs.recurrent(self.hidden, self.memory, core_key, activation=self.activation),
            actor=MLP.start(self.memory, (), head.outputs, actor_key, last_scale=0.01),
            head=head,
            critic=MLP.start(self.memory, (), 1, critic_key, last_scale=1.0),
        )
        policy = RecurrentPolicy(inputs, networks.core, networks.actor, head)
        return RecurrentA2CState(
            inputs=inputs,
            networks=networks,
            optimiser=self.transformation.init(networks),
            reward_scale=RewardScale.start(self.environments) if self.normalise_rewards else None,
            episodes=begun(problem.start(episodes_key, self.environments), policy),
            key=key,
            iteration=jnp.array(0, jnp.int32),
            horizon=jnp.array(max(problem.budget // self.steps_per_iteration(problem), 1), jnp.int32),
        )

    def policy(self, state: RecurrentA2CState) -> RecurrentPolicy:
        networks = state.networks
        return RecurrentPolicy(state.inputs, networks.core, networks.actor, networks.head)

    def collect(
        self, problem, state: RecurrentA2CState
    ) -> tuple[RecurrentA2CState, tuple[Array, Rollout, Finished]]:
        """A rollout, with the memory that each environment's part of it began with."""
        key, rollout_key = jax.random.split(state.key)
        memory = state.episodes.memory
        episodes, rollout, finished = problem.rollout(
            self.policy(state), state.episodes, rollout_key, self.rollout_length
        )
        state = eqx.tree_at(lambda s: (s.episodes, s.key), state, (episodes, key))
        return state, (memory, rollout, finished)

    def update(
        self, state: RecurrentA2CState, data: tuple[Array, Rollout, Finished]
    ) -> tuple[RecurrentA2CState, Metrics]:
        memory, rollout, finished = data
        steps = self.unrolled(state, memory, rollout)
        remaining = 1.0 - state.iteration / state.horizon if self.anneal else 1.0
        learning_rate = self.learning_rate * jnp.maximum(remaining, 0.0)

        gradient, metrics = jax.grad(self.loss, has_aux=True)(state.networks, steps)
        direction, optimiser = self.transformation.update(gradient, state.optimiser, state.networks)
        networks = jax.tree.map(lambda p, d: p - learning_rate * d, state.networks, direction)

        transition = rollout.transition
        reward_scale = state.reward_scale
        if reward_scale is not None:
            reward_scale = reward_scale.seen(transition.reward, transition.unbroken, self.discount)
        state = RecurrentA2CState(
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
            "value/explained_variance": means.explained_variance(steps.value, steps.value_target),
            "optimiser/learning_rate": learning_rate,
            "optimiser/gradient_norm": optax.tree.norm(gradient),
        }

    def unrolled(self, state: RecurrentA2CState, memory: Float[Array, "B H"], rollout: Rollout) -> Steps:
        """Advantages and value targets of a rollout that began with `memory`."""
        networks = state.networks
        appraisal, begins, _ = appraise_remembering(
            rollout,
            state.inputs,
            networks.core,
            lambda memories: value(networks.critic, memories),
            memory,
            state.reward_scale,
        )
        advantage = advantages(rollout, appraisal, self.discount, self.trace_decay)
        return Steps(
            memory=memory,
            features=appraisal.features,
            begins=begins,
            action=rollout.transition.action,
            action_mask=rollout.action_mask,
            advantage=advantage,
            value=appraisal.value,
            value_target=advantage + appraisal.value,
        )

    def loss(self, networks: Networks, steps: Steps) -> tuple[Float[Array, ""], Metrics]:
        """What is descended: −Â log π + c_v · value error − c_h · entropy."""
        memories = networks.core.unroll(steps.features, steps.begins, steps.memory)
        distribution = networks.head.distribution(networks.actor(memories), steps.action_mask)
        advantage = means.standardise(steps.advantage) if self.normalise_advantage else steps.advantage
        policy_loss = means.mean(losses.score_function(distribution.log_prob(steps.action), advantage))
        prediction = value(networks.critic, memories)
        value_loss = means.mean(losses.squared_error(prediction, steps.value_target))
        entropy = means.mean(distribution.entropy())
        return policy_loss + self.value_weight * value_loss - self.entropy_weight * entropy, {
            "loss/policy": policy_loss,
            "loss/value": value_loss,
            "policy/entropy": entropy,
        }
