"""rejax as a worker of `benchmarks/speed.py`: its whole training is one compiled function, vmapped over seeds."""

import json
import sys
import time

import jax
from rejax import PPO


def main(seeds: int, steps: int) -> None:
    algorithm = PPO.create(
        env="CartPole-v1",
        num_envs=8,
        num_steps=128,
        num_epochs=4,
        num_minibatches=4,
        total_timesteps=steps,
        eval_freq=steps,
        skip_initial_evaluation=True,
        agent_kwargs={"hidden_layer_sizes": (64, 64), "activation": "tanh"},
    )
    # no evaluation at all: only learning is timed
    algorithm = algorithm.replace(eval_callback=lambda algorithm, state, key: ())
    if seeds == 1:
        train, keys = jax.jit(algorithm.train), jax.random.PRNGKey(0)
    else:
        train, keys = jax.jit(jax.vmap(algorithm.train)), jax.random.split(jax.random.PRNGKey(0), seeds)
    began = time.perf_counter()
    jax.block_until_ready(train(keys))
    print(json.dumps({"ready": time.perf_counter() - began}), flush=True)
    for _ in sys.stdin:
        began = time.perf_counter()
        jax.block_until_ready(train(keys))
        print(json.dumps({"seconds": time.perf_counter() - began, "steps": steps * seeds}), flush=True)


main(int(sys.argv[1]), int(sys.argv[2]))
