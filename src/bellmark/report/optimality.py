"""How far a learned policy is from Bellman's exact answer, where the model is known.

    gap(π) = Σ_s μ(s) (V*(s) − V^π(s))                 in units of discounted return, never negative
    share  = gap(π) / gap(uniform)                     0: optimal, 1: no better than acting at random

μ is the distribution of initial states.  Unlike a mean return over episodes, the gap has no sampling error.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bellmark.algorithms.exact.evaluation import optimality_gap
from bellmark.envs.base import AbstractEnvironment
from bellmark.errors import BadInput
from bellmark.mdp.model import FiniteMDP
from bellmark.run.yardstick import MOST_STATES, Yardstick

NEAR = 0.01
"""Near-optimal: at most this share of what lies between the uniformly random policy and the optimum is missing."""


@dataclasses.dataclass(frozen=True)
class Optimality:
    """Exact gaps of every seed's policy: `gaps` of its most probable actions, which are what is evaluated and deployed,
    `stochastic_gaps` of its action probabilities; `uniform_gap` of acting at random.
    """

    gaps: tuple[float, ...]
    stochastic_gaps: tuple[float, ...]
    uniform_gap: float
    discount: float

    @property
    def near(self) -> int:
        """On how many seeds the policy is near-optimal."""
        return sum(gap <= NEAR * self.uniform_gap for gap in self.gaps)


def optimality(
    policies: Sequence[Any], environment: AbstractEnvironment, mdp: FiniteMDP, discount: float
) -> Optimality:
    """The gaps of `policies`, read from what each does in every state of `environment`.

    Raises: `BadInput` where a value is infinite, as with a discount of 1 and a policy that never ends an episode.
    """
    states = jnp.arange(mdp.num_states, dtype=jnp.int32)
    observations = jax.vmap(environment.observe)(states)
    masks = jax.vmap(environment.action_mask)(states)
    probabilities = [
        np.exp(np.asarray(_log_probabilities(policy, observations, masks), np.float64)) for policy in policies
    ]
    gap = _gap(mdp, discount)
    uniform = gap(_proper(mdp, np.ones_like(probabilities[0])))
    if not np.isfinite(uniform):
        raise BadInput(
            f"at discount {discount:g} the random policy's value is infinite, so there is no scale"
        )
    return Optimality(
        gaps=tuple(gap(_greedy(mdp, p)) for p in probabilities),
        stochastic_gaps=tuple(gap(_proper(mdp, p)) for p in probabilities),
        uniform_gap=uniform,
        discount=discount,
    )


def _gap(mdp: FiniteMDP, discount: float) -> Callable[[np.ndarray], float]:
    """The gap of a policy. At discount 1 only states that it comes to need to have a value: what a learner has left
    undecided where it never goes may go round for ever. A policy that itself does has an infinite gap.
    """
    if discount < 1.0 or mdp.num_states > MOST_STATES:
        return lambda policy: optimality_gap(mdp, policy, discount)
    return Yardstick(mdp, discount).gap


_log_probabilities = jax.jit(
    lambda policy, observations, masks: policy.distribution(observations, masks).log_probs
)


def _proper(mdp: FiniteMDP, weights: np.ndarray) -> np.ndarray:
    """Probabilities float64 [S, A] over the actions that are available; float32's rounding is taken out."""
    weights = np.where(mdp.available, weights, 0.0)
    return weights / np.maximum(weights.sum(axis=1, keepdims=True), np.finfo(float).tiny)


def _greedy(mdp: FiniteMDP, weights: np.ndarray) -> np.ndarray:
    """The most probable action of every state, int [S]."""
    return np.where(mdp.available, weights, -1.0).argmax(axis=1)


def sentence(found: Optimality) -> tuple[str, str]:
    """The verdict's word and its reason."""
    seeds, near = len(found.gaps), found.near
    if seeds == 1:
        word = "near-optimal" if near else "not near-optimal"
    elif near == seeds:
        word = f"near-optimal on all {seeds} seeds"
    else:
        word = (
            f"near-optimal on {near} of {seeds} seeds"
            if near
            else f"not near-optimal on any of {seeds} seeds"
        )
    endless = sum(not np.isfinite(gap) for gap in found.gaps)
    if endless:
        which = "its policy never ends" if seeds == 1 else f"{endless} of {seeds} seeds' policies never end"
        return word, f"{which}, so the gap to the optimum is infinite (discount {found.discount:g})"
    mean = float(np.mean(found.gaps))
    share = mean / found.uniform_gap if found.uniform_gap > 0 else 0.0
    average = "mean gap" if seeds > 1 else "gap"
    return word, (
        f"{average} to the optimum {mean:.4g} (discount {found.discount:g}), "
        f"{100 * share:.2g} % of the random policy's {found.uniform_gap:.4g}; up to {100 * NEAR:g} % counts as near"
    )


def optimality_or_reason(
    policies: Sequence[Any], environment: AbstractEnvironment, mdp: FiniteMDP, discount: float
) -> tuple[Optimality | None, str]:
    """`optimality`, or None and why there is no finite answer."""
    if any(hasattr(policy, "initial_memory") for policy in policies):
        return None, "no gap to the optimum: what a policy with memory does is no function of the state"
    try:
        return optimality(policies, environment, mdp, discount), ""
    except BadInput as error:
        return None, f"no gap to the optimum: {error}"
