"""SideScroller-v0: run and jump to a flag on the right, over pits and walls, past enemies, and take coins on the way.

    action      nothing, left, right, jump, jump left, jump right
    each step   one column sideways unless a wall is there; then up or down: a jump from the ground rises 2, 1 and 0
                rows, what is in the air falls 1 and then 2 rows a step
    reward      +1 a coin, +100 an enemy that is jumped upon, +1000 the flag, −1 falling into a pit or running into an
                enemy, which ends the episode as the flag does; +0.1 for a step that ended further right than it began

Enemies walk to and fro, one column every second step, between what bounds them.  The level is drawn at every reset: a
row of pieces from `PIECES`, each eight columns wide, between a flat piece at the start and one with the flag.  Every
piece can be passed by itself, begins and ends on level ground, and keeps its enemy between its first and last column,
so every level can be finished.

What is seen is a window that moves along, with the player always in its fifth column.  How fast the player rises or
falls is not seen; two frames show it (`frame_stack=2`).
"""

from typing import ClassVar, NamedTuple

import equinox as eqx
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from bellmark.envs.arcade.cabinet import observed
from bellmark.envs.base import AbstractEnvironment, Step
from bellmark.errors import BadInput
from bellmark.types import Key

NOTHING, LEFT, RIGHT, JUMP, JUMP_LEFT, JUMP_RIGHT = range(6)

HEIGHT, WIDTH, GROUND = 10, 8, 2
"""Rows of the world, columns of a piece, and the row above its ground, counted from the bottom."""
LEAP, FASTEST_FALL, BOUNCE = 2, -2, 1
BEHIND = 4
"""How many columns behind the player are seen."""

PIECES = {
    "flat": (
        "        ",
        "        ",
        "  oooo  ",
        "########",
        "########",
    ),
    "pit": (
        "   oo   ",
        "        ",
        "        ",
        "###  ###",
        "###  ###",
    ),
    "wide pit": (
        "   o    ",
        "        ",
        "        ",
        "##   ###",
        "##   ###",
    ),
    "wall": (
        "   o    ",
        "   #    ",
        "   #    ",
        "########",
        "########",
    ),
    "stairs": (
        "     o  ",
        "    ##  ",
        "  ####  ",
        "########",
        "########",
    ),
    "bridge": (
        "  oooo  ",
        "  ####  ",
        "        ",
        "##    ##",
        "##    ##",
    ),
    "patrol": (
        "        ",
        "        ",
        "    e   ",
        "########",
        "########",
    ),
    "guarded coins": (
        "  oooo  ",
        "        ",
        " e      ",
        "########",
        "########",
    ),
}
"""`#` is solid, `o` a coin, `e` where an enemy begins; the last line is the bottom of the world."""


def _rows_of(piece: tuple[str, ...], sign: str) -> list[int]:
    """Per column, one number whose bits are the rows, from the bottom, in which `sign` stands."""
    upward = piece[::-1]
    return [sum(1 << row for row, line in enumerate(upward) if line[x] == sign) for x in range(WIDTH)]


SOLID, COINS = (np.array([_rows_of(piece, sign) for piece in PIECES.values()]) for sign in "#o")
_ENEMIES = [[x for x in range(WIDTH) if any(line[x] == "e" for line in piece)] for piece in PIECES.values()]
ENEMY = np.array([columns[0] if columns else -1 for columns in _ENEMIES])


class State(NamedTuple):
    """The player, the level per column, the enemies per piece (all as absolute columns), and the parity of the
    step."""

    column: Int[Array, ""]
    row: Int[Array, ""]
    rising: Int[Array, ""]
    solid: Int[Array, " columns"]
    coins: Int[Array, " columns"]
    enemy: Int[Array, " pieces"]
    rightward: Bool[Array, " pieces"]
    alive: Bool[Array, " pieces"]
    odd: Bool[Array, ""]


class SideScroller(AbstractEnvironment):
    """`pieces` between the first and the flag's; `sight` columns are seen; the rewards are what they say."""

    pieces: int = eqx.field(static=True, default=10)
    sight: int = eqx.field(static=True, default=14)
    coin: float = eqx.field(static=True, default=1.0)
    enemy: float = eqx.field(static=True, default=100.0)
    finish: float = eqx.field(static=True, default=1000.0)
    death: float = eqx.field(static=True, default=-1.0)
    rightward: float = eqx.field(static=True, default=0.1)

    channels: ClassVar = ("player", "solid", "coin", "enemy", "flag")

    def __check_init__(self):
        if self.pieces < 1 or not BEHIND < self.sight <= WIDTH * (self.pieces + 2):
            raise BadInput(
                f"pieces is {self.pieces} and sight {self.sight}; allowed: at least 1 piece, and to see "
                f"{BEHIND + 1} columns or more, up to the level's {WIDTH} · (pieces + 2)"
            )

    @property
    def columns(self) -> int:
        return WIDTH * (self.pieces + 2)

    @property
    def flag(self) -> int:
        """The column that has to be reached."""
        return self.columns - WIDTH // 2

    @property
    def observation_space(self) -> gymnasium.spaces.Box:
        return gymnasium.spaces.Box(0.0, 1.0, (HEIGHT, self.sight, len(self.channels)), bool)  # type: ignore

    @property
    def action_space(self) -> gymnasium.spaces.Discrete:
        return gymnasium.spaces.Discrete(6)

    def reset(self, key: Key) -> State:
        drawn = jax.random.randint(key, (self.pieces,), 0, len(PIECES))
        kinds = jnp.pad(drawn, 1)
        coins = jnp.array(COINS, jnp.int32)[kinds].at[jnp.array([0, -1])].set(0)
        begins = jnp.array(ENEMY, jnp.int32)[drawn]
        return State(
            column=jnp.int32(1),
            row=jnp.int32(GROUND),
            rising=jnp.int32(0),
            solid=jnp.array(SOLID, jnp.int32)[kinds].reshape(-1),
            coins=coins.reshape(-1),
            enemy=begins + WIDTH * (1 + jnp.arange(self.pieces)),
            rightward=jnp.zeros(self.pieces, bool),
            alive=begins >= 0,
            odd=jnp.bool_(False),
        )

    def observe(self, state: State) -> Bool[Array, "10 sight 5"]:
        first = state.column - BEHIND
        seen = first + jnp.arange(self.sight)
        # beyond both ends of the level there is nothing to be seen but its ground
        inside = (seen >= 0) & (seen < self.columns)

        def window(columns: Int[Array, " columns"], outside: int) -> Bool[Array, "10 sight"]:
            there = jnp.where(inside, columns[jnp.clip(seen, 0, self.columns - 1)], outside)
            return (there >> jnp.arange(HEIGHT)[:, None] & 1).astype(bool)

        rows = jnp.arange(HEIGHT)[:, None]
        enemies = jnp.any(state.alive & (state.enemy == seen[:, None]), axis=1)
        upward = jnp.stack(
            [
                (rows == state.row) & (seen == state.column),
                window(state.solid, (1 << GROUND) - 1),
                window(state.coins, 0),
                (rows == GROUND) & enemies,
                (rows >= GROUND) & (seen == self.flag),
            ],
            axis=-1,
        )
        return upward[::-1]

    def step(self, state: State, action: Int[Array, ""], key: Key) -> tuple[State, Step]:
        def solid_at(column, row):
            """Walls are where the level ends sideways; nothing is above or below it."""
            within = (row >= 0) & (row < HEIGHT)
            rows = state.solid[jnp.clip(column, 0, self.columns - 1)]
            return (
                (column < 0)
                | (column >= self.columns)
                | (within & (rows >> jnp.clip(row, 0, HEIGHT) & 1 == 1))
            )

        grounded = solid_at(state.column, state.row - 1)
        jumps = grounded & (action >= JUMP)
        rising = jnp.where(
            jumps,
            LEAP,
            jnp.where(grounded & (state.rising <= 0), 0, jnp.maximum(state.rising - 1, FASTEST_FALL)),
        )

        # sideways, into what stands there
        aside = jnp.where((action == RIGHT) | (action == JUMP_RIGHT), 1, 0)
        aside = jnp.where((action == LEFT) | (action == JUMP_LEFT), -1, aside)
        column = jnp.where(solid_at(state.column + aside, state.row), state.column, state.column + aside)
        met = state.alive & (state.enemy == column)
        dies = jnp.any(met) & (state.row == GROUND)

        # up or down, one row after the other, until something solid, or an enemy that is come down upon
        row, passed, stomps = state.row, jnp.int32(1) << jnp.clip(state.row, 0, HEIGHT), jnp.bool_(False)
        for number in range(max(LEAP, -FASTEST_FALL)):
            way = jnp.where(jnp.abs(rising) > number, jnp.sign(rising), 0)
            blocked = solid_at(column, row + way) | stomps
            rising = jnp.where((way != 0) & blocked & ~stomps, 0, rising)
            row = jnp.where(blocked, row, row + way)
            passed = passed | jnp.where(row >= 0, 1 << jnp.clip(row, 0, HEIGHT), 0)
            stomps = stomps | (jnp.any(met) & (way < 0) & (row == GROUND) & ~dies)
        rising = jnp.where(stomps, BOUNCE, rising)
        alive = state.alive & ~(met & stomps)

        # enemies walk, and turn at the ends of their pieces
        ends = WIDTH * (1 + jnp.arange(self.pieces))
        ahead = state.enemy + jnp.where(state.rightward, 1, -1)
        turns = (ahead <= ends) | (ahead >= ends + WIDTH - 1)
        enemy = jnp.where(state.odd, jnp.where(turns, state.enemy, ahead), state.enemy)
        rightward = jnp.where(state.odd & turns, ~state.rightward, state.rightward)
        dies = dies | (jnp.any(alive & (enemy == column)) & (row == GROUND)) | (row < 0)

        taken = state.coins[column] & passed
        arrived = (column >= self.flag) & ~dies
        reward = (
            self.coin * jax.lax.population_count(taken)
            + self.enemy * stomps
            + self.finish * arrived
            + self.death * dies
            + self.rightward * (column > state.column)
        )
        after = State(
            column=column,
            row=row,
            rising=rising,
            solid=state.solid,
            coins=jnp.where(jnp.arange(self.columns) == column, state.coins & ~passed, state.coins),
            enemy=enemy,
            rightward=rightward,
            alive=alive,
            odd=~state.odd,
        )
        return after, Step(reward.astype(jnp.float32), dies | arrived, jnp.bool_(False))

    def render(self, state: State) -> np.ndarray:
        from bellmark.envs.drawing import BLUE, FAINT, GREEN, INK, ORANGE, RED, SKY, Canvas

        shown = np.asarray(observed(self, state))[::-1]
        scale = 560 / self.sight
        height = round(HEIGHT * scale)
        canvas = Canvas(560, height, (self.sight / 2, HEIGHT / 2), scale, background=SKY)
        for row, column in np.argwhere(shown[..., 1]):
            top = row + 1 < HEIGHT and not shown[row + 1, column, 1]
            canvas.rectangle((column, row), (column + 1, row + 1), "#8c7361")
            if top:
                canvas.rectangle((column, row + 0.72), (column + 1, row + 1), GREEN)
        flagged = np.flatnonzero(shown[GROUND, :, 4])
        for column in flagged:
            canvas.line([(column + 0.3, GROUND), (column + 0.3, GROUND + 5)], 0.1, INK)
            pole = (column + 0.3, GROUND + 5)
            canvas.polygon([pole, (column + 1.7, GROUND + 4.5), (column + 0.3, GROUND + 4)], RED)
        for row, column in np.argwhere(shown[..., 2]):
            canvas.circle((column + 0.5, row + 0.5), 0.28, ORANGE)
            canvas.circle((column + 0.5, row + 0.5), 0.16, "#ffd166")
        for row, column in np.argwhere(shown[..., 3]):
            canvas.rectangle((column + 0.1, row), (column + 0.9, row + 0.75), RED, radius=0.3)
            for eye in (0.32, 0.68):
                canvas.circle((column + eye, row + 0.48), 0.12, "#ffffff")
                canvas.circle((column + eye, row + 0.45), 0.06, INK)
        for row, column in np.argwhere(shown[..., 0]):
            canvas.rectangle((column + 0.15, row), (column + 0.85, row + 0.9), BLUE, radius=0.25)
            canvas.circle((column + 0.62, row + 0.62), 0.13, "#ffffff")
            canvas.circle((column + 0.66, row + 0.62), 0.06, INK)
        canvas.line([(0, 0.02), (self.sight, 0.02)], 0.04, FAINT)
        return canvas.pixels()
