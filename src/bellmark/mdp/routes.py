"""The way a policy most likely goes: what to draw when somebody asks for *the* route through a noisy
world."""

import heapq
import math

import numpy as np
from numpy.typing import NDArray

from bellmark.mdp.model import FiniteMDP


def likely_route(mdp: FiniteMDP, policy: NDArray[np.int64], values: NDArray[np.float64]) -> list[int]:
    """States from the likeliest start to an end, by the path of greatest probability under `policy` [S].

    Only ends that are no disappointment count: those whose last reward is at least `values[start]`.
    Otherwise the likeliest "path" along a cliff would be the short one into it. Empty if the policy
    reaches no such end. Dijkstra's algorithm on −log p: O(n log n) in the transitions that it meets.
    """
    start = int(np.argmax(mdp.initial_distribution))
    distance, came_from = {start: 0.0}, {start: start}
    queue, done = [(0.0, start)], set()
    best, last = math.inf, -1
    while queue:
        far, state = heapq.heappop(queue)
        if far >= best:
            break
        if state in done or mdp.terminal[state]:
            continue
        done.add(state)
        for probability, successor, reward, flagged in mdp.transitions(state, int(policy[state])):
            if probability <= 0.0:
                continue
            reached = far - math.log(probability)
            if flagged or mdp.terminal[successor]:
                if reached < best and reward >= values[start] - 1e-9:
                    best, last = reached, state
                    # A flagged transition may lead back to the state itself, as the exits of gridworlds do.
                    if successor != state and successor not in done:
                        came_from[successor], last = state, successor
            elif reached < distance.get(successor, math.inf):
                distance[successor], came_from[successor] = reached, state
                heapq.heappush(queue, (reached, successor))
    if last < 0:
        return []
    route = [last]
    while route[-1] != start:
        route.append(came_from[route[-1]])
    return route[::-1]


def ends(mdp: FiniteMDP) -> bool:
    """Whether any transition ends an episode."""
    if mdp.terminations is not None and bool(mdp.terminations.any()):
        return True
    return bool(mdp.terminal[mdp.successors[mdp.probabilities > 0.0]].any())


def visited(mdp: FiniteMDP) -> NDArray[np.bool_]:
    """bool [S]: the states in which an episode can be and go on; not cliffs and goals that end it on
    arrival."""
    seen = mdp.initial_distribution > 0.0
    goes_on = mdp.continuation > 0.0
    owner = np.repeat(np.arange(mdp.num_states), np.diff(mdp.offsets[:: mdp.num_actions]))[goes_on]
    successor = mdp.successors[goes_on]
    count = 0
    while (now := int(seen.sum())) > count:
        count = now
        seen[successor[seen[owner]]] = True
    return seen


def settled(mdp: FiniteMDP) -> NDArray[np.bool_]:
    """bool [S]: where nothing is decided: terminal states, and exits, in which every action just ends."""
    if mdp.terminations is None or mdp.num_actions == 1:
        return mdp.terminal
    goes_on = np.repeat(np.arange(mdp.available.size), np.diff(mdp.offsets))[mdp.continuation > 0.0]
    ends = np.ones(mdp.available.size, np.bool_)
    ends[goes_on] = False
    return np.asarray(ends.reshape(mdp.available.shape).all(axis=1))
