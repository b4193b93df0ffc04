"""Whole episodes: each counted once, the short ones no more often than the long ones."""

import gymnasium
import jax
import numpy as np
import pytest

from bellmark.algorithms.policy_gradient.ppo import PPO
from bellmark.envs.gymnasium import HostEnvironments
from bellmark.envs.to_gymnasium import ToGymnasium
from bellmark.experience.evaluation import play, play_on_host
from bellmark.experience.rollout import CompiledProblem
from small_environments import Countdown, Tracking

KEY = jax.random.key(0)


def policy_for(environment, **fields):
    algorithm = PPO(environments=2, hidden=(4,), **fields)
    return algorithm.policy(algorithm.init(CompiledProblem(environment, 100, None), KEY))


@pytest.mark.parametrize("deterministic", [True, False])
def test_compiled(deterministic):
    environment = Countdown(terminates=6)
    returns, lengths = play(environment, policy_for(environment), KEY, 5, 50, deterministic)
    np.testing.assert_array_equal(lengths, [6] * 5)
    # 10 · (1 + … + 6), six times a number in (0, 1), and up to 2 per action
    assert ((np.asarray(returns) > 210) & (np.asarray(returns) < 228)).all()


@pytest.mark.parametrize("deterministic", [True, False])
def test_on_host(deterministic):
    environment = Countdown(terminates=6)
    with_host = HostEnvironments(lambda: ToGymnasium(environment), 2, "countdown")
    returns, lengths = play_on_host(with_host, policy_for(environment), KEY, 5, 50, deterministic)
    with_host.close()
    np.testing.assert_array_equal(lengths, [6] * 5)
    assert ((returns > 210) & (returns < 228)).all()


def test_an_episode_that_does_not_end_is_reported():
    environment = Countdown()
    returns, lengths = play(environment, policy_for(environment), KEY, 3, 4, True)
    np.testing.assert_array_equal(lengths, [-1] * 3)
    assert (np.asarray(returns) > 100).all()
    with_host = HostEnvironments(lambda: ToGymnasium(environment), 2, "countdown")
    _, lengths = play_on_host(with_host, policy_for(environment), KEY, 3, 4, True)
    with_host.close()
    np.testing.assert_array_equal(lengths, [-1] * 3)


def test_actions_are_clipped():
    policy = policy_for(Tracking(), initial_log_std=3.0)
    returns, _ = play(Tracking(), policy, KEY, 4, 50, False)
    assert (np.asarray(returns) >= -8 * 5.0**2).all()  # with steps of 20 it would be −400 each


def test_short_episodes_do_not_crowd_out_long_ones():
    """One environment's episodes last 1 step, the other's 20: of ten, five are counted of each."""

    class Uneven(gymnasium.Env):
        observation_space, action_space = gymnasium.spaces.Box(0, 1, (2,)), gymnasium.spaces.Discrete(3)
        made = 0

        def __init__(self):
            self.length = (1, 20)[Uneven.made % 2]
            Uneven.made += 1

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            self.steps = 0
            return np.zeros(2, np.float32), {}

        def step(self, action):
            self.steps += 1
            return np.zeros(2, np.float32), 1.0, self.steps == self.length, False, {}

    environments = HostEnvironments(Uneven, 2, "uneven")
    returns, lengths = play_on_host(environments, policy_for(Countdown()), KEY, 10, 100, False)
    environments.close()
    np.testing.assert_array_equal(np.sort(lengths), [1] * 5 + [20] * 5)
    np.testing.assert_array_equal(returns, lengths)
