"""Q-learning on tables: updates per second, on one core and on two, against a plain Gymnasium + NumPy loop.

    python benchmarks/tabular.py            writes benchmarks/results/tabular.csv and tabular.json

All measured in one run on one machine, each the best of several repetitions (raw numbers are kept). The same problems,
the same algorithm, the same hyperparameters (α = 0.1, ε = 0.1, γ = 0.99; ties broken at random); an update is an
environment step, exploration and all. Compilation is not counted; it is reported apart.
"""

import csv
import json
import os
import platform
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gymnasium
import numpy as np

import bellmark as bm
from bellmark.algorithms import algorithm_class
from bellmark.algorithms.tabular.problem import TableProblem

RESULTS = Path(__file__).parent / "results"
STEPS = 20_000_000
REPETITIONS = 7
LOOP_STEPS = 100_000


def kernel_rates(name, mdp, cores=1, steps=STEPS):
    """Steps per second of all seeds together, one seed per core, of each repetition: by the clock on the wall, and per
    second of one processor's time, which other people's programs on the machine do not change.
    """
    learner = algorithm_class(name)(discount=0.99)
    problem = TableProblem.sampled(mdp, STEPS)
    states = [learner.init(problem, seed) for seed in range(cores)]
    began = time.perf_counter()
    learner.step(problem, states[0], 1000)
    first = time.perf_counter() - began
    rates, busy_rates = [], []
    with ThreadPoolExecutor(cores) as pool:
        for _ in range(REPETITIONS):
            began, busy = time.perf_counter(), time.process_time()
            list(pool.map(lambda state: learner.step(problem, state, steps), states))
            rates.append(cores * steps / (time.perf_counter() - began))
            busy_rates.append(cores * steps / (time.process_time() - busy))
    return rates, busy_rates, first


def gymnasium_rates(environment_id):
    """The loop of every tutorial: Gymnasium's environment, a NumPy table."""
    rates = []
    for repetition in range(3):
        environment = gymnasium.make(environment_id)
        rng = np.random.default_rng(repetition)
        q = np.zeros((environment.observation_space.n, environment.action_space.n))
        s, _ = environment.reset(seed=repetition)
        began = time.perf_counter()
        for _ in range(LOOP_STEPS):
            best = np.flatnonzero(q[s] == q[s].max())
            a = rng.integers(q.shape[1]) if rng.random() < 0.1 else rng.choice(best)
            following, reward, terminated, truncated, _ = environment.step(a)
            target = reward + 0.99 * (not terminated) * q[following].max()
            q[s, a] += 0.1 * (target - q[s, a])
            s = following
            if terminated or truncated:
                s, _ = environment.reset()
        rates.append(LOOP_STEPS / (time.perf_counter() - began))
        environment.close()
    return rates


def engine_rates(mdp):
    """Seconds for 100 seeds of 100,000 steps, with 250 rows each of the exact gap of two policies."""
    from bellmark.envs.registry import resolve
    from bellmark.run.table_engine import open_tables

    config = {"seeds": list(range(100)), "steps": 100_000, "row_every": 400, "steps_per_iteration": 1}
    engine = open_tables(algorithm_class("q_learning")(discount=0.99), resolve(mdp), config, 60.0)
    states = engine.start()
    engine.compile(states)
    began = time.perf_counter()
    engine.advance(states, 100_000)
    seconds = time.perf_counter() - began
    engine.close()
    return seconds


def main():
    frozen_lake = bm.FiniteMDP.from_gymnasium(gymnasium.make("FrozenLake-v1"))
    cliff = bm.FiniteMDP.from_gymnasium(gymnasium.make("CliffWalking-v1"))
    models = {
        "FrozenLake-v1": frozen_lake,
        "CliffWalking-v1": cliff,
        "garnet (100 states, 4 actions, 10 successors)": bm.examples.garnet(),
        "grid-world (noise 0.2)": bm.examples.grid_world(noise=0.2),
        "river-swim": bm.examples.river_swim(),
    }
    rows = []

    def note(problem, what, rates):
        rows.extend((problem, what, index, f"{rate:.0f}") for index, rate in enumerate(rates))
        print(
            f"{problem:48} {what:28} best {max(rates) / 1e6:9.3f}  median {np.median(rates) / 1e6:9.3f} M/s",
            flush=True,
        )
        return max(rates)

    summary = {"problems": {}}
    for problem, mdp in models.items():
        one_rates, busy_rates, first = kernel_rates("q_learning", mdp)
        one = note(problem, "q_learning, one core", one_rates)
        busy = note(problem, "per processor second", busy_rates)
        two = note(problem, "q_learning, two cores", kernel_rates("q_learning", mdp, cores=2)[0])
        found = {
            "one_core": one,
            "per_processor_second": busy,
            "two_cores": two,
            "speedup_of_two": two / one,
            "first_call_seconds": first,
        }
        if problem in gymnasium.registry:
            loop = note(problem, "Gymnasium + NumPy loop", gymnasium_rates(problem))
            found |= {"gymnasium_loop": loop, "times_the_loop": one / loop}
        summary["problems"][problem] = found
    for name in (
        "sarsa",
        "expected_sarsa",
        "n_step_sarsa",
        "sarsa_lambda",
        "double_q_learning",
        "q_lambda",
        "dyna_q",
    ):
        _, rates, _ = kernel_rates(name, frozen_lake, steps=2_000_000)
        summary.setdefault("learners", {})[name] = note("FrozenLake-v1", f"{name}, per processor s", rates)
    summary["hundred_seeds_with_gap_seconds"] = engine_rates(bm.examples.grid_world(noise=0.2))
    summary |= {
        "commit": subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip(),
        "processor": platform.processor() or platform.machine(),
        "load_average": os.getloadavg(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "steps": STEPS,
        "repetitions": REPETITIONS,
    }
    print(json.dumps(summary, indent=1))
    RESULTS.mkdir(exist_ok=True)
    with open(RESULTS / "tabular.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["problem", "what", "repetition", "steps_per_second"])
        writer.writerows(rows)
    (RESULTS / "tabular.json").write_text(json.dumps(summary, indent=1) + "\n")


if __name__ == "__main__":
    main()
