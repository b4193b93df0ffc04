"""From what a user names to an environment that can be run.

    resolve("CartPole-v1")              Gymnasium's id: the compiled twin if there is one, else Gymnasium
    resolve("Catch-v0")                 a compiled environment of Bellmark's own
    resolve("gymnasium:CartPole-v1")    Gymnasium itself
    resolve("package.module:MyWorld")   a user's own, of either kind; also "path/to/file.py:MyWorld"
    resolve("grid_world", noise=0.3)    a named finite example
    resolve(object)                     a FiniteMDP, an environment of either kind, or a factory of one

Importing this module imports neither JAX nor any environment: both wait until one is asked for.
"""

import copy
import dataclasses
import hashlib
import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

import gymnasium

from bellmark.envs.spaces import is_image
from bellmark.errors import BadInput, did_you_mean

if TYPE_CHECKING:
    from bellmark.envs.base import AbstractEnvironment
    from bellmark.mdp.model import FiniteMDP

Kind = Literal["compiled", "gymnasium", "user", "finite"]

TWINS: dict[str, tuple[str, str]] = {
    "CartPole-v1": ("bellmark.envs.classic_control.cart_pole", "CartPole"),
    "MountainCar-v0": ("bellmark.envs.classic_control.mountain_car", "MountainCar"),
    "MountainCarContinuous-v0": (
        "bellmark.envs.classic_control.mountain_car_continuous",
        "MountainCarContinuous",
    ),
    "Acrobot-v1": ("bellmark.envs.classic_control.acrobot", "Acrobot"),
    "Pendulum-v1": ("bellmark.envs.classic_control.pendulum", "Pendulum"),
}
"""Gymnasium id → module and class of its compiled twin."""

OPTIMUM = {"CartPole-v1": 500.0}
"""The largest return that an episode can have, where it is known and can be reached."""


@dataclass(frozen=True)
class Own:
    """A compiled environment that Gymnasium does not have: what makes it, and what is known of it."""

    module: str
    maker: str
    time_limit: int | None
    threshold: float | None
    optimum: float | None
    note: str
    options: tuple[tuple[str, Any], ...] = ()
    """What the maker is given beside, or instead of, what the user gives."""


def _arcade(game: str, name: str, about: str) -> "dict[str, Own]":
    """MinAtar's two ids of a game: -v0 has all six actions, -v1 those that do something."""
    return {
        f"MinAtar/{name}-v{version}": Own(
            "bellmark.envs.arcade.games",
            game,
            time_limit=None,
            threshold=None,
            optimum=None,
            note=f"{about} on 10 × 10 pixels, equal to MinAtar's, compiled",
            options=(("use_minimal_action_set", version == 1),),
        )
        for version in (0, 1)
    }


OWN = {
    "PositionOnlyCartPole-v1": Own(
        "bellmark.envs.classic_control.position_only",
        "position_only_cart_pole",
        time_limit=500,
        threshold=475.0,
        optimum=500.0,
        note="CartPole-v1 with the velocities hidden, compiled",
    ),
    "Catch-v0": Own(
        "bellmark.envs.arcade.catch",
        "Catch",
        time_limit=None,
        threshold=9.5,
        optimum=10.0,
        note="a paddle catches ten falling balls on 11 × 10 pixels, compiled",
    ),
    **_arcade("asterix", "Asterix", "gold is picked up and enemies avoided"),
    **_arcade("breakout", "Breakout", "a paddle, a ball and three rows of bricks"),
    **_arcade("freeway", "Freeway", "a chicken crosses a road"),
    **_arcade("seaquest", "Seaquest", "a submarine picks up divers among enemies"),
    **_arcade("space_invaders", "SpaceInvaders", "a cannon against a block of aliens"),
    "SideScroller-v0": Own(
        "bellmark.envs.arcade.side_scroller",
        "SideScroller",
        time_limit=400,
        threshold=None,
        optimum=None,
        note="coins, enemies, pits and a finish line, seen through a window that moves along, compiled",
    ),
}
"""Ids of Bellmark's own, or that a package registers which is not needed to play them here."""

NEEDS = {
    "gymnasium.envs.box2d": ("Box2D", 'pip install "gymnasium[box2d]"'),
    "gymnasium.envs.mujoco": ("mujoco", 'pip install "gymnasium[mujoco]"'),
    "gymnasium.envs.phys2d": ("jax", "pip install jax"),
    "gymnasium.envs.tabular": ("jax", "pip install jax"),
    "shimmy": ("shimmy", "pip install shimmy"),
}
"""Where an entry point begins → the package without which it cannot be made, and what installs it."""

PROVIDERS = {
    "ALE": ("ale_py", "pip install 'bellmark[atari]'"),
    "MinAtar": ("minatar", "pip install minatar"),
    "MiniGrid": ("minigrid", "pip install minigrid"),
    "BabyAI": ("minigrid", "pip install minigrid"),
    "highway": ("highway_env", "pip install highway-env"),
}
"""How ids of well-known packages begin → the module that registers them, and what installs it."""


@dataclass(frozen=True)
class Resolved:
    """An environment, described so that it can be run, compared and named in a saved configuration.

    - `id`: what a configuration stores; `resolve(id)` gives the same environment again if `reproducible`.
    - `kind`: "compiled", "gymnasium" (an id that runs through Gymnasium), "user" (a user's own), "finite".
    - `compiled`: the compiled environment, or None; `make`: a factory of Gymnasium environments, or None.
      Exactly one of the two is set.
    - `threshold`: the return from which Gymnasium calls it solved; `optimum`: the best return, where known.
    - `time_limit`: steps after which an episode is truncated, None if there is no limit.
    - `note`: one line for the user that says what is being run.
    - `mdp`: the exact model, for finite environments.
    - `stacked_frames`: how many frames a picture that is observed consists of.
    """

    id: str
    kind: Kind
    compiled: "AbstractEnvironment | None"
    make: Callable[[], gymnasium.Env] | None
    observation_space: gymnasium.Space
    action_space: gymnasium.Space
    threshold: float | None
    optimum: float | None
    time_limit: int | None
    note: str
    options: dict[str, Any]
    reproducible: bool = True
    mdp: "FiniteMDP | None" = None
    stacked_frames: int = 1


def resolve(environment: Any, **options: Any) -> Resolved:
    """The environment that is meant; `options` go to its constructor.  `BadInput` if there is none such.

    `frame_stack=k` goes to none: whatever it is, it then shows its last k observations together.
    """
    if isinstance(environment, Resolved):
        return environment
    if "frame_stack" in options:
        count = options.pop("frame_stack")
        return _stacked(resolve(environment, **options), count)
    if not isinstance(environment, str):
        return _from_object(environment, options)
    if environment.startswith("gymnasium:"):
        return _from_gymnasium(environment.removeprefix("gymnasium:"), options, forced=True)
    if ":" in environment:
        return _from_reference(environment, options)
    if environment in TWINS and set(options) <= {"max_episode_steps"}:
        return _from_twin(environment, options)
    if environment in OWN:
        return _from_own(environment, options)
    if environment.startswith("ALE/"):
        return _from_atari(environment, options)
    example = environment.replace("_", "-")
    if example in _examples():
        return _from_mdp(_call(_examples()[example], options, example), example, options)
    return _from_gymnasium(environment, options)


def _stacked(resolved: Resolved, count: Any) -> Resolved:
    """The same environment behind a stack of `count` frames."""
    from bellmark.envs.wrappers import FrameStack, HostFrameStack
    from bellmark.envs.wrappers.frame_stack import stacked_space

    if type(count) is not int:
        raise BadInput(f"frame_stack is {count!r}; allowed: a whole number, at least 1")
    space = stacked_space(resolved.observation_space, count)
    compiled, make = resolved.compiled, resolved.make
    return dataclasses.replace(
        resolved,
        compiled=None if compiled is None else FrameStack(compiled, count),
        make=None if make is None else lambda: HostFrameStack(make(), count),
        observation_space=space,
        note=f"{resolved.note}, {count} frames together",
        options={**resolved.options, "frame_stack": count},
        stacked_frames=count if is_image(space) else 1,
        mdp=None,
    )


# -- strings


def _from_twin(name: str, options: dict[str, Any]) -> Resolved:
    from bellmark.envs.wrappers import TimeLimit

    module, cls = TWINS[name]
    spec = gymnasium.spec(name)
    limit = options.get("max_episode_steps", spec.max_episode_steps)
    physics = getattr(importlib.import_module(module), cls)()
    compiled = physics if limit in (None, -1) else TimeLimit(physics, limit)
    return Resolved(
        id=name,
        kind="compiled",
        compiled=compiled,
        make=None,
        observation_space=compiled.observation_space,
        action_space=compiled.action_space,
        threshold=spec.reward_threshold if not options else None,
        optimum=OPTIMUM.get(name) if not options else None,
        time_limit=None if compiled is physics else limit,
        note=f"compiled twin of Gymnasium's {name}",
        options=options,
    )


def _from_own(name: str, options: dict[str, Any]) -> Resolved:
    from bellmark.envs.wrappers import TimeLimit

    own = OWN[name]
    maker = getattr(importlib.import_module(own.module), own.maker)
    inner = {key: value for key, value in options.items() if key != "max_episode_steps"}
    inner = {**dict(own.options), **inner}
    compiled = _call(maker, inner, name)
    limit = options.get("max_episode_steps", own.time_limit)
    if limit not in (None, -1):
        compiled = TimeLimit(compiled, limit)
    return Resolved(
        id=name,
        kind="compiled",
        compiled=compiled,
        make=None,
        observation_space=compiled.observation_space,
        action_space=compiled.action_space,
        threshold=None if options else own.threshold,
        optimum=None if options else own.optimum,
        time_limit=getattr(compiled, "limit", None),
        note=own.note,
        options=options,
    )


def _from_atari(name: str, options: dict[str, Any]) -> Resolved:
    """An Atari game with the usual preprocessing; `gymnasium:` gives the bare one."""
    spec = _spec(name)
    from bellmark.envs.arcade.atari import atari

    known = inspect.signature(atari).parameters
    given = {key: value for key, value in spec.kwargs.items() if key in known}
    probe = _call(atari, {**given, **options}, name)
    space, actions, stacked = probe.observation_space, probe.action_space, probe.stacked_frames
    probe.close()
    return Resolved(
        id=name,
        kind="gymnasium",
        compiled=None,
        make=lambda: atari(**{**given, **options}),
        observation_space=space,
        action_space=actions,
        threshold=None,
        optimum=None,
        time_limit=None,
        note=f"{name} through ale-py: grey frames of 84 × 84, {stacked} together",
        options=options,
        stacked_frames=stacked,
    )


def _from_gymnasium(name: str, options: dict[str, Any], forced: bool = False) -> Resolved:
    spec = _spec(name)

    def make() -> gymnasium.Env:
        return gymnasium.make(spec, disable_env_checker=True, **options)

    probe = _probe(make, name, spec)
    standard = not set(options) - {"render_mode"}
    note = f"Gymnasium's {spec.id}"
    if forced and (spec.id in TWINS or spec.id in OWN):
        note += " (its compiled twin is not used)"
    elif spec.id in TWINS:
        note += f" (its compiled twin does not know {', '.join(sorted(options))})"
    return Resolved(
        id=f"gymnasium:{name}" if forced or spec.id in TWINS else name,
        kind="gymnasium",
        compiled=None,
        make=make,
        observation_space=probe.observation_space,
        action_space=probe.action_space,
        threshold=spec.reward_threshold if standard else None,
        optimum=OPTIMUM.get(spec.id) if standard else None,
        time_limit=options.get("max_episode_steps", spec.max_episode_steps),
        note=note,
        options=options,
    )


def _from_reference(reference: str, options: dict[str, Any]) -> Resolved:
    """`module:Name` or `path/to/file.py:Name`; `module:Env-v0` imports the module that registers it."""
    where, _, name = reference.rpartition(":")
    module = _module(where, reference)
    if re.search(r"-v\d+$", name):
        return _from_gymnasium(name, options)
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            names = [key for key, value in vars(module).items() if inspect.isclass(value) or callable(value)]
            raise BadInput(f"{where} has no {name!r}{did_you_mean(name, names)}")
        found = getattr(found, part)
    # A file is named in full, so that a saved configuration can be read from any folder.
    full = f"{Path(where).resolve()}:{name}" if where.endswith(".py") else reference
    return _from_object(found, options, name=full)


def _module(where: str, reference: str) -> ModuleType:
    path = Path(where)
    if path.suffix == ".py":
        if not path.is_file():
            raise BadInput(f"environment {reference!r}: there is no file {where}")
        # The same file is the same module, however often it is asked for: its classes stay comparable.
        digest = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]
        unique = f"bellmark_user_{re.sub(r'[^0-9A-Za-z_]', '_', path.stem)}_{digest}"
        if unique in sys.modules:
            return sys.modules[unique]
        spec = importlib.util.spec_from_file_location(unique, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[unique] = module
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            del sys.modules[unique]
            raise BadInput(f"{where} cannot be imported: {type(error).__name__}: {error}") from error
        return module
    # `bellmark` is a console script: unlike `python -m`, it does not look for modules where it is called.
    if (Path.cwd() / where.split(".")[0]).exists() or (Path.cwd() / f"{where.split('.')[0]}.py").exists():
        here = str(Path.cwd())
        if here not in sys.path:
            sys.path.insert(0, here)
    try:
        return importlib.import_module(where)
    except ModuleNotFoundError as error:
        if error.name and where.split(".")[0] == error.name.split(".")[0]:
            hint = "give an importable module or a path ending in .py"
            raise BadInput(f"environment {reference!r}: there is no module {where!r}; {hint}") from error
        raise BadInput(f"{where} cannot be imported: {error}") from error
    except Exception as error:
        raise BadInput(f"{where} cannot be imported: {type(error).__name__}: {error}") from error


# -- objects


def _from_object(given: Any, options: dict[str, Any], name: str | None = None) -> Resolved:
    """An instance, a class or a factory.  A class is called once to see which kind it makes."""
    if _is_compiled(given):
        return _from_compiled(
            given, name or f"<{type(given).__name__}>", options, reproducible=name is not None
        )
    if _is_mdp(given):
        return _from_mdp(
            given, name or f"<{given.name or 'FiniteMDP'}>", options, reproducible=name is not None
        )
    if isinstance(given, gymnasium.Env):
        return _from_instance(given, options)
    if not callable(given):
        allowed = "an id, an environment of either kind, a class or factory of one, or a FiniteMDP"
        raise BadInput(f"{type(given).__name__} is not an environment; allowed: {allowed}")
    shown = name or _name_of(given)
    made = _call(given, options, shown)
    reproducible = name is not None or ("<" not in shown and "__main__" not in shown)
    if _is_compiled(made):
        return _from_compiled(made, shown, options, reproducible)
    if _is_mdp(made):
        return _from_mdp(made, shown, options, reproducible)
    if not isinstance(made, gymnasium.Env):
        raise BadInput(
            f"{shown} gave a {type(made).__name__}; needed is a gymnasium.Env, "
            "a bellmark.envs.base.AbstractEnvironment or a FiniteMDP"
        )
    try:
        made.close()
    except Exception as error:
        raise BadInput(f"{shown}: close() raised {type(error).__name__}: {error}") from error
    return _from_user(made, lambda: given(**options), shown, options, reproducible)


def _from_instance(given: gymnasium.Env, options: dict[str, Any]) -> Resolved:
    """One Gymnasium environment cannot be many: more are made from its spec, or copied from it."""
    if options:
        raise BadInput(f"options {sorted(options)} were given with an environment that is already built")
    if given.spec is not None and given.spec.id in gymnasium.registry:
        spec = given.spec
        return _from_user(
            given, lambda: gymnasium.make(spec, disable_env_checker=True), f"gymnasium:{spec.id}", {}, True
        )
    name = type(given.unwrapped).__name__

    def duplicate() -> gymnasium.Env:
        try:
            return copy.deepcopy(given)
        except Exception as error:
            hint = "give its class or a function that makes it instead"
            raise BadInput(f"<{name}> cannot be copied ({type(error).__name__}: {error}); {hint}") from error

    return _from_user(given, duplicate, f"<{name}>", {}, reproducible=False)


def _from_user(
    probe: gymnasium.Env, make: Callable[[], gymnasium.Env], name: str, options: dict, reproducible: bool
) -> Resolved:
    spec = probe.spec
    return Resolved(
        id=name,
        kind="user",
        compiled=None,
        make=make,
        observation_space=probe.observation_space,
        action_space=probe.action_space,
        threshold=spec.reward_threshold if spec else None,
        optimum=None,
        time_limit=_limit_of(probe),
        note=f"{name}, a Gymnasium environment",
        options=options,
        reproducible=reproducible,
    )


def _from_compiled(compiled: Any, name: str, options: dict, reproducible: bool) -> Resolved:
    return Resolved(
        id=name,
        kind="user",
        compiled=compiled,
        make=None,
        observation_space=compiled.observation_space,
        action_space=compiled.action_space,
        threshold=None,
        optimum=None,
        time_limit=getattr(compiled, "limit", None),
        note=f"{name}, compiled",
        options=options,
        reproducible=reproducible,
    )


def _from_mdp(mdp: Any, name: str, options: dict, reproducible: bool = True) -> Resolved:
    from bellmark.envs.finite import FiniteEnvironment

    compiled: Any = FiniteEnvironment(mdp)
    return Resolved(
        id=name,
        kind="finite",
        compiled=compiled,
        make=None,
        observation_space=compiled.observation_space,
        action_space=compiled.action_space,
        threshold=None,
        optimum=None,
        time_limit=getattr(compiled, "limit", None),
        note=f"{name}, a finite model of {mdp.num_states} states and {mdp.num_actions} actions",
        options=options,
        reproducible=reproducible,
        mdp=mdp,
    )


def _is_compiled(value: Any) -> bool:
    """Whether `value` is an AbstractEnvironment; if nobody has imported that class it cannot be one."""
    base = sys.modules.get("bellmark.envs.base")
    return base is not None and isinstance(value, base.AbstractEnvironment)


def _is_mdp(value: Any) -> bool:
    model = sys.modules.get("bellmark.mdp.model")
    return model is not None and isinstance(value, model.FiniteMDP)


def _name_of(factory: Any) -> str:
    module, name = getattr(factory, "__module__", "?"), getattr(factory, "__qualname__", None)
    return f"{module}:{name}" if name else f"<{type(factory).__name__}>"


def _limit_of(environment: gymnasium.Env) -> int | None:
    while isinstance(environment, gymnasium.Wrapper):
        if isinstance(environment, gymnasium.wrappers.TimeLimit):
            return environment._max_episode_steps
        environment = environment.env
    return None


def _call(factory: Callable, options: dict[str, Any], name: str) -> Any:
    try:
        inspect.signature(factory).bind(**options)
    except TypeError as error:
        parameters = [
            key for key, p in inspect.signature(factory).parameters.items() if p.kind is not p.VAR_KEYWORD
        ]
        raise BadInput(f"{name}: {error}; its options are: {', '.join(parameters) or 'none'}") from error
    except ValueError:
        pass  # a builtin without a signature says for itself what it needs
    try:
        return factory(**options)
    except BadInput:
        raise
    except Exception as error:
        raise BadInput(f"{name} cannot be made: {type(error).__name__}: {error}") from error


# -- Gymnasium's registry


def _spec(name: str) -> gymnasium.envs.registration.EnvSpec:
    """Gymnasium's specification of `name`, importing the well-known package that would register it."""
    if name not in gymnasium.registry:
        _import_provider(name)
    try:
        return gymnasium.spec(name)
    except (gymnasium.error.Error, ModuleNotFoundError, ValueError) as error:
        names = sorted({*gymnasium.registry, *TWINS, *OWN, *_examples()})
        if isinstance(error, ModuleNotFoundError):
            raise BadInput(f"environment {name!r}: {error}") from error
        raise BadInput(
            f"unknown environment {name!r}{did_you_mean(name, names)}; allowed: a Gymnasium id, an example, "
            "module:ClassName or file.py:ClassName; `bellmark list environments` shows all"
        ) from error


def _import_provider(name: str) -> None:
    """Import the package that registers ids like `name`; they are not in the registry before that."""
    prefix = re.split(r"[/-]", name)[0]
    if prefix not in PROVIDERS:
        return
    module, remedy = PROVIDERS[prefix]
    if importlib.util.find_spec(module) is None:
        here = did_you_mean(name, [known for known in OWN if known.startswith(f"{prefix}/")])
        raise BadInput(f"environment {name!r} needs the package {module}: {remedy}{here}")
    gymnasium.register_envs(importlib.import_module(module))


def missing_package(spec: gymnasium.envs.registration.EnvSpec) -> str | None:
    """The command that installs what `spec` needs and what is not here; None if nothing is missing."""
    entry = spec.entry_point if isinstance(spec.entry_point, str) else ""
    for prefix, (module, remedy) in NEEDS.items():
        if entry.startswith(prefix):
            return remedy if importlib.util.find_spec(module) is None else None
    return None


def _probe(make: Callable[[], gymnasium.Env], name: str, spec) -> gymnasium.Env:
    """Build one environment to read its spaces, and say in one line what stands in the way."""
    remedy = missing_package(spec)
    if remedy is not None:
        raise BadInput(f"environment {name!r} needs a package that is not installed: {remedy}")
    try:
        environment = make()
        environment.close()
    except Exception as error:
        said = str(error).strip().split("\n")[0]
        raise BadInput(f"environment {name!r} cannot be made: {type(error).__name__}: {said}") from error
    return environment


def _examples() -> dict[str, Callable[..., Any]]:
    from bellmark.mdp.examples import EXAMPLES

    return dict(EXAMPLES)


@dataclass(frozen=True)
class Listed:
    """One line of `bellmark list environments`: `install` is the command that it still needs, if any."""

    id: str
    kind: Literal["compiled", "gymnasium", "finite"]
    time_limit: int | None
    threshold: float | None
    install: str | None


def list_environments() -> list[Listed]:
    """Every environment with a name: twins, Bellmark's own, the newest of each Gymnasium id, and the finite examples.

    Nothing is built, and neither JAX nor any environment is imported.
    """
    newest: dict[tuple[str | None, str], Any] = {}
    for spec in gymnasium.registry.values():
        key = (spec.namespace, spec.name)
        if spec.id in OWN:
            continue  # its package is installed; the compiled one is listed below
        if not spec.name.startswith("GymV") and (
            key not in newest or newest[key].version < (spec.version or 0)
        ):
            newest[key] = spec
    rows = [
        Listed(
            spec.id,
            "compiled" if spec.id in TWINS else "gymnasium",
            spec.max_episode_steps,
            spec.reward_threshold,
            missing_package(spec),
        )
        for spec in newest.values()
    ]
    rows += [Listed(name, "compiled", own.time_limit, own.threshold, None) for name, own in OWN.items()]
    rows += [Listed(name, "finite", None, None, None) for name in _examples()]
    order = {"compiled": 0, "finite": 1, "gymnasium": 2}
    return sorted(rows, key=lambda row: (order[row.kind], row.install is not None, row.id.lower()))
