"""Distributions: they normalise, sample what they say, and agree with integration, enumeration and Monte Carlo."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from bellmark.maths.distributions import (
    Categorical,
    Gaussian,
    MultiCategorical,
    SquashedGaussian,
    mask_logits,
)

rng = np.random.default_rng(0)
LOGITS = jnp.asarray(rng.normal(size=(3, 5)), jnp.float32)
OTHER = jnp.asarray(rng.normal(size=(3, 5)), jnp.float32)
MASK = jnp.asarray([[1, 1, 0, 1, 0], [0, 0, 1, 0, 0], [1, 1, 1, 1, 1]], bool)
SIZES = (2, 3)


def softmax(logits):
    logits = np.asarray(logits, np.float64)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


class TestCategorical:
    def test_probabilities_entropy_and_divergence(self):
        p, q = softmax(LOGITS), softmax(OTHER)
        policy = Categorical(LOGITS)
        for action in range(5):
            got = policy.log_prob(jnp.full(3, action))
            np.testing.assert_allclose(got, np.log(p[:, action]), rtol=1e-5)
        np.testing.assert_allclose(policy.entropy(), -(p * np.log(p)).sum(-1), rtol=1e-5)
        np.testing.assert_allclose(policy.kl(Categorical(OTHER)), (p * np.log(p / q)).sum(-1), rtol=1e-4)
        np.testing.assert_allclose(policy.kl(policy), 0, atol=1e-7)
        np.testing.assert_array_equal(policy.mode(), p.argmax(-1))

    def test_sampling_frequencies(self):
        policy = Categorical(jnp.broadcast_to(LOGITS[0], (100_000, 5)))
        counts = np.bincount(policy.sample(jax.random.key(0)), minlength=5)
        assert stats.chisquare(counts, 100_000 * softmax(LOGITS[0])).pvalue > 1e-3

    def test_masked_actions_are_impossible(self):
        policy = Categorical(mask_logits(LOGITS, MASK))
        probabilities = np.exp(np.asarray(policy.log_probs))
        assert (probabilities[~np.asarray(MASK)] == 0).all()
        np.testing.assert_allclose(probabilities.sum(-1), 1, rtol=1e-6)
        many = Categorical(jnp.broadcast_to(policy.logits, (20_000, 3, 5))).sample(jax.random.key(1))
        assert np.take_along_axis(
            np.asarray(MASK)[None].repeat(20_000, 0), np.asarray(many)[..., None], 2
        ).all()

    def test_entropy_counts_valid_actions_only(self):
        entropy = Categorical(mask_logits(LOGITS, MASK)).entropy()
        for row in range(3):
            p = softmax(np.asarray(LOGITS)[row][np.asarray(MASK)[row]])
            assert float(entropy[row]) == pytest.approx(-(p * np.log(p)).sum(), abs=1e-6)
        assert entropy[1] == 0  # one valid action
        equal = Categorical(mask_logits(jnp.zeros((1, 5)), MASK[:1])).entropy()
        assert float(equal[0]) == pytest.approx(np.log(3), rel=1e-6)

    @pytest.mark.parametrize(
        "quantity",
        [
            lambda policy: policy.entropy(),
            lambda policy: policy.log_prob(jnp.array([0, 2, 3])),
            lambda policy: policy.kl(Categorical(mask_logits(OTHER, MASK))),
            lambda policy: Categorical(mask_logits(OTHER, MASK)).kl(policy),
        ],
    )
    def test_gradients_through_masks_are_finite_and_zero_where_masked(self, quantity):
        gradient = jax.grad(lambda logits: jnp.sum(quantity(Categorical(mask_logits(logits, MASK)))))(LOGITS)
        assert np.isfinite(gradient).all()
        assert (np.asarray(gradient)[~np.asarray(MASK)] == 0).all()
        assert np.any(np.asarray(gradient) != 0)

    def test_entropy_gradient(self):
        """∂H/∂z_a = −π_a (log π_a + H)."""
        p = softmax(LOGITS)
        entropy = -(p * np.log(p)).sum(-1, keepdims=True)
        got = jax.grad(lambda z: jnp.sum(Categorical(z).entropy()))(LOGITS)
        np.testing.assert_allclose(got, -p * (np.log(p) + entropy), atol=1e-6)


class TestMultiCategorical:
    policy = MultiCategorical(LOGITS, SIZES)
    every = jnp.asarray(list(itertools.product(range(2), range(3))))

    def joint(self, logits):
        """[3, 6]: the probabilities of all combinations, as an outer product."""
        parts = np.split(np.asarray(logits), [2], axis=-1)
        return np.einsum("bi,bj->bij", *map(softmax, parts)).reshape(3, 6)

    def test_every_combination(self):
        for index, action in enumerate(self.every):
            got = self.policy.log_prob(jnp.broadcast_to(action, (3, 2)))
            np.testing.assert_allclose(np.exp(got), self.joint(LOGITS)[:, index], rtol=1e-5)

    def test_entropy_and_divergence(self):
        p, q = self.joint(LOGITS), self.joint(OTHER)
        np.testing.assert_allclose(self.policy.entropy(), -(p * np.log(p)).sum(-1), rtol=1e-5)
        got = self.policy.kl(MultiCategorical(OTHER, SIZES))
        np.testing.assert_allclose(got, (p * np.log(p / q)).sum(-1), rtol=1e-4)

    def test_sampling_frequencies(self):
        many = MultiCategorical(jnp.broadcast_to(LOGITS[1], (100_000, 5)), SIZES).sample(jax.random.key(2))
        counts = np.bincount(np.asarray(many) @ [3, 1], minlength=6)
        assert stats.chisquare(counts, 100_000 * self.joint(LOGITS)[1]).pvalue > 1e-3
        np.testing.assert_array_equal(self.policy.mode(), self.every[self.joint(LOGITS).argmax(-1)])


MEAN, LOG_STD = jnp.array([0.4, -0.7]), jnp.array([-0.5, 0.2])


class TestGaussian:
    policy = Gaussian(MEAN, LOG_STD)

    def test_equals_scipy(self):
        action = jnp.asarray(rng.normal(size=(50, 2)), jnp.float32)
        many = Gaussian(jnp.broadcast_to(MEAN, (50, 2)), jnp.broadcast_to(LOG_STD, (50, 2)))
        normal = stats.norm(np.asarray(MEAN), np.exp(np.asarray(LOG_STD)))
        np.testing.assert_allclose(many.log_prob(action), normal.logpdf(action).sum(-1), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(self.policy.entropy(), normal.entropy().sum(), rtol=1e-6)
        np.testing.assert_array_equal(self.policy.mode(), MEAN)

    def test_normalises(self):
        grid = np.linspace(-8, 8, 4001, dtype=np.float32)
        density = np.exp(jax.vmap(Gaussian(MEAN[:1], LOG_STD[:1]).log_prob)(jnp.asarray(grid)[:, None]))
        assert np.trapezoid(density, grid) == pytest.approx(1, abs=1e-5)

    def test_divergence_is_the_integral(self):
        other = Gaussian(jnp.array([0.0]), jnp.array([0.1]))
        mine = Gaussian(MEAN[:1], LOG_STD[:1])
        grid = jnp.linspace(-8, 8, 4001)[:, None]
        p, q = (np.asarray(jax.vmap(d.log_prob)(grid), np.float64) for d in (mine, other))
        integral = np.trapezoid(np.exp(p) * (p - q), np.asarray(grid[:, 0], np.float64))
        assert float(mine.kl(other)) == pytest.approx(integral, rel=1e-4)
        assert float(mine.kl(mine)) == pytest.approx(0, abs=1e-7)
        two = self.policy.kl(Gaussian(jnp.zeros(2), jnp.zeros(2)))
        parts = [
            Gaussian(MEAN[i : i + 1], LOG_STD[i : i + 1]).kl(Gaussian(jnp.zeros(1), jnp.zeros(1)))
            for i in (0, 1)
        ]
        assert float(two) == pytest.approx(float(sum(parts)), rel=1e-6)

    def test_samples(self):
        many = Gaussian(jnp.broadcast_to(MEAN, (20_000, 2)), jnp.broadcast_to(LOG_STD, (20_000, 2)))
        sample = np.asarray(many.sample(jax.random.key(3)))
        for i in (0, 1):
            assert (
                stats.kstest(sample[:, i], stats.norm(float(MEAN[i]), float(np.exp(LOG_STD[i]))).cdf).pvalue
                > 1e-3
            )


class TestSquashedGaussian:
    def test_normalises(self):
        """∫ π(a) da over (−1, 1), by steps in u = atanh a so that the edges are resolved."""
        u = np.linspace(-7, 7, 8001)
        action = np.tanh(u)
        policy = SquashedGaussian(MEAN[:1], LOG_STD[:1])
        log_prob = np.asarray(
            jax.vmap(policy.log_prob)(jnp.asarray(action, jnp.float32)[:, None]), np.float64
        )
        assert np.trapezoid(np.exp(log_prob), action) == pytest.approx(1, abs=1e-3)

    def test_samples_carry_their_own_log_probability(self):
        policy = SquashedGaussian(jnp.broadcast_to(MEAN, (1000, 2)), jnp.broadcast_to(LOG_STD, (1000, 2)))
        action, log_prob = policy.sample_with_log_prob(jax.random.key(4))
        # atanh recovers u within float32 of a, so only actions away from ±1 can be compared
        inside = np.abs(np.asarray(action)).max(-1) < 0.99
        np.testing.assert_allclose(policy.log_prob(action)[inside], log_prob[inside], atol=2e-3)
        assert inside.mean() > 0.8
        np.testing.assert_array_equal(policy.sample(jax.random.key(4)), action)
        np.testing.assert_array_equal(policy.mode(), jnp.tanh(policy.mean))

    @pytest.mark.parametrize("u", [0.0, 3.0, -3.0, 20.0, -20.0, 100.0, -100.0])
    def test_stable_at_large_arguments(self, u):
        """log(1 − tanh²u) → 2(log 2 − |u|); squaring the tanh would give −∞ from |u| = 9 on."""
        got = float(SquashedGaussian._log_jacobian(jnp.array([u])))
        want = np.log1p(-(np.tanh(u) ** 2)) if abs(u) < 5 else 2 * (np.log(2) - abs(u))
        assert got == pytest.approx(want, rel=1e-5, abs=1e-6)
        # the sign: probability is squeezed together near the edge, so the density grows there
        policy = SquashedGaussian(jnp.array([u]), jnp.array([-3.0]))
        _, log_prob = policy.sample_with_log_prob(jax.random.key(5))
        assert np.isfinite(log_prob)
        slope = jax.grad(
            lambda m: SquashedGaussian(m, jnp.array([-3.0])).sample_with_log_prob(jax.random.key(5))[1]
        )
        assert np.isfinite(slope(jnp.array([u]))).all()

    @pytest.mark.parametrize("edge", [-1.0, 1.0])
    def test_an_action_on_the_edge_is_finite(self, edge):
        policy = SquashedGaussian(jnp.zeros(1), jnp.zeros(1))
        assert np.isfinite(policy.log_prob(jnp.array([edge])))
        slope = jax.grad(lambda m: SquashedGaussian(m, jnp.zeros(1)).log_prob(jnp.array([edge])))(
            jnp.zeros(1)
        )
        assert np.isfinite(slope).all()
