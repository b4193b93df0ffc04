"""The update of one algorithm as a worker of `benchmarks/speed.py`, in samples × passes per second.

A pass is what the products of one forward pass of a network (two layers of 64) cost one sample; a gradient is three of
them, a product with the Fisher matrix four (twice through the network forwards and twice back, one of them each for the
weights).  Actor and critic are of one size.  Activations, the optimiser, sorting minibatches, advantages and the
inverses of ACKTR's factors are not counted, so they make the figure worse.
"""

import json
import sys
import time

import jax

from bellmark.algorithms import algorithm_class
from bellmark.envs.classic_control.cart_pole import CartPole
from bellmark.envs.wrappers.time_limit import TimeLimit
from bellmark.experience.rollout import CompiledProblem

SAMPLES = 2048
VALUES = 2  # V(s) and V(s′)


def passes(algorithm, metrics) -> float:
    """Passes per sample of one update."""
    if algorithm.name in ("ppo", "ppo_penalty"):
        both = VALUES + algorithm.epochs * (3 + 3)
        return both + (algorithm.name == "ppo_penalty")  # the divergence at the end
    if algorithm.name == "vpg":
        return VALUES + 3 + algorithm.value_epochs * 3
    if algorithm.name == "acktr":
        # actor: gradient, slopes (forwards, and backwards without weights), two second moments, the divergence
        return VALUES + (3 + 2 + 2 + 1) + (3 + 2 + 2)
    fisher = 1 + 4 * float(metrics["step/conjugate_gradients"])
    around = 3 + 2 if algorithm.name == "natural_policy_gradient" else 3 + 1 + float(metrics["step/tries"])
    return VALUES + around + fisher + algorithm.value_epochs * 3


def main(name: str) -> None:
    algorithm = algorithm_class(name)(environments=8, rollout_length=SAMPLES // 8)
    problem = CompiledProblem(TimeLimit(CartPole(), 500), 100_000, 500)
    began = time.perf_counter()
    state = algorithm.init(problem, jax.random.key(0))
    state, data = jax.jit(lambda state: algorithm.collect(problem, state))(state)
    update = jax.jit(algorithm.update)
    _, metrics = jax.block_until_ready(update(state, data))
    each = passes(algorithm, metrics) * SAMPLES
    print(json.dumps({"ready": time.perf_counter() - began}), flush=True)
    for _ in sys.stdin:
        began = time.perf_counter()
        for _ in range(10):
            jax.block_until_ready(update(state, data))
        print(json.dumps({"seconds": time.perf_counter() - began, "steps": 10 * each}), flush=True)


main(sys.argv[1])
