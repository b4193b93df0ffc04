"""The parts of table learners against plain definitions: random numbers, sampling, exploration, step sizes, traces."""

import dataclasses

import numpy as np
import pytest

from bellmark.algorithms import algorithm_class
from bellmark.algorithms.tabular import exploration, sampling, step_sizes, traces
from bellmark.algorithms.tabular.generator import below, generator, uniform
from bellmark.algorithms.tabular.prediction import given_policy, running_sums
from bellmark.algorithms.tabular.problem import TableProblem
from bellmark.algorithms.tabular.settings import settings_of
from bellmark.errors import BadInput
from bellmark.mdp import FiniteMDP, examples

NOTHING = np.zeros((0, 0), bool)


def settings(**fields):
    return settings_of(algorithm_class("q_learning")(**fields), 1000, None)


def splitmix(counter, increment, count):
    """SplitMix64 in Python's own whole numbers."""
    mask, numbers = 2**64 - 1, []
    for _ in range(count):
        counter = (counter + increment) & mask
        z = ((counter ^ (counter >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        numbers.append(((z ^ (z >> 31)) >> 11) / 2**53)
    return numbers


def test_random_numbers_are_splitmix64():
    state = generator(3)
    expected = splitmix(int(state[0]), int(state[1]), 100)
    assert [uniform(state) for _ in range(100)] == expected


def test_splitmix64_published_values():
    # seed 1234567 and the golden increment: the reference implementation's first outputs
    first, second = splitmix(1234567, 0x9E3779B97F4A7C15, 2)
    assert first == (6457827717110365317 >> 11) / 2**53
    assert second == (3203168211198807973 >> 11) / 2**53


def test_seeds_have_odd_and_different_increments():
    states = np.array([generator(seed) for seed in range(200)])
    assert (states[:, 1] % 2 == 1).all()
    assert len(np.unique(states[:, 1])) == 200


def test_below_reaches_every_number_equally():
    state = generator(0)
    counts = np.bincount([below(state, 5) for _ in range(50_000)], minlength=5)
    assert len(counts) == 5
    assert np.abs(counts - 10_000).max() < 5 * np.sqrt(10_000)


@pytest.mark.parametrize("seed", range(5))
def test_alias_tables_hold_the_exact_probabilities(seed):
    """Each column's own and given-away shares add up to the model's probabilities: no sampling, no error."""
    rng = np.random.default_rng(seed)
    size = int(rng.integers(1, 9))
    probabilities = rng.dirichlet(np.full(size, 0.3), 6)
    probabilities[rng.random((6, size)) < 0.3] = 0.0
    probabilities[:, 0] += 1.0 - probabilities.sum(axis=1)
    mdp = FiniteMDP.from_arrays(
        rng.integers(0, 3, (3, 2, size)), probabilities.reshape(3, 2, size), np.zeros((3, 2))
    )
    tables = sampling.sampling_tables(mdp)
    for pair in range(6):
        begin, end = mdp.offsets[pair], mdp.offsets[pair + 1]
        count = end - begin
        shares = np.zeros(count)
        np.add.at(shares, np.arange(count), tables.threshold[begin:end] / count)
        np.add.at(shares, tables.alias[begin:end], (1 - tables.threshold[begin:end]) / count)
        np.testing.assert_allclose(shares, mdp.probabilities[begin:end], atol=1e-12)
        assert (shares[mdp.probabilities[begin:end] == 0] == 0).all()


def test_transitions_and_starts_are_drawn_with_their_probabilities():
    mdp = examples.grid_world(noise=0.2)
    problem = TableProblem.sampled(mdp)
    tables = problem.tables
    state = generator(1)
    starts = np.bincount(
        [int(sampling.draw_start(tables.start_threshold, tables.start_alias, state)) for _ in range(20_000)],
        minlength=mdp.num_states,
    )
    np.testing.assert_allclose(starts / 20_000, mdp.initial_distribution, atol=0.02)
    pair = np.uint64(1)
    drawn = [
        int(sampling.draw(tables.offsets, tables.branching, tables.threshold, tables.alias, pair, state))
        for _ in range(20_000)
    ]
    begin, end = mdp.offsets[1], mdp.offsets[2]
    shares = np.bincount(np.array(drawn) - begin, minlength=end - begin) / 20_000
    np.testing.assert_allclose(shares, mdp.probabilities[begin:end], atol=0.02)


Q = np.array([[1.0, 3.0, 3.0, 0.0], [2.0, 2.0, 2.0, 2.0]])
VISITS = np.array([[5, 2, 9, 4], [0, 3, 0, 1]], np.uint32)
MASK = np.array([[1, 1, 0, 1], [1, 1, 1, 1]], bool)


@pytest.mark.parametrize("available", [NOTHING, MASK], ids=["all", "masked"])
@pytest.mark.parametrize(
    "fields",
    [
        {"epsilon": 0.3},
        {"epsilon": 0.8, "epsilon_final": 0.2, "epsilon_schedule": "linear"},
        {"exploration": "softmax", "temperature": 0.7},
        {"exploration": "ucb", "confidence": 2.0},
    ],
    ids=lambda fields: "-".join(map(str, fields.values())),
)
def test_actions_are_drawn_with_the_probabilities_that_the_gap_is_computed_from(fields, available):
    given, count = settings(**fields), 20_000
    table = np.zeros(Q.shape)
    exploration.behaviour(given, Q, VISITS, available, np.zeros(2, bool), 500, table)
    np.testing.assert_allclose(table.sum(axis=1), 1.0)
    state = generator(0)
    for s in range(2):
        drawn = [
            int(exploration.choose(given, Q, VISITS, available, state, 500, np.uint64(s)))
            for _ in range(count)
        ]
        np.testing.assert_allclose(np.bincount(drawn, minlength=4) / count, table[s], atol=0.02)
        expected = exploration.expected(given, Q, VISITS, available, 500, np.uint64(s))
        assert expected == pytest.approx(table[s] @ Q[s])


def test_ties_are_broken_at_random_and_masked_actions_never_taken():
    state = generator(0)
    drawn = [int(exploration.greedy(Q, NOTHING, state, np.uint64(0))) for _ in range(4_000)]
    assert np.bincount(drawn, minlength=4)[[0, 3]].sum() == 0
    assert abs(np.mean(drawn) - 1.5) < 0.05
    assert {int(exploration.greedy(Q, MASK, state, np.uint64(0))) for _ in range(200)} == {1}


def test_upper_confidence_bounds_by_hand():
    given = settings(exploration="ucb", confidence=2.0)
    bound = exploration.bound(given, 1.5, 4, 20)
    assert bound == pytest.approx(1.5 + 2.0 * np.sqrt(np.log(20) / 4))
    table = np.zeros(Q.shape)
    exploration.behaviour(given, Q, VISITS, NOTHING, np.zeros(2, bool), 0, table)
    # in the second state the two untried actions share, whatever the values
    np.testing.assert_allclose(table[1], [0.5, 0.0, 0.5, 0.0])


def test_schedules_of_epsilon():
    linear = settings(epsilon=0.9, epsilon_final=0.1, epsilon_schedule="linear", epsilon_share=0.5)
    assert [exploration.epsilon_at(linear, t) for t in (0, 250, 500, 900)] == pytest.approx(
        [0.9, 0.5, 0.1, 0.1]
    )
    decay = settings(epsilon=0.8, epsilon_final=0.2, epsilon_schedule="exponential")
    assert [exploration.epsilon_at(decay, t) for t in (0, 500, 1000)] == pytest.approx([0.8, 0.4, 0.2])


def test_step_sizes():
    for fields, expected in {
        ("constant", 0.5): [0.5, 0.5, 0.5],
        ("harmonic", 0.5): [1.0, 0.5, 0.25],
        ("polynomial", 0.5): [1.0, 2**-0.5, 0.5],
    }.items():
        size = 0.5 if fields[0] == "constant" else 1.0
        given = settings(step_size=size, step_size_schedule=fields[0], step_size_power=0.5)
        assert [step_sizes.step_size(given, n) for n in (1, 2, 4)] == pytest.approx(expected)


def test_which_step_sizes_satisfy_robbins_and_monro():
    assert step_sizes.converges("harmonic", 0.0)
    assert step_sizes.converges("polynomial", 0.8)
    assert not step_sizes.converges("polynomial", 0.5)
    assert not step_sizes.converges("constant", 0.8)


@pytest.mark.parametrize("kind", ["accumulating", "replacing", "dutch"])
def test_traces_against_the_full_table(kind):
    """The list of traces that are not 0 against a plain sweep of everything."""
    rng = np.random.default_rng(0)
    given = settings_of(algorithm_class("sarsa_lambda")(traces=kind), 1, None)
    values, plain = np.zeros((6, 2)), np.zeros(12)
    full = np.zeros(12)
    trace, listed, count = traces.no_traces(12)
    for _ in range(200):
        entry, change = int(rng.integers(12)), float(rng.normal())
        decay = 0.0 if rng.random() < 0.1 else 0.7
        traces.mark(given, trace, listed, count, np.uint64(entry), 0.3)
        full[entry] = {"accumulating": full[entry] + 1, "replacing": 1.0, "dutch": 0.7 * full[entry] + 1}[
            kind
        ]
        traces.sweep(values, trace, listed, count, change, decay)
        plain += change * full
        full *= decay
        np.testing.assert_allclose(trace, full, atol=1e-11)
    np.testing.assert_allclose(values.ravel(), plain, atol=1e-9)


def test_one_step_of_q_learning_by_hand():
    mdp = FiniteMDP.from_arrays(
        [[[1]], [[1]]], [[[1.0]], [[1.0]]], [[2.0], [3.0]], initial_distribution=[1.0, 0.0]
    )
    learner = algorithm_class("q_learning")(discount=0.5, step_size=0.1, initial_value=4.0)
    problem = TableProblem.sampled(mdp)
    state, metrics = learner.step(problem, learner.init(problem, 0), 1)
    # 4 + 0.1 (2 + 0.5 · 4 − 4)
    assert state.values.ravel() == pytest.approx([4.0, 4.0])
    learner.step(problem, state, 1)
    # 4 + 0.1 (3 + 0.5 · 4 − 4)
    assert state.values.ravel() == pytest.approx([4.0, 4.1])
    assert metrics["episode/count"] == 0


def test_n_step_returns_at_an_end_and_at_a_time_limit():
    """Three states in a row, rewards 1, 2, 4: with α = 1 the table is the n-step return itself."""
    mdp = FiniteMDP.from_arrays(
        [[[1]], [[2]], [[0]]],
        np.ones((3, 1, 1)),
        [[1.0], [2.0], [4.0]],
        terminations=[[[False]], [[False]], [[True]]],
        initial_distribution=[1.0, 0.0, 0.0],
    )
    learner = algorithm_class("n_step_sarsa")(discount=0.5, step_size=1.0, n=2, initial_value=8.0)
    problem = TableProblem.sampled(mdp)
    state, _ = learner.step(problem, learner.init(problem, 0), 3)
    # 1 + ½·2 + ¼·8,   2 + ½·4,   4
    assert state.values.ravel() == pytest.approx([4.0, 4.0, 4.0])
    cut = dataclasses.replace(problem, time_limit=1)
    state, _ = learner.step(cut, learner.init(cut, 0), 1)
    # cut after one step: 1 + ½·8
    assert state.values.ravel() == pytest.approx([5.0, 8.0, 8.0])


def test_monte_carlo_first_and_every_visit_by_hand():
    """A state that is visited twice before the end: rewards 1, then 3."""
    mdp = FiniteMDP.from_arrays([[[0, 0]]], [[[0.5, 0.5]]], [[[1.0, 3.0]]], terminations=[[[False, True]]])
    found = {}
    for visit in ("first", "every"):
        learner = algorithm_class("monte_carlo_prediction")(discount=1.0, visit=visit)
        problem = TableProblem.sampled(mdp)
        state = learner.init(problem, 4)
        lengths = []
        while len(lengths) < 3:
            _, metrics = learner.step(problem, state, 1)
            if metrics["episode/count"]:
                lengths.append(int(metrics["episode/length"]))
        returns = [[3.0 + k for k in range(length)] for length in lengths]
        every = np.concatenate(returns)
        expected = np.mean([max(r) for r in returns]) if visit == "first" else every.mean()
        assert state.values[0, 0] == pytest.approx(expected)
        found[visit] = lengths
    assert max(found["first"]) > 1


def test_policies_that_predictors_are_given():
    problem = TableProblem.sampled(examples.grid_world(noise=0.2))
    uniform_policy = given_policy("uniform", (), 0.0, problem)
    np.testing.assert_allclose(uniform_policy.sum(axis=1), 1.0)
    mixed = given_policy("uniform", (2,) * problem.num_states, 0.4, problem)
    np.testing.assert_allclose(mixed[0], [0.1, 0.1, 0.7, 0.1])
    assert running_sums(mixed)[0].tolist() == pytest.approx([0.1, 0.2, 0.9, 2.0])
    with pytest.raises(BadInput, match="'optimal', but the model is not known"):
        given_policy("optimal", (), 0.0, problem)
    with pytest.raises(BadInput, match="actions are 3 numbers from 0 to 9; allowed: one for each of the 11"):
        given_policy("uniform", (0, 9, 1), 0.0, problem)
