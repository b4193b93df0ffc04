"""Where a policy spends its time: the discounted occupancy measure, and the policy's own chain.

    ρ(s, a) = Σ_t γ^t P(S_t = s, A_t = a | S_0 ~ μ, π),      ρ(s) = μ(s) + γ Σ_s' P_π(s | s') ρ(s')
    Σ_{s,a} ρ(s, a) r(s, a) = Σ_s μ(s) V^π(s)

(Puterman 1994, section 6.9: the variables of the dual linear program.)
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csc_array, csr_array, eye_array
from scipy.sparse.linalg import splu

from bellmark.errors import BadInput
from bellmark.mdp.model import FiniteMDP

Float = NDArray[np.float64]


def action_probabilities(mdp: FiniteMDP, policy: ArrayLike) -> Float:
    """`policy` (int [S], or probabilities [S, A]) as probabilities: float64 [S, A], 0 in terminal states.

    **Raises** `BadInput` naming the state and action that are wrong.
    """
    try:
        given = np.asarray(policy)
    except ValueError:  # rows of unequal length
        given = np.asarray(policy, dtype=object)
    live = ~mdp.terminal
    states, actions = mdp.num_states, mdp.num_actions
    if given.shape == (states,) and np.issubdtype(given.dtype, np.integer):
        wrong = np.flatnonzero(live & ((given < 0) | (given >= actions)))
        if len(wrong) > 0:
            s = int(wrong[0])
            raise BadInput(
                f"the policy's action in state {mdp.states[s]!r} is {given[s]}; allowed: 0 to {actions - 1}"
            )
        chosen = np.where(live, given, 0)
        weights = np.zeros((states, actions))
        weights[np.flatnonzero(live), chosen[live]] = 1.0
    elif given.shape == (states, actions) and (
        np.issubdtype(given.dtype, np.floating) or np.issubdtype(given.dtype, np.integer)
    ):
        weights = np.where(live[:, None], given.astype(np.float64), 0.0)
        bad = np.argwhere(~np.isfinite(weights) | (weights < 0))
        if len(bad) > 0:
            s, a = bad[0].tolist()
            raise BadInput(
                f"the policy's probability of action {mdp.actions[a]!r} in state {mdp.states[s]!r} is {given[s, a]}; "
                "allowed: 0 to 1"
            )
        totals = weights.sum(axis=1)
        off = np.flatnonzero(live & (np.abs(totals - 1) > 1e-6))
        if len(off) > 0:
            s = int(off[0])
            raise BadInput(
                f"the policy's probabilities in state {mdp.states[s]!r} sum to {totals[s]:.9g}, {totals[s] - 1:+.3g} "
                "away from 1"
            )
    else:
        raise BadInput(
            f"a policy is {states} whole numbers, or probabilities of shape {(states, actions)}; "
            f"got {given.dtype} of shape {given.shape}"
        )
    closed = np.argwhere((weights > 0) & ~mdp.available)
    if len(closed) > 0:
        s, a = closed[0].tolist()
        open_actions = ", ".join(repr(mdp.actions[b]) for b in np.flatnonzero(mdp.available[s]).tolist())
        raise BadInput(
            f"the policy takes action {mdp.actions[a]!r} in state {mdp.states[s]!r}, where it is not available; "
            f"allowed: {open_actions}"
        )
    return weights


def policy_matrix(mdp: FiniteMDP, policy: ArrayLike) -> tuple[csr_array, Float]:
    """The chain of a policy: continuation probabilities P_π (CSR [S, S], equal columns summed) and r_π
    float64 [S].
    """
    weights = action_probabilities(mdp, policy)
    rewards = np.where(weights > 0, mdp.rewards, 0.0)
    used = np.flatnonzero(weights.ravel() > 0)
    lengths = mdp.offsets[used + 1] - mdp.offsets[used]
    starts = np.concatenate([[0], np.cumsum(lengths)])
    entries = np.repeat(mdp.offsets[used] - starts[:-1], lengths) + np.arange(starts[-1])
    data = mdp.continuation[entries] * np.repeat(weights.ravel()[used], lengths)
    row_lengths = np.bincount(used // mdp.num_actions, weights=lengths, minlength=mdp.num_states)
    pointers = np.concatenate([[0], np.cumsum(row_lengths)]).astype(np.int64)
    shape = (mdp.num_states, mdp.num_states)
    matrix = csr_array((data, mdp.successors[entries], pointers), shape=shape)
    matrix.sum_duplicates()
    return matrix, (weights * rewards).sum(axis=1)


def occupancy(mdp: FiniteMDP, policy: ArrayLike, discount: float = 0.99) -> Float:
    """The discounted occupancy measure ρ(s, a): float64 [S, A], in expected (discounted) visits, not
    normalised.

    Its sum is 1 / (1 − γ) where no episode ends. Terminal states, in which nothing is done, have 0.

    **Raises** `BadInput` for a wrong policy, and for γ outside [0, 1), or γ = 1 with a policy that does not
    end.
    """
    if not 0.0 <= discount <= 1.0:
        raise BadInput(f"discount must be between 0 and 1, got {discount}")
    weights = action_probabilities(mdp, policy)
    matrix, _ = policy_matrix(mdp, policy)
    system = csc_array(eye_array(mdp.num_states, format="csc") - discount * matrix.T)
    try:
        visits = splu(system).solve(mdp.initial_distribution.astype(np.float64))
    except RuntimeError as error:
        raise BadInput(
            "discount 1 is not well posed for this policy: it does not end; allowed: a discount below 1"
        ) from error
    if not np.isfinite(visits).all() or float(np.max(np.abs(visits), initial=0.0)) > 1e14:
        raise BadInput(
            "discount 1 is not well posed for this policy: it does not end; allowed: a discount below 1"
        )
    return visits[:, None] * weights
