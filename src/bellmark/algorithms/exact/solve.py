"""`solve`: one door to every exact method, with the same answer behind it.

solution = solve(mdp, discount=0.99)
solution.values, solution.policy              # V* and a policy that attains it
solution.lower, solution.upper                # and the proof
"""

import time
from collections.abc import Callable

import numpy as np

from bellmark.errors import BadInput, unknown
from bellmark.mdp.model import FiniteMDP

from . import choose
from .average_reward import average_reward, check_continuing
from .finite_horizon import finite_horizon
from .krylov import krylov
from .linear_programming import linear_programming
from .modified_policy_iteration import modified_policy_iteration
from .policy_iteration import policy_iteration
from .prioritised import prioritised
from .problem import Certificate, Problem, Progress, check_discount, open_problem
from .q_value_iteration import q_value_iteration
from .soft_value_iteration import soft_policy, soft_value_iteration
from .solution import Record, Solution
from .undiscounted import Undiscounted, undiscounted
from .value_iteration import gauss_seidel, jacobi

METHODS = (
    "auto",
    "value_iteration",
    "q_value_iteration",
    "policy_iteration",
    "modified_policy_iteration",
    "krylov",
    "linear_programming",
    "finite_horizon",
    "soft_value_iteration",
    "average_reward",
)
VARIANTS = {"jacobi": jacobi, "gauss_seidel": gauss_seidel, "prioritised": prioritised}
PLAIN: dict[str, Callable[[Problem, Progress, float, int], None]] = {
    "auto": choose.auto,
    "q_value_iteration": q_value_iteration,
    "modified_policy_iteration": modified_policy_iteration,
    "krylov": krylov,
    "linear_programming": linear_programming,
}


def solve(
    mdp: FiniteMDP,
    discount: float = 0.99,
    method: str = "auto",
    tolerance: float = 1e-6,
    *,
    variant: str = "jacobi",
    temperature: float = 0.0,
    horizon: int | None = None,
    max_iterations: int = 1_000_000,
    record: bool = False,
    threads: int | None = None,
) -> Solution:
    """The optimal values and policy of a finite model, with bounds that are true in floating point.

        V*(s) = max_a [ r(s, a) + γ Σ_s' p(s' | s, a) V*(s') ]

    **Arguments:**

    - `discount`: γ in [0, 1]. At 1 the model must be well posed (see `undiscounted`). `average_reward` does
      not use it.
    - `method`: one of `METHODS`; `auto` chooses and says why in `solution.reason`.
    - `tolerance`: stop when `upper − lower` is nowhere larger than this.
    - `variant`: of `value_iteration`: jacobi, gauss_seidel or prioritised.
    - `temperature`: of `soft_value_iteration`, >= 0; 0 is the hard maximum.
    - `horizon`: of `finite_horizon`, which see for the values at every time; here you get those of time 0.
    - `max_iterations`: give up after so many; the solution then has `converged=False` and bounds that are
      still true.
    - `record`: keep every sweep's values and bounds in `solution.record`.
    - `threads`: by default all cores for large models, one for small ones. The answer does not depend on it.

    Ctrl-C ends the search early: the solution has `interrupted=True`, and its bounds hold.

    **Raises** `BadInput` for arguments that are not allowed and for γ = 1 where some state's value is not
    finite.
    """
    method, variant = _checked(mdp, method, variant, tolerance, temperature, max_iterations, threads)
    discount = check_discount(discount)
    begin = time.perf_counter()
    if method == "finite_horizon":
        return _finite_horizon(mdp, discount, horizon, tolerance, record)
    if method == "average_reward":
        check_continuing(mdp)
        discount = 1.0
    if horizon is not None:
        raise BadInput(f"horizon belongs to method 'finite_horizon', not to {method!r}")
    total: Undiscounted | None = None
    if discount == 1.0 and method not in ("average_reward", "soft_value_iteration"):
        total = undiscounted(mdp, threads)
        problem = total.problem
    else:
        if discount == 1.0 and method == "soft_value_iteration":
            raise BadInput("soft_value_iteration needs a discount below 1, got 1.0")
        problem = open_problem(mdp, discount, threads)
    progress = Progress(problem.first_values, method=method, record=Record() if record else None)
    interrupted = False
    try:
        _search(problem, progress, method, variant, tolerance, max_iterations, temperature)
        certificate = progress.certificate or problem.certify(progress.values)
    except KeyboardInterrupt:
        interrupted = True
        certificate = progress.certificate or problem.certify(progress.values)
    if total is not None:
        certificate = total.read(certificate)
        original = open_problem(mdp, 1.0, threads) if total.chains else problem
    else:
        original = problem
    return _solution(
        certificate,
        original,
        progress,
        discount,
        tolerance,
        interrupted,
        temperature,
        time.perf_counter() - begin,
    )


def _search(
    problem: Problem,
    progress: Progress,
    method: str,
    variant: str,
    tolerance: float,
    limit: int,
    temperature: float,
) -> None:
    if method == "value_iteration":
        if variant != "jacobi":
            progress.method = f"value_iteration ({variant})"
        VARIANTS[variant](problem, progress, tolerance, limit)
    elif method == "policy_iteration":
        policy_iteration(problem, progress, tolerance, limit, problem.proper_policy)
    elif method == "soft_value_iteration":
        soft_value_iteration(problem, progress, tolerance, limit, temperature)
    elif method == "average_reward":
        average_reward(problem, progress, tolerance, limit)
    else:
        PLAIN[method](problem, progress, tolerance, limit)


def _solution(
    certificate: Certificate,
    problem: Problem,
    progress: Progress,
    discount: float,
    tolerance: float,
    interrupted: bool,
    temperature: float,
    seconds: float,
) -> Solution:
    values, lower, upper, policy = certificate
    probabilities, gain, average = None, None, 0.0
    if progress.method == "soft_value_iteration":
        probabilities = soft_policy(problem.action_values(values), temperature)
    if progress.method == "average_reward" and np.isfinite(upper[0] - lower[0]):
        gain = average = float(0.5 * (lower[0] + upper[0]))
    return Solution(
        values=values,
        policy=np.maximum(policy, 0).astype(np.int64),
        lower=lower,
        upper=upper,
        iterations=len(progress.residuals),
        seconds=seconds,
        method=progress.method,
        residuals=np.array(progress.residuals),
        discount=discount,
        tolerance=tolerance,
        converged=bool(np.max(upper - lower, initial=0.0) <= tolerance),
        backup=problem.action_values if gain is None else lambda v: problem.action_values(v) - average,
        reason=progress.reason,
        interrupted=interrupted,
        action_probabilities=probabilities,
        gain=gain,
        record=progress.record,
    )


def _finite_horizon(
    mdp: FiniteMDP, discount: float, horizon: int | None, tolerance: float, record: bool
) -> Solution:
    if horizon is None:
        raise BadInput("method 'finite_horizon' needs horizon=, the number of steps")
    result = finite_horizon(mdp, horizon, discount)
    problem = open_problem(mdp, discount)
    history = Record() if record else None
    if history is not None:
        for t in range(horizon, -1, -1):
            history.add(result.values[t], result.lower[t], result.upper[t])
    next_values = result.values[min(1, horizon)]
    return Solution(
        values=result.values[0],
        policy=result.policy[0] if horizon > 0 else np.zeros(mdp.num_states, dtype=np.int64),
        lower=result.lower[0],
        upper=result.upper[0],
        iterations=horizon,
        seconds=result.seconds,
        method="finite_horizon",
        residuals=np.max(np.abs(np.diff(result.values[::-1], axis=0)), axis=1, initial=0.0),
        discount=discount,
        tolerance=tolerance,
        converged=bool(np.max(result.upper[0] - result.lower[0], initial=0.0) <= tolerance),
        backup=lambda _: problem.action_values(next_values),
        interrupted=result.interrupted,
        record=history,
    )


def _checked(
    mdp: FiniteMDP,
    method: str,
    variant: str,
    tolerance: float,
    temperature: float,
    max_iterations: int,
    threads: int | None,
) -> tuple[str, str]:
    if not isinstance(mdp, FiniteMDP):
        raise BadInput(
            f"solve needs a FiniteMDP, not {type(mdp).__name__}; build one with FiniteMDP.from_arrays, from_sparse, "
            "from_gymnasium or from_function"
        )
    if method not in METHODS:
        raise unknown("method", str(method), METHODS)
    if variant not in VARIANTS:
        raise unknown("variant", str(variant), VARIANTS)
    if variant != "jacobi" and method != "value_iteration":
        raise BadInput(f"variant {variant!r} belongs to method 'value_iteration', not to {method!r}")
    if not (_is_finite(tolerance) and tolerance > 0):
        raise BadInput(f"tolerance must be a positive number, got {tolerance!r}")
    if not (_is_finite(temperature) and temperature >= 0):
        raise BadInput(f"temperature must be 0 or more, got {temperature!r}")
    if temperature != 0.0 and method != "soft_value_iteration":
        raise BadInput(f"temperature belongs to method 'soft_value_iteration', not to {method!r}")
    if not (isinstance(max_iterations, int | np.integer) and max_iterations >= 1):
        raise BadInput(f"max_iterations must be a whole number, 1 or more, got {max_iterations!r}")
    if threads is not None and not (isinstance(threads, int | np.integer) and threads >= 1):
        raise BadInput(f"threads must be a whole number, 1 or more, got {threads!r}")
    return method, variant


def _is_finite(number: object) -> bool:
    return isinstance(number, int | float | np.integer | np.floating) and bool(np.isfinite(number))
