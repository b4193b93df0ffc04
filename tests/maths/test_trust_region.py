"""The line search keeps both of its promises, whatever it is given; lengths and penalties by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bellmark.maths.trust_region import MOST_PENALTY, adapted_penalty, line_search, step_length, surrogate

number = st.floats(-3, 3, width=32)
vector = st.lists(number, min_size=3, max_size=3)


@jax.jit
def search(start, step, slope, bend, wave, limit):
    """Over gains and divergences that curve and wave."""

    def measure(x):
        moved = x - start
        gain = slope @ moved - bend * moved @ moved + 0.3 * jnp.sin(wave * jnp.sum(moved))
        return gain, 0.5 * moved @ moved

    found = line_search(measure, start, step, limit, 0.8, 10)
    return found, *measure(found.parameters)


@settings(max_examples=200, deadline=None)
@given(
    *[st.lists(number, min_size=3, max_size=3)] * 3,
    number,
    st.floats(0, 20, width=32),
    st.floats(0.015625, 2, width=32),
)
def test_an_accepted_step_gains_and_keeps_to_the_limit(start, step, slope, bend, wave, limit):
    start, step, slope = (jnp.array(x, jnp.float32) for x in (start, step, slope))
    found, gain, divergence = search(start, step, slope, bend, wave, limit)
    if bool(found.accepted):
        # measured again at the accepted point, in another program: equal up to its rounding
        assert float(found.gain) > 0
        assert float(divergence) <= limit * (1 + 1e-5) + 1e-6
        assert float(gain) == pytest.approx(float(found.gain), abs=1e-4)
        share = 0.8 ** (int(found.tries) - 1)
        np.testing.assert_allclose(found.parameters, start + share * step, rtol=1e-5, atol=1e-6)
    else:
        np.testing.assert_array_equal(found.parameters, start)
        assert int(found.tries) == 10
        assert float(found.gain) == float(found.divergence) == 0.0


def test_the_first_good_point_is_taken():
    measure = lambda x: (x[0], x[0] ** 2)  # noqa: E731
    found = line_search(measure, jnp.zeros(1), jnp.ones(1), 0.3, 0.5, 10)
    assert (float(found.parameters[0]), int(found.tries)) == (0.5, 2)
    assert float(found.divergence) == 0.25
    refused = line_search(measure, jnp.zeros(1), -jnp.ones(1), 0.3, 0.5, 10)
    assert not bool(refused.accepted)
    assert float(refused.parameters[0]) == 0.0
    too_few = line_search(measure, jnp.zeros(1), jnp.ones(1), 0.3, 0.5, 1)
    assert not bool(too_few.accepted)


@pytest.mark.parametrize("broken", ["gain", "divergence"])
def test_nan_is_no_gain(broken):
    def measure(x):
        bad = jnp.where(x[0] > 0.3, jnp.nan, x[0])
        return (bad, x[0] * 0) if broken == "gain" else (x[0], bad)

    found = line_search(measure, jnp.zeros(1), jnp.ones(1), 0.5, 0.5, 10)
    assert float(found.parameters[0]) == 0.25


def test_step_length():
    rng = np.random.default_rng(0)
    root = rng.normal(size=(4, 4))
    matrix, x = root @ root.T, rng.normal(size=4)
    length = float(step_length(jnp.float32(x @ matrix @ x), 0.01))
    assert 0.5 * (length * x) @ matrix @ (length * x) == pytest.approx(0.01, rel=1e-5)
    for unsound in (0.0, -1.0, jnp.nan, jnp.inf):
        assert float(step_length(jnp.float32(unsound), 0.01)) == 0.0


def test_surrogate_by_hand():
    new, old = jnp.log(jnp.array([0.5, 0.2])), jnp.log(jnp.array([0.25, 0.4]))
    np.testing.assert_allclose(surrogate(new, old, jnp.array([3.0, -1.0])), [6.0, -0.5], rtol=1e-6)


@pytest.mark.parametrize(
    ("divergence", "factor"),
    [(0.0, 0.5), (0.0066, 0.5), (0.0067, 1.0), (0.01, 1.0), (0.0149, 1.0), (0.0151, 2.0), (3.0, 2.0)],
)
def test_the_penalty_moves_as_in_the_paper(divergence, factor):
    """Target 0.01: halved below 0.01/1.5, doubled above 0.015, left alone between."""
    assert float(adapted_penalty(3.0, divergence, 0.01)) == pytest.approx(3.0 * factor)


def test_the_penalty_stays_a_number():
    assert float(adapted_penalty(MOST_PENALTY, 1.0, 0.01)) == MOST_PENALTY
    assert float(adapted_penalty(1 / MOST_PENALTY, 0.0, 0.01)) == 1 / MOST_PENALTY
