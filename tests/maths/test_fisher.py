"""Fisher-vector products against the Fisher matrix written out, E[∇log π ∇log πᵀ] over the policy's own actions."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from bellmark.maths import means
from bellmark.maths.fisher import fisher_vector_product
from bellmark.networks.heads import CategoricalHead, GaussianHead, MultiCategoricalHead
from bellmark.networks.mlp import MLP

SAMPLES, FEATURES = 5, 3


class Actor(eqx.Module):
    network: MLP
    head: CategoricalHead | MultiCategoricalHead | GaussianHead


HEADS = {
    "categorical": (CategoricalHead(4), False),
    "categorical with masks": (CategoricalHead(4), True),
    "categorical with many actions": (CategoricalHead(6), False),  # not a narrow layer
    "multi-categorical": (MultiCategoricalHead((2, 3)), False),
    "multi-categorical with masks": (MultiCategoricalHead((2, 3)), True),
    "Gaussian": (GaussianHead(jnp.array([-0.3, 0.4])), False),
}


@pytest.fixture(params=HEADS)
def case(request):
    head, masked = HEADS[request.param]
    actor = Actor(MLP.start(FEATURES, (4,), head.outputs, jax.random.key(1), last_scale=1.0), head)
    features = jax.random.normal(jax.random.key(2), (SAMPLES, FEATURES))
    mask = None
    if masked:
        mask = np.random.default_rng(0).random((SAMPLES, head.outputs)) < 0.6
        mask[:, [0, 2, 3]] = True  # something is left in every component
        mask[0, 1] = False
        mask = jnp.asarray(mask)
    vector, unflatten = ravel_pytree(actor)

    def distribution(vector):
        actor = unflatten(vector)
        return actor.head.distribution(actor.network(features), mask)

    return distribution, vector, mask


def explicit(distribution, vector, mask):
    """The mean over samples of Σ_a π(a) ∇log π(a) ∇log π(a)ᵀ; for Gaussians by quadrature."""
    at = distribution(vector)
    if isinstance(at, type(GaussianHead(jnp.zeros(2)).distribution(jnp.zeros((1, 2))))):
        nodes, weights = np.polynomial.hermite_e.hermegauss(
            5
        )  # exact to the ninth power; the score's square is a fourth
        grid = np.array(list(itertools.product(nodes, repeat=2)))
        chances = np.array(list(itertools.product(weights / weights.sum(), repeat=2))).prod(1)
        actions = [at.mean + jnp.exp(at.log_std) * jnp.float32(z) for z in grid]
        chance = [np.full(SAMPLES, c) for c in chances]
    elif hasattr(at, "sizes"):
        actions = [jnp.full((SAMPLES, 2), jnp.array(a)) for a in itertools.product(*map(range, at.sizes))]
        chance = [np.exp(at.log_prob(a)) for a in actions]
    else:
        actions = [jnp.full(SAMPLES, a) for a in range(at.logits.shape[1])]
        chance = [np.exp(at.log_prob(a)) for a in actions]
    matrix = np.zeros((len(vector), len(vector)))
    slopes = jax.jit(jax.jacobian(lambda v, a: distribution(v).log_prob(a)))
    for action, weight in zip(actions, chance, strict=True):
        slope = np.asarray(slopes(vector, action), float)
        possible = np.asarray(weight) > 0
        matrix += np.einsum("n,ni,nj->ij", weight[possible], slope[possible], slope[possible]) / SAMPLES
    return matrix


def by_products(product, size):
    return np.asarray(jax.jit(jax.vmap(product))(jnp.eye(size)), float)


def test_products_are_those_of_the_explicit_matrix(case):
    distribution, vector, mask = case
    matrix = by_products(fisher_vector_product(distribution, vector), len(vector))
    want = explicit(distribution, vector, mask)
    assert np.abs(want).max() > 0.1
    np.testing.assert_allclose(matrix, want, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-6)
    assert np.linalg.eigvalsh(matrix).min() > -1e-6


def test_products_are_those_of_the_kl_differentiated_twice(case):
    """In the parameters themselves, forwards over backwards and backwards over backwards."""
    distribution, vector, _ = case
    old = distribution(vector)
    divergence = lambda v: means.mean(old.kl(distribution(v)))  # noqa: E731
    matrix = by_products(fisher_vector_product(distribution, vector), len(vector))
    for hessian in (jax.hessian(divergence), jax.jacrev(jax.grad(divergence))):
        np.testing.assert_allclose(matrix, jax.jit(hessian)(vector), rtol=1e-3, atol=2e-5)


def test_another_policy_has_another_matrix(case):
    distribution, vector, mask = case
    elsewhere = by_products(fisher_vector_product(distribution, vector + 0.5), len(vector))
    assert np.abs(elsewhere - explicit(distribution, vector, mask)).max() > 0.05
