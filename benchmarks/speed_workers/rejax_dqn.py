"""rejax's DQN as a worker of `benchmarks/speed.py`: the setting of `ours_dqn.py`."""

import json
import sys
import time

import jax
from rejax import DQN


def main(environments: int, steps: int) -> None:
    algorithm = DQN.create(
        env="CartPole-v1",
        num_envs=environments,
        num_epochs=environments,
        batch_size=64,
        buffer_size=100_000,
        fill_buffer=1_000,
        total_timesteps=steps,
        eval_freq=steps,
        target_update_freq=250,
        ddqn=False,
        skip_initial_evaluation=True,
        agent_kwargs={"hidden_layer_sizes": (64, 64), "activation": "relu"},
    )
    algorithm = algorithm.replace(eval_callback=lambda algorithm, state, key: ())
    train, key = jax.jit(algorithm.train), jax.random.PRNGKey(0)
    began = time.perf_counter()
    jax.block_until_ready(train(key))
    print(json.dumps({"ready": time.perf_counter() - began}), flush=True)
    for _ in sys.stdin:
        began = time.perf_counter()
        jax.block_until_ready(train(key))
        print(json.dumps({"seconds": time.perf_counter() - began, "steps": steps}), flush=True)


main(int(sys.argv[1]), int(sys.argv[2]))
