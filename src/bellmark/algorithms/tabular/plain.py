"""Q-learning's sampling loop once more, for the commonest case, compiled for just that case.

    a constant step size and ε, every action in every state, two or four of them, rows of equal length

Bit for bit what `loop` does around `q_learning`: the same numbers are drawn in the same order, and added in the same
order. What it leaves out is every question whose answer is known before the first step. The questions themselves are
cheap, as the processor foresees their answers; but what they need keeps registers occupied, and two seeds that take
turns in one thread then spill into memory what a step should keep at hand. `python benchmarks/tabular.py` says
what it brings.
"""

import functools
from typing import Any

import numpy as np

from .exploration import among, highest_2, highest_4, scan, scan_2, scan_4
from .generator import uniform
from .kernels import called
from .loop import assembled, one_seed, two_seeds
from .problem import TableProblem
from .sampling import draw_start
from .settings import Settings

WIDTHS = (2, 4)
"""Numbers of actions for which there are loops: those whose maximum is taken without counting."""

_1, _4, _6, _8 = (np.uint64(k) for k in (1, 4, 6, 8))


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
    clock: int,
    s: int,
    a: int,
    length: int,
    total: float,
    memory: Any,
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


def _enter(
    settings: Any,
    tables: Any,
    q: Any,
    visits: Any,
    available: Any,
    place: Any,
    generator: Any,
    memory: Any,
) -> Any:
    """The state and action to go on from: those in `place`, or the first ones."""
    if place[0] >= 0:
        return np.uint64(place[0]), np.uint64(place[1])
    s = draw_start(tables.starts, tables.start_codes, generator)
    return s, chosen(settings, q, available, generator, s)


def loop_for(problem: TableProblem) -> Any:
    """The loop of one seed for `problem`, of which `is_plain` holds."""
    return _compiled(one_seed, problem.num_actions, problem.tables.branching == 1)  # type: ignore[union-attr]


def loop_of_two_for(problem: TableProblem) -> Any:
    """The same of two seeds, which take turns in one thread."""
    return _compiled(two_seeds, problem.num_actions, problem.tables.branching == 1)  # type: ignore[union-attr]


@functools.cache
def _compiled(loop: Any, actions: int, certain: bool) -> Any:
    """`loop` for so many actions, where transitions are certain or drawn."""
    names = {
        **globals(),
        "width": np.uint64(actions),
        "signed_width": actions,
        "certain": certain,
        "scan_of": scan_2 if actions == 2 else scan_4,
        "highest_of": highest_2 if actions == 2 else highest_4,
    }
    name = f"plain_{loop.__name__}_{actions}_{'certain' if certain else 'drawn'}"
    parts = {"chosen": _chosen, "enter": _enter, "advance": _advance}
    return assembled(loop, name, __file__, __name__, names, parts)
