"""Policy gradients on a finite model: estimated from rollouts, and exact.

The policy is a table of logits, π(a|s) ∝ exp(θ_sa), and J(θ) = Σ_s μ(s) V^π(s).  Estimates are made from the first
episode of every environment, each step weighted with γ^t; so their mean is ∇J, if what multiplies ∇log π is the
advantage on average.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from bellmark.algorithms.exact import evaluate_policy, solve
from bellmark.mdp.model import FiniteMDP

from .base import Float


class World(NamedTuple):
    """A model with a policy, V^π [S], Q^π [S, A] and ∇J [S·A]."""

    mdp: FiniteMDP
    discount: float
    logits: Float
    probabilities: Float
    values: Float
    action_values: Float
    gradient: Float


def softmax_world(mdp: FiniteMDP, discount: float, sharpness: float) -> World:
    """The policy π ∝ exp(sharpness · Q*): uniform at 0, optimal at infinity."""
    optimal = np.asarray(solve(mdp, discount, tolerance=1e-9).action_values, np.float64)
    optimal = np.where(np.isfinite(optimal), optimal, 0.0)
    logits = sharpness * (optimal - optimal.max(axis=1, keepdims=True))
    probabilities = np.exp(logits)
    probabilities = probabilities / probabilities.sum(axis=1, keepdims=True)
    values = np.asarray(evaluate_policy(mdp, probabilities * ~mdp.terminal[:, None], discount), np.float64)
    chain = np.zeros((mdp.num_states, mdp.num_actions, mdp.num_states))
    for state in range(mdp.num_states):
        for action in range(mdp.num_actions):
            for probability, successor, _, ended in mdp.transitions(state, action):
                chain[state, action, successor] += probability * (not ended)
    action_values = np.asarray(mdp.rewards) + discount * chain @ values
    # the policy gradient theorem: Σ_s d(s) Σ_a ∇π(a|s) Q(s, a), d the discounted visits
    moves = np.einsum("sa,sat->st", probabilities * ~mdp.terminal[:, None], chain)
    visits = np.linalg.solve(np.eye(mdp.num_states) - discount * moves.T, mdp.initial_distribution)
    advantages = action_values - values[:, None]
    gradient = (visits[:, None] * probabilities * advantages * ~mdp.terminal[:, None]).reshape(-1)
    return World(mdp, discount, logits, probabilities, values, action_values, gradient)


def sampled_gradients(
    world: World,
    scored: Callable[[Any], Any],
    seeds: Sequence[int],
    *,
    groups: int,
    environments: int,
    length: int,
) -> list[dict[str, Float]]:
    """Each seed's estimates of ∇J by name, [groups, S·A].

    `scored(rollout)` gives what multiplies ∇log π, [T, B] by name.
    A group is `environments` first episodes of at most `length` steps.
    """
    import jax
    import jax.numpy as jnp

    from bellmark.envs.finite import FiniteEnvironment
    from bellmark.envs.wrappers.time_limit import TimeLimit
    from bellmark.experience.policy import Inputs, StochasticPolicy
    from bellmark.experience.rollout import CompiledProblem
    from bellmark.maths.returns import episode_start
    from bellmark.networks.heads import CategoricalHead
    from bellmark.networks.mlp import MLP, Linear

    actions = world.mdp.num_actions
    # whole episodes: what is cut off is worth at most γ^length of a value
    environment = TimeLimit(FiniteEnvironment(world.mdp), length)
    problem = CompiledProblem(environment, length, length)
    inputs = Inputs.start(environment.observation_space)
    logits, discount = jnp.asarray(world.logits, jnp.float32), world.discount
    table = MLP((Linear(logits, jnp.zeros(actions)),), "tanh")
    policy = StochasticPolicy(inputs, table, CategoricalHead(actions))
    probabilities = jnp.asarray(world.probabilities, jnp.float32)

    def one(key):
        start, roll = jax.random.split(key)
        _, rollout, _ = problem.rollout(policy, problem.start(start, environments), roll, length)
        step = rollout.transition
        began = episode_start(step.unbroken, jnp.ones(environments, bool))
        weight = jnp.where(began == 0, discount ** jnp.arange(length)[:, None], 0.0) / environments
        # ∇log π(a|s) of a table: e_a − π(·|s) in the row of s
        score = jax.nn.one_hot(step.action, actions) - probabilities[step.observation]
        found = {}
        for name, advantage in scored(rollout).items():
            rows = (score * (weight * advantage)[..., None]).reshape(-1, actions)
            sums = jnp.zeros_like(probabilities).at[jnp.ravel(step.observation)].add(rows)
            found[name] = sums.reshape(-1)
        return found

    many = jax.jit(lambda seed: jax.lax.map(one, jax.random.split(jax.random.key(seed), groups)))
    return [jax.tree.map(lambda x: np.asarray(x, np.float64), many(seed)) for seed in seeds]


def variance(estimates: Float) -> float:
    """The sum of all components' variances."""
    return float(estimates.var(axis=0, ddof=1).sum())


def squared_bias(estimates: Float, exact: Float) -> float:
    """|E[estimate] − ∇J|², less what the mean's own noise adds to it: without bias it is 0 on average."""
    distance = float(np.square(estimates.mean(axis=0) - exact).sum())
    return distance - variance(estimates) / len(estimates)
