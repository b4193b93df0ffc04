"""Breakout: a paddle keeps a ball in play, and the ball takes the bricks away one by one.

The ball flies along diagonals: it is reflected by the walls, the ceiling, the paddle, and by a brick, which it breaks
for a reward of 1.  A paddle under the ball sends it back the way that it leans; a paddle that it would meet at its
corner sends it back where it came from.  The ball starts in a top corner under three rows of bricks, which come back
once all are gone and the ball is at the bottom again.  The game is over when the ball falls past the paddle.

What surprises: right after a brick broke, the ball flies through the next one that it meets without a bounce, and on
until it is in the open.

After MinAtar (see `cabinet`).
"""

from typing import ClassVar, NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from bellmark.envs.arcade.cabinet import LEFT, NOTHING, RIGHT, SIZE, AbstractGame, dot, moved

TOP, ROWS = 1, 3
"""The first row of bricks, and how many rows."""


class State(NamedTuple):
    """Where the ball is and was, counted from the top left; where it flies (±1 each); whether it is among bricks."""

    row: Int[Array, ""]
    column: Int[Array, ""]
    down: Int[Array, ""]
    right: Int[Array, ""]
    last_row: Int[Array, ""]
    last_column: Int[Array, ""]
    paddle: Int[Array, ""]
    bricks: Bool[Array, "3 10"]
    among: Bool[Array, ""]


class Breakout(AbstractGame):
    difficulty_ramping: bool = eqx.field(static=True, default=True)
    """Of no effect here: the game does not become harder."""

    channels: ClassVar = ("paddle", "ball", "trail", "brick")
    colours: ClassVar = ("#f7f8fb", "#ffd166", "#b59a4e", "#ef6f4c")
    minimal_actions: ClassVar = (NOTHING, LEFT, RIGHT)
    draws_to_start: ClassVar = 1
    draws_per_step: ClassVar = 0

    def start(self, uniform: Float[Array, "1"]) -> State:
        left = uniform[0] < 0.5
        row, column = jnp.int32(TOP + ROWS - 1), jnp.where(left, 0, SIZE - 1)
        return State(
            row=row,
            column=column,
            down=jnp.int32(1),
            right=jnp.where(left, 1, -1),
            last_row=row,
            last_column=column,
            paddle=jnp.int32(4),
            bricks=jnp.ones((ROWS, SIZE), bool),
            among=jnp.bool_(False),
        )

    def advance(self, state: State, action: Int[Array, ""], uniform: Float[Array, "0"]):
        paddle = moved(state.paddle, action == LEFT, action == RIGHT, 0, SIZE - 1)
        row, column = state.row + state.down, state.column + state.right
        wall = (column < 0) | (column >= SIZE)
        column = jnp.clip(column, 0, SIZE - 1)
        ceiling, floor = row < 0, row == SIZE - 1

        here = dot(row, column)[TOP : TOP + ROWS]
        inside = jnp.any(state.bricks & here)
        breaks = inside & ~state.among
        bricks = jnp.where(floor & ~jnp.any(state.bricks), True, state.bricks & ~(here & breaks))

        straight = floor & (state.column == paddle)
        corner = floor & ~straight & (column == paddle)
        back_up = breaks | straight | corner
        after = State(
            row=jnp.where(ceiling, 0, jnp.where(back_up, state.row, row)),
            column=column,
            down=jnp.where(ceiling | back_up, -state.down, state.down),
            right=jnp.where(wall ^ corner, -state.right, state.right),
            last_row=state.row,
            last_column=state.column,
            paddle=paddle,
            bricks=bricks,
            among=inside,
        )
        return after, breaks, floor & ~straight & ~corner

    def show(self, state: State) -> Bool[Array, "10 10 4"]:
        bricks = jnp.zeros((SIZE, SIZE), bool).at[TOP : TOP + ROWS].set(state.bricks)
        return jnp.stack(
            [
                dot(jnp.int32(SIZE - 1), state.paddle),
                dot(state.row, state.column),
                dot(state.last_row, state.last_column),
                bricks,
            ],
            axis=-1,
        )
