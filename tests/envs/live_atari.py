"""Atari through `ale-py`, for those who have it: not collected by the test command.

pip install -e ".[test,atari]"
pytest tests/envs/live_atari.py
"""

import numpy as np
import pytest

import bellmark as bm
from bellmark.envs.arcade.atari import AtariScreens, atari
from bellmark.envs.checker import check_environment
from bellmark.envs.gymnasium import HostEnvironments
from bellmark.envs.registry import resolve
from bellmark.errors import BadInput

SCREENS = {
    "frameskip": 4,
    "noop_max": 30,
    "use_fire_reset": True,
    "repeat_action_probability": 0.0,
    "full_action_space": False,
    "max_num_frames_per_episode": 108_000,
    "reward_clipping": False,
}


def test_what_is_seen_and_named():
    resolved = resolve("ALE/Breakout-v5")
    assert resolved.observation_space.shape == (84, 84, 4)
    assert resolved.observation_space.dtype == np.uint8
    assert (resolved.action_space.n, resolved.stacked_frames) == (4, 4)
    assert resolve("gymnasium:ALE/Breakout-v5").observation_space.shape == (210, 160, 3)
    with pytest.raises(BadInput, match="its options are: game, stack, frameskip"):
        resolve("ALE/Breakout-v5", stick=1)
    with pytest.raises(BadInput, match="ALE/Breakout-v5"):
        resolve("ALE/Brekout-v5")


def test_it_keeps_the_contract():
    assert check_environment("ALE/Pong-v5").passed


def test_an_episode_starts_with_copies_of_its_first_frame_and_is_repeated_by_its_seed():
    one, two = atari("breakout"), atari("breakout")
    first, again = one.reset(seed=5)[0], two.reset(seed=5)[0]
    assert all((first[..., i] == first[..., 0]).all() for i in range(4))
    np.testing.assert_array_equal(first, again)
    for step in range(60):
        a, b = one.step(step % 4), two.step(step % 4)
        np.testing.assert_array_equal(a[0], b[0])
        assert a[1:4] == b[1:4]
    assert (a[0][..., 0] != a[0][..., 3]).any()


def lives_of(ends):
    """Lives after each episode of Breakout without skill, six episodes, and the rewards that were seen."""
    game = AtariScreens("breakout", terminal_on_life_loss=ends, **SCREENS)
    game.reset(seed=0)
    lives, rewards = [], set()
    while len(lives) < 6:
        # without the fire button the ball of the next life would never come; `reset` presses it, but not within a game
        _, reward, terminated, truncated, _ = game.step(2 if ends else 1)
        rewards.add(reward)
        if terminated or truncated:
            lives.append(game._lives)
            game.reset()
    game.close()
    return lives, rewards


def test_a_lost_life_ends_an_episode_and_not_the_game():
    assert lives_of(True)[0] == [4, 3, 2, 1, 0, 4]
    assert lives_of(False)[0] == [0] * 6


def test_they_are_stepped_side_by_side():
    resolved = resolve("ALE/Pong-v5", terminal_on_life_loss=True)
    environments = HostEnvironments(resolved.make, 3, resolved.id)
    assert environments.stacked_frames == 4
    environments.reset(seeds=np.arange(3))
    for _ in range(20):
        observation, _, _, _ = environments.step(np.zeros(3, np.int64))
    environments.close()
    assert observation.shape == (3, 84, 84, 4)


def test_a_network_is_trained_on_it(tmp_path):
    run = bm.train(
        "dqn",
        "ALE/Pong-v5",
        steps=64,
        progress=False,
        episodes=1,
        directory=tmp_path / "run",
        environment_options={"max_num_frames_per_episode": 400},
        environments=2,
        rollout_length=4,
        train_every=8,
        batch_size=8,
        learning_start=16,
        replay_capacity=256,
        hidden=(16,),
    )
    assert run.evaluation.returns.shape == (1, 1)
