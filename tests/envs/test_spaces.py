"""Spaces as JSON, observations as vectors, actions as the environment takes them."""

import json
import subprocess
import sys

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Text, Tuple

from bellmark.envs import spaces
from bellmark.errors import BadInput

SPACES = [
    Box(-1.0, 1.0, (3,), np.float32),
    Box(np.array([-np.inf, -2.5, 0.1]), np.array([np.inf, 2.5, np.inf]), dtype=np.float64),
    Box(-np.inf, np.inf, (2, 2), np.float32),
    Box(0, 255, (8, 6, 3), np.uint8),
    Box(np.array([-3, 0]), np.array([3, 9]), dtype=np.int16),
    Discrete(5),
    Discrete(3, start=-2),
    MultiDiscrete([3, 2, 4]),
    MultiDiscrete([[3, 2], [4, 5]]),
    MultiDiscrete([3, 2], start=[1, -1]),
    MultiBinary(4),
    MultiBinary([2, 3]),
    Dict({"position": Box(0, 1, (2,)), "inner": Dict({"flag": Discrete(2), "bits": MultiBinary(3)})}),
    Tuple((Discrete(4), Box(-1, 1, (2, 2)), Tuple((Discrete(2),)))),
]


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_json_reads_back_equal(space):
    text = json.dumps(spaces.to_json(space), allow_nan=False)
    back = spaces.from_json(json.loads(text))
    assert back == space
    assert type(back) is type(space)
    space.seed(0)
    assert back.contains(space.sample())


def test_json_of_a_large_picture_is_short():
    assert len(json.dumps(spaces.to_json(Box(0, 255, (210, 160, 3), np.uint8)))) < 120


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"kind": "Graph"},
        {"kind": "Box", "low": 0, "high": 1, "shape": [2], "dtype": "__import__('os')"},
        {"kind": "Box", "low": [0], "high": 1, "shape": [2], "dtype": "float32"},
        {"kind": "Discrete", "n": "many", "start": 0},
        ["Box"],
        None,
    ],
)
def test_foreign_json_is_refused_in_one_line(data):
    with pytest.raises(BadInput, match="space") as caught:
        spaces.from_json(data)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_flatten_agrees_with_gymnasium(space):
    space.seed(1)
    for _ in range(5):
        sample = space.sample()
        flat = spaces.flatten(space, sample)
        assert isinstance(flat, np.ndarray)
        assert flat.dtype == np.float32
        assert flat.shape == (spaces.flat_size(space),)
        np.testing.assert_allclose(flat, gymnasium.spaces.flatten(space, sample), rtol=1e-6)


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_flatten_on_leading_axes_and_in_jax(space):
    space.seed(2)
    samples = [space.sample() for _ in range(6)]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves).reshape(2, 3, *np.shape(leaves[0])), *samples)
    expected = np.stack([spaces.flatten(space, sample) for sample in samples]).reshape(2, 3, -1)
    np.testing.assert_array_equal(spaces.flatten(space, stacked), expected)
    traced = jax.jit(lambda observation: spaces.flatten(space, observation))(
        jax.tree.map(jnp.asarray, stacked)
    )
    assert traced.dtype == jnp.float32
    np.testing.assert_allclose(traced, expected, rtol=1e-6)


def test_numpy_stays_without_jax():
    """A deployed policy flattens observations in a process that never pays for importing JAX."""
    code = (
        "import sys, numpy, gymnasium, bellmark.envs.spaces as s; b = gymnasium.spaces.Box(-1, 1, (3,));"
        "s.flatten(b, b.sample()); s.clip_action(b, b.sample() * 3); assert 'jax' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_clip_action():
    box = Box(np.array([-1.0, -2.0], np.float32), np.array([1.0, 2.0], np.float32))
    given = np.array([[5.0, -5.0], [0.5, 0.5]], np.float32)
    np.testing.assert_array_equal(spaces.clip_action(box, given), [[1.0, -2.0], [0.5, 0.5]])
    np.testing.assert_array_equal(
        jax.jit(lambda a: spaces.clip_action(box, a))(given), [[1.0, -2.0], [0.5, 0.5]]
    )
    actions = np.arange(3)
    assert spaces.clip_action(Discrete(3), actions) is actions
    np.testing.assert_array_equal(spaces.clip_action(Discrete(3, start=-2), actions), [-2, -1, 0])
    np.testing.assert_array_equal(
        spaces.clip_action(MultiDiscrete([3, 2], start=[1, -1]), np.array([2, 1])), [3, 0]
    )


def test_is_image():
    assert spaces.is_image(Box(0, 255, (8, 6, 3), np.uint8))
    assert spaces.is_image(Box(0, 255, (8, 6), np.uint8))
    assert not spaces.is_image(Box(0, 1, (8, 6, 3), np.float32))
    assert not spaces.is_image(Box(0, 255, (8,), np.uint8))
    assert not spaces.is_image(Discrete(3))
    assert spaces.is_image(Box(0.0, 1.0, (10, 10, 4), bool))
    assert not spaces.is_image(Box(0.0, 1.0, (10, 10), bool))


@pytest.mark.parametrize(
    "shape, said",
    [
        (
            (4, 84, 84, 3),
            r"uint8 \[4, 84, 84, 3\], pictures with 2 further axes; allowed: \[height, width\] or",
        ),
        (
            (4, 84, 84),
            r"uint8 \[4, 84, 84\], which looks like \[channels, height, width\]; allowed: .*: move the",
        ),
    ],
)
def test_pictures_of_odd_shapes_are_refused(shape, said):
    with pytest.raises(BadInput, match=said):
        spaces.check_supported(Box(0, 255, shape, np.uint8))


def test_small_and_narrow_pictures_are_pictures():
    for shape in ((3, 5, 1), (10, 10, 20), (40, 50), (84, 84, 4)):
        spaces.check_supported(Box(0, 255, shape, np.uint8))


def test_unsupported_spaces_are_named():
    with pytest.raises(BadInput, match=r"observation space\['note'\] is Text.*supported are Box"):
        spaces.check_supported(Dict({"note": Text(5)}))
    for empty in (Dict({}), Tuple(()), Box(0, 1, (0,)), Dict({"inner": Tuple(())})):
        with pytest.raises(BadInput, match="which has no"):
            spaces.check_supported(empty)
