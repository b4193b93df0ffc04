"""`bellmark compare RUN RUN …`: learning curves of several runs in one picture, and their results in one
table.
"""

import glob
import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bellmark.cli.arguments import Parser
from bellmark.errors import BadInput
from bellmark.report import plots, statistics
from bellmark.run.directory import RunDirectory

DESCRIPTION = """Draw learning curves of one or several runs: interquartile mean over seeds, 95 % bootstrap
band, against steps and against seconds.  Print what each run reached, how fast, and how sure that is.
Where all runs know the exact optimum of one and the same model, the gap to it is what is drawn."""

EXAMPLES = """examples:
  bellmark compare runs/ppo-CartPole-v1-* runs/reinforce-CartPole-v1-*
  bellmark compare runs/a runs/b --labels "clip 0.1,clip 0.3" --axis steps --output clip.svg"""

RETURN, GAP = "episode/return", "gap/greedy"
FINAL_SHARE = 0.1
"""Where a run has no evaluation, its result is what it earned in this last share of its steps."""


@dataclass(frozen=True)
class Compared:
    """One run, read: its metrics' columns, and the returns `[seeds, episodes]` of its final policies if
    evaluated.
    """

    path: Path
    config: dict[str, Any]
    columns: dict[str, np.ndarray]
    evaluation: np.ndarray | None

    @property
    def environment(self) -> str:
        """The id without the engine: a compiled twin is the same problem as Gymnasium's own."""
        return str(self.config["environment"]["id"]).removeprefix("gymnasium:")

    @property
    def threshold(self) -> float | None:
        threshold = self.config["environment"].get("threshold")
        return float(threshold) if isinstance(threshold, int | float) else None


def main(arguments: list[str]) -> int:
    parser = Parser(prog="bellmark compare", description=DESCRIPTION, epilog=EXAMPLES)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run directories, or quoted patterns with *")
    parser.add_argument("--axis", choices=("both", *statistics.AXES), default="both", help="default both")
    parser.add_argument("--metric", help=f"default {GAP} where all runs measure it, else {RETURN}")
    parser.add_argument("--labels", help="one name per run, separated by commas")
    parser.add_argument(
        "--output", default="compare.png", metavar="FILE", help="default compare.png; or .svg, .pdf"
    )
    given = parser.parse(arguments)
    plots.picture_path(given.output)
    runs = [_read(path) for path in _expanded(given.runs)]
    metric = given.metric or _usual(runs)
    for run in runs:
        _check(run, metric)
    labels = _given_labels(given.labels, runs) if given.labels else _labels(runs)
    path = plots.comparison(
        [
            plots.Run(label, run.columns, run.environment, run.threshold)
            for label, run in zip(labels, runs, strict=True)
        ],
        given.output,
        axis=given.axis,
        metric=metric,
    )
    _print(labels, runs, metric)
    print(f"wrote {path}")
    return 0


def _expanded(patterns: list[str]) -> list[Path]:
    """The run directories that were named, each once; a pattern stands for the runs among what it matches."""
    paths: list[Path] = []
    for pattern in patterns:
        plain = Path(pattern).expanduser()
        if plain.exists() or not glob.has_magic(pattern):
            paths.append(plain)
            continue
        matches = [Path(match) for match in sorted(glob.glob(str(plain)))]
        found = [match for match in matches if (match / "config.json").is_file()]
        if not found:
            raise BadInput(f"no run matches {pattern!r}; see bellmark list runs")
        paths += found
    return list({path.resolve(): path for path in paths}.values())


def _read(path: Path) -> Compared:
    directory = RunDirectory.open(path)
    if not directory.metrics_path.is_file():
        raise BadInput(f"{path} has no metrics yet; leave it out or wait for its first row")
    evaluation = _evaluation(directory.report / "evaluation.json")
    return Compared(path, directory.read_config(), directory.metrics(), evaluation)


def _usual(runs: list[Compared]) -> str:
    """The gap, where it is known of every run and means the same in each; else the return."""
    known = all(np.isfinite(run.columns.get(GAP, np.nan)).any() for run in runs)
    discounts = {run.config["algorithm"]["fields"].get("discount") for run in runs}
    alike = len({run.environment for run in runs}) == 1 and len(discounts) == 1
    return GAP if known and alike else RETURN


def _check(run: Compared, metric: str) -> None:
    """**Raises** `BadInput` where the run has nothing to show."""
    rows = len(run.columns["step"])
    if not rows or (metric == RETURN and not np.isfinite(run.columns.get(RETURN, np.nan)).any()):
        steps = int(run.columns["step"][-1]) if rows else 0
        raise BadInput(f"{run.path} has not finished an episode in its {steps:,} steps; leave it out or wait")
    statistics.learning(run.columns, metric, points=1)


def _evaluation(path: Path) -> np.ndarray | None:
    """The returns `[seeds, episodes]` of the final policies, or None where there is no sound evaluation."""
    try:
        returns = json.loads(path.read_bytes())["returns"]
        longest = max(len(row) for row in returns)
        table = np.array([[*row, *[np.nan] * (longest - len(row))] for row in returns], np.float64)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return table if table.ndim == 2 and np.isfinite(table).any() else None


def _given_labels(text: str, runs: list[Compared]) -> list[str]:
    labels = [label.strip() for label in text.split(",")]
    if len(labels) != len(runs) or not all(labels):
        raise BadInput(f"--labels {text!r} names {len(labels)}; allowed: {len(runs)} names, one per run")
    return labels


def _labels(runs: list[Compared]) -> list[str]:
    """The shortest names that tell the runs apart: the algorithm, its settings that differ, or the folder."""
    names = [plots.algorithm_title(run.config["algorithm"]["name"]) for run in runs]
    if len({run.environment for run in runs}) > 1:
        names = [f"{name}, {run.environment}" for name, run in zip(names, runs, strict=True)]
    labels = list(names)
    for name in set(names):
        alike = [place for place, other in enumerate(names) if other == name]
        for place, settings in zip(alike, _differences([runs[place] for place in alike]), strict=True):
            labels[place] = ", ".join([name, *settings])
    if len(set(labels)) == len(runs) and max(label.count(",") for label in labels) <= 3:
        return labels
    folders = [run.path.resolve().name for run in runs]
    return folders if len(set(folders)) == len(runs) else [str(run.path) for run in runs]


def _differences(runs: list[Compared]) -> list[list[str]]:
    """For each run the hyperparameters in which these runs are not all equal, as text."""
    fields = [
        {name: json.dumps(value).strip('"') for name, value in run.config["algorithm"]["fields"].items()}
        for run in runs
    ]
    differing = [
        name
        for name in dict.fromkeys(name for table in fields for name in table)
        if len({table.get(name) for table in fields}) > 1
    ]
    return [
        [f"{name.replace('_', ' ')} {table[name]}" for name in differing if name in table] for table in fields
    ]


def _print(labels: list[str], runs: list[Compared], metric: str) -> None:
    from rich.console import Console
    from rich.table import Table

    evaluated = metric == RETURN and all(run.evaluation is not None for run in runs)
    scores = [run.evaluation if evaluated else _last_part(run.columns, metric) for run in runs]
    thresholds = {run.threshold for run in runs} if metric == RETURN else {None}
    table = Table(box=None, pad_edge=False, header_style="bold")
    goal = (
        f"steps to {plots.number(next(iter(thresholds)) or 0)}"
        if len(thresholds) == 1
        else "steps to threshold"
    )
    headers = [
        "run",
        "seeds",
        f"gap of the {plots.GAPS[metric]}" if metric in plots.GAPS else metric.removeprefix("episode/"),
        "95 % interval",
        "seconds",
        "steps/s",
    ]
    if thresholds != {None}:
        headers.append(goal)
    for name in headers:
        left = name == "run"
        table.add_column(name, justify="left" if left else "right", no_wrap=not left, overflow="fold")
    for label, run, score in zip(labels, runs, scores, strict=True):
        assert score is not None
        seeds = run.columns[metric].shape[1]
        steps, seconds = float(run.columns["step"][-1]), float(run.columns["seconds"][-1])
        centre = statistics.interquartile_mean(statistics.mean(score) if score.ndim == 2 else score)
        low, high = statistics.interval(score, statistics.interquartile_mean)
        row = [
            label,
            str(seeds),
            plots.number(float(centre)),
            f"{plots.number(low)} to {plots.number(high)}" if math.isfinite(low) else "(one seed)",
            f"{seconds:,.1f}",
            f"{seeds * steps / seconds:,.0f}" if seconds > 0 else "",
        ]
        if thresholds != {None}:
            row.append(_reached(run))
        table.add_row(*row)
    # A table that goes into a file is not cut to the width of a terminal that nobody looks at.
    console = Console(highlight=False, markup=False, emoji=False, width=None if sys.stdout.isatty() else 200)
    console.print(table)
    for line in _remarks(labels, runs, scores, evaluated, metric):
        console.print(line, style="dim", soft_wrap=True)


def _last_part(columns: dict[str, np.ndarray], metric: str) -> np.ndarray:
    """Each seed's mean over the last tenth of the steps, episode by episode where the metric is about
    episodes.
    """
    late = columns["step"] > (1 - FINAL_SHARE) * columns["step"][-1]
    weights = columns.get("episode/count") if metric.startswith("episode/") else None
    values = columns[metric][late]
    if metric in plots.GAPS:  # infinite where a policy never ends
        values = np.where(np.isfinite(values), values, np.nan)
    part = statistics.trailing_mean(values, int(late.sum()), None if weights is None else weights[late])
    return part[-1]


def _reached(run: Compared) -> str:
    """When the interquartile mean first reached the run's threshold."""
    if run.threshold is None:
        return ""
    curves = [statistics.learning(run.columns, RETURN, axis=axis, points=1_000) for axis in statistics.AXES]
    steps, seconds = (statistics.first_reach(c.position, c.centre, run.threshold) for c in curves)
    if math.isnan(steps):
        return "not reached"
    return f"{plots.compact(steps)} ({seconds:,.1f} s)"


def _remarks(
    labels: list[str], runs: list[Compared], scores: list[Any], evaluated: bool, metric: str
) -> list[str]:
    """What the table's numbers are, and when they should not be compared."""
    if evaluated:
        lines = ["Interquartile mean over seeds of the final policies' evaluation; 95 % bootstrap interval."]
    else:
        what = f"gap of the {plots.GAPS[metric]}" if metric in plots.GAPS else "value"
        lines = [
            f"Interquartile mean over seeds of the {what} in the last tenth of training; 95 % bootstrap interval."
        ]
    environments = list(dict.fromkeys(run.environment for run in runs))
    if len(environments) > 1:
        lines.append(f"Not comparable: the environments differ ({', '.join(environments)}).")
        return lines
    if len({run.columns["step"][-1] for run in runs}) > 1:
        lines.append("The runs have different numbers of steps.")
    if len({len(run.config["seeds"]) for run in runs}) > 1:
        lines.append("The runs have different numbers of seeds, and seconds are for all seeds together.")
    if len(runs) == 2:
        first, second = (statistics.mean(score) if score.ndim == 2 else score for score in scores)
        if metric in plots.GAPS:  # the smaller the better
            first, second = -first, -second
        share = statistics.probability_of_improvement(first, second)
        low, high = statistics.improvement_interval(first, second)
        sure = f", 95 % interval {low:.2f} to {high:.2f}" if math.isfinite(low) else ""
        lines.append(f"Probability that a seed of {labels[0]} beats one of {labels[1]}: {share:.2f}{sure}.")
    return lines
