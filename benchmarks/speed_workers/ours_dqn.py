"""Bellmark's DQN as a worker of `benchmarks/speed.py`: one update of 64 transitions per environment step."""

import json
import sys
import time

import jax

import bellmark as bm
from bellmark.envs.registry import resolve
from bellmark.run.train import open_engine


def main(environment: str, environments: int, rollout_length: int, steps: int) -> None:
    algorithm = bm.DQN(
        environments=environments,
        rollout_length=rollout_length,
        train_every=1,
        batch_size=64,
        replay_capacity=100_000,
        learning_start=1_000,
        hidden=(64, 64),
    )
    per_iteration = environments * rollout_length
    iterations = steps // per_iteration
    config = {
        "seeds": [0],
        "steps": steps,
        "steps_per_iteration": per_iteration,
        "row_every": -(-iterations // 100),
    }
    engine = open_engine(algorithm, resolve(environment), config, timeout=60.0)
    began = time.perf_counter()
    engine.compile(engine.start())
    engine.advance(engine.start(), 2)
    print(json.dumps({"ready": time.perf_counter() - began}), flush=True)
    for _ in sys.stdin:
        began = time.perf_counter()
        states, _ = engine.advance(engine.start(), iterations)
        jax.block_until_ready(states)
        seconds = time.perf_counter() - began
        print(json.dumps({"seconds": seconds, "steps": iterations * per_iteration}), flush=True)
    engine.close()


main(sys.argv[1], *(int(word) for word in sys.argv[2:]))
