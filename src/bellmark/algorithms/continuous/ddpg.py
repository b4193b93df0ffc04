"""Deep deterministic policy gradient.

T. Lillicrap et al., "Continuous control with deep reinforcement learning", 2016.

    repeat
        take steps a = clip(μ(s) + σε) in B environments (at first uniform ones), put (s, a, r, s′) into the memory D
        for every K steps taken, once D holds enough, G times:
            sample N transitions from D
            y ← r + γ c Q̂(s′, μ̂(s′))                                         c: 0 where the process terminated
            descend  E[½ (Q(s, a) − y)²]                                      the critic
            ascend  E[Q(s, μ(s))]                                             the actor, through ∂Q/∂a
            μ̂ ← μ̂ + τ (μ − μ̂),  Q̂ ← Q̂ + τ (Q − Q̂)

The noise is Gaussian and independent from step to step, not an Ornstein–Uhlenbeck process as in the paper: it makes no
difference that later work could find (Fujimoto et al., 2018, section 6).
"""

from typing import Any, ClassVar, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt32

from bellmark.algorithms import replayed
from bellmark.algorithms.base import AbstractLearner
from bellmark.algorithms.checks import at_least
from bellmark.algorithms.continuous import actor_critics
from bellmark.algorithms.continuous.actor_critics import ADAM, critic_step, descend
from bellmark.algorithms.replayed import Data, ReplayState
from bellmark.experience.policy import Inputs, StochasticPolicy
from bellmark.experience.replay import Batch
from bellmark.maths import means
from bellmark.networks.actors import Bounds, Critic, NoisyHead
from bellmark.networks.mlp import MLP, Activation
from bellmark.networks.targets import towards
from bellmark.types import Key, Metrics


class Learned(eqx.Module):
    """What an update moves; `optimisers` are the actor's and the critic's."""

    actor: MLP
    critic: Critic
    target_actor: MLP
    target_critic: Critic
    optimisers: Any


class DDPG(AbstractLearner):
    """Deep deterministic policy gradient: the actor climbs its critic."""

    name: ClassVar[str] = "ddpg"
    measured: ClassVar[tuple[str, ...]] = ("loss/critic", "value/prediction", "value/target")

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
    target_rate: float = 0.005
    exploration_noise: float = 0.1
    noise_hold: int = 1
    normalise_observations: bool = False
    hidden: tuple[int, ...] = (256, 256)
    activation: Activation = "relu"

    def check(self, problem) -> None:
        Bounds.of(problem.action_space, self.name)
        actor_critics.check(self, problem)
        actor_critics.check_hold(self)
        at_least(0, exploration_noise=self.exploration_noise)

    def steps_per_iteration(self, problem) -> int:
        return self.environments * self.rollout_length

    def init(self, problem, key: Key) -> ReplayState:
        key, actor_key, critic_key, episodes_key = jax.random.split(key, 4)
        inputs = Inputs.start(problem.observation_space, self.normalise_observations)
        bounds = Bounds.of(problem.action_space, self.name)
        size = actor_critics.feature_size(inputs)
        actor = MLP.start(
            size, self.hidden, bounds.size, actor_key, activation=self.activation, last_scale=0.01
        )
        critic = Critic.start(size + bounds.size, self.hidden, critic_key, self.activation)
        learned = Learned(
            actor=actor,
            critic=critic,
            target_actor=actor,
            target_critic=critic,
            optimisers=(ADAM.init(actor), ADAM.init(critic)),
        )
        return actor_critics.start(self, problem, inputs, bounds, learned, (key, episodes_key))

    def policy(self, state: ReplayState) -> StochasticPolicy:
        deviation = jnp.array(self.exploration_noise, jnp.float32)
        head = NoisyHead(deviation, state.replay.size < self.learning_start, state.outputs, self.noise_hold)
        return StochasticPolicy(state.inputs, state.learned.actor, head)

    def collect(self, problem, state: ReplayState) -> tuple[ReplayState, Data]:
        return replayed.collect(self, problem, state, self.policy(state))

    def update(self, state: ReplayState, data: Data) -> tuple[ReplayState, Metrics]:
        return replayed.update(self, state, data, self.learn, self.measured, ())

    def learn(
        self,
        learned: Learned,
        state: ReplayState,
        bits: UInt32[Array, " N"],
        noise: Float[Array, "N D"],
        learning_rate: Any,
    ) -> tuple[Learned, Metrics]:
        """One update of the critic, the actor and their targets; `noise` is not used."""
        batch = state.replay.take(state.replay.draw(bits), self.discount, self.n_step)
        features, unit = state.inputs(batch.observation), state.outputs.unit(batch.action)
        target = self.targets(learned, state.inputs, batch)
        for_actor, for_critic = learned.optimisers

        critic, for_critic, value, q = critic_step(
            learned.critic, for_critic, lambda c: c.value(features, unit)[None], target, learning_rate
        )

        def actor_loss(actor):
            return -means.mean(critic.value(features, jnp.tanh(actor(features))))

        actor, for_actor = descend(
            learned.actor, jax.grad(actor_loss)(learned.actor), for_actor, learning_rate
        )
        return Learned(
            actor=actor,
            critic=critic,
            target_actor=towards(learned.target_actor, actor, self.target_rate),
            target_critic=towards(learned.target_critic, critic, self.target_rate),
            optimisers=(for_actor, for_critic),
        ), {
            "loss/critic": value,
            "value/prediction": means.mean(q),
            "value/target": means.mean(target),
        }

    def targets(self, learned: Learned, inputs: Inputs, batch: Batch) -> Float[Array, " N"]:
        """y = r + γ c Q̂(s′, μ̂(s′))."""
        features = inputs(batch.next_observation)
        unit = jnp.tanh(learned.target_actor(features))
        return batch.reward + batch.discount * learned.target_critic.value(features, unit)
