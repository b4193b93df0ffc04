"""The vocabulary: what travels between environments, experience and algorithms.

Axes, in the order in which they appear: `T` time (leads, always), `B` environments in parallel, `N` samples whose
order carries no meaning, `A` actions.  `*B` stands for any number of leading axes, none included.
"""

from typing import Any, Protocol, runtime_checkable

import equinox as eqx
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

Scalar = float | Float[Array, ""]
Key = PRNGKeyArray
Observation = PyTree[Array]
Action = Array

Metrics = dict[str, Array]
"""Named scalars, one value per iteration; names are `group/name`, e.g. `loss/policy`."""


class Transition(eqx.Module):
    """One step of a Markov decision process, (s, a, r, s′), with the *true* successor s′.

    Environments never reset themselves, so `next_observation` is what the environment showed after the action,
    also on the last step of an episode.  `continues` multiplies the discount, `unbroken` multiplies the trace decay.
    """

    observation: Observation
    action: Action
    reward: Float[Array, "*N"]
    terminated: Bool[Array, "*N"]
    truncated: Bool[Array, "*N"]
    next_observation: Observation

    @property
    def continues(self) -> Float[Array, "*N"]:
        """1 unless the process ended: what V(s′) is multiplied by, truncated or not."""
        return 1.0 - self.terminated

    @property
    def unbroken(self) -> Float[Array, "*N"]:
        """1 unless the episode was terminated or truncated here: what the λ-trace is multiplied by."""
        return 1.0 - (self.terminated | self.truncated)


class Rollout(eqx.Module):
    """`T` consecutive steps of `B` environments under one policy.

    `remembered` is whatever the policy returned beside its action (for a stochastic policy its log-probability,
    `Float[Array, "T B"]`); `action_mask` marks the valid actions at `transition.observation`, `next_action_mask` those
    at the true successor `transition.next_observation`; None where all are.
    """

    transition: Transition
    remembered: PyTree
    action_mask: Bool[Array, "T B A"] | None = None
    next_action_mask: Bool[Array, "T B A"] | None = None


class Episodes(eqx.Module):
    """The episodes in flight: everything needed to go on stepping `B` environments.

    `state` is the environments' own state (None where a host process keeps it), `observation` what they show now,
    `memory` what a policy with memory remembers of each episode (None for all others).
    """

    state: Any
    observation: Observation
    action_mask: Bool[Array, "B A"] | None
    undiscounted_return: Float[Array, " B"]
    length: Int[Array, " B"]
    memory: PyTree = None


class Finished(eqx.Module):
    """Episodes that ended in a rollout: where `mask` is set, their undiscounted return and length.

    `broken_rewards` and `broken_observations` count the NaN and infinite ones that a compiled environment returned,
    `broken_masks` its action masks that allow no action (None where it has no masks).
    """

    mask: Bool[Array, "T B"]
    undiscounted_return: Float[Array, "T B"]
    length: Int[Array, "T B"]
    broken_rewards: Int[Array, ""]
    broken_observations: Int[Array, ""]
    broken_masks: Int[Array, ""] | None = None


@runtime_checkable
class Policy(Protocol):
    """What acts: `randomness(key, shape)` draws what the actions of `shape` need, `__call__` spends it.

    A policy with memory also takes and returns its memory (`bellmark.experience.memory`).
    """

    def randomness(self, key: Key, shape: tuple[int, ...]) -> PyTree: ...

    def __call__(self, observation: Any, randomness: Any, mask: Any = None) -> tuple[Any, PyTree]: ...


@runtime_checkable
class Problem(Protocol):
    """A decision problem as algorithms see it, compiled or on the host: the two are interchangeable."""

    compiled: bool
    budget: int
    time_limit: int | None

    @property
    def observation_space(self) -> Any: ...

    @property
    def action_space(self) -> Any: ...

    def start(self, key: Key, count: int) -> Episodes: ...

    def rollout(
        self, policy: Any, episodes: Episodes, key: Key, length: int
    ) -> tuple[Episodes, Rollout, Finished]: ...
