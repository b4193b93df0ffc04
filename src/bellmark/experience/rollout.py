"""Compiled experience: `T` steps of `B` environments as one `lax.scan`.

Environments never reset themselves; this is where it happens.  Everything random that does not depend on the policy
(keys, and the state that a reset would give at every step) is drawn before the scan in one vectorised call, so that
the loop itself holds only the policy and the physics.
"""

from typing import ClassVar

import equinox as eqx
import gymnasium
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from bellmark.envs import spaces
from bellmark.envs.base import AbstractEnvironment
from bellmark.envs.wrappers.frame_stack import stacked_frames
from bellmark.experience import memory as memories
from bellmark.types import Episodes, Finished, Key, Metrics, Observation, Policy, Rollout, Transition


class CompiledProblem(eqx.Module):
    """A compiled environment as algorithms see it; `budget` is the run's number of environment steps."""

    environment: AbstractEnvironment
    budget: int = eqx.field(static=True)
    time_limit: int | None = eqx.field(static=True)
    compiled: ClassVar[bool] = True

    @property
    def observation_space(self) -> gymnasium.Space:
        return self.environment.observation_space

    @property
    def action_space(self) -> gymnasium.Space:
        return self.environment.action_space

    @property
    def stacked_frames(self) -> int:
        return stacked_frames(self.environment)

    def start(self, key: Key, count: int) -> Episodes:
        """`count` fresh episodes."""
        state = jax.vmap(self.environment.reset)(jax.random.split(key, count))
        return Episodes(
            state=state,
            observation=jax.vmap(self.environment.observe)(state),
            action_mask=jax.vmap(self.environment.action_mask)(state),
            undiscounted_return=jnp.zeros(count),
            length=jnp.zeros(count, jnp.int32),
        )

    def rollout(
        self, policy: Policy, episodes: Episodes, key: Key, length: int
    ) -> tuple[Episodes, Rollout, Finished]:
        """Go on with `episodes` for `length` steps under `policy`."""
        return rollout(self.environment, policy, episodes, key, length)


def rollout(
    environment: AbstractEnvironment, policy: Policy, episodes: Episodes, key: Key, length: int
) -> tuple[Episodes, Rollout, Finished]:
    """Step `B` environments `length` times; the transition keeps the true successor, the next step starts afresh."""
    count = episodes.length.shape[0]
    policy_key, step_key, reset_key = jax.random.split(key, 3)
    fresh = jax.vmap(jax.vmap(environment.reset))(jax.random.split(reset_key, (length, count)))
    fresh_observation = jax.vmap(jax.vmap(environment.observe))(fresh)
    fresh_mask = jax.vmap(jax.vmap(environment.action_mask))(fresh)
    randomness = (
        policy.randomness(policy_key, (length, count)),
        jax.random.split(step_key, (length, count)),
        (fresh, fresh_observation, fresh_mask),
    )
    action_space = environment.action_space

    def step(episodes: Episodes, randomness):
        noise, step_keys, fresh = randomness
        action, remembered, memory = memories.act(
            policy, episodes.observation, noise, episodes.action_mask, episodes.memory
        )
        sent = spaces.clip_action(action_space, action)
        state, outcome = jax.vmap(environment.step)(episodes.state, sent, step_keys)
        reward = outcome.reward.astype(jnp.float32)
        observation = jax.vmap(environment.observe)(state)
        transition = Transition(
            episodes.observation, action, reward, outcome.terminated, outcome.truncated, observation
        )
        ended = outcome.terminated | outcome.truncated
        undiscounted_return = episodes.undiscounted_return + reward
        steps = episodes.length + 1

        def or_fresh(new, going_on):
            return jnp.where(ended.reshape(ended.shape + (1,) * (going_on.ndim - 1)), new, going_on)

        next_mask = jax.vmap(environment.action_mask)(state)
        state, observation, mask = jax.tree.map(or_fresh, fresh, (state, observation, next_mask))
        onward = Episodes(
            state=state,
            observation=observation,
            action_mask=mask,
            undiscounted_return=jnp.where(ended, 0.0, undiscounted_return),
            length=jnp.where(ended, 0, steps),
            memory=memories.forget(memory, ended),
        )
        seen = (transition, remembered, episodes.action_mask, next_mask)
        return onward, (seen, (ended, undiscounted_return, steps))

    episodes, (seen, (ended, returns, lengths)) = jax.lax.scan(step, episodes, randomness)
    transition, remembered, mask, next_mask = seen
    # what a reset showed is nobody's successor, so both ends of the steps are looked at
    broken = jnp.maximum(count_broken(transition.observation), count_broken(transition.next_observation))
    impossible = None if mask is None else jnp.sum(~spaces.possible(action_space, mask))
    finished = Finished(ended, returns, lengths, count_broken(transition.reward), broken, impossible)
    return episodes, Rollout(transition, remembered, mask, next_mask), finished


@jax.jit
def two_keys(key: Key) -> tuple[Key, Key]:
    """`jax.random.split(key)` as two keys, in one call also where nothing around it is compiled."""
    first, second = jax.random.split(key)
    return first, second


def count_broken(tree: Observation) -> Int[Array, ""]:
    """How many numbers in `tree` are NaN or infinite."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    return sum((jnp.sum(~jnp.isfinite(leaf)) for leaf in leaves), jnp.array(0, jnp.int32))


def episode_metrics(finished: Finished) -> Metrics:
    """What ended in a rollout: count, mean return and its standard deviation, mean length (NaN where none ended)."""
    mask = finished.mask
    count = jnp.sum(mask).astype(jnp.float32)

    def mean(x):
        return jnp.where(count > 0, jnp.sum(jnp.where(mask, x, 0.0)) / jnp.maximum(count, 1.0), jnp.nan)

    average = mean(finished.undiscounted_return)
    spread = jnp.sqrt(mean(jnp.square(finished.undiscounted_return - average)))
    metrics = {
        "episode/count": count,
        "episode/return": average,
        "episode/return_std": spread,
        "episode/length": mean(finished.length.astype(jnp.float32)),
        "broken/rewards": finished.broken_rewards,
        "broken/observations": finished.broken_observations,
    }
    if finished.broken_masks is not None:
        metrics["broken/masks"] = finished.broken_masks
    return metrics
