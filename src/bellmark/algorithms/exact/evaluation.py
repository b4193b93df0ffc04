"""What a policy is worth, and how far that is from the optimum.

V^π = r_π + γ P_π V^π,     gap = Σ_s μ(s) (V*(s) − V^π(s)),     μ the initial distribution
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from bellmark.errors import BadInput
from bellmark.mdp.model import FiniteMDP
from bellmark.mdp.occupancy import policy_matrix

from .krylov import bicgstab
from .policy_iteration import solve_policy
from .policy_system import backward_order, inverse, policy_system
from .problem import EPSILON, Problem, check_discount, problem_from_arrays
from .solve import solve

Float = NDArray[np.float64]

DIRECT = 20_000
"""States up to which the equations are factorised; beyond, they are iterated (and factorised only if that
fails).
"""


def evaluate_policy(
    mdp: FiniteMDP,
    policy: ArrayLike,
    discount: float = 0.99,
    *,
    method: str = "solve",
    sweeps: int = 1_000_000,
) -> Float:
    """V^π for every state: float64 [S].

    **Arguments:**

    - `policy`: int [S], or probabilities [S, A]; rows of terminal states are not read.
    - `discount`: γ in [0, 1]. At 1 the policy must end, or stay where it earns nothing.
    - `method`: `solve` (linear equations) or `iterative` (sweeps v ← r_π + γ P_π v until float64 changes no
      more, or `sweeps` of them).

    **Raises** `BadInput` for a policy of the wrong shape, an action that is not available, probabilities
    that do not sum to one, and at γ = 1 a state from which the policy never ends and earns something: each
    named.
    """
    discount = check_discount(discount)
    if method not in ("solve", "iterative"):
        raise BadInput(f"evaluation method must be 'solve' or 'iterative', not {method!r}")
    matrix, rewards = policy_matrix(mdp, policy)
    live = ~mdp.terminal
    if discount == 1.0:
        live = live & ~_endless(mdp, matrix, rewards)
    if method == "iterative":
        return _iterate(matrix, rewards, live, discount, sweeps)
    problem = problem_from_arrays(
        matrix.indices.astype(np.int32),
        matrix.data,
        matrix.indptr.astype(np.int64),
        np.where(live, rewards, 0.0)[:, None],
        live[:, None],
        discount,
        1,
        0,
    )
    return _solve(problem, np.where(live, 0, -1).astype(np.int32))


def optimality_gap(mdp: FiniteMDP, policy: ArrayLike, discount: float = 0.99) -> float:
    """Σ_s μ(s) (V*(s) − V^π(s)): what following `policy` costs, from the initial distribution on. Never
    negative.

    **Raises** as `evaluate_policy` and `solve` do.
    """
    return float(mdp.initial_distribution @ regret(mdp, policy, discount))


def regret(mdp: FiniteMDP, policy: ArrayLike, discount: float = 0.99) -> Float:
    """V*(s) − V^π(s) for every state: float64 [S], >= 0.

    The optimum is the better of V^π and the value of the policy that `solve` proves optimal, so that a
    policy which is optimal has a regret of 0 and not of rounding.
    """
    values = evaluate_policy(mdp, policy, discount)
    solution = solve(mdp, discount, tolerance=1e-9 * max(1.0, float(np.max(np.abs(values), initial=0.0))))
    best = np.clip(solution.values, solution.lower, solution.upper)
    if solution.gap > 0:
        attained = evaluate_policy(mdp, solution.policy, discount)
        best = np.clip(np.maximum(attained, values), solution.lower, solution.upper)
    return np.maximum(best - values, 0.0)


def _iterate(
    matrix: csr_array, rewards: Float, live: NDArray[np.bool_], discount: float, sweeps: int
) -> Float:
    values = np.zeros(len(rewards))
    for _ in range(sweeps):
        new = np.where(live, rewards + discount * (matrix @ values), 0.0)
        change, values = float(np.max(np.abs(new - values), initial=0.0)), new
        if change <= 4 * EPSILON * (1 - discount + EPSILON) * float(np.max(np.abs(values), initial=0.0)):
            break
    return values


def _solve(problem: Problem, policy: NDArray[np.int32]) -> Float:
    if problem.num_states <= DIRECT:
        return solve_policy(problem, policy)
    order = backward_order(problem)
    system = policy_system(problem, policy, order, inverse(order))
    target = 64 * EPSILON * float(np.max(np.abs(system.constants), initial=0.0))
    x, _ = bicgstab(system, system.constants.copy(), target, limit=4000)
    residual = float(np.max(np.abs(system.constants - system.multiply(x)), initial=0.0))
    if residual > 1e4 * target:
        return solve_policy(problem, policy)
    values = np.empty_like(x)
    values[order] = x
    return values


def _endless(mdp: FiniteMDP, matrix: csr_array, rewards: Float) -> NDArray[np.bool_]:
    """bool [S]: states in a class that is never left and earns nothing. Refuses one that earns something."""
    # A copy: eliminating zeros in place would rearrange the index arrays of the matrix that is solved next.
    graph: Any = csr_array((matrix.data > 0, matrix.indices, matrix.indptr), shape=matrix.shape, copy=True)
    graph.eliminate_zeros()
    classes, label = connected_components(graph, directed=True, connection="strong")
    rows = np.repeat(np.arange(mdp.num_states), np.diff(graph.indptr))
    leaves = np.zeros(classes, dtype=bool)
    leaves[label[rows[label[rows] != label[graph.indices]]]] = True
    # A row that sums to less than one ends the episode now and then (a flagged transition).
    ends = mdp.terminal | (matrix.sum(axis=1) < 1 - 1e-9)
    leaves[label[ends]] = True
    endless = ~leaves[label]
    earning = np.flatnonzero(endless & (rewards != 0.0))
    if len(earning) > 0:
        state = int(earning[0])
        raise BadInput(
            f"discount 1 is not well posed for this policy: from state {mdp.states[state]!r} it never ends, and it "
            f"earns {rewards[state]:g} there; allowed: a discount below 1, or a policy that is certain to end"
        )
    return endless
