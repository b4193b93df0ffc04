"""γ = 1 where it is well posed: end components found and treated, and a proof without 1 / (1 − γ).

An *end component* is a set of states that some choice of actions never leaves (de Alfaro 1997). At γ = 1

- with no end component every policy ends, T has one fixed point, and all is well;
- one whose staying actions pay nothing can be stayed in for free: T has many fixed points, and plain value
  iteration may stop at a wrong one. Its states are chained into one (all are worth the same), with the
  choice to stay for ever, worth 0;
- one that can pay less than nothing, but never more, is left in the end: endless policies are worth −∞. Then
  from every state some policy must be certain to end, else that state is named and refused;
- one that can pay more than nothing has no finite value: refused, by name.

**The proof.** Let w > 0 with w − P_a w ≥ θ > 0 for every action a that is nearly optimal (w: expected steps
to the end, by the slowest of them). If T v − v ≤ M then u = v + M w / θ should satisfy T u ≤ u, and l = v +
m w / θ should satisfy T_π l ≥ l for the greedy π. Both are *checked*, with rounding charged, and if they
hold then l ≤ V* ≤ u (Bertsekas & Tsitsiklis 1991; the guess-and-check form is that of Hartmanns & Kaminski's
optimistic value iteration 2020).
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bellmark.errors import BadInput
from bellmark.mdp import bellman
from bellmark.mdp.model import FiniteMDP

from .policy_iteration import solve_policy
from .problem import Certificate, Problem, Sweep, open_problem, problem_from_arrays

Float = NDArray[np.float64]
Array = NDArray[Any]
NO_ORDER = np.empty(0, dtype=np.int32)

QUICK_SWEEPS = 500
"""Gauss–Seidel sweeps for the weights of the proof, before they are solved for directly."""


# ----------------------------------------------------------------------------------------------------- graphs


@bellman.kernel
def strong_components(
    successors: Array, probabilities: Array, offsets: Array, alive: Array, num_actions: int
) -> Array:
    """The strongly connected component of each state, over alive pairs (Tarjan 1972, without recursion)."""
    num_states = (len(offsets) - 1) // num_actions
    component = np.full(num_states, -1, dtype=np.int32)
    index = np.full(num_states, -1, dtype=np.int32)
    low = np.zeros(num_states, dtype=np.int32)
    pair = np.zeros(num_states, dtype=np.int64)
    entry = np.zeros(num_states, dtype=np.int64)
    stack = np.empty(num_states, dtype=np.int32)
    path = np.empty(num_states, dtype=np.int32)
    height, visited, found = 0, 0, 0
    for root in range(num_states):
        if index[root] >= 0:
            continue
        depth = 0
        path[0] = root
        while depth >= 0:
            s = path[depth]
            if index[s] < 0:
                index[s] = visited
                low[s] = visited
                visited += 1
                stack[height] = s
                height += 1
                pair[s] = s * num_actions
                entry[s] = offsets[pair[s]]
            descended = False
            while pair[s] < (s + 1) * num_actions:
                if not alive[pair[s]] or entry[s] >= offsets[pair[s] + 1]:
                    pair[s] += 1
                    entry[s] = offsets[pair[s]]
                    continue
                i = entry[s]
                entry[s] += 1
                if probabilities[i] <= 0.0:
                    continue
                j = successors[i]
                if index[j] < 0:
                    depth += 1
                    path[depth] = j
                    descended = True
                    break
                if component[j] < 0:
                    low[s] = min(low[s], index[j])
            if descended:
                continue
            if low[s] == index[s]:
                while True:
                    height -= 1
                    j = stack[height]
                    component[j] = found
                    if j == s:
                        break
                found += 1
            depth -= 1
            if depth >= 0:
                low[path[depth]] = min(low[path[depth]], low[s])
    return component


@bellman.kernel
def drop_leaving(
    successors: Array, probabilities: Array, offsets: Array, alive: Array, inside: Array, num_actions: int
) -> int:
    """Kill alive pairs that may lead to a state with another number in `inside`; returns how many."""
    dropped = 0
    for pair in range(len(offsets) - 1):
        if not alive[pair]:
            continue
        for i in range(offsets[pair], offsets[pair + 1]):
            if probabilities[i] > 0.0 and inside[successors[i]] != inside[pair // num_actions]:
                alive[pair] = False
                dropped += 1
                break
    return dropped


@bellman.kernel
def reach(
    successors: Array, probabilities: Array, offsets: Array, alive: Array, policy: Array, reached: Array
) -> int:
    """Add states with an alive pair that may lead into `reached`, and note it in `policy`; returns how many
    were new.
    """
    num_actions = (len(offsets) - 1) // len(policy)
    new = 0
    for s in range(len(policy) - 1, -1, -1):
        if reached[s]:
            continue
        for a in range(num_actions):
            pair = s * num_actions + a
            if not alive[pair] or reached[s]:
                continue
            for i in range(offsets[pair], offsets[pair + 1]):
                if probabilities[i] > 0.0 and reached[successors[i]]:
                    reached[s] = True
                    policy[s] = a
                    new += 1
                    break
    return new


def end_components(mdp: FiniteMDP, alive: NDArray[np.bool_]) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """Maximal end components over the `alive` pairs (bool [S·A]).

    **Returns:** the component's number for each state, −1 outside of all (int32 [S]), and the pairs that
    stay in theirs (bool [S·A]).
    """
    staying = alive.copy()
    while True:
        component = strong_components(
            mdp.successors, mdp.probabilities, mdp.offsets, staying, mdp.num_actions
        )
        if not drop_leaving(
            mdp.successors, mdp.probabilities, mdp.offsets, staying, component, mdp.num_actions
        ):
            break
    inside = staying.reshape(mdp.num_states, mdp.num_actions).any(axis=1)
    return np.where(inside, component, -1).astype(np.int32), staying


def ending_pairs(mdp: FiniteMDP) -> NDArray[np.bool_]:
    """bool [S·A]: available pairs with a flagged transition of positive probability."""
    if mdp.terminations is None:
        return np.zeros(mdp.num_states * mdp.num_actions, dtype=bool)
    flagged = np.flatnonzero(mdp.terminations & (mdp.probabilities > 0))
    pairs = np.searchsorted(mdp.offsets, flagged, side="right") - 1
    ending = np.zeros(mdp.num_states * mdp.num_actions, dtype=bool)
    ending[pairs] = True
    return ending & mdp.available.ravel()


# ------------------------------------------------------------------------------------------------ the problem


@dataclass(frozen=True)
class Undiscounted:
    """A problem at γ = 1 that is safe to sweep, how to read its answer, and a policy that surely ends.

    `chains`: for every collapsed end component its states, in the order in which they were chained.
    """

    problem: Problem
    mdp: FiniteMDP
    chains: list[NDArray[np.int64]]
    staying: NDArray[np.bool_]
    proper_policy: NDArray[np.int32]

    def read(self, certificate: Certificate) -> Certificate:
        """Give the states of every end component their common value, and policies that carry it out."""
        values, lower, upper = certificate.values, certificate.lower, certificate.upper
        policy = certificate.policy.copy()
        for chain in self.chains:
            for vector in (values, lower, upper):
                vector[chain] = vector[chain[0]]
            self._leave(chain, policy)
        return Certificate(values, lower, upper, policy)

    def _leave(self, chain: NDArray[np.int64], policy: NDArray[np.int32]) -> None:
        """Inside a component, head for the state where leaving is best; stay if that is best."""
        num_actions = self.mdp.num_actions
        rows = self.staying.reshape(-1, num_actions)
        exits = [s for s in chain.tolist() if not rows[s, policy[s]]]
        if not exits:
            return
        members = set(chain.tolist())
        reached = {exits[0]}
        while len(reached) < len(members):
            for s in members - reached:
                for a in np.flatnonzero(rows[s]).tolist():
                    pair = s * num_actions + a
                    row = slice(self.mdp.offsets[pair], self.mdp.offsets[pair + 1])
                    ahead = self.mdp.successors[row][self.mdp.probabilities[row] > 0].tolist()
                    if reached.intersection(ahead):
                        reached.add(s)
                        policy[s] = a
                        break


def undiscounted(mdp: FiniteMDP, threads: int | None = None) -> Undiscounted:
    """Make `mdp` ready for γ = 1. **Raises** `BadInput` naming a state where that is not well posed."""
    available = mdp.available.ravel()
    ending = ending_pairs(mdp)
    component, staying = end_components(mdp, available & ~ending)
    rewards = mdp.rewards.ravel()
    negative = False
    if staying.any():
        _refuse_gain(mdp, component, staying)
        negative = bool(np.any(rewards[staying] < 0))
        component, staying = end_components(mdp, staying & (rewards == 0.0))
    chains = _chains(component)
    target = mdp.terminal | ending.reshape(mdp.available.shape).any(axis=1) | (component >= 0)
    policy = _proper_policy(mdp, target, ending, component, staying, negative)
    problem = _collapsed(mdp, chains, staying, threads) if chains else open_problem(mdp, 1.0, threads)
    problem.weights = Weights()
    problem.proper_policy = policy
    return Undiscounted(problem, mdp, chains, staying, policy)


def _refuse_gain(mdp: FiniteMDP, component: NDArray[np.int32], staying: NDArray[np.bool_]) -> None:
    """Refuse end components in which a positive reward can be earned for ever."""
    good = staying & (mdp.rewards.ravel() > 0)
    if not good.any():
        return
    pair = int(np.flatnonzero(good)[0])
    state, action = divmod(pair, mdp.num_actions)
    members = component == component[state]
    bad = staying & (mdp.rewards.ravel() < 0) & np.repeat(members, mdp.num_actions)
    earned = "rewards of both signs" if bad.any() else "a positive reward"
    raise BadInput(
        f"discount 1 is not well posed: from state {mdp.states[state]!r} the process need never end and earns {earned} "
        f"on the way (action {mdp.actions[action]!r} pays {mdp.rewards[state, action]:g}); "
        "allowed: a discount below 1, or a model in which endless play earns nothing or less"
    )


def _chains(component: NDArray[np.int32]) -> list[NDArray[np.int64]]:
    states = np.flatnonzero(component >= 0)
    if len(states) == 0:
        return []
    states = states[np.argsort(component[states], kind="stable")]
    edges = np.flatnonzero(np.diff(component[states])) + 1
    return list(np.split(states.astype(np.int64), edges))


def _proper_policy(
    mdp: FiniteMDP,
    target: NDArray[np.bool_],
    ending: NDArray[np.bool_],
    component: NDArray[np.int32],
    staying: NDArray[np.bool_],
    negative: bool,
) -> NDArray[np.int32]:
    """A policy that is certain to end from everywhere; refuses, by name, a state that has none."""
    alive = mdp.available.ravel().copy()
    while True:
        policy = np.full(mdp.num_states, -1, dtype=np.int32)
        shape = mdp.available.shape
        usable = (ending & alive).reshape(shape)
        reached = mdp.terminal | usable.any(axis=1) | (component >= 0)
        np.copyto(policy, usable.argmax(axis=1), where=usable.any(axis=1), casting="unsafe")
        stays = staying.reshape(shape)
        np.copyto(policy, stays.argmax(axis=1), where=component >= 0, casting="unsafe")
        while reach(mdp.successors, mdp.probabilities, mdp.offsets, alive, policy, reached):
            pass
        # Pairs that may fall among states without a way out are no way to be certain.
        if not drop_leaving(
            mdp.successors,
            mdp.probabilities,
            mdp.offsets,
            alive,
            np.where(reached, 0, 1).astype(np.int32),
            mdp.num_actions,
        ):
            break
    lost = np.flatnonzero(~reached)
    if len(lost) > 0:
        raise BadInput(
            f"discount 1 is not well posed: from state {mdp.states[int(lost[0])]!r} no policy is certain to end, and "
            "playing for ever costs without bound; allowed: a discount below 1, or a model in which every state can "
            "reach an end"
        )
    return policy


def _collapsed(
    mdp: FiniteMDP, chains: list[NDArray[np.int64]], staying: NDArray[np.bool_], threads: int | None
) -> Problem:
    """The same shape of arrays in which every chain hands its best exit down to its first state."""
    first = np.arange(mdp.num_states, dtype=np.int32)
    for chain in chains:
        first[chain] = chain[0]
    successors = first[mdp.successors]
    continuation = mdp.continuation.copy()
    rewards = mdp.rewards.copy()
    available = mdp.available & ~staying.reshape(mdp.available.shape)
    for chain in chains:
        for k, s in enumerate(chain.tolist()):
            action = int(staying.reshape(mdp.available.shape)[s].argmax())
            begin, end = mdp.offsets[s * mdp.num_actions + action : s * mdp.num_actions + action + 2]
            continuation[begin:end] = 0.0
            available[s, action] = True
            rewards[s, action] = 0.0
            if k + 1 < len(chain):
                successors[begin] = chain[k + 1]
                continuation[begin] = 1.0
    return problem_from_arrays(
        successors,
        continuation,
        mdp.offsets,
        rewards,
        available,
        1.0,
        threads or 1,
        mdp.branching or 0,
    )


# -------------------------------------------------------------------------------------------------- the proof


@dataclass
class Weights:
    """The proof at γ = 1; remembers how many steps an episode takes, so as not to try too early."""

    steps: float = 1.0

    def finish(
        self, problem: Problem, out: Float, policy: NDArray[np.int32], sweep: Sweep, tolerance: float
    ) -> Certificate | None:
        """A certificate if the residual is small enough for one to be narrow, and it then is."""
        if 2 * (sweep.residual + 3 * problem.rounding(sweep.size)) * self.steps > tolerance:
            return None
        certificate = self.certify(problem, out, policy)
        return certificate if float(np.max(certificate.upper - certificate.lower)) <= tolerance else None

    def certify(self, problem: Problem, values: Float, policy: NDArray[np.int32]) -> Certificate:
        """Guess bounds around `values` and check them; ±inf where the check fails."""
        q = problem.action_values(values)
        live = ~problem.terminal
        best = np.where(live, q.max(axis=1), 0.0)
        greedy = np.where(live, q.argmax(axis=1), -1).astype(np.int32)
        change = (best - values)[live]
        lower, upper = np.where(live, -np.inf, 0.0), np.where(live, np.inf, 0.0)
        if len(change) == 0:
            return Certificate(values, values.copy(), values.copy(), greedy)
        low, high = min(0.0, float(change.min())), max(0.0, float(change.max()))
        size = float(np.max(np.abs(values)) + max(-low, high))
        error = 3 * problem.rounding(size)
        slack = 64 * (max(-low, high) + error)
        # All near-optimal actions, else only the greedy ones: a near tie may go round in a circle.
        for near in (q >= best[:, None] - slack, np.arange(q.shape[1]) == greedy[:, None]):
            near &= problem.available
            weights, drop = self._weights(problem, near)
            if drop <= 0.0:
                continue
            self.steps = max(1.0, float(weights.max()) / drop)
            if not np.isfinite(upper).all():
                guess = values + (high + error) / drop * (1 + 1e-9) * weights
                raised = problem.action_values(guess).max(axis=1)
                if np.all(raised[live] + problem.rounding(float(np.max(np.abs(guess)))) <= guess[live]):
                    upper = np.where(live, guess, 0.0)
            guess = values + (low - error) / drop * (1 + 1e-9) * weights
            kept = problem.action_values(guess)[live, greedy[live]]
            if np.all(kept - problem.rounding(float(np.max(np.abs(guess)))) >= guess[live]):
                lower = np.maximum(lower, np.where(live, guess, 0.0))
            if np.isfinite(upper).all():
                break
        middle, proved = values.copy(), np.isfinite(upper) & np.isfinite(lower)
        middle[proved] = lower[proved] + 0.5 * (upper[proved] - lower[proved])
        return Certificate(middle, lower, upper, greedy)

    def _weights(self, problem: Problem, near: NDArray[np.bool_]) -> tuple[Float, float]:
        """w >= 1 + max P_a w over `near`, roughly, and the proved drop θ = min (w − max P_a w); θ <= 0 where
        w diverges.
        """
        counts = near.sum(axis=1).astype(np.int32)
        actions = np.argsort(~near, axis=1, kind="stable").astype(np.int32)
        weights = np.where(counts > 0, 1.0, 0.0)
        scratch = np.full(problem.num_states, -1, dtype=np.int32)
        ones = np.ones_like(problem.rewards)
        settled = False
        for sweep in range(QUICK_SWEEPS):
            change = bellman.backup_in_place(
                problem.successors,
                problem.continuation,
                problem.offsets,
                ones,
                actions,
                counts,
                1.0,
                weights,
                scratch,
                NO_ORDER,
                sweep % 2 == 0,
            )
            largest = float(weights.max())
            if not np.isfinite(largest) or largest > 1e13:
                return weights, 0.0
            # Relative to its own unit reward: a drop of at least one half is left.
            settled = bool(change < 0.25)
            if settled:
                break
        if not settled:
            weights = _slowest(problem, near, ones)
        image = np.empty_like(weights)
        problem_rows = bellman.backup(
            problem.successors,
            problem.continuation,
            problem.offsets,
            problem.branching,
            np.zeros_like(problem.rewards),
            actions,
            counts,
            1.0,
            weights,
            image,
            scratch,
            np.inf,
            0,
            problem.num_states,
        )
        # The kernel reports max(P w − w) over live states.
        drop = -problem_rows[1] - (problem.longest_row + 8) * 4e-16 * float(weights.max())
        return weights, float(drop)


def _slowest(problem: Problem, near: NDArray[np.bool_], ones: Float) -> Float:
    """w = 1 + max P_a w over `near`, by policy iteration with direct solves: for walks that wander for long."""
    steps = replace(problem, rewards=ones, largest_reward=1.0, weights=None)
    policy = np.where(near.any(axis=1), near.argmax(axis=1), -1).astype(np.int32)
    weights = np.zeros(problem.num_states)
    for _ in range(30):
        try:
            weights = solve_policy(steps, policy)
        except RuntimeError:  # the matrix is singular: these actions go round in a circle
            return np.zeros(problem.num_states)
        q = np.where(near, steps.action_values(weights), -np.inf)
        better = (q.max(axis=1) > weights + 0.25) & (policy >= 0)
        if not better.any() or not np.isfinite(weights).all():
            break
        policy = np.where(better, q.argmax(axis=1), policy).astype(np.int32)
    return weights
