"""Every preset reaches what it claims, on the ten seeds that it was not tuned on, with the final policies.

About four minutes on two cores.  `benchmarks/learning.py` writes the same results down.
"""

import numpy as np
import pytest

import bellmark as bm
from bellmark.report.statistics import interquartile_mean
from bellmark.run.presets import PRESETS

# the steps that the target allows, the least interquartile mean, and the least mean of any seed
TARGETS = {
    ("ppo", "CartPole-v1"): (100_000, 499, 499),
    ("ppo", "gymnasium:CartPole-v1"): (100_000, 499, 499),
    ("ppo", "Acrobot-v1"): (1_000_000, -80, -100),
    ("ppo", "MountainCar-v0"): (1_000_000, -112, -130),
    ("ppo", "Pendulum-v1"): (100_000, -175, -250),
    ("ppo", "MountainCarContinuous-v0"): (300_000, 90, 90),
    # pixels, by a convolution; 10 is the optimum
    ("ppo", "Catch-v0"): (150_000, 9.2, 3.6),
    # two of ten seeds end below 475
    ("recurrent_ppo", "PositionOnlyCartPole-v1"): (150_000, 475, 300),
    ("trpo", "CartPole-v1"): (100_000, 499, 475),
    # others report −83.1 (±18.6); −83.5 was reached
    ("trpo", "Acrobot-v1"): (100_000, -84, -90),
    ("trpo", "MountainCar-v0"): (1_000_000, -107.3, -130),
    ("trpo", "Pendulum-v1"): (100_000, -175, -250),
    ("natural_policy_gradient", "CartPole-v1"): (100_000, 499, 475),
    ("ppo_penalty", "CartPole-v1"): (100_000, 499, 475),
    # some seeds of ACKTR fall from 500 before the end
    ("acktr", "CartPole-v1"): (100_000, 499, 150),
    ("q_learning", "CartPole-v1"): (50_000, 475, 450),
    ("q_learning", "MountainCar-v0"): (400_000, -160, -200),
    ("linear_sarsa", "MountainCar-v0"): (100_000, -120, -140),
    # the optimum, 4.32 a step over an episode's whole length
    ("q_learning", "crawler"): (100_000, 117_407, 117_407),
    ("dqn", "CartPole-v1"): (50_000, 499, 450),
    ("pqn", "CartPole-v1"): (500_000, 495, 450),
    ("sac", "Pendulum-v1"): (20_000, -155, -200),
    ("td3", "Pendulum-v1"): (20_000, -155, -200),
    ("reinforce", "CartPole-v1"): (1_000_000, 499, 475),
    # without a critic, a seed that finds no swing-up before its policy hardens learns nothing: one of ten
    ("reinforce", "Acrobot-v1"): (4_000_000, -100, -500),
    ("vpg", "CartPole-v1"): (200_000, 499, 475),
    # updates after every step, of steps that resemble each other: two of ten seeds learn nothing
    ("actor_critic", "CartPole-v1"): (300_000, 475, 8),
    ("a2c", "CartPole-v1"): (500_000, 499, 475),
    ("a2c", "Acrobot-v1"): (500_000, -83.4, -100),
    ("a2c", "Pendulum-v1"): (1_000_000, -163, -200),
    # MuJoCo, three seeds: Spinning Up's figures at 300k steps for HalfCheetah, else half of what was reached
    ("ppo", "HalfCheetah-v5"): (300_000, 559, 559),
    ("vpg", "HalfCheetah-v5"): (300_000, -209, -209),
    ("vpg", "Hopper-v5"): (300_000, 656, 530),
    ("ppo", "Hopper-v5"): (300_000, 1132, 1000),
    ("vpg", "Walker2d-v5"): (300_000, 625, 349),
    ("ppo", "Walker2d-v5"): (300_000, 465, 420),
}


MUJOCO = ("HalfCheetah-v5", "Hopper-v5", "Walker2d-v5")
"""Slow ones, in the extra `mujoco`: three seeds."""


@pytest.mark.timeout(0)
@pytest.mark.learning
@pytest.mark.parametrize("algorithm, environment", TARGETS)
def test_a_preset_reaches_its_target(algorithm, environment, tmp_path):
    steps, target, worst = TARGETS[algorithm, environment]
    seeds = 3 if environment in MUJOCO else 10
    run = bm.train(algorithm, environment, seeds=seeds, seed=0, directory=tmp_path / "run", progress=False)
    iteration = run.step - int(run.metrics["step"][-2])
    assert run.step < steps + iteration  # a run's last iteration is always a whole one
    means = run.evaluation.returns.mean(axis=1)
    assert run.evaluation.returns.shape == (seeds, 100)
    assert interquartile_mean(means) >= target, np.sort(means)
    assert means.min() >= worst, np.sort(means)


def test_every_preset_has_a_target():
    assert set(PRESETS) <= set(TARGETS)
    assert all(preset.measured for preset in PRESETS.values())
