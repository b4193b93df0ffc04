"""Recurrent Q-learning: its memory of sequences, targets worked step by step, and the exact values of a small task."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bellmark.algorithms.value_based.r2d2 import R2D2
from bellmark.errors import BadInput
from bellmark.experience.rollout import CompiledProblem
from bellmark.experience.sequences import Beginning, SequenceReplay
from bellmark.maths.rescaling import squeezed, unsqueezed
from bellmark.types import Episodes, Rollout, Transition
from recurrent_environments import Recall

KEY = jax.random.key(0)
SMALL = {
    "discount": 0.9,
    "environments": 2,
    "rollout_length": 4,
    "train_every": 4,
    "batch_size": 16,
    "burn_in": 3,
    "sequence_length": 6,
    "replay_capacity": 400,
    "learning_start": 24,
    "hidden": (6,),
    "memory": 5,
}
LEARNER = R2D2(**SMALL)
PROBLEM = CompiledProblem(Recall(length=3), 1000, None)


@pytest.fixture(scope="module")
def collected():
    """Five rollouts of an untrained policy into the memory: its state then, and each rollout."""
    state = LEARNER.init(PROBLEM, KEY)
    collect = jax.jit(lambda state: LEARNER.collect(PROBLEM, state))
    rollouts = []
    for _ in range(5):
        state, (rollout, _, beginning) = collect(state)
        state = dataclasses.replace(state, replay=state.replay.add(rollout, beginning))
        rollouts.append(rollout)
    return state, rollouts


def test_a_sequence_is_what_one_environment_lived_through_in_order(collected):
    state, rollouts = collected
    lived = jax.tree.map(lambda *parts: np.concatenate(parts), *(r.transition for r in rollouts))
    sequences = state.replay.take(
        jnp.array([0, 1, 4])
    )  # (rollout 0, environments 0 and 1), (rollout 2, environment 0)
    for n, (start, environment) in enumerate([(0, 0), (0, 1), (8, 0)]):
        for had, was in zip(jax.tree.leaves(sequences.transition), jax.tree.leaves(lived), strict=True):
            np.testing.assert_array_equal(had[:, n], was[start : start + 9, environment])
    np.testing.assert_array_equal(sequences.begins[:, 0], np.arange(9) % 3 == 0)
    np.testing.assert_array_equal(sequences.unbroken[:, 0], np.arange(9) % 3 != 2)
    # 9 steps reach through three rollouts of 4, so the two newest begin none yet
    assert (int(state.replay.span), int(state.replay.complete), int(state.replay.size)) == (3, 6, 40)
    places = np.asarray(state.replay.draw(jnp.arange(60, dtype=jnp.uint32)))
    assert np.array_equal(np.bincount(places), np.full(6, 10))


def test_from_the_stored_memory_the_values_are_those_that_acted(collected):
    """Under the parameters that acted, whatever the burn-in."""
    state, rollouts = collected
    acted = np.concatenate([r.remembered for r in rollouts])
    for burn_in, place, start in ((0, 4, 8), (3, 4, 8), (3, 1, 0)):
        learner = dataclasses.replace(LEARNER, burn_in=burn_in, sequence_length=9 - burn_in)
        sequences = state.replay.take(jnp.array([place]))
        q, _ = learner.unrolled(state.learned.online, state.inputs, state.outputs, sequences)
        wanted = acted[start + burn_in : start + 9, place % 2]
        np.testing.assert_allclose(q[:, 0], wanted, rtol=1e-4, atol=1e-6)


def ring(rows, rollout_length=2, length=3):
    """A memory of one environment whose observation and remembered number count the steps and the rollouts."""
    zeros = jnp.zeros(1)
    episodes = Episodes(None, zeros[:, None], None, zeros, zeros.astype(jnp.int32), memory=zeros[:, None])
    memory = SequenceReplay.start(
        episodes, Recall().action_space, rows * rollout_length, rollout_length, length
    )

    def added(memory, number, begun=False, ends=False):
        now = (number * rollout_length + jnp.arange(rollout_length, dtype=jnp.float32))[:, None]
        flags = jnp.zeros((rollout_length, 1), bool)
        truncated = flags.at[0].set(ends)
        steps = Transition(now[..., None], flags.astype(jnp.int32), now, flags, truncated, now[..., None] + 1)
        beginning = Beginning(jnp.array([begun]), jnp.full((1, 1), float(number)))
        return memory.add(Rollout(steps, None, None, None), beginning)

    return memory, added


def test_the_oldest_rollout_is_overwritten_and_what_it_began_is_drawn_no_more():
    memory, added = ring(rows=3)
    for number in range(5):
        memory = added(memory, number)
    assert (int(memory.held), int(memory.complete), int(memory.row)) == (3, 2, 2)
    places = jnp.unique(memory.draw(jnp.arange(8, dtype=jnp.uint32)))
    sequences = memory.take(places)
    seen = {tuple(row) for row in np.asarray(sequences.transition.reward).T.astype(int)}
    assert seen == {(4, 5, 6), (6, 7, 8)}  # rollouts 2, 3 and 4 are there; the last begins no whole sequence
    assert sorted(np.asarray(sequences.memory).ravel()) == [2.0, 3.0]


def test_what_follows_a_lost_episode_does_not_follow_the_step_before():
    """A process was killed in the middle: the step stored before does not say that it was the last of its episode."""
    memory, added = ring(rows=3)
    memory = added(added(memory, 0), 1, begun=True)
    sequences = memory.take(jnp.array([0]))
    assert sequences.unbroken[:, 0].tolist() == [1.0, 0.0, 0.0]
    assert sequences.begins[:, 0].tolist() == [False, False, True]


def by_hand(learner, learned, values, sequences):
    """y_t of every sequence, one step after another."""
    steps, length = sequences.transition, learner.steps_together
    online, target = learned.online, learned.target
    chosen, valued = [], []
    memories = [sequences.memory, sequences.memory]
    for t in range(length):
        row = []
        for which, network in enumerate((online, target)):
            memory = jnp.where(sequences.begins[t][:, None], 0.0, memories[which])
            memory = network.core(steps.observation[t], memory)
            memories[which] = memory
            row.append(values(network.last(network.core(steps.next_observation[t], memory))))
        chosen.append(np.asarray(row[0]))
        valued.append(np.asarray(row[1]))
    answer = np.zeros((learner.sequence_length, sequences.memory.shape[0]))
    for n in range(answer.shape[1]):
        for t in range(learner.burn_in, length):
            total, power, at = 0.0, 1.0, t
            while True:
                total += power * float(steps.reward[at, n])
                power *= learner.discount
                ended = bool(steps.terminated[at, n] or steps.truncated[at, n])
                if ended or at + 1 == length or at + 1 == t + learner.n_step:
                    break
                at += 1
            best = chosen[at][n].argmax() if learner.double else valued[at][n].argmax()
            value = float(valued[at][n, best])
            value = float(unsqueezed(jnp.float32(value))) if learner.rescale else value
            y = total + power * (0.0 if steps.terminated[at, n] else value)
            answer[t - learner.burn_in, n] = float(squeezed(jnp.float32(y))) if learner.rescale else y
    return answer


@pytest.mark.parametrize(
    "fields",
    [{}, {"double": False, "n_step": 1, "burn_in": 0, "sequence_length": 9}, {"rescale": True, "n_step": 4}],
    ids=str,
)
def test_targets_are_those_worked_step_by_step(collected, fields):
    state, _ = collected
    learner = dataclasses.replace(LEARNER, **fields)
    other = LEARNER.init(PROBLEM, jax.random.key(7)).learned.online
    learned = dataclasses.replace(state.learned, target=other)
    sequences = state.replay.take(jnp.array([0, 3, 5]))
    # one episode is cut by a time limit instead of ending
    cut = (
        sequences.transition.terminated.at[5, 0].set(False),
        sequences.transition.truncated.at[5, 0].set(True),
    )
    steps = dataclasses.replace(sequences.transition, terminated=cut[0], truncated=cut[1])
    sequences = dataclasses.replace(sequences, transition=steps)
    got = learner.targets(learned, state.inputs, state.outputs, sequences)
    np.testing.assert_allclose(got, by_hand(learner, learned, state.outputs, sequences), rtol=1e-4, atol=1e-5)


def test_rescaling_has_its_inverse():
    values = jnp.array([-3e4, -10.0, -0.5, -1e-4, 0.0, 1e-3, 1.0, 250.0, 1e5])
    np.testing.assert_allclose(unsqueezed(squeezed(values)), values, rtol=1e-4)
    assert float(squeezed(jnp.float32(8.0))) == pytest.approx(math.sqrt(9) - 1 + 8e-3)


ORACLE = R2D2(
    discount=0.8,
    environments=16,
    rollout_length=6,
    train_every=12,
    batch_size=32,
    burn_in=2,
    sequence_length=5,
    replay_capacity=9_600,
    learning_start=960,
    learning_rate=1e-2,
    anneal=True,
    epsilon_final=0.3,
    target_every=20,
    # longer sums hold what the exploring policy did at the fork
    n_step=1,
    prioritised=True,
    hidden=(8,),
    memory=8,
)


def test_it_comes_to_the_exact_values_of_what_was_seen():
    """Values of histories: ±1 at the fork by the cue that was shown two steps before, γ and γ² before it."""
    problem = CompiledProblem(Recall(length=3), 300 * 96, None)

    @jax.jit
    def train(state):
        return jax.lax.scan(lambda s, _: (ORACLE.step(problem, s)[0], None), state, length=300)[0]

    state = train(ORACLE.init(problem, jax.random.key(1)))
    online = state.learned.online
    for cue, pays in ((-1.0, [1.0, -1.0]), (1.0, [-1.0, 1.0])):
        shown = jnp.array([[[cue, 0.0]], [[0.0, 0.0]], [[0.0, 1.0]]])
        memories = online.core.unroll(shown, jnp.zeros((3, 1), bool), jnp.zeros((1, 8)))
        q = np.asarray(state.outputs(online.last(memories)))[:, 0]
        np.testing.assert_allclose(q, [[0.64] * 2, [0.8] * 2, pays], atol=0.1)


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"burn_in": -1}, "burn_in is -1; allowed: at least 0"),
        ({"hidden": ()}, r"hidden is \(\); allowed: at least one layer"),
        ({"learning_start": 16}, "learning_start is 16 and .* allowed: at least 24, 3 rollouts of"),
        ({"priority_largest": 2.0}, "priority_largest is 2.0; allowed: from 0 to 1"),
    ],
)
def test_what_does_not_fit_is_refused(fields, words):
    with pytest.raises(BadInput, match=words):
        dataclasses.replace(LEARNER, **fields).check(PROBLEM)
