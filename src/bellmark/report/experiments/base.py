"""What an experiment is: a claim, what is measured, how the claim is judged by it, and a picture.

    measure(seeds) → Findings        the only part that learns or solves anything
    judge(findings) → Verdict        the claim against the figures, and nothing but the figures
    draw(findings, path)             the same figures, for the eye

The three are separate functions so that a verdict is a function of data: other data, another verdict.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bellmark.report.statistics import interval, mean

Float = NDArray[np.float64]


@dataclass(frozen=True)
class Table:
    """One quantity of several learners: `curves[label]` is float64 [seeds, points], measured at `position` [points]."""

    across: str
    position: Float
    measured: str
    curves: Mapping[str, Float]


@dataclass(frozen=True)
class Findings:
    """All that was measured. `exact` numbers were computed from the model, without learning and without seeds."""

    seeds: Sequence[int]
    tables: Mapping[str, Table] = field(default_factory=dict)
    exact: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Verdict:
    """Whether the claim held, in one sentence with its figures, and each of its parts by name."""

    held: bool
    sentence: str
    parts: Mapping[str, bool]


@dataclass(frozen=True)
class Experiment:
    """`about` is what the picture shows and why, `claim` what is put to the test, `source` where it was made."""

    name: str
    title: str
    about: str
    claim: str
    source: str
    seeds: int
    measure: Callable[[Sequence[int]], Findings]
    judge: Callable[[Findings], Verdict]
    draw: Callable[[Findings, Path], Path]
    least: int = 2
    """Seeds below which nothing can be said; 0 for an experiment that learns nothing."""


def verdict(parts: Mapping[str, bool], figures: str) -> Verdict:
    """Held if every part did; the sentence names the parts that did not."""
    parts = {part: bool(held) for part, held in parts.items()}
    failed = [part for part, held in parts.items() if not held]
    if not failed:
        return Verdict(True, f"The claim held: {figures}.", parts)
    return Verdict(False, f"The claim did not hold (it failed in: {'; '.join(failed)}): {figures}.", parts)


def above(first: Float, second: Float) -> bool:
    """Whether the mean of `first` − `second`, [seeds], pairs of one seed, is above 0 with 95 % confidence.

    The interval is a percentile bootstrap over seeds; where all pairs are equal there is no doubt about the mean.
    """
    return bool(interval(np.asarray(first, np.float64) - np.asarray(second, np.float64))[0] > 0.0)


def average(values: Float) -> float:
    """The mean over seeds, those that have nothing to say left out."""
    return float(mean(np.asarray(values, np.float64).ravel()))
