"""Bellmark as a worker of `benchmarks/speed.py`: compile once, then one measurement per line of input."""

import json
import sys
import time

import jax

from bellmark.algorithms import make_algorithm
from bellmark.envs.registry import resolve
from bellmark.run.train import open_engine, seeds_from


def main(environment: str, seeds: int, steps: int, name: str = "ppo", fields: str = "{}") -> None:
    # the defaults; PPO's: 8 environments × 128 steps, 4 epochs × 4 minibatches, two tanh layers of 64
    algorithm = make_algorithm(name, json.loads(fields))
    # online learners have no rollout: one step of every environment
    per_iteration = algorithm.environments * getattr(algorithm, "rollout_length", 1)
    iterations = steps // per_iteration
    config = {
        "seeds": seeds_from(seeds),
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
        print(json.dumps({"seconds": seconds, "steps": iterations * per_iteration * seeds}), flush=True)
    engine.close()


main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:])
