"""Soft actor–critic.

T. Haarnoja, A. Zhou, P. Abbeel, S. Levine, "Soft actor-critic: Off-policy maximum entropy deep reinforcement learning
with a stochastic actor", 2018, and T. Haarnoja et al., "Soft actor-critic algorithms and applications", 2018 (automatic
temperature, two critics, no separate V).

    repeat
        take steps a ~ π(·|s) in B environments (at first uniform ones), put (s, a, r, s′) into the replay memory D
        for every K steps taken, once D holds enough, G times:
            sample N transitions from D
            a′ ~ π(·|s′);  y ← r + γ c (min_k Q̂_k(s′, a′) − α log π(a′|s′))      c: 0 where the process terminated
            descend  E[Σ_k ½ (Q_k(s, a) − y)²]                                    the critics
            ã ~ π(·|s);  ascend  E[min_k Q_k(s, ã) − α log π(ã|s)]                through ã = tanh(μ + σε)
            descend  E[log α · (−log π(ã|s) − H̄)],  H̄ = −dim A                    the temperature
            Q̂ ← Q̂ + τ (Q − Q̂)
"""

from typing import Any, ClassVar, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt32

from bellmark.algorithms import replayed
from bellmark.algorithms.base import AbstractLearner
from bellmark.algorithms.checks import at_least, positive
from bellmark.algorithms.continuous import actor_critics
from bellmark.algorithms.continuous.actor_critics import ADAM, critic_step, descend, temperature_step
from bellmark.algorithms.replayed import Data, ReplayState
from bellmark.experience.policy import Inputs, StochasticPolicy
from bellmark.experience.replay import Batch
from bellmark.maths import means
from bellmark.maths.soft import soft_value
from bellmark.networks.actors import Bounds, Critics, SquashedHead, squashed
from bellmark.networks.mlp import MLP, Activation
from bellmark.networks.targets import towards
from bellmark.types import Key, Metrics


class Learned(eqx.Module):
    """What an update moves; `optimisers` are the actor's, the critics' and the temperature's."""

    actor: MLP
    critics: Critics
    targets: Critics
    log_temperature: Float[Array, ""]
    optimisers: Any


class SAC(AbstractLearner):
    """Soft actor–critic: as much return as possible while acting as randomly as possible."""

    name: ClassVar[str] = "sac"
    measured: ClassVar[tuple[str, ...]] = (
        "loss/critic",
        "loss/policy",
        "value/prediction",
        "value/target",
        "policy/entropy",
        "policy/temperature",
    )

    discount: float = 0.99
    learning_rate: float = 3e-4
    anneal: bool = False
    environments: int = 1
    rollout_length: int = 4
    train_every: int = 1
    gradient_steps: int = 1
    batch_size: int = 256
    replay_capacity: int = 300_000
    replay_memory: Literal["compiled", "host"] = "compiled"
    learning_start: int = 1_000
    n_step: int = 1
    critics: int = 2
    target_rate: float = 0.005
    temperature: float = 1.0
    automatic_temperature: bool = True
    target_entropy: float | None = None
    noise_hold: int = 1
    normalise_observations: bool = False
    hidden: tuple[int, ...] = (256, 256)
    activation: Activation = "relu"

    def check(self, problem) -> None:
        Bounds.of(problem.action_space, self.name)
        actor_critics.check(self, problem)
        actor_critics.check_hold(self)
        positive(temperature=self.temperature)
        at_least(1, critics=self.critics)

    def steps_per_iteration(self, problem) -> int:
        return self.environments * self.rollout_length

    def init(self, problem, key: Key) -> ReplayState:
        key, actor_key, critic_key, episodes_key = jax.random.split(key, 4)
        inputs = Inputs.start(problem.observation_space, self.normalise_observations)
        bounds = Bounds.of(problem.action_space, self.name)
        size, outputs = actor_critics.feature_size(inputs), 2 * bounds.size
        actor = MLP.start(size, self.hidden, outputs, actor_key, activation=self.activation, last_scale=0.01)
        critics = Critics.start(self.critics, size + bounds.size, self.hidden, critic_key, self.activation)
        log_temperature = jnp.log(jnp.array(self.temperature, jnp.float32))
        learned = Learned(
            actor=actor,
            critics=critics,
            targets=critics,
            log_temperature=log_temperature,
            optimisers=tuple(ADAM.init(part) for part in (actor, critics, log_temperature)),
        )
        return actor_critics.start(self, problem, inputs, bounds, learned, (key, episodes_key))

    def policy(self, state: ReplayState) -> StochasticPolicy:
        head = SquashedHead(state.replay.size < self.learning_start, state.outputs, self.noise_hold)
        return StochasticPolicy(state.inputs, state.learned.actor, head)

    def collect(self, problem, state: ReplayState) -> tuple[ReplayState, Data]:
        return replayed.collect(self, problem, state, self.policy(state))

    def update(self, state: ReplayState, data: Data) -> tuple[ReplayState, Metrics]:
        return replayed.update(self, state, data, self.learn, self.measured, (2,))

    def learn(
        self,
        learned: Learned,
        state: ReplayState,
        bits: UInt32[Array, " N"],
        noise: Float[Array, "2 N D"],
        learning_rate: Any,
    ) -> tuple[Learned, Metrics]:
        """One update of everything: critics, actor, temperature, targets."""
        batch = state.replay.take(state.replay.draw(bits), self.discount, self.n_step)
        features, unit = state.inputs(batch.observation), state.outputs.unit(batch.action)
        target = self.targets(learned, state.inputs, batch, noise[0])
        temperature = jnp.exp(learned.log_temperature)
        for_actor, for_critics, for_temperature = learned.optimisers

        critics, for_critics, value, q = critic_step(
            learned.critics, for_critics, lambda c: c(features, unit), target, learning_rate
        )

        def actor_loss(actor):
            distribution = squashed(actor(features))
            chosen, log_prob = distribution.transform_with_log_prob(noise[1])
            return -means.mean(soft_value(critics(features, chosen), log_prob, temperature)), log_prob

        (policy_loss, log_prob), gradient = jax.value_and_grad(actor_loss, has_aux=True)(learned.actor)
        actor, for_actor = descend(learned.actor, gradient, for_actor, learning_rate)

        log_temperature = learned.log_temperature
        if self.automatic_temperature:
            wanted = -float(state.outputs.size) if self.target_entropy is None else self.target_entropy
            log_temperature, for_temperature = temperature_step(
                log_temperature, for_temperature, -log_prob, wanted, learning_rate
            )
        return Learned(
            actor=actor,
            critics=critics,
            targets=towards(learned.targets, critics, self.target_rate),
            log_temperature=log_temperature,
            optimisers=(for_actor, for_critics, for_temperature),
        ), {
            "loss/critic": value,
            "loss/policy": policy_loss,
            "value/prediction": means.mean(q[0]),
            "value/target": means.mean(target),
            "policy/entropy": -means.mean(log_prob),
            "policy/temperature": temperature,
        }

    def targets(
        self, learned: Learned, inputs: Inputs, batch: Batch, noise: Float[Array, "N D"]
    ) -> Float[Array, " N"]:
        """y = r + γ c (min_k Q̂_k(s′, a′) − α log π(a′|s′)), a′ ~ π(·|s′)."""
        features = inputs(batch.next_observation)
        chosen, log_prob = squashed(learned.actor(features)).transform_with_log_prob(noise)
        value = soft_value(learned.targets(features, chosen), log_prob, jnp.exp(learned.log_temperature))
        return batch.reward + batch.discount * value
