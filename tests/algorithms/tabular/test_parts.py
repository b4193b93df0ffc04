"""The parts of table learners against plain definitions: random numbers, sampling, exploration, step sizes, traces."""

import dataclasses

import numpy as np
import pytest

from bellmark.algorithms import algorithm_class
from bellmark.algorithms.tabular import exploration, sampling, step_sizes, traces
from bellmark.algorithms.tabular.generator import below, generator, uniform
from bellmark.algorithms.tabular.plain import is_plain
from bellmark.algorithms.tabular.prediction import given_policy, running_sums
from bellmark.algorithms.tabular.problem import TableProblem
from bellmark.algorithms.tabular.settings import settings_of
from bellmark.errors import BadInput
from bellmark.mdp import FiniteMDP, examples

NOTHING = np.zeros((0, 0), bool)


def settings(**fields):
    return settings_of(algorithm_class("q_learning")(**fields), 1000, None)


def hashed_counters(counter, increment, count):
    """The generator in Python's own whole numbers."""
    mask, numbers = 2**64 - 1, []
    for _ in range(count):
        counter = (counter + increment) & mask
        product = counter * (counter ^ 0x8BB84B93962EACC9)
        numbers.append((((product >> 64) ^ product) & mask) >> 11)
    return [number / 2**53 for number in numbers]


def test_random_numbers_are_hashed_counters():
    state = generator(3)
    expected = hashed_counters(int(state[0]), int(state[1]), 100)
    assert [uniform(state) for _ in range(100)] == expected


@pytest.mark.parametrize("seed", range(3))
def test_random_numbers_are_uniform_and_do_not_know_each_other(seed):
    """χ² of single numbers, their lowest bits, neighbouring pairs and pairs of two seeds; no correlation."""
    state, other = generator(seed), generator(seed + 1)
    u = np.array([uniform(state) for _ in range(200_000)])
    v = np.array([uniform(other) for _ in range(200_000)])
    low = (u * 2**53).astype(np.int64) & 255
    for cells in (
        (u * 256).astype(int),
        low,
        (u[:-1] * 16).astype(int) * 16 + (u[1:] * 16).astype(int),
        (u * 16).astype(int) * 16 + (v * 16).astype(int),
    ):
        counts = np.bincount(cells, minlength=256)
        expected = len(cells) / 256
        # 255 degrees of freedom: mean 255, standard deviation 22.6
        assert abs(((counts - expected) ** 2 / expected).sum() - 255) < 5 * 22.6
    for lag in (1, 2, 3):
        assert abs(np.corrcoef(u[:-lag], u[lag:])[0, 1]) < 5 / np.sqrt(len(u))


def test_seeds_have_odd_and_different_increments():
    states = np.array([generator(seed) for seed in range(200)])
    assert (states[:, 1] % 2 == 1).all()
    assert len(np.unique(states[:, 1])) == 200


def test_below_reaches_every_number_equally():
    state = generator(0)
    counts = np.bincount([below(state, 5) for _ in range(50_000)], minlength=5)
    assert len(counts) == 5
    assert np.abs(counts - 10_000).max() < 5 * np.sqrt(10_000)


def held(columns, codes, begin, end):
    """What a row of columns holds: its share of the row, by (reward, code)."""
    shares = {}
    for place in range(begin, end):
        threshold, *rewards = columns[4 * place : 4 * place + 3]
        for share, reward, code in zip(
            (threshold, 1 - threshold), rewards, codes[8 * place + 6 : 8 * place + 8], strict=True
        ):
            key = float(reward), int(code)
            shares[key] = shares.get(key, 0.0) + share / (end - begin)
    return {key: share for key, share in shares.items() if share > 0}


@pytest.mark.parametrize("even", [True, False], ids=["padded", "ragged"])
@pytest.mark.parametrize("seed", range(4))
def test_columns_hold_the_exact_probabilities(seed, even, monkeypatch):
    """Own and given-away shares add up to the model's probabilities: no sampling, no error."""
    if not even:
        monkeypatch.setattr(sampling, "SMALL", 0)
        monkeypatch.setattr(sampling, "MOST_PADDING", 0)
    rng = np.random.default_rng(seed)

    def transitions(s, a):
        size = int(rng.integers(1, 9))
        shares = rng.dirichlet(np.full(size, 0.3))
        return [
            (share, int(rng.integers(3)), float(k), bool(rng.random() < 0.3))
            for k, share in enumerate(shares)
        ]

    mdp = FiniteMDP.from_function([0, 1, 2], lambda s: range(2), transitions)
    tables = sampling.sampling_tables(mdp)
    assert (tables.branching > 0) == even
    for pair in range(6):
        begin, end = mdp.offsets[pair], mdp.offsets[pair + 1]
        expected = {}
        for place in range(begin, end):
            ended = mdp.terminations is not None and mdp.terminations[place]
            code = -1 - mdp.successors[place] if ended else mdp.successors[place]
            reward = (
                mdp.rewards.reshape(-1)[pair]
                if mdp.transition_rewards is None
                else mdp.transition_rewards[place]
            )
            key = float(reward), int(code)
            expected[key] = expected.get(key, 0.0) + mdp.probabilities[place]
        found = held(tables.columns, tables.codes, tables.offsets[pair], tables.offsets[pair + 1])
        assert found == pytest.approx({k: v for k, v in expected.items() if v > 0}, abs=1e-12)


def test_transitions_and_starts_are_drawn_with_their_probabilities():
    mdp = examples.grid_world(noise=0.2)
    mdp = dataclasses.replace(
        mdp, initial_distribution=np.eye(mdp.num_states)[0] * 0.7 + 0.3 / mdp.num_states
    )
    tables = TableProblem.sampled(mdp).tables
    state = generator(1)
    starts = np.bincount(
        [int(sampling.draw_start(tables.starts, tables.start_codes, state)) for _ in range(20_000)],
        minlength=mdp.num_states,
    )
    np.testing.assert_allclose(starts / 20_000, mdp.initial_distribution, atol=0.02)
    drawn = [int(sampling.draw(*tables[:4], np.uint64(1), state)[1]) for _ in range(20_000)]
    begin, end = mdp.offsets[1], mdp.offsets[2]
    for place in range(begin, end):
        successor = mdp.successors[place]
        share = np.mean([code in (successor, -1 - successor) for code in drawn])
        assert share == pytest.approx(
            mdp.probabilities[begin:end][mdp.successors[begin:end] == successor].sum(), abs=0.02
        )


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
        state = learner.init(problem, 6)
        lengths = []
        while len(lengths) < 8:
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


@pytest.mark.parametrize("model", ["grid_world", "crawler", "river_swim", "taxi"])
def test_two_seeds_in_one_thread_are_what_each_is_alone(model):
    """Bit for bit, however their steps are cut, whoever stands beside whom."""
    problem = TableProblem.sampled(getattr(examples, model)(), 10_000, time_limit=50)
    learner = algorithm_class("q_learning")(step_size_schedule="polynomial", epsilon_schedule="linear")
    alone = [learner.init(problem, seed) for seed in range(3)]
    metrics = [learner.step(problem, state, 5_000)[1] for state in alone]
    for first, second in ((0, 1), (2, 0)):
        states = [learner.init(problem, seed) for seed in (first, second)]
        learner.step_two(problem, states, 5_000)
        whole = [learner.init(problem, seed) for seed in (first, second)]
        for steps in (1, 1_999, 3_000):
            learner.step_two(problem, whole, steps)
        for seed, *found in zip((first, second), states, whole, strict=True):
            for state in found:
                for name in ("values", "visits", "place", "running", "generator"):
                    assert np.array_equal(getattr(state, name), getattr(alone[seed], name))
    pair = learner.step_two(problem, [learner.init(problem, seed) for seed in (1, 2)], 5_000)
    assert pair == metrics[1:]
    assert not np.array_equal(alone[0].values, alone[1].values)


@pytest.mark.parametrize("time_limit", [None, 1, 17])
@pytest.mark.parametrize("model", ["grid_world", "cliff_walking", "river_swim", "garnet"])
def test_the_plain_loops_are_the_loop_bit_for_bit(model, time_limit):
    """The loops compiled for constant schedules: what is drawn and added, also where an episode is cut short."""
    problem = TableProblem.sampled(getattr(examples, model)(), 10_000, time_limit)
    for epsilon in (0.0, 0.1, 1.0):
        learner = algorithm_class("q_learning")(epsilon=epsilon)
        chosen = learner.settings(problem)
        assert is_plain(chosen, problem)
        expected = [learner.init(problem, seed) for seed in (1, 2)]
        for state in expected:
            arrays = (state.place, state.running, state.generator, np.zeros(4))
            type(learner).loop(
                chosen, problem.tables, state.values, state.visits, NOTHING, *arrays, 3_000, state.memory
            )
        alone, pair = learner.init(problem, 1), [learner.init(problem, seed) for seed in (1, 2)]
        for steps in (1, 999, 2_000):
            learner.step(problem, alone, steps)
            learner.step_two(problem, pair, steps)
        for found, state in ((alone, expected[0]), (pair[0], expected[0]), (pair[1], expected[1])):
            for name in ("values", "visits", "place", "running", "generator"):
                assert np.array_equal(getattr(found, name), getattr(state, name))


def test_which_problems_have_plain_loops():
    grid = TableProblem.sampled(examples.grid_world())
    assert is_plain(settings(), grid)
    assert not is_plain(settings(step_size_schedule="harmonic"), grid)
    assert not is_plain(settings(epsilon_schedule="linear"), grid)
    assert not is_plain(settings(exploration="softmax"), grid)
    assert not is_plain(settings(), TableProblem.sampled(examples.taxi()))
    assert not is_plain(settings(), TableProblem.sampled(examples.two_states()))
