"""How fast the exact solvers are: Bellmark beside five others, on the same models in the same run.

    python3 -m venv .venv-solvers
    .venv-solvers/bin/pip install -r benchmarks/requirements-solvers.txt
    python benchmarks/solvers.py --peers .venv-solvers/bin/python                       everything
    python benchmarks/solvers.py --peers … --models random-100k grid-316 --rounds 5     some

Each solver is a process of its own (`solver_worker.py`), with its model loaded and its code compiled before anything is
measured. For each peer, Bellmark and the peer take turns; the ratio is the median over the rounds. All are asked for
an error of 1e-6. What they return is held against Bellmark's proved bounds: `error` is the largest distance outside of
them, and `shifted_error` the same after the best constant has been added, for those that return V* plus a constant.

Bellmark's `bytes` is the floor of what its sweeps must read, 12 bytes per transition and 8 per pair, times its
iterations: for Jacobi sweeps that drop actions, or that evaluate one action per state, an overestimate. `bandwidth` is
what two threads summing a large array reach here. Results: `results/solvers.csv` and `.json`; a model, discount
and peer measured anew replace their old rows and no others, so that a long comparison can be made in short turns.
"""

import argparse
import csv
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from bellmark.run.machine import machine, versions
from learning import commit

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
TOLERANCE = 1e-6
PEERS = ("quantecon", "mdpsolver", "stormpy", "pymdptoolbox", "mdpax")
DISTRIBUTIONS = {
    "quantecon": "quantecon",
    "mdpsolver": "mdpsolver",
    "stormpy": "stormpy",
    "pymdptoolbox": "pymdptoolbox",
    "mdpax": "mdpax",
}
PATIENCE = 120.0
"""Seconds after which a peer's solve is given up: it is far behind then."""


def random_model(states: int, seed: int = 0) -> dict[str, np.ndarray]:
    """4 actions, 10 uniformly random successors with uniformly random weights, rewards uniform in [0, 1)."""
    rng = np.random.default_rng(seed)
    probabilities = rng.random((states, 4, 10))
    probabilities /= probabilities.sum(axis=2, keepdims=True)
    return {
        "successors": rng.integers(0, states, (states, 4, 10), dtype=np.int32),
        "probabilities": probabilities,
        "rewards": rng.random((states, 4)),
        "available": np.ones((states, 4), dtype=bool),
    }


def grid_model(side: int, walls: float = 0.0, seed: int = 0) -> dict[str, np.ndarray]:
    """A square of cells, goal in the top right corner (entering pays 1), −0.04 a step, 20 % noise to the sides.

    A share `walls` of the cells cannot be entered; bumping into one, or into the border, stays.
    """
    rng = np.random.default_rng(seed)
    blocked = rng.random((side, side)) < walls
    goal = side - 1
    blocked[0, goal] = False
    cells = np.arange(side * side, dtype=np.int32).reshape(side, side)
    targets = []
    for down, right in ((-1, 0), (0, 1), (1, 0), (0, -1)):
        y = np.clip(np.arange(side)[:, None] + down, 0, side - 1)
        x = np.clip(np.arange(side)[None, :] + right, 0, side - 1)
        targets.append(np.where(blocked[y, x], cells, cells[y, x]).ravel())
    # The intended move, then the two across it.
    successors = np.stack([np.stack([targets[(a + k) % 4] for k in (0, 3, 1)], axis=-1) for a in range(4)], 1)
    probabilities = np.broadcast_to([0.8, 0.1, 0.1], successors.shape).copy()
    rewards = -0.04 + (probabilities * (successors == goal)).sum(axis=2)
    available = np.ones(rewards.shape, dtype=bool)
    available[goal], probabilities[goal], rewards[goal] = False, 0.0, 0.0
    return {
        "successors": np.ascontiguousarray(successors, dtype=np.int32),
        "probabilities": probabilities,
        "rewards": rewards,
        "available": available,
    }


MODELS = {
    "random-100k": lambda: random_model(100_000),
    "random-1m": lambda: random_model(1_000_000),
    "grid-316": lambda: grid_model(316),
    "grid-316-walls": lambda: grid_model(316, walls=0.2),
    "grid-1000": lambda: grid_model(1000),
}


class Worker:
    """A solver with its model, waiting to be asked."""

    def __init__(self, python: str, solver: str, model: Path, discount: float, output: Path):
        self.output = output
        self.process = subprocess.Popen(
            [
                python,
                str(HERE / "solver_worker.py"),
                solver,
                str(model),
                str(discount),
                str(TOLERANCE),
                str(output),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.errors: list[str] = []
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self.process.stderr is not None
        self.errors.extend(self.process.stderr)

    def measure(self, patience: float) -> dict[str, Any]:
        """Solve once. An `error` entry says why there is no answer."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        killer = threading.Timer(patience, self.process.kill)
        killer.start()
        begin = time.perf_counter()
        try:
            self.process.stdin.write("go\n")
            self.process.stdin.flush()
            for line in self.process.stdout:
                if line.startswith("RESULT "):
                    return json.loads(line[7:])
        except BrokenPipeError:
            pass
        finally:
            killer.cancel()
        if time.perf_counter() - begin >= patience:
            return {"failed": f"given up after {patience:.0f} s"}
        return {"failed": self.errors[-1].strip()[:200] if self.errors else "ended early"}

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


def compare(
    solver: str, peers: str, model: Path, discount: float, rounds: int, folder: Path
) -> list[dict[str, Any]]:
    """One row for the peer and one for Bellmark beside it."""
    theirs = Worker(peers, solver, model, discount, folder / "theirs.npy")
    ours = Worker(sys.executable, "bellmark", model, discount, folder / "ours.npy")
    rows: list[dict[str, Any]] = []
    try:
        # The first answers of both load and warm up; they are not counted.
        mine, other = ours.measure(PATIENCE), theirs.measure(PATIENCE)
        times: list[tuple[float, float]] = []
        if "failed" not in other and other["seconds"] > 20.0:
            rounds = 1
        while "failed" not in other and len(times) < rounds:
            mine, other = ours.measure(PATIENCE), theirs.measure(PATIENCE)
            if "failed" not in other:
                times.append((mine["seconds"], other["seconds"]))
        if "failed" in other:
            times = [(ours.measure(PATIENCE)["seconds"], float("nan"))]
        bounds = np.load(ours.output)
        mine["seconds"] = statistics.median(t[0] for t in times)
        rows.append({"solver": "bellmark", "beside": solver} | mine)
        row = {"solver": solver, "beside": "bellmark"} | other
        if "failed" not in other:
            row["seconds"] = statistics.median(t[1] for t in times)
            row["ratio"] = statistics.median(t[1] / t[0] for t in times)
            row["ratios"] = [round(t[1] / t[0], 3) for t in times]
            row |= distances(np.load(theirs.output), bounds)
        rows.append(row)
    finally:
        theirs.close()
        ours.close()
    return rows


def distances(values: np.ndarray, bounds: np.ndarray) -> dict[str, float]:
    """How far outside of the proved bounds, as given and after the best constant is added."""
    _, lower, upper = bounds
    shift = float(np.median(0.5 * (lower + upper) - values))
    error, shifted = (
        float(np.max(np.maximum(np.maximum(lower - v, v - upper), 0.0))) for v in (values, values + shift)
    )
    return {"error": error, "shifted_error": shifted}


def bandwidth(repeats: int = 5) -> float:
    """Bytes per second that two threads read when each sums its half of 800 MB; the best of a few."""
    array = np.ones(100_000_000)
    best = 0.0
    for _ in range(repeats):
        halves = [threading.Thread(target=part.sum) for part in (array[:50_000_000], array[50_000_000:])]
        begin = time.perf_counter()
        for half in halves:
            half.start()
        for half in halves:
            half.join()
        best = max(best, array.nbytes / (time.perf_counter() - begin))
    return best


def peer_versions(python: str) -> dict[str, str]:
    code = (
        "import importlib.metadata as m, json; "
        f"print(json.dumps({{n: m.version(d) for n, d in {DISTRIBUTIONS}.items()}}))"
    )
    return json.loads(subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout)


def identity(row: dict[str, Any]) -> tuple[str, float, str]:
    """The comparison that a row belongs to: model, discount, peer."""
    return row["model"], row["discount"], row["beside"] if row["solver"] == "bellmark" else row["solver"]


def finish(rows: list[dict[str, Any]], peers: str, speed: float) -> None:
    """Replace the rows measured anew, and print them."""
    target = RESULTS / "solvers.json"
    old = json.loads(target.read_text())["rows"] if target.exists() else []
    measured = {identity(row) for row in rows}
    new = rows
    order = list(MODELS)
    rows = sorted(
        [row for row in old if identity(row) not in measured] + rows,
        key=lambda row: (order.index(row["model"]), row["discount"], PEERS.index(identity(row)[2])),
    )
    result = {
        "versions": versions(),
        "peers": peer_versions(peers),
        "machine": machine(),
        "tolerance": TOLERANCE,
        "rows": rows,
    }
    lines = ",\n    ".join(json.dumps(row) for row in rows)
    head = json.dumps(result | {"rows": []}, indent=2).removesuffix("[]\n}")
    target.write_text(f"{head}[\n    {lines}\n  ]\n}}\n")
    names = list(dict.fromkeys(key for row in rows for key in row))
    with (RESULTS / "solvers.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    for row in new:
        print(line(row, speed))


def line(row: dict[str, Any], speed: float) -> str:
    head = f"{row['model']:>15} {row['discount']:<6} {row['solver']:>12}"
    if "failed" in row:
        return f"{head}  {row['failed']}"
    text = f"{head} {row['seconds']:9.3f} s"
    if row["solver"] == "bellmark":
        read = row["iterations"] * (12 * row["transitions"] + 8 * row["pairs"]) / row["seconds"]
        extra = (row["memory_peak"] - row["memory_with_model"]) / row["model_bytes"]
        return (
            f"{text}  beside {row['beside']}: {row['iterations']} iterations, proved {row['proved_error']:.1e}, "
            f"{read / 1e9:.1f} of {speed / 1e9:.1f} GB/s, solver's memory {extra:.2f} x the model, {row['method']}"
        )
    peak = (max(row["memory_peak"], row["memory_input_peak"]) - row["memory_before"]) / 1e9
    return (
        f"{text}  {row['ratio']:7.2f} x ours, input {row['input_seconds']:.2f} s, {peak:.2f} GB, "
        f"error {row['error']:.1e} (shifted {row['shifted_error']:.1e})"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--peers", required=True, help="the Python of the environment with the other solvers")
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--solvers", nargs="+", default=list(PEERS), choices=list(PEERS))
    parser.add_argument("--discounts", nargs="+", type=float, default=[0.99, 0.999])
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    speed = bandwidth()
    about = {
        "commit": commit(),
        "date": date.today().isoformat(),
        "seed": 0,
        "bandwidth_bytes_per_second": speed,
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for model in arguments.models:
            path = folder / f"{model}.npz"
            np.savez(path, **MODELS[model]())
            for discount in arguments.discounts:
                for solver in arguments.solvers:
                    print(f"{model} {discount} {solver} …", file=sys.stderr, flush=True)
                    pair = compare(solver, arguments.peers, path, discount, arguments.rounds, folder)
                    # Kept at once: a run that is cut off has measured something.
                    rows = [{"model": model, "discount": discount} | row | about for row in pair]
                    finish(rows, arguments.peers, speed)
            path.unlink()


if __name__ == "__main__":
    main()
