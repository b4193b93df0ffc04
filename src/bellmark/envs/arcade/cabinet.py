"""Five games on 10 × 10 pixels, after Atari's, that are played through one cabinet.

K. Young, T. Tian, "MinAtar: an Atari-inspired testbed for thorough and reproducible reinforcement learning
experiments", 2019.  A game is its rules; the cabinet is what all of them share:

    sticky actions      with this probability the last action is done again in place of the one that was chosen
    difficulty ramping  the games become quicker the longer they are played (Asterix, Seaquest, Space Invaders)
    action set          all six (nothing, left, up, right, down, fire), or only those that the game knows

What is shown is one channel of 10 × 10 booleans per kind of thing.  The rules are MinAtar's to the letter, oddities
included, each of which is named where it is written: the same actions and the same random numbers lead to the same
pixels, rewards and endings (`tests/envs/test_minatar.py`).  One difference is the cabinet's: an episode begins with
"nothing" as the action to repeat, in MinAtar with the last action of the episode before.
"""

import abc
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from bellmark.envs.base import AbstractEnvironment, Step
from bellmark.errors import BadInput
from bellmark.types import Key

SIZE = 10
NOTHING, LEFT, UP, RIGHT, DOWN, FIRE = range(6)
Grid = Bool[Array, "10 10"]


class AbstractGame(eqx.Module):
    """The rules of one game.  All chance comes in as `uniform` numbers from [0, 1), a fixed count of them.

    `reward` and `over` of a step are a number and a flag; a step after the game is over is never asked for.
    """

    channels: ClassVar[tuple[str, ...]]
    colours: ClassVar[tuple[str, ...]]
    """One per channel, for the picture; what comes later is painted over what came before."""
    minimal_actions: ClassVar[tuple[int, ...]]
    """Those of the six actions that do something in this game, "nothing" among them."""
    draws_to_start: ClassVar[int]
    draws_per_step: ClassVar[int]

    @abc.abstractmethod
    def start(self, uniform: Float[Array, " K"]) -> Any: ...

    @abc.abstractmethod
    def advance(
        self, state: Any, action: Int[Array, ""], uniform: Float[Array, " K"]
    ) -> tuple[Any, Array, Array]: ...

    @abc.abstractmethod
    def show(self, state: Any) -> Bool[Array, "10 10 channels"]: ...


class State(NamedTuple):
    """The game's own state, and the last action that was done, one of the six."""

    game: Any
    previous: Int[Array, ""]


class Cabinet(AbstractEnvironment):
    """A game as an environment.  The options have MinAtar's names and mean what they mean there."""

    game: AbstractGame
    sticky_action_prob: float = eqx.field(static=True, default=0.1)
    use_minimal_action_set: bool = eqx.field(static=True, default=True)

    def __check_init__(self):
        if not 0.0 <= self.sticky_action_prob <= 1.0:
            raise BadInput(f"sticky_action_prob is {self.sticky_action_prob}; allowed: from 0 to 1")

    @property
    def observation_space(self) -> gymnasium.spaces.Box:
        return gymnasium.spaces.Box(0.0, 1.0, (SIZE, SIZE, len(self.game.channels)), bool)  # type: ignore

    @property
    def action_space(self) -> gymnasium.spaces.Discrete:
        return gymnasium.spaces.Discrete(len(self.game.minimal_actions) if self.use_minimal_action_set else 6)

    def reset(self, key: Key) -> State:
        return State(
            self.game.start(jax.random.uniform(key, (self.game.draws_to_start,))), jnp.int32(NOTHING)
        )

    def observe(self, state: State) -> Bool[Array, "10 10 channels"]:
        return self.game.show(state.game)

    def step(self, state: State, action: Int[Array, ""], key: Key) -> tuple[State, Step]:
        uniform = jax.random.uniform(key, (1 + self.game.draws_per_step,))
        if self.use_minimal_action_set:
            action = jnp.array(self.game.minimal_actions)[action]
        done = jnp.where(uniform[0] < self.sticky_action_prob, state.previous, action).astype(jnp.int32)
        game, reward, over = self.game.advance(state.game, done, uniform[1:])
        return State(game, done), Step(reward.astype(jnp.float32), over, jnp.bool_(False))

    def render(self, state: State) -> np.ndarray:
        from bellmark.envs.drawing import Canvas

        shown = np.asarray(observed(self, state))
        canvas = Canvas(
            400, 400, centre=(SIZE / 2, SIZE / 2), pixels_per_unit=400 / (SIZE + 0.4), background=FRAME
        )
        canvas.rectangle((0, 0), (SIZE, SIZE), NIGHT)
        for channel, colour in enumerate(self.game.colours):
            # what trails behind a thing is a hint, not a thing
            margin = 0.3 if "trail" in self.game.channels[channel] else 0.06
            for row, column in np.argwhere(shown[..., channel]):
                low = (column + margin, SIZE - 1 - row + margin)
                high = (column + 1 - margin, SIZE - row - margin)
                canvas.rectangle(low, high, colour, radius=0.12)
        return canvas.pixels()


observed = eqx.filter_jit(lambda environment, state: environment.observe(state))
"""What is observed in a state that came back to the host, in one call."""

FRAME, NIGHT = "#c9d0de", "#1b2436"


def dot(row: Int[Array, ""], column: Int[Array, ""]) -> Grid:
    """One pixel; none where row or column lie outside."""
    place = jnp.arange(SIZE)
    return (place[:, None] == row) & (place == column)


def moved(position: Int[Array, ""], less: Array, more: Array, low: int, high: int) -> Int[Array, ""]:
    """One further where `more`, one back where `less`, never beyond the ends."""
    return jnp.clip(position - less + more, low, high)


def one_of(uniform: Float[Array, ""], count: Any) -> Int[Array, ""]:
    """A whole number from 0 to `count` − 1, each as likely as any other."""
    return jnp.floor(uniform * count).astype(jnp.int32)
