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

from .kernels import called, inlined, kernel
from .sampling import draw, draw_start

STATE, ACTION, LENGTH, CLOCK = range(4)
"""Where `place`, int64 [4], holds the current state (−1 before the first episode), action, episode length and step."""

COUNT, RETURN, SQUARE, STEPS = range(4)
"""Where `tally`, float64 [4], adds up the episodes that ended: their number, returns, squared returns, lengths."""


def _advance(
    settings: Any,
    tables: Any,
    values: Any,
    visits: Any,
    available: Any,
    generator: Any,
    tally: Any,
    clock: int,
    s: int,
    a: int,
    length: int,
    total: float,
    memory: Any,
) -> Any:
    """One step: the next state and action, and the length and return of the episode so far."""
    columns, codes, offsets, branching, starts, start_codes = tables
    width = np.uint64((len(offsets) - 1) // max(values.shape[0], 1))
    reward, code = draw(columns, codes, offsets, branching, s * width + a, generator)
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
    if terminated or truncated:
        tally[0] += 1.0
        tally[1] += total
        tally[2] += total * total
        tally[3] += length
        length, total = 0, 0.0
        following = draw_start(starts, start_codes, generator)
        a = begin(settings, values, visits, available, generator, clock + 1, following, *memory)
    return following, a, length, total


def _enter(
    settings: Any,
    tables: Any,
    values: Any,
    visits: Any,
    available: Any,
    place: Any,
    generator: Any,
    memory: Any,
) -> Any:
    """The state and action to go on from: those in `place`, or the first ones."""
    if place[0] >= 0:
        return np.uint64(place[0]), np.uint64(place[1])
    _, _, _, _, starts, start_codes = tables
    s = draw_start(starts, start_codes, generator)
    return s, np.uint64(begin(settings, values, visits, available, generator, place[3], s, *memory))


def one_seed(
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
    s, a = enter(settings, tables, values, visits, available, place, generator, memory)
    clock, length, total = place[3], place[2], running[0]
    for _ in range(steps):
        s, a, length, total = advance(
            settings, tables, values, visits, available, generator, tally, clock, s, a, length, total, memory
        )
        clock += 1
    place[0], place[1], place[2], place[3] = s, a, length, clock
    running[0] = total


def two_seeds(
    settings: Any,
    tables: Any,
    available: Any,
    steps: int,
    values: Any,
    visits: Any,
    place: Any,
    running: Any,
    generator: Any,
    tally: Any,
    memory: Any,
    values2: Any,
    visits2: Any,
    place2: Any,
    running2: Any,
    generator2: Any,
    tally2: Any,
    memory2: Any,
) -> None:
    s, a = enter(settings, tables, values, visits, available, place, generator, memory)
    t, b = enter(settings, tables, values2, visits2, available, place2, generator2, memory2)
    clock, length, total = place[3], place[2], running[0]
    clock2, length2, total2 = place2[3], place2[2], running2[0]
    for _ in range(steps):
        s, a, length, total = advance(
            settings, tables, values, visits, available, generator, tally, clock, s, a, length, total, memory
        )
        t, b, length2, total2 = advance(
            settings,
            tables,
            values2,
            visits2,
            available,
            generator2,
            tally2,
            clock2,
            t,
            b,
            length2,
            total2,
            memory2,
        )
        clock += 1
        clock2 += 1
    place[0], place[1], place[2], place[3] = s, a, length, clock
    place2[0], place2[1], place2[2], place2[3] = t, b, length2, clock2
    running[0], running2[0] = total, total2


def loop_around(begin: Any, learn: Any) -> Any:
    """`one_seed` compiled around two kernels."""
    return _around(one_seed, "loop_around", begin, learn)


def loop_of_two_around(begin: Any, learn: Any) -> Any:
    """Two seeds in one thread, turn by turn: while one waits for its memory the processor goes on with the other.

    The seeds share nothing that either writes to; each one's numbers are those that it has alone.
    """
    return _around(two_seeds, "loop_of_two_around", begin, learn)


def _around(loop: Any, title: str, begin: Any, learn: Any) -> Any:
    """A loop compiled around two kernels. It gets the learner's file, and is compiled anew when that has changed."""
    # episodes begin seldom: called, so that the loop stays small and compiles quickly
    kernels = {**globals(), "begin": called(begin.py_func), "learn": learn}
    source, name = inspect.getfile(learn.py_func), f"{title}_{learn.py_func.__name__}"
    return assembled(
        loop, name, source, learn.py_func.__module__, kernels, {"advance": _advance, "enter": _enter}
    )


def assembled(
    loop: Any, name: str, source: str, module: str, kernels: dict[str, Any], parts: dict[str, Any]
) -> Any:
    """`loop` compiled with `parts` inside it, all of them reading `kernels` as their globals.

    A closure over kernels cannot be kept on disk by Numba (a kernel's identity differs from process to process), a
    function with globals of its own can: it gets a file and a name of its own, so that what is kept is found again.
    """
    for title, part in parts.items():
        kernels[title] = inlined(types.FunctionType(part.__code__, kernels))
    code = loop.__code__.replace(co_filename=source, co_name=name, co_qualname=name)
    function = types.FunctionType(code, kernels, name)
    function.__qualname__, function.__module__ = name, module
    return kernel(function)
