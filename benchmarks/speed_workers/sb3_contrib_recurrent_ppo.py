"""sb3-contrib's recurrent PPO as a worker of `benchmarks/speed.py`: the same setting on Gymnasium's CartPole.

One memory of 64 for actor and critic and a layer of 64, as `bm.RecurrentPPO()` has; theirs is an LSTM, ours a GRU,
which has three quarters of the arithmetic.
"""

import json
import sys
import time

import torch
from sb3_contrib import RecurrentPPO
from stable_baselines3.common.env_util import make_vec_env


def main(steps: int, threads: int) -> None:
    torch.set_num_threads(threads)
    environments = make_vec_env("CartPole-v1", n_envs=8, seed=0)

    def fresh() -> RecurrentPPO:
        return RecurrentPPO(
            "MlpLstmPolicy",
            environments,
            n_steps=128,
            batch_size=256,
            n_epochs=4,
            learning_rate=lambda remaining: 2.5e-4 * remaining,
            ent_coef=0.01,
            policy_kwargs={
                "net_arch": [64],
                "lstm_hidden_size": 64,
                "shared_lstm": True,
                "enable_critic_lstm": False,
            },
            device="cpu",
        )

    began = time.perf_counter()
    fresh().learn(1024)
    print(json.dumps({"ready": time.perf_counter() - began}), flush=True)
    for _ in sys.stdin:
        model = fresh()
        began = time.perf_counter()
        model.learn(steps)
        seconds = time.perf_counter() - began
        print(json.dumps({"seconds": seconds, "steps": model.num_timesteps}), flush=True)


main(int(sys.argv[1]), int(sys.argv[2]))
