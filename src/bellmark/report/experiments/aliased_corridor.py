"""The aliased corridor: the best deterministic policy loses to a stochastic one.

Sutton & Barto, 2nd ed., example 13.1 and exercise 13.1.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bellmark.algorithms.exact import evaluate_policy
from bellmark.mdp.examples import aliased_features, short_corridor

from .base import Experiment, Findings, Float, Table, Verdict, average, verdict
from .drawing import COLOURS, GREY, INK, Sheet, curves, note, number

EPSILON = 0.1
BEST_CHANCE, BEST = 2.0 - math.sqrt(2.0), -(6.0 + 4.0 * math.sqrt(2.0))
"""Published, and the maximum of −(4 − 2p) / (p (1 − p))."""
CHANCES = np.linspace(0.02, 0.98, 193)
ITERATIONS, LAST, ENVIRONMENTS, LENGTH = 120, 20, 64, 100
START = 0.1
"""REINFORCE's first probability of right: far from the answer, so that there is something to learn."""
CLOSE = 0.1


def worth(chance: float) -> float:
    """v(p) of the start, exact and undiscounted, of the policy that goes right with probability p everywhere."""
    mdp = short_corridor()
    policy = np.tile([1.0 - chance, chance], (mdp.num_states, 1)) * ~mdp.terminal[:, None]
    return float(mdp.initial_distribution @ evaluate_policy(mdp, policy, 1.0))


def measure(seeds: Sequence[int]) -> Findings:
    values = np.array([worth(chance) for chance in CHANCES.tolist()])
    learnt = _learn(seeds)
    steps = np.arange(ITERATIONS + 1.0) * ENVIRONMENTS * LENGTH
    tables = {
        "policies": Table(
            "probability of right", CHANCES, "value", {"exact": np.tile(values, (len(seeds), 1))}
        ),
        "learnt": Table("environment steps", steps, "probability of right", {"REINFORCE": learnt}),
    }
    exact = {
        "always left, ε-greedy": worth(EPSILON / 2),
        "always right, ε-greedy": worth(1.0 - EPSILON / 2),
        "best stochastic": worth(BEST_CHANCE),
    }
    return Findings(seeds, tables, exact)


def _learn(seeds: Sequence[int]) -> Float:
    """REINFORCE's probability of going right, [seeds, iterations + 1]."""
    import equinox as eqx
    import jax
    import jax.numpy as jnp

    from bellmark.algorithms.policy_gradient.reinforce import Reinforce
    from bellmark.envs.finite import FiniteEnvironment
    from bellmark.experience.rollout import CompiledProblem

    environment = FiniteEnvironment(short_corridor(), aliased_features())
    problem = CompiledProblem(environment, ITERATIONS * ENVIRONMENTS * LENGTH, LENGTH)
    learner = Reinforce(
        discount=1.0, learning_rate=0.05, environments=ENVIRONMENTS, rollout_length=LENGTH, hidden=()
    )
    seen = jnp.ones((1, 1), jnp.float32)

    def chance(state):
        return jnp.exp(learner.policy(state).distribution(seen).log_prob(jnp.ones(1, jnp.int32)))[0]

    def one(seed):
        state = learner.init(problem, jax.random.key(seed))
        start = jnp.log(jnp.array([1.0 - START, START]))
        state = eqx.tree_at(lambda s: s.networks.actor.layers[-1].bias, state, start)

        def iteration(state, _):
            state, _ = learner.step(problem, state)
            return state, chance(state)

        _, chances = jax.lax.scan(iteration, state, None, ITERATIONS)
        return jnp.concatenate([chance(state)[None], chances])

    return np.asarray(eqx.filter_jit(jax.vmap(one))(jnp.array(seeds, jnp.uint32)), np.float64)


def judge(findings: Findings) -> Verdict:
    exact, values = findings.exact, findings.tables["policies"].curves["exact"][0]
    left, right, best = (
        exact[name] for name in ("always left, ε-greedy", "always right, ε-greedy", "best stochastic")
    )
    learnt = findings.tables["learnt"].curves["REINFORCE"][:, -LAST:].mean(axis=1)
    close = float(np.mean(np.abs(learnt - BEST_CHANCE) < CLOSE))
    parts = {
        "the best probability is 2 − √2": abs(CHANCES[np.argmax(values)] - BEST_CHANCE)
        < CHANCES[1] - CHANCES[0],
        "its value is −(6 + 4√2)": abs(best - BEST) < 1e-6,
        "both ε-greedy deterministic policies are worth less": max(left, right) < best,
        "REINFORCE comes near it for nine seeds in ten": close >= 0.9,
    }
    figures = (
        (
            f"ε-greedy with ε = 0.1, going left is worth {left:.2f} and going right {right:.2f}; the "
            f"best stochastic policy goes "
            f"right with probability {BEST_CHANCE:.4f} and is worth {best:.3f}; REINFORCE, "
            f"over its last {LAST} iterations, lies within {CLOSE} of that for {100 * close:.0f} % of the seeds, at "
            f"{average(learnt):.3f} on average"
        )
        .replace("-", "−")
        .replace("ε−greedy", "ε-greedy")
    )
    return verdict(parts, figures)


def draw(findings: Findings, path: Path) -> Path:
    policies, learnt = findings.tables["policies"], findings.tables["learnt"]
    exact = findings.exact
    with Sheet(
        path,
        "The aliased corridor: the best policy is a coin",
        f"three states that look alike, left and right swapped in the second; exact values; REINFORCE: "
        f"{len(findings.seeds)} seeds",
        panels=(1.25, 1.0),
        size=(10.0, 4.2),
        right=0.975,
        left=0.08,
        bottom=0.135,
        top=0.8,
        wspace=0.22,
    ) as sheet:
        left, right = sheet.panels
        left.plot(CHANCES, policies.curves["exact"][0], color=COLOURS[0], linewidth=2.2)
        left.set_ylim(-100, 0)
        left.set_xlim(0, 1)
        left.set_xlabel("probability of going right, in every state")
        left.set_ylabel("value of the start")
        dots = (
            (EPSILON / 2, exact["always left, ε-greedy"], "left, ε-greedy", (10, -3), "left", COLOURS[1]),
            (
                1 - EPSILON / 2,
                exact["always right, ε-greedy"],
                "right, ε-greedy",
                (-12, -6),
                "right",
                COLOURS[1],
            ),
            (BEST_CHANCE, exact["best stochastic"], "best: 2 − √2 ≈ 0.586", (0, 9), "center", INK),
        )
        for x, y, words, shift, side, colour in dots:
            left.plot(x, y, "o", color=colour, markersize=7, markeredgecolor="white", zorder=6)
            text = f"{words}, {number(y)}"
            note(
                left,
                x,
                y,
                text,
                xytext=shift,
                textcoords="offset points",
                ha=side,
                color=colour,
                fontsize=9.5,
            )
        note(left, 0.5, -96, "deterministic: never arrives, at either end", ha="center")
        right.plot(learnt.position, learnt.curves["REINFORCE"].T, color=COLOURS[2], alpha=0.3, linewidth=0.8)
        curves(right, learnt, colours={"REINFORCE": COLOURS[2]}, labels=False)
        right.axhline(BEST_CHANCE, color=GREY, linewidth=1, linestyle=(0, (4, 3)))
        right.set_ylim(0, 1)
        right.set_xlim(0, learnt.position[-1])
        note(
            right,
            learnt.position[-1],
            0.05,
            "REINFORCE, every seed and the mean",
            ha="right",
            color=COLOURS[2],
        )
        note(
            right,
            learnt.position[-1],
            BEST_CHANCE,
            "best 2 − √2",
            xytext=(-2, 22),
            textcoords="offset points",
            ha="right",
        )
        ticks = np.arange(0, learnt.position[-1], 200_000)
        right.set_xticks(ticks, [f"{tick / 1000:g}k" if tick else "0" for tick in ticks])
    return path


EXPERIMENT = Experiment(
    name="aliased-corridor",
    title="The aliased corridor: the best policy is a coin",
    about=(
        "Three states look alike, and in the second of them left and right are swapped. Any "
        "deterministic policy walks to and "
        "fro for ever, and acting ε-greedily around one hardly helps; the best that can be done is to "
        "toss a coin. A method "
        "that learns action values can only be greedy towards one action; a policy gradient finds the coin."
    ),
    claim=(
        "The best policy goes right with probability 2 − √2 ≈ 0.586 and is worth −(6 + 4√2) ≈ −11.657; "
        "ε-greedy around either "
        "deterministic policy is worth less; REINFORCE, which starts at 0.1, comes within 0.1 of the "
        "best for nine seeds in ten."
    ),
    source="Sutton & Barto, 2nd ed., example 13.1, exercise 13.1",
    seeds=10,
    measure=measure,
    judge=judge,
    draw=draw,
)
