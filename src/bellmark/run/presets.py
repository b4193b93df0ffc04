"""Tuned hyperparameters per (algorithm, environment), each with what it was measured to reach.

Presets were tuned on seeds from 100 on and measured on seeds 0 to 9 (`benchmarks/learning.py`); `measured` is the
interquartile mean of the ten final policies' mean returns over 100 episodes each, its 95 % bootstrap interval, and the
mean return of the worst seed.

What each turned on: CartPole, ten epochs and a short trace; Acrobot and MountainCar, normalised observations and
rewards; Pendulum, a discount of 0.95 (0.9 costs 20) and normalised rewards; REINFORCE, sixteen environments for the
baseline.
"""

import dataclasses
from typing import Any

from bellmark.algorithms import algorithm_class


@dataclasses.dataclass(frozen=True)
class Preset:
    """Hyperparameters that differ from the algorithm's own, and how many steps they were tuned for."""

    steps: int
    fields: dict[str, Any]
    measured: str


PRESETS: dict[tuple[str, str], Preset] = {
    ("ppo", "CartPole-v1"): Preset(
        100_000,
        {"discount": 0.98, "trace_decay": 0.9, "learning_rate": 2e-3, "epochs": 10, "entropy_weight": 0.0},
        "500.0 [500.0, 500.0], worst seed 500.0",
    ),
    ("ppo", "Acrobot-v1"): Preset(
        500_000,
        {
            "trace_decay": 0.94,
            "learning_rate": 1e-3,
            "environments": 16,
            "epochs": 8,
            "minibatches": 8,
            "entropy_weight": 0.0,
            "normalise_observations": True,
            "normalise_rewards": True,
        },
        "−75.5 [−77.2, −73.6], worst seed −78.5",
    ),
    ("ppo", "MountainCar-v0"): Preset(
        1_000_000,
        {
            "trace_decay": 0.98,
            "learning_rate": 3e-4,
            "environments": 16,
            "rollout_length": 256,
            "minibatches": 16,
            "normalise_observations": True,
            "normalise_rewards": True,
        },
        "−105.7 [−107.7, −104.3], worst seed −110.6",
    ),
    ("ppo", "Pendulum-v1"): Preset(
        100_000,
        {
            "discount": 0.95,
            "trace_decay": 0.9,
            "learning_rate": 1e-3,
            "environments": 4,
            "rollout_length": 512,
            "epochs": 20,
            "minibatches": 16,
            "entropy_weight": 0.0,
            "normalise_rewards": True,
            "activation": "relu",
        },
        "−153.5 [−162.6, −145.8], worst seed −166.0",
    ),
    ("ppo", "MountainCarContinuous-v0"): Preset(
        300_000,
        {
            "discount": 0.999,
            "trace_decay": 0.9,
            "learning_rate": 3e-4,
            "environments": 16,
            "rollout_length": 256,
            "epochs": 10,
            "minibatches": 16,
            "normalise_observations": True,
            "normalise_rewards": True,
        },
        "93.7 [93.5, 94.0], worst seed 93.2",
    ),
    ("ppo", "Catch-v0"): Preset(
        150_000,
        {
            "discount": 0.95,
            "trace_decay": 0.9,
            "learning_rate": 1e-3,
            "environments": 16,
            "rollout_length": 64,
            "hidden": (64,),
            "activation": "relu",
        },
        "9.7 [7.8, 10.0], worst seed 4.1",
    ),
    ("recurrent_ppo", "PositionOnlyCartPole-v1"): Preset(
        150_000,
        {
            "discount": 0.98,
            "trace_decay": 0.9,
            "learning_rate": 2e-3,
            "sequence_length": 16,
            "epochs": 10,
            "entropy_weight": 0.0,
            "normalise_observations": True,
        },
        "498.0 [457.3, 500.0], worst seed 307.2",
    ),
    ("trpo", "CartPole-v1"): Preset(100_000, {}, "500.0 [500.0, 500.0], worst seed 500.0"),
    ("trpo", "Acrobot-v1"): Preset(
        100_000,
        {
            "trace_decay": 0.9,
            "kl_limit": 0.03,
            "rollout_length": 128,
            "normalise_observations": True,
            "normalise_rewards": True,
        },
        "−83.5 [−85.7, −80.8], worst seed −87.2",
    ),
    ("trpo", "MountainCar-v0"): Preset(
        500_000,
        {
            "environments": 16,
            "rollout_length": 128,
            "normalise_observations": True,
            "normalise_rewards": True,
        },
        "−98.9 [−101.4, −98.2], worst seed −106.1",
    ),
    ("trpo", "Pendulum-v1"): Preset(
        100_000,
        {
            "discount": 0.95,
            "trace_decay": 0.95,
            "environments": 4,
            "rollout_length": 512,
            "value_minibatches": 16,
            "normalise_rewards": True,
        },
        "−167.2 [−188.2, −158.7], worst seed −238.9",
    ),
    ("natural_policy_gradient", "CartPole-v1"): Preset(100_000, {}, "500.0 [500.0, 500.0], worst seed 500.0"),
    ("ppo_penalty", "CartPole-v1"): Preset(
        100_000,
        {"discount": 0.98, "trace_decay": 0.9, "learning_rate": 2e-3, "epochs": 10, "entropy_weight": 0.0},
        "500.0 [500.0, 500.0], worst seed 500.0",
    ),
    ("acktr", "CartPole-v1"): Preset(100_000, {}, "500.0 [469.2, 500.0], worst seed 191.9"),
    ("vpg", "CartPole-v1"): Preset(200_000, {}, "500.0 [500.0, 500.0], worst seed 499.6"),
    ("a2c", "CartPole-v1"): Preset(
        500_000, {"entropy_weight": 0.0}, "500.0 [500.0, 500.0], worst seed 500.0"
    ),
    ("a2c", "Acrobot-v1"): Preset(
        500_000,
        {
            "trace_decay": 0.95,
            "learning_rate": 2e-3,
            "environments": 16,
            "rollout_length": 16,
            "normalise_observations": True,
            "normalise_rewards": True,
        },
        "−82.2 [−83.8, −80.2], worst seed −85.6",
    ),
    ("a2c", "Pendulum-v1"): Preset(
        1_000_000,
        {
            "discount": 0.95,
            "trace_decay": 0.9,
            "learning_rate": 1e-3,
            "optimiser": "adam",
            "rollout_length": 16,
            "entropy_weight": 0.0,
            "normalise_rewards": True,
            "activation": "relu",
        },
        "−150.5 [−159.7, −142.5], worst seed −163.7",
    ),
    ("actor_critic", "CartPole-v1"): Preset(
        300_000,
        {"discount": 0.98, "value_learning_rate": 1e-3, "environments": 8},
        "500.0 [255.4, 500.0], worst seed 9.4",
    ),
    ("reinforce", "CartPole-v1"): Preset(
        1_000_000, {"environments": 16}, "500.0 [500.0, 500.0], worst seed 500.0"
    ),
    ("reinforce", "Acrobot-v1"): Preset(
        4_000_000,
        {"environments": 16, "entropy_weight": 0.01, "normalise_observations": True},
        "−89.2 [−150.2, −83.2], worst seed −500.0",
    ),
}


# Tables: the pole's angle and its speed are enough to balance it; the crawler's world has no chance, so one sample is
# the truth, and what pays is far ahead, so the discount is high.
_POLE = {"bins": (1, 1, 6, 12), "epsilon": 0.2, "epsilon_schedule": "linear", "epsilon_final": 0.0}
# Rewards are −1, so starting at 0 is optimism, and no other exploring is needed.
_HILL = {"discount": 1.0, "epsilon": 0.0}
PRESETS |= {
    ("q_learning", "CartPole-v1"): Preset(50_000, _POLE, "500.0 [499.0, 500.0], worst seed 489.2"),
    ("q_learning", "MountainCar-v0"): Preset(
        400_000, {**_HILL, "bins": (12, 12), "step_size": 0.3}, "−151.3 [−159.6, −144.3], worst seed −184.8"
    ),
    ("linear_sarsa", "MountainCar-v0"): Preset(
        100_000, {**_HILL, "tiles": (10,)}, "−111.8 [−116.2, −105.8], worst seed −121.0"
    ),
    ("q_learning", "crawler"): Preset(
        100_000,
        {"discount": 0.99, "step_size": 1.0, "epsilon": 0.3},
        "117407.4 [117407.4, 117407.4], worst seed 117407.4",
    ),
    ("dqn", "CartPole-v1"): Preset(
        50_000,
        {
            "learning_rate": 2.3e-3,
            "anneal": True,
            "environments": 1,
            "rollout_length": 16,
            "n_step": 3,
            "target_every": 100,
            "epsilon_final": 0.04,
            "epsilon_share": 0.16,
            "hidden": (128, 128),
        },
        "500.0 [496.4, 500.0], worst seed 462.7",
    ),
}


# Pendulum: two layers of 64 and half the usual batch are enough; PQN: a shorter rollout, a larger step.
_SWING_UP = {
    "learning_rate": 1e-3,
    "batch_size": 128,
    "learning_start": 500,
    "replay_capacity": 50_000,
    "hidden": (64, 64),
}
PRESETS |= {
    ("sac", "Pendulum-v1"): Preset(20_000, _SWING_UP, "−142.6 [−151.7, −135.4], worst seed −155.0"),
    ("td3", "Pendulum-v1"): Preset(20_000, _SWING_UP, "−147.7 [−154.2, −139.0], worst seed −154.5"),
    ("pqn", "CartPole-v1"): Preset(
        500_000,
        {
            "learning_rate": 1e-3,
            "rollout_length": 16,
            "minibatches": 8,
            "epsilon_final": 0.02,
        },
        "500.0 [500.0, 500.0], worst seed 500.0",
    ),
}


# MuJoCo: what Spinning Up and others use, four environments at a time; three seeds.
_MUJOCO_PPO = {
    "trace_decay": 0.95,
    "learning_rate": 3e-4,
    "environments": 4,
    "rollout_length": 512,
    "epochs": 10,
    "minibatches": 32,
    "entropy_weight": 0.0,
    "normalise_observations": True,
    "normalise_rewards": True,
}
_MUJOCO_VPG = {
    "trace_decay": 0.97,
    "learning_rate": 3e-3,
    "value_learning_rate": 1e-3,
    "environments": 4,
    "rollout_length": 256,
    "value_epochs": 10,
    "value_minibatches": 8,
    "normalise_observations": True,
    "normalise_rewards": True,
    "initial_log_std": -0.5,
}
PRESETS |= {
    ("ppo", "HalfCheetah-v5"): Preset(
        300_000, _MUJOCO_PPO, "2211.1 [1373.4, 3083.9], worst seed 1372.9, of three"
    ),
    ("vpg", "HalfCheetah-v5"): Preset(
        300_000, _MUJOCO_VPG, "1128.3 [911.8, 1332.9], worst seed 905.8, of three"
    ),
    ("vpg", "Hopper-v5"): Preset(
        300_000, _MUJOCO_VPG, "1311.3 [1062.5, 1516.5], worst seed 1060.8, of three"
    ),
    ("ppo", "Hopper-v5"): Preset(
        300_000, _MUJOCO_PPO, "2264.8 [1996.5, 3162.8], worst seed 2000.1, of three"
    ),
    ("vpg", "Walker2d-v5"): Preset(
        300_000, _MUJOCO_VPG, "1250.1 [698.7, 3221.2], worst seed 698.5, of three"
    ),
    ("ppo", "Walker2d-v5"): Preset(300_000, _MUJOCO_PPO, "929.8 [832.4, 1345.6], worst seed 841.1, of three"),
}


def preset(algorithm: str, environment: str) -> Preset | None:
    """The preset for an algorithm's and an environment's name, or None; `gymnasium:ID` shares that of `ID`."""
    return PRESETS.get((algorithm, environment.removeprefix("gymnasium:")))


def configured(algorithm: str, environment: str) -> Any:
    """The algorithm with its preset for this environment, or as it is."""
    found = preset(algorithm, environment)
    return algorithm_class(algorithm)(**(found.fields if found else {}))
