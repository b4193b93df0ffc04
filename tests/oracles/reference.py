"""Independent answers: the plainest dynamic programming there is, in dense NumPy and in exact fractions.

Slow, short, and sharing no code with the library beyond reading a model's arrays.
"""

from fractions import Fraction

import numpy as np


def dense(mdp):
    """(continuation [S, A, S], rewards [S, A], available [S, A]) as dense arrays, built one transition
    at a time."""
    states, actions = mdp.num_states, mdp.num_actions
    table = np.zeros((states, actions, states))
    for state in range(states):
        for action in range(actions):
            for probability, successor, _, ended in mdp.transitions(state, action):
                table[state, action, successor] += probability * (not ended)
    return table, np.asarray(mdp.rewards), np.asarray(mdp.available)


def optimal_values(mdp, discount, precision=1e-12, most_sweeps=200_000):
    """V* by value iteration from 0 until a sweep changes nothing by more than `precision`."""
    table, rewards, available = dense(mdp)
    values = np.zeros(mdp.num_states)
    for _ in range(most_sweeps):
        q = np.where(available, rewards + discount * (table @ values), -np.inf)
        new = np.where(available.any(axis=1), q.max(axis=1), 0.0)
        if np.abs(new - values).max() <= precision:
            return new
        values = new
    raise AssertionError("value iteration did not settle")


def action_values(mdp, values, discount):
    """[S, A]: r + γ P v, −∞ where not available."""
    table, rewards, available = dense(mdp)
    return np.where(available, rewards + discount * (table @ values), -np.inf)


def policy_values(mdp, probabilities, discount):
    """V^π of a policy [S, A] by one dense linear solve, (I − γ P_π) v = r_π."""
    table, rewards, _ = dense(mdp)
    chain = np.einsum("sa,sat->st", probabilities, table)
    return np.linalg.solve(np.eye(mdp.num_states) - discount * chain, (probabilities * rewards).sum(axis=1))


def policy_iteration(mdp, discount):
    """V* by Howard's method with dense solves; a better action must be better by more than rounding."""
    greedy = np.asarray(mdp.available).argmax(axis=1)
    while True:
        chosen = np.eye(mdp.num_actions)[greedy] * np.asarray(mdp.available)
        values = policy_values(mdp, chosen, discount)
        q = action_values(mdp, values, discount)
        margin = 1e-12 * (1.0 + np.abs(values).max())
        better = q.max(axis=1) > q[np.arange(len(greedy)), greedy] + margin
        if not better.any():
            return values
        greedy = np.where(better, q.argmax(axis=1), greedy)


def uniform_policy(mdp):
    """[S, A]: every available action equally likely; zeros in a terminal state."""
    available = np.asarray(mdp.available, float)
    return available / np.maximum(available.sum(axis=1, keepdims=True), 1.0)


def exact_policy_values(mdp, policy, discount):
    """V^π of a deterministic policy [S] in exact fractions of the model's own floating-point numbers."""
    size, discount = mdp.num_states, Fraction(discount)
    rows = []
    for state in range(size):
        row = [Fraction(int(state == other)) for other in range(size)] + [Fraction(0)]
        if mdp.available[state].any():
            action = int(policy[state])
            row[size] = Fraction(float(mdp.rewards[state, action]))
            for probability, successor, _, ended in mdp.transitions(state, action):
                row[successor] -= 0 if ended else discount * Fraction(probability)
        rows.append(row)
    for pivot in range(size):  # Gauss–Jordan
        best = next(row for row in range(pivot, size) if rows[row][pivot] != 0)
        rows[pivot], rows[best] = rows[best], rows[pivot]
        scale = rows[pivot][pivot]
        rows[pivot] = [entry / scale for entry in rows[pivot]]
        for other in range(size):
            if other != pivot and rows[other][pivot] != 0:
                factor = rows[other][pivot]
                rows[other] = [a - factor * b for a, b in zip(rows[other], rows[pivot], strict=True)]
    return [row[size] for row in rows]


def exact_optimal_values(mdp, discount):
    """V* in exact fractions, by policy iteration; for tiny models."""
    policy = [int(np.argmax(available)) for available in mdp.available]
    factor = Fraction(discount)
    while True:
        values = exact_policy_values(mdp, policy, discount)
        improved = False
        for state in range(mdp.num_states):
            for action in np.flatnonzero(mdp.available[state]):
                q = Fraction(float(mdp.rewards[state, action]))
                for probability, successor, _, ended in mdp.transitions(state, int(action)):
                    q += 0 if ended else factor * Fraction(probability) * values[successor]
                if q > values[state]:
                    policy[state], improved = int(action), True
                    break
        if not improved:
            return values
