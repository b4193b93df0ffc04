"""DQN's targets against numbers worked by hand, its parts one by one, and what it refuses."""

import dataclasses
from types import SimpleNamespace

import equinox as eqx
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bellmark.algorithms.value_based.dqn import DQN, Learned
from bellmark.algorithms.value_based.settings import epsilon_at
from bellmark.envs.classic_control.cart_pole import CartPole
from bellmark.envs.wrappers.time_limit import TimeLimit
from bellmark.errors import BadInput
from bellmark.experience.policy import HostPolicy, Inputs, StochasticPolicy
from bellmark.experience.replay import Batch
from bellmark.experience.rollout import CompiledProblem
from bellmark.maths.action_values import best_value, double_value, expected_value
from bellmark.networks.mlp import MLP, Linear
from bellmark.networks.values import ActionValues, BoltzmannHead, EpsilonGreedyHead

SMALL = {"environments": 2, "rollout_length": 4, "train_every": 4, "hidden": (8,), "batch_size": 8}
SMALL |= {"learning_start": 16, "replay_capacity": 64}
PROBLEM = CompiledProblem(TimeLimit(CartPole(), 7), 400, 7)


def table(rows):
    """A network without hidden layers over three numbered states: its weights are its values."""
    return MLP((Linear(jnp.float32(rows), jnp.zeros(len(rows[0]))),), "relu")


ONLINE = [[1.0, 2.0], [5.0, 4.0], [0.0, 3.0]]
TARGET = [[10.0, 20.0], [30.0, 40.0], [60.0, 50.0]]


def targets(algorithm, mask=None):
    """Three transitions into states 0, 1 and 2; the second terminated, the third summed over two steps."""
    batch = Batch(
        observation=jnp.array([0, 0, 0]),
        action=jnp.array([0, 1, 0]),
        reward=jnp.array([1.0, 2.0, 3.0]),
        discount=jnp.array([0.9, 0.0, 0.81]),
        next_observation=jnp.array([0, 1, 2]),
        next_action_mask=mask,
    )
    learned = Learned(table(ONLINE), table(TARGET), None, None, jnp.int32(0))
    inputs = Inputs.start(gymnasium.spaces.Discrete(3))
    return algorithm.targets(learned, inputs, ActionValues(2), batch)


def test_targets_are_the_numbers_worked_by_hand():
    # r + c max Q̂: 1 + 0.9 · 20, 2 + 0 · 40, 3 + 0.81 · 60
    np.testing.assert_allclose(targets(DQN()), [19.0, 2.0, 51.6], rtol=1e-6)


def test_double_picks_with_the_online_network_and_values_with_the_target():
    # Q prefers actions 1, 0, 1, whose target values are 20, 30, 50: not its own 2, 5, 3, nor the maxima 20, 40, 60
    np.testing.assert_allclose(targets(DQN(double=True)), [19.0, 2.0, 43.5], rtol=1e-6)


def test_actions_that_are_not_available_have_no_value():
    only_first = jnp.array([[True, False]] * 3)
    np.testing.assert_allclose(targets(DQN(), only_first), [10.0, 2.0, 51.6], rtol=1e-6)
    np.testing.assert_allclose(targets(DQN(double=True), only_first), [10.0, 2.0, 51.6], rtol=1e-6)


def test_values_of_policies():
    q, other = jnp.array([[1.0, 4.0, 2.0]]), jnp.array([[3.0, 1.0, 2.0]])
    mask = jnp.array([[True, False, True]])
    assert float(best_value(q, mask)[0]) == 2.0
    assert float(double_value(q, other)[0]) == 1.0
    assert float(expected_value(q, 0.3)[0]) == pytest.approx(0.7 * 4 + 0.1 * 7)
    assert float(expected_value(q, 0.3, mask)[0]) == pytest.approx(0.7 * 2 + 0.15 * 3)


def test_dueling_is_value_plus_centred_advantage():
    q = ActionValues(2, dueling=True)(jnp.array([[10.0, 1.0, 3.0]]))
    np.testing.assert_allclose(q, [[9.0, 11.0]])


@pytest.mark.parametrize("masked", [False, True])
def test_exploring_actions_are_as_frequent_as_said_and_the_same_on_the_host(masked):
    values, outputs = ActionValues(3), jnp.tile(jnp.array([[0.0, 1.0, 3.0]]), (30_000, 1))
    mask = jnp.tile(jnp.array([[True, True, False]]), (30_000, 1)) if masked else None
    heads = (EpsilonGreedyHead(values, jnp.float32(0.4)), BoltzmannHead(values, jnp.float32(2.0)))
    for head in heads:
        noise = head.noise(jax.random.key(0), (30_000,))
        action = np.asarray(head.act(outputs, noise, mask))
        one_mask = None if mask is None else mask[:1]
        wanted = 30_000 * np.exp(np.asarray(head.distribution(outputs[:1], one_mask).log_probs)[0])
        counts = np.bincount(action, minlength=3)
        possible = wanted > 0
        assert counts[~possible].sum() == 0
        assert ((counts - wanted)[possible] ** 2 / wanted[possible]).sum() < 13.8  # χ², 2 degrees, 0.1 %
        host_mask = None if mask is None else np.asarray(mask)
        on_host = head.on_host()(np.asarray(outputs), np.asarray(noise), host_mask)
        assert (on_host == action).mean() > 0.9999  # running sums may be rounded differently
        best = head.on_host()(np.asarray(outputs[:1]), 0.0, None if mask is None else host_mask[:1])
        assert best == (1 if masked else 2)


def test_a_host_policy_is_the_compiled_one():
    inputs = Inputs.start(gymnasium.spaces.Discrete(3))
    head = EpsilonGreedyHead(ActionValues(2), jnp.float32(0.5))
    policy = StochasticPolicy(inputs, table(ONLINE), head)
    actor = policy.on_host()
    assert isinstance(actor, HostPolicy)
    observation, noise = np.array([0, 1, 2]), np.float32([0.1, 0.6, 0.9])
    np.testing.assert_array_equal(
        actor(observation, noise)[0], policy(jnp.asarray(observation), jnp.asarray(noise))[0]
    )


def test_epsilon_schedules():
    linear = DQN(epsilon=1.0, epsilon_final=0.1, epsilon_share=0.5)
    exponential = dataclasses.replace(linear, epsilon_schedule="exponential")
    constant = dataclasses.replace(linear, epsilon_schedule="constant")
    done = jnp.array([0.0, 0.25, 0.5, 0.9])
    np.testing.assert_allclose(epsilon_at(linear, done), [1.0, 0.55, 0.1, 0.1], rtol=1e-5)
    np.testing.assert_allclose(epsilon_at(exponential, done), [1.0, 0.1**0.5, 0.1, 0.1], rtol=1e-5)
    np.testing.assert_array_equal(epsilon_at(constant, done), 1.0)


@pytest.fixture(scope="module")
def steps():
    """States before and after each of eight iterations: learning starts with the second, two updates in each."""
    algorithm = DQN(**SMALL, target_every=3)
    one = jax.jit(lambda state: algorithm.step(PROBLEM, state))
    states = [algorithm.init(PROBLEM, jax.random.key(0))]
    metrics = []
    for _ in range(8):
        state, row = one(states[-1])
        states.append(state)
        metrics.append(row)
    return states, metrics


def same(one, other):
    return all(np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (one, other)), strict=True))


def test_learning_waits_until_enough_is_stored(steps):
    states, metrics = steps
    assert same(states[1].learned, states[0].learned)
    assert [int(s.learned.updates) for s in states] == [0, 0, 2, 4, 6, 8, 10, 12, 14]
    assert [int(s.replay.size) for s in states] == [0, 8, 16, 24, 32, 40, 48, 56, 64]
    assert float(metrics[0]["loss/value"]) == 0.0
    assert float(metrics[1]["loss/value"]) > 0.0


def test_the_target_network_is_a_copy_of_every_third_update(steps):
    targets = [s.learned.target for s in steps[0]]
    assert same(targets[2], targets[0])  # after 2 updates
    assert not same(targets[3], targets[2])  # after 4, of which the third copied
    # after 6, the sixth having copied: the target is the online network bit for bit
    assert same(targets[4], steps[0][4].learned.online)


def test_the_true_successor_and_terminated_are_stored(steps):
    """Episodes are cut after 7 steps: what is stored as the successor continues them, and is no fresh start."""
    replay = steps[0][8].replay
    stored = jax.tree.map(lambda x: np.asarray(x).reshape(32, 2, *x.shape[1:]), replay.stored)
    assert stored.truncated.any()
    assert not (stored.truncated & stored.terminated).any()
    following = np.abs(stored.observation[1:] - stored.next_observation[:-1]).max(axis=-1)
    ended = (stored.terminated | stored.truncated)[:-1]
    assert (following[~ended] == 0).all()
    assert (following[ended] > 0).all()


def problem_of(action_space=None, budget=10_000):
    return SimpleNamespace(
        observation_space=gymnasium.spaces.Box(-1, 1, (3,)),
        action_space=action_space or gymnasium.spaces.Discrete(2),
        budget=budget,
        time_limit=None,
        compiled=True,
    )


@pytest.mark.parametrize(
    "fields, problem, message",
    [
        ({}, problem_of(gymnasium.spaces.Box(-1, 1, (2,))), "the action space must be Discrete; it is Box"),
        ({"batch_size": 2000}, problem_of(), "batch_size is 2,000, and when learning starts 1,000"),
        ({"learning_start": 20_000}, problem_of(), "the run has 10,000 steps: learning would never start"),
        ({"replay_capacity": 500}, problem_of(), "the replay holds 496: learning would never start"),
        ({"train_every": 3}, problem_of(), "train_every is 3, which does not divide"),
        ({"replay_capacity": 8}, problem_of(), "at least environments × rollout_length = 16"),
        ({"epsilon_schedule": "exponential", "epsilon_final": 0.0}, problem_of(), "exponential decay"),
        ({"n_step": 0}, problem_of(), "n_step is 0; allowed: at least 1"),
        ({"target_rate": 1.5}, problem_of(), "target_rate is 1.5; allowed: from 0 to 1"),
    ],
)
def test_what_cannot_work_is_refused_before_any_step(fields, problem, message):
    with pytest.raises(BadInput, match=message):
        DQN(**fields).check(problem)


def test_every_state_leaf_is_an_array(steps):
    assert all(eqx.is_array(leaf) for leaf in jax.tree.leaves(steps[0][0]))
