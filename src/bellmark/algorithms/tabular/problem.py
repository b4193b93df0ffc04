"""A decision problem as table learners see it: numbered states, numbered actions, and a model to sample or none.

    TableProblem.sampled(mdp)     every step is drawn from the model's alias tables, inside the kernel
    TableProblem.stepped(…)       a Gymnasium environment on the host; observations are numbered by a `StateIndex`

The model is what is sampled, never what is learnt from: no learner reads it.
"""

import dataclasses

import gymnasium
import numpy as np
from numpy.typing import NDArray

from bellmark.envs.wrappers.discretise import StateIndex
from bellmark.mdp.model import FiniteMDP

from .sampling import Tables, sampling_tables


@dataclasses.dataclass(frozen=True, eq=False)
class TableProblem:
    """**Fields:**

    - `available`: bool [S, A], or [0, 0] where every action always is; `terminal`: bool [S].
    - `tables`: what is sampled, None on the host; `mdp`: the exact model, where there is one.
    - `budget`: environment steps of the run; `time_limit`: steps after which an episode is truncated (None: never).
    - `index`: observations to states; `optimal`: int [S], an optimal policy for predictors to be given.
    """

    num_states: int
    num_actions: int
    available: NDArray[np.bool_]
    terminal: NDArray[np.bool_]
    tables: Tables | None
    budget: int
    time_limit: int | None
    observation_space: gymnasium.Space
    action_space: gymnasium.Space
    index: StateIndex
    mdp: FiniteMDP | None = None
    optimal: NDArray[np.int64] | None = None

    @staticmethod
    def sampled(mdp: FiniteMDP, budget: int = 1, time_limit: int | None = None) -> "TableProblem":
        space = gymnasium.spaces.Discrete(mdp.num_states)
        everything = bool(mdp.available.all())
        return TableProblem(
            num_states=mdp.num_states,
            num_actions=mdp.num_actions,
            available=np.zeros((0, 0), np.bool_) if everything else np.ascontiguousarray(mdp.available),
            terminal=np.ascontiguousarray(mdp.terminal),
            tables=sampling_tables(mdp),
            budget=budget,
            time_limit=time_limit,
            observation_space=space,
            action_space=gymnasium.spaces.Discrete(mdp.num_actions),
            index=StateIndex.of(space),
            mdp=mdp,
        )

    @staticmethod
    def stepped(
        observation_space: gymnasium.Space,
        action_space: gymnasium.spaces.Discrete,
        bins: tuple[int, ...] = (),
        budget: int = 1,
        time_limit: int | None = None,
        mdp: FiniteMDP | None = None,
    ) -> "TableProblem":
        index = StateIndex.of(observation_space, bins)
        return TableProblem(
            num_states=index.size,
            num_actions=int(action_space.n),
            available=np.zeros((0, 0), np.bool_),
            terminal=np.zeros(index.size, np.bool_),
            tables=None,
            budget=budget,
            time_limit=time_limit,
            observation_space=observation_space,
            action_space=action_space,
            index=index,
            mdp=mdp,
        )
