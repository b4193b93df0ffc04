"""REINFORCE: the policy gradient from whole episodes, without any critic.

R. J. Williams, "Simple statistical gradient-following algorithms for connectionist reinforcement learning", Machine
Learning 8, 1992; Sutton & Barto, 2018, section 13.3.

    repeat
        run π in B environments for T steps
        for every step of the usable episodes
            G_t ← the discounted reward from t to the episode's end     (or, for the whole trajectory, from its start)
        ascend  E[(G_t − b) log π(a_t|s_t)] + c_h E[H(π)]

Without a critic nothing may be bootstrapped, so only complete episodes count, and they must not be chosen by their
length.  Used are the episodes that begin in the rollout at least one time limit before its end: all of them complete,
whatever the policy does.  (Taking just those that happen to end would favour short ones.)  The baseline b of an
environment is the mean return of all the others: it cannot depend on the actions it is compared with, so the gradient
stays unbiased.
"""

from typing import Any, ClassVar, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from bellmark.algorithms.base import AbstractLearner
from bellmark.algorithms.checks import at_least, fraction, layer_sizes, positive
from bellmark.errors import BadInput
from bellmark.experience.policy import Inputs, StochasticPolicy
from bellmark.experience.rollout import episode_metrics
from bellmark.maths import losses, means
from bellmark.maths.returns import discounted_return, episode_completes, episode_start
from bellmark.networks.convolution import Convolution
from bellmark.networks.heads import Head, head_for
from bellmark.networks.mlp import MLP, Activation
from bellmark.types import Episodes, Finished, Key, Metrics, Rollout


class Networks(eqx.Module):
    """Everything that the gradient moves."""

    actor: MLP | Convolution
    head: Head


class Steps(eqx.Module):
    """A rollout and what REINFORCE reads off it: returns, and which steps count."""

    rollout: Rollout
    score: Float[Array, "T B"]
    usable: Bool[Array, "T B"]


class ReinforceState(eqx.Module):
    inputs: Inputs
    networks: Networks
    optimiser: Any
    episodes: Episodes
    key: Key
    iteration: Int[Array, ""]


class Reinforce(AbstractLearner):
    """REINFORCE: Monte Carlo policy gradient from complete episodes, no critic."""

    name: ClassVar[str] = "reinforce"

    discount: float = 0.99
    reward_to_go: bool = True
    baseline: Literal["none", "others"] = "others"
    discounted_states: bool = False
    learning_rate: float = 1e-2
    environments: int = 8
    rollout_length: int = 1000
    entropy_weight: float = 0.0
    max_gradient_norm: float = 1.0
    normalise_observations: bool = False
    hidden: tuple[int, ...] = (64,)
    activation: Activation = "tanh"
    initial_log_std: float = 0.0

    def check(self, problem) -> None:
        head_for(problem.action_space)
        fraction("discount", self.discount)
        layer_sizes(self.hidden)
        positive(learning_rate=self.learning_rate, max_gradient_norm=self.max_gradient_norm)
        at_least(0, entropy_weight=self.entropy_weight)
        at_least(1, environments=self.environments, rollout_length=self.rollout_length)
        if problem.time_limit is not None and problem.time_limit > self.rollout_length:
            raise BadInput(
                f"rollout_length is {self.rollout_length}; REINFORCE needs complete episodes, and this environment's "
                f"may last {problem.time_limit} steps: at least that is allowed, twice as much recommended"
            )

    def steps_per_iteration(self, problem) -> int:
        return self.environments * self.rollout_length

    @property
    def optimiser(self) -> optax.GradientTransformation:
        return optax.chain(optax.clip_by_global_norm(self.max_gradient_norm), optax.adam(self.learning_rate))

    def init(self, problem, key: Key) -> ReinforceState:
        key, actor_key, episodes_key = jax.random.split(key, 3)
        inputs = Inputs.start(problem.observation_space, self.normalise_observations)
        head = head_for(problem.action_space, self.initial_log_std)
        actor = inputs.network(
            self.hidden, head.outputs, actor_key, activation=self.activation, last_scale=0.01
        )
        networks = Networks(actor, head)
        return ReinforceState(
            inputs=inputs,
            networks=networks,
            optimiser=self.optimiser.init(networks),
            episodes=problem.start(episodes_key, self.environments),
            key=key,
            iteration=jnp.array(0, jnp.int32),
        )

    def policy(self, state: ReinforceState) -> StochasticPolicy:
        return StochasticPolicy(state.inputs, state.networks.actor, state.networks.head)

    def collect(self, problem, state: ReinforceState) -> tuple[ReinforceState, tuple[Steps, Finished]]:
        key, rollout_key = jax.random.split(state.key)
        fresh = state.episodes.length == 0
        episodes, rollout, finished = problem.rollout(
            self.policy(state), state.episodes, rollout_key, self.rollout_length
        )
        limit = problem.time_limit or self.rollout_length // 2
        steps = self.steps(rollout, fresh, limit)
        return eqx.tree_at(lambda s: (s.episodes, s.key), state, (episodes, key)), (steps, finished)

    def steps(self, rollout: Rollout, fresh: Bool[Array, " B"], limit: int) -> Steps:
        """Which steps count, and the return that each one's log-probability is multiplied by."""
        unbroken = jnp.asarray(rollout.transition.unbroken)
        began = episode_start(unbroken, fresh)
        usable = (began >= 0) & (began <= self.rollout_length - limit) & episode_completes(unbroken)
        score = discounted_return(jnp.asarray(rollout.transition.reward), unbroken, self.discount)
        if not self.reward_to_go:
            score = jnp.take_along_axis(score, jnp.maximum(began, 0), axis=0)
        if self.baseline == "others" and self.environments > 1:
            total, count = (jnp.sum(jnp.where(usable, x, 0.0), axis=0) for x in (score, jnp.ones_like(score)))
            others = (jnp.sum(total) - total) / jnp.maximum(jnp.sum(count) - count, 1.0)
            score = score - others
        if self.discounted_states and self.reward_to_go:
            # the whole trajectory's return, counted from its start, has this factor in it already
            time = jnp.arange(self.rollout_length)[:, None]
            score = score * self.discount ** (time - began)
        return Steps(rollout, score, usable)

    def update(self, state: ReinforceState, data: tuple[Steps, Finished]) -> tuple[ReinforceState, Metrics]:
        steps, finished = data
        gradient, metrics = jax.grad(self.loss, has_aux=True)(state.networks, state.inputs, steps)
        direction, optimiser = self.optimiser.update(gradient, state.optimiser, state.networks)
        state = ReinforceState(
            inputs=state.inputs.seen(steps.rollout.transition.observation),
            networks=eqx.apply_updates(state.networks, direction),
            optimiser=optimiser,
            episodes=state.episodes,
            key=state.key,
            iteration=state.iteration + 1,
        )
        return state, {
            **episode_metrics(finished),
            **metrics,
            "optimiser/gradient_norm": optax.tree.norm(gradient),
        }

    def loss(self, networks: Networks, inputs: Inputs, steps: Steps) -> tuple[Float[Array, ""], Metrics]:
        """−E[(G − b) log π] − c_h E[H] over the usable steps."""
        transition = steps.rollout.transition
        policy = StochasticPolicy(inputs, networks.actor, networks.head)
        distribution = policy.distribution(transition.observation, steps.rollout.action_mask)
        score = losses.score_function(distribution.log_prob(transition.action), steps.score)
        policy_loss = means.mean(score, steps.usable)
        entropy = means.mean(distribution.entropy(), steps.usable)
        return policy_loss - self.entropy_weight * entropy, {
            "loss/policy": policy_loss,
            "policy/entropy": entropy,
            "data/usable_share": means.mean(steps.usable.astype(jnp.float32)),
        }
