"""A ring of transitions in compiled memory: what was lived through once is learned from many times.

L.-J. Lin, "Self-improving reactive agents based on reinforcement learning, planning and teaching", 1992.

    add      the newest T·B transitions take the places of the oldest
    draw     N places, each transition as likely as any other, with replacement
    take     what is in those places, as n-step transitions

A transition keeps its *true* successor and whether it `terminated`; that it was truncated only stops an n-step sum.
The sums are made when transitions are taken, not when they are stored: n consecutive rows of one environment lie
`environments` places apart, so a rollout may be shorter than n.

The ring is part of the learner's state like everything else, so a checkpoint holds it.  In a compiled loop, XLA writes
into it in place as long as nobody keeps the ring of before (`tests/experience/test_replay.py` looks at the buffer).
"""

from typing import Any

import equinox as eqx
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces
from jaxtyping import Array, Bool, Float, Int, UInt32

from bellmark.maths.returns import n_step_window
from bellmark.types import Action, Episodes, Observation, Rollout, Scalar, Transition


class Batch(eqx.Module):
    """N sampled n-step transitions: r = Σ_{k<m} γ^k R_{t+k} and the state m ≤ n steps later.

    `discount` is what the value of `next_observation` is multiplied by: γ^m, or 0 where the process terminated.
    """

    observation: Observation
    action: Action
    reward: Float[Array, " N"]
    discount: Float[Array, " N"]
    next_observation: Observation
    next_action_mask: Bool[Array, "N A"] | None
    action_mask: Bool[Array, "N A"] | None = None


class Replay(eqx.Module):
    """The newest transitions of B environments: place t·B + b holds step t of environment b, all modulo the capacity.

    `position` is where the next transition goes; `size` of the places are taken.  `action_mask` is kept for learners
    whose policy is a network of its own; the others need to know only what is valid afterwards.
    """

    stored: Transition
    next_action_mask: Bool[Array, "capacity A"] | None
    position: Int[Array, ""]
    size: Int[Array, ""]
    environments: int = eqx.field(static=True)
    action_mask: Bool[Array, "capacity A"] | None = None

    @staticmethod
    def start(
        episodes: Episodes,
        action_space: gymnasium.Space,
        capacity: int,
        rollout_length: int = 1,
        *,
        both_masks: bool = False,
    ) -> "Replay":
        """An empty ring for the observations of `episodes`; the capacity is rounded down to whole rollouts."""
        environments = episodes.length.shape[0]
        capacity = whole_rollouts(capacity, environments * rollout_length)

        def places(leaf: Array) -> Array:
            return jnp.zeros((capacity, *leaf.shape[1:]), leaf.dtype)

        def observations() -> Any:
            # a ring each: the two are written separately, and one buffer cannot be given away twice
            return jax.tree.map(places, episodes.observation)

        shape, dtype = action_layout(action_space)
        mask = episodes.action_mask
        return Replay(
            stored=Transition(
                observation=observations(),
                action=jnp.zeros((capacity, *shape), dtype),
                reward=jnp.zeros(capacity),
                terminated=jnp.zeros(capacity, bool),
                truncated=jnp.zeros(capacity, bool),
                next_observation=observations(),
            ),
            next_action_mask=None if mask is None else places(mask),
            position=jnp.array(0, jnp.int32),
            size=jnp.array(0, jnp.int32),
            environments=environments,
            action_mask=places(mask) if both_masks and mask is not None else None,
        )

    @property
    def capacity(self) -> int:
        return self.stored.reward.shape[0]

    def add(self, rollout: Rollout, begun: Bool[Array, " B"]) -> "Replay":
        """The ring with the T·B newest transitions in it.

        `begun` says which environments' first step here begins an episode.  The step stored before it then was the
        last of its own: usually it says so itself, but not where a process was killed and its episodes were lost.
        """
        count = rollout.transition.reward.size
        stored, mask = self.stored, self.next_action_mask
        mine, theirs = self.action_mask, rollout.action_mask
        last = (self.position - self.environments) % self.capacity
        cut = jax.lax.dynamic_slice(stored.truncated, (last,), (self.environments,)) | begun
        truncated = jax.lax.dynamic_update_slice(stored.truncated, cut, (last,))
        stored = eqx.tree_at(lambda s: s.truncated, stored, truncated)

        def written(ring: Array, new: Array) -> Array:
            new = new.reshape(count, *ring.shape[1:]).astype(ring.dtype)
            return jax.lax.dynamic_update_slice_in_dim(ring, new, self.position, axis=0)

        return Replay(
            stored=jax.tree.map(written, stored, rollout.transition),
            next_action_mask=jax.tree.map(written, mask, rollout.next_action_mask),
            position=(self.position + count) % self.capacity,
            size=jnp.minimum(self.size + count, self.capacity),
            environments=self.environments,
            action_mask=None if mine is None or theirs is None else written(mine, theirs),
        )

    def draw(self, bits: UInt32[Array, " N"]) -> Int[Array, " N"]:
        """A stored transition for each random 32-bit number.

        The remainder of a division favours some places by at most size / 2³²: a fortieth of a per cent at a million.
        """
        return (bits % self.size.astype(jnp.uint32)).astype(jnp.int32)

    def take(self, place: Int[Array, " N"], discount: Scalar, steps: int = 1) -> Batch:
        """The n-step transitions that begin at `place`, n = `steps`; a sum that meets the newest step ends there."""
        rows = (place + self.environments * jnp.arange(steps)[:, None]) % self.capacity
        terminated, truncated = self.stored.terminated[rows], self.stored.truncated[rows]
        later = ((self.position - 1 - place) % self.capacity) // self.environments
        newest = jnp.arange(steps)[:, None] >= later
        reward, factor, last = n_step_window(
            self.stored.reward[rows],
            1.0 - terminated,
            1.0 - (terminated | truncated | newest),
            discount,
        )
        final = jnp.take_along_axis(rows, last[None], axis=0)[0]

        def at(tree: Any, index: Int[Array, " N"]) -> Any:
            return jax.tree.map(lambda ring: ring[index], tree)

        return Batch(
            observation=at(self.stored.observation, place),
            action=self.stored.action[place],
            reward=reward,
            discount=factor,
            next_observation=at(self.stored.next_observation, final),
            next_action_mask=at(self.next_action_mask, final),
            action_mask=at(self.action_mask, place),
        )


def whole_rollouts(capacity: int, rollout: int) -> int:
    """The largest multiple of a rollout's transitions that is not above `capacity`, and at least one rollout."""
    return max(capacity // rollout, 1) * rollout


def action_layout(space: gymnasium.Space) -> tuple[tuple[int, ...], Any]:
    """The shape and type of one action as learners compute it."""
    return space.shape or (), jnp.float32 if isinstance(space, spaces.Box) else jnp.int32


def transition_bytes(observation_space: gymnasium.Space, action_space: gymnasium.Space) -> int:
    """What one stored transition takes: two observations, an action, a reward and two flags."""
    shape, dtype = action_layout(action_space)
    action = int(np.prod(shape, dtype=int)) * jnp.dtype(dtype).itemsize
    return 2 * _observation_bytes(observation_space) + action + 4 + 1 + 1


def _observation_bytes(space: gymnasium.Space) -> int:
    if isinstance(space, spaces.Dict | spaces.Tuple):
        parts = space.spaces.values() if isinstance(space, spaces.Dict) else space.spaces
        return sum(_observation_bytes(part) for part in parts)
    # 64-bit numbers are kept as 32-bit ones, as everywhere in JAX
    return int(np.prod(space.shape or (), dtype=int)) * min(np.dtype(space.dtype).itemsize, 4)
