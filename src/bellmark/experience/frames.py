"""A replay memory of pictures that keeps each of them once.

V. Mnih et al., "Human-level control through deep reinforcement learning", Nature 518, 2015, stack the last k frames,
so a transition as it stands holds each frame 2k times.  Here a ring of frames per environment holds

    the first frame of an episode, and the newest frame of every successor

and a transition holds two pointers into it, beside what `Replay` keeps of any transition.  The stack is put together
when a transition is taken: k frames back from the pointer, but never past the episode's first, which fills the rest
as `FrameStack` does.  An episode's last successor has its own frame, so the *true* one is there where an episode was
cut.

An episode of n steps takes n + 1 frames.  The ring has room for one frame per transition and a share `spare` more;
where episodes are so short that this is not enough, the oldest transitions are dropped before their frames are
overwritten.  With `spare` = 1 that cannot happen.
"""

import dataclasses
import math
from typing import Any, NamedTuple

import equinox as eqx
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, UInt8, UInt32

from bellmark.envs.spaces import is_image
from bellmark.errors import BadInput
from bellmark.experience.replay import Batch, Replay, action_layout, whole_rollouts
from bellmark.types import Episodes, Rollout, Scalar

SPARE = 1 / 8


class Frame(NamedTuple):
    """Where the newest frame of a stack is, and how many frames of the same episode are known to lie before it."""

    slot: Int[Array, "*N"]
    age: UInt8[Array, "*N"]


class FrameReplay(eqx.Module):
    """A `Replay` whose observations are pointers, and the frames that they point to: slot r·B + b, ring by ring.

    `next_row` [B] is where each environment's next frame goes, `age` [B] how old its episode is, in frames, k − 1 at
    most.  `size` of the transitions are there, the newest; `count` is k.
    """

    index: Replay
    frames: Array
    next_row: Int[Array, " B"]
    age: Int[Array, " B"]
    size: Int[Array, ""]
    shape: tuple[int, ...] = eqx.field(static=True)
    count: int = eqx.field(static=True)

    @staticmethod
    def start(
        episodes: Episodes,
        action_space: gymnasium.Space,
        capacity: int,
        rollout_length: int = 1,
        count: int = 1,
        spare: float = SPARE,
    ) -> "FrameReplay":
        """An empty memory for stacks of `count` frames; the capacity is rounded down to whole rollouts."""
        environments = episodes.length.shape[0]
        shown: Any = episodes.observation
        shape = frame_shape(shown.shape[1:], count)
        pointer = Frame(jnp.zeros(environments, jnp.int32), jnp.zeros(environments, jnp.uint8))
        index = Replay.start(
            dataclasses.replace(episodes, observation=pointer), action_space, capacity, rollout_length
        )
        rows = frame_rows(index.capacity // environments, count, rollout_length, spare)
        return FrameReplay(
            index=index,
            # one axis for a frame: XLA's CPU writes and reads whole rows
            frames=jnp.zeros((rows * environments, math.prod(shape)), shown.dtype),
            next_row=jnp.zeros(environments, jnp.int32),
            age=jnp.zeros(environments, jnp.int32),
            size=jnp.array(0, jnp.int32),
            shape=shape,
            count=count,
        )

    @property
    def capacity(self) -> int:
        return self.index.capacity

    @property
    def position(self) -> Int[Array, ""]:
        return self.index.position

    @property
    def rows(self) -> int:
        return self.frames.shape[0] // self.index.environments

    def add(self, rollout: Rollout, begun: Bool[Array, " B"]) -> "FrameReplay":
        """With the T·B newest transitions in it; `begun` as in `Replay.add`."""
        transition = rollout.transition
        length, environments = transition.reward.shape
        ended = transition.terminated | transition.truncated
        first = jnp.concatenate([begun[None], ended[:-1]])
        # frames written before the end of each step: one for the successor, one more where an episode begins
        written = jnp.cumsum(1 + first, axis=0)
        row = (self.next_row + written) % self.rows
        step = jnp.arange(length)[:, None]
        since = jax.lax.cummax(jnp.where(first, step, -1))
        age = jnp.minimum(jnp.where(since >= 0, step - since, self.age + 1 + step), self.count - 1)

        def slot(back: int) -> Int[Array, "T B"]:
            return (row - back) % self.rows * environments + jnp.arange(environments)

        def newest(observation: Array) -> Array:
            # the other frames of the stack are those of the steps before
            channels = observation.shape[-1] if self.count == 1 else self.shape[-1]
            return observation[..., -channels:].reshape(length * environments, -1)

        frames = self.frames
        nowhere = frames.shape[0]
        beginnings = jnp.where(first, slot(2), nowhere).reshape(-1)
        frames = frames.at[beginnings].set(newest(transition.observation), mode="drop")
        frames = frames.at[slot(1).reshape(-1)].set(newest(transition.next_observation))

        following = jnp.minimum(age + 1, self.count - 1)
        pointers = dataclasses.replace(
            transition,
            observation=Frame(slot(2), age.astype(jnp.uint8)),
            next_observation=Frame(slot(1), following.astype(jnp.uint8)),
        )
        index = self.index.add(dataclasses.replace(rollout, transition=pointers), begun)
        held = jnp.minimum(self.size // environments + length, self.capacity // environments)
        return FrameReplay(
            index=index,
            frames=frames,
            next_row=row[-1],
            age=age[-1],
            size=(held - self.overwritten(index, held, length, written[-1])) * environments,
            shape=self.shape,
            count=self.count,
        )

    def overwritten(
        self, index: Replay, held: Int[Array, ""], length: int, written: Int[Array, " B"]
    ) -> Int[Array, ""]:
        """How many of the `held` rows of transitions have lost a frame to the `written` newest ones.

        At most 2T frames were written per environment, and every row has a frame of its own, so only so many of the
        oldest rows need be looked at, with as many more as share their history.
        """
        environments = index.environments
        oldest = jnp.arange(2 * length + self.count)[:, None]
        start = index.position // environments - held
        place = (start + oldest) * environments + jnp.arange(environments)
        pointer: Any = jax.tree.map(lambda ring: ring[place % self.capacity], index.stored.observation)
        begins = pointer.slot // environments - pointer.age
        behind = (self.next_row - begins - 1) % self.rows + 1
        lost = jnp.any(behind + written > self.rows, axis=1) & (oldest[:, 0] < held - length)
        return jnp.sum(lost).astype(jnp.int32)

    def draw(self, bits: UInt32[Array, " N"]) -> Int[Array, " N"]:
        """A stored transition for each random 32-bit number, counted from the oldest."""
        number = (bits % self.size.astype(jnp.uint32)).astype(jnp.int32)
        return (self.position - self.size + number) % self.capacity

    def take(self, place: Int[Array, " N"], discount: Scalar, steps: int = 1) -> Batch:
        """As `Replay.take`, the stacks put together."""
        batch = self.index.take(place, discount, steps)
        return dataclasses.replace(
            batch,
            observation=self.stack(batch.observation),
            next_observation=self.stack(batch.next_observation),
        )

    def stack(self, pointer: Any) -> Array:
        """The last k frames of an episode up to `pointer`, [N, height, width, k · channels], oldest first."""
        environments = self.index.environments
        row, environment = pointer.slot // environments, pointer.slot % environments
        back = jnp.arange(self.count)[::-1, None]
        rows = (row - jnp.minimum(back, pointer.age)) % self.rows
        frames = self.frames[rows * environments + environment].reshape(*rows.shape, *self.shape)
        return frames[0] if self.count == 1 else jnp.concatenate(list(frames), axis=-1)


Memory = Replay | FrameReplay
"""What learners from stored transitions draw from."""


def keeps_frames(learner: Any, space: gymnasium.Space) -> bool:
    """Whether a learner keeps what it observes as frames: if they are pictures, unless it is told otherwise.

    Host memory has room for whole transitions.
    """
    outside = getattr(learner, "replay_memory", "compiled") == "host"
    return getattr(learner, "image_replay", None) == "frames" and is_image(space) and not outside


def spare_frames(learner: Any) -> float:
    """Priorities belong to places, so a learner that has them must never lose a transition early."""
    return 1.0 if getattr(learner, "prioritised", False) else SPARE


def memory_for(learner: Any, problem: Any, episodes: Episodes) -> Memory:
    """The empty memory of a learner: frames for pictures, whole transitions for everything else."""
    given = (episodes, problem.action_space, learner.replay_capacity, learner.rollout_length)
    if not keeps_frames(learner, problem.observation_space):
        return Replay.start(*given)
    return FrameReplay.start(*given, count=problem.stacked_frames, spare=spare_frames(learner))


def frame_shape(shape: tuple[int, ...], count: int) -> tuple[int, ...]:
    """The shape of one frame of a stack of `count` on the channels."""
    if count == 1:
        return tuple(shape)
    if len(shape) != 3 or shape[-1] % count:
        raise BadInput(
            f"observations of shape {list(shape)} are no stack of {count} frames; allowed: [height, width, channels] "
            f"with a multiple of {count} channels"
        )
    return (*shape[:-1], shape[-1] // count)


def frame_rows(rows: int, count: int, rollout_length: int, spare: float) -> int:
    """The length of one environment's ring of frames, for `rows` transitions of it."""
    return math.ceil(rows * (1 + spare)) + count + 2 * rollout_length


def memory_bytes(
    observation_space: gymnasium.Space,
    action_space: gymnasium.Space,
    capacity: int,
    environments: int,
    rollout_length: int = 1,
    count: int = 1,
    spare: float = SPARE,
) -> int:
    """What the whole memory takes: the frames, and per transition two pointers, an action, a reward and two flags."""
    assert observation_space.shape is not None
    capacity = whole_rollouts(capacity, environments * rollout_length)
    frame = (
        math.prod(frame_shape(observation_space.shape, count)) * np.dtype(observation_space.dtype).itemsize
    )
    shape, dtype = action_layout(action_space)
    each = 2 * (4 + 1) + math.prod(shape) * jnp.dtype(dtype).itemsize + 4 + 1 + 1
    return (
        frame_rows(capacity // environments, count, rollout_length, spare) * environments * frame
        + capacity * each
    )
