"""Small random models of every shape that a model may have, and every method that should agree on them."""

import numpy as np

from bellmark.algorithms.exact import solve
from bellmark.mdp import FiniteMDP

METHODS = {
    "jacobi": {"method": "value_iteration"},
    "gauss_seidel": {"method": "value_iteration", "variant": "gauss_seidel"},
    "prioritised": {"method": "value_iteration", "variant": "prioritised"},
    "q_value_iteration": {"method": "q_value_iteration"},
    "policy_iteration": {"method": "policy_iteration"},
    "modified_policy_iteration": {"method": "modified_policy_iteration"},
    "krylov": {"method": "krylov"},
    "linear_programming": {"method": "linear_programming"},
    "auto": {"method": "auto"},
}


def solve_by(name, mdp, discount, **arguments):
    return solve(mdp, discount, **{**METHODS[name], **arguments})


def random_model(seed, *, proper=False, endless=False, most_states=7):
    """A model whose shape, and not only its numbers, is drawn: deterministic, sparse or dense rows, padded
    entries, self-loops, terminal states, unavailable actions, flagged terminations, rewards of any scale.

    `proper`: every action ends the episode with some probability. `endless`: nothing ends.
    """
    generator = np.random.default_rng(seed)
    states = int(generator.integers(1, most_states + 1))
    actions = int(generator.integers(1, 5))
    width = int(generator.choice([1, min(2, states), states]))
    successors = generator.integers(0, states, (states, actions, width)).astype(np.int32)
    weights = generator.exponential(size=successors.shape) * (generator.random(successors.shape) < 0.8)
    weights[..., 0] += 0.01
    probabilities = weights / weights.sum(axis=2, keepdims=True)
    rewards = generator.standard_normal((states, actions)) * 10.0 ** generator.integers(-3, 4)
    if generator.random() < 0.3:
        rewards = np.round(rewards)  # ties
    if generator.random() < 0.2:
        rewards = -np.abs(rewards)
    available = np.ones((states, actions), dtype=bool)
    terminations = None
    if generator.random() < 0.5:
        available = generator.random((states, actions)) < 0.8
        available[np.arange(states), generator.integers(0, actions, states)] = True
    if not endless and generator.random() < 0.5:
        available[generator.random(states) < 0.25] = False
    if not endless and generator.random() < 0.5:
        terminations = generator.random(successors.shape) < 0.2
    if proper:
        terminations = generator.random(successors.shape) < 0.2
        terminations[..., 0] = True
    probabilities[~available] = 0.0
    rewards[~available] = 0.0
    return FiniteMDP.from_arrays(
        successors, probabilities, rewards, available=available, terminations=terminations
    )


def scale(mdp, discount):
    """How large values can be: what absolute errors are relative to."""
    return 1.0 + float(np.abs(mdp.rewards).max()) / max(1.0 - discount, 1e-3)
