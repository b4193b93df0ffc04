"""Deep SARSA and expected SARSA: values of the policy that acts, learned while it acts.

G. Rummery, M. Niranjan, "On-line Q-learning using connectionist systems", 1994; its deep form with parallel
environments and a target network in V. Mnih et al., "Asynchronous methods for deep reinforcement learning", ICML 2016.
H. van Seijen et al., "A theoretical and empirical analysis of expected Sarsa", 2009.

    repeat
        take ε-greedy steps in B environments for T steps
        y_t ← r_t + γ c_t Q̂(s′_t, a_{t+1}),   a_{t+1} the action that was really taken next
              expected:  r_t + γ c_t Σ_a π(a|s′_t) Q̂(s′_t, a),   π the ε-greedy policy
        descend  E[loss(Q(s, a), y)]                          once; then the steps are thrown away
        every C updates  Q̂ ← Q̂ + τ (Q − Q̂)

The last step of a rollout waits in the state until the next one begins with its next action.  Where no action follows,
because a time limit cut the episode, y is the expected one: the mean of what any action drawn there would give.

How this differs from `dqn`: nothing is stored, and the target is of the policy that explores, not of the greedy one.
"""

from typing import Any, ClassVar, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from bellmark.algorithms.base import AbstractLearner
from bellmark.algorithms.checks import at_least, check_discrete, check_steps, fraction, layer_sizes, positive
from bellmark.algorithms.descent import clipped_descent
from bellmark.algorithms.value_based import settings
from bellmark.experience.policy import Inputs, StochasticPolicy
from bellmark.experience.replay import action_layout
from bellmark.experience.rollout import episode_metrics
from bellmark.maths import losses, means
from bellmark.maths.action_values import expected_value, value_of
from bellmark.networks.convolution import Convolution
from bellmark.networks.mlp import MLP, Activation
from bellmark.networks.targets import towards
from bellmark.networks.values import ActionValues, EpsilonGreedyHead
from bellmark.types import Episodes, Finished, Key, Metrics, Rollout, Transition


class Waiting(eqx.Module):
    """The last step of every environment, whose next action is not known yet; `taken` is False before the first."""

    transition: Transition
    next_action_mask: Bool[Array, "B A"] | None
    taken: Bool[Array, ""]


class DeepSarsaState(eqx.Module):
    inputs: Inputs
    values: ActionValues
    online: MLP | Convolution
    target: MLP | Convolution
    optimiser: Any
    waiting: Waiting
    episodes: Episodes
    key: Key
    iteration: Int[Array, ""]
    horizon: Int[Array, ""]


class DeepSarsa(AbstractLearner):
    """SARSA and expected SARSA with a network: on-policy value learning from parallel environments."""

    name: ClassVar[str] = "deep_sarsa"

    discount: float = 0.99
    expected: bool = False
    learning_rate: float = 1e-3
    anneal: bool = True
    environments: int = 16
    rollout_length: int = 4
    loss: Literal["huber", "squared"] = "huber"
    dueling: bool = False
    layer_norm: bool = False
    target_every: int = 50
    target_rate: float = 1.0
    epsilon: float = 1.0
    epsilon_final: float = 0.05
    epsilon_schedule: settings.Schedule = "linear"
    epsilon_share: float = 0.2
    max_gradient_norm: float = 10.0
    normalise_observations: bool = False
    hidden: tuple[int, ...] = (64, 64)
    activation: Activation = "relu"

    def check(self, problem) -> None:
        check_discrete(self.name, problem)
        settings.check_epsilon(self)
        check_steps(self)
        fraction("discount", self.discount)
        fraction("target_rate", self.target_rate)
        layer_sizes(self.hidden)
        positive(
            learning_rate=self.learning_rate,
            max_gradient_norm=self.max_gradient_norm,
            target_rate=self.target_rate,
        )
        at_least(1, target_every=self.target_every)

    def steps_per_iteration(self, problem) -> int:
        return self.environments * self.rollout_length

    @property
    def descent(self) -> optax.GradientTransformation:
        return clipped_descent(self.max_gradient_norm)

    def init(self, problem, key: Key) -> DeepSarsaState:
        key, network_key, episodes_key = jax.random.split(key, 3)
        inputs = Inputs.start(problem.observation_space, self.normalise_observations)
        values = ActionValues(int(problem.action_space.n), self.dueling)
        online = inputs.network(
            self.hidden, values.outputs, network_key, activation=self.activation, normalised=self.layer_norm
        )
        episodes = problem.start(episodes_key, self.environments)
        return DeepSarsaState(
            inputs=inputs,
            values=values,
            online=online,
            target=online,
            optimiser=self.descent.init(online),
            waiting=nothing_taken(episodes, problem.action_space),
            episodes=episodes,
            key=key,
            iteration=jnp.array(0, jnp.int32),
            horizon=jnp.array(max(problem.budget // self.steps_per_iteration(problem), 1), jnp.int32),
        )

    def policy(self, state: DeepSarsaState) -> StochasticPolicy:
        epsilon = settings.epsilon_at(self, state.iteration / state.horizon)
        return StochasticPolicy(state.inputs, state.online, EpsilonGreedyHead(state.values, epsilon))

    def collect(
        self, problem, state: DeepSarsaState
    ) -> tuple[DeepSarsaState, tuple[Rollout, Finished, Bool[Array, " B"]]]:
        key, rollout_key = jax.random.split(state.key)
        begun = state.episodes.length == 0
        episodes, rollout, finished = problem.rollout(
            self.policy(state), state.episodes, rollout_key, self.rollout_length
        )
        state = eqx.tree_at(lambda s: (s.episodes, s.key), state, (episodes, key))
        return state, (rollout, finished, begun)

    def update(
        self, state: DeepSarsaState, data: tuple[Rollout, Finished, Bool[Array, " B"]]
    ) -> tuple[DeepSarsaState, Metrics]:
        rollout, finished, begun = data
        done = state.iteration / state.horizon
        learning_rate = self.learning_rate * (jnp.maximum(1.0 - done, 0.0) if self.anneal else 1.0)
        steps, mask, next_action, waiting = followed(state.waiting, rollout, begun)
        target = self.targets(state, steps, mask, next_action)
        features = state.inputs(steps.observation)
        error = losses.huber if self.loss == "huber" else losses.squared_error
        # the step that waits before the first rollout was never taken
        weight = jnp.ones_like(target).at[0].set(state.waiting.taken.astype(target.dtype))

        def loss(online):
            prediction = value_of(state.values(online(features)), steps.action)
            return jnp.sum(weight * error(prediction, target)) / target.size, prediction

        (value, prediction), gradient = jax.value_and_grad(loss, has_aux=True)(state.online)
        direction, optimiser = self.descent.update(gradient, state.optimiser, state.online)
        online = jax.tree.map(lambda p, d: p - learning_rate * d, state.online, direction)
        iteration = state.iteration + 1
        rate = jnp.where(iteration % self.target_every == 0, self.target_rate, 0.0)
        moved = DeepSarsaState(
            inputs=state.inputs.seen(rollout.transition.observation),
            values=state.values,
            online=online,
            target=towards(state.target, online, rate),
            optimiser=optimiser,
            waiting=waiting,
            episodes=state.episodes,
            key=state.key,
            iteration=iteration,
            horizon=state.horizon,
        )
        return moved, {
            **episode_metrics(finished),
            "loss/value": value,
            "value/prediction": means.mean(prediction),
            "value/target": means.mean(target),
            "value/error": means.mean(jnp.abs(target - prediction)),
            "policy/epsilon": settings.epsilon_at(self, done),
            "optimiser/learning_rate": jnp.asarray(learning_rate, jnp.float32),
        }

    def targets(
        self,
        state: DeepSarsaState,
        steps: Transition,
        mask: Bool[Array, "T B A"] | None,
        next_action: Int[Array, "T B"],
    ) -> Float[Array, "T B"]:
        """y = r + γ c Q̂(s′, a′), in expectation over a′ where none was taken or `expected` says so."""
        q = state.values(state.target(state.inputs(steps.next_observation)))
        epsilon = settings.epsilon_at(self, state.iteration / state.horizon)
        expected = expected_value(q, epsilon, mask)
        taken = jnp.where(steps.unbroken > 0, value_of(q, next_action), expected)
        value = expected if self.expected else taken
        return steps.reward + self.discount * steps.continues * value


def nothing_taken(episodes: Episodes, action_space: Any) -> Waiting:
    """A step of zeros for every environment, which does not count."""
    count = episodes.length.shape[0]
    shape, dtype = action_layout(action_space)

    def zeros(tree: Any) -> Any:
        # one each: a buffer cannot be given away twice
        return jax.tree.map(jnp.zeros_like, tree)

    transition = Transition(
        observation=zeros(episodes.observation),
        action=jnp.zeros((count, *shape), dtype),
        reward=jnp.zeros(count),
        terminated=jnp.zeros(count, bool),
        truncated=jnp.zeros(count, bool),
        next_observation=zeros(episodes.observation),
    )
    return Waiting(transition, zeros(episodes.action_mask), jnp.array(False))


def followed(
    waiting: Waiting, rollout: Rollout, begun: Bool[Array, " B"]
) -> tuple[Transition, Bool[Array, "T B A"] | None, Int[Array, "T B"], Waiting]:
    """The T steps whose next action is known, their next masks and next actions, and the step that waits now.

    `begun` says where the rollout begins an episode: a step that waited for that one then ended its own, also where its
    episode was lost with a process.
    """

    def joined(first: Array, others: Array) -> Array:
        return jnp.concatenate([first[None], others.astype(first.dtype)])

    all_steps = jax.tree.map(joined, waiting.transition, rollout.transition)
    masks = jax.tree.map(joined, waiting.next_action_mask, rollout.next_action_mask)
    cut = all_steps.truncated.at[0].set(
        all_steps.truncated[0] | (begun & ~all_steps.terminated[0] & waiting.taken)
    )
    all_steps = eqx.tree_at(lambda s: s.truncated, all_steps, cut)

    def but_last(tree: Any) -> Any:
        return jax.tree.map(lambda x: x[:-1], tree)

    def last(tree: Any) -> Any:
        return jax.tree.map(lambda x: x[-1], tree)

    now_waiting = Waiting(last(all_steps), last(masks), jnp.array(True))
    return but_last(all_steps), but_last(masks), all_steps.action[1:], now_waiting
