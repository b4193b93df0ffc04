"""Twin delayed deep deterministic policy gradient.

S. Fujimoto, H. van Hoof, D. Meger, "Addressing function approximation error in actor-critic methods", 2018.

    repeat
        take steps a = clip(μ(s) + σε) in B environments (at first uniform ones), put (s, a, r, s′) into the memory D
        for every K steps taken, once D holds enough, G times:
            sample N transitions from D
            a′ ← clip(μ̂(s′) + clip(σ̃ε, −c̃, c̃))                             smoothing: similar actions, similar values
            y ← r + γ c min(Q̂₁(s′, a′), Q̂₂(s′, a′))                          c: 0 where the process terminated
            descend  E[Σ_k ½ (Q_k(s, a) − y)²]                               the critics
            every d updates:  ascend  E[Q₁(s, μ(s))]                          the actor, d = 2
                              μ̂ ← μ̂ + τ (μ − μ̂),  Q̂ ← Q̂ + τ (Q − Q̂)
"""

from typing import Any, ClassVar, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt32

from bellmark.algorithms import replayed
from bellmark.algorithms.base import AbstractLearner
from bellmark.algorithms.checks import at_least
from bellmark.algorithms.continuous import actor_critics
from bellmark.algorithms.continuous.actor_critics import ADAM, critic_step, descend
from bellmark.algorithms.replayed import Data, ReplayState
from bellmark.experience.policy import Inputs, StochasticPolicy
from bellmark.experience.replay import Batch
from bellmark.maths import means
from bellmark.maths.soft import least, smoothed
from bellmark.networks.actors import Bounds, Critics, NoisyHead
from bellmark.networks.mlp import MLP, Activation
from bellmark.networks.targets import towards
from bellmark.types import Key, Metrics


class Learned(eqx.Module):
    """What an update moves; `optimisers` are the actor's and the critics'."""

    actor: MLP
    critics: Critics
    target_actor: MLP
    target_critics: Critics
    optimisers: Any
    updates: Int[Array, ""]


class TD3(AbstractLearner):
    """Twin delayed DDPG: a deterministic actor that two critics cannot be fooled into overrating."""

    name: ClassVar[str] = "td3"
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
    policy_delay: int = 2
    exploration_noise: float = 0.1
    target_noise: float = 0.2
    target_noise_clip: float = 0.5
    noise_hold: int = 1
    normalise_observations: bool = False
    hidden: tuple[int, ...] = (256, 256)
    activation: Activation = "relu"

    def check(self, problem) -> None:
        Bounds.of(problem.action_space, self.name)
        actor_critics.check(self, problem)
        actor_critics.check_hold(self)
        at_least(1, policy_delay=self.policy_delay)
        at_least(
            0,
            exploration_noise=self.exploration_noise,
            target_noise=self.target_noise,
            target_noise_clip=self.target_noise_clip,
        )

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
        critics = Critics.start(2, size + bounds.size, self.hidden, critic_key, self.activation)
        learned = Learned(
            actor=actor,
            critics=critics,
            target_actor=actor,
            target_critics=critics,
            optimisers=(ADAM.init(actor), ADAM.init(critics)),
            updates=jnp.array(0, jnp.int32),
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
        """One update of the critics, and every `policy_delay` of them one of the actor and of all targets."""
        batch = state.replay.take(state.replay.draw(bits), self.discount, self.n_step)
        features, unit = state.inputs(batch.observation), state.outputs.unit(batch.action)
        target = self.targets(learned, state.inputs, batch, noise)
        for_actor, for_critics = learned.optimisers

        critics, for_critics, value, q = critic_step(
            learned.critics, for_critics, lambda c: c(features, unit), target, learning_rate
        )
        updates = learned.updates + 1

        def actor_loss(actor):
            return -means.mean(critics.members[0].value(features, jnp.tanh(actor(features))))

        def delayed(_, moving):
            actor, for_actor, target_actor, target_critics = moving
            actor, for_actor = descend(actor, jax.grad(actor_loss)(actor), for_actor, learning_rate)
            return (
                actor,
                for_actor,
                towards(target_actor, actor, self.target_rate),
                towards(target_critics, critics, self.target_rate),
            )

        # a loop of one turn or none, and not a condition, which would copy what goes through it
        turns = (updates % self.policy_delay == 0).astype(jnp.int32)
        actor, for_actor, target_actor, target_critics = jax.lax.fori_loop(
            0, turns, delayed, (learned.actor, for_actor, learned.target_actor, learned.target_critics)
        )
        return Learned(actor, critics, target_actor, target_critics, (for_actor, for_critics), updates), {
            "loss/critic": value,
            "value/prediction": means.mean(q[0]),
            "value/target": means.mean(target),
        }

    def targets(
        self, learned: Learned, inputs: Inputs, batch: Batch, noise: Float[Array, "N D"]
    ) -> Float[Array, " N"]:
        """y = r + γ c min_k Q̂_k(s′, a′), a′ the target actor's action, smeared."""
        features = inputs(batch.next_observation)
        unit = jnp.tanh(learned.target_actor(features))
        chosen = smoothed(unit, noise, self.target_noise, self.target_noise_clip)
        return batch.reward + batch.discount * least(learned.target_critics(features, chosen))
