"""Stable-Baselines3's DQN as a worker of `benchmarks/speed.py`: the setting of `ours_dqn.py`, on Gymnasium."""

import json
import sys
import time

import torch
from stable_baselines3 import DQN
from stable_baselines3.common.env_util import make_vec_env


def main(steps: int, threads: int) -> None:
    torch.set_num_threads(threads)
    environments = make_vec_env("CartPole-v1", n_envs=1, seed=0)

    def fresh() -> DQN:
        return DQN(
            "MlpPolicy",
            environments,
            learning_rate=1e-3,
            batch_size=64,
            buffer_size=100_000,
            learning_starts=1_000,
            train_freq=1,
            gradient_steps=1,
            target_update_interval=250,
            policy_kwargs={"net_arch": [64, 64]},
            device="cpu",
        )

    began = time.perf_counter()
    fresh().learn(1_200)
    print(json.dumps({"ready": time.perf_counter() - began}), flush=True)
    for _ in sys.stdin:
        model = fresh()
        began = time.perf_counter()
        model.learn(steps)
        seconds = time.perf_counter() - began
        print(json.dumps({"seconds": seconds, "steps": model.num_timesteps}), flush=True)


main(int(sys.argv[1]), int(sys.argv[2]))
