"""Freeway: a chicken crosses a road of eight lanes, again and again.

The chicken goes up or down, at most every third step.  A car goes back and forth through no lane: it leaves on one
side and comes in on the other, moving every (1 + its number) steps, 1 to 5.  Who is hit starts again from the bottom.
On the other side there is a reward of 1, the chicken is put back to the bottom, and all cars draw new speeds and
directions.  One channel per speed marks what is behind a car.  There is no other ending than the clock's: after 2,501
steps (a timer of 2,500 that also counts its 0) the game is over, and that counts as termination.

After MinAtar (see `cabinet`).
"""

from typing import ClassVar, NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from bellmark.envs.arcade.cabinet import DOWN, NOTHING, SIZE, UP, AbstractGame, dot, moved, one_of

LANES, SPEEDS = 8, 5
CROSSING = 4
"""The column that the chicken keeps."""
BOTTOM = SIZE - 1
WALKS_AFTER, CLOCK = 3, 2500


class State(NamedTuple):
    """The chicken's row; of each lane's car the column, the steps until it moves, the speed, negative to the left."""

    row: Int[Array, ""]
    walks_in: Int[Array, ""]
    place: Int[Array, "8"]
    moves_in: Int[Array, "8"]
    speed: Int[Array, "8"]
    clock: Int[Array, ""]


def drawn_speeds(uniform: Float[Array, "8"]) -> Int[Array, "8"]:
    """1 to 5 to either side, all ten as likely: what is slow has a large number, the steps that it waits."""
    drawn = one_of(uniform, 2 * SPEEDS)
    return jnp.where(drawn % 2 == 1, 1, -1) * (drawn // 2 + 1)


class Freeway(AbstractGame):
    difficulty_ramping: bool = eqx.field(static=True, default=True)
    """Of no effect here: the game does not become harder."""

    channels: ClassVar = ("chicken", "car", *(f"trail of speed {n}" for n in range(1, SPEEDS + 1)))
    colours: ClassVar = ("#ffd166", "#ef5f5f", "#c7cede", "#aab3c8", "#8e99b3", "#727e9d", "#586487")
    minimal_actions: ClassVar = (NOTHING, UP, DOWN)
    draws_to_start: ClassVar = LANES
    draws_per_step: ClassVar = LANES

    def start(self, uniform: Float[Array, "8"]) -> State:
        speed = drawn_speeds(uniform)
        return State(
            row=jnp.int32(BOTTOM),
            walks_in=jnp.int32(WALKS_AFTER),
            place=jnp.zeros(LANES, jnp.int32),
            moves_in=jnp.abs(speed),
            speed=speed,
            clock=jnp.int32(CLOCK),
        )

    def advance(self, state: State, action: Int[Array, ""], uniform: Float[Array, "8"]):
        walks = ((action == UP) | (action == DOWN)) & (state.walks_in == 0)
        row = moved(state.row, walks & (action == UP), walks & (action == DOWN), 0, BOTTOM)
        walks_in = jnp.where(walks, WALKS_AFTER, state.walks_in)

        arrived = row == 0
        row = jnp.where(arrived, BOTTOM, row)
        speed = jnp.where(arrived, drawn_speeds(uniform), state.speed)
        moves_in = jnp.where(arrived, jnp.abs(speed), state.moves_in)

        # a car hits where it stands and where it goes
        lane = jnp.arange(LANES) + 1 == row
        hit = jnp.any(lane & (state.place == CROSSING))
        moves = moves_in == 0
        place = jnp.where(moves, (state.place + jnp.sign(speed)) % SIZE, state.place)
        hit = hit | jnp.any(lane & (place == CROSSING))
        clock = state.clock - 1
        after = State(
            row=jnp.where(hit, BOTTOM, row),
            walks_in=jnp.maximum(walks_in - 1, 0),
            place=place,
            moves_in=jnp.where(moves, jnp.abs(speed), moves_in - 1),
            speed=speed,
            clock=clock,
        )
        return after, arrived, clock < 0

    def show(self, state: State) -> Bool[Array, "10 10 7"]:
        columns = jnp.arange(SIZE)
        car = state.place[:, None] == columns
        behind = ((state.place - jnp.sign(state.speed)) % SIZE)[:, None] == columns
        trails = [behind & (jnp.abs(state.speed) == n)[:, None] for n in range(1, SPEEDS + 1)]
        lanes = jnp.pad(jnp.stack([car, *trails], axis=-1), ((1, 1), (0, 0), (0, 0)))
        chicken = dot(state.row, jnp.int32(CROSSING))[..., None]
        return jnp.concatenate([chicken, lanes], axis=-1)
