"""Host experience: `T` steps of `B` Gymnasium environments in Python, as the very arrays of a compiled rollout.

The random numbers are drawn from the same keys by the same calls as in `bellmark.experience.rollout`, so a policy that
meets the same observations takes the same actions, and learners cannot tell the two apart.
"""

import dataclasses
import math
from typing import Any, ClassVar

import equinox as eqx
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from bellmark.envs import spaces
from bellmark.envs.gymnasium import HostEnvironments
from bellmark.experience import memory as memories
from bellmark.types import Episodes, Finished, Key, Rollout, Transition


class HostProblem(eqx.Module):
    """Gymnasium environments as algorithms see them.

    The environments keep their own state, so `Episodes.state` is None, or what they gave when asked if they offer
    `get_state` and `set_state`.  `observation` and `mask` are what they showed after their first reset.
    """

    environments: HostEnvironments = eqx.field(static=True)
    budget: int = eqx.field(static=True)
    time_limit: int | None = eqx.field(static=True)
    observation: Any
    mask: Any
    state: Any
    compiled: ClassVar[bool] = False

    @staticmethod
    def open(
        environments: HostEnvironments, budget: int, time_limit: int | None, seed: int, resumed_at: int = 0
    ) -> "HostProblem":
        """Reset the environments, for the first and only time with seeds.

        `resumed_at` is the step from which a run goes on: environments that cannot be put back into their saved state
        then begin episodes that they have not played before.
        """
        entropy = seed if resumed_at == 0 else (seed, resumed_at)
        seeds = np.random.SeedSequence(entropy).generate_state(environments.count)
        observation = environments.reset(seeds=seeds & 0x7FFFFFFF)
        state = environments.get_state() if environments.can_restore else None
        return HostProblem(environments, budget, time_limit, observation, environments.action_masks(), state)

    @property
    def observation_space(self) -> gymnasium.Space:
        return self.environments.observation_space

    @property
    def action_space(self) -> gymnasium.Space:
        return self.environments.action_space

    @property
    def stacked_frames(self) -> int:
        return self.environments.stacked_frames

    def start(self, key: Key, count: int) -> Episodes:
        """The episodes that `open` began."""
        del key
        assert count == self.environments.count
        return Episodes(
            state=self.state,
            observation=jax.tree.map(jnp.asarray, self.observation),
            action_mask=None if self.mask is None else jnp.asarray(self.mask),
            undiscounted_return=jnp.zeros(count),
            length=jnp.zeros(count, jnp.int32),
        )

    def captured(self, episodes: Episodes) -> Episodes:
        """`episodes` with the environments' state as it is now, where they offer it: what a checkpoint keeps."""
        state = self.environments.get_state() if self.environments.can_restore else None
        return eqx.tree_at(lambda e: e.state, episodes, state, is_leaf=lambda x: x is None)

    def restored(self, episodes: Episodes) -> Episodes:
        """Go on with saved episodes where the environments can be put back; otherwise with the fresh ones."""
        if not self.environments.can_restore:
            fresh = self.start(jax.random.key(0), self.environments.count)
            # what was remembered of the episodes that are dropped goes with them
            return dataclasses.replace(fresh, memory=jax.tree.map(jnp.zeros_like, episodes.memory))
        self.environments.set_state(jax.tree.map(np.asarray, episodes.state))
        return episodes

    def rollout(
        self, policy: Any, episodes: Episodes, key: Key, length: int
    ) -> tuple[Episodes, Rollout, Finished]:
        """Go on with `episodes` for `length` steps under `policy`."""
        return host_rollout(self.environments, policy, episodes, key, length)


class CompiledActor:
    """A policy that has no NumPy form, called through one compiled function per shape."""

    def __init__(self, policy: Any):
        self._policy = policy

    def randomness(self, key: Key, shape: tuple[int, ...]) -> Any:
        return jax.tree.map(np.asarray, _randomness(self._policy, key, shape))

    def __call__(self, observation, randomness, mask=None, memory=None) -> tuple:
        more = () if memory is None else (memory,)
        return jax.tree.map(np.asarray, _act(self._policy, observation, randomness, mask, *more))


_act = eqx.filter_jit(lambda policy, *given: policy(*given))
_randomness = eqx.filter_jit(lambda policy, key, shape: policy.randomness(key, shape))


def actor_for(policy: Any) -> Any:
    """The quickest way to act with `policy` on NumPy arrays."""
    on_host = getattr(policy, "on_host", None)
    return (on_host() if on_host is not None else None) or CompiledActor(policy)


def host_rollout(
    environments: HostEnvironments, policy: Any, episodes: Episodes, key: Key, length: int
) -> tuple[Episodes, Rollout, Finished]:
    """Step the environments `length` times; the transition keeps the true successor, the next step starts afresh."""
    actor = actor_for(policy)
    randomness = actor.randomness(_policy_key(key), (length, environments.count))
    flight = jax.tree.map(np.array, (episodes.undiscounted_return, episodes.length, episodes.memory))
    # to JAX in one call: the very types of a compiled rollout, and cheaper than array by array later
    return answer(episodes, jax.device_put(play(environments, actor, randomness, flight, length)))


def play(environments: HostEnvironments, actor: Any, randomness: Any, flight: Any, length: int) -> Any:
    """The part of a rollout that is not JAX's: NumPy arrays in, NumPy arrays out, for `answer` to be given names."""
    action_space = environments.action_space
    observation = environments.observations
    mask = environments.action_masks()
    undiscounted_return, elapsed, memory = flight
    steps, ends = [], []
    for t in range(length):
        action, remembered, memory = memories.act(actor, observation, at(randomness, t), mask, memory)
        following, reward, terminated, truncated = environments.step(spaces.clip_action(action_space, action))
        ended = terminated | truncated
        next_mask = environments.action_masks()
        steps.append(
            (observation, action, reward, terminated, truncated, following, remembered, mask, next_mask)
        )
        undiscounted_return = undiscounted_return + reward
        elapsed = elapsed + 1
        ends.append((ended, undiscounted_return, elapsed))
        if ended.any():
            following = environments.reset(mask=ended)
            undiscounted_return = np.where(ended, np.float32(0), undiscounted_return)
            elapsed = np.where(ended, np.int32(0), elapsed)
            memory = memories.forget(memory, ended)
            next_mask = environments.action_masks()
        observation, mask = following, next_mask
    return stacked(steps), stacked(ends), (observation, mask, undiscounted_return, elapsed, memory)


def answer(episodes: Episodes, played: Any) -> tuple[Episodes, Rollout, Finished]:
    """What `play` brought back, as a compiled rollout returns it."""
    (*seen, remembered, masks, next_masks), (ended, returns, lengths), shown = played
    none = jnp.zeros((), jnp.int32)  # host environments are checked step by step, and named when they break
    return (
        Episodes(episodes.state, *shown),
        Rollout(Transition(*seen), remembered, masks, next_masks),
        Finished(ended, returns, lengths, none, none),
    )


class Asked(BaseException):
    """Not an error: how `Asking` comes back from a learner's `collect` with what it asked for."""

    def __init__(self, policy: Any, episodes: Episodes, key: Key, length: int):
        self.policy, self.length = policy, length
        self.randomness = policy.randomness(_policy_key(key), (length, episodes.length.shape[0]))
        self.flight = (episodes.undiscounted_return, episodes.length, episodes.memory)


class Asking:
    """A problem that only finds out what a learner would have it do: its `rollout` raises `Asked`.

    With `Answering` it lets a learner's `collect` be compiled around the one part of it that is Python: once up to
    the environments' steps, once from there on.
    """

    def __init__(self, problem: HostProblem):
        self._problem = problem

    def __getattr__(self, name: str) -> Any:
        return getattr(self._problem, name)

    def rollout(self, policy: Any, episodes: Episodes, key: Key, length: int) -> Any:
        raise Asked(policy, episodes, key, length)


class Answering(Asking):
    """A problem whose steps have been `played`."""

    def __init__(self, problem: HostProblem, played: Any):
        super().__init__(problem)
        self._played = played

    def rollout(self, policy: Any, episodes: Episodes, key: Key, length: int) -> Any:
        return answer(episodes, self._played)


class Parcel:
    """Many small arrays as one, so that they come from JAX in one transfer: what is of four bytes, bit by bit."""

    def __init__(self, like: Any):
        leaves, self._tree = jax.tree.flatten(like)
        self._shapes = [leaf.shape for leaf in leaves]
        self._types = [np.dtype(leaf.dtype) for leaf in leaves]
        self._packed = [kind.itemsize == 4 for kind in self._types]

    def pack(self, tree: Any) -> tuple[Array, list[Array]]:
        leaves = jax.tree.leaves(tree)
        bits = [
            jax.lax.bitcast_convert_type(leaf, jnp.uint32).ravel()
            for leaf, packed in zip(leaves, self._packed, strict=True)
            if packed
        ]
        others = [leaf for leaf, packed in zip(leaves, self._packed, strict=True) if not packed]
        return jnp.concatenate([*bits, jnp.zeros(0, jnp.uint32)]), others

    def unpack(self, bits: Array, others: list[Array]) -> Any:
        """The same tree of NumPy arrays."""
        numbers, rest, place = np.asarray(bits), iter(others), 0
        leaves = []
        for shape, kind, packed in zip(self._shapes, self._types, self._packed, strict=True):
            if packed:
                end = place + math.prod(shape)
                leaves.append(numbers[place:end].view(kind).reshape(shape))
                place = end
            else:
                leaves.append(np.asarray(next(rest)))
        return jax.tree.unflatten(self._tree, leaves)


def at(tree: Any, index: int) -> Any:
    """The entries `index` of every array; the usual single array is spared the walk through a tree."""
    return tree[index] if isinstance(tree, np.ndarray) else jax.tree.map(lambda x: x[index], tree)


# one call that returns one key: taking an array of three apart outside a compiled function costs three more
_policy_key = jax.jit(lambda key: jax.random.split(key, 3)[0])


def stacked(rows: list) -> Any:
    """A list of `T` equal trees as one tree of arrays [T, …]."""
    return jax.tree.map(lambda *leaves: np.array(leaves), *rows)
