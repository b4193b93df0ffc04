"""Relative value iteration for the average reward per step (White 1963; Puterman 1994, section 8.5).

    h ← τ (T h) + (1 − τ) h − (its value in one state),    T with γ = 1
    min_s (T h − h)(s)  ≤  g*(s)  ≤  max_s (T h − h)(s)

The damping τ < 1 keeps periodic models from swinging for ever; it changes neither gain nor optimal policies.
The bounds hold for every model (Puterman, theorem 8.5.5); that they meet is promised where every state can
reach every other. `values` are the relative values h (0 in the state where they are pinned), `lower` and
`upper` bound the *gain* in every state.
"""

import numpy as np

from bellmark.errors import BadInput
from bellmark.mdp.model import FiniteMDP

from .problem import Certificate, Problem, Progress
from .value_iteration import at_rounding_floor

DAMPING = 0.8


def average_reward(problem: Problem, progress: Progress, tolerance: float, limit: int) -> None:
    """Sweep until the gain is known to `tolerance`."""
    values = np.zeros(problem.num_states)
    out, policy = np.empty_like(values), np.full(problem.num_states, -1, dtype=np.int32)
    low, high = -np.inf, np.inf
    # Nothing is known yet, and an interrupt must not fall back on a proof about values.
    progress.certificate = problem.bounded(values, problem.first_policy, low, high)
    while len(progress.residuals) < limit:
        sweep, _ = problem.sweep(values, out, policy)
        error = 2 * problem.rounding(sweep.size)
        # Bounds of different sweeps are all true: keep the best of each side.
        low, high = max(low, sweep.low - error), min(high, sweep.high + error)
        progress.note(sweep.span, values, problem)
        shape = np.ones(problem.num_states)
        progress.certificate = Certificate(values.copy(), low * shape, high * shape, policy.copy())
        if progress.record is not None:
            progress.record.lower[-1], progress.record.upper[-1] = low * shape, high * shape
        if high - low <= tolerance or at_rounding_floor(problem, sweep, progress):
            return
        values = DAMPING * out + (1 - DAMPING) * values
        values = values - values[0]


def check_continuing(mdp: FiniteMDP) -> None:
    """**Raises** `BadInput` where an episode can end: an average over endless time says nothing then."""
    if mdp.terminal.any():
        state = mdp.states[int(np.flatnonzero(mdp.terminal)[0])]
        raise BadInput(
            f"average_reward needs a model that never ends, but state {state!r} is terminal; "
            "allowed: models in which every state has an action and no transition is flagged as terminating"
        )
    if mdp.terminations is not None and bool(np.any(mdp.terminations & (mdp.probabilities > 0))):
        entry = int(np.flatnonzero(mdp.terminations & (mdp.probabilities > 0))[0])
        state, action = divmod(int(np.searchsorted(mdp.offsets, entry, side="right")) - 1, mdp.num_actions)
        raise BadInput(
            f"average_reward needs a model that never ends, but action {mdp.actions[action]!r} in state "
            f"{mdp.states[state]!r} can end the episode; allowed: models in which no transition is flagged"
        )
