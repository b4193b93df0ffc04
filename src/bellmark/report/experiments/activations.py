"""tanh against ReLU, in three worlds and at three learning rates.

M. Andrychowicz et al., "What matters in on-policy reinforcement learning? A large-scale empirical study", ICLR 2021.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .base import Experiment, Findings, Float, Table, Verdict, above, average, verdict
from .drawing import COLOURS, Sheet, curves, logarithmic, names, number
from .learned import ended, followed, returns, varied

ENVIRONMENTS, LENGTH, ITERATIONS, POINTS = 8, 128, 32, 16
HIDDEN = (64, 64)
LEARNING_RATES = np.array([3e-4, 1e-3, 3e-3])
WORLDS = {
    "CartPole-v1": {"discount": 0.99},
    "Acrobot-v1": {"discount": 0.99, "normalise_rewards": True},
    "Pendulum-v1": {"discount": 0.95, "normalise_rewards": True},
}
TANH, RELU = "tanh", "ReLU"


def measure(seeds: Sequence[int]) -> Findings:
    tables = {}
    for world, fields in WORLDS.items():
        found = {name: _learn(world, name.lower(), fields, seeds) for name in (TANH, RELU)}
        tables[world] = Table("learning rate", LEARNING_RATES, "mean return while learning", found)
    return Findings(seeds, tables)


def _learn(world: str, activation: str, fields: dict, seeds: Sequence[int]) -> Float:
    """The mean return over all stretches of a run, [seeds, learning rates]."""
    from bellmark.algorithms.policy_gradient.ppo import PPO
    from bellmark.envs.registry import resolve
    from bellmark.experience.rollout import CompiledProblem

    learner = PPO(
        **fields,
        environments=ENVIRONMENTS,
        rollout_length=LENGTH,
        epochs=10,
        entropy_weight=0.0,
        hidden=HIDDEN,
        activation=activation,  # type: ignore[arg-type]
        normalise_observations=True,
    )
    environment = resolve(world).compiled
    assert environment is not None
    problem = CompiledProblem(environment, ITERATIONS * ENVIRONMENTS * LENGTH, 500)
    sums = followed(
        lambda rate: (varied(learner, learning_rate=rate), problem), LEARNING_RATES, seeds, ITERATIONS, ended
    )
    return np.nanmean(returns(sums, POINTS), axis=2).T


def judge(findings: Findings) -> Verdict:
    acrobot, pendulum = (findings.tables[world].curves for world in ("Acrobot-v1", "Pendulum-v1"))
    parts = {
        f"on Acrobot tanh learns faster at a learning rate of {rate:g}": above(
            acrobot[TANH][:, place], acrobot[RELU][:, place]
        )
        for place, rate in enumerate(LEARNING_RATES)
    }
    parts |= {
        f"on Pendulum ReLU learns faster at a learning rate of {rate:g}": above(
            pendulum[RELU][:, place], pendulum[TANH][:, place]
        )
        for place, rate in enumerate(LEARNING_RATES[:-1])
    }
    rows = [
        f"{world} "
        + ", ".join(
            f"{number(average(table.curves[TANH][:, place]))} and {number(average(table.curves[RELU][:, place]))}"
            for place in range(len(LEARNING_RATES))
        )
        for world, table in findings.tables.items()
    ]
    rates = ", ".join(f"{rate:g}" for rate in LEARNING_RATES)
    steps = ITERATIONS * ENVIRONMENTS * LENGTH
    return verdict(
        parts,
        f"the mean return over {steps:,} steps, with tanh and with ReLU, at learning rates of {rates}, is on "
        f"{'; on '.join(rows)}",
    )


def draw(findings: Findings, path: Path) -> Path:
    with Sheet(
        path,
        "tanh against ReLU",
        f"PPO, two layers of 64, {ITERATIONS * ENVIRONMENTS * LENGTH:,} steps; {len(findings.seeds)} seeds: "
        "mean return while learning with 95 % band",
        panels=(1.0, 1.0, 1.0),
        size=(12.0, 4.2),
        top=0.79,
        right=0.98,
        left=0.065,
        wspace=0.3,
    ) as sheet:
        colours = {TANH: COLOURS[0], RELU: COLOURS[1]}
        for axes, (world, table) in zip(sheet.panels, findings.tables.items(), strict=True):
            curves(axes, table, colours=colours, labels=False, dots=True)
            logarithmic(axes, LEARNING_RATES, ["3·10⁻⁴", "10⁻³", "3·10⁻³"])
            axes.set_title(world, loc="left", fontsize=10)
        names(sheet.panels[0], colours, 0.05, 0.93)
    return path


EXPERIMENT = Experiment(
    name="activations",
    title="tanh against ReLU",
    about=(
        "The hidden layers of policy and critic squash with tanh in almost every paper on policy gradients and are cut "
        "off by ReLU almost everywhere else. That tanh is better was our first claim, and it failed on the seeds that "
        "it was made up on: which one is better, and by how much, is a matter of the world and of the learning rate."
    ),
    claim=(
        "Neither is better everywhere: on Acrobot tanh learns faster at all three learning rates, on Pendulum ReLU at "
        "the two smaller ones. (Of CartPole nothing is claimed.)"
    ),
    source="Andrychowicz et al., ICLR 2021, section 3.2",
    seeds=8,
    measure=measure,
    judge=judge,
    draw=draw,
    least=4,
)
