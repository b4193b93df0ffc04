"""Catch-v0: balls fall down a small screen, one after another, and a paddle at the bottom has to be where they land.

The screen is 10 × 10 pixels.  A ball appears in the top row, in a random column, and falls one row per step; the paddle
moves one column left, stays, or moves right.  A ball that lands on the paddle pays 1, any other −1, and the next one
appears in the same step.  An episode is ten balls, 90 steps; it terminates, and how many balls are left is shown by the
dim pixels of a row above the board, so that what is shown is the whole state.

Every ball can be caught, from wherever the paddle stands: it falls as many rows as the board has columns to cross.  So
the optimum is exactly 10 per episode; a paddle that never moves catches one ball in ten, for −8.

After the game of V. Mnih et al., "Recurrent models of visual attention", 2014, section 4.2, with more than one ball.
"""

from typing import NamedTuple

import equinox as eqx
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, UInt8

from bellmark.envs.base import AbstractEnvironment, Step
from bellmark.types import Key

BRIGHT, DIM = 255, 96


class State(NamedTuple):
    """Where things are, counted from the top left, and how many balls are still to land."""

    row: Int[Array, ""]
    column: Int[Array, ""]
    paddle: Int[Array, ""]
    left: Int[Array, ""]


class Catch(AbstractEnvironment):
    """`size` × `size` pixels below the row that counts; `balls` of them an episode, at most `size`."""

    size: int = eqx.field(static=True, default=10)
    balls: int = eqx.field(static=True, default=10)

    @property
    def observation_space(self) -> gymnasium.spaces.Box:
        return gymnasium.spaces.Box(0, 255, (self.size + 1, self.size, 1), np.uint8)

    @property
    def action_space(self) -> gymnasium.spaces.Discrete:
        return gymnasium.spaces.Discrete(3)

    def reset(self, key: Key) -> State:
        column, paddle = jax.random.randint(key, (2,), 0, self.size)
        return State(jnp.int32(0), column, paddle, jnp.int32(self.balls))

    def observe(self, state: State) -> UInt8[Array, "height width 1"]:
        place = jnp.arange(self.size)
        ball = (place[:, None] == state.row) & (place == state.column)
        paddle = (place[:, None] == self.size - 1) & (place == state.paddle)
        board = jnp.where(ball | paddle, BRIGHT, 0)
        left = jnp.where(place < state.left, DIM, 0)
        return jnp.concatenate([left[None], board]).astype(jnp.uint8)[..., None]

    def step(self, state: State, action: Int[Array, ""], key: Key) -> tuple[State, Step]:
        paddle = jnp.clip(state.paddle + action - 1, 0, self.size - 1)
        row = state.row + 1
        landed = row == self.size - 1
        reward = jnp.where(landed, jnp.where(paddle == state.column, 1.0, -1.0), 0.0)
        left = state.left - landed
        after = State(
            row=jnp.where(landed, 0, row),
            column=jnp.where(landed, jax.random.randint(key, (), 0, self.size), state.column),
            paddle=paddle,
            left=left,
        )
        return after, Step(reward, left == 0, jnp.bool_(False))

    def render(self, state: State) -> np.ndarray:
        from bellmark.envs.drawing import BLUE, FAINT, GROUND, ORANGE, Canvas

        row, column, paddle, left = (int(number) for number in state)
        size = self.size
        canvas = Canvas(400, 440, centre=(size / 2, size / 2 + 0.5), pixels_per_unit=400 / (size + 0.6))
        canvas.rectangle((0, 0), (size, size), GROUND)
        for line in range(size + 1):
            canvas.line([(line, 0), (line, size)], 0.02, FAINT)
            canvas.line([(0, line), (size, line)], 0.02, FAINT)
        for ball in range(left):
            canvas.circle((ball + 0.5, size + 0.5), 0.18, ORANGE)
        canvas.rectangle((paddle + 0.05, 0.1), (paddle + 0.95, 0.5), BLUE, radius=0.15)
        canvas.circle((column + 0.5, size - row - 0.5), 0.36, ORANGE)
        return canvas.pixels()
