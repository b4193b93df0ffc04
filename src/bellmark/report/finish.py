"""How a run ends: an evaluation, a verdict, a picture, and the commands that come next."""

import dataclasses
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bellmark.errors import BellmarkError
from bellmark.report.evaluate import Evaluation, play_policies, summarise
from bellmark.report.plots import learning_curve
from bellmark.run.directory import RunDirectory, write_atomic
from bellmark.run.train import Trained

if TYPE_CHECKING:
    from bellmark.report.optimality import Optimality

EVALUATION_SEED = 1_000_003
"""Where evaluation episodes start: apart from the seeds that people train with."""


@dataclasses.dataclass(frozen=True)
class Ending:
    """What a run comes to."""

    evaluation: Evaluation
    solved_seeds: int | None
    optimality: "Optimality | None"
    """Exact gaps to the optimum, where the model is known and finite; `solved_seeds` then counts the near-optimal."""
    verdict: str
    picture: Path | None
    next_commands: tuple[str, ...]


def finish(trained: Trained, episodes: int, timeout: float = 60.0) -> Ending:
    """Evaluate the final policies, say whether the problem is solved, and leave report/ behind."""
    environment = trained.environment
    # a predictor is about the policy that it was given, chance and all
    deterministic = not getattr(trained.algorithm, "predicts", False)
    returns, lengths = play_policies(
        trained.policies, environment, episodes, EVALUATION_SEED, deterministic=deterministic, timeout=timeout
    )
    evaluation = summarise(returns, lengths, environment.id, EVALUATION_SEED, deterministic=deterministic)
    optimal, reason = _optimality(trained)
    # whether the given policy solves the problem is not what a predictor was asked
    threshold = environment.threshold if deterministic else None
    solved, text = verdict(evaluation, threshold, optimal, reason)
    if trained.outcome == "interrupted":
        total = trained.config["steps"]
        text = f"interrupted at step {trained.step:,} of {total:,}; so far {text}"
    run = trained.directory
    run.report.mkdir(exist_ok=True)
    write_evaluation(run, evaluation, threshold, solved, text, optimal)
    picture = None
    if run.metrics_path.stat().st_size:
        picture = learning_curve(run.metrics(), run.read_config(), run.report / "learning_curve.png")
    return Ending(evaluation, solved, optimal, text, picture, next_commands(run.path, trained))


def _optimality(trained: Trained) -> "tuple[Optimality | None, str]":
    environment, discount = trained.environment, getattr(trained.algorithm, "discount", None)
    if getattr(trained.algorithm, "predicts", False):
        return None, _value_error(trained)
    if environment.mdp is None or environment.compiled is None or discount is None:
        return None, ""
    # the exact solvers are imported only where there is something to solve
    from bellmark.report.optimality import optimality_or_reason

    return optimality_or_reason(trained.policies, environment.compiled, environment.mdp, discount)


def _value_error(trained: Trained) -> str:
    """How far a predictor's values are from the exact ones of the policy that it was given."""
    rows = trained.directory.metrics()
    if "error/v" not in rows:
        return "the exact values are not known"
    largest, typical = np.mean(rows["error/v"][-1]), np.mean(rows["error/rms"][-1])
    return f"its values are off by {largest:.3g} at most, {typical:.3g} root mean square"


def verdict(
    evaluation: Evaluation, threshold: float | None, optimal: "Optimality | None" = None, reason: str = ""
) -> tuple[int | None, str]:
    """How many seeds are solved, and one sentence: near the optimum where it is known, else over the threshold."""
    seeds, episodes = evaluation.returns.shape
    low, high = evaluation.interval
    spread = f" [{_number(low)}, {_number(high)}]" if math.isfinite(low) else ""
    sample = f"{episodes} episodes" if seeds == 1 else f"{seeds} seeds × {episodes} episodes"
    measured = f"mean return {_number(evaluation.mean)}{spread} over {sample}"
    if evaluation.unfinished:
        measured += f" ({evaluation.unfinished} episodes given up as endless)"
    if optimal is not None:
        from bellmark.report.optimality import sentence

        word, why = sentence(optimal)
        return optimal.near, f"{word}: {why}; {measured}"
    if threshold is None:
        return None, f"{measured}; {reason or f'no threshold is known for {evaluation.environment}'}"
    solved = int((evaluation.returns.mean(axis=1) >= threshold).sum())
    if seeds == 1:
        word = "solved" if solved else "not solved"
    elif solved == seeds:
        word = f"solved on all {seeds} seeds"
    else:
        word = f"solved on {solved} of {seeds} seeds" if solved else f"not solved on any of {seeds} seeds"
    return solved, f"{word}: {measured}, threshold {threshold:g}"


def _number(value: float) -> str:
    """One decimal, or three digits where that would say little."""
    return f"{value:,.1f}" if abs(value) >= 10 else f"{value:.3g}"


def write_evaluation(
    run: RunDirectory,
    evaluation: Evaluation,
    threshold: float | None,
    solved: int | None,
    text: str,
    optimal: "Optimality | None" = None,
) -> None:
    """report/evaluation.json: the raw returns and what was made of them."""
    data: dict[str, Any] = {
        **dataclasses.asdict(evaluation),
        "returns": evaluation.returns.tolist(),
        "lengths": evaluation.lengths.tolist(),
        "interval": [x if math.isfinite(x) else None for x in evaluation.interval],
        "threshold": threshold,
        "solved_seeds": solved,
        "verdict": text,
    }
    if optimal is not None:
        data |= {
            # None where a policy never ends at discount 1: JSON has no infinity
            "optimality_gap": [x if math.isfinite(x) else None for x in optimal.gaps],
            "optimality_gap_stochastic": [x if math.isfinite(x) else None for x in optimal.stochastic_gaps],
            "optimality_gap_uniform": optimal.uniform_gap,
            "discount": optimal.discount,
        }
    try:
        encoded = json.dumps(data, allow_nan=False).encode()
    except ValueError:
        raise BellmarkError("the evaluation holds a NaN or infinite return; it was not saved") from None
    write_atomic(run.report / "evaluation.json", encoded + b"\n")


def read_returns(run: RunDirectory) -> np.ndarray:
    return np.array(json.loads((run.report / "evaluation.json").read_bytes())["returns"])


def naming(config: dict[str, Any]) -> str:
    """What a command on this run must add: a configuration never makes Bellmark import a user's own environment."""
    environment = config["environment"]
    if environment["reproducible"]:
        return ""
    known = ":" in environment["id"] and "<" not in environment["id"] and not environment["options"]
    return f" --environment {environment['id'] if known else 'module:ClassName'}"


def next_commands(path: Path, trained: Trained) -> tuple[str, ...]:
    named = naming(trained.config)
    if trained.outcome == "interrupted":
        return (f"bellmark resume {path}{named}", f"bellmark evaluate {path}{named}")
    return (
        f"bellmark watch {path}{named}",
        f"bellmark evaluate {path}{named} --episodes 1000",
        f"bellmark compare {path}",
    )
