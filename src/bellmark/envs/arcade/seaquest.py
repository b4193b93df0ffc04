"""Seaquest: a submarine shoots fish and other submarines, picks up divers, and has to come up for air.

Enemies and divers come in from the sides on the eight middle rows; a fish only swims, a submarine (one in three) also
shoots, every eleventh step.  No enemy comes into a row in which another swims the opposite way.  The player moves in
four directions, faces the way it last moved sideways, and fires that way, at most every fifth step.  Each enemy shot
is worth 1.  A diver that is touched comes aboard, where there is room for six.  Oxygen, 200 at first, falls by 1 with
every step under water.  At the surface a player without divers is lost; with divers it gets new oxygen, gives up one
of them, and the game becomes harder with `difficulty_ramping`: enemies come one step sooner, and every second time
swim sooner.  With six divers, all go and the oxygen that is left is worth up to 10.  The game is over when an enemy
or its bullet touches the player, the oxygen is used up, or the player comes up with nobody aboard.

What surprises, and is so here as there: the six who go leave a count of −1, and whoever comes up with a count below 0
is not lost, but gets new oxygen and loses one more.  A player who stays at the surface uses no oxygen.

After MinAtar (see `cabinet`).
"""

from typing import ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from bellmark.envs.arcade.cabinet import (
    DOWN,
    FIRE,
    LEFT,
    NOTHING,
    RIGHT,
    SIZE,
    UP,
    AbstractGame,
    Grid,
    dot,
    moved,
    one_of,
)

OXYGEN, ROOM, SURFACE = 200, 6, 0
ENEMY_AFTER, DIVER_AFTER, SWIMS_AFTER, SWIMS_AFTER_LEAST = 20, 30, 5, 2
FIRES_AFTER, ENEMY_FIRES_AFTER = 5, 10
SUBMARINE_SHARE = 1 / 3

ENEMIES, DIVERS, BULLETS = 32, 2, 2
"""Places for what can be there at once.  A diver is gone after 60 steps, and the next but one comes just then; a
bullet of the player's is gone after 10, so likewise.  At its quickest the game sends an enemy every step, which then
is gone after 30; `tests/envs/test_seaquest.py` looks for more than that and finds none."""
NOBODY, FISH, SUBMARINE = range(3)


class Enemies(NamedTuple):
    """A ring: `next` is where the next enemy goes, and from there on they stand in the order in which they came."""

    kind: Int[Array, "32"]
    row: Int[Array, "32"]
    column: Int[Array, "32"]
    rightward: Bool[Array, "32"]
    swims_in: Int[Array, "32"]
    fires_in: Int[Array, "32"]
    next: Int[Array, ""]


class Drift(NamedTuple):
    """Two divers or two bullets, the older one first."""

    there: Bool[Array, "2"]
    row: Int[Array, "2"]
    column: Int[Array, "2"]
    rightward: Bool[Array, "2"]
    moves_in: Int[Array, "2"]

    def followed(self, now: Array, row: Array, column: Array, rightward: Array, moves_in: int) -> "Drift":
        """With a new one in the place of the older, where it comes `now`."""
        new = Drift(now, row, column, rightward, jnp.int32(moves_in))
        return jax.tree.map(lambda old, one: jnp.where(now, jnp.stack([old[1], one]), old), self, new)


class State(NamedTuple):
    """The player, the others, and the timers; `torpedoes` are the enemies' bullets, leftward and rightward."""

    row: Int[Array, ""]
    column: Int[Array, ""]
    rightward: Bool[Array, ""]
    oxygen: Int[Array, ""]
    aboard: Int[Array, ""]
    surfaced: Bool[Array, ""]
    enemies: Enemies
    divers: Drift
    bullets: Drift
    torpedoes: Bool[Array, "2 10 10"]
    fires_in: Int[Array, ""]
    enemy_after: Int[Array, ""]
    enemy_in: Int[Array, ""]
    diver_in: Int[Array, ""]
    swims_after: Int[Array, ""]
    ramps: Int[Array, ""]


def nobody() -> Drift:
    none, zero = jnp.zeros(2, bool), jnp.zeros(2, jnp.int32)
    return Drift(none, zero, zero, none, zero)


def inside(column: Array) -> Array:
    return (column >= 0) & (column < SIZE)


def ahead(rightward: Array) -> Array:
    return jnp.where(rightward, 1, -1)


class Seaquest(AbstractGame):
    difficulty_ramping: bool = eqx.field(static=True, default=True)

    channels: ClassVar = (
        "submarine's front",
        "submarine's back",
        "bullet",
        "trail",
        "enemy's bullet",
        "fish",
        "enemy submarine",
        "oxygen",
        "divers aboard",
        "diver",
    )
    colours: ClassVar = (
        "#6cc4ff",
        "#3f7fb5",
        "#f7f8fb",
        "#6b7690",
        "#ef5f5f",
        "#7ddf8a",
        "#c77dff",
        "#4fd1c5",
        "#ffd166",
        "#ffd166",
    )
    minimal_actions: ClassVar = (NOTHING, LEFT, UP, RIGHT, DOWN, FIRE)
    draws_to_start: ClassVar = 0
    draws_per_step: ClassVar = 5

    def start(self, uniform: Float[Array, "0"]) -> State:
        zero, none = jnp.zeros(ENEMIES, jnp.int32), jnp.zeros(ENEMIES, bool)
        return State(
            row=jnp.int32(SURFACE),
            column=jnp.int32(5),
            rightward=jnp.bool_(False),
            oxygen=jnp.int32(OXYGEN),
            aboard=jnp.int32(0),
            surfaced=jnp.bool_(True),
            enemies=Enemies(zero, zero, zero, none, zero, zero, jnp.int32(0)),
            divers=nobody(),
            bullets=nobody(),
            torpedoes=jnp.zeros((2, SIZE, SIZE), bool),
            fires_in=jnp.int32(0),
            enemy_after=jnp.int32(ENEMY_AFTER),
            enemy_in=jnp.int32(ENEMY_AFTER),
            diver_in=jnp.int32(DIVER_AFTER),
            swims_after=jnp.int32(SWIMS_AFTER),
            ramps=jnp.int32(0),
        )

    def advance(self, state: State, action: Int[Array, ""], uniform: Float[Array, "5"]):
        enemy_comes, diver_comes = state.enemy_in == 0, state.diver_in == 0
        enemies = come(state.enemies, enemy_comes, state.swims_after, uniform[:3])
        from_left = uniform[3] < 0.5
        edge = jnp.where(from_left, 0, SIZE - 1)
        divers = state.divers.followed(diver_comes, 1 + one_of(uniform[4], 8), edge, from_left, SWIMS_AFTER)

        fires = (action == FIRE) & (state.fires_in == 0)
        bullets = state.bullets.followed(fires, state.row, state.column, state.rightward, 0)
        column = moved(state.column, action == LEFT, action == RIGHT, 0, SIZE - 1)
        row = moved(state.row, action == UP, action == DOWN, SURFACE, SIZE - 2)
        rightward = jnp.where((action == LEFT) | (action == RIGHT), action == RIGHT, state.rightward)

        enemies, bullets, shot = fly(enemies, bullets)
        divers, aboard = picked_up(divers, row, column, state.aboard)
        # enemy submarines, then bullets, then fish: each meets the player where it is and where it goes
        before = enemies
        enemies, bullets, sunk, rammed = swim(enemies, bullets, SUBMARINE, row, column, state.swims_after)
        fires_now = (before.kind == SUBMARINE) & (before.fires_in == 0)
        torpedoes, hit = launched(state.torpedoes, enemies, fires_now, row, column)
        enemies = enemies._replace(
            fires_in=jnp.where(fires_now, ENEMY_FIRES_AFTER, enemies.fires_in - (before.kind == SUBMARINE))
        )
        enemies, bullets, caught, bitten = swim(enemies, bullets, FISH, row, column, state.swims_after)
        reward = shot + sunk + caught
        over = rammed | hit | bitten | (state.oxygen <= 0)

        under = row > SURFACE
        arrives = ~under & ~state.surfaced
        drowned, breathes = arrives & (aboard == 0), arrives & (aboard != 0)
        whole = breathes & (aboard == ROOM)
        reward = reward + jnp.where(whole, state.oxygen * 10 // OXYGEN, 0)
        harder = (
            breathes
            & jnp.bool_(self.difficulty_ramping)
            & ((state.enemy_after > 1) | (state.swims_after > SWIMS_AFTER_LEAST))
        )
        quicker = harder & (state.swims_after > SWIMS_AFTER_LEAST) & (state.ramps % 2 == 1)
        enemy_in = jnp.where(enemy_comes, state.enemy_after, state.enemy_in)
        diver_in = jnp.where(diver_comes, DIVER_AFTER, state.diver_in)
        after = State(
            row=row,
            column=column,
            rightward=rightward,
            oxygen=jnp.where(breathes, OXYGEN, state.oxygen - under),
            aboard=jnp.where(whole, 0, aboard) - breathes,
            surfaced=~under & (state.surfaced | breathes),
            enemies=enemies,
            divers=divers,
            bullets=bullets,
            torpedoes=torpedoes,
            fires_in=jnp.maximum(jnp.where(fires, FIRES_AFTER, state.fires_in) - 1, 0),
            enemy_after=state.enemy_after - (harder & (state.enemy_after > 1)),
            enemy_in=jnp.maximum(enemy_in - 1, 0),
            diver_in=jnp.maximum(diver_in - 1, 0),
            swims_after=state.swims_after - quicker,
            ramps=state.ramps + harder,
        )
        return after, reward, over | drowned

    def show(self, state: State) -> Bool[Array, "10 10 10"]:
        enemies, divers, bullets = state.enemies, state.divers, state.bullets
        columns = jnp.arange(SIZE)
        # one number per enemy says in its bits which pixels of its row it lights: ten for each of three channels
        pixel = 1 << enemies.column
        behind = jnp.where(enemies.rightward, pixel >> 1, pixel << 1) & (2**SIZE - 1)
        lit = jnp.where(enemies.kind == FISH, pixel, pixel << SIZE) | (behind << 2 * SIZE)
        lit = jnp.where((enemies.kind != NOBODY) & (enemies.row == columns[:, None]), lit, 0)
        rows = jax.lax.reduce(lit, jnp.int32(0), jax.lax.bitwise_or, (1,))
        fish, submarine, trail = ((rows[:, None] >> (columns + k * SIZE) & 1).astype(bool) for k in range(3))
        back = divers.column - ahead(divers.rightward)
        bottom = columns[:, None] == SIZE - 1
        gauge = jnp.maximum(state.oxygen, 0) * 10 // OXYGEN
        return jnp.stack(
            [
                dot(state.row, state.column),
                dot(state.row, state.column - ahead(state.rightward)),
                dots(bullets.there, bullets.row, bullets.column),
                trail | dots(divers.there, divers.row, back),
                state.torpedoes[0] | state.torpedoes[1],
                fish,
                submarine,
                bottom & (columns < gauge),
                bottom & (columns >= SIZE - 1 - state.aboard) & (columns < SIZE - 1),
                dots(divers.there, divers.row, divers.column),
            ],
            axis=-1,
        )


def dots(there: Bool[Array, "2"], row: Int[Array, "2"], column: Int[Array, "2"]) -> Grid:
    return (dot(row[0], column[0]) & there[0]) | (dot(row[1], column[1]) & there[1])


def age(enemies: Enemies) -> Int[Array, "32"]:
    """Smaller for those who came earlier."""
    return (jnp.arange(ENEMIES) - enemies.next) % ENEMIES


def come(enemies: Enemies, now: Array, swims_after: Array, uniform: Float[Array, "3"]) -> Enemies:
    """A new enemy from one of the sides, unless another swims the opposite way in its row."""
    from_left, row = uniform[0] < 0.5, 1 + one_of(uniform[2], 8)
    opposed = (enemies.kind != NOBODY) & (enemies.row == row) & (enemies.rightward != from_left)
    now = now & ~jnp.any(opposed)
    here = now & (jnp.arange(ENEMIES) == enemies.next)
    new = Enemies(
        kind=jnp.where(uniform[1] < SUBMARINE_SHARE, SUBMARINE, FISH),
        row=row,
        column=jnp.where(from_left, 0, SIZE - 1),
        rightward=from_left,
        swims_in=swims_after,
        fires_in=jnp.int32(ENEMY_FIRES_AFTER),
        next=enemies.next,
    )
    placed = jax.tree.map(lambda old, one: jnp.where(here, one, old), enemies, new)
    return placed._replace(next=(enemies.next + now) % ENEMIES)


def fly(enemies: Enemies, bullets: Drift) -> tuple[Enemies, Drift, Array]:
    """The player's bullets go on, and each takes one enemy with it: a fish before a submarine, the oldest first."""
    column = bullets.column + ahead(bullets.rightward)
    there = bullets.there & inside(column)
    order = age(enemies) + jnp.where(enemies.kind == FISH, 0, ENEMIES)
    kind, shot = enemies.kind, jnp.int32(0)
    spent: list[Array] = []
    for i in (1, 0):
        meets = (kind != NOBODY) & (enemies.row == bullets.row[i]) & (enemies.column == column[i]) & there[i]
        first = meets & (order == jnp.min(jnp.where(meets, order, 2 * ENEMIES)))
        hit = jnp.any(meets)
        kind, shot = jnp.where(first, NOBODY, kind), shot + hit
        spent.insert(0, hit)
    there = there & ~jnp.stack(spent)
    return enemies._replace(kind=kind), bullets._replace(column=column, there=there), shot


def picked_up(divers: Drift, row: Array, column: Array, aboard: Array) -> tuple[Drift, Array]:
    """Divers drift on; whom the player meets, before or after, comes aboard while there is room, the newer first."""
    here: list[Array] = []
    place: list[Array] = []
    moves_in: list[Array] = []
    for i in (1, 0):
        there, at, wait = divers.there[i], divers.column[i], divers.moves_in[i]
        near = there & (divers.row[i] == row)
        met = near & (at == column) & (aboard < ROOM)
        aboard = aboard + met
        moves = (wait == 0) & ~met
        at = jnp.where(moves, at + ahead(divers.rightward[i]), at)
        met_then = near & ~met & moves & (at == column) & (aboard < ROOM)
        aboard = aboard + met_then
        here.insert(0, there & ~met & ~met_then & inside(at))
        place.insert(0, at)
        moves_in.insert(0, jnp.where(moves, SWIMS_AFTER, wait - 1))
    kept = divers._replace(there=jnp.stack(here), column=jnp.stack(place), moves_in=jnp.stack(moves_in))
    return kept, aboard


def swim(
    enemies: Enemies, bullets: Drift, kind: int, row: Array, column: Array, swims_after: Array
) -> tuple[Enemies, Drift, Array, Array]:
    """Those of one kind swim on: off the screen, into the player, or into a bullet, which takes the newest of them.

    Also returns how many were shot, and whether the player was met.
    """
    these = enemies.kind == kind
    near = these & (enemies.row == row)
    moves = these & (enemies.swims_in == 0)
    at = jnp.where(moves, enemies.column + ahead(enemies.rightward), enemies.column)
    met = jnp.any(near & (enemies.column == column)) | jnp.any(near & (at == column))
    exposed = moves & inside(at) & ~(near & (at == column))
    gone, order, shot = moves & ~inside(at), age(enemies), jnp.int32(0)
    spent: list[Array] = []
    for i in range(BULLETS):
        meets = exposed & bullets.there[i] & (enemies.row == bullets.row[i]) & (at == bullets.column[i])
        gone = gone | (meets & (order == jnp.max(jnp.where(meets, order, -1))))
        hit = jnp.any(meets)
        shot = shot + hit
        spent.append(hit)
    after = enemies._replace(
        kind=jnp.where(gone, NOBODY, enemies.kind),
        column=at,
        swims_in=jnp.where(moves, swims_after, enemies.swims_in - these),
    )
    return after, bullets._replace(there=bullets.there & ~jnp.stack(spent)), shot, met


def launched(
    torpedoes: Bool[Array, "2 10 10"], enemies: Enemies, fires: Bool[Array, "32"], row: Array, column: Array
) -> tuple[Bool[Array, "2 10 10"], Array]:
    """The enemies' bullets, with those that are fired now, go on; and whether one was or is where the player is.

    Also a submarine that is shot in this step still fires.  Two bullets at one place are as good as one.
    """
    columns = jnp.arange(SIZE)
    pixel = jnp.where(inside(enemies.column), 1 << enemies.column, 0)
    lit = jnp.where(enemies.rightward, pixel << SIZE, pixel)
    lit = jnp.where(fires & (enemies.row == columns[:, None]), lit, 0)
    rows = jax.lax.reduce(lit, jnp.int32(0), jax.lax.bitwise_or, (1,))
    new = jnp.stack([rows[:, None] >> (columns + k * SIZE) & 1 for k in range(2)]).astype(bool)
    here = dot(row, column)
    before = torpedoes | new
    leftward = jnp.pad(before[0, :, 1:], ((0, 0), (0, 1)))
    rightward = jnp.pad(before[1, :, :-1], ((0, 0), (1, 0)))
    after = jnp.stack([leftward, rightward])
    return after, jnp.any((before | after) & here)
