"""sb3-contrib's TRPO as a worker of `benchmarks/speed.py`: on Gymnasium's CartPole, with our defaults."""

import json
import sys
import time

import torch
from sb3_contrib import TRPO
from stable_baselines3.common.env_util import make_vec_env


def main(steps: int, threads: int) -> None:
    torch.set_num_threads(threads)
    environments = make_vec_env("CartPole-v1", n_envs=8, seed=0)

    def fresh() -> TRPO:
        return TRPO(
            "MlpPolicy",
            environments,
            n_steps=256,
            batch_size=256,
            gae_lambda=0.97,
            cg_max_steps=10,
            cg_damping=0.1,
            n_critic_updates=10,
            target_kl=0.01,
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
