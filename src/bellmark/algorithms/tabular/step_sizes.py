"""Step sizes α_n for the n-th update of a state–action pair.

    constant      α_n = α
    harmonic      α_n = α / n           (α = 1: the sample average)
    polynomial    α_n = α / n^p

A stochastic approximation converges to its fixed point under the conditions of Robbins and Monro,

    Σ_n α_n = ∞    and    Σ_n α_n² < ∞,

which the harmonic schedule and the polynomial one with ½ < p ≤ 1 satisfy. A constant step size satisfies the first
only: estimates keep moving around the answer, within a distance that shrinks with α, and follow a world that changes.
(H. Robbins, S. Monro, "A stochastic approximation method", 1951; Sutton & Barto, 2nd ed., section 2.5. Of the
schedules that converge, p ≈ 0.8 is usually much faster than 1/n: E. Even-Dar, Y. Mansour, "Learning rates for
Q-learning", 2003.)
"""

from typing import Any, Literal

from bellmark.algorithms.checks import positive
from bellmark.errors import BadInput

from .kernels import called, inlined

StepSizeSchedule = Literal["constant", "harmonic", "polynomial"]
CODES = {"constant": 0, "harmonic": 1, "polynomial": 2}


def check(step_size: float, schedule: str, power: float) -> None:
    positive(step_size=step_size)
    if step_size > 1.0:
        raise BadInput(f"step_size is {step_size}; allowed: more than 0, at most 1")
    if schedule == "polynomial" and not 0.0 < power <= 1.0:
        raise BadInput(f"step_size_power is {power}; allowed: more than 0, at most 1 (above ½ it converges)")


def converges(schedule: str, power: float) -> bool:
    """Whether the schedule satisfies both conditions of Robbins and Monro."""
    return schedule == "harmonic" or (schedule == "polynomial" and 0.5 < power <= 1.0)


@called
def shrinking(schedule: int, first: float, power: float, count: int) -> float:
    """α_n of the schedules that depend on n."""
    return first / count if schedule == 1 else first / count**power


@inlined
def step_size(settings: Any, count: int) -> float:
    """α_n, where `count` = n ≥ 1."""
    if settings.step_schedule == 0:
        return settings.step_size
    return shrinking(settings.step_schedule, settings.step_size, settings.step_power, count)
