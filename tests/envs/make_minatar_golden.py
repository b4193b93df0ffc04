"""Makes `golden/minatar-*.npz`: what the `minatar` package shows, pays and ends on known actions and random numbers.

    python -m venv .venv-minatar && .venv-minatar/bin/pip install gymnasium==1.4.0 && \
        .venv-minatar/bin/pip install --no-deps minatar==1.0.15
    .venv-minatar/bin/python tests/envs/make_minatar_golden.py

The package's generator is replaced by one that hands out numbers that are recorded beside the actions, so that
another implementation can be given the same.  To see more than a poor player sees, all games but Breakout are played
on beyond their end (the package's field `terminal` is cleared), and some begin in a state that is written into the
package's fields.
"""

import json
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

HERE = Path(__file__).parent / "golden"
GAMES = {"breakout": 0, "asterix": 3, "freeway": 8, "space_invaders": 0, "seaquest": 5}
"""The random numbers that a step of each game may need, beside the one for the sticky action."""
EPISODES, STEPS = dict.fromkeys(GAMES, 4) | {"breakout": 24}, 500


class Record(NamedTuple):
    """E episodes of T steps: what went in, and what the package made of it.

    `uniform` [E, T, 1 + K] and `to_start` [E, 8] are float32; `shown` [E, T + 1, …] the packed bits of the pictures;
    `valid` [E, T] says which steps were played at all.
    """

    actions: np.ndarray
    uniform: np.ndarray
    to_start: np.ndarray
    shown: np.ndarray
    rewards: np.ndarray
    over: np.ndarray
    valid: np.ndarray


class Scripted:
    """Stands in for a `RandomState`, and spends given numbers in turn."""

    def __init__(self):
        self.numbers, self.next = np.zeros(0, np.float32), 0

    def give(self, numbers):
        self.numbers, self.next = numbers, 0

    def rand(self, count=None):
        if count is not None:  # Freeway's directions, from the numbers that its speeds came from
            return np.where(np.floor(np.float32(10) * self.numbers[:count]) % 2 == 1, 0.75, 0.25)
        self.next += 1
        return self.numbers[self.next - 1]

    def randint(self, low, high=None, size=None):
        if size is not None:  # Freeway's speeds
            return (np.floor(np.float32(10) * self.numbers[:size]) // 2).astype(int) + 1
        low, high = (0, low) if high is None else (low, high)
        return low + int(np.floor(self.rand() * np.float32(high - low)))


def aimed(name, game, rng):
    """An action that keeps the game interesting: a ball that is met, a row that is changed, a shot that is fired."""
    if name == "breakout":
        # a step beside the ball now and then: it has to be met at a corner, too
        following = game.ball_x + (1 if game.ball_dir in (1, 2) else -1)
        aim = (following if rng.random() < 0.7 else game.ball_x) + (rng.random() < 0.05)
        return 1 if aim < game.pos else 3 if aim > game.pos else 0
    if name == "freeway":
        return 2
    if name == "seaquest":
        return int(rng.choice([1, 2, 3, 4, 5, 5, 5]))
    return int(rng.integers(6))


def surfacing(game, rng):
    """A crowded sea, and somebody aboard or owed."""
    game.diver_count = int(rng.integers(-1, 7))
    game.oxygen = int(rng.integers(1, 201))
    # as after so many times at the surface
    game.ramp_index = int(rng.integers(20))
    game.e_spawn_speed, game.move_speed = 20 - game.ramp_index, max(5 - game.ramp_index // 2, 2)
    game.sub_y = 1
    game.surface = False


def later(name, game, rng):
    """Write a state of later in the game into the package's fields; returns what was written."""
    if name == "seaquest":
        surfacing(game, rng)
        return {
            "aboard": game.diver_count,
            "oxygen": game.oxygen,
            "ramps": game.ramp_index,
            "enemy_after": game.e_spawn_speed,
            "swims_after": game.move_speed,
            "row": 1,
            "surfaced": False,
        }
    if name == "asterix":
        game.spawn_speed, game.move_speed = int(rng.integers(1, 4)), int(rng.integers(1, 3))
        return {"comes_after": game.spawn_speed, "moves_after": game.move_speed}
    if name == "space_invaders":
        game.enemy_move_interval = int(rng.integers(6, 9))
        game.alien_map[:] = rng.random((10, 10)) < 0.1
        game.alien_map[8:] = 0
        game.alien_map[1, 4] = 1
        return {"moves_after": game.enemy_move_interval, "aliens": game.alien_map.astype(bool)}
    if name == "breakout":
        game.brick_map[1:4] = rng.random((3, 10)) < 0.15
        return {"bricks": game.brick_map[1:4].astype(bool)}
    return {}


def play(name, episodes, steps, seed, sticky=0.1, ramping=True):
    """A Record of the package's game, and the states that were written into its episodes, every second one."""
    from minatar import Environment

    rng = np.random.default_rng(seed)
    draws = GAMES[name]
    record = Record(
        actions=np.zeros((episodes, steps), np.int8),
        uniform=rng.random((episodes, steps, 1 + draws), np.float32),
        to_start=rng.random((episodes, 8), np.float32),
        shown=np.zeros((episodes, steps + 1, 0), np.uint8),
        rewards=np.zeros((episodes, steps), np.int16),
        over=np.zeros((episodes, steps), bool),
        valid=np.zeros((episodes, steps), bool),
    )
    shown, written = [], []
    for episode in range(episodes):
        environment = Environment(name, sticky_action_prob=sticky, difficulty_ramping=ramping)
        game, sticks, chance = environment.env, Scripted(), Scripted()
        environment.random, game.random = sticks, chance
        if name == "seaquest":  # both may be needed in one step: each has its own numbers
            separate(game, chance)
        chance.give(record.to_start[episode])
        environment.reset()
        written.append(later(name, game, rng) if episode % 2 else {})
        pictures, action, numbers = [np.packbits(environment.state())], 0, record.uniform[episode]
        for step in range(steps):
            if name == "breakout":
                action = aimed(name, game, rng) if rng.random() < 0.98 else int(rng.integers(6))
            elif rng.random() < 0.6:
                action = aimed(name, game, rng) if rng.random() < 0.85 else int(rng.integers(6))
            sticks.give(numbers[step, :1])
            chance.give(numbers[step, 1:])
            reward, over = environment.act(action)
            record.actions[episode, step], record.valid[episode, step] = action, True
            record.rewards[episode, step], record.over[episode, step] = reward, over
            pictures.append(np.packbits(environment.state()))
            if over and name == "breakout":  # a ball that has left the screen cannot be played on
                break
            game.terminal = False
        pictures += [pictures[-1]] * (steps + 1 - len(pictures))
        shown.append(pictures)
    return record._replace(shown=np.array(shown)), written


def separate(game, chance):
    enemy, diver = game._spawn_enemy, game._spawn_diver

    def spawn_enemy():
        chance.next = 0
        enemy()

    def spawn_diver():
        chance.next = 3
        diver()

    game._spawn_enemy, game._spawn_diver = spawn_enemy, spawn_diver


def save(path, record, written):
    keys = sorted({key for each in written for key in each})
    states = {
        f"written/{i}/{key}": each[key] for i, each in enumerate(written) for key in keys if key in each
    }
    np.savez_compressed(path, **record._asdict(), **states)


def load(path):
    data = np.load(path)
    record = Record(*(data[field] for field in Record._fields))
    written = [
        {key.split("/")[2]: data[key] for key in data.files if key.startswith(f"written/{i}/")}
        for i in range(len(record.actions))
    ]
    return record, written


def main():
    from importlib.metadata import version

    HERE.mkdir(exist_ok=True)
    for seed, name in enumerate(GAMES):
        save(HERE / f"minatar-{name}.npz", *play(name, EPISODES[name], STEPS, seed))
    provenance = {
        "made by": "tests/envs/make_minatar_golden.py",
        "minatar": version("minatar"),
        "numpy": np.__version__,
        "python": sys.version.split()[0],
        "seeds": dict(zip(GAMES, range(len(GAMES)), strict=True)),
        "episodes": EPISODES,
        "steps": STEPS,
    }
    (HERE / "minatar-provenance.json").write_text(json.dumps(provenance, indent=2) + "\n")


if __name__ == "__main__":
    main()
