"""An environment checker that explains: what is wrong with an environment of either kind, and how to mend it.

A broken environment shows itself as an agent that does not learn, days later.  The checker looks for what
goes wrong in practice: shapes, dtypes and values outside the declared space; a state that changes its
structure, so that it cannot be compiled; hidden randomness; environments that reset themselves; masks that
allow nothing; episodes without an end.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete, MultiDiscrete

from bellmark.envs.contract import misfit
from bellmark.envs.gymnasium import HostEnvironments
from bellmark.envs.registry import Resolved, resolve
from bellmark.envs.spaces import check_supported
from bellmark.errors import BadInput, EnvironmentFailure

PARALLEL, STEPS = 8, 1000
LARGE_REWARD = 1000.0

Severity = Literal["passed", "note", "warning", "error"]


@dataclass(frozen=True)
class Finding:
    """One sentence on what was found, and one on how to mend it (empty where nothing is to be mended)."""

    severity: Severity
    subject: str
    found: str
    mend: str = ""


@dataclass
class Report:
    """Everything that was found about one environment, in the order in which it was looked at."""

    name: str
    note: str
    findings: list[Finding] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether it can be trained on: no error was found; there may be warnings."""
        return not any(finding.severity == "error" for finding in self.findings)


def check_environment(environment: Any, **options: Any) -> Report:
    """Check whatever `registry.resolve` understands.  Misbehaviour is reported, never raised."""
    resolved = environment if isinstance(environment, Resolved) else resolve(environment, **options)
    report = Report(resolved.id, resolved.note)
    checks = _compiled(resolved) if resolved.compiled is not None else _gymnasium(resolved)
    for finding in checks:
        report.findings.append(finding)
        if finding.severity == "error":
            break  # what follows would only say the same thing in other words
    return report


def require_contract(environment: Any, name: str) -> None:
    """Refuse a compiled environment whose shapes or dtypes are not what it declares, without running it.

    Raises: `BadInput` with the first thing that is wrong and how to mend it.
    """
    import jax

    def walk(key):
        state = environment.reset(key)
        shown = environment.observe(state)
        sample = jax.numpy.asarray(environment.action_space.sample())
        return state, shown, environment.step(state, sample, key)

    try:
        state, shown, (after, outcome) = jax.eval_shape(walk, jax.random.key(0))
        findings = [
            *_same_structure(state, after),
            *_outcome_types(outcome),
            *_declared(environment.observation_space, shown),
        ]
    except Exception as error:
        raise BadInput(f"{name} cannot be compiled: {_said(error)}; bellmark check explains") from error
    for finding in findings:
        raise BadInput(f"{name}: {finding.found}; {finding.mend}; bellmark check says more")


def _declared(space: gymnasium.Space, shown: Any) -> Iterator[Finding]:
    """Whether an observation's leaves have the shapes and dtypes of its space."""
    if isinstance(space, gymnasium.spaces.Dict):
        for key, inner in space.spaces.items():
            yield from _declared(inner, shown[key])
    elif isinstance(space, gymnasium.spaces.Tuple):
        for inner, part in zip(space.spaces, shown, strict=True):
            yield from _declared(inner, part)
    elif isinstance(space, Box) and (shown.shape != space.shape or shown.dtype != space.dtype):
        found = f"observe gives {shown.dtype}{list(shown.shape)}, its space is {_short(space)}"
        yield Finding(
            "error", "observe", found, "cast and shape it in observe, or declare the space that it has"
        )
    elif not isinstance(space, Box) and shown.shape != (space.shape or ()):
        found = f"observe gives {shown.dtype}{list(shown.shape)}, its space is {space}"
        yield Finding("error", "observe", found, "shape it in observe, or declare the space that it has")


# -- the two kinds


def _compiled(resolved: Resolved) -> Iterator[Finding]:
    import jax
    import jax.numpy as jnp

    from bellmark.envs.base import Step
    from bellmark.envs.to_gymnasium import ToGymnasium

    environment = resolved.compiled
    assert environment is not None
    yield from _spaces(environment)
    key = jax.random.key(0)
    try:
        # Fresh functions: `jit` hashes what it compiles, and an environment that holds arrays has no hash.
        state = jax.jit(lambda key: environment.reset(key))(key)
        observation = jax.jit(lambda state: environment.observe(state))(state)
    except Exception as error:
        mend = "use jax.numpy and no Python branches on array values"
        yield Finding("error", "reset", f"reset or observe cannot be compiled: {_said(error)}", mend)
        return
    what = misfit(environment.observation_space, _host(environment.observation_space, observation))
    if what is not None:
        yield Finding(
            "error", "observe", what, "cast and shape it in observe, or declare the space that it has"
        )
        return
    yield Finding("passed", "reset", "reset and observe compile and give what the space declares")
    mask = environment.action_mask(state)
    allowed = None if mask is None else np.asarray(mask)
    action = jnp.asarray(_action(environment.action_space, np.random.default_rng(0), allowed))
    try:
        after, outcome = jax.jit(lambda *given: environment.step(*given))(state, action, key)
    except Exception as error:
        mend = "use jax.numpy and no Python branches on array values"
        yield Finding("error", "step", f"step cannot be compiled: {_said(error)}", mend)
        return
    if not isinstance(outcome, Step):
        mend = "return (state, Step(reward, terminated, truncated))"
        yield Finding("error", "step", f"step returned a {type(outcome).__name__} beside the state", mend)
        return
    yield from _same_structure(state, after)
    yield from _outcome_types(outcome)
    try:
        states = jax.vmap(environment.reset)(jax.random.split(key, 2))
        jax.vmap(environment.step)(states, jnp.stack([action, action]), jax.random.split(key, 2))
    except Exception as error:
        mend = "write it for one environment, with shapes that do not depend on values"
        yield Finding("error", "vmap", f"it cannot be vectorised: {_said(error)}", mend)
        return
    again = [jax.device_get(environment.step(state, action, key)) for _ in range(2)]
    if not _equal(*again):
        mend = "draw all randomness from the key, with jax.random"
        yield Finding("error", "purity", "step gave two results for the same state, action and key", mend)
        return
    yield Finding("passed", "step", "step compiles, vectorises, keeps the state's structure and is pure")
    # Copies share the compiled functions: one compilation serves all of them.
    first = ToGymnasium(environment)
    yield from _behaviour(lambda: copy.copy(first), resolved)


def _gymnasium(resolved: Resolved) -> Iterator[Finding]:
    assert resolved.make is not None
    environment = resolved.make()
    try:
        yield from _spaces(environment)
        try:
            given = environment.reset(seed=0)
        except Exception as error:
            mend = "reset(self, *, seed=None, options=None) must begin an episode"
            yield Finding("error", "reset", f"reset(seed=0) raised {_said(error)}", mend)
            return
        if not isinstance(given, tuple) or len(given) != 2 or not isinstance(given[1], dict):
            mend = "return (observation, {})"
            yield Finding("error", "reset", f"reset returned a {type(given).__name__}, not two things", mend)
            return
        observation, info = given
        what = misfit(environment.observation_space, observation)
        if what is not None:
            mend = "return np.asarray(observation, dtype=self.observation_space.dtype)"
            yield Finding("error", "reset", what, mend)
            return
        yield Finding("passed", "reset", "reset takes a seed and gives what the space declares")
        mask = _joined(info.get("action_mask"))
        try:
            outcome = environment.step(_action(environment.action_space, np.random.default_rng(0), mask))
        except Exception as error:
            mend = "every element of action_space must be accepted"
            yield Finding("error", "step", f"step raised {_said(error)}", mend)
            return
        mend = "return (observation, reward, terminated, truncated, info)"
        if not isinstance(outcome, tuple) or len(outcome) != 5:
            size = len(outcome) if isinstance(outcome, tuple) else type(outcome).__name__
            yield Finding("error", "step", f"step returned {size} values; five are needed", mend)
            return
        for name, flag in (("terminated", outcome[2]), ("truncated", outcome[3])):
            if not isinstance(flag, (bool, np.bool_)):
                yield Finding(
                    "error", "step", f"{name} is {flag!r}; it must be True or False", f"bool({name})"
                )
                return
        if not isinstance(outcome[4], dict):
            yield Finding("error", "step", f"info is a {type(outcome[4]).__name__}, not a dict", mend)
            return
        yield Finding("passed", "step", "step gives observation, reward, terminated, truncated and info")
    finally:
        environment.close()
    yield from _behaviour(resolved.make, resolved)


# -- what both share


def _spaces(environment: Any) -> Iterator[Finding]:
    for name in ("observation_space", "action_space"):
        space = getattr(environment, name, None)
        if not isinstance(space, gymnasium.Space):
            mend = f"set self.{name} to a gymnasium.spaces.Space"
            yield Finding("error", "spaces", f"{name} is a {type(space).__name__}", mend)
            return
        try:
            check_supported(space, name)
        except BadInput as error:
            yield Finding("error", "spaces", str(error), "use one of those")
            return
    space = environment.action_space
    if isinstance(space, Box) and not space.is_bounded():
        mend = "give it finite bounds; actions are clipped to them"
        yield Finding("warning", "spaces", "action_space has infinite bounds", mend)
    shown = f"observations {_short(environment.observation_space)}, actions {_short(space)}"
    yield Finding("passed", "spaces", shown)


def _behaviour(make: Callable[[], gymnasium.Env], resolved: Resolved) -> Iterator[Finding]:
    """Some thousand random steps, seen through the same checks as in training."""
    try:
        first, second = (_Trace(make, resolved.id, steps=100) for _ in range(2))
        if any(
            not _equal(getattr(first, name), getattr(second, name)) for name in ("starts", "shown", "rewards")
        ):
            mend = "draw all randomness from self.np_random, and call super().reset(seed=seed) in reset"
            yield Finding("error", "seed", "the same seed and actions gave two different episodes", mend)
            return
        yield Finding("passed", "seed", "the same seed and actions give the same episodes")
        trace = _Trace(make, resolved.id, steps=STEPS)
    except EnvironmentFailure as error:
        mend = "the message names where; mend it there, or declare a wider space if the value is right"
        yield Finding("error", "behaviour", str(error), mend)
        return
    yield Finding(
        "passed", "values", f"{PARALLEL * STEPS} random steps: all values finite and in their space"
    )
    if trace.resets_itself():
        mend = "return the true last observation; whoever steps it will call reset"
        yield Finding("error", "resets", "it resets itself: episodes end on a first observation", mend)
        return
    if trace.masked:
        yield Finding("passed", "masks", "action masks have the right shape and always allow an action")
    yield from _episodes(trace, resolved)
    low, high = float(trace.rewards.min()), float(trace.rewards.max())
    if max(abs(low), abs(high)) > LARGE_REWARD:
        mend = "divide it, or leave reward normalisation on"
        yield Finding("warning", "reward", f"rewards lie between {low:g} and {high:g}: very large", mend)
    elif low == high:
        yield Finding(
            "note", "reward", f"every reward was {low:g}: only an episode's length can be learnt from"
        )
    else:
        yield Finding("passed", "reward", f"rewards lie between {low:g} and {high:g}")


def _episodes(trace: "_Trace", resolved: Resolved) -> Iterator[Finding]:
    if trace.lengths:
        limit = f", time limit {resolved.time_limit}" if resolved.time_limit else ""
        mean, count = float(np.mean(trace.lengths)), len(trace.lengths)
        yield Finding("passed", "episodes", f"{count} random episodes ended, {mean:.0f} steps long{limit}")
    elif resolved.time_limit is None:
        mend = "wrap it in a TimeLimit, unless episodes are meant to last"
        yield Finding("warning", "episodes", f"no episode ended in {STEPS} random steps", mend)
    else:
        found = f"no episode ended in {STEPS} random steps; the time limit is {resolved.time_limit}"
        yield Finding("passed", "episodes", found)


class _Trace:
    """Random episodes in `PARALLEL` environments: what was shown, paid and ended."""

    def __init__(self, make: Callable[[], gymnasium.Env], name: str, steps: int):
        generator = np.random.default_rng(0)
        self.environments = HostEnvironments(make, PARALLEL, name)
        environments = self.environments
        shown, rewards = [], []
        self.lengths: list[int] = []
        starts: list[np.ndarray] = []
        self.ends: list[tuple[np.ndarray, np.ndarray]] = []
        try:
            observations = environments.reset(np.arange(PARALLEL))
            began = np.zeros(PARALLEL, np.int64)
            starts += list(_rows(observations))
            for step in range(1, steps + 1):
                masks = environments.action_masks()
                actions = np.stack(
                    [
                        _action(environments.action_space, generator, None if masks is None else masks[i])
                        for i in range(PARALLEL)
                    ]
                )
                before = _rows(observations)
                observations, reward, terminated, truncated = environments.step(actions)
                after = _rows(observations)
                shown.append(after)
                rewards.append(reward)
                over = terminated | truncated
                if over.any():
                    self.ends += [(before[i], after[i]) for i in np.flatnonzero(over)]
                    self.lengths += (step - began[over]).tolist()
                    began[over] = step
                    observations = environments.reset(None, over)
                    starts += [_rows(observations)[i] for i in np.flatnonzero(over)]
            self.masked = environments.action_masks() is not None
        finally:
            environments.close()
        self.starts, self.shown, self.rewards = np.stack(starts), np.stack(shown), np.stack(rewards)

    def resets_itself(self) -> bool:
        """Whether the last observations of episodes look like first ones and unlike those just before them.

        First observations span a box.  An environment that resets itself ends every episode inside that box;
        to have ended there honestly three times or more, always jumping in from outside, is not to be
        believed.
        """
        low, high = self.starts.min(axis=0), self.starts.max(axis=0)
        margin = 0.1 * (high - low)
        low, high = low - margin, high + margin
        jumped = [
            bool(((low <= after) & (after <= high)).all() and not ((low <= before) & (before <= high)).all())
            for before, after in self.ends
        ]
        # An episode that ends within a step or two of its start may end near it: most must have jumped, not all.
        return len(jumped) >= 3 and sum(jumped) > 0.8 * len(jumped)


# -- small helpers


def _action(space: gymnasium.Space, generator: np.random.Generator, mask: np.ndarray | None) -> Any:
    """A random element of `space`; of a masked one, a valid one.  Unbounded sides are sampled near 0."""
    if isinstance(space, Discrete):
        allowed = np.arange(space.n) if mask is None else np.flatnonzero(mask)
        return np.int64(space.start + generator.choice(allowed))
    if isinstance(space, MultiDiscrete):
        sizes = space.nvec.reshape(-1)
        masks = np.split(np.ones(sizes.sum(), bool) if mask is None else mask, np.cumsum(sizes)[:-1])
        chosen = [generator.choice(np.flatnonzero(part)) for part in masks]
        return (np.array(chosen).reshape(space.shape) + space.start).astype(space.dtype)
    if isinstance(space, Box):
        low, high = np.maximum(space.low, -10.0), np.minimum(space.high, 10.0)
        return np.clip(generator.uniform(low, high), space.low, space.high).astype(space.dtype)
    assert space.shape is not None
    return generator.integers(0, 2, space.shape).astype(space.dtype)


def _joined(mask: Any) -> np.ndarray | None:
    if mask is None:
        return None
    return (
        np.concatenate([np.asarray(part) for part in mask]) if isinstance(mask, tuple) else np.asarray(mask)
    )


def _rows(observations: Any) -> np.ndarray:
    """Stacked observations as float64 [B, size], whatever their tree."""
    if isinstance(observations, dict):
        return np.concatenate([_rows(part) for part in observations.values()], axis=1)
    if isinstance(observations, tuple):
        return np.concatenate([_rows(part) for part in observations], axis=1)
    return observations.reshape(len(observations), -1).astype(np.float64)


def _host(space: gymnasium.Space, observation: Any) -> Any:
    import jax

    from bellmark.envs.to_gymnasium import plain

    return plain(space, jax.device_get(observation))


def _same_structure(before: Any, after: Any) -> Iterator[Finding]:
    """A scan carries the state, so it must keep its tree, shapes and dtypes."""
    import jax

    mend = "return from step what reset returns; cast with .astype(...) where dtypes differ"
    if str(jax.tree.structure(before)) != str(jax.tree.structure(after)):
        yield Finding("error", "state", "step returns another kind of state than reset", mend)
        return
    old, new = jax.tree_util.tree_leaves_with_path(before), jax.tree.leaves(after)
    for (path, a), b in zip(old, new, strict=True):
        if a.shape != b.shape or a.dtype != b.dtype:
            where = f"state{jax.tree_util.keystr(path)}"
            found = f"{where} is {a.dtype}{list(a.shape)} after reset and {b.dtype}{list(b.shape)} after step"
            yield Finding("error", "state", found, mend)
            return


def _outcome_types(outcome: Any) -> Iterator[Finding]:
    for name, kind in (("reward", "f"), ("terminated", "b"), ("truncated", "b")):
        value = getattr(outcome, name)
        if value.shape != () or value.dtype.kind != kind:
            need = "one float32" if kind == "f" else "one bool"
            found = f"{name} is {value.dtype}{list(value.shape)}; it must be {need}"
            yield Finding("error", "step", found, "cast it in step, and reduce it to a scalar")
            return


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a.shape == b.shape and np.array_equal(a, b, equal_nan=True)
    import jax

    return all(
        np.array_equal(np.asarray(x), np.asarray(y), equal_nan=np.asarray(x).dtype.kind == "f")
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".strip().split("\n")[0][:300]


def _short(space: gymnasium.Space) -> str:
    if isinstance(space, Box):
        return f"Box{list(space.shape)} {space.dtype}"
    return str(space)
