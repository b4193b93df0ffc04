"""Running moments equal NumPy's over all samples at once, however they came in."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bellmark.maths.moments import Moments

SAMPLES = (
    np.random.default_rng(0).normal([5.0, -100.0, 0.01], [1.0, 20.0, 0.001], (600, 3)).astype(np.float32)
)


def after(*batches):
    moments = Moments.start(batches[0].shape[1:])
    for batch in batches:
        moments = moments.add(jnp.asarray(batch))
    return moments


@pytest.mark.parametrize("cuts", [[], [1], [599], [100, 101, 300], list(range(1, 600))])
def test_any_split_gives_the_same(cuts):
    moments = after(*np.split(SAMPLES, cuts))
    np.testing.assert_allclose(moments.mean, SAMPLES.mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(moments.variance, SAMPLES.var(0), rtol=1e-3, atol=2e-7)
    assert float(moments.count) == pytest.approx(600, abs=1e-2)


def test_no_digits_are_lost_to_a_large_mean():
    """E[x²] − E[x]² in float32 would give a variance of 0, or a negative one."""
    samples = (1e4 + np.random.default_rng(1).normal(size=(4096, 1))).astype(np.float32)
    moments = after(*np.split(samples, 32))
    # the prior's mean of 0 counts for 1e-4 of a sample, a squared distance of 1e8
    prior = 1e-4 * 1e8 / 4096
    assert float(moments.variance[0]) == pytest.approx(float(samples.var()) + prior, rel=0.02)


def test_single_numbers_and_pictures():
    numbers = after(SAMPLES[:, 0])
    np.testing.assert_allclose(numbers.mean, SAMPLES[:, 0].mean(), rtol=1e-5)
    assert after(SAMPLES.reshape(200, 3, 3)).variance.shape == (3, 3)


def test_normalise_and_scale():
    moments = after(SAMPLES)
    normalised = np.asarray(moments.normalise(jnp.asarray(SAMPLES)))
    np.testing.assert_allclose(normalised.mean(0), 0, atol=2e-3)
    np.testing.assert_allclose(normalised.std(0)[:2], 1, rtol=1e-2)
    far = moments.normalise(jnp.full((1, 3), 1e9))
    np.testing.assert_array_equal(far, [[10, 10, 10]])
    np.testing.assert_array_equal(moments.normalise(jnp.full((1, 3), -1e9), clip=5.0), [[-5, -5, -5]])
    scaled = moments.scale(jnp.asarray(SAMPLES), clip=1e9)
    np.testing.assert_array_equal(np.sign(scaled), np.sign(SAMPLES))  # never shifted
    np.testing.assert_array_equal(moments.scale(jnp.full((1, 3), -1e9)), [[-10, -10, -10]])


def test_numpy_gives_what_jax_gives():
    moments = after(SAMPLES)
    on_host = jax.tree.map(np.asarray, moments)
    got = on_host.normalise(SAMPLES)
    assert isinstance(got, np.ndarray)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, moments.normalise(jnp.asarray(SAMPLES)), rtol=1e-6, atol=1e-6)
