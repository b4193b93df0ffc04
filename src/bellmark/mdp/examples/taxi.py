"""Taxi: fetch a passenger and bring them to where they want to go.

Source: Dietterich, *Hierarchical reinforcement learning with the MAXQ value function decomposition*, JAIR
13, 2000; states, actions and table as in Gymnasium's Taxi-v4: state = ((row · 5 + column) · 5 + passenger)
· 4 + destination, where passenger 4 sits in the taxi.
"""

from collections.abc import Iterator

from bellmark.mdp.examples.table import tabulate
from bellmark.mdp.model import FiniteMDP, Transition

STANDS = ((0, 0), (0, 4), (4, 0), (4, 3))
ACTIONS = ("south", "north", "east", "west", "pick up", "drop off")
WALLS_EAST = {(0, 1), (1, 1), (3, 0), (4, 0), (3, 2), (4, 2)}
"""Cells with a wall on their eastern side."""
ABOARD = 4


def taxi(discount: float = 0.99) -> FiniteMDP:
    """500 states, 6 actions: −1 per step, 20 for a delivery, −10 for a pick-up or drop-off in the wrong
    place."""

    def outcomes(state: int, action: str) -> Iterator[Transition]:
        place, destination = divmod(state, 4)
        cell, passenger = divmod(place, 5)
        row, column = divmod(cell, 5)
        reward, ended = -1.0, False
        if action == "south":
            row = min(row + 1, 4)
        elif action == "north":
            row = max(row - 1, 0)
        elif action == "east" and (row, column) not in WALLS_EAST:
            column = min(column + 1, 4)
        elif action == "west" and (row, column - 1) not in WALLS_EAST:
            column = max(column - 1, 0)
        elif action == "pick up":
            if passenger < ABOARD and (row, column) == STANDS[passenger]:
                passenger = ABOARD
            else:
                reward = -10.0
        elif action == "drop off":
            if passenger == ABOARD and (row, column) == STANDS[destination]:
                passenger, reward, ended = destination, 20.0, True
            elif passenger == ABOARD and (row, column) in STANDS:
                passenger = STANDS.index((row, column))
            else:
                reward = -10.0
        yield 1.0, ((row * 5 + column) * 5 + passenger) * 4 + destination, reward, ended

    waiting = [state for state in range(500) if state // 4 % 5 < ABOARD and state // 4 % 5 != state % 4]
    initial = {state: 1.0 / len(waiting) for state in waiting}
    return tabulate(range(500), list(ACTIONS), outcomes, initial=initial, name="taxi", discount=discount)
