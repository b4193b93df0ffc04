"""Atari 2600 games, seen as deep Q-networks see them: the preprocessing of V. Mnih et al. (2015).

    frames       grey, 84 × 84, the last `stack` of them together; each is the larger of the last two screens
    frame skip   an action is done for `frameskip` screens, and their rewards are added up
    no-op start  an episode begins with up to `noop_max` screens of doing nothing
    fire         what waits for the fire button is started (`use_fire_reset`)
    sticky       with `repeat_action_probability` the last action goes on instead (M. Machado et al., 2018)

The emulator and all of this is `ale-py`'s, through its vector interface.  Two things are done here.  A lost life ends
an episode (`terminal_on_life_loss`) but not the game, which goes on in the next episode; the package would start it
anew. And rewards are clipped to −1, 0, 1 only on demand (`reward_clipping`): returns are then the game's own score.
"""

from typing import Any

import gymnasium
import numpy as np

from bellmark.envs.wrappers.frame_stack import HostFrameStack
from bellmark.errors import BadInput

SIDE = 84
ENLARGED = 4


class AtariScreens(gymnasium.Env):
    """One game, frame by frame: uint8 [84, 84]."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 15}

    def __init__(
        self,
        game: str,
        *,
        frameskip: int,
        noop_max: int,
        use_fire_reset: bool,
        repeat_action_probability: float,
        full_action_space: bool,
        max_num_frames_per_episode: int,
        terminal_on_life_loss: bool,
        reward_clipping: bool,
        render_mode: str | None = None,
    ):
        from ale_py.vector_env import AtariVectorEnv

        if render_mode not in (None, "rgb_array"):
            raise BadInput(f"unknown render mode {render_mode!r}; allowed: 'rgb_array' or None")
        self.render_mode = render_mode
        self._ale = AtariVectorEnv(
            game,
            1,
            num_threads=1,
            stack_num=1,
            img_height=SIDE,
            img_width=SIDE,
            grayscale=True,
            maxpool=frameskip > 1,
            frameskip=frameskip,
            noop_max=noop_max,
            use_fire_reset=use_fire_reset,
            repeat_action_probability=repeat_action_probability,
            full_action_space=full_action_space,
            max_num_frames_per_episode=max_num_frames_per_episode,
            reward_clipping=reward_clipping,
        )
        self.observation_space = gymnasium.spaces.Box(0, 255, (SIDE, SIDE), np.uint8)
        actions = [action.name for action in self._ale.ale.get_action_set()]
        self.action_space = gymnasium.spaces.Discrete(len(actions))
        # what a game does between two lives: some wait for the fire button, and would wait for ever
        self._between = actions.index("FIRE") if use_fire_reset and "FIRE" in actions else 0
        self._life_ends = terminal_on_life_loss
        self._lives, self._going_on = 0, False
        self._frame = np.zeros((SIDE, SIDE), np.uint8)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        gymnasium.Env.reset(self, seed=seed)
        if self._going_on and seed is None:
            # a life was lost, and the game goes on with one step, unless that one ends it
            frames, _, terminated, truncated, info = self._ale.step(np.array([self._between], np.int64))
            if not (terminated[0] or truncated[0]):
                return self._shown(frames, info), {}
        frames, info = self._ale.reset(seed=seed)
        self._going_on = True
        return self._shown(frames, info), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        before = self._lives
        frames, rewards, ended, cut, info = self._ale.step(np.array([action], np.int64))
        frame = self._shown(frames, info)
        terminated, truncated = bool(ended[0]), bool(cut[0])
        self._going_on = not (terminated or truncated)
        lost = self._life_ends and self._lives < before
        return frame, float(rewards[0]), terminated or lost, truncated, {}

    def _shown(self, frames: np.ndarray, info: dict) -> np.ndarray:
        self._frame, self._lives = np.array(frames[0, 0]), int(info["lives"][0])
        return self._frame

    def render(self) -> np.ndarray | None:
        if self.render_mode is None:
            return None
        enlarged = self._frame.repeat(ENLARGED, axis=0).repeat(ENLARGED, axis=1)
        return np.repeat(enlarged[..., None], 3, axis=2)

    def close(self) -> None:
        self._ale.close()


def atari(
    game: str,
    *,
    stack: int = 4,
    frameskip: int = 4,
    noop_max: int = 30,
    use_fire_reset: bool = True,
    repeat_action_probability: float = 0.25,
    full_action_space: bool = False,
    max_num_frames_per_episode: int = 108_000,
    terminal_on_life_loss: bool = False,
    reward_clipping: bool = False,
    render_mode: str | None = None,
) -> gymnasium.Env:
    """A game behind a stack of `stack` frames: uint8 [84, 84, stack]."""
    screens = AtariScreens(
        game,
        frameskip=frameskip,
        noop_max=noop_max,
        use_fire_reset=use_fire_reset,
        repeat_action_probability=repeat_action_probability,
        full_action_space=full_action_space,
        max_num_frames_per_episode=max_num_frames_per_episode,
        terminal_on_life_loss=terminal_on_life_loss,
        reward_clipping=reward_clipping,
        render_mode=render_mode,
    )
    return HostFrameStack(screens, stack)
