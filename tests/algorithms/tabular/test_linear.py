"""Tile coding and the learners on it: against tables, against the forward view, and on continuous problems."""

import dataclasses

import gymnasium
import jax.numpy as jnp
import numpy as np
import pytest

import bellmark as bm
from bellmark.algorithms.tabular.linear import LinearQLearning, LinearSarsa, TrueOnlineTD
from bellmark.algorithms.tabular.problem import TableProblem
from bellmark.algorithms.tabular.q_learning import QLearning
from bellmark.algorithms.tabular.sarsa import Sarsa
from bellmark.algorithms.tabular.tile_coding import Tiling, active_tiles, find_tiles
from bellmark.envs.wrappers.discretise import StateIndex
from bellmark.errors import BadInput
from bellmark.mdp import examples

BOX = gymnasium.spaces.Box(np.array([0.0, -1.0], np.float32), np.array([1.0, 1.0], np.float32))


def test_tiles_are_displaced_by_odd_parts_and_the_kernel_agrees():
    tilings, tiles = 4, 3
    index = StateIndex.of(BOX, (tiles * tilings,))
    tiling = Tiling.of(index, tilings)
    cells = np.arange(index.size)
    found = active_tiles(tiling, tilings, cells)
    assert found.shape == (index.size, tilings)
    assert tiling.features(tilings) == tilings * 16 > found.max()
    active = np.zeros(tilings, np.int64)
    for cell in cells:
        find_tiles(tiling.cells, tiling.tiles, np.uint64(cell), active)
        assert active.tolist() == found[cell].tolist()
    assert np.array_equal(np.asarray(active_tiles(tiling, tilings, jnp.asarray(cells))), found)
    # worked by hand: cell (5, 7); tiling 1 is displaced by (1, 3), tiling 2 by (2, 6 mod 4), tiling 3 by (3, 9 mod 4)
    places = [(5 // 4, 7 // 4), (6 // 4, 10 // 4), (7 // 4, 9 // 4), (8 // 4, 8 // 4)]
    by_hand = [16 * i + 4 * x + y for i, (x, y) in enumerate(places)]
    assert found[5 * 12 + 7].tolist() == by_hand
    # one cell further exactly one tiling has changed, along either dimension: resolution is a T-th of a tile
    for stride in (1, 12):
        inside = cells[(cells % 12 < 11) & (cells // 12 < 11)]
        assert ((found[inside] != found[inside + stride]).sum(axis=1) == 1).all()


@pytest.mark.parametrize(("linear", "table"), [(LinearSarsa, Sarsa), (LinearQLearning, QLearning)])
def test_one_tiling_of_single_states_is_the_table_bit_for_bit(linear, table):
    problem = TableProblem.sampled(examples.frozen_lake(discount=0.9), 5000)
    fields = {"discount": 0.9, "step_size": 0.3, "epsilon": 0.3}
    one, other = linear(tilings=1, **fields), table(**fields)
    states = one.init(problem, 5), other.init(problem, 5)
    metrics = one.step(problem, states[0], 5000)[1], other.step(problem, states[1], 5000)[1]
    assert metrics[0] == metrics[1]
    assert metrics[0]["episode/count"] > 100
    assert np.array_equal(one.table(states[0]), other.table(states[1]))
    assert np.array_equal(one.behaviour(states[0]), other.behaviour(states[1]))


def forward_view(features, rewards, discount, trace_decay, step, terminated):
    """The online λ-return algorithm (van Seijen et al., 2016, section 3.2): at every step all over from the start.

    `features` [T + 1, F]; w at time h is what the interim λ-returns up to h, which bootstrap from the weights of their
    own past, lead to from w = 0.
    """
    length, size = len(rewards), features.shape[1]
    history = [np.zeros(size)]

    def value(k):
        return 0.0 if terminated and k == length else features[k] @ history[max(k - 1, 0)]

    for horizon in range(1, length + 1):
        weights = np.zeros(size)
        for t in range(horizon):
            total, discounted = 0.0, 0.0
            for n in range(1, horizon - t + 1):
                discounted += discount ** (n - 1) * rewards[t + n - 1]
                share = (
                    (1 - trace_decay) * trace_decay ** (n - 1) if t + n < horizon else trace_decay ** (n - 1)
                )
                total += share * (discounted + discount**n * value(t + n))
            weights = weights + step * (total - features[t] @ weights) * features[t]
        history.append(weights)
    return history[1:]


@pytest.mark.parametrize("terminated", [True, False])
def test_true_online_td_is_the_forward_view_step_by_step(terminated):
    rng = np.random.default_rng(1)
    problem = TableProblem.sampled(examples.random_walk(19, left=-1.0))
    learner = TrueOnlineTD(discount=0.9, trace_decay=0.8, step_size=0.4, tilings=4)
    tiling = Tiling.of(problem.index, 4)
    states, rewards = rng.integers(0, 19, 13), rng.normal(size=12)
    features = np.zeros((13, tiling.features(4)))
    np.put_along_axis(features, active_tiles(tiling, 4, states), 1.0, axis=1)
    expected = forward_view(features, rewards, 0.9, 0.8, 0.1, terminated)
    state = learner.init(problem, 0)
    # whatever an earlier episode left in the traces must not leak into this one
    learner.first_action(problem, state, 3)
    learner.observe(problem, state, 0.0, 4, False, False, np.zeros(4))
    assert not state.values.any()
    learner.first_action(problem, state, int(states[0]))
    for t in range(12):
        last = t == 11
        learner.observe(
            problem,
            state,
            rewards[t],
            int(states[t + 1]),
            last and terminated,
            last and not terminated,
            np.zeros(4),
        )
        np.testing.assert_allclose(state.values[:, 0], expected[t], rtol=1e-10, atol=1e-12)


def test_true_online_td_finds_the_values_of_the_walk():
    problem = TableProblem.sampled(examples.random_walk(19, left=-1.0), 400_000)
    learner = TrueOnlineTD(discount=1.0, trace_decay=0.8, step_size=0.01, tilings=1)
    state = learner.init(problem, 0)
    learner.step(problem, state, 400_000)
    assert np.abs(learner.table(state)[:, 0] - (np.arange(1, 20) - 10) / 10).max() < 0.08


@pytest.mark.parametrize("kind", [LinearSarsa, LinearQLearning])
def test_one_update_by_hand_and_only_termination_stops_the_bootstrap(kind):
    """w moves by α/T times the error in the T active tiles of the action taken, and nowhere else."""
    problem = TableProblem.stepped(BOX, gymnasium.spaces.Discrete(3), (12,))
    learner = kind(discount=0.5, step_size=0.2, tilings=4, tiles=(3,), epsilon=0.0, initial_value=2.0)
    tiles = active_tiles(Tiling.of(problem.index, 4), 4, np.array([67, 3]))
    for terminated, truncated, beyond in ((False, False, 2.0), (False, True, 2.0), (True, False, 0.0)):
        state = learner.init(problem, 0)
        action = learner.first_action(problem, state, 67)
        learner.observe(problem, state, 7.0, 3, terminated, truncated, np.zeros(4))
        error = 7.0 + 0.5 * beyond - 2.0
        expected = np.full(state.values.shape, 0.5)
        expected[tiles[0], action] += 0.2 / 4 * error
        np.testing.assert_allclose(state.values, expected, rtol=1e-12)


def played(learner, identifier, steps, seed):
    """Returns of the episodes that `learner` plays in `steps` steps, and its state, without the engine's overhead."""
    environment = gymnasium.make(identifier, disable_env_checker=True)
    problem = TableProblem.stepped(
        environment.observation_space, environment.action_space, learner.bins, steps
    )
    state, returns, tally = learner.init(problem, seed), [], np.zeros(4)
    observation, _ = environment.reset(seed=seed)
    action = learner.first_action(problem, state, int(problem.index(observation)))
    for _ in range(steps):
        observation, reward, terminated, truncated, _ = environment.step(action)
        cell = int(problem.index(observation))
        action = learner.observe(
            problem, state, float(reward), cell, terminated, truncated and not terminated, tally
        )
        if terminated or truncated:
            returns.append(tally[1] - sum(returns))
            observation, _ = environment.reset()
            action = learner.first_action(problem, state, int(problem.index(observation)))
    environment.close()
    return returns, problem, state


@pytest.mark.parametrize("seed", [0, 1])
def test_mountain_car_is_climbed(seed):
    """Random actions never arrive (−200). Optimism is exploration enough, as in the textbook's figure 10.2."""
    learner = LinearSarsa(discount=1.0, epsilon=0.0, step_size=0.5)
    returns, _, _ = played(learner, "MountainCar-v0", 16_000, seed)
    assert np.mean(returns[-20:]) > -180


@pytest.mark.parametrize("kind", [LinearSarsa, LinearQLearning])
def test_cart_pole_is_balanced(kind):
    """Random actions keep it up for about 22 steps; of seeds 100 to 111 one stays below 200, and the median is 480."""
    learner = kind(epsilon=0.1, epsilon_final=0.0, epsilon_schedule="linear")
    plays = [played(learner, "CartPole-v1", 25_000, seed) for seed in range(5)]
    assert np.median([np.mean(returns[-10:]) for returns, _, _ in plays]) > 400
    _, problem, state = plays[0]
    policy = learner.policy(state)
    observations = np.stack([problem.observation_space.sample() for _ in range(50)])
    observations[:, [1, 3]] = np.random.default_rng(0).normal(size=(50, 2))
    host = policy.on_host()
    assert host(observations, 0.0)[0].tolist() == policy.mode(jnp.asarray(observations)).tolist()
    assert len(set(host(observations, 0.0)[0].tolist())) == 2


@pytest.mark.parametrize("exploration", ["epsilon_greedy", "softmax"])
def test_drawn_actions_have_the_policys_probabilities(exploration):
    problem = TableProblem.sampled(examples.cliff_walking(), 3000)
    learner = LinearSarsa(exploration=exploration, epsilon=0.3, temperature=2.0, tilings=2)
    state = learner.init(problem, 0)
    learner.step(problem, state, 3000)
    policy, exact = learner.policy(state), learner.behaviour(state)
    assert state.values.any()
    for cell in (0, 1, 9):
        np.testing.assert_allclose(np.asarray(policy.probabilities(jnp.array(cell))), exact[cell], atol=2e-5)
        uniform = (np.arange(4000) + 0.5) / 4000
        for drawn in (policy, policy.on_host()):
            actions = np.asarray(drawn(np.full(4000, cell), uniform)[0])
            np.testing.assert_allclose(np.bincount(actions, minlength=4) / 4000, exact[cell], atol=1e-3)


def test_a_run_is_kept_evaluated_and_loaded(tmp_path):
    fields = {"epsilon_final": 0.0, "epsilon_schedule": "linear", "tilings": 4, "tiles": (6,)}
    run = bm.train(
        "linear_q_learning",
        "CartPole-v1",
        steps=600,
        directory=tmp_path / "run",
        progress=False,
        episodes=3,
        **fields,
    )
    assert run.evaluation.returns.shape == (1, 3)
    loaded, observation = bm.load(tmp_path / "run"), np.array([0.01, 0.3, -0.02, -0.4], np.float32)
    assert np.array_equal(np.asarray(loaded.module.weights), np.asarray(run.policy.module.weights))
    assert loaded(observation) == run.policy(observation)


def test_on_a_model_the_exact_gap_is_measured(tmp_path):
    run = bm.train(
        "linear_sarsa", examples.grid_world(), steps=40_000, discount=0.9, tilings=1, step_size=0.1,
        directory=tmp_path / "run", progress=False, episodes=3,
    )  # fmt: skip
    gap = run.metrics["gap/greedy"][:, 0]
    assert gap[-1] < 0.05 < gap[0]
    prediction = bm.train(
        "true_online_td", examples.random_walk(19, left=-1.0), steps=50_000, discount=1.0, tilings=1, step_size=0.02,
        directory=tmp_path / "other", progress=False, episodes=3,
    )  # fmt: skip
    assert prediction.metrics["error/rms"][-1, 0] < 0.1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"step_size": 0.0}, "step_size is 0.0; allowed"),
        ({"step_size": 1.5}, "step_size is 1.5; allowed"),
        ({"tilings": 0}, "tilings is 0; allowed: at least 1"),
        ({"tiles": ()}, r"tiles is \(\); allowed"),
        ({"tiles": (8, 8)}, "CartPole|components"),
        ({"tiles": (40,)}, "at most 100,000,000 are allowed"),
        ({"epsilon": 1.2}, "epsilon is 1.2; allowed: from 0 to 1"),
        ({"initial_value": float("nan")}, "initial_value is nan"),
    ],
)
def test_bad_hyperparameters_are_one_line(fields, message, tmp_path):
    with pytest.raises(BadInput, match=message):
        bm.train(
            "linear_sarsa", "CartPole-v1", steps=100, directory=tmp_path / "run", progress=False, **fields
        )
    assert not (tmp_path / "run").exists()


def test_continuous_actions_and_missing_actions_are_refused(tmp_path):
    with pytest.raises(BadInput, match="only Discrete ones are allowed"):
        bm.train("linear_sarsa", "Pendulum-v1", steps=100, directory=tmp_path / "run", progress=False)
    gambler = TableProblem.sampled(examples.gamblers_problem(10))
    with pytest.raises(BadInput, match="needs every action in every state"):
        LinearSarsa().init(gambler, 0)


def test_fields_are_the_configuration():
    assert {field.name for field in dataclasses.fields(TrueOnlineTD)} == {
        "discount", "trace_decay", "step_size", "tilings", "tiles", "initial_value", "gap",
    }  # fmt: skip
