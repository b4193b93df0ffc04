"""One solver in a process of its own: `python solver_worker.py SOLVER MODEL.npz DISCOUNT TOLERANCE VALUES.npy`.

Loads the model, hands it to the solver (`input_seconds`), solves once to warm up, prints a JSON line, and then solves
and prints again for every line it is sent. The values go to VALUES.npy after each. Only the solver named is imported.
Every one of them is asked for an error of at most TOLERANCE in its own words for that, in its fastest setting known
to us.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Arrays = dict[str, np.ndarray]
Answer = tuple[np.ndarray, dict[str, Any]]


def bellmark(model: Arrays, discount: float, tolerance: float) -> Callable[[], Answer]:
    from bellmark.algorithms.exact import solve
    from bellmark.mdp.model import FiniteMDP

    mdp = FiniteMDP.from_arrays(
        model["successors"], model["probabilities"], model["rewards"], available=model["available"]
    )

    def run() -> Answer:
        solution = solve(mdp, discount, tolerance=tolerance)
        notes = {
            "iterations": solution.iterations,
            "method": solution.method,
            "proved_error": solution.gap,
            "reason": solution.reason,
            "model_bytes": mdp.nbytes,
            "transitions": mdp.num_transitions,
            "pairs": mdp.num_states * mdp.num_actions,
        }
        return np.stack([solution.values, solution.lower, solution.upper]), notes

    return run


def quantecon(model: Arrays, discount: float, tolerance: float) -> Callable[[], Answer]:
    import scipy.sparse
    from quantecon.markov import DiscreteDP

    successors, probabilities, rewards = _absorbing(model)
    states, actions, branching = successors.shape
    matrix = scipy.sparse.csr_matrix(
        (probabilities.ravel(), successors.ravel(), np.arange(states * actions + 1) * branching),
        shape=(states * actions, states),
    )
    rows, columns = np.repeat(np.arange(states), actions), np.tile(np.arange(actions), states)
    problem = DiscreteDP(rewards.ravel(), matrix, discount, rows, columns)

    def run() -> Answer:
        # epsilon-optimal there means values within epsilon / 2.
        result = problem.solve(method="mpi", epsilon=2 * tolerance, max_iter=1_000_000)
        return result.v, {"iterations": int(result.num_iter), "method": "modified policy iteration"}

    return run


def mdpsolver(model: Arrays, discount: float, tolerance: float) -> Callable[[], Answer]:
    import mdpsolver

    successors, probabilities, rewards = _absorbing(model)
    problem = mdpsolver.model()
    large = len(rewards) >= 10_000
    problem.mdp(
        discount=discount,
        rewards=rewards.tolist(),
        tranMatProbs=probabilities.tolist(),
        tranMatColumns=successors.tolist(),
    )

    def run() -> Answer:
        # A second solve would begin where the first one ended: 24 s became 0.05 s on the grid of 316 × 316.
        problem.solve(
            algorithm="mpi",
            tolerance=tolerance,
            update="standard",
            parallel=large,
            initPolicy=[0] * len(rewards),
            initValueVector=[0.0] * len(rewards),
        )
        return np.array(problem.getValueVector()), {"method": "modified policy iteration, threads"}

    return run


def stormpy(model: Arrays, discount: float, tolerance: float) -> Callable[[], Answer]:
    import stormpy
    import stormpy.datastructures
    import stormpy.environments
    import stormpy.models

    successors, probabilities, rewards = _absorbing(model)
    states, actions, branching = successors.shape
    # The builder wants sorted columns without repeats.
    import scipy.sparse

    matrix = scipy.sparse.csr_matrix(
        (probabilities.ravel(), successors.ravel(), np.arange(states * actions + 1) * branching),
        shape=(states * actions, states),
    )
    matrix.sum_duplicates()
    coordinates = matrix.tocoo()
    builder = stormpy.datastructures.SparseMatrixBuilder[float](
        rows=states * actions,
        columns=states,
        entries=matrix.nnz,
        has_custom_row_grouping=True,
        row_groups=states,
    )
    builder.add_next_values(
        coordinates.row.tolist(),
        coordinates.col.tolist(),
        coordinates.data.tolist(),
        (np.arange(states) * actions).tolist(),
    )
    labels = stormpy.models.StateLabeling(states)
    labels.add_label("init")
    labels.add_label_to_state("init", 0)
    components = stormpy.models.SparseModelComponents[float](
        builder.build(),
        labels,
        {"r": stormpy.models.SparseRewardModel[float](optional_state_action_reward_vector=rewards.ravel())},
    )
    mdp = stormpy.models.SparseMdp[float](components)
    formula = stormpy.parse_properties(f'R{{"r"}}max=? [Cdiscount={discount}]')[0]
    environment = stormpy.environments.Environment()
    minmax = environment.solver().min_max()
    minmax.precision = stormpy.Rational(tolerance)
    minmax.relative_termination_criterion = False

    def run() -> Answer:
        result = stormpy.model_checking(mdp, formula, only_initial_states=False, environment=environment)
        return np.array(result.get_value_vector()), {"method": "value iteration"}

    return run


def pymdptoolbox(model: Arrays, discount: float, tolerance: float) -> Callable[[], Answer]:
    import mdptoolbox.mdp
    import scipy.sparse

    successors, probabilities, rewards = _absorbing(model)
    states, actions, branching = successors.shape
    pointers = np.arange(states + 1) * branching
    matrices = []
    for a in range(actions):
        data, columns = probabilities[:, a].ravel(), successors[:, a].ravel()
        matrices.append(scipy.sparse.csr_matrix((data, columns, pointers), shape=(states, states)))

    def run() -> Answer:
        solver = mdptoolbox.mdp.ValueIteration(
            matrices, rewards, discount, epsilon=tolerance, max_iter=1_000_000
        )
        solver.max_iter = 1_000_000
        solver.run()
        return np.array(solver.V), {"iterations": int(solver.iter), "method": "value iteration"}

    return run


def mdpax(model: Arrays, discount: float, tolerance: float) -> Callable[[], Answer]:
    import jax
    import jax.numpy as jnp
    from mdpax.core.problem import Problem
    from mdpax.solvers.value_iteration import ValueIteration

    jax.config.update("jax_enable_x64", True)
    successors, probabilities, rewards = (jnp.asarray(x) for x in _absorbing(model))
    states, actions, branching = successors.shape

    class Table(Problem):
        @property
        def name(self) -> str:
            return "table"

        def _construct_state_space(self):  # type: ignore[no-untyped-def]
            return jnp.arange(states, dtype=jnp.int32).reshape(-1, 1)

        def state_to_index(self, state):  # type: ignore[no-untyped-def]
            return state[0]

        def _construct_action_space(self):  # type: ignore[no-untyped-def]
            return jnp.arange(actions, dtype=jnp.int32).reshape(-1, 1)

        def _construct_random_event_space(self):  # type: ignore[no-untyped-def]
            return jnp.arange(branching, dtype=jnp.int32).reshape(-1, 1)

        def random_event_probability(self, state, action, random_event):  # type: ignore[no-untyped-def]
            return probabilities[state[0], action[0], random_event[0]]

        def transition(self, state, action, random_event):  # type: ignore[no-untyped-def]
            following = successors[state[0], action[0], random_event[0]]
            return following.reshape(1), rewards[state[0], action[0]]

    problem = Table()

    def run() -> Answer:
        solver = ValueIteration(problem, gamma=discount, epsilon=tolerance, max_batch_size=100_000, verbose=0)
        solution = solver.solve(max_iterations=1_000_000)
        return np.array(solution.values), {
            "iterations": int(solution.info.iteration),
            "method": "value iteration",
        }

    return run


def _absorbing(model: Arrays) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For solvers without terminal states: a terminal state stays where it is and earns nothing."""
    successors, probabilities, rewards = model["successors"], model["probabilities"], model["rewards"]
    terminal = ~model["available"].any(axis=1)
    if terminal.any():
        successors, probabilities, rewards = successors.copy(), probabilities.copy(), rewards.copy()
        successors[terminal] = np.flatnonzero(terminal)[:, None, None]
        probabilities[terminal] = 1.0 / successors.shape[2]
        rewards[terminal] = 0.0
    return successors, probabilities, rewards


SOLVERS = {f.__name__: f for f in (bellmark, quantecon, mdpsolver, stormpy, pymdptoolbox, mdpax)}


def memory(field: str) -> int:
    """Bytes resident now (`VmRSS`) or at most since the last reset (`VmHWM`); Linux only."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise SystemExit(f"/proc/self/status has no {field}")


def reset_peak() -> None:
    """What loading the model took at its worst must not hide what the solver takes."""
    Path("/proc/self/clear_refs").write_text("5")


def main() -> None:
    name, path, discount, tolerance, output = sys.argv[1:]
    with np.load(path) as file:
        model = dict(file)
    SOLVERS[name](_tiny(), 0.5, 1e-3)()
    before = memory("VmRSS")
    reset_peak()
    begin = time.perf_counter()
    run = SOLVERS[name](model, float(discount), float(tolerance))
    input_seconds = time.perf_counter() - begin
    input_peak = memory("VmHWM")
    sys.stdin.readline()
    while True:
        held = memory("VmRSS")
        reset_peak()
        begin = time.perf_counter()
        values, notes = run()
        seconds = time.perf_counter() - begin
        np.save(output, values)
        notes |= {
            "seconds": seconds,
            "input_seconds": input_seconds,
            "memory_before": before,
            "memory_with_model": held,
            "memory_input_peak": input_peak,
            "memory_peak": memory("VmHWM"),
        }
        print("RESULT " + json.dumps(notes), flush=True)
        if not sys.stdin.readline():
            return


def _tiny() -> Arrays:
    """Something to load libraries and compile kernels with."""
    rng = np.random.default_rng(0)
    probabilities = rng.random((50, 2, 3))
    return {
        "successors": rng.integers(0, 50, (50, 2, 3), dtype=np.int32),
        "probabilities": probabilities / probabilities.sum(axis=2, keepdims=True),
        "rewards": rng.random((50, 2)),
        "available": np.ones((50, 2), dtype=bool),
    }


if __name__ == "__main__":
    main()
