"""The two levels that every algorithm stands on; below them every class is final.

    AbstractAlgorithm    init, step, policy      one iteration of anything that improves a policy
    AbstractLearner      collect, update         policy iteration's two arrows; step = update ∘ collect, written once

An algorithm is a frozen dataclass whose fields are its hyperparameters and nothing else: the constructor's arguments,
the command line's flags and the saved configuration are one list.  Its state is one PyTree of arrays, so it can be
scanned, vmapped over seeds, and saved as it stands.  There is no third level, nothing is overridden twice, and
algorithm files never import each other.
"""

import abc
from typing import Any, ClassVar

import equinox as eqx

from bellmark.types import Key, Metrics

State = Any
Data = Any


class AbstractAlgorithm(eqx.Module):
    """Anything that improves a policy one iteration at a time."""

    name: ClassVar[str]

    @abc.abstractmethod
    def init(self, problem, key: Key) -> State:
        """The state before the first iteration: a PyTree of arrays."""

    @abc.abstractmethod
    def step(self, problem, state: State) -> tuple[State, Metrics]:
        """One iteration: a pure function of the state (for compiled problems), so that it can be scanned."""

    @abc.abstractmethod
    def policy(self, state: State):
        """The policy that the state holds: a module `(observation, key) -> (action, remembered)`."""

    @abc.abstractmethod
    def steps_per_iteration(self, problem) -> int:
        """Environment steps that one call of `step` takes."""

    def check(self, problem) -> None:
        """Raise `BadInput` where this algorithm cannot serve this problem; called before anything is written."""
        return


class AbstractLearner(AbstractAlgorithm):
    """A learner that alternates between gathering data and learning from it.

    `collect` is the one seam: compiled environments, Gymnasium environments, data sets and language models all enter
    there; `update` sees arrays only.
    """

    @abc.abstractmethod
    def collect(self, problem, state: State) -> tuple[State, Data]:
        """Gather data with the current policy."""

    @abc.abstractmethod
    def update(self, state: State, data: Data) -> tuple[State, Metrics]:
        """Learn from the data."""

    def step(self, problem, state: State) -> tuple[State, Metrics]:
        state, data = self.collect(problem, state)
        return self.update(state, data)
