"""How far a table learner is from the exact answer, as columns of its metrics.

    gap/greedy          Σ_s μ(s) (V*(s) − V^π(s)), π the greedy policy; infinite where it never ends at discount 1
    gap/behaviour       the same of the exploring policy that acts
    error/q             max |Q(s, a) − Q*(s, a)| over the states that episodes can reach
    policy/differing    in how many of them the greedy action is not optimal; tied optimal actions are all optimal
    error/v, error/rms  of a predictor: max and root mean square of V(s) − V^π(s)

The model is solved once, before the first step. Two policies are evaluated per row of metrics, by linear equations; a
policy that was evaluated before is not evaluated again.
"""

from collections import OrderedDict
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import eye_array
from scipy.sparse.linalg import spsolve

from bellmark.algorithms.exact import evaluate_policy, solve
from bellmark.errors import BadInput
from bellmark.mdp.bellman import kernel
from bellmark.mdp.model import FiniteMDP
from bellmark.mdp.occupancy import policy_matrix
from bellmark.mdp.routes import visited

MOST_STATES = 20_000
"""Beyond, an evaluation per row would cost more than the learning."""

SMALL = 48
"""States up to which they are solved by a kernel, which a hundred seeds' threads run side by side."""

DENSE = 400
"""States up to which a policy's equations are solved as a full matrix."""

REMEMBERED = 64

Float = NDArray[np.float64]


class Yardstick:
    """The exact answer of one model at one discount. **Raises** `BadInput` where there is none."""

    def __init__(self, mdp: FiniteMDP, discount: float):
        if mdp.num_states > MOST_STATES:
            raise BadInput(
                f"{mdp.num_states:,} states are too many for the exact gap along the way, at most {MOST_STATES:,} are "
                "measured; bm.optimality_gap(mdp, policy, discount) measures the final policy"
            )
        self.mdp, self.discount = mdp, discount
        scale = max(1.0, float(np.abs(mdp.rewards).max(initial=0.0)))
        solution = solve(mdp, discount, tolerance=1e-9 * scale / max(1.0 - discount, 1e-3))
        self.action_values = np.where(mdp.available, solution.action_values, -np.inf)
        self.start = mdp.initial_distribution
        self.reached = visited(mdp) & ~mdp.terminal
        self._compared = mdp.available & self.reached[:, None]
        self._arrays = (mdp.successors, mdp.continuation, mdp.offsets, mdp.rewards, mdp.terminal)
        self._tolerance = 1e-7 * max(1.0, float(np.abs(solution.values).max(initial=0.0)))
        self._known: OrderedDict[bytes, Float | None] = OrderedDict()
        attained = self.values(solution.policy)
        self.optimum = solution.values if attained is None else np.maximum(solution.values, attained)
        self.optimum_at_start = float(self.start @ self.optimum)

    def control(self, table: Float, actions: NDArray[np.int32], behaviour: Float) -> dict[str, float]:
        """The columns of a learner that holds Q = `table` [S, A]."""
        error, worse = compared_with(self.action_values, table, actions, self._compared, self._tolerance)
        return {
            "gap/greedy": self.gap(actions),
            "gap/behaviour": self.gap(behaviour),
            "error/q": error,
            "policy/differing": worse,
        }

    def prediction(self, table: Float, policy: Float) -> dict[str, float]:
        """The columns of a predictor that holds V = `table` [S, 1] of `policy` [S, A]."""
        exact = self.values(policy)
        if exact is None:
            return {"error/v": np.inf, "error/rms": np.inf}
        error = (table[:, 0] - exact)[self.reached]
        return {
            "error/v": float(np.abs(error).max(initial=0.0)),
            "error/rms": float(np.sqrt(np.mean(error**2))) if len(error) else 0.0,
        }

    def gap(self, policy: NDArray[Any]) -> float:
        """Σ_s μ(s) (V*(s) − V^π(s)), never negative; infinite where the policy never ends and that costs for ever."""
        values = self.values(policy)
        return np.inf if values is None else max(self.optimum_at_start - float(self.start @ values), 0.0)

    def values(self, policy: NDArray[Any]) -> Float | None:
        """V^π [S], right wherever an episode can come; None where the policy never ends at discount 1."""
        key = policy.tobytes()
        if key in self._known:
            return self._known[key]
        values = self._evaluated(policy)
        self._known[key] = values
        while len(self._known) > REMEMBERED:
            try:
                self._known.popitem(last=False)
            except KeyError:  # another seed's thread was quicker
                break
        return values

    def _evaluated(self, policy: NDArray[Any]) -> Float | None:
        size = self.mdp.num_states
        if size <= SMALL:
            shares = np.ascontiguousarray(policy, np.float64).reshape(size, -1)
            chain, values, room = np.empty((size, size)), np.empty(size), np.empty((2, size), np.bool_)
            given = self.start, shares, policy.ndim == 1, self.discount
            found = small_values(*self._arrays, *given, chain, values, room)
            return values if found else None
        if size > DENSE and self.discount < 1.0:
            return evaluate_policy(self.mdp, policy, self.discount)
        if size > DENSE:
            return self._sparse(policy)
        weights = np.eye(self.mdp.num_actions)[policy] if policy.ndim == 1 else policy
        chain, rewards = np.zeros((size, size)), np.zeros(size)
        dense_chain(*self._arrays, weights, chain, rewards)
        live = self._live(chain, rewards)
        if live is None:
            return None
        # a state that is left out is a row of the identity with the value 0
        system = np.eye(size) - self.discount * chain * live
        return np.linalg.solve(np.where(live[:, None], system, np.eye(size)), np.where(live, rewards, 0.0))

    def _sparse(self, policy: NDArray[Any]) -> Float | None:
        chain, rewards = policy_matrix(self.mdp, policy)
        live = self._live(chain, rewards)
        if live is None:
            return None
        places = np.flatnonzero(live)
        values = np.zeros(len(rewards))
        system = eye_array(len(places)) - self.discount * chain[places][:, places]
        values[places] = spsolve(system.tocsc(), rewards[places])
        return values

    def _live(self, chain: Any, rewards: Float) -> NDArray[np.bool_] | None:
        """The states to solve for; at discount 1 those from which the episode ends, None if staying elsewhere pays."""
        live = ~self.mdp.terminal
        if self.discount < 1.0:
            return live
        reached = self._reached(chain)
        lost = reached & ~self._ending(chain)
        return None if (rewards[lost] != 0.0).any() else live & reached & ~lost

    def _reached(self, chain: Any) -> NDArray[np.bool_]:
        """Where episodes can come under the chain."""
        return _closure(self.start > 0.0, lambda seen: (chain.T @ seen) > 0.0) & ~self.mdp.terminal

    def _ending(self, chain: Any) -> NDArray[np.bool_]:
        """From where an episode can end under the chain."""
        ends = self.mdp.terminal | (chain.sum(axis=1) < 1.0 - 1e-9)
        return _closure(ends, lambda seen: (chain @ seen) > 0.0)


@kernel
def dense_chain(
    successors: Any,
    continuation: Any,
    offsets: Any,
    rewards: Any,
    terminal: Any,
    weights: Any,
    chain: Any,
    expected: Any,
) -> None:
    """P_π [S, S] and r_π [S] of the action probabilities `weights` [S, A], added to zeros."""
    for s in range(rewards.shape[0]):
        if terminal[s]:
            continue
        for a in range(rewards.shape[1]):
            if weights[s, a] > 0.0:
                expected[s] += weights[s, a] * rewards[s, a]
                pair = s * rewards.shape[1] + a
                for i in range(offsets[pair], offsets[pair + 1]):
                    chain[s, successors[i]] += weights[s, a] * continuation[i]


@kernel
def compared_with(exact: Any, table: Any, actions: Any, compared: Any, tolerance: float) -> Any:
    """The largest difference of two tables where they are compared, and how many actions are not the exact one's."""
    error, worse = 0.0, 0.0
    for s in range(table.shape[0]):
        best, any_of = -np.inf, False
        for a in range(table.shape[1]):
            best = max(best, exact[s, a])
            if compared[s, a]:
                any_of = True
                error = max(error, abs(table[s, a] - exact[s, a]))
        if any_of and exact[s, actions[s]] < best - tolerance:
            worse += 1.0
    return error, worse


@kernel
def small_values(
    successors: Any,
    continuation: Any,
    offsets: Any,
    rewards: Any,
    terminal: Any,
    start: Any,
    policy: Any,
    chosen: bool,
    discount: float,
    chain: Any,
    values: Any,
    live: Any,
) -> bool:
    """V^π into `values`, by elimination with row pivots; False where the policy never ends at discount 1.

    `policy` holds probabilities [S, A], or, if `chosen`, actions [S, 1]; what is in `chain` [S, S] and `live` [2, S]
    does not matter.
    """
    size, width = rewards.shape
    for s in range(size):
        values[s] = 0.0
        for t in range(size):
            chain[s, t] = 0.0
        if terminal[s]:
            continue
        for a in range(width):
            # which action was chosen, or how likely it is
            share = np.float64(policy[s, 0] == a) if chosen else policy[s, a]
            if share > 0.0:
                values[s] += share * rewards[s, a]
                pair = s * width + a
                for i in range(offsets[pair], offsets[pair + 1]):
                    chain[s, successors[i]] += share * continuation[i]
    reached, ending = live[0], live[1]
    for s in range(size):
        reached[s] = discount < 1.0 or start[s] > 0.0
        total = 0.0
        for t in range(size):
            total += chain[s, t]
        ending[s] = discount < 1.0 or terminal[s] or total < 1.0 - 1e-9
    changed = discount == 1.0
    while changed:
        changed = False
        for s in range(size):
            for t in range(size):
                if chain[s, t] > 0.0:
                    if reached[s] and not reached[t]:
                        reached[t] = changed = True
                    if ending[t] and not ending[s]:
                        ending[s] = changed = True
    for s in range(size):
        if reached[s] and not ending[s] and not terminal[s] and values[s] != 0.0:
            return False
        reached[s] = reached[s] and ending[s] and not terminal[s]
    # from here on `reached` is where there is something to solve for; elsewhere a row of the identity, and 0
    for s in range(size):
        if not reached[s]:
            values[s] = 0.0
        for t in range(size):
            chain[s, t] = -discount * chain[s, t] if reached[s] and reached[t] else 0.0
        chain[s, s] += 1.0
    for column in range(size):
        pivot = column
        for s in range(column + 1, size):
            if abs(chain[s, column]) > abs(chain[pivot, column]):
                pivot = s
        if pivot != column:
            values[pivot], values[column] = values[column], values[pivot]
            for t in range(column, size):
                chain[pivot, t], chain[column, t] = chain[column, t], chain[pivot, t]
        for s in range(column + 1, size):
            factor = chain[s, column] / chain[column, column]
            if factor != 0.0:
                values[s] -= factor * values[column]
                for t in range(column, size):
                    chain[s, t] -= factor * chain[column, t]
    for s in range(size - 1, -1, -1):
        for t in range(s + 1, size):
            values[s] -= chain[s, t] * values[t]
        values[s] /= chain[s, s]
    return True


def _closure(seen: NDArray[np.bool_], onward: Any) -> NDArray[np.bool_]:
    while True:
        more = seen | onward(seen.astype(np.float64))
        if (more == seen).all():
            return seen
        seen = more
