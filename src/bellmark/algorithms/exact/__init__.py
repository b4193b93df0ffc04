"""Exact solution of finite models: one method per file, `solve` in front of them all."""

from .evaluation import evaluate_policy, optimality_gap, regret
from .finite_horizon import FiniteHorizonSolution, finite_horizon
from .solution import Record, Solution
from .solve import METHODS, solve

__all__ = [
    "METHODS",
    "FiniteHorizonSolution",
    "Record",
    "Solution",
    "evaluate_policy",
    "finite_horizon",
    "optimality_gap",
    "regret",
    "solve",
]
