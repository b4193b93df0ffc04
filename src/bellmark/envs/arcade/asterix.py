"""Asterix: pick up the gold, keep away from the enemies.

The player walks in four directions on the eight middle rows.  In each of these rows at most one thing at a time comes
in from the left or the right and crosses the screen: gold (one in three), which is worth 1 and vanishes when it is
touched, or an enemy, whose touch ends the game.  What is behind a thing is marked, so that its direction can be seen.

With `difficulty_ramping`, things come more often and move more quickly: every 102 steps (a timer of 100 that also
counts its 0 and its −1) one comes after a step less, and every second time they move after a step less.

After MinAtar (see `cabinet`).
"""

from typing import ClassVar, NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from bellmark.envs.arcade.cabinet import (
    DOWN,
    LEFT,
    NOTHING,
    RIGHT,
    SIZE,
    UP,
    AbstractGame,
    dot,
    moved,
    one_of,
)

LANES = 8
COMES_AFTER, MOVES_AFTER, RAMP = 10, 5, 100
GOLD_SHARE = 1 / 3


class State(NamedTuple):
    """The player; of each lane what is in it, where it is and which way it goes; the timers and what they start
    from."""

    row: Int[Array, ""]
    column: Int[Array, ""]
    taken: Bool[Array, "8"]
    place: Int[Array, "8"]
    rightward: Bool[Array, "8"]
    gold: Bool[Array, "8"]
    comes_after: Int[Array, ""]
    comes_in: Int[Array, ""]
    moves_after: Int[Array, ""]
    moves_in: Int[Array, ""]
    ramps_in: Int[Array, ""]
    ramps: Int[Array, ""]


class Asterix(AbstractGame):
    difficulty_ramping: bool = eqx.field(static=True, default=True)

    channels: ClassVar = ("player", "enemy", "trail", "gold")
    colours: ClassVar = ("#6cc4ff", "#ef5f5f", "#6b7690", "#ffd166")
    minimal_actions: ClassVar = (NOTHING, LEFT, UP, RIGHT, DOWN)
    draws_to_start: ClassVar = 0
    draws_per_step: ClassVar = 3

    def start(self, uniform: Float[Array, "0"]) -> State:
        none = jnp.zeros(LANES, bool)
        return State(
            row=jnp.int32(5),
            column=jnp.int32(5),
            taken=none,
            place=jnp.zeros(LANES, jnp.int32),
            rightward=none,
            gold=none,
            comes_after=jnp.int32(COMES_AFTER),
            comes_in=jnp.int32(COMES_AFTER),
            moves_after=jnp.int32(MOVES_AFTER),
            moves_in=jnp.int32(MOVES_AFTER),
            ramps_in=jnp.int32(RAMP),
            ramps=jnp.int32(0),
        )

    def advance(self, state: State, action: Int[Array, ""], uniform: Float[Array, "3"]):
        # something comes into one of the free lanes, if there is one
        comes = state.comes_in == 0
        free = ~state.taken
        # how many free lanes lie before: XLA's cumulative sum would cost more than the rest of the step
        before = jnp.sum(free & (jnp.arange(LANES) < jnp.arange(LANES)[:, None]), axis=1)
        chosen = free & (before == one_of(uniform[2], jnp.sum(free))) & comes
        from_left = uniform[0] < 0.5
        taken = state.taken | chosen
        place = jnp.where(chosen, jnp.where(from_left, 0, SIZE - 1), state.place)
        rightward = jnp.where(chosen, from_left, state.rightward)
        gold = jnp.where(chosen, uniform[1] < GOLD_SHARE, state.gold)
        comes_in = jnp.where(comes, state.comes_after, state.comes_in)

        column = moved(state.column, action == LEFT, action == RIGHT, 0, SIZE - 1)
        row = moved(state.row, action == UP, action == DOWN, 1, LANES)
        lane = jnp.arange(LANES) + 1 == row

        # what is touched before things move, and what after
        touched = taken & lane & (place == column)
        reward, over = jnp.any(touched & gold), jnp.any(touched & ~gold)
        taken = taken & ~(touched & gold)
        moves = state.moves_in == 0
        place = jnp.where(moves & taken, place + jnp.where(rightward, 1, -1), place)
        taken = taken & (place >= 0) & (place < SIZE)
        touched = taken & lane & (place == column)
        reward, over = reward + jnp.any(touched & gold), over | jnp.any(touched & ~gold)
        taken = taken & ~(touched & gold)

        harder = jnp.bool_(self.difficulty_ramping) & ((state.comes_after > 1) | (state.moves_after > 1))
        ramps = harder & (state.ramps_in < 0)
        after = State(
            row=row,
            column=column,
            taken=taken,
            place=place,
            rightward=rightward,
            gold=gold,
            comes_after=state.comes_after - (ramps & (state.comes_after > 1)),
            comes_in=comes_in - 1,
            moves_after=state.moves_after - (ramps & (state.moves_after > 1) & (state.ramps % 2 == 1)),
            moves_in=jnp.where(moves, state.moves_after, state.moves_in) - 1,
            ramps_in=jnp.where(ramps, RAMP, state.ramps_in - harder),
            ramps=state.ramps + ramps,
        )
        return after, reward, over

    def show(self, state: State) -> Bool[Array, "10 10 4"]:
        columns = jnp.arange(SIZE)
        thing = state.taken[:, None] & (state.place[:, None] == columns)
        behind = state.place - jnp.where(state.rightward, 1, -1)
        trail = state.taken[:, None] & (behind[:, None] == columns)
        gold = state.gold[:, None]
        lanes = jnp.stack([thing & ~gold, trail, thing & gold])
        enemy, trail, gold = jnp.pad(lanes, ((0, 0), (1, 1), (0, 0)))
        return jnp.stack([dot(state.row, state.column), enemy, trail, gold], axis=-1)
