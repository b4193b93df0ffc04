"""Named problems, one short file each with its source; `EXAMPLES` maps the command line's names to functions.

Every function takes numbers, truth values and text only, with defaults that reproduce the source, so that a
command line can be read off its signature.
"""

from collections.abc import Callable

from bellmark.mdp.examples.blackjack import blackjack
from bellmark.mdp.examples.car_rental import car_rental
from bellmark.mdp.examples.cleaning_robot import cleaning_robot, recycling_robot
from bellmark.mdp.examples.cliff_walking import cliff_walking
from bellmark.mdp.examples.crawler import crawler
from bellmark.mdp.examples.dyna_maze import dyna_maze
from bellmark.mdp.examples.forest_management import forest_management
from bellmark.mdp.examples.frozen_lake import frozen_lake
from bellmark.mdp.examples.gamblers_problem import gamblers_problem
from bellmark.mdp.examples.garnet import garnet
from bellmark.mdp.examples.grid_world import (
    bridge_grid,
    discount_grid,
    grid_from_file,
    grid_from_text,
    grid_world,
    two_exits,
)
from bellmark.mdp.examples.random_walk import random_walk
from bellmark.mdp.examples.river_swim import river_swim
from bellmark.mdp.examples.server_queue import server_queue
from bellmark.mdp.examples.short_corridor import aliased_features, short_corridor
from bellmark.mdp.examples.shortest_path import shortest_path
from bellmark.mdp.examples.sutton_grid import jump_grid, small_grid
from bellmark.mdp.examples.taxi import taxi
from bellmark.mdp.examples.two_states import two_states
from bellmark.mdp.examples.windy_gridworld import windy_gridworld
from bellmark.mdp.model import FiniteMDP

EXAMPLES: dict[str, Callable[..., FiniteMDP]] = {
    function.__name__.replace("_", "-"): function
    for function in (
        grid_world,
        discount_grid,
        two_exits,
        bridge_grid,
        jump_grid,
        small_grid,
        cliff_walking,
        frozen_lake,
        taxi,
        windy_gridworld,
        dyna_maze,
        random_walk,
        short_corridor,
        gamblers_problem,
        car_rental,
        blackjack,
        forest_management,
        two_states,
        river_swim,
        server_queue,
        cleaning_robot,
        recycling_robot,
        shortest_path,
        crawler,
        garnet,
    )
}

__all__ = [
    "EXAMPLES",
    "aliased_features",
    "grid_from_file",
    "grid_from_text",
    *(function.__name__ for function in EXAMPLES.values()),
]
