"""`bellmark watch RUN`: play episodes with a trained policy and save them as a film."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from bellmark.cli.arguments import Parser, integer
from bellmark.errors import BadInput
from bellmark.report.plots import algorithm_title, plural
from bellmark.report.video import film_path, write_video
from bellmark.run.directory import RunDirectory

DESCRIPTION = """Play episodes with the policy that a run trained, and save a film of them."""

EXAMPLES = """examples:
  bellmark watch runs/ppo-CartPole-v1-20260101-120000
  bellmark watch runs/ppo-CartPole-v1-20260101-120000 --episodes 3 --output cartpole.gif"""


def main(arguments: list[str]) -> int:
    parser = Parser(prog="bellmark watch", description=DESCRIPTION, epilog=EXAMPLES)
    parser.add_argument("run", metavar="RUN", help="a run directory")
    parser.add_argument("--episodes", type=integer, default=1, help="default 1")
    parser.add_argument("--seed", type=integer, default=0, help="for the environment's randomness; default 0")
    parser.add_argument("--agent", type=integer, default=0, help="which of the run's seeds plays; default 0")
    parser.add_argument(
        "--output",
        metavar="FILE",
        help="default report/watch in the run: .mp4 with the extra `video`, else .gif",
    )
    parser.add_argument("--environment", metavar="ENV", help="play in this one; default the run's own")
    parser.add_argument(
        "--steps", type=integer, help="at most so many of each episode; default all, 300 where none ever ends"
    )
    parser.add_argument("--fps", type=float, default=30.0, help="frames per second; default 30")
    given = parser.parse(arguments)
    directory = RunDirectory.open(given.run)
    config = directory.read_config()
    agents = len(config["seeds"])
    if given.episodes < 1:
        raise BadInput(f"--episodes is {given.episodes}; allowed: 1 or more")
    if given.steps is not None and given.steps < 1:
        raise BadInput(f"--steps is {given.steps}; allowed: 1 or more")
    if given.seed < 0:
        raise BadInput(f"--seed is {given.seed}; allowed: 0 or more")
    if not 0 <= given.agent < agents:
        raise BadInput(
            f"--agent is {given.agent}; allowed: 0 to {agents - 1}, the run has {plural(agents, 'seed')}"
        )
    if not 0 < given.fps <= 1000:
        raise BadInput(f"--fps is {given.fps:g}; allowed: above 0, up to 1000")
    path = film_path(given.output or _default(directory))

    # Only now: everything above answers in milliseconds, without JAX.
    from bellmark.report.evaluate import play_frames

    environment = given.environment or config["environment"]["id"]
    title = algorithm_title(config["algorithm"]["name"])
    print(f"playing {plural(given.episodes, 'episode')} of {title} on {environment}", flush=True)
    count = 0

    def counted() -> Iterator[np.ndarray]:
        nonlocal count
        frames = play_frames(
            given.run,
            episodes=given.episodes,
            seed=given.seed,
            seed_index=given.agent,
            environment=given.environment,
            overlay=True,
            steps=given.steps,
        )
        for frame in frames:
            count += 1
            yield frame

    write_video(counted(), path, given.fps)
    size = path.stat().st_size / 1000
    print(f"wrote {path} ({plural(count, 'frame')}, {count / given.fps:.1f} s, {size:,.0f} kB)")
    return 0


def _default(directory: RunDirectory) -> Path:
    """In the run's report folder, which a run that was interrupted may not have yet."""
    try:
        directory.report.mkdir(exist_ok=True)
    except OSError:
        raise BadInput(f"{directory.path} cannot be written to; name a film with --output") from None
    return directory.report / "watch"
