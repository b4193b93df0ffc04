"""Gymnasium's environments, and users' own, as `B` environments stepped one after another in this process.

They never reset themselves: `step` yields the *true* successors, and the rollout resets by mask what has
ended.  So a Gymnasium rollout holds the same transitions as a compiled one, and advantages come out the same.

An environment is foreign code and is treated so.  Every step checks on the stacked arrays that observations
have the declared shape and dtype, lie in their space and are finite, and that rewards are finite; whatever is
wrong is an `EnvironmentFailure` that names environment, index, step, field and value; a hang is ended by
`watchdog`.  The checks cost a few percent of a CartPole step.
"""

import json
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Dict, Discrete, MultiDiscrete, Tuple
from gymnasium.wrappers import OrderEnforcing, PassiveEnvChecker, TimeLimit
from numpy.typing import NDArray

from bellmark.envs.contract import all_finite, assemble, leaves_of, misfit
from bellmark.envs.spaces import check_supported, possible
from bellmark.envs.watchdog import Hung, Watchdog
from bellmark.errors import BadInput, EnvironmentFailure


class QuickDiscrete(Discrete):
    """A Discrete space whose `contains` gives the same answers sooner.

    Gymnasium's environments assert `action_space.contains(action)` at every step; in Gymnasium 1.4 that
    assertion is a third of a whole CartPole step.
    """

    _first: int
    _last: int

    @classmethod
    def like(cls, space: Discrete) -> "QuickDiscrete":
        quick = cls.__new__(cls)
        quick.__dict__.update(space.__dict__)
        quick._first, quick._last = int(space.start), int(space.start + space.n - 1)
        return quick

    def contains(self, x: Any) -> bool:
        if type(x) is np.int64 and self.dtype == np.int64:
            return bool(self._first <= x <= self._last)
        return Discrete.contains(self, x)


def peel(environment: gymnasium.Env) -> tuple[gymnasium.Env, int | None]:
    """What is inside Gymnasium's own bookkeeping wrappers, and the time limit found there.

    `HostEnvironments` does the work of TimeLimit, OrderEnforcing and PassiveEnvChecker itself, for all
    environments at once.  Peeling stops at the first other wrapper: what that one wraps stays whole.
    """
    limit: int | None = None
    while type(environment) in (TimeLimit, OrderEnforcing, PassiveEnvChecker):
        if type(environment) is TimeLimit:
            steps = environment._max_episode_steps
            limit = steps if limit is None else min(limit, steps)
        environment = environment.env  # type: ignore[attr-defined]
    return environment, limit


class HostEnvironments:
    """`count` environments from `make`, stepped in turn.

    **Arguments:** `make` builds one `gymnasium.Env`; `name` is used in messages; a call into an environment
    may last `timeout` seconds (None: for ever); `strict` False accepts observations outside a declared Box
    (still finite), the default for Gymnasium's own environments, of which several declare their bounds too
    narrow.
    """

    def __init__(
        self,
        make: Callable[[], gymnasium.Env],
        count: int,
        name: str,
        timeout: float | None = 60.0,
        strict: bool | None = None,
    ):
        if count < 1:
            raise BadInput(f"{count} environments were asked for; at least 1 is needed")
        if timeout is not None and not timeout > 0:
            raise BadInput(f"a timeout of {timeout} seconds was given; it must be positive, or None")
        self.count, self.name = count, name
        self.busy = False
        self._calls, self._index, self._steps = 0, 0, 0
        self._closed = False
        self._call = "construction"
        self._timeout = timeout
        self._watchdog = Watchdog(self, timeout) if timeout is not None else None
        self._environments: list[gymnasium.Env] = []
        # `_began[i]` is the step count at which episode i began, so that nothing need be counted up per step.
        self._began, self._oldest = [0] * count, 0
        self._over, self._any_over = np.ones(count, np.bool_), True
        self._masks: NDArray[np.bool_] | None = None
        self.observations: Any = None
        try:
            self._build(make, strict)
        except BaseException:
            self.close()
            raise

    def _build(self, make: Callable[[], gymnasium.Env], strict: bool | None) -> None:
        with _Guard(self):
            for index in range(self.count):
                self._index = index
                self._environments.append(make())
        first = self._environments[0]
        if not isinstance(first, gymnasium.Env):
            raise BadInput(f"{self.name}: expected a gymnasium.Env, got {type(first).__name__}")
        peeled = [peel(environment) for environment in self._environments]
        self._cores: list[Any] = [core for core, _ in peeled]
        self._limit = peeled[0][1]
        for core in self._cores:
            space = vars(core).get("action_space")
            if type(space) is Discrete:
                core.action_space = QuickDiscrete.like(space)
        self._step_functions = [core.step for core in self._cores]
        self.observation_space: gymnasium.Space = first.observation_space
        self.action_space: gymnasium.Space = first.action_space
        check_supported(self.observation_space, f"{self.name}: observation space")
        check_supported(self.action_space, f"{self.name}: action space")
        if strict is None:
            strict = not type(first.unwrapped).__module__.startswith("gymnasium.envs.")
        self._leaves = leaves_of(self.observation_space, strict)
        self.stacked_frames = int(getattr(self._cores[0], "stacked_frames", 1))
        self.can_restore = all(
            core is core.unwrapped and hasattr(core, "get_state") and hasattr(core, "set_state")
            for core in self._cores
        )

    # -- stepping

    @property
    def beat(self) -> tuple[int, int]:
        """Different for every call into an environment: what the watchdog compares."""
        return self._calls, self._index

    def reset(self, seeds: Any | None = None, mask: NDArray[np.bool_] | None = None) -> Any:
        """Begin new episodes where `mask` [B] is set, by default everywhere; all observations [B, ...].

        `seeds` [B] belong to the first reset only: Gymnasium's generators run on from episode to episode.
        """
        indices = range(self.count) if mask is None else [i for i, over in enumerate(mask.tolist()) if over]
        if self.observations is None and len(indices) < self.count:
            raise BadInput(f"{self.name}: the first reset must be of all {self.count} environments")
        if self.observations is None:
            arrays = [np.zeros((self.count, *leaf.shape), leaf.dtype) for leaf in self._leaves]
        else:
            arrays = [leaf.get(self.observations).copy() for leaf in self._leaves]
        with _Guard(self, "reset"):
            for index in indices:
                self._index = index
                seed = None if seeds is None else int(seeds[index])
                observation, info = self._cores[index].reset(seed=seed)
                self._store(arrays, observation)
                if info or self._masks is not None:
                    self._take_mask(info)
        self._check(arrays)
        for index in indices:
            self._began[index] = self._steps
            self._over[index] = False
        self._oldest, self._any_over = min(self._began), bool(self._over.any())
        self.observations = assemble(self.observation_space, arrays)
        return self.observations

    def step(self, actions: NDArray) -> tuple[Any, NDArray[np.float32], NDArray[np.bool_], NDArray[np.bool_]]:
        """Apply `actions` [B, ...], elements of the action space (see `spaces.clip_action`).

        Returns the true successors [B, ...], rewards float32 [B], terminated and truncated bool [B].
        Stepping an episode that is over is refused.  What is returned is never written to again.
        """
        if self._any_over:
            raise self._failure(
                int(np.argmax(self._over)), "was stepped after its episode's end; reset it first"
            )
        chosen = self._actions(actions)
        if len(chosen) != self.count:
            raise BadInput(f"{self.name}: {len(chosen)} actions were given for {self.count} environments")
        self._steps += 1
        results: list[Any] = []
        with _Guard(self, "step"):
            for index, function in enumerate(self._step_functions):
                self._index = index
                results.append(function(chosen[index]))
        try:
            observations, rewards, terminated, truncated, infos = zip(*results, strict=True)
        except (TypeError, ValueError):
            raise self._not_five(results) from None
        if self._masks is not None or any(infos):
            for index, info in enumerate(infos):
                self._index = index
                self._take_mask(info)
        arrays = self._stack(observations)
        self._check(arrays)
        ended, cut = np.array(terminated, np.bool_), np.array(truncated, np.bool_)
        self._any_over = True in terminated or True in truncated
        if self._limit is not None and self._steps - self._oldest >= self._limit:
            cut |= self._steps - np.array(self._began) >= self._limit
            self._any_over = True
        self._over = ended | cut
        self.observations = assemble(self.observation_space, arrays)
        return self.observations, self._rewards(rewards), ended, cut

    def action_masks(self) -> NDArray[np.bool_] | None:
        """Which actions are valid now, bool [B, A], from `info["action_mask"]`; None where none is given."""
        return self._masks

    def close(self) -> None:
        """Close every environment, whatever one of them does about it."""
        if self._closed:
            return
        self._closed = True
        try:
            with _Guard(self, "close"):
                for index, environment in enumerate(self._environments):
                    self._index = index
                    environment.close()
        except EnvironmentFailure:
            # Results are safe by now, and there may already be an error on its way that matters more.
            pass
        finally:
            if self._watchdog is not None:
                self._watchdog.close()

    # -- state, where the environments offer it

    def get_state(self) -> dict[str, np.ndarray]:
        """Everything in flight, as named arrays; for environments with `get_state() -> dict[str, array]`."""
        self._need_restorable()
        began = np.array(self._began, np.int64)
        state = {"steps": np.array(self._steps, np.int64), "began": began, "over": self._over.copy()}
        if self._masks is not None:
            state["action_masks"] = self._masks.copy()
        if self.observations is not None:
            for number, leaf in enumerate(self._leaves):
                state[f"observation/{number}"] = leaf.get(self.observations).copy()
        for index, core in enumerate(self._cores):
            for key, value in core.get_state().items():
                state[f"environment/{index}/{key}"] = np.array(value)
            # Padded, so that every state has the same shapes; JSON ignores what follows.
            generator = json.dumps(core.np_random.bit_generator.state).encode().ljust(512)
            state[f"generator/{index}"] = np.frombuffer(generator, np.uint8).copy()
        return state

    def set_state(self, state: dict[str, np.ndarray]) -> None:
        """Go on exactly where `get_state` was called."""
        self._need_restorable()
        self._steps, self._began = int(state["steps"]), state["began"].tolist()
        self._over, self._oldest = state["over"].copy(), min(self._began)
        self._any_over = bool(self._over.any())
        self._masks = state["action_masks"].copy() if "action_masks" in state else None
        if "observation/0" in state:
            shown = [state[f"observation/{number}"].copy() for number in range(len(self._leaves))]
            self.observations = assemble(self.observation_space, shown)
        for index, core in enumerate(self._cores):
            prefix = f"environment/{index}/"
            inner = {key.removeprefix(prefix): v for key, v in state.items() if key.startswith(prefix)}
            core.set_state(inner)
            generator = bytes(np.asarray(state[f"generator/{index}"], np.uint8)).decode()
            core.np_random.bit_generator.state = json.loads(generator)

    def _need_restorable(self) -> None:
        if not self.can_restore:
            raise BadInput(f"{self.name} offers no get_state and set_state, so its episodes cannot be saved")

    # -- what is taken from an environment

    def _actions(self, actions: NDArray) -> list:
        """`actions` [B, ...] as the space's own `sample` yields them: NumPy scalars, or arrays to keep."""
        if isinstance(self.action_space, (Dict, Tuple)):
            raise BadInput(
                f"{self.name}: actions of {type(self.action_space).__name__} spaces are not supported"
            )
        return list(np.array(actions, dtype=self.action_space.dtype))

    def _stack(self, observations: tuple) -> list[NDArray]:
        """The observations of one step as arrays [B, ...]; the slow path finds which one is wrong."""
        leaves = self._leaves
        try:
            parts = (
                [observations]
                if not leaves[0].path
                else [[leaf.get(o) for o in observations] for leaf in leaves]
            )
            arrays = [np.array(part) for part in parts]
        except (KeyError, IndexError, TypeError, ValueError):
            arrays = []
        else:
            if all(
                array.dtype == leaf.dtype and array.shape == (self.count, *leaf.shape)
                for leaf, array in zip(leaves, arrays, strict=True)
            ):
                return arrays
        arrays = [np.empty((self.count, *leaf.shape), leaf.dtype) for leaf in leaves]
        for index, observation in enumerate(observations):
            self._index = index
            self._store(arrays, observation)
        return arrays

    def _rewards(self, given: tuple) -> NDArray[np.float32]:
        """Rewards float32 [B]; anything that is not one finite number each is an error."""
        try:
            rewards = np.array(given, np.float32)
            if rewards.shape == (self.count,) and all_finite(rewards):
                return rewards
        except (TypeError, ValueError):
            pass
        for index, reward in enumerate(given):
            try:
                good = np.shape(reward) == () and bool(np.isfinite(np.float32(reward)))
            except (TypeError, ValueError, OverflowError):
                good = False
            if not good:
                raise self._failure(index, f"reward is {reward!r}; it must be one finite number")
        raise AssertionError("a bad batch of rewards has a bad reward")

    def _not_five(self, results: list) -> EnvironmentFailure:
        for index, result in enumerate(results):
            if not isinstance(result, tuple) or len(result) != 5:
                got = f"{len(result)} values" if isinstance(result, tuple) else f"a {type(result).__name__}"
                need = "(observation, reward, terminated, truncated, info)"
                return self._failure(index, f"step returned {got}; needed are {need}")
        raise AssertionError("a bad batch of results has a bad result")

    def _store(self, arrays: list[NDArray], observation: Any) -> None:
        """Copy one environment's observation into the stacked arrays, if it has the declared structure."""
        what = misfit(self.observation_space, observation)
        if what is not None:
            raise self._failure(self._index, what)
        for leaf, array in zip(self._leaves, arrays, strict=True):
            array[self._index] = leaf.get(observation)

    def _check(self, arrays: list[NDArray]) -> None:
        for leaf, array in zip(self._leaves, arrays, strict=True):
            if not leaf.fits(array):
                raise self._failure(*leaf.complaint(array))

    def _take_mask(self, info: Any) -> None:
        given = info.get("action_mask") if isinstance(info, dict) else None
        if given is None and self._masks is None:
            return
        if given is None:
            raise self._failure(self._index, 'info has no "action_mask", but earlier it had one')
        mask = np.concatenate([np.ravel(part) for part in (given if isinstance(given, tuple) else (given,))])
        mask = mask.astype(np.bool_)
        size = _choices(self.action_space)
        if size is None or mask.shape != (size,):
            need = f"({size},)" if size else "none, since its actions are not discrete"
            raise self._failure(self._index, f"action_mask has shape {mask.shape}; needed is {need}")
        if not possible(self.action_space, mask):
            raise self._failure(self._index, f"action_mask allows no action: {mask.astype(int).tolist()}")
        # Masks that were handed out are never written to again.
        masks = np.ones((self.count, size), np.bool_) if self._masks is None else self._masks.copy()
        masks[self._index] = mask
        self._masks = masks

    # -- what is said about an environment

    def _failure(self, index: int, what: str) -> EnvironmentFailure:
        """The error about environment `index`, with the step at which it happened."""
        if self._call == "step":
            place = f"step {self._steps} ({self._steps - self._began[index]} of its episode)"
        else:
            place = f"{self._call}, after {self._steps} steps"
        return EnvironmentFailure(f"{self.name}: environment {index} at {place}: {what}")

    def describe_hang(self) -> str:
        what = f"{self._call}() did not return within {self._timeout:g} seconds"
        return str(self._failure(self._index, what))


class _Guard:
    """A stretch of foreign code: watched, and whatever it raises becomes an `EnvironmentFailure`."""

    __slots__ = ("_owner",)

    def __init__(self, owner: HostEnvironments, call: str = "construction"):
        self._owner = owner
        owner._call = call
        owner._calls += 1

    def __enter__(self) -> None:
        self._owner.busy = True

    def __exit__(self, kind, error, trace) -> None:
        owner = self._owner
        owner.busy = False
        if error is None or isinstance(error, EnvironmentFailure):
            return
        if isinstance(error, Hung):
            raise EnvironmentFailure(owner.describe_hang()) from None
        if isinstance(error, Exception):
            said = f"{type(error).__name__}: {error}".rstrip(": ").split("\n")[0]
            raise owner._failure(owner._index, f"{owner._call} raised {said}") from error


def _choices(space: gymnasium.Space) -> int | None:
    """The width of an action mask."""
    if isinstance(space, Discrete):
        return int(space.n)
    return int(space.nvec.sum()) if isinstance(space, MultiDiscrete) else None
