"""A finite model as a `gymnasium.Env`, for tools that speak Gymnasium; the compiled twin is in
`bellmark.envs.finite`."""

from functools import cached_property
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from bellmark.errors import BadInput
from bellmark.mdp.drawing import draw_state
from bellmark.mdp.model import FiniteMDP

Outcome = tuple[float, int, float, bool]


class FiniteEnv(gymnasium.Env[Any, Any]):
    """Samples `mdp`: observations are state indices, actions are action indices.

    An episode ends on a transition flagged in `mdp.terminations`, or on entering a terminal state.
    `info` has the `action_mask` of the state reached (int8 [A]) and the probability `prob` of what
    happened. Like Gymnasium's own tables it has `P` and `initial_state_distrib`.

    **Raises:** `ValueError` for an action that is not available, `gymnasium.error.ResetNeeded` after the end.
    """

    metadata = {"render_modes": ["ansi", "rgb_array"], "render_fps": 8}

    def __init__(self, mdp: FiniteMDP, render_mode: str | None = None) -> None:
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise BadInput(f"render_mode is {render_mode!r}; allowed: None, 'ansi', 'rgb_array'")
        if render_mode == "rgb_array" and mdp.layout is None:
            raise BadInput(f"{mdp.name or 'this model'} has no grid to draw; use render_mode='ansi'")
        self.mdp = mdp
        self.render_mode = render_mode
        self.observation_space = spaces.Discrete(mdp.num_states)
        self.action_space = spaces.Discrete(mdp.num_actions)
        self._state: int | None = None
        self._last = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[int, dict[str, Any]]:
        """Draw a start; `options={"state": name}` begins there instead."""
        super().reset(seed=seed)  # Gymnasium seeds `np_random` there
        if options and "state" in options:
            self._last = self.mdp.index(options["state"])
        else:
            self._last = self._draw(self.mdp.initial_distribution)
        self._state = self._last
        return self._last, {"prob": 1.0, "action_mask": self.mdp.available[self._last].astype(np.int8)}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        if self._state is None:
            raise gymnasium.error.ResetNeeded("the episode is over, or has not begun: call reset() first")
        action = int(action)
        if not 0 <= action < self.mdp.num_actions or not self.mdp.available[self._state, action]:
            allowed = [self.mdp.actions[int(a)] for a in np.flatnonzero(self.mdp.available[self._state])]
            raise ValueError(f"action {action} is not available in state {self._state}; available: {allowed}")
        pair = self._state * self.mdp.num_actions + action
        begin, end = self.mdp.offsets[pair], self.mdp.offsets[pair + 1]
        drawn = begin + self._draw(self.mdp.probabilities[begin:end])
        successor = int(self.mdp.successors[drawn])
        paid = self.mdp.transition_rewards
        reward = float(self.mdp.rewards[self._state, action] if paid is None else paid[drawn])
        flagged = self.mdp.terminations is not None and bool(self.mdp.terminations[drawn])
        ended = flagged or bool(self.mdp.terminal[successor])
        self._last, self._state = successor, None if ended else successor
        info = {"prob": float(self.mdp.probabilities[drawn])}
        return (
            successor,
            reward,
            ended,
            False,
            info | {"action_mask": self.mdp.available[successor].astype(np.int8)},
        )

    def _draw(self, probabilities: np.ndarray) -> int:
        cumulative = np.cumsum(probabilities)
        drawn = int(np.searchsorted(cumulative, self.np_random.random() * cumulative[-1], side="right"))
        return min(drawn, len(cumulative) - 1)

    def render(self) -> Any:
        if self.render_mode == "ansi":
            return f"state {self.mdp.states[self._last]!r}"
        if self.render_mode == "rgb_array" and self.mdp.layout is not None:
            return draw_state(self.mdp.layout, self._last)
        return None

    @cached_property
    def P(self) -> dict[int, dict[int, list[Outcome]]]:
        """Gymnasium's table, {state: {action: [(probability, next state, reward, done), …]}}."""
        mdp = self.mdp
        return {
            state: {
                action: [
                    (p, t, r, ended or bool(mdp.terminal[t]))
                    for p, t, r, ended in mdp.transitions(state, action)
                ]
                for action in range(mdp.num_actions)
            }
            for state in range(mdp.num_states)
        }

    @property
    def initial_state_distrib(self) -> np.ndarray:
        return self.mdp.initial_distribution
