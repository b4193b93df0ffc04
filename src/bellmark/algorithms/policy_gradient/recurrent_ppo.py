"""Proximal policy optimisation for policies with memory.

J. Schulman et al., "Proximal policy optimization algorithms", 2017; the memory is a gated recurrent unit, and gradients
flow back through time within a sequence (P. J. Werbos, "Backpropagation through time", 1990).

    repeat
        run π_old(a | what was seen of the episode) in B environments for T steps
        h_t ← the memory after s_t, unrolled from the rollout's start, zeros where an episode begins
        V(s_t) ← critic(h_t),  V(s′_t) ← critic(GRU(s′_t, h_t))
        Â_t ← generalised advantage, V̂_t ← Â_t + V(s_t)
        for each of E epochs, for each of M minibatches of the sequences
            unroll each sequence from the memory that it began with, under the present parameters
            ascend  E[min(ρÂ, clip(ρ, 1−ε, 1+ε)Â)] − c_v E[½(V − V̂)²] + c_h E[H(π)]

How this differs from `ppo`: the steps of one environment stay together and in order.  A sequence is an environment's
whole rollout, or `sequence_length` steps of it; the memory that it begins with is the one that acted (stored, and not
recomputed as the parameters change: R. Kapturowski et al., "Recurrent experience replay", 2019, compare the choices).
V of the true successor takes the memory that belongs to it, also where a time limit cut the episode; nothing is
remembered, and no gradient flows, from one episode into the next.
"""

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from bellmark.algorithms.base import AbstractLearner
from bellmark.algorithms.checks import at_least, divides, encoded, fraction, positive
from bellmark.algorithms.descent import clipped_descent
from bellmark.experience.appraisal import advantages, appraise_remembering
from bellmark.experience.memory import begun
from bellmark.experience.minibatches import minibatch_indices
from bellmark.experience.normalisation import RewardScale
from bellmark.experience.policy import Inputs, RecurrentPolicy, value
from bellmark.experience.rollout import episode_metrics
from bellmark.maths import divergences, losses, means
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


class Sequences(eqx.Module):
    """A rollout as `S` sequences of `L` steps: what a minibatch is drawn from."""

    memory: Float[Array, "S H"]
    features: Float[Array, "L S *F"]
    begins: Bool[Array, "L S"]
    action: Array
    action_mask: Array | None
    log_prob: Float[Array, "L S"]
    advantage: Float[Array, "L S"]
    value: Float[Array, "L S"]
    value_target: Float[Array, "L S"]


class RecurrentPPOState(eqx.Module):
    inputs: Inputs
    networks: Networks
    optimiser: Any
    reward_scale: RewardScale | None
    episodes: Episodes
    key: Key
    iteration: Int[Array, ""]
    horizon: Int[Array, ""]


class RecurrentPPO(AbstractLearner):
    """Proximal policy optimisation with a memory (GRU), for what one observation does not tell."""

    name: ClassVar[str] = "recurrent_ppo"

    discount: float = 0.99
    trace_decay: float = 0.95
    clip: float = 0.2
    learning_rate: float = 2.5e-4
    anneal: bool = True
    environments: int = 8
    rollout_length: int = 128
    sequence_length: int | None = None
    epochs: int = 4
    minibatches: int = 4
    entropy_weight: float = 0.01
    value_weight: float = 0.5
    value_clip: float | None = None
    max_gradient_norm: float = 0.5
    normalise_advantage: bool = True
    normalise_observations: bool = False
    normalise_rewards: bool = False
    hidden: tuple[int, ...] = (64,)
    memory: int = 64
    activation: Activation = "tanh"
    initial_log_std: float = 0.0

    def check(self, problem) -> None:
        head_for(problem.action_space)
        fraction("discount", self.discount)
        encoded(self.hidden)
        fraction("trace_decay", self.trace_decay)
        positive(clip=self.clip, learning_rate=self.learning_rate, max_gradient_norm=self.max_gradient_norm)
        if self.value_clip is not None:
            positive(value_clip=self.value_clip)
        at_least(0, entropy_weight=self.entropy_weight, value_weight=self.value_weight)
        at_least(
            1,
            environments=self.environments,
            rollout_length=self.rollout_length,
            sequence_length=self.steps_together,
            epochs=self.epochs,
            minibatches=self.minibatches,
            memory=self.memory,
        )
        divides("sequence_length", self.steps_together, "rollout_length", self.rollout_length)
        together = "environments" if self.sequence_length is None else "environments × sequences per rollout"
        divides("minibatches", self.minibatches, together, self.sequences)

    def steps_per_iteration(self, problem) -> int:
        return self.environments * self.rollout_length

    @property
    def steps_together(self) -> int:
        """Steps in a sequence: the whole rollout, unless `sequence_length` says otherwise."""
        return self.rollout_length if self.sequence_length is None else self.sequence_length

    @property
    def sequences(self) -> int:
        """Sequences in a rollout of all environments."""
        return self.environments * (self.rollout_length // self.steps_together)

    @property
    def optimiser(self) -> optax.GradientTransformation:
        return clipped_descent(self.max_gradient_norm)

    def init(self, problem, key: Key) -> RecurrentPPOState:
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
        return RecurrentPPOState(
            inputs=inputs,
            networks=networks,
            optimiser=self.optimiser.init(networks),
            reward_scale=RewardScale.start(self.environments) if self.normalise_rewards else None,
            episodes=begun(problem.start(episodes_key, self.environments), policy),
            key=key,
            iteration=jnp.array(0, jnp.int32),
            horizon=jnp.array(max(problem.budget // self.steps_per_iteration(problem), 1), jnp.int32),
        )

    def policy(self, state: RecurrentPPOState) -> RecurrentPolicy:
        networks = state.networks
        return RecurrentPolicy(state.inputs, networks.core, networks.actor, networks.head)

    def collect(
        self, problem, state: RecurrentPPOState
    ) -> tuple[RecurrentPPOState, tuple[Array, Rollout, Finished]]:
        """A rollout, with the memory that each environment's part of it began with."""
        key, rollout_key = jax.random.split(state.key)
        memory = state.episodes.memory
        episodes, rollout, finished = problem.rollout(
            self.policy(state), state.episodes, rollout_key, self.rollout_length
        )
        state = eqx.tree_at(lambda s: (s.episodes, s.key), state, (episodes, key))
        return state, (memory, rollout, finished)

    def update(
        self, state: RecurrentPPOState, data: tuple[Array, Rollout, Finished]
    ) -> tuple[RecurrentPPOState, Metrics]:
        memory, rollout, finished = data
        key, minibatch_key = jax.random.split(state.key)
        sequences = self.unrolled(state, memory, rollout)
        remaining = 1.0 - state.iteration / state.horizon if self.anneal else 1.0
        learning_rate = self.learning_rate * jnp.maximum(remaining, 0.0)

        def descend(carry, index):
            networks, optimiser = carry
            gradient, metrics = jax.grad(self.loss, has_aux=True)(networks, chosen(sequences, index))
            direction, optimiser = self.optimiser.update(gradient, optimiser, networks)
            networks = jax.tree.map(lambda p, d: p - learning_rate * d, networks, direction)
            return (networks, optimiser), metrics

        indices = minibatch_indices(minibatch_key, self.sequences, self.minibatches, self.epochs)
        (networks, optimiser), metrics = jax.lax.scan(descend, (state.networks, state.optimiser), indices)

        transition = rollout.transition
        reward_scale = state.reward_scale
        if reward_scale is not None:
            reward_scale = reward_scale.seen(transition.reward, transition.unbroken, self.discount)
        state = RecurrentPPOState(
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
            "value/explained_variance": means.explained_variance(sequences.value, sequences.value_target),
            "optimiser/learning_rate": learning_rate,
        }

    def unrolled(self, state: RecurrentPPOState, memory: Float[Array, "B H"], rollout: Rollout) -> Sequences:
        """Advantages and value targets of a rollout that began with `memory`, cut into sequences."""
        networks = state.networks
        appraisal, begins, memories = appraise_remembering(
            rollout,
            state.inputs,
            networks.core,
            lambda memories: value(networks.critic, memories),
            memory,
            state.reward_scale,
        )
        advantage = advantages(rollout, appraisal, self.discount, self.trace_decay)
        behaviour = networks.head.distribution(rollout.remembered, rollout.action_mask)
        length = self.steps_together
        starts = jnp.concatenate([memory[None], memories[length - 1 : -1 : length]])

        def cut(x):
            """[T, B, …] to [L, S, …]: every sequence is consecutive steps of one environment."""
            parts = x.reshape(-1, length, *x.shape[1:]).swapaxes(0, 1)
            return parts.reshape(length, -1, *x.shape[2:])

        return Sequences(
            memory=starts.reshape(-1, starts.shape[-1]),
            features=cut(appraisal.features),
            begins=cut(begins),
            action=cut(rollout.transition.action),
            action_mask=None if rollout.action_mask is None else cut(rollout.action_mask),
            log_prob=cut(behaviour.log_prob(rollout.transition.action)),
            advantage=cut(advantage),
            value=cut(appraisal.value),
            value_target=cut(advantage + appraisal.value),
        )

    def loss(self, networks: Networks, sequences: Sequences) -> tuple[Float[Array, ""], Metrics]:
        """What a minibatch descends: −surrogate + c_v · value error − c_h · entropy."""
        memories = networks.core.unroll(sequences.features, sequences.begins, sequences.memory)
        distribution = networks.head.distribution(networks.actor(memories), sequences.action_mask)
        log_prob = distribution.log_prob(sequences.action)
        advantage = sequences.advantage
        if self.normalise_advantage:
            advantage = means.standardise(advantage)
        surrogate = losses.clipped_surrogate(log_prob, sequences.log_prob, advantage, self.clip)

        prediction = value(networks.critic, memories)
        if self.value_clip is None:
            error = losses.squared_error(prediction, sequences.value_target)
        else:
            error = losses.clipped_squared_error(
                prediction, sequences.value, sequences.value_target, self.value_clip
            )
        policy_loss, value_loss = means.mean(surrogate), means.mean(error)
        entropy = means.mean(distribution.entropy())
        ratio = jnp.exp(log_prob - sequences.log_prob)
        return policy_loss + self.value_weight * value_loss - self.entropy_weight * entropy, {
            "loss/policy": policy_loss,
            "loss/value": value_loss,
            "policy/entropy": entropy,
            "policy/kl": means.mean(divergences.k3(log_prob, sequences.log_prob)),
            "policy/clipped": means.mean((jnp.abs(ratio - 1.0) > self.clip).astype(jnp.float32)),
        }


def chosen(sequences: Sequences, index: Int[Array, " N"]) -> Sequences:
    """The sequences `index`, every one of them whole."""
    picked = jax.tree.map(lambda x: x[:, index], eqx.tree_at(lambda s: s.memory, sequences, None))
    return eqx.tree_at(lambda s: s.memory, picked, sequences.memory[index], is_leaf=lambda x: x is None)
