"""The loop that samples a model, written once and compiled around each learner's own two kernels.

    begin(settings, values, visits, available, generator, clock, s, *memory) → a
    learn(settings, values, visits, available, generator, clock, s, a, r, s′, terminated, truncated, *memory) → a′

`learn` sees one transition at a time, in a model's loop as on the host, and returns the next action; where the episode
ended its answer is not used. States and actions are unsigned: Numba then needs no test for negative places.
"""

import inspect
import types
from typing import Any

import numpy as np

from .kernels import kernel
from .sampling import draw, draw_start

STATE, ACTION, LENGTH, CLOCK = range(4)
"""Where `place`, int64 [4], holds the current state (−1 before the first episode), action, episode length and step."""

COUNT, RETURN, SQUARE, STEPS = range(4)
"""Where `tally`, float64 [4], adds up the episodes that ended: their number, returns, squared returns, lengths."""


def _loop(
    settings: Any,
    tables: Any,
    values: Any,
    visits: Any,
    available: Any,
    place: Any,
    running: Any,
    generator: Any,
    tally: Any,
    steps: int,
    memory: Any,
) -> None:
    # Unpacked once: to fetch an array out of a tuple costs an atomic operation, each time.
    successors, rewards, threshold, alias, offsets, branching, start_threshold, start_alias = tables
    width = np.uint64(len(offsets) // max(values.shape[0], 1))
    clock, length, total = place[3], place[2], running[0]
    if place[0] < 0:
        s = draw_start(start_threshold, start_alias, generator)
        a = begin(settings, values, visits, available, generator, clock, s, *memory)
    else:
        s, a = np.uint64(place[0]), np.uint64(place[1])
    for _ in range(steps):
        drawn = draw(offsets, branching, threshold, alias, s * width + a, generator)
        reward, code = rewards[drawn], successors[drawn]
        terminated = code < 0
        following = np.uint64(-1 - code if terminated else code)
        length += 1
        total += reward
        truncated = length == settings.limit and not terminated
        a = learn(
            settings,
            values,
            visits,
            available,
            generator,
            clock,
            s,
            a,
            reward,
            following,
            terminated,
            truncated,
            *memory,
        )
        clock += 1
        s = following
        if terminated or truncated:
            tally[0] += 1.0
            tally[1] += total
            tally[2] += total * total
            tally[3] += length
            length, total = 0, 0.0
            s = draw_start(start_threshold, start_alias, generator)
            a = begin(settings, values, visits, available, generator, clock, s, *memory)
    place[0], place[1], place[2], place[3] = s, a, length, clock
    running[0] = total


def loop_around(begin: Any, learn: Any) -> Any:
    """`_loop` compiled around two kernels.

    A closure over kernels cannot be kept on disk by Numba (a kernel's identity differs from process to process), a
    function with globals of its own can: it gets the learner's file and a name of its own, so that what is kept is
    found again, and compiled anew when the learner's file has changed.
    """
    name = f"loop_around_{learn.py_func.__name__}"
    source = inspect.getfile(learn.py_func)
    code = _loop.__code__.replace(co_filename=source, co_name=name, co_qualname=name)
    function = types.FunctionType(code, {**globals(), "begin": begin, "learn": learn}, name)
    function.__qualname__, function.__module__ = name, learn.py_func.__module__
    return kernel(function)
