"""Carry out an experiment and keep everything: the picture, the raw figures, and the verdict.

picture.png      what it shows
<table>.csv      every figure of every seed: curve, seed, position, measured
result.json      claim, verdict, exact numbers, seeds, seconds, versions
"""

import csv
import io
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bellmark.errors import BadInput
from bellmark.run.disk import write_atomic
from bellmark.run.machine import versions

from .base import Experiment, Findings, Table, Verdict


@dataclass(frozen=True)
class Outcome:
    """What an experiment came to, and the files that hold it."""

    experiment: Experiment
    findings: Findings
    verdict: Verdict
    seconds: float
    files: Sequence[Path]

    @property
    def paragraph(self) -> str:
        return f"{self.experiment.about} {self.verdict.sentence}"


def conduct(experiment: Experiment, seeds: Sequence[int], directory: Path) -> Outcome:
    """Measure, judge, draw, write. **Raises** `BadInput` for fewer seeds than anything can be said from."""
    if len(seeds) < experiment.least:
        raise BadInput(
            f"seeds is {len(seeds)}; {experiment.name} compares means over seeds: at least "
            f"{experiment.least} are allowed"
        )
    began = time.perf_counter()
    findings = experiment.measure(seeds)
    verdict, seconds = experiment.judge(findings), time.perf_counter() - began
    files = [experiment.draw(findings, directory / "picture.png")]
    for name, table in findings.tables.items():
        files.append(directory / f"{name}.csv")
        write_atomic(files[-1], _csv(table, findings.seeds))
    result = {
        "experiment": experiment.name,
        "claim": experiment.claim,
        "held": verdict.held,
        "parts": dict(verdict.parts),
        "verdict": verdict.sentence,
        "about": experiment.about,
        "source": experiment.source,
        "exact": dict(findings.exact),
        "seeds": list(seeds) if experiment.least else [],
        "seconds": round(seconds, 3),
        "versions": versions(),
    }
    files.append(directory / "result.json")
    write_atomic(files[-1], (json.dumps(result, indent=1, ensure_ascii=False) + "\n").encode())
    return Outcome(experiment, findings, verdict, seconds, files)


def _csv(table: Table, seeds: Sequence[int]) -> bytes:
    text = io.StringIO(newline="")
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["curve", "seed", table.across, table.measured])
    for label, values in table.curves.items():
        for seed, line in zip(seeds, np.asarray(values), strict=True):
            rows.writerows(
                [label, seed, f"{x:.12g}", f"{y:.12g}"] for x, y in zip(table.position, line, strict=True)
            )
    return text.getvalue().encode()
