"""How a run ends: an evaluation, a verdict, a picture, and the commands that come next."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from bellmark.errors import BellmarkError
from bellmark.report.evaluate import Evaluation, play_policies, summarise
from bellmark.report.plots import learning_curve
from bellmark.run.directory import RunDirectory, write_atomic
from bellmark.run.train import Trained

EVALUATION_SEED = 1_000_003
"""Where evaluation episodes start: apart from the seeds that people train with."""


@dataclasses.dataclass(frozen=True)
class Ending:
    """What a run comes to."""

    evaluation: Evaluation
    solved_seeds: int | None
    verdict: str
    picture: Path | None
    next_commands: tuple[str, ...]


def finish(trained: Trained, episodes: int, timeout: float = 60.0) -> Ending:
    """Evaluate the final policies, say whether the problem is solved, and leave report/ behind."""
    environment = trained.environment
    returns, lengths = play_policies(
        trained.policies, environment, episodes, EVALUATION_SEED, deterministic=True, timeout=timeout
    )
    evaluation = summarise(returns, lengths, environment.id, EVALUATION_SEED, deterministic=True)
    solved, text = verdict(evaluation, environment.threshold)
    if trained.outcome == "interrupted":
        total = trained.config["steps"]
        text = f"interrupted at step {trained.step:,} of {total:,}; so far {text}"
    run = trained.directory
    run.report.mkdir(exist_ok=True)
    write_evaluation(run, evaluation, environment.threshold, solved, text)
    picture = None
    if run.metrics_path.stat().st_size:
        picture = learning_curve(run.metrics(), run.read_config(), run.report / "learning_curve.png")
    return Ending(evaluation, solved, text, picture, next_commands(run.path, trained))


def verdict(evaluation: Evaluation, threshold: float | None) -> tuple[int | None, str]:
    """How many seeds' mean return reaches the threshold, and one sentence."""
    seeds, episodes = evaluation.returns.shape
    low, high = evaluation.interval
    spread = f" [{low:,.1f}, {high:,.1f}]" if math.isfinite(low) else ""
    sample = f"{episodes} episodes" if seeds == 1 else f"{seeds} seeds × {episodes} episodes"
    measured = f"mean return {evaluation.mean:,.1f}{spread} over {sample}"
    if evaluation.unfinished:
        measured += f" ({evaluation.unfinished} episodes given up as endless)"
    if threshold is None:
        return None, f"{measured}; no threshold is known for {evaluation.environment}"
    solved = int((evaluation.returns.mean(axis=1) >= threshold).sum())
    if seeds == 1:
        word = "solved" if solved else "not solved"
    elif solved == seeds:
        word = f"solved on all {seeds} seeds"
    else:
        word = f"solved on {solved} of {seeds} seeds" if solved else f"not solved on any of {seeds} seeds"
    return solved, f"{word}: {measured}, threshold {threshold:g}"


def write_evaluation(
    run: RunDirectory, evaluation: Evaluation, threshold: float | None, solved: int | None, text: str
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
    try:
        encoded = json.dumps(data, allow_nan=False).encode()
    except ValueError:
        raise BellmarkError("the evaluation holds a NaN or infinite return; it was not saved") from None
    write_atomic(run.report / "evaluation.json", encoded + b"\n")


def read_returns(run: RunDirectory) -> np.ndarray:
    return np.array(json.loads((run.report / "evaluation.json").read_bytes())["returns"])


def next_commands(path: Path, trained: Trained) -> tuple[str, ...]:
    named = "" if trained.config["environment"]["reproducible"] else " --environment module:ClassName"
    if trained.outcome == "interrupted":
        return (f"bellmark resume {path}{named}", f"bellmark evaluate {path}{named}")
    return (
        f"bellmark watch {path}{named}",
        f"bellmark evaluate {path}{named} --episodes 1000",
        f"bellmark compare {path}",
    )
