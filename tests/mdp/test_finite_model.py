"""The finite model: every builder makes the same model, nothing is copied needlessly, and every mistake is named."""

import contextlib
import io
import json
import struct
import subprocess
import sys

import gymnasium
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse

from bellmark.errors import BadInput, CorruptFile
from bellmark.mdp import FiniteMDP, examples
from bellmark.mdp.validation import row_sums

FIELDS = ("successors", "probabilities", "offsets", "rewards", "available", "initial_distribution")
OPTIONAL = ("transition_rewards", "terminations", "counts")


def random_arrays(seed, states=6, actions=3, branching=4):
    generator = np.random.default_rng(seed)
    successors = np.array(
        [[generator.choice(states, branching, replace=False) for _ in range(actions)] for _ in range(states)],
        np.int32,
    )
    probabilities = generator.dirichlet(np.ones(branching), (states, actions))
    return successors, probabilities, generator.standard_normal((states, actions)), generator


def as_dense(mdp):
    """p(s' | s, a) as [S, A, S]."""
    table = np.zeros((mdp.num_states * mdp.num_actions, mdp.num_states))
    for pair in range(len(table)):
        for i in range(mdp.offsets[pair], mdp.offsets[pair + 1]):
            table[pair, mdp.successors[i]] += mdp.probabilities[i]
    return table.reshape(mdp.num_states, mdp.num_actions, mdp.num_states)


def same(one, other):
    for name in (*FIELDS, *OPTIONAL):
        a, b = getattr(one, name), getattr(other, name)
        assert (a is None) == (b is None), name
        if a is not None:
            assert a.dtype == b.dtype
            assert_array_equal(a, b, err_msg=name)
    assert list(one.states) == list(other.states)
    assert list(one.actions) == list(other.actions)
    assert (one.name, one.discount) == (other.name, other.discount)


# ----------------------------------------------------------------------------------------------------- builders


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 7), st.integers(1, 4))
def test_arrays_tables_matrices_and_functions_make_the_same_model(seed, states, actions):
    successors, probabilities, rewards, _ = random_arrays(seed, states, actions, min(states, 3))
    model = FiniteMDP.from_arrays(successors, probabilities, rewards)
    table = as_dense(model)
    dense = FiniteMDP.from_dense(table, rewards)
    matrix = sparse.csr_matrix(table.reshape(states * actions, states))
    by_function = FiniteMDP.from_function(
        range(states),
        lambda s: range(actions),
        lambda s, a: [(p, t, rewards[s, a], False) for t, p in enumerate(table[s, a]) if p > 0],
    )
    for other in (dense, FiniteMDP.from_sparse(matrix, rewards), by_function):
        assert_allclose(as_dense(other), table, rtol=1e-15)
        assert_allclose(other.rewards, rewards, rtol=1e-15)
        assert other.available.all()
        assert_allclose(other.initial_distribution, 1 / states)
    assert model.branching == min(states, 3)


def test_inputs_of_the_right_type_are_not_copied():
    successors, probabilities, rewards, _ = random_arrays(0)
    model = FiniteMDP.from_arrays(successors, probabilities, rewards)
    for name, array in (("successors", successors), ("probabilities", probabilities), ("rewards", rewards)):
        assert np.shares_memory(getattr(model, name), array)
    assert model.continuation is model.probabilities
    matrix = sparse.csr_matrix(np.eye(4)[[0, 1, 2, 3, 3, 2, 1, 0]])
    assert matrix.indices.dtype == np.int32
    model = FiniteMDP.from_sparse(matrix, np.zeros((4, 2)))
    assert np.shares_memory(model.successors, matrix.indices)
    assert np.shares_memory(model.probabilities, matrix.data)
    assert model.nbytes < matrix.data.nbytes + matrix.indices.nbytes + 300


def test_rewards_of_successors_become_expectations_and_are_kept():
    successors, probabilities, _, generator = random_arrays(1)
    by_transition = generator.standard_normal(successors.shape)
    model = FiniteMDP.from_arrays(successors, probabilities, by_transition)
    assert_allclose(model.rewards, (probabilities * by_transition).sum(axis=2), rtol=1e-13)
    assert_array_equal(model.transition_rewards, by_transition.reshape(-1))
    table = np.zeros((6, 3, 6))
    paid = np.zeros((6, 3, 6))
    np.put_along_axis(table, successors.astype(int), probabilities, axis=2)
    np.put_along_axis(paid, successors.astype(int), by_transition, axis=2)
    assert_allclose(FiniteMDP.from_dense(table, paid).rewards, model.rewards, rtol=1e-13)
    # Rewards that turn out not to depend on the successor need no array of their own, and lose not one bit.
    constant = np.broadcast_to(generator.standard_normal((6, 3, 1)), successors.shape)
    model = FiniteMDP.from_arrays(successors, probabilities, constant)
    assert model.transition_rewards is None
    assert_array_equal(model.rewards, constant[..., 0])


def test_single_precision_rows_are_normalised():
    successors, probabilities, rewards, _ = random_arrays(2)
    single = probabilities.astype(np.float32)
    assert np.abs(single.astype(float).sum(axis=2) - 1).max() > 1e-9
    model = FiniteMDP.from_arrays(successors, single, rewards)
    assert np.abs(row_sums(model.probabilities, model.offsets) - 1).max() < 1e-15
    with pytest.raises(BadInput, match="miss 1"):
        FiniteMDP.from_arrays(successors, single * np.float32(1.001), rewards)


def test_unavailable_actions_and_terminal_states():
    successors, probabilities, rewards, _ = random_arrays(3)
    available = np.ones((6, 3), bool)
    available[2], available[4, 1] = False, False
    model = FiniteMDP.from_arrays(successors, probabilities, rewards, available=available)
    assert model.terminal.tolist() == [False, False, True, False, False, False]
    assert (model.rewards[~available] == 0).all()
    assert (model.probabilities.reshape(6, 3, 4)[~available] == 0).all()
    assert_allclose(model.initial_distribution, [0.2, 0.2, 0, 0.2, 0.2, 0.2])
    assert probabilities[2].all(), "the caller's array was written to"
    empty = sparse.csr_matrix(np.array([[0, 1.0], [0, 0]]))
    model = FiniteMDP.from_sparse(empty, [[1.0], [0.0]], available=[[True], [False]])
    assert model.terminal.tolist() == [False, True]
    assert model.branching is None


def test_terminations_cut_the_continuation_only():
    model = FiniteMDP.from_arrays(
        [[[0, 1]], [[1, 1]]],
        [[[0.25, 0.75]], [[1, 0]]],
        np.ones((2, 1)),
        terminations=np.array([[[False, True]], [[False, False]]]),
    )
    assert model.continuation.tolist() == [0.25, 0, 1, 0]
    assert model.probabilities.tolist() == [0.25, 0.75, 1, 0]
    assert model.transitions(0, 0) == [(0.25, 0, 1.0, False), (0.75, 1, 1.0, True)]
    never = FiniteMDP.from_arrays([[[0]]], [[[1.0]]], [[0.0]], terminations=np.zeros((1, 1, 1), bool))
    assert never.terminations is None


@pytest.mark.parametrize("identifier", ["FrozenLake-v1", "CliffWalking-v1", "Taxi-v4"])
def test_gymnasium_tables_are_taken_entry_by_entry(identifier):
    with gymnasium.make(identifier) as environment:
        model = FiniteMDP.from_gymnasium(environment)
        table = environment.unwrapped.P
    assert model.name == identifier
    for state in range(model.num_states):
        for action in range(model.num_actions):
            expected = [(float(p), int(t), float(r), bool(done)) for p, t, r, done in table[state][action]]
            assert [(p, t, r, done) for p, t, r, done in model.transitions(state, action)] == expected
    assert (model.layout is None) == (identifier == "Taxi-v4")


def test_an_environment_without_a_table_is_refused_in_words():
    with (
        gymnasium.make("CartPole-v1") as environment,
        pytest.raises(BadInput, match="CartPole-v1 publishes no"),
    ):
        FiniteMDP.from_gymnasium(environment)


# ---------------------------------------------------------------------------------------------------- functions


def ladder_actions(state):
    return () if state == "top" else ("climb",) if state == "ground" else ("climb", "jump")


def ladder(state, action):
    if action == "jump":
        return [(1.0, "ground", -1.0, False)]
    following = {"ground": (1, "left"), (1, "left"): (2, "right"), (2, "right"): "top"}[state]
    return [(0.5, following, 1.0, False), (0.25, state, 0.0, False), (0.25, state, 0.0, False)]


def test_functions_are_explored():
    model = FiniteMDP.from_function(["ground"], ladder_actions, ladder, name="ladder", discount=0.5)
    assert model.states == ["ground", (1, "left"), (2, "right"), "top"]
    assert model.actions == ["climb", "jump"]
    assert model.available.tolist() == [[True, False], [True, True], [True, True], [False, False]]
    assert model.initial_distribution.tolist() == [1, 0, 0, 0]
    assert model.index((2, "right")) == 2
    # Equal outcomes are merged; the reward is the expectation, with the two rewards kept apart.
    assert model.transitions(0, 0) == [(0.5, 1, 1.0, False), (0.5, 0, 0.0, False)]
    assert model.rewards[:, 0].tolist() == [0.5, 0.5, 0.5, 0.0]
    assert "4 states, 2 actions" in repr(model)


def test_states_entered_only_by_termination_are_not_explored():
    def transitions(state, action):
        assert state != "over"
        return [(0.5, "over", 1.0, True), (0.5, state + 1, 0.0, state == 2)]

    model = FiniteMDP.from_function({0: 0.25, 1: 0.75}, lambda state: ["go"], transitions)
    assert model.states == [0, 1, "over", 2, 3]
    assert model.terminal.tolist() == [False, False, True, False, True]
    assert model.initial_distribution.tolist() == [0.25, 0.75, 0, 0, 0]
    assert model.continuation.sum() == 1.0


@pytest.mark.parametrize(
    "arguments, says",
    [
        (([], lambda s: "a", lambda s, a: []), "initial_states is empty"),
        ((3, lambda s: "a", lambda s, a: []), "initial_states must be iterable, got int"),
        (([[]], lambda s: "a", lambda s, a: []), "states must be hashable"),
        (([0], lambda s: [], lambda s, a: []), "no state that can be reached has an action"),
        (([0], lambda s: None, lambda s, a: []), r"actions\(0\) must be iterable, got NoneType"),
        (([0], lambda s: [[]], lambda s, a: [(1, 0, 0, False)]), "actions must be hashable"),
        (([0], lambda s: "aa", lambda s, a: [(1, 0, 0, False)]), "yields 'a' twice"),
        (([0], lambda s: "a", lambda s, a: None), r"transitions\(0, 'a'\) must be iterable"),
        (([0], lambda s: "a", lambda s, a: []), "state 0, action 'a' sum to 0 and miss 1 by -1"),
        (([0], lambda s: "a", lambda s, a: [(0.5, 0, 0, False)]), "sum to 0.5 and miss 1 by -0.5"),
        (([0], lambda s: "a", lambda s, a: [(1, 0)]), r"yields \(1, 0\); each outcome is"),
        (([0], lambda s: "a", lambda s, a: ["oops"]), "each outcome is"),
        (([0], lambda s: "a", lambda s, a: [(-0.5, 0, 0, False)]), "probability -0.5; it must lie in"),
        (([0], lambda s: "a", lambda s, a: [(float("nan"), 0, 0, False)]), "probability nan"),
        (
            ([0], lambda s: "a", lambda s, a: [(1, 0, float("inf"), False)]),
            "reward inf; rewards must be finite",
        ),
        (([0], lambda s: "a", lambda s, a: [(1, [], 0, False)]), r"states must be hashable, got \[\]"),
    ],
)
def test_functions_that_yield_nonsense(arguments, says):
    with pytest.raises(BadInput, match=says):
        FiniteMDP.from_function(*arguments)


def test_too_many_states_are_refused_early():
    with pytest.raises(BadInput, match=r"more than 1,000 states can be reached \(the next is 1000\)"):
        FiniteMDP.from_function([0], lambda s: "a", lambda s, a: [(1.0, s + 1, 0.0, False)], limit=1000)


def test_progress_is_shown_when_asked(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    FiniteMDP.from_function(
        [0], lambda s: "a" if s < 50 else "", lambda s, a: [(1, s + 1, 0, False)], progress=True
    )
    assert "states found" in sys.stderr.getvalue()
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    FiniteMDP.from_function([0], lambda s: "a" if s < 50 else "", lambda s, a: [(1, s + 1, 0, False)])
    assert sys.stderr.getvalue() == ""


# ----------------------------------------------------------------------------------------------------- logged data

LOGGED = [
    ("a", "x", 1.0, "b", False),
    ("a", "x", 3.0, "b", False),
    ("a", "x", 0.0, "a", False),
    ("a", "x", 5.0, "b", True),
    ("b", "y", -1.0, "c", True),
]


def test_logged_transitions_by_hand():
    model = FiniteMDP.from_transitions(LOGGED, initial_distribution={"a": 1.0})
    assert model.states == ["a", "b", "c"]
    assert model.actions == ["x", "y"]
    assert model.transitions(0, 0) == [(0.25, 0, 0.0, False), (0.5, 1, 2.0, False), (0.25, 1, 5.0, True)]
    assert model.transitions(1, 1) == [(1.0, 2, -1.0, True)]
    assert model.counts.tolist() == [1, 2, 1, 1]
    assert model.rewards.tolist() == [[2.25, 0], [0, -1.0], [0, 0]]
    assert model.available.tolist() == [[True, False], [False, True], [False, False]]
    assert model.initial_distribution.tolist() == [1, 0, 0]
    columns = dict(
        zip(("state", "action", "reward", "next_state", "terminated"), zip(*LOGGED, strict=True), strict=True)
    )
    same(FiniteMDP.from_transitions(columns, initial_distribution={"a": 1.0}), model)
    arrays = {name: np.array(column) for name, column in columns.items()}
    same(FiniteMDP.from_transitions(arrays, initial_distribution={"a": 1.0}), model)
    tuples = [((state,), action, *rest[:1], (rest[1],), rest[2]) for state, action, *rest in LOGGED]
    assert FiniteMDP.from_transitions(tuples).states == [("a",), ("b",), ("c",)]
    mixed = [(1, "x", 0.0, "one", True)]
    assert FiniteMDP.from_transitions(mixed).states == [1, "one"]


def test_logged_transitions_recover_the_model_that_made_them():
    truth = examples.garnet(states=8, actions=2, branching=3, seed=4)
    generator = np.random.default_rng(0)
    n = 400_000
    pairs = generator.integers(0, 16, n)
    drawn = (generator.random(n)[:, None] > truth.probabilities.reshape(16, 3).cumsum(axis=1)[pairs]).sum(
        axis=1
    )
    successors = truth.successors.reshape(16, 3)[pairs, drawn]
    model = FiniteMDP.from_transitions(
        {
            "state": pairs // 2,
            "action": pairs % 2,
            "reward": truth.rewards.reshape(-1)[pairs],
            "next_state": successors,
            "terminated": np.zeros(n, bool),
        },
        states=range(8),
    )
    assert model.counts.sum() == n
    assert isinstance(model.states, range)
    assert_allclose(as_dense(model), as_dense(truth), atol=5 * 0.5 / (n / 16) ** 0.5)
    assert_allclose(model.rewards, truth.rewards, rtol=1e-12)


@pytest.mark.parametrize(
    "logged, options, says",
    [
        ([], {}, "no logged transitions"),
        ([("a", "x", 1.0)], {}, r"logged transition 0 is \('a', 'x', 1.0\)"),
        ({"state": [1]}, {}, r"lack \['action', 'reward'"),
        (
            {"state": [1], "action": [1], "reward": [], "next_state": [1], "terminated": [0]},
            {},
            "different lengths",
        ),
        ([("a", "x", np.nan, "b", False)], {}, "logged transition 0 has reward nan"),
        (LOGGED, {"states": ["a", "b"]}, "a logged next_state is 'c', which is not among"),
        (LOGGED, {"initial_distribution": {"z": 1.0}}, "names 'z'"),
        ([([], "x", 1.0, "b", False)], {}, "states must be hashable"),
    ],
)
def test_bad_logs_are_named(logged, options, says):
    with pytest.raises(BadInput, match=says):
        FiniteMDP.from_transitions(logged, **options)


# ---------------------------------------------------------------------------------------------------- validation


def spoilt(**changes):
    successors, probabilities, rewards, _ = random_arrays(5)
    for name, (index, value) in changes.items():
        locals()[name][index] = value
    names = {"states": list("uvwxyz"), "actions": ["stay", "left", "right"]}
    return lambda: FiniteMDP.from_arrays(successors, probabilities, rewards, **names)


@pytest.mark.parametrize(
    "make, says",
    [
        (spoilt(probabilities=((3, 1, 2), -0.1)), "state 'x', action 'left' has probability -0.1"),
        (spoilt(probabilities=((3, 1, 2), np.nan)), "state 'x', action 'left' has probability nan"),
        (
            spoilt(probabilities=((5, 2), 0.3)),
            r"state 'z', action 'right' sum to 1.2 and miss 1 by \+0.2; at most 1e-09",
        ),
        (spoilt(probabilities=((0, 0), 0.0)), "state 'u', action 'stay' sum to 0 .* say so with `available`"),
        (spoilt(probabilities=((0, 0), [1 + 1e-6, 0, 0, 0])), r"miss 1 by \+1e-06"),
        (spoilt(probabilities=(..., 0.3)), r"\(18 rows in all\)"),
        (
            spoilt(successors=((2, 0, 3), 6)),
            "state 'w', action 'stay' leads to state index 6; indices run from 0 to 5",
        ),
        (spoilt(successors=((2, 0, 3), -1)), "leads to state index -1"),
        (spoilt(rewards=((1, 2), np.inf)), "state 'v', action 'right' has reward inf"),
        (spoilt(rewards=((1, 2), np.nan)), "state 'v', action 'right' has reward nan"),
    ],
)
def test_the_offending_state_and_action_are_named(make, says):
    with pytest.raises(BadInput, match=says):
        make()


def arrays(**options):
    def make():
        return FiniteMDP.from_arrays(
            [[[0, 1]], [[1, 0]]], [[[0.5, 0.5]], [[1.0, 0.0]]], np.zeros((2, 1)), **options
        )

    return make


@pytest.mark.parametrize(
    "make, says",
    [
        (arrays(initial_distribution=[0.5, 0.6]), "initial distribution sums to 1.1 and misses 1 by"),
        (arrays(initial_distribution=[-0.5, 1.5]), "state 0 begins with probability -0.5"),
        (arrays(initial_distribution=[1.0]), r"initial_distribution must have shape \[2\], got \[1\]"),
        (arrays(states=["a"]), "1 state names were given for 2 states"),
        (arrays(states=["a", "a"]), "two states are both called 'a'"),
        (arrays(states=[[], []]), "state names must be hashable"),
        (arrays(actions=["a", "b"]), "2 action names were given for 1 actions"),
        (arrays(discount=1.5), r"discount is 1.5; it must lie in \[0, 1\]"),
        (arrays(available=[[True, False]]), r"available must be bool \[2, 1\]"),
        (arrays(available=[[1], [0]]), "available must be bool"),
        (arrays(terminations=[[True]]), r"terminations must be bool \[2, 1, 2\]"),
        (lambda: FiniteMDP.from_arrays([[0]], [[1.0]], [0.0]), "successors must have shape"),
        (lambda: FiniteMDP.from_arrays([[[0.5]]], [[[1.0]]], [[0.0]]), "successors must hold integers"),
        (lambda: FiniteMDP.from_arrays([[[2**40]]], [[[1.0]]], [[0.0]]), "indices up to 1099511627776"),
        (
            lambda: FiniteMDP.from_arrays([[[0]]], [[1.0]], [[0.0]]),
            r"probabilities must have shape \[1, 1, 1\]",
        ),
        (lambda: FiniteMDP.from_arrays([[[0]]], [[["x"]]], [[0.0]]), "probabilities must hold numbers"),
        (
            lambda: FiniteMDP.from_arrays([[[0]]], [[[1.0]]], [0.0]),
            r"shape \[1, 1\] or \[1, 1, 1\], got \[1\]",
        ),
        (
            lambda: FiniteMDP.from_arrays(np.zeros((0, 2, 2), int), np.zeros((0, 2, 2)), np.zeros((0, 2))),
            "is empty",
        ),
        (
            lambda: FiniteMDP.from_arrays(np.zeros((2, 0, 2), int), np.zeros((2, 0, 2)), np.zeros((2, 0))),
            "is empty",
        ),
        (lambda: FiniteMDP.from_dense(np.zeros((2, 3, 4)), np.zeros((2, 3))), "transition must have shape"),
        (
            lambda: FiniteMDP.from_sparse(np.eye(2), np.zeros((2, 1))),
            "must be a SciPy sparse matrix, got ndarray",
        ),
        (
            lambda: FiniteMDP.from_sparse(sparse.eye(3, 2).tocsr(), np.zeros((2, 1))),
            r"\[states · actions, states\]",
        ),
        (
            lambda: FiniteMDP.from_sparse(sparse.eye(2).tocsr(), np.zeros((1, 2))),
            r"rewards must have shape \[2, 1\]",
        ),
    ],
)
def test_other_bad_input(make, says):
    with pytest.raises(BadInput, match=says):
        make()


def test_an_unknown_name_is_refused():
    with pytest.raises(BadInput, match=r"no state is called \(9, 9\); the 11 states begin with \(0, 0\)"):
        examples.grid_world().index((9, 9))
    with pytest.raises(BadInput, match="no state is called 'x'"):
        examples.cliff_walking().index("x")
    with pytest.raises(BadInput, match="no state is called 48"):
        examples.cliff_walking().index(48)
    assert examples.cliff_walking().index(np.int64(7)) == 7


@given(st.lists(st.lists(st.floats(-1, 1), max_size=5), min_size=1, max_size=8))
def test_row_sums_of_rows_of_any_length(rows):
    values = np.array([entry for row in rows for entry in row], float)
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
    assert_allclose(row_sums(values, offsets), [sum(row) for row in rows], atol=1e-12)


# ------------------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize("name", examples.EXAMPLES)
def test_every_example_survives_a_file(name, tmp_path):
    mdp = examples.EXAMPLES[name]()
    again = FiniteMDP.load(mdp.save(tmp_path / "model.safetensors"))
    same(mdp, again)
    assert type(again.states) is type(mdp.states) or isinstance(mdp.states, range)
    if mdp.layout is not None:
        assert again.layout.shape == mdp.layout.shape
        assert again.layout.walls == mdp.layout.walls
        assert again.layout.directions == mdp.layout.directions
        assert again.layout.marks == mdp.layout.marks
        assert again.layout.cliffs == mdp.layout.cliffs
        assert_array_equal(again.layout.rows, mdp.layout.rows)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_logged_models_keep_their_counts_in_a_file(tmp_path):
    mdp = FiniteMDP.from_transitions(LOGGED)
    same(mdp, FiniteMDP.load(mdp.save(tmp_path / "m")))


def test_names_that_no_file_can_hold_are_refused(tmp_path):
    model = FiniteMDP.from_function([frozenset()], lambda s: "a", lambda s, a: [(1.0, s, 0.0, False)])
    with pytest.raises(BadInput, match=r"the state frozenset\(\) cannot be saved"):
        model.save(tmp_path / "m")
    with pytest.raises(BadInput, match="there is no directory"):
        examples.grid_world().save(tmp_path / "nowhere" / "m")
    assert list(tmp_path.iterdir()) == []


def damaged(content):
    """Files that are not models, some of them on purpose."""
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + length])
    body = content[8 + length :]

    def rebuilt(**changes):
        model = json.loads(header["__metadata__"]["model"]) | changes
        text = header | {"__metadata__": header["__metadata__"] | {"model": json.dumps(model)}}
        encoded = json.dumps(text).encode()
        return struct.pack("<Q", len(encoded)) + encoded + body

    poisoned = bytearray(content)
    begin = 8 + length + header["probabilities"]["data_offsets"][0]
    poisoned[begin : begin + 8] = struct.pack("<d", 7.0)
    return {
        "empty": b"",
        "short": content[:5],
        "truncated": content[:-9],
        "huge header": struct.pack("<Q", 2**62) + content[8:],
        "not json": struct.pack("<Q", 4) + b"nope" + body,
        "a pickle": b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94.",
        "a picture": b"\x89PNG\r\n\x1a\n" + bytes(100),
        "wrong probabilities": bytes(poisoned),
        "too few names": rebuilt(states=["a"]),
        "nested names": rebuilt(states=[["a"]] * 11),
        "huge number of names": rebuilt(states=10**15),
        "names as a mapping": rebuilt(states={"a": 1}),
        "discount of a wrong kind": rebuilt(discount=[]),
        "layout of a wrong kind": rebuilt(layout=7),
        "layout without cells": rebuilt(layout={"shape": [1]}),
        "model of a wrong kind": content.replace(b"bellmark-finite-mdp-1", b"bellmark-finite-mdp-9"),
    }


def test_hostile_and_damaged_files_end_in_one_clear_line(tmp_path):
    content = examples.grid_world().save(tmp_path / "good").read_bytes()
    for name, bad in damaged(content).items():
        path = tmp_path / "bad"
        path.write_bytes(bad)
        with pytest.raises(
            CorruptFile, match="is not a model that Bellmark saved, or it is damaged"
        ) as caught:
            FiniteMDP.load(path)
        assert "\n" not in str(caught.value), name
    with pytest.raises(BadInput, match="there is no model file"):
        FiniteMDP.load(tmp_path / "missing")


def test_random_damage_never_escapes(tmp_path):
    content = bytearray(examples.cleaning_robot().save(tmp_path / "good").read_bytes())
    generator = np.random.default_rng(0)
    path = tmp_path / "bad"
    for _ in range(300):
        bad = bytearray(content)
        for position in generator.integers(0, len(bad), 3):
            bad[position] = generator.integers(0, 256)
        path.write_bytes(bad)
        with contextlib.suppress(CorruptFile):  # a flipped bit in a name or a reward is still a model
            FiniteMDP.load(path)


# ------------------------------------------------------------------------------------------------------ the house


def test_the_model_needs_neither_jax_nor_numba_nor_matplotlib():
    script = (
        "import sys, bellmark.mdp, bellmark.mdp.examples as e; e.grid_world(); "
        "print([m for m in ('jax', 'numba', 'matplotlib', 'gymnasium', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
