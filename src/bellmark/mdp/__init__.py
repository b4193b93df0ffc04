"""Finite Markov decision processes: the model, its builders and named examples. No JAX here."""

from bellmark.mdp.layout import GridLayout
from bellmark.mdp.model import FiniteMDP

__all__ = ["FiniteMDP", "GridLayout"]
