"""How fast Bellmark is, as ratios to others measured in the same run, turn by turn.

    python benchmarks/speed.py --peers .venv-bench/bin/python             everything, about ten minutes
    python benchmarks/speed.py --peers … one-seed ten-seeds               some

Both sides of a comparison are processes that have compiled and warmed up before the first measurement; then they take
turns, A B A B, one idle while the other works.  The ratio of every pair is kept, and their median is the result: a
machine that is slow for a while is slow for both.  Compilation is told apart (`ready`).  `requirements.txt` says what
the other side's environment holds.  Results go to `results/speed-<date>.json` and `.csv`; parts that are measured anew
replace the old ones of that day.
"""

import argparse
import csv
import datetime
import functools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bellmark.run.machine import machine, versions
from bellmark.run.presets import preset
from learning import commit, compact

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
WORKERS = HERE / "speed_workers"
CLEAN = {k: v for k, v in os.environ.items() if k not in ("JAX_COMPILATION_CACHE_DIR", "PYTHONPATH")}


class Worker:
    """A warmed process that answers each line with one measurement."""

    def __init__(self, python: str, script: str, *arguments: Any):
        self.process = subprocess.Popen(
            [python, str(WORKERS / script), *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=CLEAN,
        )
        self.ready = self._answer()["ready"]

    def measure(self) -> float:
        """Environment steps per second, once."""
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        answer = self._answer()
        return answer["steps"] / answer["seconds"]

    def _answer(self) -> dict[str, float]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"worker {' '.join(map(str, self.process.args))} ended early")
        return json.loads(line)

    def close(self) -> None:
        self.process.communicate()


def in_turn(ours: Worker, theirs: Worker, repetitions: int) -> dict[str, Any]:
    """Measure both in turn; steps per second of each, and the ratio of each pair."""
    pairs = [(ours.measure(), theirs.measure()) for _ in range(repetitions)]
    for worker in (ours, theirs):
        worker.close()
    ratios = [mine / other for mine, other in pairs]
    return {
        "ours_steps_per_second": [round(mine) for mine, _ in pairs],
        "theirs_steps_per_second": [round(other) for _, other in pairs],
        "ratios": [round(r, 3) for r in ratios],
        "ours": round(statistics.median(mine for mine, _ in pairs)),
        "theirs": round(statistics.median(other for _, other in pairs)),
        "ratio": round(statistics.median(ratios), 3),
        "spread": [round(min(ratios), 3), round(max(ratios), 3)],
        "unit": "environment steps/s",
        "ready_seconds": [round(ours.ready, 2), round(theirs.ready, 2)],
    }


def one_seed(peers: str) -> dict[str, Any]:
    steps = 409_600
    mine = Worker(sys.executable, "ours.py", "CartPole-v1", 1, steps)
    return in_turn(mine, Worker(peers, "rejax_ppo.py", 1, steps), 9)


def ten_seeds(peers: str) -> dict[str, Any]:
    steps = 102_400
    mine = Worker(sys.executable, "ours.py", "CartPole-v1", 10, steps)
    return in_turn(mine, Worker(peers, "rejax_ppo.py", 10, steps), 7)


def against_stable_baselines3(peers: str) -> dict[str, Any]:
    mine = Worker(sys.executable, "ours.py", "CartPole-v1", 1, 409_600)
    return in_turn(mine, Worker(peers, "stable_baselines3_ppo.py", 20_480, best_threads(peers)), 7)


def gymnasium(peers: str) -> dict[str, Any]:
    steps = 102_400
    mine = Worker(sys.executable, "ours.py", "gymnasium:CartPole-v1", 1, steps)
    return in_turn(mine, Worker(peers, "stable_baselines3_ppo.py", steps, best_threads(peers)), 5)


def recurrent(peers: str) -> dict[str, Any]:
    """Torch with one thread: a second one has nothing to do in steps of eight environments."""
    mine = Worker(sys.executable, "ours.py", "CartPole-v1", 1, 51_200, "recurrent_ppo")
    return in_turn(mine, Worker(peers, "sb3_contrib_recurrent_ppo.py", 2048, 1), 5)


def recurrent_gymnasium(peers: str) -> dict[str, Any]:
    mine = Worker(sys.executable, "ours.py", "gymnasium:CartPole-v1", 1, 10_240, "recurrent_ppo")
    return in_turn(mine, Worker(peers, "sb3_contrib_recurrent_ppo.py", 2048, 1), 5)


def trpo(peers: str) -> dict[str, Any]:
    mine = Worker(sys.executable, "ours.py", "CartPole-v1", 1, 102_400, "trpo")
    return in_turn(mine, Worker(peers, "sb3_contrib_trpo.py", 10_240, best_threads(peers)), 5)


def trpo_gymnasium(peers: str) -> dict[str, Any]:
    mine = Worker(sys.executable, "ours.py", "gymnasium:CartPole-v1", 1, 20_480, "trpo")
    return in_turn(mine, Worker(peers, "sb3_contrib_trpo.py", 10_240, best_threads(peers)), 5)


def update_of(name: str) -> Callable[[str], dict[str, Any]]:
    """The update alone against PPO's, both per pass through the network (`speed_workers/update.py` counts them)."""

    def measure(peers: str) -> dict[str, Any]:
        del peers
        mine, ppos = (Worker(sys.executable, "update.py", each) for each in (name, "ppo"))
        return {**in_turn(mine, ppos, 7), "unit": "samples × passes/s"}

    return measure


def a2c(peers: str) -> dict[str, Any]:
    mine = Worker(sys.executable, "ours.py", "CartPole-v1", 1, 204_800, "a2c")
    return in_turn(mine, Worker(peers, "stable_baselines3_a2c.py", 10_240, best_threads(peers)), 5)


def a2c_gymnasium(peers: str) -> dict[str, Any]:
    mine = Worker(sys.executable, "ours.py", "gymnasium:CartPole-v1", 1, 20_480, "a2c")
    return in_turn(mine, Worker(peers, "stable_baselines3_a2c.py", 10_240, best_threads(peers)), 5)


def whole_iterations(
    mine: tuple[str, dict[str, Any]], theirs: tuple[str, dict[str, Any]], steps: int = 409_600
) -> Callable[[str], dict[str, Any]]:
    """Two of Bellmark's own learners, set to the same arithmetic: steps per second of rollouts and updates."""

    def measure(peers: str) -> dict[str, Any]:
        del peers
        workers = (
            Worker(sys.executable, "ours.py", "CartPole-v1", 1, steps, name, json.dumps(fields))
            for name, fields in (mine, theirs)
        )
        return in_turn(*workers, 7)

    return measure


ONCE = {"rollout_length": 128, "trace_decay": 0.95}
"""One gradient of every rollout of 8 × 128 steps; a step of every environment where an algorithm takes no more."""
ONE_PASS = {"epochs": 1, "minibatches": 1}
PPO_ONCE = ("ppo", {**ONCE, **ONE_PASS})
BESIDE_PPO = {
    "a2c": (("a2c", {**ONCE, "optimiser": "adam", "normalise_advantage": True}), PPO_ONCE),
    # eight actors push a gradient of 128 steps each
    "a3c": (("a3c", {**ONCE, "optimiser": "adam"}), ("ppo", {**ONCE, "epochs": 1, "minibatches": 8})),
    "reinforce": (
        (
            "reinforce",
            {"rollout_length": 1024, "baseline": "state", "hidden": [64, 64]}
            | {"value_epochs": 1, "value_minibatches": 1},
        ),
        ("ppo", {**ONCE, **ONE_PASS, "rollout_length": 1024}),
    ),
    "actor_critic": (
        ("actor_critic", {"environments": 8}),
        ("ppo", {**ONE_PASS, "rollout_length": 1}),
        40_960,
    ),
    "q_actor_critic": (
        ("q_actor_critic", {"environments": 8}),
        ("ppo", {**ONE_PASS, "rollout_length": 1}),
        40_960,
    ),
    "recurrent_a2c": (
        ("recurrent_a2c", {**ONCE, "optimiser": "adam"}),
        ("recurrent_ppo", {**ONCE, **ONE_PASS, "sequence_length": 128}),
        102_400,
    ),
}
"""An on-policy learner and PPO, of equally many gradients of equally many samples."""


def dqn_against_stable_baselines3(peers: str) -> dict[str, Any]:
    mine = Worker(sys.executable, "ours_dqn.py", "CartPole-v1", 1, 16, 40_960)
    return in_turn(mine, Worker(peers, "stable_baselines3_dqn.py", 4_096, best_threads(peers)), 5)


def dqn_against_rejax(peers: str) -> dict[str, Any]:
    """Eight environments, one step of each between eight updates: what rejax can be set to."""
    mine = Worker(sys.executable, "ours_dqn.py", "CartPole-v1", 8, 1, 40_960)
    return in_turn(mine, Worker(peers, "rejax_dqn.py", 8, 8_192), 5)


def dqn_on_gymnasium(peers: str) -> dict[str, Any]:
    mine = Worker(sys.executable, "ours_dqn.py", "gymnasium:CartPole-v1", 1, 16, 8_192)
    return in_turn(mine, Worker(peers, "stable_baselines3_dqn.py", 4_096, best_threads(peers)), 5)


def actor_critic(name: str, library: str, environment: str) -> Callable[[str], dict[str, Any]]:
    """One update of two layers of 256 on 256 transitions per step; ours 16 steps and 16 updates by turns, as DQN's."""

    def measure(peers: str) -> dict[str, Any]:
        peak = matrix_product_peak()
        mine = Worker(sys.executable, "ours_actor_critic.py", name, environment, STEPS_PER_TURN, 800)
        plain = environment.removeprefix("gymnasium:")
        theirs = Worker(peers, "peer_actor_critic.py", library, name, plain, 400, best_threads(peers))
        found = in_turn(mine, theirs, 5)
        return {
            **found,
            "our_steps_per_turn": STEPS_PER_TURN,
            "matrix_product_peak_gflops": round(peak / 1e9),
            "share_of_peak": round(found["ours"] * PRODUCTS[name] * 2 * 256**3 / peak, 3),
        }

    return measure


def replay(what: str, times: int) -> Callable[[str], dict[str, Any]]:
    def measure(peers: str) -> dict[str, Any]:
        del peers
        ours, numpys = (
            Worker(sys.executable, "replay.py", each, what, times) for each in ("compiled", "numpy")
        )
        return {**in_turn(ours, numpys, 7), "unit": "bytes/s"}

    return measure


STEPS_PER_TURN = 16
"""Environment steps that ours takes at once, before as many updates; theirs takes one at a time."""

PRODUCTS = {"sac": 16.0, "td3": 11.5}
"""Products of 256³ in one update of two critics and an actor, the narrow first and last layers left aside.

Both: the actor at s′ 1, the targets 2, the critics forward 2, backward 4.  SAC: the actor at s 1, the critics at its
action 2, back to the action 2, back through the actor 2.  TD3, every second time: 1, 1, 1 and 2.
"""


def matrix_product_peak() -> float:
    """The most multiplications and additions of float32 per second that a product of NumPy's reaches on all cores."""
    numbers = np.random.default_rng(0).normal(size=(2048, 2048)).astype(np.float32)
    best = 0.0
    for _ in range(5):
        began = time.perf_counter()
        numbers @ numbers
        best = max(best, 2 * 2048**3 / (time.perf_counter() - began))
    return best


@functools.cache
def best_threads(peers: str) -> int:
    """Torch with one thread or with as many as there are cores: whichever is quicker here."""
    counts = sorted({1, machine()["cores"]})
    workers = [Worker(peers, "stable_baselines3_ppo.py", 10_240, count) for count in counts]
    speeds = [[worker.measure() for worker in workers] for _ in range(3)]
    for worker in workers:
        worker.close()
    medians = [statistics.median(column) for column in zip(*speeds, strict=True)]
    return counts[medians.index(max(medians))]


def whole_command(peers: str) -> dict[str, Any]:
    """From a cold process to a solved CartPole: training, evaluation, picture, verdict."""
    found = preset("ppo", "CartPole-v1")
    assert found is not None
    threads = str(best_threads(peers))
    fields = json.dumps({**found.fields, "steps": found.steps})
    theirs = [peers, str(WORKERS / "stable_baselines3_command.py"), fields, threads]
    rows: dict[str, list[float]] = {"warm": [], "cold": [], "theirs": []}
    memory: dict[str, list[float]] = {"ours": [], "theirs": []}
    verdicts = set()
    with tempfile.TemporaryDirectory() as folder:
        cache = f"{folder}/cache"

        def ours(name: str, cache: str) -> tuple[float, float]:
            command = ["train", "ppo", "CartPole-v1", "--directory", f"{folder}/{name}"]
            seconds, megabytes, output = timed([bellmark(), *command], {"JAX_COMPILATION_CACHE_DIR": cache})
            verdicts.add("ours solved" if "\nsolved: " in f"\n{output}" else "ours NOT solved")
            return seconds, megabytes

        ours("first", cache)
        for index in range(3):
            seconds, megabytes = ours(f"warm{index}", cache)
            rows["warm"].append(seconds)
            memory["ours"].append(megabytes)
            shutil.rmtree(f"{folder}/fresh", ignore_errors=True)
            rows["cold"].append(ours(f"cold{index}", f"{folder}/fresh")[0])
            seconds, megabytes, output = timed(theirs)
            rows["theirs"].append(seconds)
            memory["theirs"].append(megabytes)
            verdicts.add(
                "theirs solved" if json.loads(output.splitlines()[-1])["solved"] else "theirs NOT solved"
            )

    def share(name: str) -> list[float]:
        return [round(mine / other, 3) for mine, other in zip(rows[name], rows["theirs"], strict=True)]

    return {
        "ours": round(statistics.median(rows["warm"]), 2),
        "theirs": round(statistics.median(rows["theirs"]), 2),
        "ours_without_cache": round(statistics.median(rows["cold"]), 2),
        "unit": "s (less is better)",
        "ratio": statistics.median(share("warm")),
        "spread": [min(share("warm")), max(share("warm"))],
        "ratio_without_cache": statistics.median(share("cold")),
        "spread_without_cache": [min(share("cold")), max(share("cold"))],
        "seconds": {name: [round(x, 2) for x in values] for name, values in rows.items()},
        "peak_memory_megabytes": {name: round(max(values)) for name, values in memory.items()},
        "verdicts": sorted(verdicts),
        "torch_threads": int(threads),
    }


def start_up(peers: str) -> dict[str, Any]:
    """Medians of whole processes, Python's own start included."""
    commands = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "import bellmark": [sys.executable, "-c", "import bellmark"],
        "bellmark --help": [bellmark(), "--help"],
        "bellmark train --help": [bellmark(), "train", "--help"],
        "import stable_baselines3": [peers, "-c", "import stable_baselines3"],
    }
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(6):
        for name, command in commands.items():
            times[name].append(timed(command)[0])
    medians = {name: round(statistics.median(values[1:]), 3) for name, values in times.items()}
    return {
        "ours": medians["import bellmark"],
        "theirs": medians["import stable_baselines3"],
        "unit": "s (less is better)",
        "ratio": round(medians["import bellmark"] / medians["import stable_baselines3"], 3),
        "seconds": medians,
    }


def memory(peers: str) -> dict[str, Any]:
    """Peak resident memory of whole commands, first compiling everything and then with the programs cached."""
    del peers
    commands = {
        "one seed": ["CartPole-v1"],
        "ten seeds": ["CartPole-v1", "--seeds", "10"],
        "ten seeds, three times the steps": ["CartPole-v1", "--seeds", "10", "--steps", "300000"],
        "one seed, Gymnasium": ["gymnasium:CartPole-v1"],
    }
    found: dict[str, dict[str, int]] = {"compiling": {}, "cached": {}}
    with tempfile.TemporaryDirectory() as folder:
        for name, flags in commands.items():
            for cache, row in found.items():
                directory = f"{folder}/{name.replace(' ', '-')}-{cache}"
                command = [bellmark(), "train", "ppo", *flags, "--directory", directory]
                # a cache of its own for each command: empty the first time, filled the second
                programs = {"JAX_COMPILATION_CACHE_DIR": f"{folder}/cache-{name.replace(' ', '-')}"}
                row[name] = round(timed(command, programs)[1])
    return {"peak_memory_megabytes": found}


def bellmark() -> str:
    return str(Path(sys.executable).parent / "bellmark")


def timed(command: list[str], environment: dict[str, str] | None = None) -> tuple[float, float, str]:
    """A process from its start to its end: seconds, peak resident megabytes, everything it wrote."""
    with tempfile.TemporaryFile("w+") as output:
        began = time.perf_counter()
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env={**CLEAN, **(environment or {})}
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        text = output.read()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with status {process.returncode}:\n{text}")
    unit = 1 if sys.platform == "darwin" else 1024
    return seconds, usage.ru_maxrss * unit / 1e6, text


PARTS: dict[str, tuple[str, Callable[[str], dict[str, Any]]]] = {
    "one-seed": ("PPO, compiled CartPole, one seed / rejax 0.1.3", one_seed),
    "ten-seeds": ("PPO, compiled CartPole, ten seeds together / rejax, vmapped", ten_seeds),
    "compiled": ("PPO, compiled CartPole / Stable-Baselines3 on Gymnasium's", against_stable_baselines3),
    "gymnasium": ("PPO, both on 8 of Gymnasium's CartPole / Stable-Baselines3", gymnasium),
    "a2c": ("A2C, compiled CartPole / Stable-Baselines3 on Gymnasium's", a2c),
    "a2c-gymnasium": ("A2C, both on 8 of Gymnasium's CartPole / Stable-Baselines3", a2c_gymnasium),
    **{
        f"{name.replace('_', '-')}-ppo": (
            f"{name} / {pair[1][0]}, both Bellmark's, gradients of equally many samples, compiled CartPole",
            whole_iterations(*pair),  # type: ignore[arg-type]
        )
        for name, pair in BESIDE_PPO.items()
    },
    "recurrent": ("recurrent PPO, compiled CartPole / sb3-contrib on Gymnasium's", recurrent),
    "recurrent-gymnasium": (
        "recurrent PPO, both on 8 of Gymnasium's CartPole / sb3-contrib",
        recurrent_gymnasium,
    ),
    "trpo": ("TRPO, compiled CartPole / sb3-contrib on Gymnasium's", trpo),
    "trpo-gymnasium": ("TRPO, both on 8 of Gymnasium's CartPole / sb3-contrib", trpo_gymnasium),
    **{
        f"update-{name}": (f"{name}'s update for the same arithmetic / PPO's", update_of(name))
        for name in ("vpg", "natural_policy_gradient", "trpo", "ppo_penalty", "acktr")
    },
    "dqn": ("DQN, one update per step, compiled CartPole / Stable-Baselines3", dqn_against_stable_baselines3),
    "dqn-rejax": ("DQN, one update per step, eight compiled CartPoles / rejax", dqn_against_rejax),
    "dqn-gymnasium": ("DQN, one update per step, Gymnasium's CartPole / Stable-Baselines3", dqn_on_gymnasium),
    **{
        f"{name}{shown}-{short}": (
            f"{name.upper()}, one update per step, {described} Pendulum, 256 × 256 / {full}",
            actor_critic(name, module, f"{prefix}Pendulum-v1"),
        )
        for name in ("sac", "td3")
        for shown, prefix, described in (
            ("", "", "compiled"),
            ("-gymnasium", "gymnasium:", "Gymnasium's"),
        )
        for short, module, full in (
            ("sb3", "stable_baselines3", "Stable-Baselines3"),
            ("sbx", "sbx", "SBX"),
        )
    },
    "replay-add": ("transitions into the replay memory / NumPy's copy", replay("add", 2_000)),
    "replay-sample": ("batches from the replay memory / NumPy's gather", replay("sample", 20_000)),
    "command": ("cold process to solved CartPole / Stable-Baselines3", whole_command),
    "start": ("import bellmark / import stable_baselines3", start_up),
    "memory": ("peak memory", memory),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"some of: {', '.join(PARTS)}")
    parser.add_argument("--peers", required=True, help="the Python that has rejax and Stable-Baselines3")
    given = parser.parse_args()
    if unknown := [part for part in given.parts if part not in PARTS]:
        parser.error(f"{unknown[0]} is no part; allowed: {', '.join(PARTS)}")
    file = RESULTS / f"speed-{datetime.date.today():%Y-%m-%d}.json"
    results = json.loads(file.read_text()) if file.exists() else {}
    results |= {"versions": versions(), "machine": machine(), "peers": peer_versions(given.peers)}
    for part in given.parts or PARTS:
        title, run = PARTS[part]
        results[part] = {"what": title, **run(given.peers), "commit": commit(), "load": os.getloadavg()[1]}
        print(f"{title}: {summary(results[part])}", flush=True)
        file.write_text(compact(results))
    write_csv(results, file.with_suffix(".csv"))


def peer_versions(python: str) -> dict[str, str]:
    names = [
        "rejax",
        "gymnax",
        "stable-baselines3",
        "sb3-contrib",
        "sbx-rl",
        "torch",
        "gymnasium",
        "jax",
        "numpy",
    ]
    code = f"import importlib.metadata as m, json; print(json.dumps({{n: m.version(n) for n in {names}}}))"
    return json.loads(subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout)


def summary(result: dict[str, Any]) -> str:
    if "ratio" not in result:
        return str(result["peak_memory_megabytes"])
    spread = f" (from {result['spread'][0]} to {result['spread'][1]})" if "spread" in result else ""
    more = f", without cache {result['ratio_without_cache']}" if "ratio_without_cache" in result else ""
    return f"{result['ours']} / {result['theirs']} {result['unit']}, ratio {result['ratio']}{spread}{more}"


def write_csv(results: dict[str, Any], path: Path) -> None:
    """One row per repetition."""
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["part", "repetition", "ours", "theirs", "ratio", "unit"])
        for part in PARTS:
            result = results.get(part, {})
            columns = (result.get("ours_steps_per_second"), result.get("theirs_steps_per_second"))
            unit = "environment steps/s"
            if part == "command" and result:
                columns, unit = (result["seconds"]["warm"], result["seconds"]["theirs"]), "s, warm cache"
            if columns[0] is None:
                continue
            for index, (mine, other) in enumerate(zip(*columns, strict=True)):
                rows.writerow([part, index, mine, other, round(mine / other, 4), unit])


if __name__ == "__main__":
    main()
