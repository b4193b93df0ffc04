"""The inner loops, one by one, against the same sums written plainly; slices and threads change nothing."""

import threading
from itertools import pairwise

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from reference import action_values

from bellmark.mdp import FiniteMDP, bellman, examples


@pytest.fixture(params=["equal rows", "unequal rows"])
def mdp(request):
    generator = np.random.default_rng(4)
    if request.param == "equal rows":
        flags = generator.random((30, 3, 4)) < 0.1
        probabilities = generator.dirichlet(np.ones(4), (30, 3))
        available = generator.random((30, 3)) < 0.7
        available[5] = False
        probabilities[~available] = 0
        return FiniteMDP.from_arrays(
            generator.integers(0, 30, (30, 3, 4)),
            probabilities,
            generator.standard_normal((30, 3)) * available,
            available=available,
            terminations=flags,
        )
    return examples.gamblers_problem(goal=30)


def opened(mdp):
    """(actions, counts, first values, first policy) as a solver begins with them."""
    states, actions = mdp.num_states, mdp.num_actions
    lists, counts = np.full((states, actions), -7, np.int32), np.empty(states, np.int32)
    values, policy = np.empty(states), np.empty(states, np.int32)
    seen = bellman.open_actions(mdp.available, mdp.rewards, lists, counts, values, policy, 0, states)
    return lists, counts, values, policy, seen


def jacobi(mdp, discount, values, lists, counts, margin=np.inf, cut=None):
    out = np.full(mdp.num_states, np.nan)
    # Whatever stands in the memory must be overwritten, also where nothing can be done.
    policy = np.full(mdp.num_states, 12345, np.int32)
    edges = [0, mdp.num_states] if cut is None else [0, cut, mdp.num_states]
    parts = [
        bellman.backup(
            mdp.successors,
            mdp.continuation,
            mdp.offsets,
            mdp.branching or 0,
            mdp.rewards,
            lists,
            counts,
            discount,
            values,
            out,
            policy,
            margin,
            start,
            stop,
        )
        for start, stop in pairwise(edges)
    ]
    return out, policy, parts


def test_opening_lists_what_is_available(mdp):
    lists, counts, values, policy, (low, high, size) = opened(mdp)
    best = np.where(mdp.available, mdp.rewards, -np.inf).max(axis=1)
    live = ~mdp.terminal
    for state in range(mdp.num_states):
        assert lists[state, : counts[state]].tolist() == np.flatnonzero(mdp.available[state]).tolist()
    assert_array_equal(values, np.where(live, best, 0.0))
    assert (policy[~live] == -1).all()
    assert (low, high) == (best[live].min(), best[live].max())
    assert size == np.abs(mdp.rewards).max()


@pytest.mark.parametrize("discount", [0.0, 0.9, 1.0])
def test_a_sweep_is_bellmans_operator(mdp, discount):
    lists, counts, *_ = opened(mdp)
    live = ~mdp.terminal
    values = np.where(live, np.random.default_rng(1).standard_normal(mdp.num_states), 0.0)
    q = action_values(mdp, values, discount)
    out, policy, ((low, high, size, gone),) = jacobi(mdp, discount, values, lists, counts)
    assert_allclose(out, np.where(live, q.max(axis=1), 0.0), atol=1e-14)
    assert_array_equal(policy[live], q[live].argmax(axis=1))
    assert (policy[~live] == -1).all()
    assert low == pytest.approx((out - values)[live].min())
    assert high == pytest.approx((out - values)[live].max())
    assert size == np.abs(out).max()
    assert gone == 0
    table = np.empty_like(q)
    bellman.action_values(
        mdp.successors,
        mdp.continuation,
        mdp.offsets,
        mdp.rewards,
        mdp.available,
        discount,
        values,
        table,
        0,
        mdp.num_states,
    )
    assert_allclose(table, q, atol=1e-14)
    halves, _, _ = jacobi(mdp, discount, values, lists, counts, cut=11)
    assert_array_equal(halves, out)


def test_worse_actions_leave_the_lists_and_only_those(mdp):
    lists, counts, values, *_ = opened(mdp)
    q = action_values(mdp, values, 0.9)
    before = counts.copy()
    _, _, ((*_, gone),) = jacobi(mdp, 0.9, values, lists, counts, margin=0.05)
    keep = (q >= q.max(axis=1, keepdims=True) - 0.05) & mdp.available
    for state in range(mdp.num_states):
        assert lists[state, : counts[state]].tolist() == np.flatnonzero(keep[state]).tolist()
    assert gone == (before - counts).sum() > 0


@pytest.mark.parametrize("backward", [False, True])
def test_gauss_seidel_solves_for_self_loops_in_the_order_given(mdp, backward):
    lists, counts, values, policy, _ = opened(mdp)
    order = np.random.default_rng(0).permutation(mdp.num_states).astype(np.int32)
    expected, largest = values.copy(), 0.0
    for state in order[::-1] if backward else order:
        options = []
        for action in np.flatnonzero(mdp.available[state]):
            total, stay = mdp.rewards[state, action], 0.0
            for p, successor, _, ended in mdp.transitions(int(state), int(action)):
                if not ended and successor == state:
                    stay += p
                elif not ended:
                    total += 0.9 * p * expected[successor]
            options.append(total / (1 - 0.9 * stay))
        if options:
            largest = max(largest, abs(max(options) - expected[state]))
            expected[state] = max(options)
    change = bellman.backup_in_place(
        mdp.successors,
        mdp.continuation,
        mdp.offsets,
        mdp.rewards,
        lists,
        counts,
        0.9,
        values,
        policy,
        order,
        backward,
    )
    assert_allclose(values, expected, atol=1e-13)
    assert change == pytest.approx(largest)


def test_distances_are_the_fewest_steps():
    mdp = examples.dyna_maze()
    steps = np.where(mdp.terminal, 0, 10**6).astype(np.int32)
    for sweep in range(100):
        if not bellman.distances(
            mdp.successors, mdp.continuation, mdp.offsets, mdp.num_actions, steps, sweep % 2 == 0
        ):
            break
    assert steps[int(np.argmax(mdp.initial_distribution))] == 14


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_slices_cover_everything_once_and_answer_in_order(threads):
    seen = np.zeros(1001, int)

    def task(start, stop):
        seen[start:stop] += 1
        return start, stop

    answers = bellman.run(task, 1001, threads)
    assert (seen == 1).all()
    assert [start for start, _ in answers] == [0] + [stop for _, stop in answers[:-1]]
    assert bellman.run(task, 2, 3) == [(0, 2)]


def test_an_interrupt_waits_for_slices_that_are_being_written():
    done = threading.Event()

    def task(start, stop):
        if start == 0:
            raise KeyboardInterrupt
        done.wait(0.2)
        done.set()

    with pytest.raises(KeyboardInterrupt):
        bellman.run(task, 10, 2)
    assert done.is_set()
