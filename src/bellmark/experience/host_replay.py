"""A replay memory outside the compiled program: in host memory, or mapped from a file where it is larger than that.

    add       on the host, in place, as `Replay` does
    handed    the transitions of all updates that come next, gathered on the host before the compiled update begins

What an update then does with them is the same: sums of n steps are made in the compiled program, from the same numbers
and by the same random bits, so a run is the same bit for bit wherever its memory lies
(`tests/run/test_host_replay.py`).  Priorities change from update to update and cannot be drawn from ahead of time.

The arrays are leaves of the state like all others, so a checkpoint holds them; it is written and read piece by piece,
into the mapped file where there is one.  An interrupted step is taken back from a journal of what was written over.
"""

import dataclasses
import os
import tempfile
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt32

from bellmark.errors import BadInput
from bellmark.experience.replay import Batch, Replay
from bellmark.maths.returns import n_step_window
from bellmark.types import Rollout, Scalar


class Handed(eqx.Module):
    """The n-step windows of U batches of N transitions, in place of the memory that they came from.

    `at(u)` are those of one update, and answer to `draw` and `take` as a memory does.
    """

    observation: Any
    action: Any
    reward: Any
    terminated: Any
    unbroken: Any
    next_observation: Any
    next_action_mask: Any
    action_mask: Any
    size: Any

    def add(self, rollout: Rollout, begun: Any) -> "Handed":
        """The host has added it."""
        return self

    def at(self, index: Int[Array, ""]) -> "Handed":
        alone = dataclasses.replace(self, size=None)
        return dataclasses.replace(jax.tree.map(lambda x: x[index], alone), size=self.size)

    def draw(self, bits: UInt32[Array, " N"]) -> Int[Array, " N"]:
        """Their places in this batch: they were drawn by these bits already."""
        return jnp.arange(bits.shape[0])

    def take(self, place: Int[Array, " N"], discount: Scalar, steps: int = 1) -> Batch:
        """As `Replay.take`."""
        reward: Float[Array, "n N"] = self.reward
        total, factor, _ = n_step_window(reward, 1.0 - self.terminated, self.unbroken, discount)
        return Batch(
            observation=self.observation,
            action=self.action,
            reward=total,
            discount=factor,
            next_observation=self.next_observation,
            next_action_mask=self.next_action_mask,
            action_mask=self.action_mask,
        )


class Journal:
    """What was written over since the last mark, newest last."""

    def __init__(self) -> None:
        self.entries: list[tuple[list[tuple[np.ndarray, int, np.ndarray]], tuple[int, np.ndarray]]] = []


class HostReplay(eqx.Module):
    """The arrays of a `Replay` as NumPy's, or as a mapped file's; `position` and `size` as there."""

    arrays: Any
    position: Int[Array, ""]
    size: Int[Array, ""]
    environments: int = eqx.field(static=True)
    journal: Journal = eqx.field(static=True)

    @staticmethod
    def like(small: Replay, capacity: int, folder: Path | None = None) -> "HostReplay":
        """An empty memory laid out as a compiled one of any size; in a file of `folder`, if one is given.

        Raises: `BadInput` where the disk has no room for it.
        """
        arrays = (small.stored, small.next_action_mask, small.action_mask)

        def places(leaf: Any) -> np.ndarray:
            shape = (capacity, *leaf.shape[1:])
            return np.zeros(shape, leaf.dtype) if folder is None else mapped(shape, leaf.dtype, folder)

        zero = jnp.array(0, jnp.int32)
        return HostReplay(jax.tree.map(places, arrays), zero, zero, small.environments, Journal())

    @property
    def capacity(self) -> int:
        return self.arrays[0].reward.shape[0]

    def add(self, rollout: Rollout, begun: Any) -> "HostReplay":
        """The memory with the T·B newest transitions in it; it is this one, written over."""
        stored, mask, mine = self.arrays
        count, position = rollout.transition.reward.size, int(self.position)
        last = (position - self.environments) % self.capacity
        cut = stored.truncated[last : last + self.environments]
        overwritten: list[tuple[np.ndarray, int, np.ndarray]] = []
        self.journal.entries.append((overwritten, (last, cut.copy())))
        cut |= np.asarray(begun)

        def write(ring: np.ndarray, new: Any) -> None:
            there = ring[position : position + count]
            overwritten.append((ring, position, there.copy()))
            there[...] = np.asarray(new).reshape(there.shape)

        jax.tree.map(write, stored, rollout.transition)
        if mask is not None:
            write(mask, rollout.next_action_mask)
        if mine is not None:
            write(mine, rollout.action_mask)
        return dataclasses.replace(
            self,
            position=jnp.array((position + count) % self.capacity, jnp.int32),
            size=jnp.array(min(int(self.size) + count, self.capacity), jnp.int32),
        )

    def handed(self, bits: np.ndarray, steps: int) -> Handed:
        """The n-step windows, n = `steps`, that `Replay.draw` and `Replay.take` would give for bits [U, N]."""
        stored, mask, mine = self.arrays
        size, position = int(self.size), int(self.position)
        place = (bits % np.uint32(size)).astype(np.int64)
        along = np.arange(steps)[:, None]
        rows = (place[:, None] + self.environments * along) % self.capacity  # [U, n, N]
        terminated, truncated = stored.terminated[rows], stored.truncated[rows]
        later = ((position - 1 - place) % self.capacity) // self.environments
        unbroken = ~(terminated | truncated | (along >= later[:, None]))
        last = np.cumprod(unbroken[:, :-1], axis=1).sum(axis=1)
        final = np.take_along_axis(rows, last[:, None], axis=1)[:, 0]

        def at(tree: Any, index: np.ndarray) -> Any:
            return jax.tree.map(lambda ring: ring[index], tree)

        return Handed(
            observation=at(stored.observation, place),
            action=stored.action[place],
            reward=stored.reward[rows],
            terminated=terminated.astype(np.float32),
            unbroken=unbroken.astype(np.float32),
            next_observation=at(stored.next_observation, final),
            next_action_mask=at(mask, final),
            action_mask=at(mine, place),
            size=self.size,
        )

    def marked(self) -> "HostReplay":
        """This state of the memory, to which `undone` leads back."""
        self.journal.entries.clear()
        return self

    def undone(self) -> "HostReplay":
        """The memory as it was when it was marked."""
        while self.journal.entries:
            overwritten, (last, cut) = self.journal.entries.pop()
            for ring, position, old in reversed(overwritten):
                ring[position : position + len(old)] = old
            self.arrays[0].truncated[last : last + len(cut)] = cut
        return self


def mapped(shape: tuple[int, ...], dtype: Any, folder: Path) -> np.ndarray:
    """Zeros in a file of `folder` that has no name and is gone with the process."""
    wanted = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    with tempfile.TemporaryFile(dir=folder) as file:
        try:
            # the room is taken now: a write into a mapped file on a full disk would end the process
            reserve = getattr(os, "posix_fallocate", lambda file, _, size: os.ftruncate(file, size))
            reserve(file.fileno(), 0, max(wanted, 1))
        except OSError as error:
            raise BadInput(
                f"the replay memory does not fit on the disk of {folder}: {wanted:,} bytes, {error.strerror}"
            ) from None
        return np.memmap(file, dtype, mode="r+", shape=shape)
