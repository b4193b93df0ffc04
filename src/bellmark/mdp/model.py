"""The finite Markov decision process: every table in this library is one of these.

    S states, A actions; action a in state s leads to s' with probability p(s' | s, a) and pays r(s, a).

Transitions are kept by *pair*, in compressed sparse rows: pair `s * A + a` owns the slice
`offsets[pair] : offsets[pair + 1]` of `successors` and `probabilities`. A sweep then reads memory in one
direction, 12 bytes per transition and 8 per pair, which is the floor for any Bellman backup. The theory is in
Puterman, *Markov Decision Processes*, 1994, chapter 6; the layout is that of SciPy's CSR matrix [S·A, S].

Three ways to end an episode, all of them exact:

- a state without any available action is *terminal*: its value is 0;
- a transition flagged in `terminations` ends the episode, whatever its successor is (Gymnasium's `done`);
- an absorbing state that pays nothing, as in textbooks: its value is 0 under any discount below 1.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bellmark.errors import BadInput
from bellmark.mdp.layout import GridLayout
from bellmark.mdp.validation import check_model

if TYPE_CHECKING:
    import gymnasium

Transition = tuple[float, Hashable, float, bool]
"""(probability, next state, reward, terminated), as a transition function yields it."""


@dataclass(frozen=True, eq=False)
class FiniteMDP:
    """A finite Markov decision process in pair order (row = state · num_actions + action).

    **Fields:**

    - `successors`: int32 [nnz], s' of each transition.
    - `probabilities`: float64 [nnz], p(s' | s, a); each available row sums to 1, each unavailable one to 0.
    - `offsets`: int64 [S·A + 1], where each pair's transitions begin.
    - `rewards`: float64 [S, A], the *expected* reward r(s, a); 0 where the action is not available.
    - `available`: bool [S, A]; a state with no available action is terminal.
    - `initial_distribution`: float64 [S]; the builders default to uniform over the non-terminal states.
    - `transition_rewards`: float64 [nnz], r(s, a, s'), or None where rewards do not depend on s'.
    - `terminations`: bool [nnz], True where the transition ends the episode, or None where none does.
    - `counts`: int64 [nnz], how often each transition was seen, for models made from logged data, else None.
    - `states`, `actions`: names, any hashables; ranges by default.
    - `name`, `discount`: what to call it, and a discount that suits it (a suggestion; None if there is none).
    - `layout`: where each state is drawn, for models that live on a grid.

    Arrays are taken as they are: nothing is copied where the type is already right, so do not write to them
    afterwards. Use the `from_…` builders; calling the class itself runs the same validation.

    **Raises:** `bellmark.errors.BadInput` naming the offending state and action.
    """

    successors: NDArray[np.int32]
    probabilities: NDArray[np.float64]
    offsets: NDArray[np.int64]
    rewards: NDArray[np.float64]
    available: NDArray[np.bool_]
    initial_distribution: NDArray[np.float64]
    transition_rewards: NDArray[np.float64] | None = None
    terminations: NDArray[np.bool_] | None = None
    counts: NDArray[np.int64] | None = None
    states: Sequence[Hashable] = ()
    actions: Sequence[Hashable] = ()
    name: str = ""
    discount: float | None = None
    layout: GridLayout | None = None

    def __post_init__(self) -> None:
        if len(self.states) == 0:
            object.__setattr__(self, "states", range(len(self.rewards)))
        if len(self.actions) == 0:
            object.__setattr__(self, "actions", range(self.rewards.shape[1]))
        check_model(self)

    # ------------------------------------------------------------------------------------------------- sizes

    @property
    def num_states(self) -> int:
        return self.rewards.shape[0]

    @property
    def num_actions(self) -> int:
        return self.rewards.shape[1]

    @property
    def num_transitions(self) -> int:
        return len(self.successors)

    @cached_property
    def branching(self) -> int | None:
        """K where every pair owns exactly K transitions (so that arrays reshape to [S, A, K]), else None."""
        first = int(self.offsets[1])
        return first if bool(np.all(np.diff(self.offsets) == first)) else None

    @cached_property
    def terminal(self) -> NDArray[np.bool_]:
        """bool [S]: states in which nothing can be done."""
        return np.logical_not(self.available.any(axis=1))

    @cached_property
    def continuation(self) -> NDArray[np.float64]:
        """float64 [nnz]: the probability that a transition is taken *and the episode goes on*.

            q(s, a) = r(s, a) + γ Σ_s' continuation(s, a, s') v(s')

        This is `probabilities` itself, not a copy, when no transition is flagged.
        """
        if self.terminations is None:
            return self.probabilities
        return np.where(self.terminations, 0.0, self.probabilities)

    @cached_property
    def going_on(self) -> tuple[float, float, int]:
        """The smallest and the largest probability, over available pairs, of going on to a state that is not terminal,
        and the length of the longest row. One pass over the model, made once: solvers need it for every proof.
        """
        from bellmark.mdp import bellman

        threads = bellman.available_threads() if self.num_transitions >= bellman.PARALLEL_THRESHOLD else 1
        return bellman.masses(
            self.successors, self.continuation, self.offsets, self.available, self.terminal, threads
        )

    @property
    def nbytes(self) -> int:
        """Bytes held in the model's arrays."""
        arrays = (
            self.successors,
            self.probabilities,
            self.offsets,
            self.rewards,
            self.available,
            self.initial_distribution,
            self.transition_rewards,
            self.terminations,
            self.counts,
        )
        return sum(array.nbytes for array in arrays if array is not None)

    # ------------------------------------------------------------------------------------------------- names

    @cached_property
    def _indices(self) -> dict[Hashable, int]:
        return {state: index for index, state in enumerate(self.states)}

    def index(self, state: Hashable) -> int:
        """The row of the state called `state`. **Raises** `BadInput` if there is none."""
        if isinstance(self.states, range) and isinstance(state, int | np.integer):
            if state in self.states:
                return self.states.index(int(state))
        elif (found := self._indices.get(state)) is not None:
            return found
        raise BadInput(
            f"no state is called {state!r}; the {self.num_states} states begin with {self.states[0]!r}"
        )

    def transitions(self, state: int, action: int) -> list[tuple[float, int, float, bool]]:
        """The pair's (probability, successor, reward, terminated), for looking at a model by hand."""
        pair = state * self.num_actions + action
        rows = range(int(self.offsets[pair]), int(self.offsets[pair + 1]))
        expected = float(self.rewards[state, action])
        return [
            (
                float(self.probabilities[i]),
                int(self.successors[i]),
                expected if self.transition_rewards is None else float(self.transition_rewards[i]),
                self.terminations is not None and bool(self.terminations[i]),
            )
            for i in rows
        ]

    def __repr__(self) -> str:
        name = f"{self.name}: " if self.name else ""
        return (
            f"FiniteMDP({name}{self.num_states:,} states, {self.num_actions} actions, "
            f"{self.num_transitions:,} transitions, {int(self.terminal.sum()):,} terminal)"
        )

    # ---------------------------------------------------------------------------------------------- builders

    @classmethod
    def from_arrays(
        cls,
        successors: ArrayLike,
        probabilities: ArrayLike,
        rewards: ArrayLike,
        *,
        available: ArrayLike | None = None,
        terminations: ArrayLike | None = None,
        initial_distribution: ArrayLike | None = None,
        states: Sequence[Hashable] = (),
        actions: Sequence[Hashable] = (),
        name: str = "",
        discount: float | None = None,
        layout: GridLayout | None = None,
    ) -> "FiniteMDP":
        """From arrays in which every pair has K transitions (pad with probability 0).

        **Arguments:** `successors` int [S, A, K]; `probabilities` [S, A, K]; `rewards` [S, A] or [S, A, K];
        `terminations` bool [S, A, K]; `available` bool [S, A]; `initial_distribution` [S].

        int32 successors and float64 probabilities are used without a copy. float32 probabilities, whose rows
        cannot sum to one, are converted and each row divided by its sum.
        """
        from bellmark.mdp import builders

        names = builders.Names(states, actions, name, discount, layout)
        return builders.from_arrays(
            successors, probabilities, rewards, available, terminations, initial_distribution, names
        )

    @classmethod
    def from_dense(
        cls,
        transition: ArrayLike,
        rewards: ArrayLike,
        *,
        available: ArrayLike | None = None,
        terminations: ArrayLike | None = None,
        initial_distribution: ArrayLike | None = None,
        states: Sequence[Hashable] = (),
        actions: Sequence[Hashable] = (),
        name: str = "",
        discount: float | None = None,
        layout: GridLayout | None = None,
    ) -> "FiniteMDP":
        """From the full table p(s' | s, a), of which only the non-zero entries are kept.

        **Arguments:** `transition` [S, A, S]; `rewards` [S, A] or [S, A, S]; `terminations` bool [S, A, S];
        `available` bool [S, A]; `initial_distribution` [S].
        """
        from bellmark.mdp import builders

        names = builders.Names(states, actions, name, discount, layout)
        return builders.from_dense(transition, rewards, available, terminations, initial_distribution, names)

    @classmethod
    def from_sparse(
        cls,
        transition: Any,
        rewards: ArrayLike,
        *,
        available: ArrayLike | None = None,
        terminations: ArrayLike | None = None,
        initial_distribution: ArrayLike | None = None,
        states: Sequence[Hashable] = (),
        actions: Sequence[Hashable] = (),
        name: str = "",
        discount: float | None = None,
        layout: GridLayout | None = None,
    ) -> "FiniteMDP":
        """From a SciPy CSR matrix of shape [S·A, S] in row order s·A + a.

        **Arguments:** `transition`; `rewards` [S, A], or one per stored entry; `terminations` bool [nnz];
        `available` bool [S, A]; `initial_distribution` [S]. float64 data and int32 indices are not copied.
        """
        from bellmark.mdp import builders

        names = builders.Names(states, actions, name, discount, layout)
        return builders.from_sparse(transition, rewards, available, terminations, initial_distribution, names)

    @classmethod
    def from_gymnasium(cls, environment: "gymnasium.Env[Any, Any]") -> "FiniteMDP":
        """From an environment that publishes its table `P[state][action] = [(p, s', r, done), …]`.

        The start distribution is the environment's `initial_state_distrib` where it has one.
        **Raises** `BadInput` where there is no table: such an environment can be learnt, not solved.
        """
        from bellmark.mdp import builders

        return builders.from_gymnasium(environment)

    @classmethod
    def from_function(
        cls,
        initial_states: Iterable[Hashable] | Mapping[Hashable, float],
        actions: Callable[[Any], Iterable[Hashable]],
        transitions: Callable[[Any, Any], Iterable[Transition]],
        *,
        limit: int = 10_000_000,
        progress: bool | None = None,
        name: str = "",
        discount: float | None = None,
    ) -> "FiniteMDP":
        """From two functions, by exploring whatever can be reached (breadth first).

        **Arguments:**

        - `initial_states`: the states to begin from (equally likely), or a mapping state → probability.
        - `actions(state)`: what can be done there; nothing means that the state is terminal.
        - `transitions(state, action)`: an iterable of (probability, next state, reward, terminated).
          A state that is only ever entered with `terminated` set is terminal: it is not explored further.
        - `limit`: refuse models with more states than this.
        - `progress`: show a counter on stderr; by default only when someone is looking (a terminal).

        States and actions may be any hashables; they become `mdp.states` and `mdp.actions`.
        """
        from bellmark.mdp import explore

        return explore.from_function(
            initial_states, actions, transitions, limit=limit, progress=progress, name=name, discount=discount
        )

    @classmethod
    def from_transitions(
        cls,
        logged: Iterable[tuple[Hashable, Hashable, float, Hashable, bool]] | Mapping[str, ArrayLike],
        *,
        initial_distribution: ArrayLike | Mapping[Hashable, float] | None = None,
        states: Sequence[Hashable] = (),
        actions: Sequence[Hashable] = (),
        name: str = "",
        discount: float | None = None,
    ) -> "FiniteMDP":
        """The maximum-likelihood model of logged experience:

            p(s' | s, a) = n(s, a, s') / n(s, a),    r(s, a, s') = the mean of the rewards seen there.

        **Arguments:** `logged`: an iterable of (state, action, reward, next_state, terminated), or a mapping
        from those five names to columns of equal length. `states`, `actions`: the names to number by, in
        order; by default everything seen, sorted where it can be.

        `mdp.counts` keeps n(s, a, s'). A pair that was never tried is not available.
        """
        from bellmark.mdp import logged as logged_module

        return logged_module.from_transitions(
            logged, initial_distribution, states=states, actions=actions, name=name, discount=discount
        )

    # ------------------------------------------------------------------------------------- files, simulators

    def save(self, path: str | Path) -> Path:
        """Write the model to one file (safetensors; loading it cannot run code). Returns the path."""
        from bellmark.mdp import storage

        return storage.save(self, Path(path))

    @staticmethod
    def load(path: str | Path) -> "FiniteMDP":
        """Read what `save` wrote. **Raises** `CorruptFile` for a file that is damaged or something else."""
        from bellmark.mdp import storage

        return storage.load(Path(path))

    def to_gymnasium(self, **arguments: Any) -> "gymnasium.Env[Any, Any]":
        """The same process as a `gymnasium.Env`; arguments go to `FiniteEnv`."""
        from bellmark.mdp.gymnasium_env import FiniteEnv

        return FiniteEnv(self, **arguments)
