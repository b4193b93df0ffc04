"""A compiled environment as Gymnasium's: its own checker passes it, and it does the same steps."""

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from bellmark.envs.registry import resolve
from bellmark.envs.to_gymnasium import ToGymnasium
from bellmark.errors import BadInput


# Gymnasium warns about bounds that it declares so itself, and about rendering without a specification.
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", ["CartPole-v1", "Pendulum-v1", "grid-world"])
def test_gymnasiums_checker_passes_it(name):
    check_env(ToGymnasium(resolve(name).compiled), skip_render_check=True)


def test_it_does_the_same_steps_and_ends_them():
    environment = resolve("CartPole-v1", max_episode_steps=5).compiled
    host = ToGymnasium(environment, render_mode="rgb_array")
    assert host.render() is None
    observation, info = host.reset(seed=3)
    assert info == {}
    state = host._state
    np.testing.assert_array_equal(observation, environment.observe(state))
    for step in range(1, 6):
        state, _ = environment.step(state, jnp.int32(step % 2), jax.random.key(0))
        observation, reward, terminated, truncated, _ = host.step(step % 2)
        np.testing.assert_allclose(observation, environment.observe(state), rtol=1e-6)
        assert (reward, terminated, truncated) == (1.0, False, step == 5)
        assert isinstance(terminated, bool)
    assert host.render().shape == (400, 600, 3)


def test_misuse_is_refused():
    host = ToGymnasium(resolve("CartPole-v1").compiled)
    with pytest.raises(gymnasium.error.ResetNeeded):
        host.step(0)
    with pytest.raises(BadInput, match="unknown render mode 'human'"):
        ToGymnasium(resolve("CartPole-v1").compiled, render_mode="human")
