"""REINFORCE: the policy gradient from whole episodes; nothing is ever bootstrapped.

R. J. Williams, "Simple statistical gradient-following algorithms for connectionist reinforcement learning", Machine
Learning 8, 1992; Sutton & Barto, 2018, section 13.3.

    repeat
        run π in B environments for T steps
        for every step of the usable episodes
            G_t ← the discounted reward from t to the episode's end     (or, for the whole trajectory, from its start)
        ascend  E[(G_t − b) log π(a_t|s_t)] + c_h E[H(π)]
        with b = V(s_t): descend  E[½(V(s_t) − G_t)²]  in several epochs

As nothing is bootstrapped, only complete episodes count, and they must not be chosen by their length.  Used are the
episodes that begin in the rollout at least one time limit before its end: all of them complete, whatever the policy
does.  (Taking just those that happen to end would favour short ones.)

The baseline b may be anything that does not depend on the action it is compared with; then the gradient stays unbiased.

    none       0
    constant   the mean G of earlier rollouts, an exponential average
    others     the mean G of this rollout's other environments
    time       the mean G of the other environments' steps of the same age, t steps into their episodes
    state      V(s_t), a network that is fitted to G after the policy has moved
"""

from typing import Any, ClassVar, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from bellmark.algorithms.base import AbstractLearner
from bellmark.algorithms.checks import at_least, divides, fraction, layer_sizes, positive
from bellmark.errors import BadInput
from bellmark.experience.minibatches import flatten, minibatch_indices, take
from bellmark.experience.policy import Inputs, StochasticPolicy, value
from bellmark.experience.rollout import episode_metrics
from bellmark.maths import losses, means
from bellmark.maths.returns import discounted_return, episode_completes, episode_start
from bellmark.networks.convolution import Convolution
from bellmark.networks.heads import Head, head_for
from bellmark.networks.mlp import MLP, Activation
from bellmark.types import Episodes, Finished, Key, Metrics, Rollout

AVERAGED = 0.1
"""The share of the newest rollout in the constant baseline."""


class Networks(eqx.Module):
    """Everything that the gradient moves."""

    actor: MLP | Convolution
    head: Head


class Steps(eqx.Module):
    """A rollout and what REINFORCE reads off it: returns, returns less the baseline, and which steps count."""

    rollout: Rollout
    returns: Float[Array, "T B"]
    score: Float[Array, "T B"]
    usable: Bool[Array, "T B"]


class Average(eqx.Module):
    """An exponential average that does not begin at 0: the first rollout counts whole."""

    mean: Float[Array, ""]
    weight: Float[Array, ""]

    @staticmethod
    def start() -> "Average":
        return Average(jnp.zeros(()), jnp.zeros(()))

    def add(self, x: Float[Array, ""], counts: Bool[Array, ""]) -> "Average":
        """The average with `x` in it, or as it was where `x` does not count."""
        weight = (1.0 - AVERAGED) * self.weight + AVERAGED
        mean = self.mean + AVERAGED / weight * (x - self.mean)
        return Average(jnp.where(counts, mean, self.mean), jnp.where(counts, weight, self.weight))


class Critic(eqx.Module):
    """V(s) and its optimiser, where the baseline depends on the state."""

    network: MLP | Convolution
    optimiser: Any


class ReinforceState(eqx.Module):
    inputs: Inputs
    networks: Networks
    optimiser: Any
    average: Average | None
    critic: Critic | None
    episodes: Episodes
    key: Key
    iteration: Int[Array, ""]


class Reinforce(AbstractLearner):
    """REINFORCE: Monte Carlo policy gradient from complete episodes, with a choice of baselines."""

    name: ClassVar[str] = "reinforce"

    discount: float = 0.99
    reward_to_go: bool = True
    baseline: Literal["none", "constant", "others", "time", "state"] = "others"
    discounted_states: bool = False
    learning_rate: float = 1e-2
    value_learning_rate: float = 3e-3
    value_epochs: int = 4
    value_minibatches: int = 8
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
        positive(
            learning_rate=self.learning_rate,
            value_learning_rate=self.value_learning_rate,
            max_gradient_norm=self.max_gradient_norm,
        )
        at_least(0, entropy_weight=self.entropy_weight)
        at_least(
            1,
            environments=self.environments,
            rollout_length=self.rollout_length,
            value_epochs=self.value_epochs,
            value_minibatches=self.value_minibatches,
        )
        if self.baseline == "state":
            divides(
                "value_minibatches",
                self.value_minibatches,
                "environments × rollout_length",
                self.steps_per_iteration(problem),
            )
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

    @property
    def critic_optimiser(self) -> optax.GradientTransformation:
        return optax.flatten(optax.adam(self.value_learning_rate))

    def init(self, problem, key: Key) -> ReinforceState:
        key, actor_key, episodes_key = jax.random.split(key, 3)
        inputs = Inputs.start(problem.observation_space, self.normalise_observations)
        head = head_for(problem.action_space, self.initial_log_std)
        actor = inputs.network(
            self.hidden, head.outputs, actor_key, activation=self.activation, last_scale=0.01
        )
        networks = Networks(actor, head)
        critic = None
        if self.baseline == "state":
            critic_key = jax.random.fold_in(actor_key, 1)
            network = inputs.network(self.hidden, 1, critic_key, activation=self.activation)
            critic = Critic(network, self.critic_optimiser.init(network))
        return ReinforceState(
            inputs=inputs,
            networks=networks,
            optimiser=self.optimiser.init(networks),
            average=Average.start() if self.baseline == "constant" else None,
            critic=critic,
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
        steps = self.steps(rollout, fresh, limit, self.expected(state, rollout))
        return eqx.tree_at(lambda s: (s.episodes, s.key), state, (episodes, key)), (steps, finished)

    def expected(self, state: ReinforceState, rollout: Rollout) -> Float[Array, "T B"] | Float[Array, ""]:
        """The baselines that were learned before the rollout: V(s_t), or the average; 0 for all others."""
        if state.critic is not None:
            return value(state.critic.network, state.inputs(rollout.transition.observation))
        return jnp.zeros(()) if state.average is None else state.average.mean

    def steps(
        self,
        rollout: Rollout,
        fresh: Bool[Array, " B"],
        limit: int,
        expected: Float[Array, "T B"] | Float[Array, ""] | float = 0.0,
    ) -> Steps:
        """Which steps count, and what each one's log-probability is multiplied by: its return less the baseline."""
        unbroken = jnp.asarray(rollout.transition.unbroken)
        began = episode_start(unbroken, fresh)
        usable = (began >= 0) & (began <= self.rollout_length - limit) & episode_completes(unbroken)
        returns = discounted_return(jnp.asarray(rollout.transition.reward), unbroken, self.discount)
        if not self.reward_to_go:
            returns = jnp.take_along_axis(returns, jnp.maximum(began, 0), axis=0)
        age = jnp.arange(self.rollout_length)[:, None] - began
        if self.baseline == "others":
            expected = mean_of_others(returns, usable)
        elif self.baseline == "time":
            expected = mean_of_others_at(returns, usable, age)
        score = returns - expected
        if self.discounted_states and self.reward_to_go:
            # the whole trajectory's return, counted from its start, has this factor in it already
            score = score * self.discount**age
        return Steps(rollout, returns, score, usable)

    def update(self, state: ReinforceState, data: tuple[Steps, Finished]) -> tuple[ReinforceState, Metrics]:
        steps, finished = data
        gradient, metrics = jax.grad(self.loss, has_aux=True)(state.networks, state.inputs, steps)
        direction, optimiser = self.optimiser.update(gradient, state.optimiser, state.networks)
        key, average, critic = state.key, state.average, state.critic
        if average is not None:
            average = average.add(means.mean(steps.returns, steps.usable), jnp.any(steps.usable))
        if critic is not None:
            key, minibatch_key = jax.random.split(key)
            critic, metrics["loss/value"] = self.fitted(critic, state.inputs, steps, minibatch_key)
        state = ReinforceState(
            inputs=state.inputs.seen(steps.rollout.transition.observation),
            networks=eqx.apply_updates(state.networks, direction),
            optimiser=optimiser,
            average=average,
            critic=critic,
            episodes=state.episodes,
            key=key,
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

    def fitted(
        self, critic: Critic, inputs: Inputs, steps: Steps, key: Key
    ) -> tuple[Critic, Float[Array, ""]]:
        """The critic after some epochs of regression on the returns of the usable steps, and its mean loss."""
        features = inputs(steps.rollout.transition.observation)
        data = flatten((features, steps.returns, steps.usable))

        def error(network, minibatch):
            features, returns, usable = minibatch
            return means.mean(losses.squared_error(value(network, features), returns), usable)

        def descend(critic, index):
            loss, gradient = jax.value_and_grad(error)(critic.network, take(data, index))
            direction, optimiser = self.critic_optimiser.update(gradient, critic.optimiser, critic.network)
            return Critic(eqx.apply_updates(critic.network, direction), optimiser), loss

        size = self.steps_per_iteration(None)
        indices = minibatch_indices(key, size, self.value_minibatches, self.value_epochs)
        critic, errors = jax.lax.scan(descend, critic, indices)
        return critic, jnp.mean(errors)


def mean_of_others(returns: Float[Array, "T B"], usable: Bool[Array, "T B"]) -> Float[Array, " B"]:
    """For each environment, the mean over the usable steps of all others; 0 where they have none."""
    total, count = (jnp.sum(jnp.where(usable, x, 0.0), axis=0) for x in (returns, jnp.ones_like(returns)))
    return (jnp.sum(total) - total) / jnp.maximum(jnp.sum(count) - count, 1.0)


def mean_of_others_at(
    returns: Float[Array, "T B"], usable: Bool[Array, "T B"], age: Int[Array, "T B"]
) -> Float[Array, "T B"]:
    """The same over the steps of the same age alone; where the others have none so old, over all of theirs."""
    time, count = returns.shape
    column = jnp.broadcast_to(jnp.arange(count), returns.shape)
    row = jnp.where(usable, age, time)  # one row too many, for what does not count

    def by_age(x):
        return jnp.zeros((time + 1, count)).at[row, column].add(jnp.where(usable, x, 0.0))

    totals, counts = by_age(returns), by_age(jnp.ones_like(returns))
    total = jnp.sum(totals, axis=1, keepdims=True) - totals
    number = jnp.sum(counts, axis=1, keepdims=True) - counts
    means_by_age = jnp.where(number > 0, total / jnp.maximum(number, 1.0), mean_of_others(returns, usable))
    return jnp.take_along_axis(means_by_age, jnp.clip(age, 0, time), axis=0)
