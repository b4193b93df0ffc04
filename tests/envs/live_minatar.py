"""The pixel games beside the `minatar` package itself, for those who have it: not collected by the test command.

    pip install -e ".[test]" && pip install --no-deps minatar==1.0.15
    pytest tests/envs/live_minatar.py

Each game is played in the package on recorded random numbers (`make_minatar_golden.py`), and every picture, reward and
ending is compared with ours: with and without sticky actions and ramping, from the start and from later states.
"""

import gymnasium
import pytest
from make_minatar_golden import GAMES, play
from test_minatar import compare

from bellmark.envs.registry import OWN, resolve

pytestmark = pytest.mark.filterwarnings("default")
EPISODES = dict.fromkeys(GAMES, 10) | {"breakout": 100}
LEAST = {"breakout": 4_000} | dict.fromkeys(("asterix", "freeway", "space_invaders", "seaquest"), 10_000)


@pytest.mark.parametrize("sticky, ramping", [(0.1, True), (0.0, False)])
@pytest.mark.parametrize("name", GAMES)
def test_step_by_step(name, sticky, ramping):
    given = play(name, EPISODES[name], steps=1000, seed=100, sticky=sticky, ramping=ramping)
    assert compare(name, *given, sticky=sticky, ramping=ramping) >= LEAST[name]


@pytest.mark.parametrize("name", [name for name in OWN if name.startswith("MinAtar/")])
def test_spaces_are_the_packages(name):
    ours, theirs = resolve(name), gymnasium.make(name, disable_env_checker=True)
    assert ours.kind == "compiled"
    assert ours.observation_space == theirs.observation_space
    assert ours.action_space == theirs.action_space
    assert ours.compiled.game.minimal_actions == tuple(theirs.unwrapped.game.minimal_action_set())
    forced = resolve(f"gymnasium:{name}")
    assert forced.kind == "gymnasium"
    assert "not used" in forced.note
