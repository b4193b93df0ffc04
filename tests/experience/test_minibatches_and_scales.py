"""Minibatches hold every sample once per epoch, in any order alike; rewards are scaled as a plain loop would."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces
from scipy import stats

from bellmark.experience.minibatches import flatten, minibatch_indices, permutation, take
from bellmark.experience.normalisation import RewardScale
from bellmark.experience.policy import Inputs

KEY = jax.random.key(0)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000, 1024, 2**20 + 8])
def test_a_permutation_holds_everything_once(size):
    np.testing.assert_array_equal(np.sort(permutation(KEY, size)), np.arange(size))


def test_every_order_is_equally_likely():
    draws = 24_000
    orders = np.asarray(jax.vmap(lambda key: permutation(key, 4))(jax.random.split(KEY, draws)))
    names = {order: index for index, order in enumerate(itertools.permutations(range(4)))}
    counts = np.bincount([names[tuple(order)] for order in orders.tolist()], minlength=24)
    assert stats.chisquare(counts).pvalue > 1e-3


def test_every_sample_is_equally_likely_in_every_minibatch():
    """Also at a size with few random bits left over; samples are counted by eighths of their index."""
    draws, size = 40, 2**14
    orders = np.asarray(jax.vmap(lambda key: permutation(key, size))(jax.random.split(KEY, draws)))
    table = np.zeros((8, 8))
    for order in orders:
        np.add.at(table, (np.arange(size) * 8 // size, order * 8 // size), 1)
    # without replacement the counts vary a little less than the test assumes: it can only pass too easily
    assert stats.chisquare(table.ravel()).pvalue > 1e-3
    assert stats.chisquare(np.bincount(orders[:, :64].ravel() % 8, minlength=8)).pvalue > 1e-3


def test_every_sample_once_per_epoch():
    indices = np.asarray(minibatch_indices(KEY, 24, 4, 3))
    assert indices.shape == (12, 6)
    epochs = indices.reshape(3, 24)
    for epoch in epochs:
        np.testing.assert_array_equal(np.sort(epoch), np.arange(24))
    assert len({tuple(epoch) for epoch in epochs.tolist()}) == 3  # every epoch is shuffled anew
    other = np.asarray(minibatch_indices(jax.random.key(1), 24, 4, 3))
    assert not np.array_equal(indices, other)


def test_flatten_and_take():
    tree = {"x": jnp.arange(24).reshape(4, 3, 2), "y": jnp.arange(12).reshape(4, 3)}
    flat = flatten(tree)
    assert flat["x"].shape == (12, 2)
    np.testing.assert_array_equal(take(flat, jnp.array([5, 0]))["y"], [5, 0])
    np.testing.assert_array_equal(take(flat, jnp.array([5, 0]))["x"], [[10, 11], [0, 1]])


def test_reward_scale_is_a_loop_over_environments():
    """R ← γR + r, from 0 after an episode's end, with the agent's own γ; kept from rollout to rollout."""
    rng = np.random.default_rng(0)
    reward = rng.normal(3.0, 2.0, (40, 3)).astype(np.float32)
    unbroken = (rng.random((40, 3)) > 0.2).astype(np.float32)
    scale = RewardScale.start(3)
    for half in (slice(0, 20), slice(20, 40)):
        scale = scale.seen(jnp.asarray(reward[half]), jnp.asarray(unbroken[half]), 0.9)
    running, seen = np.zeros(3), []
    for r, u in zip(reward, unbroken, strict=True):
        running = 0.9 * running + r
        seen.append(running)
        running = running * u
    np.testing.assert_allclose(scale.running, running, rtol=1e-5)
    np.testing.assert_allclose(scale.moments.variance, np.var(seen), rtol=1e-3)
    scaled = scale(jnp.asarray(reward))
    np.testing.assert_allclose(scaled, reward / np.std(seen), rtol=1e-3)
    np.testing.assert_array_equal(np.sign(scaled), np.sign(reward))
    other = RewardScale.start(3).seen(jnp.asarray(reward), jnp.asarray(unbroken), 0.5)
    assert float(other.moments.variance) < 0.7 * float(scale.moments.variance)


class TestInputs:
    def test_vectors_are_normalised_by_what_was_seen(self):
        space = spaces.Box(-1000, 1000, (2,))
        data = np.random.default_rng(0).normal([100, -3], [20, 0.1], (50, 4, 2)).astype(np.float32)
        inputs = Inputs.start(space, normalise=True).seen(jnp.asarray(data))
        features = np.asarray(inputs(jnp.asarray(data))).reshape(-1, 2)
        np.testing.assert_allclose(features.mean(0), 0, atol=1e-2)
        np.testing.assert_allclose(features.std(0), 1, rtol=1e-2)
        assert np.abs(inputs(jnp.full((1, 2), 1e9))).max() == 10
        np.testing.assert_allclose(inputs.on_host()(data), inputs(jnp.asarray(data)), rtol=1e-5, atol=1e-5)
        plain = Inputs.start(space)
        assert plain.seen(jnp.asarray(data)) is plain
        np.testing.assert_array_equal(plain(jnp.asarray(data)), data)

    def test_pictures_are_brought_into_one_range_and_not_normalised(self):
        inputs = Inputs.start(spaces.Box(0, 255, (5, 4), np.uint8), normalise=True)
        assert inputs.moments is None
        picture = jnp.full((3, 5, 4), 51, jnp.uint8)
        np.testing.assert_allclose(inputs(picture), np.full((3, 5, 4, 1), 0.2), rtol=1e-6)
        assert inputs.network((8,), 2, KEY)(inputs(picture)).shape == (3, 2)

    @pytest.mark.parametrize(
        "space",
        [
            spaces.Discrete(4, start=2),
            spaces.MultiBinary(3),
            spaces.MultiDiscrete([2, 3]),
            spaces.Dict({"b": spaces.Discrete(2), "a": spaces.Box(-1, 1, (2, 2))}),
            spaces.Tuple((spaces.Discrete(2), spaces.Box(-1, 1, (3,)))),
        ],
        ids=lambda space: type(space).__name__,
    )
    def test_every_space_makes_features(self, space):
        samples = [space.sample() for _ in range(6)]
        batch = jax.tree.map(lambda *x: np.stack(x), *samples)
        inputs = Inputs.start(space)
        features = inputs(jax.tree.map(jnp.asarray, batch))
        assert features.dtype == jnp.float32
        np.testing.assert_array_equal(features, inputs.on_host()(batch))
        assert inputs.network((8,), 2, KEY)(features).shape == (6, 2)
