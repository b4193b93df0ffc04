"""Soft actor–critic for numbered actions.

P. Christodoulou, "Soft actor-critic for discrete action settings", 2019.  What SAC must sample is summed here: the
actor's probabilities of all actions are known.

    repeat
        take steps a ~ π(·|s) in B environments, put (s, a, r, s′) into the replay memory D
        for every K steps taken, once D holds enough, G times:
            sample N transitions from D
            y ← r + γ c Σ_a′ π(a′|s′) (min_k Q̂_k(s′, a′) − α log π(a′|s′))      c: 0 where the process terminated
            descend  E[Σ_k ½ (Q_k(s, a) − y)²]                                   the critics
            ascend  E[Σ_a π(a|s) (min_k Q_k(s, a) − α log π(a|s))]               the actor
            descend  E[log α · (H(π(·|s)) − H̄)]                                  the temperature, if it is automatic
            Q̂ ← Q̂ + τ (Q − Q̂)

With α held fixed, what it comes to is the soft optimum π(a|s) ∝ exp(Q(s, a)/α) of `soft_value_iteration`.
"""

import functools
import math
from typing import Any, ClassVar, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt32

from bellmark.algorithms import replayed
from bellmark.algorithms.base import AbstractLearner
from bellmark.algorithms.checks import at_least, check_discrete, positive
from bellmark.algorithms.continuous import actor_critics
from bellmark.algorithms.continuous.actor_critics import ADAM, critic_step, descend, temperature_step
from bellmark.algorithms.replayed import Data, ReplayState
from bellmark.experience.policy import Inputs, StochasticPolicy
from bellmark.experience.replay import Batch
from bellmark.maths import means
from bellmark.maths.action_values import value_of
from bellmark.maths.distributions import Categorical, mask_logits
from bellmark.maths.soft import expected_soft_value
from bellmark.networks.heads import CategoricalHead
from bellmark.networks.mlp import MLP, Activation
from bellmark.networks.targets import towards
from bellmark.types import Key, Metrics


class Learned(eqx.Module):
    """What an update moves; `optimisers` are the actor's, the critics' and the temperature's."""

    actor: MLP
    critics: tuple[MLP, ...]
    targets: tuple[MLP, ...]
    log_temperature: Float[Array, ""]
    optimisers: Any


class DiscreteSAC(AbstractLearner):
    """Soft actor–critic for numbered actions."""

    name: ClassVar[str] = "discrete_sac"
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
    environments: int = 4
    rollout_length: int = 4
    train_every: int = 2
    gradient_steps: int = 1
    batch_size: int = 64
    replay_capacity: int = 100_000
    replay_memory: Literal["compiled", "host"] = "compiled"
    learning_start: int = 1_000
    n_step: int = 1
    critics: int = 2
    target_rate: float = 0.005
    temperature: float = 0.1
    automatic_temperature: bool = False
    target_entropy: float | None = None
    normalise_observations: bool = False
    hidden: tuple[int, ...] = (64, 64)
    activation: Activation = "relu"

    def check(self, problem) -> None:
        check_discrete(self.name, problem)
        actor_critics.check(self, problem)
        positive(temperature=self.temperature)
        at_least(1, critics=self.critics)

    def steps_per_iteration(self, problem) -> int:
        return self.environments * self.rollout_length

    def init(self, problem, key: Key) -> ReplayState:
        key, actor_key, critic_key, episodes_key = jax.random.split(key, 4)
        inputs = Inputs.start(problem.observation_space, self.normalise_observations)
        size, actions = actor_critics.feature_size(inputs), int(problem.action_space.n)
        start = functools.partial(MLP.start, size, self.hidden, actions, activation=self.activation)
        actor = start(actor_key, last_scale=0.01)
        critics = tuple(start(k) for k in jax.random.split(critic_key, self.critics))
        log_temperature = jnp.log(jnp.array(self.temperature, jnp.float32))
        learned = Learned(
            actor=actor,
            critics=critics,
            targets=critics,
            log_temperature=log_temperature,
            optimisers=tuple(ADAM.init(part) for part in (actor, critics, log_temperature)),
        )
        return actor_critics.start(self, problem, inputs, None, learned, (key, episodes_key))

    def policy(self, state: ReplayState) -> StochasticPolicy:
        actions = state.learned.actor.sizes[-1][1]
        return StochasticPolicy(state.inputs, state.learned.actor, CategoricalHead(actions))

    def collect(self, problem, state: ReplayState) -> tuple[ReplayState, Data]:
        return replayed.collect(self, problem, state, self.policy(state))

    def update(self, state: ReplayState, data: Data) -> tuple[ReplayState, Metrics]:
        return replayed.update(self, state, data, self.learn, self.measured, ())

    def learn(
        self,
        learned: Learned,
        state: ReplayState,
        bits: UInt32[Array, " N"],
        noise: Float[Array, "N 0"],
        learning_rate: Any,
    ) -> tuple[Learned, Metrics]:
        """One update of everything: critics, actor, temperature, targets; nothing is sampled but the batch."""
        batch = state.replay.take(state.replay.draw(bits), self.discount, self.n_step)
        features = state.inputs(batch.observation)
        target = self.targets(learned, state.inputs, batch)
        temperature = jnp.exp(learned.log_temperature)
        for_actor, for_critics, for_temperature = learned.optimisers

        def values(critics):
            return jnp.stack([value_of(critic(features), batch.action) for critic in critics])

        critics, for_critics, value, prediction = critic_step(
            learned.critics, for_critics, values, target, learning_rate
        )
        q = jnp.stack([critic(features) for critic in critics])

        def actor_loss(actor):
            policy = Categorical(mask_logits(actor(features), batch.action_mask))
            value = expected_soft_value(q, policy.log_probs, temperature)
            return -means.mean(value), policy.entropy()

        (policy_loss, entropy), gradient = jax.value_and_grad(actor_loss, has_aux=True)(learned.actor)
        actor, for_actor = descend(learned.actor, gradient, for_actor, learning_rate)

        log_temperature = learned.log_temperature
        if self.automatic_temperature:
            # 0.98 of the largest entropy is the paper's; it leaves hardly any policy but the random one
            most = math.log(q.shape[-1])
            wanted = 0.5 * most if self.target_entropy is None else self.target_entropy
            log_temperature, for_temperature = temperature_step(
                log_temperature, for_temperature, entropy, wanted, learning_rate
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
            "value/prediction": means.mean(prediction[0]),
            "value/target": means.mean(target),
            "policy/entropy": means.mean(entropy),
            "policy/temperature": temperature,
        }

    def targets(self, learned: Learned, inputs: Inputs, batch: Batch) -> Float[Array, " N"]:
        """y = r + γ c Σ_a′ π(a′|s′) (min_k Q̂_k(s′, a′) − α log π(a′|s′))."""
        features = inputs(batch.next_observation)
        policy = Categorical(mask_logits(learned.actor(features), batch.next_action_mask))
        q = jnp.stack([critic(features) for critic in learned.targets])
        value = expected_soft_value(q, policy.log_probs, jnp.exp(learned.log_temperature))
        return batch.reward + batch.discount * value
