"""Steps per second of the compiled pixel games, beside the loop of the `minatar` package where that is installed.

    python benchmarks/pixel_games.py            (pip install --no-deps minatar==1.0.15 for the comparison)

512 copies act at random: `--copies`, `--steps` of all of them at once.  What ends is reset in the same step.  The
package is stepped in a Python loop, one copy, with the same random actions, and reset when it ends.  Both show every
picture.  One line of JSON with versions and machine.
"""

import argparse
import json
import os
import platform
import time

import jax
import jax.numpy as jnp
import numpy as np

from bellmark.envs.registry import OWN, resolve

NAMES = [name for name in OWN if name.endswith("-v1") and name.startswith("MinAtar/")] + ["SideScroller-v0"]


def compiled(name: str, copies: int, steps: int) -> float:
    environment = resolve(name).compiled
    count = int(environment.action_space.n)

    def one(state, key):
        act, noise, fresh = jax.random.split(key, 3)
        state, outcome = environment.step(state, jax.random.randint(act, (), 0, count), noise)
        ended = outcome.terminated | outcome.truncated
        state = jax.tree.map(lambda a, b: jnp.where(ended, a, b), environment.reset(fresh), state)
        return state, (jnp.sum(environment.observe(state)), outcome.reward)

    @jax.jit
    def play(states, key):
        def step(states, key):
            states, (lit, reward) = jax.vmap(one)(states, jax.random.split(key, copies))
            return states, (jnp.sum(lit), jnp.sum(reward))

        return jax.lax.scan(step, states, jax.random.split(key, steps))

    states = jax.vmap(environment.reset)(jax.random.split(jax.random.key(0), copies))
    states, _ = jax.block_until_ready(play(states, jax.random.key(1)))
    began = time.perf_counter()
    jax.block_until_ready(play(states, jax.random.key(2)))
    return copies * steps / (time.perf_counter() - began)


def package(name: str, steps: int) -> float | None:
    try:
        from minatar import Environment
    except ImportError:
        return None
    game = "".join("_" + c.lower() if c.isupper() else c for c in name.split("/")[1][:-3]).strip("_")
    environment = Environment(game)
    environment.seed(0)
    environment.reset()
    actions = np.random.default_rng(0).integers(0, 6, steps)
    began = time.perf_counter()
    for action in actions:
        _, over = environment.act(int(action))
        environment.state()
        if over:
            environment.reset()
    return steps / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--copies", type=int, default=512)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--games", nargs="*", default=NAMES)
    given = parser.parse_args()
    rows = {}
    for name in given.games:
        ours = compiled(name, given.copies, given.steps)
        theirs = package(name, 5000) if name.startswith("MinAtar/") else None
        rows[name] = {"compiled": round(ours), "package": None if theirs is None else round(theirs)}
        print(
            f"{name:28} {ours:12,.0f} steps/s",
            "" if theirs is None else f"{theirs:10,.0f}  {ours / theirs:6.0f} ×",
        )
    facts = {
        "jax": jax.__version__,
        "numpy": np.__version__,
        "cores": os.cpu_count(),
        "machine": platform.machine(),
    }
    print(json.dumps({"copies": given.copies, "steps": given.steps, "rows": rows, **facts}))


if __name__ == "__main__":
    main()
