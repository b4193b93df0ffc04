"""The pixel games' rules in situations set up by hand, and what all of them keep to.

That they equal MinAtar's step by step is `test_minatar.py`; here is what the rules say, in words that can be read.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bellmark.envs.arcade import asterix, breakout, freeway, seaquest, space_invaders
from bellmark.envs.arcade.cabinet import DOWN, FIRE, LEFT, NOTHING, RIGHT, UP, Cabinet
from bellmark.envs.checker import check_environment, require_contract
from bellmark.envs.registry import OWN, list_environments, resolve
from bellmark.errors import BadInput

NAMES = [name for name in OWN if name.startswith("MinAtar/")]
GAMES = {
    "breakout": breakout.Breakout(),
    "asterix": asterix.Asterix(),
    "freeway": freeway.Freeway(),
    "space_invaders": space_invaders.SpaceInvaders(),
    "seaquest": seaquest.Seaquest(),
}
advance = {name: jax.jit(game.advance) for name, game in GAMES.items()}
show = {name: jax.jit(game.show) for name, game in GAMES.items()}


def start(name, **changes):
    game = GAMES[name]
    state = game.start(jnp.full(game.draws_to_start, 0.05))
    return state._replace(
        **{key: jnp.asarray(value, getattr(state, key).dtype) for key, value in changes.items()}
    )


def done(name, state, *actions, uniform=0.5):
    """The state after `actions`, what they paid in all, and whether the last of them was the end."""
    total, over = 0, False
    for action in actions:
        uniform_numbers = jnp.full(GAMES[name].draws_per_step, uniform)
        state, reward, over = advance[name](state, jnp.int32(action), uniform_numbers)
        total += int(reward)
    return state, total, bool(over)


def seen(name, state, channel):
    """Where one channel is lit, as [row, column]."""
    number = GAMES[name].channels.index(channel)
    return np.argwhere(np.asarray(show[name](state))[..., number]).tolist()


# -- Breakout


def test_a_ball_breaks_a_brick_and_comes_back():
    state, reward, over = done("breakout", start("breakout", row=4, column=4, down=-1, right=1), NOTHING)
    assert (reward, over) == (1, False)
    assert (int(state.row), int(state.column), int(state.down)) == (4, 5, 1)
    assert not bool(state.bricks[2, 5])
    assert int(state.bricks.sum()) == 29


def test_a_paddle_below_reflects_a_paddle_at_the_corner_returns():
    straight, _, over = done("breakout", start("breakout", row=8, column=4, down=1, right=1), NOTHING)
    assert (int(straight.down), int(straight.right), over) == (-1, 1, False)
    corner, _, over = done("breakout", start("breakout", row=8, column=3, down=1, right=1), NOTHING)
    assert (int(corner.down), int(corner.right), over) == (-1, -1, False)


def test_a_ball_that_is_missed_is_the_end_and_bricks_come_back_when_all_are_gone():
    _, _, over = done("breakout", start("breakout", row=8, column=8, down=1, right=1), NOTHING)
    assert over
    none = np.zeros((3, 10), bool)
    state, _, _ = done("breakout", start("breakout", row=8, column=4, down=1, right=1, bricks=none), NOTHING)
    assert bool(state.bricks.all())


# -- Asterix


def lane(row, **changes):
    """The lane of `row` taken by one thing."""
    fields = {"taken": np.arange(8) == row - 1}
    return fields | {key: np.where(np.arange(8) == row - 1, value, 0) for key, value in changes.items()}


def test_gold_is_picked_up_and_an_enemy_is_the_end():
    gold = start("asterix", **lane(5, place=6, gold=1, rightward=0))
    state, reward, over = done("asterix", gold, RIGHT)
    assert (reward, over) == (1, False)
    assert not bool(state.taken.any())
    _, reward, over = done("asterix", start("asterix", **lane(5, place=6, gold=0, rightward=0)), RIGHT)
    assert (reward, over) == (0, True)


def test_things_come_from_the_sides_and_leave_on_the_other():
    state, _, _ = done("asterix", start("asterix", comes_in=0), NOTHING, uniform=0.4)
    assert seen("asterix", state, "enemy") == [[4, 0]]
    leaving = start("asterix", moves_in=0, **lane(2, place=9, gold=0, rightward=1))
    assert not bool(done("asterix", leaving, NOTHING)[0].taken.any())


def test_asterix_ramps_every_102_steps_until_it_is_at_its_quickest():
    state = start("asterix", comes_after=2, moves_after=2)
    quick = []
    for step in range(320):
        state, _, _ = done("asterix", state, NOTHING)
        if not quick or quick[-1][1:] != (int(state.comes_after), int(state.moves_after)):
            quick.append((step + 1, int(state.comes_after), int(state.moves_after)))
    assert quick == [(1, 2, 2), (102, 1, 2), (204, 1, 1)]
    game = asterix.Asterix(difficulty_ramping=False)
    flat = jax.jit(game.advance)(start("asterix", ramps_in=-1), jnp.int32(0), jnp.full(3, 0.5))[0]
    assert (int(flat.comes_after), int(flat.moves_after)) == (10, 5)


# -- Freeway


def test_the_other_side_pays_and_begins_again():
    state, reward, over = done("freeway", start("freeway", row=1, walks_in=0), UP)
    assert (reward, over) == (1, False)
    assert int(state.row) == 9


def test_a_chicken_walks_every_third_step():
    rows = []
    state = start("freeway", walks_in=0)
    for _ in range(4):
        state, _, _ = done("freeway", state, UP)
        rows.append(int(state.row))
    assert rows == [8, 8, 8, 7]


def test_a_car_that_arrives_sends_the_chicken_back():
    cars = {"place": np.full(8, 3), "speed": np.full(8, 1), "moves_in": np.zeros(8)}
    assert int(done("freeway", start("freeway", row=5, **cars), NOTHING)[0].row) == 9
    away = cars | {"speed": np.full(8, -1)}
    assert int(done("freeway", start("freeway", row=5, **away), NOTHING)[0].row) == 5


def test_the_clock_ends_it_after_2501_steps():
    assert not done("freeway", start("freeway", clock=1), NOTHING)[2]
    assert done("freeway", start("freeway", clock=0), NOTHING)[2]


def test_a_car_shows_its_speed_behind_it_and_goes_round():
    state = start("freeway", place=[9] * 8, speed=[1, -2, 3, -4, 5, 1, 1, 1], moves_in=[0] * 8)
    assert seen("freeway", state, "trail of speed 2") == [[2, 0]]
    after = done("freeway", state, NOTHING)[0]
    assert np.asarray(after.place).tolist() == [0, 8, 0, 8, 0, 0, 0, 0]


# -- Space Invaders


def grid(*places):
    pixels = np.zeros((10, 10), bool)
    for row, column in places:
        pixels[row, column] = True
    return pixels


def test_a_shot_flies_up_and_takes_an_alien_with_it():
    state = start("space_invaders", aliens=grid((7, 5), (0, 0)), moves_in=5)
    state, reward, _ = done("space_invaders", state, FIRE)
    assert (reward, seen("space_invaders", state, "shot")) == (0, [[8, 5]])
    state, reward, _ = done("space_invaders", state, FIRE)
    assert (reward, seen("space_invaders", state, "alien"), seen("space_invaders", state, "shot")) == (
        1,
        [[0, 0]],
        [],
    )


def test_aliens_at_the_edge_go_down_and_turn():
    state = start("space_invaders", aliens=grid((2, 0), (1, 4)), moves_in=0)
    state, _, over = done("space_invaders", state, NOTHING)
    assert seen("space_invaders", state, "alien rightward") == [[2, 4], [3, 0]]
    assert not over
    assert done("space_invaders", start("space_invaders", aliens=grid((9, 0)), moves_in=0), NOTHING)[2]


def test_the_nearest_alien_drops_and_its_bomb_is_the_end():
    state = start("space_invaders", aliens=grid((2, 3), (4, 7), (6, 7)), drops_in=0, moves_in=5, cannon=5)
    state = done("space_invaders", state, NOTHING)[0]
    assert seen("space_invaders", state, "bomb") == [[2, 3]]
    bombed = start("space_invaders", bombs=grid((8, 5)), cannon=5)
    assert done("space_invaders", bombed, NOTHING)[2]
    assert not done("space_invaders", bombed, LEFT)[2]


def test_the_next_block_is_quicker_and_never_more_so_than_six():
    last = {"aliens": grid((6, 5)), "shots": grid((7, 5)), "moves_in": 5}
    for before, after in ((12, 11), (6, 6)):
        state, reward, _ = done(
            "space_invaders", start("space_invaders", moves_after=before, **last), NOTHING
        )
        assert (reward, int(state.aliens.sum()), int(state.moves_after)) == (1, 24, after)


# -- Seaquest


def swimmer(kind, row, column, rightward=True, **changes):
    """One enemy, alone."""
    one = np.arange(seaquest.ENEMIES) == 0
    given = {
        "kind": kind,
        "row": row,
        "column": column,
        "rightward": rightward,
        "swims_in": 3,
        "fires_in": 9,
    } | changes
    enemies = start("seaquest").enemies
    return enemies._replace(
        next=jnp.int32(1),
        **{
            key: jnp.asarray(np.where(one, value, 0), getattr(enemies, key).dtype)
            for key, value in given.items()
        },
    )


def dive(**changes):
    enemies = changes.pop("enemies", None)
    divers = changes.pop("divers", None)
    state = start("seaquest", row=5, surfaced=False, **changes)
    state = state if enemies is None else state._replace(enemies=enemies)
    return state if divers is None else state._replace(divers=divers)


@pytest.mark.parametrize("kind", [seaquest.FISH, seaquest.SUBMARINE])
def test_a_bullet_takes_an_enemy_with_it(kind):
    state = dive(column=2, rightward=True, enemies=swimmer(kind, 5, 5))
    state, reward, over = done("seaquest", state, FIRE, NOTHING, NOTHING)
    assert (reward, over) == (1, False)
    assert not bool(state.bullets.there.any())
    assert not bool((state.enemies.kind != seaquest.NOBODY).any())


def test_an_enemy_that_is_met_is_the_end():
    assert done("seaquest", dive(column=5, enemies=swimmer(seaquest.FISH, 5, 4, swims_in=0)), NOTHING)[2]
    assert not done("seaquest", dive(column=5, enemies=swimmer(seaquest.FISH, 5, 4)), NOTHING)[2]


def test_an_enemy_submarine_fires_and_its_bullet_is_the_end():
    state = dive(column=7, enemies=swimmer(seaquest.SUBMARINE, 5, 2, fires_in=0))
    state, _, over = done("seaquest", state, NOTHING)
    assert (seen("seaquest", state, "enemy's bullet"), over) == ([[5, 3]], False)
    assert done("seaquest", state, NOTHING, NOTHING, NOTHING, NOTHING)[2]


def diver(row, column):
    one = jnp.array([False, True])
    return seaquest.Drift(one, jnp.full(2, row), jnp.full(2, column), one, jnp.full(2, 3))


def test_divers_come_aboard_while_there_is_room():
    for before, after in ((0, 1), (5, 6), (6, 6)):
        state = done("seaquest", dive(column=4, aboard=before, divers=diver(5, 5)), RIGHT)[0]
        assert int(state.aboard) == after
        assert bool(state.divers.there.any()) == (before == 6)


def test_coming_up():
    """With nobody: the end.  With some: air for one of them.  With six: paid for the air that was left."""
    up = {"column": 5, "oxygen": 100}
    above = start("seaquest", row=1, surfaced=False, **up)
    assert done("seaquest", above, UP)[2]
    for aboard, left, paid in ((2, 1, 0), (6, -1, 5), (-1, -2, 0)):
        state, reward, over = done("seaquest", above._replace(aboard=jnp.int32(aboard)), UP)
        assert (int(state.aboard), int(state.oxygen), reward, over) == (left, 200, paid, False)
        assert (int(state.enemy_after), int(state.ramps)) == (19, 1)


def test_oxygen_is_used_under_water_only_and_its_end_is_the_end():
    assert int(done("seaquest", dive(oxygen=50), NOTHING)[0].oxygen) == 49
    assert int(done("seaquest", start("seaquest", oxygen=50), NOTHING)[0].oxygen) == 50
    assert not done("seaquest", dive(oxygen=1), NOTHING)[2]
    assert done("seaquest", dive(oxygen=0), NOTHING)[2]


def test_no_enemy_comes_towards_another():
    state = dive(column=0, enemy_in=0, enemies=swimmer(seaquest.FISH, 5, 6, rightward=False))
    # 0.49 draws the left side and the fourth row; the fifth is drawn by 0.5 and up, from the right
    assert int((done("seaquest", state, NOTHING, uniform=0.5)[0].enemies.kind > 0).sum()) == 2
    facing = state._replace(enemies=swimmer(seaquest.FISH, 5, 6, rightward=True))
    assert int((done("seaquest", facing, NOTHING, uniform=0.5)[0].enemies.kind > 0).sum()) == 1


def test_the_sea_never_holds_more_than_there_are_places_for():
    """The most enemies at once, over all moments at which a player could begin to come up as often as it can."""
    most = 0
    for quiet in range(0, 200, 3):
        after, swims, ramps, timer = 20, 5, 0, 20
        alive = []
        for step in range(quiet + 140):
            if timer == 0:
                alive.append([10, swims])  # swims until it has left, and until it swims
                timer = after
            most = max(most, len(alive))
            for enemy in alive:
                if enemy[1] == 0:
                    enemy[:] = [enemy[0] - 1, swims]
                else:
                    enemy[1] -= 1
            alive = [enemy for enemy in alive if enemy[0] > 0]
            timer -= 1
            if step >= quiet and (step - quiet) % 2 == 0 and (after > 1 or swims > 2):
                swims -= swims > 2 and ramps % 2 == 1
                after -= after > 1
                ramps += 1
    assert 28 <= most <= seaquest.ENEMIES


# -- what all of them keep to


def test_they_keep_the_contract():
    """All of them in shapes and types; one is played through, which is what takes time."""
    for name in NAMES:
        require_contract(resolve(name).compiled, name)
    assert check_environment("MinAtar/Breakout-v1").passed


@pytest.mark.parametrize("name", NAMES)
def test_spaces_and_actions(name):
    resolved = resolve(name)
    game = resolved.compiled.game
    assert resolved.kind == "compiled"
    assert resolved.observation_space.shape == (10, 10, len(game.channels))
    assert resolved.observation_space.dtype == np.bool_
    assert resolved.action_space.n == (6 if name.endswith("v0") else len(game.minimal_actions))
    assert len(game.colours) == len(game.channels)
    if name.endswith("v1"):
        state = jax.device_get(resolved.compiled.reset(jax.random.key(0)))
        assert resolved.compiled.render(state).shape == (400, 400, 3)
    assert any(row.id == name and row.kind == "compiled" for row in list_environments())


def test_options_have_the_packages_names():
    cabinet = resolve("MinAtar/Asterix-v1", sticky_action_prob=0.0, difficulty_ramping=False).compiled
    assert (cabinet.sticky_action_prob, cabinet.game.difficulty_ramping) == (0.0, False)
    assert resolve("MinAtar/Asterix-v1", use_minimal_action_set=False).action_space.n == 6
    with pytest.raises(
        BadInput, match="its options are: sticky_action_prob, difficulty_ramping, use_minimal"
    ):
        resolve("MinAtar/Asterix-v1", sticky=0.0)
    with pytest.raises(BadInput, match=r"sticky_action_prob is 2.0; allowed: from 0 to 1"):
        resolve("MinAtar/Asterix-v1", sticky_action_prob=2.0)
    with pytest.raises(BadInput, match="MinAtar/Breakout-v1"):
        resolve("MinAtar/Brekout-v1")


def test_the_same_keys_make_the_same_game():
    cabinet = Cabinet(seaquest.Seaquest())

    @jax.jit
    def play(key):
        def step(state, key):
            act, noise = jax.random.split(key)
            state, outcome = cabinet.step(state, jax.random.randint(act, (), 0, 6), noise)
            return state, (cabinet.observe(state), outcome.reward)

        return jax.lax.scan(step, cabinet.reset(key), jax.random.split(key, 60))[1]

    first, again, other = (play(jax.random.key(seed)) for seed in (0, 0, 1))
    assert all(bool((a == b).all()) for a, b in zip(first, again, strict=True))
    assert bool((first[0] != other[0]).any())


def test_down_is_not_up():
    state = start("asterix")
    assert int(done("asterix", state, DOWN)[0].row) == 6
    assert int(done("asterix", state, UP)[0].row) == 4
