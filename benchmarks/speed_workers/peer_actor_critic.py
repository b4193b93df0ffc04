"""SAC or TD3 of Stable-Baselines3 or SBX as a worker of `benchmarks/speed.py`, set as in `ours_actor_critic.py`."""

import importlib
import json
import sys
import time

import torch


def main(library: str, name: str, environment: str, steps: int, threads: int) -> None:
    torch.set_num_threads(threads)
    algorithm = getattr(importlib.import_module(library), name.upper())
    more = {"device": "cpu"} if library == "stable_baselines3" else {}
    began = time.perf_counter()
    # both default to two layers of 256 for SAC, and to larger ones for TD3
    model = algorithm(
        "MlpPolicy",
        environment,
        batch_size=256,
        buffer_size=100_000,
        learning_starts=256,
        train_freq=1,
        gradient_steps=1,
        policy_kwargs={"net_arch": [256, 256]},
        **more,
    )
    model.learn(600)
    print(json.dumps({"ready": time.perf_counter() - began}), flush=True)
    for _ in sys.stdin:
        before = model.num_timesteps
        began = time.perf_counter()
        model.learn(steps, reset_num_timesteps=False)
        seconds = time.perf_counter() - began
        print(json.dumps({"seconds": seconds, "steps": model.num_timesteps - before}), flush=True)


main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
