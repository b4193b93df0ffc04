"""Discrete SAC with table-sized networks against the soft optimum of the model, and what a broken target does to it.

The model is that of `test_policy_gradient`, cut after three steps, so that half of the endings are truncations; the
soft optimum knows nothing of the time limit.  At temperature 0.5 the policy is far from greedy and from uniform.

What the policy hardly ever does is hardly ever learned from: with probabilities below a tenth (one is 0.007) values are
still on their way after these steps, and are left aside.  For the rest 0.15 is 4 % of the largest value.
"""

import jax
import jax.numpy as jnp
import numpy as np
from test_policy_gradient import MDP

import bellmark as bm
from bellmark.algorithms.continuous.discrete_sac import DiscreteSAC
from bellmark.envs.finite import FiniteEnvironment
from bellmark.envs.wrappers.time_limit import TimeLimit
from bellmark.experience.rollout import CompiledProblem
from bellmark.maths import soft

DISCOUNT, TEMPERATURE, ITERATIONS = 0.8, 0.5, 300
PROBLEM = CompiledProblem(TimeLimit(FiniteEnvironment(MDP), 3), ITERATIONS * 128, 3)
EXACT = bm.solve(MDP, discount=DISCOUNT, method="soft_value_iteration", temperature=TEMPERATURE)
TABLE = {
    "discount": DISCOUNT,
    "temperature": TEMPERATURE,
    "environments": 16,
    "rollout_length": 8,
    "train_every": 8,
    "batch_size": 256,
    "learning_start": 1024,
    "replay_capacity": 25_600,
    "learning_rate": 0.03,
    "anneal": True,
    "hidden": (),
    "target_rate": 0.05,
}


def learned(algorithm):
    """(action probabilities [S, A], least of the critics' values [S, A]) after the run."""

    @jax.jit
    def train(state):
        return jax.lax.scan(lambda s, _: (algorithm.step(PROBLEM, s)[0], None), state, length=ITERATIONS)[0]

    state = train(algorithm.init(PROBLEM, jax.random.key(1)))
    observations, masks = jnp.arange(MDP.num_states), jnp.asarray(MDP.available)
    policy = algorithm.policy(state).distribution(observations, masks)
    q = jnp.stack([critic(jnp.eye(MDP.num_states)) for critic in state.learned.critics]).min(0)
    return np.exp(np.asarray(policy.log_probs)), np.asarray(q)


def distances(algorithm, exact=EXACT):
    probabilities, q = learned(algorithm)
    return (
        np.abs(probabilities - exact.action_probabilities).max(),
        np.abs(q - exact.action_values)[exact.action_probabilities > 0.1].max(),
    )


def test_it_comes_to_the_soft_optimum():
    policy, values = distances(DiscreteSAC(**TABLE))
    assert policy < 0.06
    assert values < 0.15


def without_entropy(q, log_probs, temperature):
    return jnp.sum(jnp.exp(log_probs) * soft.least(q), axis=-1)


def test_targets_without_entropy_are_found_out(monkeypatch):
    monkeypatch.setattr("bellmark.algorithms.continuous.discrete_sac.expected_soft_value", without_entropy)
    policy, values = distances(DiscreteSAC(**TABLE))
    assert policy > 0.1
    assert values > 0.3


def test_another_temperature_is_another_optimum():
    exact = bm.solve(MDP, discount=DISCOUNT, method="soft_value_iteration", temperature=1.0)
    policy, _ = distances(DiscreteSAC(**{**TABLE, "temperature": 1.0}), exact)
    assert policy < 0.06
    assert np.abs(exact.action_probabilities - EXACT.action_probabilities).max() > 0.1
