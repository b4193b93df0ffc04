"""Q-learning's sampling loop once more, for the commonest case, compiled for just that case.

    a constant step size and ε, every action in every state, two or four of them, rows of equal length

Bit for bit what `loop` does around `q_learning`: the same numbers are drawn in the same order, and added in the same
order. What it leaves out is every question whose answer is known before the first step. The questions themselves are
cheap, as the processor foresees their answers; but what they need keeps registers occupied, and two seeds that take
turns in one thread then spill into memory what a step should keep at hand. Without them two seeds make half as many
steps again, on models from FrozenLake to garnets.
"""

import functools
import types
from typing import Any

import numpy as np

from .exploration import among, scan
from .generator import uniform
from .kernels import called, inlined, kernel
from .problem import TableProblem
from .sampling import draw_start
from .settings import Settings

WIDTHS = (2, 4)
"""Numbers of actions for which there are loops: those whose maximum is taken without counting."""

_0, _1, _2, _3, _4, _6, _8 = (np.uint64(k) for k in (0, 1, 2, 3, 4, 6, 8))


def is_plain(settings: Settings, problem: TableProblem) -> bool:
    """Whether the loops here do what is asked."""
    constant = settings.step_schedule == 0 and settings.exploration == 0 and settings.epsilon_schedule == 0
    tables = problem.tables
    return (
        constant
        and tables is not None
        and tables.branching > 0
        and len(problem.available) == 0
        and problem.num_actions in WIDTHS
    )


@inlined
def scan_2(q: Any, s: int) -> Any:
    """As `exploration.scan` for two actions."""
    v0, v1 = q[s, _0], q[s, _1]
    return max(v0, v1), np.uint64(v1 >= v0), np.int64(1) + np.int64(v0 == v1)


@inlined
def scan_4(q: Any, s: int) -> Any:
    """As `exploration.scan` for four actions."""
    v0, v1, v2, v3 = q[s, _0], q[s, _1], q[s, _2], q[s, _3]
    best = max(max(v0, v1), max(v2, v3))
    first, second = np.int64(v0 == best), np.int64(v1 == best)
    third, fourth = np.int64(v2 == best), np.int64(v3 == best)
    return best, np.uint64(second + 2 * third + 3 * fourth), first + second + (third + fourth)


@inlined
def highest_2(q: Any, s: int) -> float:
    return max(q[s, _0], q[s, _1])


@inlined
def highest_4(q: Any, s: int) -> float:
    return max(max(q[s, _0], q[s, _1]), max(q[s, _2], q[s, _3]))


@called
def unused_choice(q: Any, available: Any, generator: Any, s: int) -> None:
    """What the learner draws for the action after a truncated step, which nobody takes."""
    best, _, ties = scan(q, available, s)
    uniform(generator)
    if ties > 1:
        among(q, available, s, best, ties, generator)


def _advance(
    settings: Any,
    tables: Any,
    q: Any,
    visits: Any,
    available: Any,
    generator: Any,
    tally: Any,
    s: int,
    a: int,
    length: int,
    total: float,
) -> Any:
    """One step: see `loop` and `q_learning`. The global names are those of `_compiled`."""
    pair = s * width + a
    if certain:
        reward, code = tables.columns[pair * _4 + _1], tables.codes[pair * _8 + _6]
    else:
        x = uniform(generator) * tables.branching
        j = np.int64(x)
        column = pair * np.uint64(tables.branching) + np.uint64(j)
        other = np.uint64(x - j >= tables.columns[column * _4])
        reward, code = tables.columns[column * _4 + _1 + other], tables.codes[column * _8 + _6 + other]
    length += 1
    total += reward
    visits[s, a] += np.uint32(1)
    if code < 0:
        q[s, a] += settings.step_size * (reward - q[s, a])
        following = np.uint64(0)
    else:
        following = np.uint64(code)
        q[s, a] += settings.step_size * (reward + settings.discount * highest_of(q, following) - q[s, a])
    if code < 0 or length == settings.limit:
        if code >= 0:
            unused_choice(q, available, generator, following)
        tally[0] += 1.0
        tally[1] += total
        tally[2] += total * total
        tally[3] += length
        length, total = 0, 0.0
        following = draw_start(tables.starts, tables.start_codes, generator)
    return following, chosen(settings, q, available, generator, following), length, total


def _chosen(settings: Any, q: Any, available: Any, generator: Any, s: int) -> Any:
    best, choice, ties = scan_of(q, s)
    u = uniform(generator)
    if ties > 1:
        choice = among(q, available, s, best, ties, generator)
    return np.uint64(np.int64(u / settings.epsilon * signed_width)) if u < settings.epsilon else choice


def _enter(settings: Any, tables: Any, q: Any, available: Any, place: Any, generator: Any) -> Any:
    """The state and action to go on from: those in `place`, or the first ones."""
    if place[0] >= 0:
        return np.uint64(place[0]), np.uint64(place[1])
    s = draw_start(tables.starts, tables.start_codes, generator)
    return s, chosen(settings, q, available, generator, s)


def _loop(
    settings: Any,
    tables: Any,
    q: Any,
    visits: Any,
    available: Any,
    place: Any,
    running: Any,
    generator: Any,
    tally: Any,
    steps: int,
    memory: Any,
) -> None:
    s, a = enter(settings, tables, q, available, place, generator)
    length, total = place[2], running[0]
    for _ in range(steps):
        s, a, length, total = advance(
            settings, tables, q, visits, available, generator, tally, s, a, length, total
        )
    place[0], place[1], place[2] = s, a, length
    place[3] += steps
    running[0] = total


def _loop_of_two(
    settings: Any,
    tables: Any,
    available: Any,
    steps: int,
    q: Any,
    visits: Any,
    place: Any,
    running: Any,
    generator: Any,
    tally: Any,
    memory: Any,
    q2: Any,
    visits2: Any,
    place2: Any,
    running2: Any,
    generator2: Any,
    tally2: Any,
    memory2: Any,
) -> None:
    s, a = enter(settings, tables, q, available, place, generator)
    t, b = enter(settings, tables, q2, available, place2, generator2)
    length, total = place[2], running[0]
    length2, total2 = place2[2], running2[0]
    for _ in range(steps):
        s, a, length, total = advance(
            settings, tables, q, visits, available, generator, tally, s, a, length, total
        )
        t, b, length2, total2 = advance(
            settings, tables, q2, visits2, available, generator2, tally2, t, b, length2, total2
        )
    place[0], place[1], place[2] = s, a, length
    place2[0], place2[1], place2[2] = t, b, length2
    place[3] += steps
    place2[3] += steps
    running[0], running2[0] = total, total2


def loop_for(problem: TableProblem) -> Any:
    """The loop of one seed for `problem`, of which `is_plain` holds."""
    return _compiled(_loop, problem.num_actions, problem.tables.branching == 1)  # type: ignore[union-attr]


def loop_of_two_for(problem: TableProblem) -> Any:
    """The same of two seeds, which take turns in one thread."""
    return _compiled(_loop_of_two, problem.num_actions, problem.tables.branching == 1)  # type: ignore[union-attr]


@functools.cache
def _compiled(loop: Any, actions: int, certain: bool) -> Any:
    """`loop` for so many actions, where transitions are certain or drawn: names and values put in as globals, so that
    Numba keeps the machine code on disk (a closure over kernels it does not; see `loop._around`).
    """
    names = {
        **globals(),
        "width": np.uint64(actions),
        "signed_width": actions,
        "certain": certain,
        "scan_of": scan_2 if actions == 2 else scan_4,
        "highest_of": highest_2 if actions == 2 else highest_4,
    }
    for part in (_chosen, _enter, _advance):
        names[part.__name__[1:]] = inlined(types.FunctionType(part.__code__, names))
    name = f"plain{loop.__name__}_{actions}_{'certain' if certain else 'drawn'}"
    code = loop.__code__.replace(co_name=name, co_qualname=name)
    function = types.FunctionType(code, names, name)
    function.__qualname__, function.__module__ = name, __name__
    return kernel(function)
