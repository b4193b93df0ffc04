"""Spaces: what the rest of Bellmark needs from Gymnasium's, and nothing more.

    to_json, from_json     a space as plain data, for configurations and exported policies (never code)
    flat_size, flatten     an observation as one float32 vector, on any leading axes
    clip_action            the action that is sent to the environment
    check_supported        a one-line refusal of what no network here can read

`flatten` and `clip_action` compute with whatever they are given: NumPy arrays stay NumPy (no JAX is imported:
a deployed policy is quicker without it), JAX arrays stay JAX and can be traced.
"""

import math
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple

from bellmark.errors import BadInput

SUPPORTED = ("Box", "Discrete", "MultiDiscrete", "MultiBinary", "Dict", "Tuple")


def _backend(*arrays):
    """NumPy for host values, `jax.numpy` as soon as one of them is a JAX array or tracer."""
    if all(isinstance(array, (np.ndarray, np.generic, int, float, bool, list, tuple)) for array in arrays):
        return np
    import jax.numpy as jnp

    return jnp


def check_supported(space: gymnasium.Space, role: str = "observation space") -> None:
    """Raise `BadInput` where `space`, or a space nested in it, is empty or not one of `SUPPORTED`."""
    if isinstance(space, (Dict, Tuple)) and not space.spaces:
        raise BadInput(f"{role} is {space}, which has no parts")
    if isinstance(space, Dict):
        for key, inner in space.spaces.items():
            check_supported(inner, f"{role}[{key!r}]")
    elif isinstance(space, Tuple):
        for index, inner in enumerate(space.spaces):
            check_supported(inner, f"{role}[{index}]")
    elif not isinstance(space, (Box, Discrete, MultiDiscrete, MultiBinary)):
        raise BadInput(f"{role} is {space!r}; supported are {', '.join(SUPPORTED)}")
    elif isinstance(space, Box) and not (
        np.issubdtype(space.dtype, np.floating)
        or np.issubdtype(space.dtype, np.integer)
        or space.dtype == np.bool_
    ):
        raise BadInput(
            f"{role} is a Box of dtype {space.dtype}; its dtype must be a float, an integer or bool"
        )
    elif 0 in (space.shape or ()):
        raise BadInput(f"{role} is {space}, which has no numbers")
    elif isinstance(space, Box):
        check_image(space, role)


MOST_CHANNELS, LEAST_SIDE = 16, 32
"""What has its shortest side first, and long ones after it, has its channels there: no picture is shaped so."""


def is_image(space: gymnasium.Space) -> bool:
    """Whether `space` is a picture: uint8 [height, width] or [height, width, channels], or the latter of booleans."""
    if not isinstance(space, Box):
        return False
    return (space.dtype == np.uint8 and len(space.shape) in (2, 3)) or (
        space.dtype == np.bool_ and len(space.shape) == 3
    )


def check_image(space: Box, role: str) -> None:
    """Refuse stacks of pictures that no convolution here reads, and pictures with their channels first."""
    shape = list(space.shape)
    allowed = "allowed: [height, width] or [height, width, channels]"
    if space.dtype == np.uint8 and len(shape) > 3:
        raise BadInput(
            f"{role} is uint8 {shape}, pictures with {len(shape) - 2} further axes; {allowed}, frames stacked on the "
            "channels (environment option frame_stack)"
        )
    if is_image(space) and len(shape) == 3 and shape[0] <= MOST_CHANNELS and min(shape[1:]) >= LEAST_SIDE:
        raise BadInput(
            f"{role} is {space.dtype} {shape}, which looks like [channels, height, width]; {allowed}: move the first "
            "axis last"
        )


def flat_size(space: gymnasium.Space) -> int:
    """The length of `flatten(space, ·)`."""
    if isinstance(space, Discrete):
        return int(space.n)
    if isinstance(space, MultiDiscrete):
        return int(space.nvec.sum())
    if isinstance(space, Dict):
        return sum(flat_size(inner) for inner in space.spaces.values())
    if isinstance(space, Tuple):
        return sum(flat_size(inner) for inner in space.spaces)
    check_supported(space)
    assert space.shape is not None
    return math.prod(space.shape)


def flatten(space: gymnasium.Space, observation: Any):
    """An observation as one float32 vector [*B, flat_size].

    Box and MultiBinary: their numbers in row-major order.  Discrete and MultiDiscrete: one-hot, counted from
    `start`.  Dict and Tuple: their parts in the space's own order.  `*B` are any leading axes.
    """
    if isinstance(space, Dict):
        parts = [flatten(inner, observation[key]) for key, inner in space.spaces.items()]
        return _backend(*parts).concatenate(parts, axis=-1)
    if isinstance(space, Tuple):
        parts = [flatten(inner, part) for inner, part in zip(space.spaces, observation, strict=True)]
        return _backend(*parts).concatenate(parts, axis=-1)
    xp = _backend(observation)
    values = xp.asarray(observation)
    if isinstance(space, Discrete):
        return (values[..., None] == xp.arange(space.start, space.start + space.n)).astype(np.float32)
    assert space.shape is not None
    leading = values.shape[: values.ndim - len(space.shape)]
    if isinstance(space, MultiDiscrete):
        values = (values - space.start).reshape((*leading, -1))
        hot = [values[..., i, None] == xp.arange(n) for i, n in enumerate(space.nvec.reshape(-1))]
        return xp.concatenate(hot, axis=-1).astype(np.float32)
    return values.reshape((*leading, -1)).astype(np.float32)


def possible(space: gymnasium.Space, mask: Any):
    """Whether a mask [*B, A] allows an action: every component of it, where there are several; bool [*B]."""
    if isinstance(space, MultiDiscrete):
        cuts = np.cumsum(space.nvec.reshape(-1))[:-1]
    else:
        cuts = np.arange(2, mask.shape[-1], 2) if isinstance(space, MultiBinary) else np.array([], int)
    xp = _backend(mask)
    return xp.stack([part.any(axis=-1) for part in xp.split(mask, cuts, axis=-1)]).all(axis=0)


def clip_action(space: gymnasium.Space, action):
    """The element of `space` that is sent to the environment for the learner's `action` [*B, ...].

    A Box is clipped to its bounds, so that learners may store the unclipped sample.  Learners count discrete
    actions from 0; the space's `start` is added here and nowhere else.
    """
    if isinstance(space, Box):
        return _backend(action).clip(action, space.low, space.high)
    if isinstance(space, (Discrete, MultiDiscrete)) and np.any(space.start != 0):
        return action + space.start
    return action


def _number(value) -> float | int | str:
    """A bound as strict JSON, which has no infinity."""
    plain = value.item()
    return plain if isinstance(plain, int) or math.isfinite(plain) else str(plain)


def _bounds(array: np.ndarray) -> Any:
    """One number where all bounds are equal (the usual case, and an image's), a flat list elsewhere."""
    flat = array.reshape(-1)
    if flat.size and (flat == flat[0]).all():
        return _number(flat[0])
    return [_number(value) for value in flat]


def to_json(space: gymnasium.Space) -> dict[str, Any]:
    """`space` as plain JSON data that `from_json` reads back equal."""
    check_supported(space, "space")
    if isinstance(space, Box):
        low, high = _bounds(space.low), _bounds(space.high)
        return {
            "kind": "Box",
            "low": low,
            "high": high,
            "shape": list(space.shape),
            "dtype": space.dtype.name,
        }
    if isinstance(space, Discrete):
        return {"kind": "Discrete", "n": int(space.n), "start": int(space.start)}
    if isinstance(space, MultiDiscrete):
        sizes, start = space.nvec.tolist(), space.start.tolist()
        return {"kind": "MultiDiscrete", "sizes": sizes, "start": start, "dtype": space.dtype.name}
    if isinstance(space, MultiBinary):
        # 4 and [4] are different spaces to Gymnasium.
        size = space.n if isinstance(space.n, int) else [int(n) for n in space.n]
        return {"kind": "MultiBinary", "size": size}
    if isinstance(space, Dict):
        return {"kind": "Dict", "spaces": [[key, to_json(inner)] for key, inner in space.spaces.items()]}
    assert isinstance(space, Tuple)
    return {"kind": "Tuple", "spaces": [to_json(inner) for inner in space.spaces]}


def from_json(data: dict[str, Any]) -> gymnasium.Space:
    """The space that `to_json` described; `BadInput` for anything else.  Nothing in `data` is executed."""
    try:
        kind = data["kind"]
        if kind == "Box":
            dtype, shape = np.dtype(data["dtype"]), tuple(data["shape"])
            low, high = (_bound_array(data[side], shape, dtype) for side in ("low", "high"))
            return Box(low, high, shape, dtype.type)
        if kind == "Discrete":
            return Discrete(data["n"], start=data["start"])
        if kind == "MultiDiscrete":
            return MultiDiscrete(data["sizes"], dtype=np.dtype(data["dtype"]).type, start=data["start"])
        if kind == "MultiBinary":
            return MultiBinary(data["size"])
        if kind == "Dict":
            return Dict([(key, from_json(inner)) for key, inner in data["spaces"]])
        if kind == "Tuple":
            return Tuple([from_json(inner) for inner in data["spaces"]])
    except BadInput:
        raise
    except (KeyError, TypeError, ValueError, AssertionError) as error:
        raise BadInput(f"not a space written by bellmark: {str(data)[:200]} ({error})") from error
    raise BadInput(f"unknown kind of space {kind!r}; allowed: {', '.join(SUPPORTED)}")


def _bound_array(bound: Any, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """One side of a Box, from one number or a flat list of them, infinities as strings."""
    if isinstance(bound, list):
        floating = np.issubdtype(dtype, np.floating)
        return np.array([float(b) if floating else int(b) for b in bound], dtype).reshape(shape)
    return np.full(shape, float(bound) if isinstance(bound, str) else bound, dtype)
