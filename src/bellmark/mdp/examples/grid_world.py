"""Gridworlds with noisy moves: the 4×3 world of the textbooks, and any other from a text map.

    .  .  .  +1        a number is an exit that pays it, # is a wall,
    .  #  .  -1        S is where episodes begin, . is floor
    S  .  .   .

A move goes where it points with probability 1 − noise, and to each side with noise / 2; bumping into a wall
or the edge stays put. Every move made on floor pays `living_reward`. In an exit every action does the same:
it collects the exit's number, without the living reward, and the episode is over.

Source: Russell & Norvig, *Artificial Intelligence: A Modern Approach*, 4th ed., 2021, section 16.1 (living
reward −0.04, no discount); the exits that pay on the way out, and the discount grid, are those of UC
Berkeley's CS 188.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from bellmark.errors import BadInput
from bellmark.mdp.examples.table import probability, tabulate
from bellmark.mdp.layout import GridLayout
from bellmark.mdp.model import FiniteMDP, Transition

Cell = tuple[int, int]

MOVES: dict[str, Cell] = {"up": (-1, 0), "right": (0, 1), "down": (1, 0), "left": (0, -1)}
"""(rows down, columns right), clockwise, so that a move's neighbours in the list are its two sides."""

DISCOUNT_GRID = """
    .    .    .    .    .
    .    #    .    .    .
    .    #    1    #   10
    S    .    .    .    .
  -10  -10  -10  -10  -10
"""

TWO_EXITS = """
    .    .    .    .    .
    .    #    .    #    .
    .   -5    1   -5   10
    S    .    .    .    .
    .   -5   -5   -5    .
"""

BRIDGE_GRID = """
    #  -100  -100  -100  -100  -100    #
    1    S     .     .     .     .    10
    #  -100  -100  -100  -100  -100    #
"""


def grid_from_text(
    text: str,
    noise: float = 0.2,
    living_reward: float = 0.0,
    discount: float = 0.9,
    name: str = "grid",
) -> FiniteMDP:
    """A gridworld from a map: one line per row, cells separated by spaces, symbols as above.

    States are called (row, column), counted from the top left, in reading order; walls are not states.
    Without an S, episodes begin on any floor cell. **Raises** `BadInput` for an unknown symbol or a
    ragged map.
    """
    rows = [line.split() for line in text.strip().splitlines()]
    if not rows or any(len(row) != len(rows[0]) for row in rows):
        raise BadInput(
            f"every row of a map needs as many cells as the first; this one has {[len(row) for row in rows]}"
        )
    symbols = {(r, c): symbol for r, row in enumerate(rows) for c, symbol in enumerate(row)}
    exits = {cell: _exit(symbol, cell) for cell, symbol in symbols.items() if symbol not in (".", "#", "S")}
    cells = [cell for cell, symbol in symbols.items() if symbol != "#"]
    starts = [cell for cell, symbol in symbols.items() if symbol == "S"]
    starts = starts or [cell for cell in cells if cell not in exits]
    if not starts:
        raise BadInput("the map has no floor to begin on")
    spread = {"ahead": 1.0 - probability(noise, "noise"), "aside": noise / 2.0}

    def outcomes(cell: Cell, move: str) -> Iterator[Transition]:
        if cell in exits:
            yield 1.0, cell, exits[cell], True
            return
        ways = list(MOVES)
        turn = ways.index(move)
        for way, weight in (
            (turn, spread["ahead"]),
            (turn - 1, spread["aside"]),
            (turn + 1, spread["aside"]),
        ):
            yield weight, bump(cell, MOVES[ways[way % 4]], cells), living_reward, False

    return tabulate(
        cells,
        list(MOVES),
        outcomes,
        initial={cell: 1.0 / len(starts) for cell in starts},
        name=name,
        discount=discount,
        layout=grid_layout(cells, (len(rows), len(rows[0])), exits, starts),
    )


def grid_world(
    noise: float = 0.2,
    living_reward: float = 0.0,
    discount: float = 0.9,
    good_exit: float = 1.0,
    bad_exit: float = -1.0,
) -> FiniteMDP:
    """The 4×3 world: eleven states, an exit worth +1 in the corner and one worth −1 below it."""
    text = f"""
        .  .  .  {good_exit}
        .  #  .  {bad_exit}
        S  .  .  .
    """
    return grid_from_text(text, noise, living_reward, discount, "grid-world")


def discount_grid(noise: float = 0.2, living_reward: float = 0.0, discount: float = 0.9) -> FiniteMDP:
    """A near exit (1) and a far one (10), each reached by a short path along a cliff or a long safe one.

    Which of the four routes is best depends on discount, noise and living reward: sweep them and see.
    """
    return grid_from_text(DISCOUNT_GRID, noise, living_reward, discount, "discount-grid")


def two_exits(noise: float = 0.2, living_reward: float = 0.0, discount: float = 0.9) -> FiniteMDP:
    """A near exit (1) and a far one (10), each at the end of a short path between chasms and of a long
    safe one.

    Discounts 0.1 and 0.9 choose the near or the far exit, noise 0 and 0.5 the risky or the safe way.
    (Ours: in the discount grid one can slide along the cliff by pushing away from it, so noise alone
    does not deter.)
    """
    return grid_from_text(TWO_EXITS, noise, living_reward, discount, "two-exits")


def bridge_grid(noise: float = 0.2, living_reward: float = 0.0, discount: float = 0.9) -> FiniteMDP:
    """A narrow bridge over a chasm (−100) to an exit worth 10; a small one (1) on the near side."""
    return grid_from_text(BRIDGE_GRID, noise, living_reward, discount, "bridge-grid")


def grid_from_file(
    path: Path, noise: float = 0.2, living_reward: float = 0.0, discount: float = 0.9
) -> FiniteMDP:
    """A gridworld from a map in a text file. **Raises** `BadInput` if it cannot be read."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"cannot read the map {path}: {error}") from None
    return grid_from_text(text, noise, living_reward, discount, path.stem)


def bump(cell: Cell, move: Cell, cells: "list[Cell] | set[Cell]") -> Cell:
    """The cell that `move` leads to, or the same one if nothing is there to stand on."""
    target = (cell[0] + move[0], cell[1] + move[1])
    return target if target in cells else cell


def grid_layout(
    cells: list[Cell], shape: Cell, exits: dict[Cell, float], starts: list[Cell], moves: tuple[Cell, ...] = ()
) -> GridLayout:
    """Where to draw these cells: exits are marked with what they pay, a single start with S."""
    number = {cell: state for state, cell in enumerate(cells)}
    marks = {number[cell]: f"{paid:+g}" for cell, paid in exits.items()}
    if len(starts) == 1:
        marks[number[starts[0]]] = "S"
    walls = tuple((r, c) for r in range(shape[0]) for c in range(shape[1]) if (r, c) not in number)
    rows, columns = np.array(cells, np.int64).T
    return GridLayout(
        shape,
        np.ascontiguousarray(rows),
        np.ascontiguousarray(columns),
        walls,
        moves or tuple(MOVES.values()),
        marks,
    )


def _exit(symbol: str, cell: Cell) -> float:
    try:
        return float(symbol)
    except ValueError:
        raise BadInput(
            f"row {cell[0]}, column {cell[1]} of the map is {symbol!r}; allowed are . (floor), # (wall), "
            "S (start) and numbers (exits)"
        ) from None
