"""Stable-Baselines3's A2C as a worker of `benchmarks/speed.py`: 8 environments × 5 steps, RMSProp, entropy as ours."""

import json
import sys
import time

import torch
from stable_baselines3 import A2C
from stable_baselines3.common.env_util import make_vec_env


def main(steps: int, threads: int) -> None:
    torch.set_num_threads(threads)
    environments = make_vec_env("CartPole-v1", n_envs=8, seed=0)

    def fresh() -> A2C:
        return A2C(
            "MlpPolicy",
            environments,
            n_steps=5,
            learning_rate=lambda remaining: 7e-4 * remaining,
            ent_coef=0.01,
            policy_kwargs={"net_arch": [64, 64]},
            device="cpu",
        )

    began = time.perf_counter()
    fresh().learn(2048)
    print(json.dumps({"ready": time.perf_counter() - began}), flush=True)
    for _ in sys.stdin:
        model = fresh()
        began = time.perf_counter()
        model.learn(steps)
        seconds = time.perf_counter() - began
        print(json.dumps({"seconds": seconds, "steps": model.num_timesteps}), flush=True)


main(int(sys.argv[1]), int(sys.argv[2]))
