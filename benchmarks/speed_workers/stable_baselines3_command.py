"""What a Stable-Baselines3 user runs to solve CartPole: the hyperparameters of Bellmark's preset, trained, evaluated.

Takes the preset as JSON: one that was tuned for both is not known, and equal work is what can be compared.
"""

import json
import sys

import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

preset = json.loads(sys.argv[1])
torch.set_num_threads(int(sys.argv[2]))
environments = preset.get("environments", 8)
rollout_length = preset.get("rollout_length", 128)
model = PPO(
    "MlpPolicy",
    make_vec_env("CartPole-v1", n_envs=environments, seed=0),
    n_steps=rollout_length,
    batch_size=environments * rollout_length // preset.get("minibatches", 4),
    n_epochs=preset.get("epochs", 4),
    gamma=preset.get("discount", 0.99),
    gae_lambda=preset.get("trace_decay", 0.95),
    learning_rate=lambda remaining: preset["learning_rate"] * remaining,
    ent_coef=preset.get("entropy_weight", 0.01),
    policy_kwargs={"net_arch": [64, 64]},
    device="cpu",
    seed=0,
)
model.learn(preset["steps"])
test = make_vec_env("CartPole-v1", n_envs=8, seed=1_000_003)
returns, _ = evaluate_policy(
    model, test, n_eval_episodes=100, deterministic=True, return_episode_rewards=True
)
mean = float(np.mean(returns))
print(json.dumps({"mean_return": mean, "solved": mean >= 475}))
