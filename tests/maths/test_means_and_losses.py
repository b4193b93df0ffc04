"""Averages under masks; losses against finite differences; estimators of divergence against their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arrays import on_numpy
from bellmark.maths import divergences, losses, means

mean, variance, standardise, explained_variance, clipped_surrogate, k1, k2, k3 = map(
    on_numpy,
    (
        means.mean,
        means.variance,
        means.standardise,
        means.explained_variance,
        losses.clipped_surrogate,
        divergences.k1,
        divergences.k2,
        divergences.k3,
    ),
)

rng = np.random.default_rng(0)
X = rng.normal(2.0, 3.0, (4, 6)).astype(np.float32)
MASK = rng.random((4, 6)) < 0.6
HOLED = np.where(MASK, X, np.nan).astype(np.float32)


class TestMeans:
    def test_equal_numpy(self):
        np.testing.assert_allclose(mean(X), X.mean(), rtol=1e-6)
        np.testing.assert_allclose(variance(X), X.var(), rtol=1e-6)
        np.testing.assert_allclose(standardise(X), (X - X.mean()) / X.std(), atol=1e-6)

    def test_a_mask_leaves_only_what_it_marks(self):
        inside = X[MASK]
        np.testing.assert_allclose(mean(HOLED, MASK), inside.mean(), rtol=1e-6)
        np.testing.assert_allclose(variance(HOLED, MASK), inside.var(), rtol=1e-6)
        scaled = np.asarray(standardise(HOLED, MASK))
        np.testing.assert_allclose(scaled[MASK], (inside - inside.mean()) / inside.std(), atol=1e-6)
        assert (scaled[~MASK] == 0).all()

    @pytest.mark.parametrize("function", [mean, variance, lambda x, m: standardise(x, m)[0, 0]])
    def test_nothing_outside_the_mask_reaches_a_gradient(self, function):
        holed = jax.grad(function)(jnp.asarray(HOLED), jnp.asarray(MASK))
        whole = jax.grad(function)(jnp.asarray(X), jnp.asarray(MASK))
        np.testing.assert_array_equal(holed, whole)
        assert np.isfinite(holed).all()

    def test_nothing_marked(self):
        nothing = np.zeros_like(MASK)
        assert mean(HOLED, nothing) == 0
        assert (np.asarray(standardise(HOLED, nothing)) == 0).all()

    def test_a_minibatch_of_one(self):
        np.testing.assert_array_equal(standardise(jnp.array([3.0])), [3.0])
        one = np.zeros_like(MASK)
        one[2, 3] = True
        np.testing.assert_array_equal(np.asarray(standardise(X, one))[2, 3], X[2, 3])

    def test_equal_entries_do_not_divide_by_zero(self):
        np.testing.assert_array_equal(standardise(jnp.full(5, 7.0)), np.zeros(5))

    def test_explained_variance(self):
        target = X[0]
        assert explained_variance(target, target) == 1
        assert explained_variance(target + 5, target) == pytest.approx(1, abs=1e-6)
        assert explained_variance(np.zeros_like(target), target) == 0
        assert explained_variance(-target, target) == pytest.approx(-3, rel=1e-5)
        assert explained_variance(target, np.ones_like(target)) == 0


def difference(function, x, width=1e-2):
    return (np.asarray(function(x + width), np.float64) - np.asarray(function(x - width), np.float64)) / (
        2 * width
    )


OLD = jnp.array([-2.9, -0.5, 0.1, 0.4, 2.45])


class TestLosses:
    # none of the points lies within 0.01 of a kink
    prediction = jnp.array([-3.0, -0.8, 0.13, 0.9, 2.5])
    target = jnp.array([0.5, 0.0, 0.3, -0.7, 2.4])

    @pytest.mark.parametrize(
        "loss",
        [
            losses.squared_error,
            losses.huber,
            lambda p, t: losses.huber(p, t, 0.5),
            lambda p, t: losses.clipped_squared_error(p, t + 0.5, t, 0.2),
            lambda p, t: losses.score_function(p, t),
            lambda p, t: clipped_surrogate(p, OLD, t, 0.2),
        ],
    )
    def test_gradients_are_the_slopes(self, loss):
        slope = jax.grad(lambda p: jnp.sum(loss(p, self.target)))(self.prediction)
        want = difference(lambda p: loss(p, self.target), self.prediction)
        np.testing.assert_allclose(slope, want, rtol=2e-3, atol=2e-3)

    def test_values(self):
        error = self.prediction - self.target
        np.testing.assert_allclose(
            losses.squared_error(self.prediction, self.target), error**2 / 2, rtol=1e-6
        )
        want = np.where(abs(error) <= 1, error**2 / 2, abs(error) - 0.5)
        np.testing.assert_allclose(losses.huber(self.prediction, self.target), want, rtol=1e-6)

    def test_clipped_surrogate_in_its_four_corners(self):
        """Beyond 1 ± ε the better of the two is refused, the worse is kept: −min(ρÂ, clip(ρ)Â)."""
        log_ratio = np.log(np.array([1.5, 1.5, 0.5, 0.5], np.float32))
        advantage = np.array([2.0, -2.0, 2.0, -2.0], np.float32)
        zero = np.zeros(4, np.float32)
        got = clipped_surrogate(log_ratio, zero, advantage, 0.2)
        np.testing.assert_allclose(got, [-2.4, 3.0, -1.0, 1.6], rtol=1e-6)
        slope = jax.grad(lambda p: jnp.sum(clipped_surrogate(p, zero, advantage, 0.2)))(log_ratio)
        np.testing.assert_allclose(slope, [0.0, 3.0, -1.0, 0.0], rtol=1e-6)

    def test_surrogate_at_the_old_policy_ascends_the_policy_gradient(self):
        log_prob, advantage = jnp.asarray(-np.abs(X[0])), jnp.asarray(X[1])
        surrogate = jax.grad(lambda p: jnp.sum(clipped_surrogate(p, log_prob, advantage, 0.2)))(log_prob)
        score = jax.grad(lambda p: jnp.sum(losses.score_function(p, advantage)))(log_prob)
        np.testing.assert_array_equal(surrogate, score)
        np.testing.assert_array_equal(score, -advantage)

    def test_clipped_squared_error_takes_the_larger(self):
        got = losses.clipped_squared_error(
            jnp.array([1.0, 0.1]), jnp.array([0.0, 0.0]), jnp.array([1.0, 1.0]), 0.2
        )
        np.testing.assert_allclose(got, [0.8**2 / 2, 0.9**2 / 2], rtol=1e-6)


class TestDivergences:
    """Of two Gaussians, KL(old ‖ new) = ½(μ − μ′)²: the estimators' means and spreads over samples of the old one."""

    size, shift = 400_000, 0.3
    sample = np.random.default_rng(1).normal(size=size).astype(np.float32)
    old = -(sample**2) / 2
    new = -((sample - shift) ** 2) / 2
    exact = shift**2 / 2

    def standard_error(self, x):
        return np.asarray(x, np.float64).std() / self.size**0.5

    @pytest.mark.parametrize("estimator", [k1, k3])
    def test_unbiased(self, estimator):
        sample = np.asarray(estimator(self.new, self.old), np.float64)
        assert sample.mean() == pytest.approx(self.exact, abs=4 * self.standard_error(sample))
        reverse = np.asarray(estimator(self.old, self.new), np.float64)
        assert abs(reverse.mean() - self.exact) > 10 * self.standard_error(reverse)

    def test_k2_is_close_but_biased(self):
        sample = np.asarray(k2(self.new, self.old), np.float64)
        # ½E[(log ρ)²] = ½(shift² + shift⁴/4)
        assert sample.mean() == pytest.approx((self.shift**2 + self.shift**4 / 4) / 2, rel=0.01)

    def test_k3_is_never_negative_and_varies_less(self):
        first, third = (np.asarray(estimator(self.new, self.old)) for estimator in (k1, k3))
        assert (third >= 0).all()
        assert third.std() < first.std() / 3

    def test_no_cancellation_near_the_old_policy(self):
        got = k3(jnp.float32(1e-4), jnp.float32(0.0))
        assert got == pytest.approx(
            5e-9, rel=0.1
        )  # ½(log ρ)²; exp(x) − 1 − x in float32 would give 0 or 1e-7

    def test_k1_in_a_loss_has_no_gradient_on_average(self):
        """E[∇k1] = −E[∇log π] = 0 on the policy: why k1 belongs in the reward and k2 or ρ·k3 in the loss."""
        score = self.sample  # ∇_μ log N(x; μ, 1) at μ = 0
        first = jax.vmap(jax.grad(k1))(self.old, self.old) * score
        second = jax.vmap(jax.grad(k2))(self.new, self.old) * score
        assert abs(float(first.mean())) < 4 * self.standard_error(first)
        assert abs(float(second.mean())) > 10 * self.standard_error(second)
