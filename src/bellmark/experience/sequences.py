"""A replay memory of sequences, for learners with a memory of their own: steps stay together and in order.

R. Kapturowski et al., "Recurrent experience replay in distributed reinforcement learning", ICLR 2019.

    add      a rollout takes the place of the oldest one: its T steps of B environments, and with what the acting policy
             remembered when it began
    draw     N sequences, each as likely as any other; a sequence begins where a rollout began
    take     the steps of those sequences, through as many of the following rollouts as they need, and the memory stored
             with the first

So T is the distance between the beginnings of two sequences of one environment: sequences longer than T overlap.
Place r·B + b stands for the sequence of environment b that begins with rollout r of the ring.
"""

from typing import Any

import equinox as eqx
import gymnasium
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt32

from bellmark.experience.replay import action_layout, transition_bytes
from bellmark.types import Episodes, Rollout, Transition


class Beginning(eqx.Module):
    """What a rollout began with: which environments' first step begins an episode, and what was remembered."""

    begun: Bool[Array, " B"]
    memory: Float[Array, "B H"]


class Sequences(eqx.Module):
    """N sequences of L steps; `begins`: a step is the first of its episode; `unbroken`: the next one follows it."""

    memory: Float[Array, "N H"]
    transition: Transition
    begins: Bool[Array, "L N"]
    unbroken: Float[Array, "L N"]
    next_action_mask: Bool[Array, "L N A"] | None


class SequenceReplay(eqx.Module):
    """The newest rollouts of B environments, ring index first: [rollouts, T, B, …].

    `row` is where the next rollout goes, `held` how many are there; `length` the steps of a sequence.
    """

    stored: Transition
    next_action_mask: Bool[Array, "rows T B A"] | None
    begins: Bool[Array, "rows T B"]
    memory: Float[Array, "rows B H"]
    row: Int[Array, ""]
    held: Int[Array, ""]
    length: int = eqx.field(static=True)

    @staticmethod
    def start(
        episodes: Episodes,
        action_space: gymnasium.Space,
        capacity: int,
        rollout_length: int,
        length: int,
    ) -> "SequenceReplay":
        """An empty memory; the capacity, in steps, is rounded down to whole rollouts, and up to one whole sequence."""
        environments = episodes.length.shape[0]
        rows = max(capacity // (environments * rollout_length), rollouts_per_sequence(length, rollout_length))
        at = (rows, rollout_length, environments)

        def places(leaf: Array) -> Array:
            return jnp.zeros((*at, *leaf.shape[1:]), leaf.dtype)

        shape, dtype = action_layout(action_space)
        mask, remembered = episodes.action_mask, episodes.memory
        return SequenceReplay(
            stored=Transition(
                observation=jax.tree.map(places, episodes.observation),
                action=jnp.zeros((*at, *shape), dtype),
                reward=jnp.zeros(at),
                terminated=jnp.zeros(at, bool),
                truncated=jnp.zeros(at, bool),
                # a ring of its own: the two are written separately, and one buffer cannot be given away twice
                next_observation=jax.tree.map(places, episodes.observation),
            ),
            next_action_mask=None if mask is None else places(mask),
            begins=jnp.zeros(at, bool),
            memory=jnp.zeros((rows, *remembered.shape)),
            row=jnp.array(0, jnp.int32),
            held=jnp.array(0, jnp.int32),
            length=length,
        )

    @property
    def rows(self) -> int:
        return self.begins.shape[0]

    @property
    def environments(self) -> int:
        return self.begins.shape[2]

    @property
    def capacity(self) -> int:
        """How many places there are."""
        return self.rows * self.environments

    @property
    def span(self) -> int:
        """How many rollouts a sequence reaches through."""
        return rollouts_per_sequence(self.length, self.begins.shape[1])

    @property
    def size(self) -> Int[Array, ""]:
        """Stored steps."""
        return self.held * (self.begins.shape[1] * self.environments)

    @property
    def complete(self) -> Int[Array, ""]:
        """Sequences all of whose steps are there."""
        return jnp.maximum(self.held - self.span + 1, 0) * self.environments

    def add(self, rollout: Rollout, beginning: Beginning) -> "SequenceReplay":
        """The memory with the newest rollout in it."""
        transition = rollout.transition
        ended = transition.terminated | transition.truncated
        begins = jnp.concatenate([beginning.begun[None], ended[:-1]])

        def written(ring: Array, new: Array) -> Array:
            return jax.lax.dynamic_update_slice_in_dim(ring, new[None].astype(ring.dtype), self.row, axis=0)

        return SequenceReplay(
            stored=jax.tree.map(written, self.stored, transition),
            next_action_mask=jax.tree.map(written, self.next_action_mask, rollout.next_action_mask),
            begins=written(self.begins, begins),
            memory=written(self.memory, beginning.memory),
            row=(self.row + 1) % self.rows,
            held=jnp.minimum(self.held + 1, self.rows),
            length=self.length,
        )

    def places(self, row: Int[Array, ""]) -> Int[Array, " B"]:
        """The sequences that begin with the rollout in ring index `row`."""
        return row % self.rows * self.environments + jnp.arange(self.environments)

    def draw(self, bits: UInt32[Array, " N"]) -> Int[Array, " N"]:
        """A complete sequence for each random 32-bit number, counted from the oldest rollout (see `Replay.draw`)."""
        index = (bits % jnp.maximum(self.complete, 1).astype(jnp.uint32)).astype(jnp.int32)
        oldest = self.row - self.held
        row = (oldest + index // self.environments) % self.rows
        return row * self.environments + index % self.environments

    def take(self, place: Int[Array, " N"]) -> Sequences:
        """The steps of the sequences at `place`."""
        row, environment = place // self.environments, place % self.environments
        rows = (row + jnp.arange(self.span)[:, None]) % self.rows

        def steps(ring: Array) -> Array:
            picked = jnp.moveaxis(ring[rows, :, environment], 2, 1)  # [span, T, N, …]
            return picked.reshape(-1, *picked.shape[2:])[: self.length]

        transition = jax.tree.map(steps, self.stored)
        begins = steps(self.begins)
        # a step after which an episode begins is the last of its own, also where a process was killed in the middle
        cut = jnp.concatenate([begins[1:], jnp.ones_like(begins[:1])])
        broken = transition.terminated | transition.truncated | cut
        return Sequences(
            memory=self.memory[row, environment],
            transition=transition,
            begins=begins,
            unbroken=1.0 - broken,
            next_action_mask=jax.tree.map(steps, self.next_action_mask),
        )


def rollouts_per_sequence(length: int, rollout_length: int) -> int:
    return -(-length // rollout_length)


def step_bytes(
    observation_space: gymnasium.Space, action_space: gymnasium.Space, memory: int, rollout_length: int
) -> int:
    """What one stored step takes: a transition, a flag, and its share of what was remembered."""
    each: Any = transition_bytes(observation_space, action_space) + 1
    return each + -(-4 * memory // rollout_length)
