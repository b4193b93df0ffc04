"""Heads: one for every action space, and what they do with noise equals what their distributions say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces

from bellmark.errors import BadInput
from bellmark.networks.heads import CategoricalHead, GaussianHead, MultiCategoricalHead, head_for

KEY = jax.random.key(0)


@pytest.mark.parametrize(
    ("space", "outputs", "kind"),
    [
        (spaces.Discrete(3), 3, CategoricalHead),
        (spaces.Discrete(3, start=-1), 3, CategoricalHead),
        (spaces.MultiDiscrete([2, 5]), 7, MultiCategoricalHead),
        (spaces.MultiBinary(4), 8, MultiCategoricalHead),
        (spaces.Box(-1, 1, (2,)), 2, GaussianHead),
    ],
)
def test_every_space_has_its_head(space, outputs, kind):
    head = head_for(space, initial_log_std=-0.5)
    assert isinstance(head, kind)
    assert head.outputs == outputs
    parameters = jnp.zeros((6, outputs))
    action = head.act(parameters, head.noise(KEY, (6,)), None)
    assert action.shape == (6, *space.shape)
    assert head.distribution(parameters).log_prob(action).shape == (6,)
    if isinstance(head, GaussianHead):
        np.testing.assert_array_equal(head.log_std, [-0.5, -0.5])


@pytest.mark.parametrize(
    ("space", "says"),
    [
        (spaces.Box(-1, 1, (2, 2)), "no policy head"),
        (spaces.Box(0, 9, (2,), np.int32), "int32"),
        (spaces.MultiDiscrete([[2, 2], [2, 2]]), "no policy head"),
        (spaces.Dict({"a": spaces.Discrete(2)}), "no policy head"),
        (spaces.Text(3), "no policy head"),
    ],
)
def test_a_space_without_a_head_is_refused_in_one_line(space, says):
    with pytest.raises(BadInput, match=says) as refusal:
        head_for(space)
    assert "\n" not in str(refusal.value)
    assert "allowed" in str(refusal.value)


HEADS = [CategoricalHead(4), MultiCategoricalHead((2, 2)), GaussianHead(jnp.array([0.3, -1.0, 0.0, -0.2]))]
PARAMETERS = jax.random.normal(jax.random.key(1), (64, 4))
MASK = jnp.asarray(np.random.default_rng(0).random((64, 4)) < 0.5).at[:, [0, 2]].set(True)


@pytest.mark.parametrize("head", HEADS, ids=lambda head: type(head).__name__)
@pytest.mark.parametrize("masked", [False, True])
class TestActing:
    def mask(self, head, masked):
        return MASK if masked and not isinstance(head, GaussianHead) else None

    def test_without_noise_it_is_the_mode(self, head, masked):
        mask = self.mask(head, masked)
        np.testing.assert_array_equal(
            head.act(PARAMETERS, 0.0, mask), head.distribution(PARAMETERS, mask).mode()
        )
        host = head.on_host()(np.asarray(PARAMETERS), 0.0, None if mask is None else np.asarray(mask))
        np.testing.assert_array_equal(host, head.act(PARAMETERS, 0.0, mask))

    def test_with_noise_it_is_the_sample_of_the_same_key(self, head, masked):
        mask = self.mask(head, masked)
        noise = head.noise(KEY, (64,))
        got = head.act(PARAMETERS, noise, mask)
        np.testing.assert_allclose(got, head.distribution(PARAMETERS, mask).sample(KEY), rtol=1e-6)

    def test_numpy_acts_as_the_compiler_does(self, head, masked):
        mask = self.mask(head, masked)
        noise = head.noise(KEY, (64,))
        compiled = jax.jit(lambda head, *given: head.act(*given))(head, PARAMETERS, noise, mask)
        host = head.on_host()(
            np.asarray(PARAMETERS), np.asarray(noise), None if mask is None else np.asarray(mask)
        )
        if isinstance(head, GaussianHead):
            assert host.dtype == np.float32
            np.testing.assert_allclose(host, compiled, rtol=1e-6, atol=1e-6)
        else:
            np.testing.assert_array_equal(host, compiled)


def test_masked_parts_are_never_chosen():
    head = MultiCategoricalHead((2, 2))
    mask = jnp.array([False, True, True, False])
    action = head.act(jnp.array([50.0, 0.0, 0.0, 50.0]), head.noise(KEY, (1000,)), mask)
    np.testing.assert_array_equal(action, np.tile([1, 0], (1000, 1)))


def test_the_standard_deviation_is_learned():
    head = GaussianHead(jnp.zeros(2))
    slope = jax.grad(lambda head: head.distribution(jnp.zeros((3, 2))).entropy().mean())(head)
    np.testing.assert_allclose(slope.log_std, [1.0, 1.0])
