"""Q-learning on tables: updates per second, on one core and on two, against a plain Gymnasium + NumPy loop.

    python benchmarks/tabular.py            writes benchmarks/results/tabular.csv and tabular.json

All measured in one run on one machine, each the best of several repetitions (raw numbers are kept); one core and two
take turns, and what the second core gives is the median of the ratios. The same problems,
the same algorithm, the same hyperparameters (α = 0.1, ε = 0.1, γ = 0.99; ties broken at random); an update is an
environment step, exploration and all. Compilation is not counted.
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
import numba
import numpy as np

import bellmark as bm
from bellmark.algorithms import algorithm_class
from bellmark.algorithms.tabular.problem import TableProblem

RESULTS = Path(__file__).parent / "results"
STEPS = 20_000_000
REPETITIONS = 7
LOOP_STEPS = 100_000


def kernel_rates(name, mdp, steps=STEPS, together=1, cores=(1,)):
    """Steps per second of all seeds together, `together` (one or two) in each core's thread, of each repetition, on so
    many cores in turn: a dictionary from cores to (rates by the clock on the wall, rates per second of processors'
    time, which other people's programs do not change as much).
    """
    learner = algorithm_class(name)(discount=0.99)
    problem = TableProblem.sampled(mdp, STEPS)
    groups = [[learner.init(problem, 2 * core + k) for k in range(together)] for core in range(max(cores))]

    def advance(group, steps):
        if together == 2:
            learner.step_two(problem, group, steps)
        else:
            learner.step(problem, group[0], steps)

    advance(groups[0], 1000)
    found = {count: ([], []) for count in cores}
    with ThreadPoolExecutor(max(cores)) as pool:
        for _ in range(REPETITIONS):
            for count, (rates, busy_rates) in found.items():
                began, busy = time.perf_counter(), time.process_time()
                list(pool.map(lambda group: advance(group, steps // together), groups[:count]))
                rates.append(count * steps / (time.perf_counter() - began))
                busy_rates.append(count * steps / (time.process_time() - busy))
    return found


@numba.njit
def _chase(successor, steps):
    """Each load waits for the one before."""
    place = 0
    for _ in range(steps):
        place = successor[place]
    return place


@numba.njit
def _toss(coins, steps):
    """A branch on chance in every turn, with work on both sides that no arithmetic replaces."""
    heads, tails, sink = 0.0, 1.0, np.zeros(2)
    for i in range(steps):
        if coins[i & 65535]:
            heads = heads * 0.5 + 1.0
            sink[0] = heads
        else:
            tails = tails * 0.25 - 1.0
            sink[1] = tails
    return heads + tails + sink[0]


def bounds():
    """What this machine allows: loads that wait for each other (first-level cache), and branches on chance, per second.

    A step of Q-learning is a chain of about five such loads with arithmetic between them.
    """
    ring = np.roll(np.arange(512), 1)
    coins = np.random.default_rng(0).random(65536) < 0.5
    found = {}
    for name, function, data in (("dependent_loads", _chase, ring), ("branches_on_chance", _toss, coins)):
        function(data, 1000)
        rates = []
        for _ in range(REPETITIONS):
            began = time.process_time()
            function(data, 20_000_000)
            rates.append(20_000_000 / (time.process_time() - began))
        found[name] = max(rates)
    return found


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
            f"{problem:48} {what:30} best {max(rates) / 1e6:9.3f}  median {np.median(rates) / 1e6:9.3f} M/s",
            flush=True,
        )
        return max(rates)

    summary = {"problems": {}, "machine_per_second": bounds()}
    for problem, mdp in models.items():
        one_rates, busy_rates = kernel_rates("q_learning", mdp)[1]
        one = note(problem, "q_learning, one core", one_rates)
        busy = note(problem, "per processor second", busy_rates)
        found = kernel_rates("q_learning", mdp, together=2, cores=(1, 2))
        pair = note(problem, "two seeds by turns, one core", found[1][0])
        busy_pair = note(problem, "the same, per processor s", found[1][1])
        two = note(problem, "two each, two cores", found[2][0])
        speedups = [both / alone for alone, both in zip(found[1][0], found[2][0], strict=True)]
        found = {
            "one_core_one_seed": one,
            "one_core_one_seed_per_processor_second": busy,
            "one_core": pair,
            "per_processor_second": busy_pair,
            "two_cores": two,
            "speedup_of_two": float(np.median(speedups)),
        }
        if problem in gymnasium.registry:
            loop = note(problem, "Gymnasium + NumPy loop", gymnasium_rates(problem))
            found |= {"gymnasium_loop": loop, "times_the_loop": pair / loop}
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
        _, rates = kernel_rates(name, frozen_lake, steps=2_000_000)[1]
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
