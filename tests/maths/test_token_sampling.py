"""Drawing tokens: truncations against a plain sort, and draws against the distribution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bellmark.maths.token_sampling import draw, log_probabilities, min_p, top_k, top_p

LOGITS = np.random.default_rng(0).normal(0, 2, (6, 37)).astype(np.float32)


def sorted_reference(logits, keep):
    """Probabilities with everything but `keep(sorted probabilities)` most probable tokens removed."""
    out = np.zeros_like(logits, np.float64)
    for row, made in zip(logits.astype(np.float64), out, strict=True):
        p = np.exp(row - row.max())
        p /= p.sum()
        order = np.argsort(-p)
        kept = order[: keep(p[order])]
        made[kept] = p[kept] / p[kept].sum()
    return out


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
def test_temperature(temperature):
    got = np.exp(log_probabilities(jnp.asarray(LOGITS), temperature))
    want = np.exp(LOGITS / temperature)
    np.testing.assert_allclose(got, want / want.sum(1, keepdims=True), rtol=1e-5)


@pytest.mark.parametrize("k", [1, 2, 5, 36, 37, 100])
def test_top_k(k):
    got = np.exp(top_k(log_probabilities(jnp.asarray(LOGITS), 1.0), k))
    np.testing.assert_allclose(got, sorted_reference(LOGITS, lambda _: k), rtol=1e-4)


@pytest.mark.parametrize("p", [0.01, 0.3, 0.9, 0.999, 1.0])
def test_top_p(p):
    got = np.exp(top_p(log_probabilities(jnp.asarray(LOGITS), 1.0), p))
    want = sorted_reference(LOGITS, lambda sorted_p: 1 + int((np.cumsum(sorted_p) < p - 1e-9).sum()))
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("p", [0.05, 0.5, 1.0])
def test_min_p(p):
    got = np.exp(min_p(log_probabilities(jnp.asarray(LOGITS), 1.0), p))
    want = sorted_reference(LOGITS, lambda sorted_p: int((sorted_p >= p * sorted_p[0] * (1 - 1e-6)).sum()))
    np.testing.assert_allclose(got, want, rtol=1e-4)


def test_ties_are_kept_together():
    log_probs = jnp.log(jnp.array([[0.3, 0.3, 0.3, 0.1]]))
    np.testing.assert_allclose(np.exp(top_k(log_probs, 2)), [[1 / 3, 1 / 3, 1 / 3, 0]], rtol=1e-5)


@pytest.mark.parametrize("vocabulary", [1, 2, 3, 10, 37, 1000])
def test_draw_is_the_inverse_of_the_cumulated_probability(vocabulary):
    """A grid of uniform numbers: every token gets its share of the grid, to a point at either end."""
    p = np.random.default_rng(vocabulary).dirichlet(np.full(vocabulary, 0.5))
    points = 20_000
    grid = (np.arange(points) + 0.5) / points
    log_probs = jnp.broadcast_to(jnp.log(jnp.asarray(p, jnp.float32) + 1e-30), (points, vocabulary))
    tokens = np.asarray(jax.jit(draw)(log_probs, jnp.asarray(grid, jnp.float32)))
    count = np.bincount(tokens, minlength=vocabulary)
    assert len(count) == vocabulary
    # a float32 sum of the probabilities below a token may move its borders by a few points of the grid
    np.testing.assert_allclose(count / points, p, atol=3 / points)
    assert (np.diff(tokens) >= 0).all()


def test_impossible_tokens_are_never_drawn():
    """Not at 0, and not at the largest float32 below 1, where rounding has run out of mass."""
    rng = np.random.default_rng(0)
    logits = jnp.asarray(rng.normal(0, 3, (500, 50)), jnp.float32)
    log_probs = top_k(log_probabilities(logits, 1.0), 3)
    for uniform in (0.0, 0.5, 1 - 2**-24):
        tokens = draw(log_probs, jnp.full(500, uniform, jnp.float32))
        assert (np.take_along_axis(np.asarray(log_probs), np.asarray(tokens)[:, None], 1) > -50).all()
