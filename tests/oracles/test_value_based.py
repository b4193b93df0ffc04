"""Value learners with table-sized networks against Q*, and what a broken target does to them.

The model is that of `test_policy_gradient`: four states, three actions, one of them not available, episodes that end at
random, and a time limit of three steps, so that half of the endings are truncations.  With one weight per state and
action a learner must come to Q*, which knows nothing of the time limit; how near depends on its step size alone, and
0.15 is 4 % of the largest value.  Huber's loss comes elsewhere here: its minimum is a mean only of what varies little.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import action_values, optimal_values
from test_policy_gradient import MDP

from bellmark.algorithms.value_based.c51 import C51
from bellmark.algorithms.value_based.deep_sarsa import DeepSarsa
from bellmark.algorithms.value_based.dqn import DQN
from bellmark.algorithms.value_based.pqn import PQN
from bellmark.algorithms.value_based.qr_dqn import QRDQN
from bellmark.algorithms.value_based.rainbow import Rainbow
from bellmark.envs.finite import FiniteEnvironment
from bellmark.envs.wrappers.time_limit import TimeLimit
from bellmark.experience.replay import Replay
from bellmark.experience.rollout import CompiledProblem

DISCOUNT, ITERATIONS = 0.8, 400
NEAR = 0.15
EXACT = action_values(MDP, optimal_values(MDP, DISCOUNT), DISCOUNT)
PROBLEM = CompiledProblem(TimeLimit(FiniteEnvironment(MDP), 3), ITERATIONS * 128, 3)
TABLE = {
    "discount": DISCOUNT,
    "environments": 16,
    "rollout_length": 8,
    "train_every": 8,
    "batch_size": 256,
    "learning_start": 1024,
    "replay_capacity": 25_600,
    "learning_rate": 0.05,
    "anneal": True,
    "hidden": (),
    "loss": "squared",
    "epsilon_schedule": "constant",
    "target_every": 20,
}


def learned_values(algorithm, problem=PROBLEM):
    @jax.jit
    def train(state):
        return jax.lax.scan(lambda s, _: (algorithm.step(problem, s)[0], None), state, length=ITERATIONS)[0]

    state = train(algorithm.init(problem, jax.random.key(1)))
    policy = algorithm.policy(state)
    return np.asarray(policy.head.values(policy.network(jnp.eye(4))))


def worst(q, exact=EXACT):
    available = np.asarray(MDP.available)
    return np.abs(q - exact)[available].max()


VARIANTS = {
    "plain": {},
    "double": {"double": True},
    "dueling": {"dueling": True},
    "prioritised": {"prioritised": True, "priority_correction": 1.0},
    "soft target": {"target_every": 1, "target_rate": 0.05},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_table_comes_to_the_optimal_values(variant):
    assert worst(learned_values(DQN(**{**TABLE, **VARIANTS[variant]}))) < NEAR


FROM_REPLAY = {name: value for name, value in TABLE.items() if name != "loss"}
# wide enough for every return; what falls outside of the range would be counted as its end
RETURNS = {"atoms": 31, "value_low": -6.0, "value_high": 9.0, "target_every": 5}
DISTRIBUTIONS = {
    "c51": C51(**{**FROM_REPLAY, **RETURNS}),
    "qr_dqn": QRDQN(**{**FROM_REPLAY, "quantiles": 16, "threshold": 0.0, "target_every": 5}),
    # n-step targets are another claim, below; noise in a table is noise in its values
    "rainbow": Rainbow(**{**FROM_REPLAY, **RETURNS, "n_step": 1, "noisy": False, "priority_correction": 1.0}),
}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_means_of_distributions_come_to_the_optimal_values(name):
    assert worst(learned_values(DISTRIBUTIONS[name])) < NEAR


ON_POLICY = {
    "discount": DISCOUNT,
    "environments": 64,
    "rollout_length": 8,
    "learning_rate": 0.05,
    "anneal": True,
    "hidden": (),
    "epsilon_schedule": "constant",
}


def test_q_learning_without_a_memory_comes_to_the_optimal_values():
    """λ = 0: with λ > 0 returns hold what exploring actions brought, and random ones bring less."""
    one_step = PQN(**ON_POLICY, trace_decay=0.0, epochs=4, minibatches=4)
    assert worst(learned_values(one_step)) < NEAR
    assert worst(learned_values(PQN(**ON_POLICY, trace_decay=0.9, epochs=4, minibatches=4))) > NEAR


def exploring_values(epsilon):
    """Q of the policy that is ε-greedy in its own Q, by repeated exact evaluation of one step."""
    available = np.asarray(MDP.available)
    q = np.where(available, 0.0, -np.inf)
    for _ in range(1000):
        best = np.where(available.any(1), q.max(1), 0.0)
        mean = np.where(available, q, 0.0).sum(1) / np.maximum(available.sum(1), 1)
        q = action_values(MDP, (1 - epsilon) * best + epsilon * mean, DISCOUNT)
    return q


@pytest.mark.parametrize("expected", [False, True], ids=["sarsa", "expected sarsa"])
def test_sarsa_comes_to_the_values_of_the_policy_that_explores(expected):
    # one update per rollout, 400 in all: larger ones
    given = {**ON_POLICY, "learning_rate": 0.2, "epsilon": 0.5, "loss": "squared", "target_every": 5}
    sarsa = DeepSarsa(**given, expected=expected)
    q = learned_values(sarsa)
    assert worst(q, exploring_values(0.5)) < NEAR
    assert worst(q) > 2 * NEAR, "and not to the optimal ones, from which those differ"


def test_n_step_targets_come_to_the_values_of_what_was_done():
    """Without correction n-step targets hold the behaviour's value for n − 1 steps: right only if it is greedy.

    So with ε = 0.05 they come near, and with random actions they do not.
    """
    n_step = {**TABLE, "n_step": 2}
    assert worst(learned_values(DQN(**{**n_step, "epsilon": 0.05}))) < 2 * NEAR
    assert worst(learned_values(DQN(**n_step))) > 2 * NEAR


def broken(change):
    """A DQN whose batches are spoilt by `change(replay, place, batch)`."""
    original = Replay.take

    def take(self, place, discount, steps=1):
        return change(self, place, original(self, place, discount, steps))

    return take


BROKEN = {
    "truncation treated as termination": lambda replay, place, batch: eqx.tree_at(
        lambda b: b.discount, batch, jnp.where(replay.stored.truncated[place], 0.0, batch.discount)
    ),
    "bootstrapped at termination": lambda replay, place, batch: eqx.tree_at(
        lambda b: b.discount, batch, jnp.full_like(batch.discount, DISCOUNT)
    ),
    "the successor is the next episode's first state": lambda replay, place, batch: eqx.tree_at(
        lambda b: b.next_observation,
        batch,
        replay.stored.observation[(place + replay.environments) % replay.capacity],
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_broken_targets_are_found_out(what, monkeypatch):
    monkeypatch.setattr(Replay, "take", broken(BROKEN[what]))
    q = learned_values(DQN(**TABLE))
    assert worst(q) > NEAR
