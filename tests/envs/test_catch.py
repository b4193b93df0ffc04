"""Catch: the picture is the state, a ball can always be caught, and the optimum is ten."""

import jax
import jax.numpy as jnp
import numpy as np

from bellmark.envs.arcade.catch import BRIGHT, DIM, Catch, State
from bellmark.envs.checker import check_environment

GAME = Catch()


def played(choose, key, steps=90):
    """The return of an episode in which `choose(state)` acts, and whether it ended at the last step and not before."""

    def step(state, key):
        after, outcome = GAME.step(state, choose(state), key)
        return after, (outcome.reward, outcome.terminated)

    start, key = jax.random.split(key)
    _, (rewards, ended) = jax.lax.scan(step, GAME.reset(start), jax.random.split(key, steps))
    return jnp.sum(rewards), ended[-1] & ~jnp.any(ended[:-1])


def over_many(choose):
    returns, whole = jax.jit(jax.vmap(lambda key: played(choose, key)))(
        jax.random.split(jax.random.key(0), 500)
    )
    assert bool(jnp.all(whole))
    return np.asarray(returns)


def test_whoever_follows_the_ball_catches_all():
    assert (over_many(lambda s: 1 + jnp.sign(s.column - s.paddle)) == 10.0).all()


def test_standing_still_catches_one_in_ten():
    returns = over_many(lambda s: jnp.int32(1))
    assert abs(returns.mean() + 8.0) < 0.3
    assert returns.max() < 10


def test_the_longest_way_is_just_short_enough():
    state = State(jnp.int32(0), jnp.int32(9), jnp.int32(0), jnp.int32(1))
    for _ in range(9):
        state, outcome = GAME.step(state, jnp.int32(2), jax.random.key(0))
    assert float(outcome.reward) == 1.0
    assert bool(outcome.terminated)


def test_the_picture_shows_the_state():
    picture = np.asarray(GAME.observe(State(jnp.int32(3), jnp.int32(7), jnp.int32(2), jnp.int32(4))))[..., 0]
    assert (picture[0] == [DIM] * 4 + [0] * 6).all()
    assert np.argwhere(picture[1:] == BRIGHT).tolist() == [[3, 7], [9, 2]]
    assert GAME.observation_space.contains(picture[..., None])
    drawn = GAME.render(State(3, 7, 2, 4))
    assert drawn.shape == (440, 400, 3)
    assert drawn.dtype == np.uint8


def test_it_keeps_the_contract():
    assert check_environment(GAME).passed
