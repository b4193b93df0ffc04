"""How good a policy is: the returns of whole episodes, with an interval that says how sure that is."""

import dataclasses
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gymnasium
import jax
import numpy as np

from bellmark.envs.gymnasium import HostEnvironments
from bellmark.envs.registry import Resolved, resolve
from bellmark.envs.to_gymnasium import ToGymnasium
from bellmark.errors import BadInput, BellmarkError
from bellmark.experience.evaluation import play, play_on_host
from bellmark.mdp.routes import ends
from bellmark.report.statistics import interquartile_mean, interval
from bellmark.run.compilation import keep_compiled_programs
from bellmark.run.directory import RunDirectory
from bellmark.run.exported import TrainedPolicy, load_policies
from bellmark.run.machine import cores
from bellmark.run.train import check_seconds, environment_of, seeds_from

MOST_EPISODES = 1_000_000
LONGEST_EPISODE = 27_000
"""Where an environment has no time limit of its own, an episode is given up after this many steps, and counted."""
EXCERPT = 300
"""Steps that are shown of an episode that never ends."""


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Undiscounted returns of the final policies, never of the best of training.

    `returns` float64 [seeds, episodes]; `mean` over all; `interval` the 95 % stratified-bootstrap interval of the mean;
    `interquartile_mean` over the seeds' means; `unfinished` counts episodes that were given up.
    """

    returns: np.ndarray
    lengths: np.ndarray
    mean: float
    interval: tuple[float, float]
    interquartile_mean: float
    episodes: int
    seed: int
    deterministic: bool
    environment: str
    unfinished: int


def evaluate(
    run: Any,
    environment: Any = None,
    episodes: int = 100,
    seed: int = 0,
    *,
    deterministic: bool = True,
    timeout: float = 60.0,
) -> Evaluation:
    """Play `episodes` with every policy of `run`: a run, its directory, a policy, or any `observation -> action`.

    The environment of a run is its own unless another one is given.  `seed` fixes every episode's start.
    """
    check_episodes(episodes)
    check_seconds(1.0, timeout)
    seeds_from(1, seed)
    policies, resolved = _what_to_play(run, environment)
    keep_compiled_programs()
    returns, lengths = play_policies(policies, resolved, episodes, seed, deterministic, timeout)
    return summarise(returns, lengths, resolved.id, seed, deterministic)


def check_episodes(episodes: Any) -> None:
    if isinstance(episodes, bool) or not isinstance(episodes, int) or not 1 <= episodes <= MOST_EPISODES:
        raise BadInput(f"episodes is {episodes!r}; allowed: a whole number, 1 to {MOST_EPISODES:,}")


def summarise(
    returns: np.ndarray, lengths: np.ndarray, environment: str, seed: int, deterministic: bool
) -> Evaluation:
    return Evaluation(
        returns=returns,
        lengths=lengths,
        mean=float(returns.mean()),
        interval=interval(returns),
        interquartile_mean=float(interquartile_mean(returns.mean(axis=1))),
        episodes=returns.shape[1],
        seed=seed,
        deterministic=deterministic,
        environment=environment,
        unfinished=int((lengths < 0).sum()),
    )


def play_policies(
    policies: Sequence[Any],
    environment: Resolved,
    episodes: int,
    seed: int,
    deterministic: bool,
    timeout: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns and lengths [seeds, episodes] of policies (modules, or plain functions of observations)."""
    limit = environment.time_limit or LONGEST_EPISODE
    keys = jax.random.split(jax.random.key(seed), len(policies))
    functions = [p for p in policies if not hasattr(p, "randomness")]
    compiled = environment.compiled
    if compiled is not None and not functions:

        def one(pair):
            total, length = play(compiled, pair[0], pair[1], episodes, limit, deterministic)
            return np.asarray(total, np.float64), np.asarray(length)

        pool = ThreadPoolExecutor(cores())
        try:
            # the first one compiles; and whoever waits for a thread can be reached by Ctrl-C
            first = pool.submit(one, (policies[0], keys[0])).result()
            results = [first, *pool.map(one, zip(policies[1:], keys[1:], strict=True))]
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    else:
        results = [
            _on_host(policy, key, environment, episodes, limit, deterministic, timeout)
            for policy, key in zip(policies, keys, strict=True)
        ]
    returns, lengths = zip(*results, strict=True)
    if not np.isfinite(returns).all():
        raise BellmarkError(f"{environment.id} returned a NaN or infinite reward during evaluation")
    return np.stack(returns), np.stack(lengths)


def _on_host(policy, key, environment: Resolved, episodes, limit, deterministic, timeout):
    make, compiled = environment.make, environment.compiled
    if make is None:
        assert compiled is not None
        make = lambda: ToGymnasium(compiled)  # noqa: E731
    environments = HostEnvironments(make, min(episodes, 8), environment.id, timeout)
    try:
        actor = policy if hasattr(policy, "randomness") else _Function(policy)
        return play_on_host(environments, actor, key, episodes, limit, deterministic)
    finally:
        environments.close()


class _Function:
    """A user's function of one observation, as a policy."""

    zero_noise_is_mode = True

    def __init__(self, function: Any):
        self._function = function

    def on_host(self) -> "_Function":
        return self

    def randomness(self, key: Any, shape: tuple[int, ...]) -> np.ndarray:
        return np.zeros(shape)

    def __call__(self, observation: Any, randomness: Any, mask: Any = None) -> tuple[np.ndarray, None]:
        count = len(jax.tree.leaves(observation)[0])
        each = [self._function(jax.tree.map(lambda x, i=i: x[i], observation)) for i in range(count)]
        return np.asarray(each), None


def _what_to_play(run: Any, environment: Any) -> tuple[list[Any], Resolved]:
    directory = getattr(run, "directory", run)
    if isinstance(directory, str | os.PathLike):
        opened = RunDirectory.open(directory)
        known = getattr(run, "environment", None)
        if environment is None and isinstance(known, Resolved):
            resolved = known
        else:
            resolved = environment_of(opened.read_config(), environment)
        return [policy.module for policy in load_policies(opened.policy)], resolved
    if environment is None:
        raise BadInput("a policy on its own needs an environment to be evaluated in")
    resolved = resolve(environment)
    if isinstance(run, TrainedPolicy):
        for name in ("observation_space", "action_space"):
            if getattr(run, name) != getattr(resolved, name):
                raise BadInput(
                    f"the policy was trained with the {name.replace('_', ' ')} {getattr(run, name)}; "
                    f"{resolved.id} has {getattr(resolved, name)}"
                )
        return [run.module], resolved
    if callable(run):
        return [run], resolved
    raise BadInput(f"{run!r} is neither a run, a run's directory, a policy nor a function of observations")


def play_frames(
    run: str | Path,
    episodes: int,
    seed: int,
    seed_index: int = 0,
    environment: Any = None,
    overlay: bool = True,
    steps: int | None = None,
) -> Iterator[np.ndarray]:
    """Pictures, uint8 [height, width, 3], of a run's policy playing whole episodes, or at most `steps` of each.

    Where no episode ever ends, an excerpt is shown.
    """
    from bellmark.report.video import caption

    opened = RunDirectory.open(run)
    config = opened.read_config()
    policies = load_policies(opened.policy)
    if not 0 <= seed_index < len(policies):
        raise BadInput(
            f"seed index {seed_index} was asked for; this run has {len(policies)} seeds, counted from 0"
        )
    policy = policies[seed_index]
    resolved = environment_of(config, environment)
    if resolved.compiled is not None:
        player: gymnasium.Env = ToGymnasium(resolved.compiled, render_mode="rgb_array")
    else:
        player = resolve(resolved.id, **{**resolved.options, "render_mode": "rgb_array"}).make()  # type: ignore
    endless = resolved.mdp is not None and resolved.time_limit is None and not ends(resolved.mdp)
    limit = min(resolved.time_limit or LONGEST_EPISODE, steps or (EXCERPT if endless else LONGEST_EPISODE))
    try:
        for episode in range(episodes):
            observation, info = player.reset(seed=seed + episode)
            policy.reset()
            total, step, over = 0.0, 0, False
            while True:
                try:
                    frame: Any = player.render()
                except NotImplementedError as error:
                    raise BadInput(f"{resolved.id} cannot be watched: {error}") from None
                if frame is None:
                    raise BadInput(f"{resolved.id} cannot be watched: it draws no rgb_array")
                picture = np.asarray(frame, np.uint8)
                text = f"episode {episode + 1}   step {step}   return {total:g}"
                yield caption(picture, text) if overlay else picture
                if over or step >= limit:
                    break
                action = policy(observation, mask=info.get("action_mask"))
                observation, reward, terminated, truncated, info = player.step(action)
                total, step, over = total + float(reward), step + 1, terminated or truncated
    finally:
        player.close()
