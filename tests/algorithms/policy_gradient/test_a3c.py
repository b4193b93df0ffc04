"""A3C: A2C with one actor, staleness as the schedule has it, and threads that lose nothing."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bellmark.algorithms.policy_gradient.a2c import A2C
from bellmark.algorithms.policy_gradient.a3c import A3C, acting
from bellmark.envs.registry import resolve
from bellmark.errors import BadInput
from bellmark.experience.rollout import CompiledProblem
from bellmark.run.asynchronous_engine import AsynchronousEngine
from small_environments import Countdown, Tracking

KEY = jax.random.key(0)
SMALL = {"environments": 6, "rollout_length": 4, "hidden": (5,), "learning_rate": 0.02}
CART = CompiledProblem(resolve("CartPole-v1").compiled, 24 * 100, 500)


def after(algorithm, problem, iterations):
    """The state after so many iterations, and the metrics of each."""
    step = lambda state, _: algorithm.step(problem, state)  # noqa: E731
    state = algorithm.init(problem, KEY)
    return jax.jit(lambda s: jax.lax.scan(step, s, None, iterations))(state)


@pytest.mark.parametrize(
    "schedule, environment",
    [("random", Countdown(masked=True, truncates=5)), ("round_robin", Tracking())],
    ids=["masks", "continuous"],
)
def test_one_actor_is_a2c(schedule, environment):
    """A2C's own step, from the same state on the same rollout."""
    problem = CompiledProblem(environment, 24 * 100, None)
    a3c = A3C(**SMALL, actors=1, schedule=schedule)
    start = a3c.init(problem, KEY)
    (state, _) = a3c.collect(problem, start)
    rollout = a3c.collect(problem, start)[1]
    a2c = A2C(**SMALL)
    theirs = a2c.init(problem, KEY)
    for one, other in zip(
        jax.tree.leaves(start.learner.networks), jax.tree.leaves(theirs.networks), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    mine, _ = jax.jit(a3c.update)(state, rollout)
    theirs, _ = jax.jit(a2c.update)(theirs, rollout)
    for one, other in zip(
        jax.tree.leaves(mine.learner.networks), jax.tree.leaves(theirs.networks), strict=True
    ):
        np.testing.assert_allclose(one, other, atol=2e-6)


@pytest.fixture(scope="module", params=["random", "round_robin"])
def three_actors(request):
    algorithm = A3C(**SMALL, actors=3, schedule=request.param)
    return algorithm, *after(algorithm, CART, 60)


def test_staleness_is_what_the_schedule_says(three_actors):
    algorithm, state, metrics = three_actors
    mean, largest = (np.asarray(metrics[f"staleness/{name}"]) for name in ("mean", "largest"))
    assert int(state.learner.version) == 60 * 3
    assert sorted(np.asarray(state.actors.version).tolist()) == [178, 179, 180]
    # in the first round all have pulled the same
    assert mean[0] == 1.0
    if algorithm.schedule == "round_robin":
        assert (mean[1:] == 2.0).all()
        assert (largest[1:] == 2.0).all()
    else:
        # every push moves an actor's version by what it was behind, so the sums telescope: the mean is K − 1
        assert mean.mean() == pytest.approx(2.0, abs=0.05)
        assert set(largest[1:]) == {2.0, 3.0, 4.0}


def test_actors_hold_what_the_learner_was(three_actors):
    """The actor that pushed last holds the learner's own parameters, the others older ones."""
    _, state, _ = three_actors
    last = int(np.argmax(state.actors.version))
    for pulled, shared in zip(
        jax.tree.leaves(state.actors.networks), jax.tree.leaves(state.learner.networks), strict=True
    ):
        np.testing.assert_array_equal(pulled[last], shared)
    weights = np.asarray(state.actors.networks.actor.layers[0].weight)
    assert not np.array_equal(weights[last], weights[last - 1])


def test_gradients_are_taken_at_the_stale_parameters(three_actors):
    """A round's pushes, one by one: each gradient of the actor's own parameters, on its own environments' steps."""
    algorithm, state, _ = three_actors
    algorithm = dataclasses.replace(algorithm, schedule="round_robin")
    before, (rollout, finished) = algorithm.collect(CART, state)
    got, _ = jax.jit(algorithm.update)(before, (rollout, finished))
    learner = before.learner
    for k in range(3):
        own = jax.tree.map(lambda x, k=k: x[k], before.actors.networks)
        part = jax.tree.map(lambda x, k=k: x[:, 2 * k : 2 * k + 2], rollout)
        outputs = acting(before.inputs, own).network(part.transition.observation)
        np.testing.assert_allclose(part.remembered, outputs, atol=2e-6)
        gradient, _ = algorithm.gradient(own, before.inputs, part)
        learner = algorithm.pushed(learner, gradient, algorithm.learning_rate_at(before))
    for one, other in zip(
        jax.tree.leaves(got.learner.networks), jax.tree.leaves(learner.networks), strict=True
    ):
        np.testing.assert_allclose(one, other, atol=2e-6)


def test_threads_push_every_gradient_once():
    algorithm = A3C(**SMALL, actors=3, schedule="threads")
    engine = AsynchronousEngine(algorithm, CART, [0], row_every=4)
    try:
        states = engine.start()
        engine.compile(states)
        states, rows = engine.advance(states, 10)
        (state,) = states
        assert rows["staleness/mean"].shape == (3, 1)
        assert int(state.learner.version) == 30
        assert int(state.iteration) == 10
        # every actor's version is that of a push, and the last push was somebody's
        assert int(jnp.max(state.actors.version)) == 30
        # an actor pushes against what it pulled, so all pushes add up: Σ staleness + pushes = Σ versions pulled last
        pushes = np.array([12, 12, 6])
        total = float(np.sum(rows["staleness/mean"][:, 0] * pushes)) + 30
        assert total == pytest.approx(float(jnp.sum(state.actors.version)))
        assert np.isfinite(np.asarray(rows["loss/value"])).all()
        assert state.episodes.length.shape == (6,)
        again, _ = engine.advance(states, 3)
        assert int(again[0].learner.version) == 39
    finally:
        engine.close()


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"actors": 4}, r"actors is 4, which does not divide environments = 6; allowed: 1, 2, 3, 6"),
        ({"actors": 0}, "actors is 0; allowed: at least 1"),
    ],
)
def test_what_does_not_fit_is_refused(fields, words):
    with pytest.raises(BadInput, match=words):
        A3C(**{**SMALL, **fields}).check(CART)


def test_threads_need_a_compiled_environment():
    class OnHost:
        compiled, action_space = False, Tracking().action_space

    with pytest.raises(BadInput, match="schedule is threads, and this environment is stepped in Python"):
        A3C(schedule="threads").check(OnHost())
