"""What every preset reaches: ten seeds, the final policy, 100 episodes each, and how it got there.

    python benchmarks/learning.py                                       all of them
    python benchmarks/learning.py ppo:CartPole-v1 ppo:Acrobot-v1        some

    python benchmarks/learning.py --keep runs/mujoco ppo:Hopper-v5      go on with what an earlier call left there

Presets were tuned on seeds from 100 on; here they meet seeds 0 to 9, on MuJoCo seeds 0 to 2.  For every case there
comes into `results/` a `learning-….json` (what was trained, by which version, on which machine, in what time, what it
reached, the learning curve) and a `learning-….csv` (every evaluation episode).  `results/learning_….png`, one for each
family, show all cases that are there; `--draw` does nothing but draw them.
"""

import argparse
import csv
import json
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import bellmark as bm
from bellmark.algorithms import algorithm_class, fields_of
from bellmark.report import plots
from bellmark.report.statistics import Learning, interquartile_mean, interval, learning
from bellmark.run.machine import machine, versions
from bellmark.run.presets import PRESETS, configured, preset

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
SEEDS = range(10)
MUJOCO = ("HalfCheetah-v5", "Hopper-v5", "Walker2d-v5")
"""Slow ones: fewer seeds."""
EPISODES = 100
PARTS = (
    "algorithms/continuous",
    "algorithms/policy_gradient",
    "algorithms/replayed.py",
    "algorithms/value_based",
    "envs",
    "experience",
    "front.py",
    "maths",
    "networks",
    "report",
    "run",
)
"""What such a run goes through."""

CASES = [f"{algorithm}:{environment}" for algorithm, environment in PRESETS] + ["ppo:gymnasium:CartPole-v1"]


def measure(case: str, keep: str | None = None) -> dict[str, Any]:
    """Train one preset's seeds and write down what came of it; with `keep`, go on with what was interrupted there."""
    algorithm, _, environment = case.partition(":")
    found = preset(algorithm, environment)
    if case not in CASES or found is None:
        raise SystemExit(f"{case} is not a preset; allowed: {', '.join(CASES)}")
    seeds = list(SEEDS)[: 3 if environment in MUJOCO else None]
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        directory = Path(keep or folder) / file_name(case)
        if directory.exists():
            run = bm.resume(directory, progress=False)
        else:
            run = bm.train(
                algorithm, environment, seeds=seeds, episodes=EPISODES, progress=False, directory=directory
            )
        if run.outcome != "finished":
            raise SystemExit(f"{case}: interrupted at step {run.step:,}; call again to go on")
        seconds = time.perf_counter() - began
        curve = learning(run.metrics)
    returns = run.evaluation.returns
    means = returns.mean(axis=1)
    low, high = interval(returns, interquartile_mean)
    threshold = run.ending.solved_seeds is not None
    result = {
        "algorithm": algorithm,
        "environment": environment,
        "fields": fields_of(configured(algorithm, environment)),
        "steps_per_seed": run.step,
        "seeds": seeds,
        "episodes_per_seed": EPISODES,
        "policy": "final, deterministic",
        "mean_return_of_each_seed": means.round(3).tolist(),
        "interquartile_mean": round(float(interquartile_mean(means)), 3),
        "interval_95": [round(low, 3), round(high, 3)],
        "worst_seed": round(float(means.min()), 3),
        "solved_seeds": run.ending.solved_seeds if threshold else None,
        "seconds_training_all_seeds": round(run.seconds, 2),
        "seconds_with_compilation_and_evaluation": round(seconds, 2),
        "versions": versions(),
        "machine": machine(),
        "commit": commit(),
        "curve": {
            name: np.round(getattr(curve, name), 3).tolist() for name in ("position", "centre", "low", "high")
        },
    }
    name = file_name(case)
    # NaN (no episode has ended yet) is written as null: JSON has no other word for it
    (RESULTS / f"{name}.json").write_text(compact(without_nan(result)))
    with (RESULTS / f"{name}.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["seed", "episode", "return", "length"])
        for seed, line, lengths in zip(seeds, returns, run.evaluation.lengths, strict=True):
            rows.writerows(
                [seed, e, f"{r:.6g}", n] for e, (r, n) in enumerate(zip(line, lengths, strict=True))
            )
    return result


def file_name(case: str) -> str:
    return "learning-" + case.replace(":", "-")


def commit(parts: Sequence[str] = PARTS) -> str:
    """The commit that was measured, and which files that such a run goes through had been changed since."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.strip()

    changed = git("diff", "HEAD", "--name-only", "--", *(f"src/bellmark/{part}" for part in parts)).split()
    return git("rev-parse", "HEAD") + (
        f" with uncommitted changes in {', '.join(changed)}" if changed else ""
    )


def without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: without_nan(v) for k, v in value.items()}
    if isinstance(value, list):
        return [without_nan(v) for v in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def compact(result: dict[str, Any]) -> str:
    """JSON with one line per entry."""
    lines = [f"  {json.dumps(k)}: {json.dumps(v, ensure_ascii=False)}" for k, v in result.items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"


FAMILIES: dict[str, tuple[str, Callable[[str, str], bool]]] = {
    "mujoco": ("What the presets learn: MuJoCo", lambda _, environment: environment in MUJOCO),
    "trust_regions": (
        "What the presets learn: PPO, trust regions and natural gradients",
        lambda algorithm, _: algorithm.removeprefix("recurrent_") in NEAR,
    ),
    "policy_gradient": (
        "What the presets learn: policy gradients and actor–critics",
        lambda algorithm, _: module_of(algorithm).startswith("bellmark.algorithms.policy_gradient"),
    ),
    "values": ("What the presets learn: tables, linear and deep values, continuous control", lambda *_: True),
}
"""The figures: file, title, and what belongs there that no figure before it has taken."""
NEAR = ("ppo", "ppo_penalty", "trpo", "natural_policy_gradient", "acktr")
"""Those that keep a step's policy near the last one."""


def module_of(algorithm: str) -> str:
    return algorithm_class(algorithm).__module__


def draw(folder: Path) -> list[Path]:
    """One figure per family, one panel per case: the interquartile mean of the return against steps, and its band."""
    found = [RESULTS / f"{file_name(case)}.json" for case in CASES]
    left = [json.loads(file.read_text()) for file in found if file.exists()]
    files = []
    for name, (title, belongs) in FAMILIES.items():
        taken = [result for result in left if belongs(result["algorithm"], result["environment"])]
        left = [result for result in left if result not in taken]
        if taken:
            # of one algorithm beside each other, in the presets' order
            first = list(dict.fromkeys(result["algorithm"] for result in taken))
            taken.sort(key=lambda result: first.index(result["algorithm"]))
            files.append(folder / f"learning_{name}.png")
            draw_family(files[-1], title, taken)
    return files


def draw_family(path: Path, title: str, results: Sequence[dict[str, Any]]) -> None:
    columns = 3 if len(results) <= 6 else 4
    rows = -(-len(results) // columns)
    with plots.style():
        figure = plots.new_figure(3.3 * columns, 0.95 + 2.2 * rows)
        height = figure.get_figheight()
        seeds = {3: "three", 10: "ten"}[len(results[0]["seeds"])]
        plots.title_lines(
            figure,
            title,
            f"return against environment steps per seed: interquartile mean of {seeds} seeds with its 95 % band; "
            "dot and number: the final policies, deterministic",
        )
        grid = figure.add_gridspec(
            rows,
            columns,
            left=0.055 if columns == 4 else 0.07,
            right=0.975,
            top=1 - 1.05 / height,
            bottom=0.4 / height,
            wspace=0.32,
            hspace=0.6,
        )
        for index, result in enumerate(results):
            axes = figure.add_subplot(grid[index // columns, index % columns])
            curve = {
                k: np.array([np.nan if x is None else x for x in v], float)
                for k, v in result["curve"].items()
            }
            plots.draw_learning(
                axes, Learning(seeds=np.zeros((0, 0)), window=0, **curve), plots.COLOURS[0], width=1.6
            )
            reached = result["interquartile_mean"]
            plots.dot(axes, curve["position"][-1], reached, plots.COLOURS[0])
            if np.isnan(curve["centre"]).all():
                axes.text(
                    0.04,
                    0.1,
                    "no episode ends meanwhile",
                    transform=axes.transAxes,
                    fontsize=8,
                    color=plots.GREY,
                )
            axes.set_title(panel_title(result), loc="left", fontsize=9, color=plots.INK)
            axes.set_title(plots.number(reached), loc="right", fontsize=9, color=plots.COLOURS[0])
            axes.tick_params(labelsize=8)
            plots.steps_axis(axes, "", ticks=4)
        plots.save(figure, path)


def panel_title(result: dict[str, Any]) -> str:
    """In two lines, for a panel is narrow."""
    environment = result["environment"].replace("gymnasium:", "Gymnasium ")
    return f"{plots.algorithm_title(result['algorithm'])}\n{environment}"


def line(result: dict[str, Any]) -> str:
    low, high = result["interval_95"]
    return (
        f"{result['algorithm']} {result['environment']}: interquartile mean {result['interquartile_mean']:.1f} "
        f"[{low:.1f}, {high:.1f}], worst seed {result['worst_seed']:.1f}, {result['steps_per_seed']:,} steps per "
        f"seed, {len(result['seeds'])} seeds in {result['seconds_training_all_seeds']:.1f} s"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "cases", nargs="*", metavar="CASE", help="ALGORITHM:ENVIRONMENT, all presets if none is named"
    )
    parser.add_argument("--keep", help="the folder where runs are kept and gone on with")
    parser.add_argument("--draw", action="store_true", help="draw what is there, and train nothing")
    given = parser.parse_args()
    for case in [] if given.draw else given.cases or CASES:
        print(line(measure(case, given.keep)), flush=True)
    draw(RESULTS)
