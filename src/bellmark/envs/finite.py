"""A finite model as a compiled environment: the table that is solved exactly is the one that learners sample.

Drawing s' is a binary search in the pair's cumulative probabilities, so a step costs log₂ K reads for K
successors, and nothing random at all where K is 1.
"""

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from equinox import field
from gymnasium import spaces
from jaxtyping import Array, Bool, Float, Int

from bellmark.envs.base import AbstractEnvironment, Step
from bellmark.errors import BadInput
from bellmark.mdp.drawing import draw_state
from bellmark.mdp.model import FiniteMDP
from bellmark.types import Action, Key, Observation

State = Int[Array, ""]


class FiniteEnvironment(AbstractEnvironment):
    """Samples `mdp`. The state is its index, and so is the observation, unless `features` say what is seen.

    `features`, float [S, …], maps each state to what the agent observes; equal rows make states look alike.
    An episode terminates on a transition flagged in `mdp.terminations`, or on entering a terminal
    state; it is never truncated. An action that is not available (see `action_mask`) stays put and pays
    NaN, so that a learner which ignores the mask is found out. Probabilities are float32 here: about
    1e-7 is the smallest told apart from 0.
    """

    mdp: FiniteMDP = field(static=True)
    branching: int = field(static=True)
    successors: Int[Array, " transitions"]
    cumulative: Float[Array, " transitions"]
    offsets: Int[Array, " pairs_and_one"]
    rewards: Float[Array, " pairs_or_transitions"]
    ended: Bool[Array, " transitions"]
    available: Bool[Array, "states actions"]
    initial: Float[Array, " states"]
    features: Float[Array, "states ..."] | None

    def __init__(self, mdp: FiniteMDP, features: np.ndarray | None = None) -> None:
        if mdp.num_transitions >= 2**31:
            raise BadInput(
                f"{mdp.num_transitions:,} transitions are too many to sample; at most {2**31 - 1:,}"
            )
        if mdp.num_transitions == 0:
            raise BadInput(f"{mdp.name or 'the model'} has no transitions: every state is terminal")
        if features is not None and (np.ndim(features) < 2 or len(features) != mdp.num_states):
            raise BadInput(
                f"features must be [{mdp.num_states}, …], one row per state, got {list(np.shape(features))}"
            )
        paid = mdp.rewards.reshape(-1) if mdp.transition_rewards is None else mdp.transition_rewards
        ended = mdp.terminal[mdp.successors]
        self.mdp = mdp
        self.branching = int(np.diff(mdp.offsets).max())
        self.successors = jnp.asarray(mdp.successors)
        self.cumulative = jnp.asarray(cumulative_rows(mdp.probabilities, mdp.offsets))
        self.offsets = jnp.asarray(mdp.offsets.astype(np.int32))
        self.rewards = jnp.asarray(paid, jnp.float32)
        self.ended = jnp.asarray(ended if mdp.terminations is None else ended | mdp.terminations)
        self.available = jnp.asarray(mdp.available)
        self.initial = jnp.asarray(cumulative_rows(mdp.initial_distribution, np.array([0, mdp.num_states])))
        self.features = None if features is None else jnp.asarray(features, jnp.float32)

    @property
    def observation_space(self) -> gymnasium.Space:
        if self.features is None:
            return spaces.Discrete(self.mdp.num_states)
        features = np.asarray(self.features)
        return spaces.Box(features.min(axis=0), features.max(axis=0), dtype=np.float32)

    @property
    def action_space(self) -> spaces.Discrete:
        return spaces.Discrete(self.mdp.num_actions)

    def reset(self, key: Key) -> State:
        u = jax.random.uniform(key)
        return jnp.searchsorted(self.initial, u, side="right").astype(jnp.int32)

    def observe(self, state: State) -> Observation:
        return state if self.features is None else self.features[state]

    def step(self, state: State, action: Action, key: Key) -> tuple[State, Step]:
        pair = state * self.mdp.num_actions + action
        drawn = self._draw(pair, key)
        reward = self.rewards[pair if self.mdp.transition_rewards is None else drawn]
        valid = self.available[state, action]
        step = Step(
            reward=jnp.where(valid, reward, jnp.nan),
            terminated=valid & self.ended[drawn],
            truncated=jnp.zeros((), jnp.bool_),
        )
        return jnp.where(valid, self.successors[drawn], state), step

    def action_mask(self, state: State) -> Bool[Array, " A"] | None:
        return None if self.mdp.available.all() else self.available[state]

    def render(self, state: State) -> np.ndarray:
        return self.render_after(state, 0.0)

    def render_after(self, state: State, earned: float) -> np.ndarray:
        """`render` where rewards say more than the state does: the crawling robot has come as far as it has earned."""
        if self.mdp.layout is not None:
            return draw_state(self.mdp.layout, int(state))
        if self.mdp.name == "crawler":
            from bellmark.envs.crawler import draw_crawler

            return draw_crawler(self.mdp, int(state), earned)
        raise NotImplementedError(f"{self.mdp.name or 'this model'} has no grid to draw")

    def _draw(self, pair: Int[Array, ""], key: Key) -> Int[Array, ""]:
        """The first transition of the pair whose cumulative probability exceeds a uniform number."""
        low = self.offsets[pair]
        if self.branching <= 1:
            return low
        high = self.offsets[pair + 1] - 1
        u = jax.random.uniform(key)
        for _ in range(int(self.branching - 1).bit_length()):
            middle = (low + high) // 2
            beyond = u >= self.cumulative[middle]
            # low stops at high, where the cumulative probability is 2 by construction.
            low, high = jnp.where(beyond, jnp.minimum(middle + 1, high), low), jnp.where(beyond, high, middle)
        return low


def cumulative_rows(probabilities: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """float32 [nnz]: running sums within each row; 2 from the row's last possible entry on, so that
    none lies beyond.

    An entry of probability 0 repeats its predecessor's sum, or is 0, or follows a 2, so it is never drawn.
    """
    sizes = np.diff(offsets)
    starts = offsets[:-1][sizes > 0]
    running = np.cumsum(probabilities)
    sums = (running - np.repeat(running[starts] - probabilities[starts], sizes[sizes > 0])).astype(np.float32)
    position = np.arange(len(probabilities))
    last = np.maximum.reduceat(np.where(probabilities > 0.0, position, -1), starts)
    sums[position >= np.repeat(last, sizes[sizes > 0])] = 2.0
    return sums
