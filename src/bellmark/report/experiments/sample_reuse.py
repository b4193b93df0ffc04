"""Epochs: how often an on-policy sample can be used, with PPO's clip and without it.

J. Schulman et al., "Proximal policy optimization algorithms", 2017, section 3.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .base import Experiment, Findings, Float, Table, Verdict, above, average, verdict
from .drawing import COLOURS, Sheet, curves, logarithmic, names, number
from .learned import ended, followed, returns, varied

ENVIRONMENTS, LENGTH, ITERATIONS, POINTS, MINIBATCHES = 8, 128, 32, 16, 4
EPOCHS = np.array([1, 3, 10, 30])
CLIP, NO_CLIP = 0.2, 1e6
HIDDEN = (32, 32)
CLIPPED, FREE = "clipped at 0.2", "not clipped"


def measure(seeds: Sequence[int]) -> Findings:
    found = np.stack([_learn(epochs, seeds) for epochs in EPOCHS.tolist()])  # [epochs, clips, seeds, points]
    steps = np.arange(1.0, POINTS + 1) * ITERATIONS * ENVIRONMENTS * LENGTH / POINTS
    return Findings(
        seeds,
        {
            "epochs": Table(
                "epochs of every rollout",
                EPOCHS.astype(np.float64),
                "mean return while learning",
                {name: np.nanmean(found[:, place], axis=2).T for place, name in enumerate((CLIPPED, FREE))},
            ),
            "learning": Table(
                "environment steps",
                steps,
                "return of an episode",
                {
                    f"{epochs} {'epochs' if epochs > 1 else 'epoch'}": found[place, 0]
                    for place, epochs in enumerate(EPOCHS.tolist())
                },
            ),
        },
    )


def _learn(epochs: int, seeds: Sequence[int]) -> Float:
    """Returns along the way, with the clip and without, [2, seeds, POINTS]."""
    from bellmark.algorithms.policy_gradient.ppo import PPO
    from bellmark.envs.registry import resolve
    from bellmark.experience.rollout import CompiledProblem

    learner = PPO(
        environments=ENVIRONMENTS,
        rollout_length=LENGTH,
        minibatches=MINIBATCHES,
        epochs=epochs,
        learning_rate=1e-3,
        anneal=False,
        entropy_weight=0.0,
        hidden=HIDDEN,
    )
    environment = resolve("CartPole-v1").compiled
    assert environment is not None
    problem = CompiledProblem(environment, ITERATIONS * ENVIRONMENTS * LENGTH, 500)
    sums = followed(
        lambda clip: (varied(learner, clip=clip), problem),
        np.array([CLIP, NO_CLIP]),
        seeds,
        ITERATIONS,
        ended,
    )
    return returns(sums, POINTS)


def judge(findings: Findings) -> Verdict:
    clipped, free = (findings.tables["epochs"].curves[name] for name in (CLIPPED, FREE))
    parts = {
        f"{EPOCHS[place]} epochs learn faster than {EPOCHS[place - 1]}": above(
            clipped[:, place], clipped[:, place - 1]
        )
        for place in (1, 2)
    }
    parts |= {
        f"with the clip, {EPOCHS[-1]} epochs still learn faster than one": above(
            clipped[:, -1], clipped[:, 0]
        ),
        f"without it, {EPOCHS[-1]} epochs learn slower than with it": above(clipped[:, -1], free[:, -1]),
        "with one epoch the clip makes less of a difference than with the most": above(
            clipped[:, -1] - free[:, -1], np.abs(clipped[:, 0] - free[:, 0])
        ),
    }
    rows = "; ".join(
        f"{number(average(clipped[:, place]))} with {epochs} {'epochs' if epochs > 1 else 'epoch'} "
        f"({number(average(free[:, place]))} without the clip)"
        for place, epochs in enumerate(EPOCHS.tolist())
    )
    steps = ITERATIONS * ENVIRONMENTS * LENGTH
    return verdict(parts, f"the mean return of the episodes of {steps:,} steps is {rows}")


def draw(findings: Findings, path: Path) -> Path:
    with Sheet(
        path,
        "On-policy samples used again: epochs, and what the clip is for",
        f"PPO on CartPole-v1, {ENVIRONMENTS} × {LENGTH} steps per rollout, learning rate 10⁻³; "
        f"{len(findings.seeds)} seeds: mean with 95 % band",
        panels=(1.0, 1.2),
        size=(10.5, 4.4),
        right=0.88,
        left=0.075,
        wspace=0.3,
    ) as sheet:
        left, right = sheet.panels
        colours = {CLIPPED: COLOURS[0], FREE: COLOURS[1]}
        curves(left, findings.tables["epochs"], colours=colours, labels=False, dots=True)
        logarithmic(left, EPOCHS, [f"{epochs}" for epochs in EPOCHS.tolist()])
        left.set_ylim(0, None)
        names(left, colours, 0.05, 0.93)
        curves(right, findings.tables["learning"])
        right.set_ylim(0, None)
    return path


EXPERIMENT = Experiment(
    name="sample-reuse",
    title="On-policy samples used again: epochs, and what the clip is for",
    about=(
        "A rollout's samples are those of the policy that made them, so a plain policy gradient may use them once. "
        "PPO uses them again and again, and its clip takes away the reason to go far from that policy. More epochs "
        "mean more learning from the same steps of the environment, until the samples are those of a policy long gone."
    ),
    claim=(
        f"From 1 to 3 to 10 epochs learning gets faster per step; with the clip even {EPOCHS[-1]} are better than one; "
        "without it they are worse than with it, and the clip hardly matters for one epoch."
    ),
    source="Schulman et al., 2017",
    seeds=10,
    measure=measure,
    judge=judge,
    draw=draw,
)
