"""Space Invaders: a cannon at the bottom against a block of aliens that comes nearer.

The cannon moves left and right and fires, at most every fifth step.  The aliens, four rows of six, move together to one
side; where one of them is at the edge, all go down a row instead and turn round.  They move after 12 steps, sooner when
fewer than 12 are left: each time after as many steps as aliens.  Every tenth step the lowest alien of the column that
is nearest to the cannon (the left one of two) drops a bullet.  A shot alien is worth 1.  When all are gone the next
block comes, with `difficulty_ramping` each moving after a step less, down to 6.  The game is over when a bullet or an
alien is where the cannon is, or the aliens should go down and are at the bottom already.

After MinAtar (see `cabinet`).
"""

from typing import ClassVar, NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from bellmark.envs.arcade.cabinet import FIRE, LEFT, NOTHING, RIGHT, SIZE, AbstractGame, Grid, dot, moved

BOTTOM = SIZE - 1
FIRES_AFTER, DROPS_AFTER = 5, 10
MOVES_AFTER, MOVES_AFTER_LEAST = 12, 6


class State(NamedTuple):
    """The cannon's column, who is where, the aliens' direction (±1), and the timers."""

    cannon: Int[Array, ""]
    aliens: Grid
    direction: Int[Array, ""]
    shots: Grid
    bombs: Grid
    fires_in: Int[Array, ""]
    moves_after: Int[Array, ""]
    moves_in: Int[Array, ""]
    drops_in: Int[Array, ""]


def block() -> Grid:
    """A new wave."""
    return jnp.zeros((SIZE, SIZE), bool).at[:4, 2:8].set(True)


def dropped(aliens: Grid, cannon: Int[Array, ""]) -> Grid:
    """Where the bullet of the alien comes from that is nearest to the cannon."""
    place = jnp.arange(SIZE)
    order = jnp.where(jnp.any(aliens, axis=0), jnp.abs(place - cannon) * SIZE + place, SIZE * SIZE)
    column = aliens & (place == jnp.argmin(order))
    return column & (place[:, None] == jnp.max(jnp.where(column, place[:, None], -1)))


class SpaceInvaders(AbstractGame):
    difficulty_ramping: bool = eqx.field(static=True, default=True)

    channels: ClassVar = ("cannon", "alien", "alien leftward", "alien rightward", "shot", "bomb")
    colours: ClassVar = ("#6cc4ff", "#7ddf8a", "#7ddf8a", "#a6e86b", "#f7f8fb", "#ef5f5f")
    minimal_actions: ClassVar = (NOTHING, LEFT, RIGHT, FIRE)
    draws_to_start: ClassVar = 0
    draws_per_step: ClassVar = 0

    def start(self, uniform: Float[Array, "0"]) -> State:
        none = jnp.zeros((SIZE, SIZE), bool)
        return State(
            cannon=jnp.int32(5),
            aliens=block(),
            direction=jnp.int32(-1),
            shots=none,
            bombs=none,
            fires_in=jnp.int32(0),
            moves_after=jnp.int32(MOVES_AFTER),
            moves_in=jnp.int32(MOVES_AFTER),
            drops_in=jnp.int32(DROPS_AFTER),
        )

    def advance(self, state: State, action: Int[Array, ""], uniform: Float[Array, "0"]):
        cannon = moved(state.cannon, action == LEFT, action == RIGHT, 0, BOTTOM)
        here = dot(jnp.int32(BOTTOM), cannon)
        fires = (action == FIRE) & (state.fires_in == 0)
        fires_in = jnp.where(fires, FIRES_AFTER, state.fires_in)

        # bullets move first: a shot leaves the cannon's row at once
        shots = jnp.zeros_like(state.shots).at[:-1].set((state.shots | (here & fires))[1:])
        bombs = jnp.zeros_like(state.bombs).at[1:].set(state.bombs[:-1])
        over = jnp.any((bombs | state.aliens) & here)

        moves = state.moves_in == 0
        aliens = state.aliens
        edge = jnp.where(state.direction < 0, jnp.any(aliens[:, 0]), jnp.any(aliens[:, -1]))
        turns = moves & edge
        over = over | (turns & jnp.any(aliens[BOTTOM]))
        # of aliens at the bottom that should go down, the last picture shows them at the top
        sideways = jnp.where(state.direction < 0, jnp.roll(aliens, -1, axis=1), jnp.roll(aliens, 1, axis=1))
        after = jnp.where(edge, jnp.roll(aliens, 1, axis=0), sideways)
        moves_in = jnp.where(moves, jnp.minimum(jnp.sum(aliens), state.moves_after), state.moves_in)
        aliens = jnp.where(moves, after, aliens)
        over = over | (moves & jnp.any(aliens & here))

        drops = state.drops_in == 0
        bombs = bombs | (dropped(aliens, cannon) & drops)

        killed = aliens & shots
        aliens, shots = aliens & ~killed, shots & ~killed
        cleared = ~jnp.any(aliens)
        quicker = jnp.bool_(self.difficulty_ramping) & cleared & (state.moves_after > MOVES_AFTER_LEAST)
        return (
            State(
                cannon=cannon,
                aliens=jnp.where(cleared, block(), aliens),
                direction=jnp.where(turns, -state.direction, state.direction),
                shots=shots,
                bombs=bombs,
                fires_in=jnp.maximum(fires_in - 1, 0),
                moves_after=state.moves_after - quicker,
                moves_in=moves_in - 1,
                drops_in=jnp.where(drops, DROPS_AFTER, state.drops_in) - 1,
            ),
            jnp.sum(killed),
            over,
        )

    def show(self, state: State) -> Bool[Array, "10 10 6"]:
        leftward = state.direction < 0
        return jnp.stack(
            [
                dot(jnp.int32(BOTTOM), state.cannon),
                state.aliens,
                state.aliens & leftward,
                state.aliens & ~leftward,
                state.shots,
                state.bombs,
            ],
            axis=-1,
        )
