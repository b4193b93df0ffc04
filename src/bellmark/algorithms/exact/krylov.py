"""Inexact policy iteration with a Krylov inner solver (Gargiani, Liao-McPherson, Zanelli & Lygeros 2023).

    repeat
        π ← greedy for v                              one full sweep, and the bounds
        solve (I − γ P_π) x = r_π until |residual| <= 0.01 |T v − v|,  v ← x

The inner solver is BiCGSTAB (van der Vorst 1992), preconditioned by one Gauss–Seidel sweep in the order of
distance from where episodes end. It is the choice for γ near 1 with slow cycles, where any plain sweep gains
only a factor γ. At γ = 1 a greedy policy may never end, and its equations then have no solution: if the
residual stops falling there, Gauss–Seidel value iteration, which needs no policy to end, takes over.
"""

import numpy as np
from numpy.typing import NDArray

from .modified_policy_iteration import pessimistic
from .policy_system import PolicySystem, backward_order, inverse, policy_system
from .problem import Problem, Progress
from .value_iteration import at_rounding_floor, gauss_seidel

Float = NDArray[np.float64]

RUNAWAY = 1e9
"""Values this much larger than rewards are, at γ = 1, the answer to equations that have none."""


def krylov(problem: Problem, progress: Progress, tolerance: float, limit: int) -> None:
    """Iterate until proved. One iteration is one policy improvement with its inner solve."""
    values = pessimistic(problem)
    order = backward_order(problem)
    position = inverse(order)
    policy = np.full(problem.num_states, -1, dtype=np.int32)
    out = np.empty_like(values)
    system = None
    best = np.inf
    while len(progress.residuals) < limit:
        sweep, _ = problem.sweep(values, out, policy)
        progress.note(sweep.residual, out, problem, sweep, policy)
        progress.certificate = problem.finish(out, policy, sweep, tolerance)
        if progress.certificate is not None:
            return
        # Nearly singular equations give values so large that their residual is all rounding: look at both.
        lost = sweep.residual > 0.9 * best or sweep.size > RUNAWAY * max(1.0, problem.first_sweep.size)
        best = sweep.residual
        if problem.weights is not None and lost:
            progress.values = problem.first_values
            gauss_seidel(problem, progress, tolerance, limit)
            return
        if at_rounding_floor(problem, sweep, progress, tolerance):
            return
        if shift := problem.extrapolation(sweep):
            out += np.where(problem.terminal, 0.0, shift)
        system = policy_system(problem, policy, order, position, system)
        x, _ = bicgstab(system, out[order], 0.01 * sweep.residual)
        values[order] = x


def bicgstab(system: PolicySystem, x: Float, target: float, limit: int = 1000) -> tuple[Float, int]:
    """x with max|b − (I − C) x| <= target, or the best found, and how many products that took.

    A breakdown or a rise restarts from the best x so far, after a Gauss–Seidel sweep.
    """
    best, best_size, products = x.copy(), np.inf, 0
    while products < limit:
        residual = system.constants - system.multiply(x)
        shadow = residual.copy()
        direction = np.zeros_like(x)
        product = np.zeros_like(x)
        rho = alpha = omega = 1.0
        start_size = float(np.max(np.abs(residual), initial=0.0))
        while products < limit:
            size = float(np.max(np.abs(residual), initial=0.0))
            if size < best_size:
                best_size, best = size, x.copy()
            if size <= target:
                break
            rho_next = float(shadow @ residual)
            if rho_next == 0.0 or omega == 0.0 or not np.isfinite(size) or size > 1e6 * start_size:
                break
            beta = (rho_next / rho) * (alpha / omega)
            rho = rho_next
            direction = residual + beta * (direction - omega * product)
            half = system.precondition(direction)
            product = system.multiply(half)
            scale = float(shadow @ product)
            if scale == 0.0:
                break
            alpha = rho / scale
            residual = residual - alpha * product
            x = x + alpha * half
            half = system.precondition(residual)
            image = system.multiply(half)
            square = float(image @ image)
            omega = float(image @ residual) / square if square > 0.0 else 0.0
            x = x + omega * half
            residual = residual - omega * image
            products += 2
        # The recursion drifts from the true residual: believe only a freshly computed one.
        true = float(np.max(np.abs(system.constants - system.multiply(best)), initial=0.0))
        if true <= target or not np.isfinite(true) or true > 0.5 * start_size:
            break
        x, best_size = best.copy(), true
    return best, products
