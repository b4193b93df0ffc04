"""An iteration that is compiled around the environments' steps is the learner's own collect and update, bit for bit."""

import dataclasses

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bellmark.algorithms.base import AbstractLearner
from bellmark.algorithms.policy_gradient.a2c import A2C
from bellmark.algorithms.value_based.dqn import DQN
from bellmark.envs.gymnasium import HostEnvironments
from bellmark.experience.host_rollout import HostProblem, Parcel
from bellmark.run.engine import HostEngine
from bellmark.run.rows import average, merge, weigh

COUNT, ITERATIONS = 2, 7
# short episodes, so that some end in every stretch
LEARNERS = {
    "a2c": A2C(environments=COUNT, rollout_length=5, hidden=(4,), normalise_rewards=True, shared=True),
    "dqn": DQN(
        environments=COUNT,
        rollout_length=4,
        hidden=(4,),
        replay_capacity=32,
        learning_start=8,
        batch_size=4,
    ),
}


def opened():
    environments = HostEnvironments(lambda: gymnasium.make("CartPole-v1"), COUNT, "CartPole-v1")
    return HostProblem.open(environments, 1000, 500, seed=3)


def bits(tree):
    """Every array of a tree as bytes, keys included."""
    keys = [jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key) for leaf in jax.tree.leaves(tree)]
    leaves = [
        jax.random.key_data(x) if key else x for x, key in zip(jax.tree.leaves(tree), keys, strict=True)
    ]
    return [(str(leaf.dtype), leaf.shape, np.asarray(leaf).tobytes()) for leaf in leaves]


@pytest.mark.parametrize("name", LEARNERS)
def test_the_same_bits_as_collect_and_update(name):
    learner = LEARNERS[name]
    engine = HostEngine(learner, [opened()], [0], row_every=3)
    states = engine.start()
    states, rows = engine.advance(states, ITERATIONS)
    engine.close()

    problem = opened()
    state = jax.jit(lambda key: learner.init(problem, key))(jax.random.key(0))
    update = jax.jit(learner.update)
    expected, sums = [], None
    for iteration in range(1, ITERATIONS + 1):
        state, data = learner.collect(problem, state)
        state, metrics = update(state, data)
        added = weigh(metrics)
        sums = added if sums is None else merge(sums, added)
        if iteration % 3 == 0 or iteration == ITERATIONS:
            expected.append(average(sums))
            sums = None
    assert bits(states[0]) == bits(state)
    assert len(rows["episode/count"]) == len(expected) == 3
    assert sum(rows["episode/count"]) > 0, "no episode has ended: nothing is shown of where they begin again"
    for name in expected[0]:
        np.testing.assert_allclose(rows[name][:, 0], [row[name] for row in expected], rtol=1e-6, err_msg=name)


def test_a_parcel_brings_back_every_bit():
    tree = {
        "numbers": jnp.array([[1.5, -0.0], [jnp.nan, jnp.inf]]),
        "whole": jnp.array([-1, 2**31 - 1], jnp.int32),
        "unsigned": jnp.array(2**32 - 1, jnp.uint32),
        "small": jnp.arange(6, dtype=jnp.uint8).reshape(2, 3),
        "yes": jnp.array([True, False]),
        "empty": jnp.zeros((0, 3)),
        "nothing": None,
    }
    parcel = Parcel(tree)
    packed = jax.jit(parcel.pack)(tree)
    assert len(packed[1]) == 2  # what is not of four bytes travels by itself
    again = parcel.unpack(*packed)
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(again))
    assert jax.tree.structure(again) == jax.tree.structure(tree)
    assert bits(again) == bits(tree)


class Idle(AbstractLearner):
    """Asks for nothing."""

    name = "idle"

    def init(self, problem, key):
        return {"key": key, "episodes": problem.start(key, COUNT)}

    def collect(self, problem, state):
        return state, None

    def update(self, state, data):
        return state, {}

    def policy(self, state):
        raise NotImplementedError

    def steps_per_iteration(self, problem):
        return 1


class Growing(AbstractLearner):
    """A2C, but its state has another entry after an update."""

    name = "growing"
    inner: A2C = LEARNERS["a2c"]

    def init(self, problem, key):
        return (self.inner.init(problem, key),)

    def collect(self, problem, state):
        after, data = self.inner.collect(problem, state[0])
        return (after, *state[1:]), data

    def update(self, state, data):
        after, metrics = self.inner.update(state[0], data)
        return (after, *state[1:], jnp.zeros(())), metrics

    def policy(self, state):
        return self.inner.policy(state[0])

    def steps_per_iteration(self, problem):
        return self.inner.steps_per_iteration(problem)


@pytest.mark.parametrize(
    "learner, message",
    [
        (Idle(), "idle's collect asked for no rollout"),
        (Growing(), "a state of growing has changed its structure"),
    ],
)
def test_learners_that_cannot_be_compiled_are_named(learner, message):
    engine = HostEngine(learner, [opened()], [0], row_every=1)
    with pytest.raises(TypeError, match=message):
        engine.advance(engine.start(), 2)
    engine.close()


def test_two_seeds_do_not_meet():
    """Each seed's result is what it is alone."""
    learner = LEARNERS["a2c"]

    def trained(seeds):
        engine = HostEngine(learner, [opened() for _ in seeds], seeds, row_every=2)
        states, _ = engine.advance(engine.start(), 4)
        engine.close()
        return states

    both = trained([0, 1])
    assert bits(both[1]) == bits(trained([1])[0])
    assert bits(both[0]) != bits(both[1])
    assert dataclasses.is_dataclass(both[0])
