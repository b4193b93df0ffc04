"""The ring of transitions against a plain Python list of everything that was ever put into it."""

import dataclasses
from types import SimpleNamespace

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bellmark.experience.prioritised import BRANCHES, Priorities, SumTree, new_places
from bellmark.experience.replay import Replay, transition_bytes
from bellmark.maths.returns import n_step_return, n_step_window
from bellmark.types import Episodes, Rollout, Transition

FIELDS = [field.name for field in dataclasses.fields(Transition)]
ENVIRONMENTS, LENGTH, CAPACITY, DISCOUNT = 3, 4, 36, 0.9

taken = jax.jit(lambda replay, place, steps: replay.take(place, DISCOUNT, steps), static_argnums=2)
added = jax.jit(lambda replay, transition, begun: replay.add(Rollout(transition, None), begun))


def empty(capacity=CAPACITY, mask=None, space=None, observation=None):
    observation = jnp.zeros((ENVIRONMENTS, 2)) if observation is None else observation
    episodes = Episodes(None, observation, mask, jnp.zeros(ENVIRONMENTS), jnp.zeros(ENVIRONMENTS, jnp.int32))
    return Replay.start(episodes, space or gymnasium.spaces.Discrete(5), capacity, LENGTH)


def rollout_of(rng, first):
    """Steps numbered from `first`: what is observed names environment and step, so that a mix-up shows."""
    step = first + np.arange(LENGTH)[:, None] + np.zeros((LENGTH, ENVIRONMENTS), int)
    environment = np.zeros((LENGTH, ENVIRONMENTS), int) + np.arange(ENVIRONMENTS)
    now = np.stack([environment, step], axis=-1).astype(np.float32)
    ends = rng.random((2, LENGTH, ENVIRONMENTS)) < 0.15
    return Transition(
        observation=jnp.asarray(now),
        action=jnp.asarray(rng.integers(0, 5, (LENGTH, ENVIRONMENTS)), jnp.int32),
        reward=jnp.asarray(rng.normal(size=(LENGTH, ENVIRONMENTS)), jnp.float32),
        terminated=jnp.asarray(ends[0]),
        truncated=jnp.asarray(ends[1] & ~ends[0]),
        next_observation=jnp.asarray(now + np.float32([0.0, 0.5])),
    )


@pytest.fixture(scope="module")
def filled():
    """A ring after 5 rollouts of 12 (it holds 36), and all steps as lists per environment."""
    rng = np.random.default_rng(0)
    rollouts = [rollout_of(rng, LENGTH * k) for k in range(5)]
    replay = empty()
    for transition in rollouts:
        replay = added(replay, transition, jnp.zeros(3, bool))
    return replay, SimpleNamespace(
        **{name: np.concatenate([np.asarray(getattr(r, name)) for r in rollouts]) for name in FIELDS}
    )


def expected(history, environment, step, steps):
    """(r, discount, successor) by walking on from the step, one step at a time."""
    total, factor = 0.0, 1.0
    for k in range(steps):
        t = step + k
        total += factor * history.reward[t, environment]
        factor *= DISCOUNT
        ended = history.terminated[t, environment] or history.truncated[t, environment]
        if ended or t + 1 == len(history.reward):
            break
    continues = not history.terminated[t, environment]
    return total, factor * continues, history.next_observation[t, environment]


@pytest.mark.parametrize("steps", [1, 2, 4, 9])
def test_n_step_transitions_are_those_that_were_lived_through(filled, steps):
    replay, history = filled
    places = jnp.arange(CAPACITY)
    batch = jax.tree.map(np.asarray, taken(replay, places, steps))
    seen = set()
    for i in range(CAPACITY):
        environment, step = (int(x) for x in batch.observation[i])
        seen.add((environment, step))
        assert int(batch.action[i]) == history.action[step, environment]
        reward, factor, successor = expected(history, environment, step, steps)
        assert batch.reward[i] == pytest.approx(reward, abs=1e-5)
        assert batch.discount[i] == pytest.approx(factor, abs=1e-6)
        np.testing.assert_array_equal(batch.next_observation[i], successor)
    # the newest 36 of 60 transitions, each once
    assert seen == {(b, t) for b in range(3) for t in range(8, 20)}


def test_episodes_that_were_lost_are_not_joined_to_new_ones():
    """`begun` cuts the step before, though it says neither terminated nor truncated: a resumed Gymnasium run."""
    rng = np.random.default_rng(1)
    first, second = (rollout_of(rng, t) for t in (0, LENGTH))
    none = jnp.zeros((LENGTH, ENVIRONMENTS), bool)
    replay = empty()
    for transition, begun in ((first, [True] * 3), (second, [False, True, False])):
        transition = Transition(
            transition.observation,
            transition.action,
            transition.reward,
            none,
            none,
            transition.next_observation,
        )
        replay = added(replay, transition, jnp.array(begun))
    last_of_first = jnp.arange(3) + 3 * (LENGTH - 1)
    batch = taken(replay, last_of_first, 2)
    np.testing.assert_allclose(batch.discount, [DISCOUNT**2, DISCOUNT, DISCOUNT**2], rtol=1e-6)
    np.testing.assert_array_equal(batch.next_observation[:, 1], [4.5, 3.5, 4.5])


def test_windows_and_returns_are_one_mathematics():
    rng = np.random.default_rng(2)
    time, steps = 12, 3
    reward, value = rng.normal(size=(2, time)).astype(np.float32)
    terminated = rng.random(time) < 0.2
    truncated = rng.random(time) < 0.2
    continues, unbroken = 1.0 - terminated, 1.0 - (terminated | truncated)
    whole = n_step_return(*map(jnp.float32, (reward, value, continues, unbroken)), DISCOUNT, steps)
    window = np.arange(time - steps) + np.arange(steps)[:, None]
    total, factor, last = n_step_window(
        *(jnp.float32(x[window]) for x in (reward, continues, unbroken)), DISCOUNT
    )
    reached = np.arange(time - steps) + np.asarray(last)
    np.testing.assert_allclose(total + factor * value[reached], whole[: time - steps], atol=1e-5)
    assert set(np.asarray(last)) == {0, 1, 2}


def test_every_stored_transition_is_drawn_as_often(filled):
    replay, _ = filled
    half = Replay(replay.stored, None, jnp.int32(24), jnp.int32(24), 3)
    drawn = jax.jit(lambda replay, bits: replay.draw(bits))(
        half, jax.random.bits(jax.random.key(0), (48_000,))
    )
    counts = np.bincount(np.asarray(drawn), minlength=CAPACITY)
    assert counts[24:].sum() == 0
    assert ((counts[:24] - 2000) ** 2 / 2000).sum() < 49.7  # χ², 23 degrees of freedom, 0.1 %


def test_images_masks_and_boxes_keep_their_types():
    mask = jnp.ones((3, 5), bool)
    images = empty(mask=mask, observation=jnp.zeros((3, 6, 6, 1), jnp.uint8))
    assert images.stored.observation.dtype == jnp.uint8
    assert images.next_action_mask.shape == (CAPACITY, 5)
    box = empty(space=gymnasium.spaces.Box(-1, 1, (2,)))
    assert box.stored.action.shape == (CAPACITY, 2)
    assert box.stored.action.dtype == jnp.float32
    assert empty(capacity=40).capacity == 36  # whole rollouts


def test_bytes_are_what_is_allocated():
    observation, action = gymnasium.spaces.Box(-1, 1, (2,)), gymnasium.spaces.Discrete(5)
    held = sum(leaf.nbytes for leaf in jax.tree.leaves(empty().stored))
    assert held == CAPACITY * transition_bytes(observation, action)


def test_the_ring_is_written_in_place():
    """A compiled loop that adds and samples keeps the very buffer: nothing of a million transitions is copied."""
    replay = empty(capacity=120_000)
    rng = np.random.default_rng(0)
    transition = rollout_of(rng, 0)

    def one(_, carry):
        replay, total, key = carry
        key, bits_key = jax.random.split(key)
        replay = replay.add(Rollout(transition, None), jnp.zeros(3, bool))
        batch = replay.take(replay.draw(jax.random.bits(bits_key, (8,))), DISCOUNT, 2)
        return replay, total + batch.reward.sum(), key

    loop = jax.jit(
        lambda replay, key: jax.lax.fori_loop(0, 50, one, (replay, jnp.zeros(()), key))[0], donate_argnums=0
    )
    before = replay.stored.observation.unsafe_buffer_pointer()
    compiled = loop.lower(replay, jax.random.key(0)).compile()
    memory = compiled.memory_analysis()
    held = sum(leaf.nbytes for leaf in jax.tree.leaves(replay))
    assert memory.temp_size_in_bytes < 0.1 * held
    assert compiled(replay, jax.random.key(0)).stored.observation.unsafe_buffer_pointer() == before


class TestSumTree:
    @pytest.mark.parametrize("size", [5, BRANCHES, 40 * BRANCHES + 3])
    def test_sums_are_exact_after_many_changes(self, size):
        rng = np.random.default_rng(0)
        tree, weights = SumTree.start(size), np.zeros(size, np.float32)
        change = jax.jit(lambda tree, index, weight: tree.set(index, weight))
        for _ in range(50):
            index = rng.choice(size, 4, replace=False)
            # whole numbers: their sums are exact, so a lost or doubled one would show
            weight = rng.integers(0, 1000, 4).astype(np.float32)
            weights[index] = weight
            tree = change(tree, jnp.asarray(index), jnp.asarray(weight))
        np.testing.assert_array_equal(tree[jnp.arange(size)], weights)
        assert float(tree.total) == weights.sum()

    def test_the_index_is_that_of_the_running_sum(self):
        rng = np.random.default_rng(1)
        size = 3 * BRANCHES + 7
        weights = rng.integers(0, 5, size).astype(np.float32)
        tree = SumTree.start(size).set(jnp.arange(size), jnp.asarray(weights))
        heights = np.arange(0, weights.sum(), 0.5, np.float32)
        found = np.asarray(jax.jit(lambda tree, heights: tree.find(heights))(tree, jnp.asarray(heights)))
        np.testing.assert_array_equal(found, np.searchsorted(np.cumsum(weights), heights, side="right"))
        # at and beyond the end: the last one that has weight
        assert int(tree.find(jnp.float32([weights.sum()]))[0]) == np.flatnonzero(weights)[-1]

    def test_cost_is_logarithmic(self):
        assert [len(SumTree.start(size).levels) for size in (32, 1_000, 32_000, 1_000_000)] == [1, 2, 3, 4]


class TestPriorities:
    def made(self, errors, exponent=0.6):
        size = len(errors)
        return (
            Priorities.start(64)
            .add(jnp.arange(size))
            .set(jnp.arange(size), jnp.asarray(errors, jnp.float32), exponent)
        )

    @pytest.mark.parametrize("batch", [1, 16])
    def test_frequencies_follow_the_priorities(self, batch):
        errors = np.array([0.1, 5.0, 0.0, 1.0, 2.0, 0.5, 8.0, 3.0])
        priorities = self.made(errors)
        bits = jax.random.bits(jax.random.key(3), (48_000 // batch, batch))
        draw = jax.jit(jax.vmap(lambda b: priorities.draw(b, jnp.int32(8), 1.0)[0]))
        counts = np.bincount(np.asarray(draw(bits)).ravel(), minlength=8)
        share = (np.abs(errors) + 1e-6) ** 0.6
        wanted = 48_000 * share / share.sum()
        common = wanted > 5  # the one of error 0 is expected thrice
        chi_square = ((counts - wanted)[common] ** 2 / wanted[common]).sum()
        assert (
            chi_square < 22.5
        )  # 6 degrees of freedom, 0.1 %; fewer errors where one is drawn from each part
        uniform = 48_000 / 8
        assert ((counts - uniform) ** 2 / uniform).sum() > 1000  # the test can fail

    def test_weights_undo_the_frequencies(self):
        errors = np.array([0.5, 1.0, 2.0, 4.0])
        priorities = self.made(errors, exponent=1.0)
        place, weight = priorities.draw(jax.random.bits(jax.random.key(0), (64,)), jnp.int32(4), 1.0)
        # with β = 1, w ∝ 1/P, and the rarest of the batch has weight 1
        rarest = errors[np.asarray(place)].min()
        np.testing.assert_allclose(weight, rarest / errors[np.asarray(place)], rtol=1e-4)
        _, half = priorities.draw(jax.random.bits(jax.random.key(0), (64,)), jnp.int32(4), 0.5)
        np.testing.assert_allclose(half, np.sqrt(weight), rtol=1e-4)

    def test_new_transitions_have_the_largest_priority(self):
        priorities = self.made([3.0, 1.0], exponent=1.0).add(jnp.array([2]))
        assert float(priorities.tree[jnp.array([2])][0]) == pytest.approx(3.0, rel=1e-5)
        np.testing.assert_array_equal(new_places(jnp.int32(6), 4, 8), [6, 7, 0, 1])
