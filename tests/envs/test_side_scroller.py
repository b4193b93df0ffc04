"""The side-scroller: what each step does, what it pays, and that who looks ahead reaches the flag of every level."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bellmark.envs.arcade import side_scroller
from bellmark.envs.arcade.side_scroller import (
    BEHIND,
    COINS,
    ENEMY,
    GROUND,
    HEIGHT,
    JUMP_RIGHT,
    LEFT,
    NOTHING,
    PIECES,
    RIGHT,
    SOLID,
    WIDTH,
    SideScroller,
)
from bellmark.envs.checker import check_environment
from bellmark.errors import BadInput

GAME = SideScroller(pieces=1)
KEY = jax.random.key(0)
step = jax.jit(lambda state, action: GAME.step(state, action, KEY))


def level(piece, **changes):
    """At the start of one piece, between the flat ones at both ends."""
    kind = list(PIECES).index(piece)
    state = GAME.reset(KEY)
    ends = np.array(SOLID[0])
    state = state._replace(
        solid=jnp.array(np.concatenate([ends, SOLID[kind], ends]), jnp.int32),
        coins=jnp.array(np.concatenate([0 * ends, COINS[kind], 0 * ends]), jnp.int32),
        enemy=jnp.array([WIDTH + ENEMY[kind]], jnp.int32),
        alive=jnp.array([bool(ENEMY[kind] >= 0)]),
        column=jnp.int32(WIDTH - 1),
    )
    return state._replace(**{k: jnp.asarray(v, getattr(state, k).dtype) for k, v in changes.items()})


def played(state, *actions):
    """The states and rewards of `actions`, and whether the last of them ended the episode."""
    states, rewards = [], []
    for action in actions:
        state, outcome = step(state, jnp.int32(action))
        states.append(state)
        rewards.append(float(outcome.reward))
    return states, rewards, bool(outcome.terminated)


def test_a_jump_rises_and_falls_and_crosses_a_wide_pit():
    states, rewards, over = played(level("wide pit", column=WIDTH + 1), *[JUMP_RIGHT] * 5)
    assert [int(s.row) - GROUND for s in states][:4] == [2, 3, 3, 2]
    assert [int(s.column) - WIDTH for s in states] == [2, 3, 4, 5, 6]
    assert int(states[-1].row) >= GROUND
    assert not over
    assert sum(rewards) == pytest.approx(5 * 0.1 + 1.0)  # and the coin above the pit


def test_a_pit_is_the_end():
    _, rewards, over = played(level("wide pit", column=WIDTH + 1), RIGHT, RIGHT, NOTHING)
    assert over
    assert rewards[-1] == -1.0


def test_a_wall_stands_in_the_way_until_it_is_jumped_over():
    states, rewards, _ = played(level("wall", column=WIDTH + 2), RIGHT, JUMP_RIGHT, RIGHT)
    assert [int(s.column) - WIDTH for s in states] == [2, 2, 3]
    assert rewards == pytest.approx([0.0, 0.0, 0.1 + 1.0])  # the coin lies on top


def test_coins_are_taken_once():
    start = level("flat", column=WIDTH + 1, row=GROUND + 1)
    states, rewards, _ = played(start, RIGHT, LEFT, RIGHT)
    assert rewards == pytest.approx([0.1 + 1.0, 0.0, 0.1]) or int(states[0].row) == GROUND
    assert int(jnp.sum(jax.lax.population_count(states[0].coins))) == 3


def test_who_comes_down_upon_an_enemy_wins_and_bounces():
    start = level("patrol", column=WIDTH + 4, row=GROUND + 2, rising=-1)
    (after,), rewards, over = played(start, NOTHING)
    assert rewards == [100.0]
    assert not bool(after.alive[0])
    assert int(after.rising) == 1
    assert not over


@pytest.mark.parametrize("column, action", [(3, RIGHT), (3, NOTHING), (5, LEFT)])
def test_who_runs_into_an_enemy_or_is_run_into_loses(column, action):
    _, rewards, over = played(level("patrol", column=WIDTH + column, odd=True), action)
    assert over
    assert rewards[0] in (pytest.approx(-1.0), pytest.approx(-0.9))


def test_enemies_stay_in_their_piece():
    state, seen = level("patrol", column=1), []
    for _ in range(40):
        (state,), _, _ = played(state, NOTHING)
        seen.append(int(state.enemy[0]) - WIDTH)
    assert set(seen) == set(range(1, WIDTH - 1))


def test_the_flag_pays_and_ends():
    _, rewards, over = played(level("flat", column=GAME.flag - 1), RIGHT)
    assert rewards == pytest.approx([1000.1])
    assert over


def test_rewards_are_parameters():
    game = SideScroller(pieces=1, coin=0.0, enemy=5.0, finish=7.0, death=-3.0, rightward=0.5)
    fell = game.step(level("wide pit", column=WIDTH + 2, row=0, rising=-2), jnp.int32(NOTHING), KEY)[1]
    arrived = game.step(level("flat", column=game.flag - 1), jnp.int32(RIGHT), KEY)[1]
    assert (float(fell.reward), float(arrived.reward)) == (-3.0, 7.5)


def test_the_window_moves_along():
    shown = np.asarray(GAME.observe(level("wall", column=WIDTH + 1)))
    assert GAME.observation_space.contains(shown)
    player, solid, coin, enemy, flag = np.moveaxis(shown, -1, 0)
    assert np.argwhere(player).tolist() == [[HEIGHT - 1 - GROUND, BEHIND]]
    assert solid[-2:].all()
    assert solid[HEIGHT - 1 - GROUND, BEHIND + 2]
    assert np.argwhere(coin).tolist() == [[HEIGHT - 5, BEHIND + 2]]
    assert not enemy.any()
    assert not flag.any()
    assert np.asarray(GAME.observe(level("flat", column=GAME.flag - 3)))[..., 4].any()


def test_whoever_looks_ahead_finishes_every_level():
    """Of all ways to act for three steps and then run on, the one that lives and comes furthest, again and again."""
    game = SideScroller()
    plans = jnp.array(
        [[*first, *[RIGHT] * 4] for first in itertools.product((RIGHT, JUMP_RIGHT, NOTHING), repeat=3)]
    )

    def ahead(state, plan):
        def one(carry, action):
            state, over, gained = carry
            after, outcome = game.step(state, action, KEY)
            gained = gained + jnp.where(over, 0.0, outcome.reward)
            kept = jax.tree.map(lambda a, b: jnp.where(over, a, b), state, after)
            return (kept, over | outcome.terminated, gained), None

        (state, over, gained), _ = jax.lax.scan(one, (state, jnp.bool_(False), 0.0), plan)
        dead = over & (gained < 500)
        return jnp.where(dead, -1000.0, state.column + 0.01 * gained)

    def finish(key):
        def one(carry, _):
            state, over, finished = carry
            worth = jax.vmap(lambda plan: ahead(state, plan))(plans)
            after, outcome = game.step(state, plans[jnp.argmax(worth), 0], KEY)
            finished = finished | (~over & (outcome.reward > 900))
            kept = jax.tree.map(lambda a, b: jnp.where(over, a, b), state, after)
            return (kept, over | outcome.terminated, finished), None

        start = (game.reset(key), jnp.bool_(False), jnp.bool_(False))
        (_, _, finished), _ = jax.lax.scan(one, start, None, length=160)
        return finished

    finished = jax.jit(jax.vmap(finish))(jax.random.split(jax.random.key(1), 100))
    assert bool(jnp.all(finished))


def test_levels_differ_with_the_key():
    game = SideScroller()
    kinds = {np.asarray(game.reset(key).solid).tobytes() for key in jax.random.split(jax.random.key(2), 8)}
    assert len(kinds) == 8


def test_every_piece_begins_and_ends_on_level_ground():
    for name, (solid, coins) in zip(PIECES, zip(SOLID, COINS, strict=True), strict=True):
        assert solid[0] == solid[-1] == (1 << GROUND) - 1, name
        assert not (solid & coins).any(), name
    assert len(side_scroller.ENEMY) == len(PIECES)


def test_it_keeps_the_contract_and_has_a_picture():
    assert check_environment("SideScroller-v0").passed
    assert SideScroller().render(jax.device_get(SideScroller().reset(KEY))).shape == (400, 560, 3)


@pytest.mark.parametrize("options", [{"pieces": 0}, {"sight": 4}, {"pieces": 1, "sight": 25}])
def test_sizes_that_make_no_level_are_refused(options):
    with pytest.raises(BadInput, match="allowed: at least 1 piece"):
        SideScroller(**options)
