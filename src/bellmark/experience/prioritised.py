"""Priorities: which stored transitions are learned from more often, and what corrects for it.

T. Schaul, J. Quan, I. Antonoglou, D. Silver, "Prioritized experience replay", 2016 (the proportional variant).

    P(i) = p_i / Σ_j p_j,    p_i = (|δ_i| + small)^α          a new transition has the largest priority so far
    w_i  = (N P(i))^−β / max_j w_j                             j over the batch

The sums are kept in a tree with BRANCHES children per node instead of two: a step down reads one short row of
consecutive numbers, and a million transitions are four rows deep instead of twenty.  A parent is always the sum of its
children computed anew, never adjusted by a difference, so no rounding error can build up.
"""

import math

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt32

from bellmark.types import Scalar

BRANCHES = 32
SMALL = 1e-6
"""Added to |δ|, so that no transition is out of reach for ever."""

SUMMED = np.triu(np.ones((BRANCHES, BRANCHES), np.float32))
"""Running sums of a row as a product: on a CPU, XLA's cumulative sum of these short rows costs thirty times as much."""


class SumTree(eqx.Module):
    """Non-negative weights and their partial sums: `levels[0]` holds the weights, each next level the sums of its rows.

    Levels are flat: XLA's CPU scatters into one axis a hundred times quicker than into two.
    """

    levels: tuple[Float[Array, " _nodes"], ...]

    @staticmethod
    def start(size: int) -> "SumTree":
        levels: list[Array] = []
        nodes = size
        while not levels or nodes > 1:
            nodes = math.ceil(nodes / BRANCHES)
            levels.append(jnp.zeros(nodes * BRANCHES))
        return SumTree(tuple(levels))

    @property
    def total(self) -> Float[Array, ""]:
        return jnp.sum(self.levels[-1])

    def __getitem__(self, index: Int[Array, " N"]) -> Float[Array, " N"]:
        return self.levels[0][index]

    def set(self, index: Int[Array, " N"], weight: Float[Array, " N"]) -> "SumTree":
        """The tree with new weights; of an index that is given twice, one of its weights counts."""
        levels = []
        for level in self.levels:
            level = level.at[index].set(weight)
            levels.append(level)
            # of a row that is summed twice, both sums are the same
            index = index // BRANCHES
            weight = jnp.sum(level.reshape(-1, BRANCHES)[index], axis=1)
        return SumTree(tuple(levels))

    def find(self, height: Float[Array, " N"]) -> Int[Array, " N"]:
        """The index at which the running sum of the weights first exceeds `height`; never one of weight 0.

        Where rounding leaves a height at or above a row's sum, it is the row's last index that has weight.
        """
        row = jnp.zeros(height.shape, jnp.int32)
        for level in reversed(self.levels):
            weights = level.reshape(-1, BRANCHES)[row]
            running = jnp.matmul(weights, SUMMED, precision="highest")
            inside = (running > height[:, None]) & (weights > 0)
            last = BRANCHES - 1 - jnp.argmax(weights[:, ::-1] > 0, axis=1)
            column = jnp.where(jnp.any(inside, axis=1), jnp.argmax(inside, axis=1), last)
            below = jnp.take_along_axis(running - weights, column[:, None], axis=1)[:, 0]
            height = jnp.maximum(height - below, 0.0)
            row = row * BRANCHES + column.astype(jnp.int32)
        return row


class Priorities(eqx.Module):
    """The priorities of the places of a `Replay`, and how sampling follows them."""

    tree: SumTree
    largest: Float[Array, ""]

    @staticmethod
    def start(capacity: int) -> "Priorities":
        return Priorities(SumTree.start(capacity), jnp.array(1.0))

    def add(self, place: Int[Array, " N"]) -> "Priorities":
        """New transitions came to `place`: they have the largest priority so far, so that each is soon seen."""
        weight = jnp.broadcast_to(self.largest, place.shape)
        return Priorities(self.tree.set(place, weight), self.largest)

    def draw(
        self, bits: UInt32[Array, " N"], size: Int[Array, ""], correction: Scalar
    ) -> tuple[Int[Array, " N"], Float[Array, " N"]]:
        """N places in proportion to their priorities, one from each N-th of the total, and their weights w.

        `correction` is β: 1 makes up in full for the unequal sampling.
        """
        count = bits.shape[0]
        uniform = (bits >> 8).astype(jnp.float32) * 2.0**-24
        total = self.tree.total
        place = self.tree.find((jnp.arange(count) + uniform) / count * total)
        weight = (size * self.tree[place] / total) ** -correction
        return place, weight / jnp.max(weight)

    def set(self, place: Int[Array, " N"], error: Float[Array, " N"], exponent: Scalar) -> "Priorities":
        """Priorities after the temporal-difference errors δ at `place` were seen; `exponent` is α."""
        priority = (jnp.abs(error) + SMALL) ** exponent
        # the largest ever seen, as in the paper: it does not fall when the transition that had it is overwritten
        return Priorities(self.tree.set(place, priority), jnp.maximum(self.largest, jnp.max(priority)))


def new_places(position: Int[Array, ""], count: int, capacity: int) -> Int[Array, " count"]:
    """Where the next `count` transitions of a ring go."""
    return (position + jnp.arange(count)) % capacity
