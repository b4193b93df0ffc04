"""Garnet: random Markov decision processes of any size, for tests and benchmarks.

Source: Archibald, McKinnon & Thomas, *On the generation of Markov decision processes*, JORS 46, 1995;
Bhatnagar, Sutton, Ghavamzadeh & Lee, *Natural actor–critic algorithms*, Automatica 45, 2009.
"""

import numpy as np

from bellmark.errors import BadInput
from bellmark.mdp.examples.table import at_least
from bellmark.mdp.model import FiniteMDP


def garnet(
    states: int = 100, actions: int = 4, branching: int = 10, seed: int = 0, discount: float = 0.99
) -> FiniteMDP:
    """Each pair leads to `branching` states drawn at random, with probabilities cut from [0, 1] by
    uniform points; rewards are standard normal.

    Up to 10 000 states the successors of a pair are distinct; in larger models they are drawn
    independently, since repeats are then rare, and harmless.
    """
    at_least(states, 1, "states")
    at_least(actions, 1, "actions")
    at_least(branching, 1, "branching")
    if branching > states:
        raise BadInput(f"branching is {branching}, but there are only {states} states to lead to")
    generator = np.random.default_rng(seed)
    shape = (states, actions, branching)
    if states <= 10_000:
        successors = np.empty((states * actions, branching), np.int32)
        for pair in range(states * actions):
            successors[pair] = generator.choice(states, branching, replace=False, shuffle=False)
        successors = successors.reshape(shape)
    else:
        successors = generator.integers(0, states, shape, dtype=np.int32)
    # The gaps between sorted uniform points are a flat Dirichlet, as are normalised exponentials.
    probabilities = generator.standard_exponential(shape)
    probabilities /= probabilities.sum(axis=2, keepdims=True)
    rewards = generator.standard_normal((states, actions))
    return FiniteMDP.from_arrays(successors, probabilities, rewards, name="garnet", discount=discount)
