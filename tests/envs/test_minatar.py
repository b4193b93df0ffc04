"""The pixel games equal MinAtar's, step by step, on the same actions and the same random numbers.

`golden/` holds what the `minatar` package did (`make_minatar_golden.py` says how it was recorded); `live_minatar.py`
compares with the package itself over many more steps, for those who have it.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from make_minatar_golden import GAMES, HERE, load

from bellmark.envs.arcade.asterix import Asterix
from bellmark.envs.arcade.breakout import Breakout
from bellmark.envs.arcade.cabinet import Cabinet
from bellmark.envs.arcade.freeway import Freeway
from bellmark.envs.arcade.seaquest import Seaquest
from bellmark.envs.arcade.space_invaders import SpaceInvaders

OURS = {
    "breakout": Breakout,
    "asterix": Asterix,
    "freeway": Freeway,
    "space_invaders": SpaceInvaders,
    "seaquest": Seaquest,
}


def compare(name, record, written, sticky=0.1, ramping=True):
    """Every picture, reward and ending of `record` against ours; returns the number of steps compared."""
    game = OURS[name](difficulty_ramping=ramping)
    assert game.draws_per_step == GAMES[name]

    def start(uniform):
        return game.start(uniform[: game.draws_to_start])

    states = [start(jnp.asarray(uniform)) for uniform in record.to_start]
    for index, fields in enumerate(written):
        fields = {key: jnp.asarray(value, getattr(states[index], key).dtype) for key, value in fields.items()}
        states[index] = states[index]._replace(**fields)
    states = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)

    @jax.jit
    def play(states, actions, uniform):
        def step(carry, given):
            states, previous = carry
            action, uniform = given
            done = jnp.where(uniform[:, 0] < sticky, previous, action)
            states, reward, over = jax.vmap(game.advance)(states, done, uniform[:, 1:])
            shown = jax.vmap(game.show)(states).reshape(len(done), -1)
            return (states, done), (jnp.packbits(shown, axis=1), reward, over)

        first = jnp.packbits(jax.vmap(game.show)(states).reshape(len(actions[0]), -1), axis=1)
        _, rows = jax.lax.scan(step, (states, jnp.zeros(len(actions[0]), jnp.int32)), (actions, uniform))
        return first, rows

    actions = jnp.asarray(record.actions, jnp.int32).T
    first, (shown, reward, over) = jax.device_get(play(states, actions, jnp.swapaxes(record.uniform, 0, 1)))
    np.testing.assert_array_equal(first, record.shown[:, 0])
    for t in range(len(shown)):
        for e in np.flatnonzero(record.valid[:, t]):
            if not np.array_equal(shown[t, e], record.shown[e, t + 1]):
                shape = (10, 10, len(game.channels))
                size = int(np.prod(shape))
                pictures = [
                    np.unpackbits(packed)[:size].reshape(shape)
                    for packed in (shown[t, e], record.shown[e, t + 1])
                ]
                where = np.argwhere(pictures[0] != pictures[1])[:5].tolist()
                raise AssertionError(f"{name}: episode {e}, step {t}: pixels {where} differ")
    np.testing.assert_array_equal(np.where(record.valid, reward.T, 0), record.rewards)
    np.testing.assert_array_equal(np.where(record.valid, over.T, False), record.over)
    return int(record.valid.sum())


@pytest.mark.parametrize("name", GAMES)
def test_as_recorded(name):
    record, written = load(HERE / f"minatar-{name}.npz")
    assert compare(name, record, written) > 1000
    assert record.rewards.sum() > 10
    assert record.over.any() or name == "freeway"


def test_the_cabinet_spends_the_numbers_as_the_comparison_does():
    """One step of the environment is one of the game with the numbers of its key, the sticky one first."""
    cabinet, key = Cabinet(Asterix(), sticky_action_prob=0.5), jax.random.key(3)
    state = cabinet.reset(key)
    state = state._replace(game=state.game._replace(comes_in=jnp.int32(0)), previous=jnp.int32(1))
    stuck = set()
    for k in jax.random.split(key, 8):
        uniform = jax.random.uniform(k, (4,))
        after, step = cabinet.step(state, jnp.int32(3), k)
        action = 1 if uniform[0] < 0.5 else 3
        stuck.add(action)
        expected, reward, over = cabinet.game.advance(state.game, jnp.int32(action), uniform[1:])
        assert after.previous == action
        assert all(jnp.array_equal(a, b) for a, b in zip(after.game, expected, strict=True))
        assert (step.reward, step.terminated, step.truncated) == (reward, over, False)
    assert stuck == {1, 3}
