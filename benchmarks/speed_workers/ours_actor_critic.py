"""Bellmark's SAC or TD3 as a worker of `benchmarks/speed.py`: one update of 256 transitions per environment step.

One run that goes on from measurement to measurement, so that only its beginning has steps without updates.
"""

import json
import sys
import time

import jax

from bellmark.algorithms import make_algorithm
from bellmark.envs.registry import resolve
from bellmark.run.train import open_engine


def main(name: str, environment: str, rollout_length: int, steps: int) -> None:
    algorithm = make_algorithm(
        name,
        {
            "environments": 1,
            "rollout_length": rollout_length,
            "train_every": 1,
            "batch_size": 256,
            "hidden": (256, 256),
            "replay_capacity": 100_000,
            "learning_start": 256,
        },
    )
    iterations = steps // rollout_length
    config = {
        "seeds": [0],
        "steps": 1_000_000,
        "steps_per_iteration": rollout_length,
        "row_every": -(-iterations // 10),
    }
    engine = open_engine(algorithm, resolve(environment), config, timeout=60.0)
    began = time.perf_counter()
    states = engine.start()
    engine.compile(states)
    states, _ = engine.advance(states, 600 // rollout_length)
    print(json.dumps({"ready": time.perf_counter() - began}), flush=True)
    for _ in sys.stdin:
        began = time.perf_counter()
        states, _ = engine.advance(states, iterations)
        jax.block_until_ready(states)
        seconds = time.perf_counter() - began
        print(json.dumps({"seconds": seconds, "steps": iterations * rollout_length}), flush=True)
    engine.close()


main(sys.argv[1], sys.argv[2], *(int(word) for word in sys.argv[3:]))
