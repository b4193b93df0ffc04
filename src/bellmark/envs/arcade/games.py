"""The pixel games by their names: what an id's options become.  The options are MinAtar's own."""

from bellmark.envs.arcade.asterix import Asterix
from bellmark.envs.arcade.breakout import Breakout
from bellmark.envs.arcade.cabinet import AbstractGame, Cabinet
from bellmark.envs.arcade.freeway import Freeway
from bellmark.envs.arcade.seaquest import Seaquest
from bellmark.envs.arcade.space_invaders import SpaceInvaders


def breakout(
    sticky_action_prob: float = 0.1, difficulty_ramping: bool = True, use_minimal_action_set: bool = True
) -> Cabinet:
    return _cabinet(Breakout(difficulty_ramping), sticky_action_prob, use_minimal_action_set)


def asterix(
    sticky_action_prob: float = 0.1, difficulty_ramping: bool = True, use_minimal_action_set: bool = True
) -> Cabinet:
    return _cabinet(Asterix(difficulty_ramping), sticky_action_prob, use_minimal_action_set)


def freeway(
    sticky_action_prob: float = 0.1, difficulty_ramping: bool = True, use_minimal_action_set: bool = True
) -> Cabinet:
    return _cabinet(Freeway(difficulty_ramping), sticky_action_prob, use_minimal_action_set)


def space_invaders(
    sticky_action_prob: float = 0.1, difficulty_ramping: bool = True, use_minimal_action_set: bool = True
) -> Cabinet:
    return _cabinet(SpaceInvaders(difficulty_ramping), sticky_action_prob, use_minimal_action_set)


def seaquest(
    sticky_action_prob: float = 0.1, difficulty_ramping: bool = True, use_minimal_action_set: bool = True
) -> Cabinet:
    return _cabinet(Seaquest(difficulty_ramping), sticky_action_prob, use_minimal_action_set)


def _cabinet(game: AbstractGame, sticky: float, minimal: bool) -> Cabinet:
    return Cabinet(game, sticky_action_prob=sticky, use_minimal_action_set=minimal)
