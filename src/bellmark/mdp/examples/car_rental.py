"""Jack's car rental: how many cars to drive overnight from one place to the other.

Source: Sutton & Barto, 2018, example 4.2 and figure 4.2. Cars returned can be rented from the next day on;
cars beyond `most` are sent away. Requests and returns are Poisson.
"""

import math

import numpy as np
from numpy.typing import NDArray

from bellmark.mdp.examples.table import at_least
from bellmark.mdp.model import FiniteMDP

REQUESTS = (3.0, 4.0)
RETURNS = (3.0, 2.0)
RENT, MOVING_COST = 10.0, 2.0


def car_rental(most: int = 20, most_moved: int = 5, discount: float = 0.9) -> FiniteMDP:
    """States (cars here, cars there) at the end of a day; actions −5 … 5, the cars moved from here to
    there."""
    at_least(most, 1, "most")
    at_least(most_moved, 0, "most_moved")
    days = [_one_place(most, *rates) for rates in zip(REQUESTS, RETURNS, strict=True)]
    (first, first_rent), (second, second_rent) = days
    moves = range(-most_moved, most_moved + 1)
    states = [(here, there) for here in range(most + 1) for there in range(most + 1)]
    transition = np.zeros((len(states), len(moves), len(states)))
    rewards = np.zeros((len(states), len(moves)))
    available = np.zeros((len(states), len(moves)), np.bool_)
    for state, (here, there) in enumerate(states):
        for action, moved in enumerate(moves):
            if -there <= moved <= here:
                a, b = min(here - moved, most), min(there + moved, most)
                available[state, action] = True
                transition[state, action] = np.outer(first[a], second[b]).reshape(-1)
                rewards[state, action] = RENT * (first_rent[a] + second_rent[b]) - MOVING_COST * abs(moved)
    return FiniteMDP.from_dense(
        transition,
        rewards,
        available=available,
        states=states,
        actions=list(moves),
        name="car-rental",
        discount=discount,
    )


def _one_place(most: int, requests: float, returns: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """One day at one place: ([cars, cars the next evening], expected number rented), both by cars in
    the morning."""
    transition = np.zeros((most + 1, most + 1))
    rented = np.zeros(most + 1)
    came_back = _capped_poisson(returns, most)
    for morning in range(most + 1):
        for out, chance in enumerate(_capped_poisson(requests, morning)):
            rented[morning] += chance * out
            left = morning - out
            transition[morning, left:] += chance * came_back[: most + 1 - left]
            transition[morning, most] += chance * came_back[most + 1 - left :].sum()
    # Thousands of roundings later a row misses 1 by some 1e-16; the model promises a distribution.
    return transition / transition.sum(axis=1, keepdims=True), rented


def _capped_poisson(rate: float, cap: int) -> NDArray[np.float64]:
    """[cap + 1]: the distribution of min(Poisson(rate), cap)."""
    chances = [math.exp(-rate) * rate**count / math.factorial(count) for count in range(cap)]
    return np.array([*chances, 1.0 - math.fsum(chances)])
