"""How the exact solver's cost and room grow, and what its sweep takes of the machine's bandwidth.

    python benchmarks/solver_scale.py sweep         bytes per second of one full sweep, beside the bandwidth measured
    python benchmarks/solver_scale.py growth        seconds on random models of 62 500 to 1 000 000 states
    python benchmarks/solver_scale.py threads       seconds on one core and on two, and that their answers are equal
    python benchmarks/solver_scale.py start         the first and the second process: compiling, and what is kept of it
    python benchmarks/solver_scale.py ten-million   a grid of 3163 x 3163 states: seconds and resident memory

Each part replaces its entry in `results/solver-scale.json`. The models are those of `solvers.py`.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from bellmark.algorithms.exact import solve
from bellmark.algorithms.exact.problem import open_problem
from bellmark.mdp import FiniteMDP
from bellmark.run.machine import machine, versions
from learning import commit
from solver_worker import memory, reset_peak
from solvers import MODELS, TOLERANCE, bandwidth, grid_model, random_model

RESULTS = Path(__file__).resolve().parent / "results"
FIRST_SOLVE = """
import time; begin = time.perf_counter()
import bellmark as bm
model = bm.examples.garnet(states=200)
bm.solve(model, 0.9); bm.solve(bm.examples.grid_world(), 0.9)
print(time.perf_counter() - begin)
"""


def built(model: dict[str, np.ndarray]) -> FiniteMDP:
    return FiniteMDP.from_arrays(
        model["successors"], model["probabilities"], model["rewards"], available=model["available"]
    )


def sweep() -> dict[str, Any]:
    """The best of ten full Jacobi sweeps over every action."""
    found: dict[str, Any] = {"bandwidth_bytes_per_second": bandwidth()}
    for name in ("random-100k", "random-1m", "grid-1000"):
        mdp = built(MODELS[name]())
        problem = open_problem(mdp, 0.99)
        values, out = problem.first_values.copy(), np.empty(problem.num_states)
        policy = problem.first_policy.copy()
        best = np.inf
        for _ in range(10):
            begin = time.perf_counter()
            problem.sweep(values, out, policy)
            best = min(best, time.perf_counter() - begin)
        floor = 12 * mdp.num_transitions + 8 * mdp.num_states * mdp.num_actions
        found[name] = {"seconds": best, "bytes": floor, "bytes_per_second": floor / best}
    return found


def growth() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for states in (62_500, 125_000, 250_000, 500_000, 1_000_000):
        mdp = built(random_model(states))
        times = []
        for _ in range(3):
            solution = solve(mdp, 0.99, tolerance=TOLERANCE)
            times.append(solution.seconds)
        seconds = min(times)
        found[str(states)] = {
            "seconds": seconds,
            "nanoseconds_per_transition": 1e9 * seconds / mdp.num_transitions,
            "iterations": solution.iterations,
        }
    return found


def threads() -> dict[str, Any]:
    """The median of five solves with one thread and with two, in turn."""
    found: dict[str, Any] = {}
    for name in ("random-100k", "random-1m", "grid-316"):
        mdp = built(MODELS[name]())
        times: dict[int, list[float]] = {1: [], 2: []}
        for turn in range(6):
            answers = {count: solve(mdp, 0.99, tolerance=TOLERANCE, threads=count) for count in times}
            for count, solution in answers.items():
                if turn > 0:
                    times[count].append(solution.seconds)
        one, two = (statistics.median(times[count]) for count in (1, 2))
        equal = bool(np.array_equal(answers[1].values, answers[2].values))
        found[name] = {"one_thread": one, "two_threads": two, "ratio": one / two, "same_bits": equal}
    return found


def start() -> dict[str, Any]:
    """Two processes with an empty cache of compiled kernels between them."""
    with tempfile.TemporaryDirectory() as cache:
        environment = os.environ | {"NUMBA_CACHE_DIR": cache}
        times = []
        for _ in range(2):
            said = subprocess.run(
                [sys.executable, "-c", FIRST_SOLVE],
                env=environment,
                capture_output=True,
                text=True,
                check=True,
            )
            times.append(float(said.stdout))
    return {"first_process_seconds": times[0], "second_process_seconds": times[1]}


def ten_million() -> dict[str, Any]:
    mdp = built(grid_model(3163))
    # compiled kernels, some 50 MB whatever the model is, are held before; a small model leaves no room to be used again
    solve(built(grid_model(40)), 0.99, tolerance=TOLERANCE)
    held = memory("VmRSS")
    reset_peak()
    solution = solve(mdp, 0.99, tolerance=TOLERANCE)
    return {
        "states": mdp.num_states,
        "transitions": mdp.num_transitions,
        "seconds": solution.seconds,
        "iterations": solution.iterations,
        "method": solution.method,
        "converged": solution.converged,
        "proved_error": solution.gap,
        "model_bytes": mdp.nbytes,
        "resident_with_model": held,
        "resident_peak": memory("VmHWM"),
    }


PARTS: dict[str, Callable[[], dict[str, Any]]] = {
    "sweep": sweep,
    "growth": growth,
    "threads": threads,
    "start": start,
    "ten-million": ten_million,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("part", choices=list(PARTS))
    part = parser.parse_args().part
    target = RESULTS / "solver-scale.json"
    results = json.loads(target.read_text()) if target.exists() else {}
    before = os.getloadavg()[0]
    results[part] = PARTS[part]() | {
        "commit": commit(),
        "date": date.today().isoformat(),
        "load_before_and_after": [before, os.getloadavg()[0]],
        "machine": machine(),
        "versions": versions(),
    }
    target.write_text(json.dumps(results, indent=2) + "\n")
    print(json.dumps(results[part], indent=2))


if __name__ == "__main__":
    main()
