"""`bellmark doctor`: what is installed, what it runs on, what is broken, and what each extra would give."""

import importlib
import importlib.metadata
import os
import platform
import re
import tempfile
from collections.abc import Callable
from pathlib import Path

from bellmark.cli.arguments import Parser
from bellmark.run.compilation import cache_directory
from bellmark.run.machine import cores, installed, machine, memory_bytes, versions

GIVES = {
    "video": "bellmark watch: MP4 and GIF of an agent",
    "tracking": "--observe tensorboard,wandb",
    "mujoco": "HalfCheetah, Hopper, Walker2d and the other MuJoCo environments",
    "language": "language models' tokenizers, chat templates and GGUF files",
    "test": "the test suite, lint and types",
}
CORE = (
    "numpy",
    "scipy",
    "numba",
    "jax",
    "equinox",
    "optax",
    "jaxtyping",
    "gymnasium",
    "safetensors",
    "rich",
    "matplotlib",
)


def main(arguments: list[str]) -> int:
    """Run the command; status 1 where a core part is broken."""
    parser = Parser(
        prog="bellmark doctor", description="Show versions, devices and extras; find what is broken."
    )
    parser.parse(arguments)
    problems: list[str] = []
    _section("versions", versions())
    _section("machine", _machine())
    _section("JAX", _attempt(_jax, "jax", problems))
    _section("Numba", _attempt(_numba, "numba", problems))
    _section("files", _files(problems))
    _section("extras", _extras())
    problems += [problem for package in CORE if (problem := _import_problem(package))]
    for problem in problems:
        print(f"broken: {problem}")
    if not problems:
        print("all is well: everything that Bellmark needs works")
    return 1 if problems else 0


def _section(title: str, lines: dict[str, str]) -> None:
    print(title)
    width = max((len(name) for name in lines), default=0)
    for name, text in lines.items():
        print(f"  {name:<{width}}  {text}".rstrip())
    print()


def _attempt(look: Callable[[], dict[str, str]], part: str, problems: list[str]) -> dict[str, str]:
    """What `look` finds, or its failure as one more problem: a doctor must not fall ill."""
    try:
        return look()
    except Exception as problem:
        problems.append(f"{part}: {_one_line(problem)}")
        return {"broken": _one_line(problem)}


def _machine() -> dict[str, str]:
    memory = memory_bytes()
    return {
        "processor": str(machine()["processor"]),
        "cores": str(cores()),
        "memory": f"{memory / 2**30:.1f} GiB" if memory else "unknown",
        "platform": platform.platform(),
    }


def _jax() -> dict[str, str]:
    import jax

    devices = ", ".join(f"{device.platform}:{device.id} {device.device_kind}" for device in jax.devices())
    if int(jax.jit(lambda x: x + 1)(1)) != 2:
        raise ArithmeticError("a compiled 1 + 1 is not 2")
    folder = cache_directory()
    files = [path for path in folder.rglob("*") if path.is_file()] if folder.is_dir() else []
    size = sum(path.stat().st_size for path in files) / 1e6
    return {"devices": devices, "compilation cache": f"{folder} ({len(files)} files, {size:.1f} MB)"}


def _numba() -> dict[str, str]:
    import numba

    layers = {"tbb": "tbbpool", "omp": "omppool", "workqueue": "workqueue"}
    working = []
    for name in getattr(numba.config, "THREADING_LAYER_PRIORITY", layers):
        try:
            importlib.import_module(f"numba.np.ufunc.{layers[name]}")
        except ImportError:
            continue
        working.append(name)
    if not working:
        raise ImportError("no threading layer works")
    return {
        "threads": str(numba.get_num_threads()),
        "threading layer": f"{working[0]} (works: {', '.join(working)})",
    }


def _files(problems: list[str]) -> dict[str, str]:
    found = {}
    for name, folder in {"runs": Path("runs").absolute(), "compilation cache": cache_directory()}.items():
        problem = _write_problem(folder)
        found[name] = f"{folder}: " + (problem or "can be written to")
        if problem and name == "runs":
            problems.append(f"no run can be saved in {folder}: {problem}")
    return found


def _write_problem(folder: Path) -> str:
    """Why nothing can be written to `folder`, or to its nearest parent that exists; empty if all is well."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"\0" * 4096)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _extras() -> dict[str, str]:
    found = {}
    for extra, packages in _requirements().items():
        missing = [name for name, module in packages if installed(module) is None]
        gives = GIVES.get(extra, ", ".join(name for name, _ in packages))
        words = " ".join(f'"{name}"' if "[" in name else name for name in missing)
        found[extra] = f"{gives}: pip install {words}" if missing else f"{gives}: installed"
    return found


def _requirements() -> dict[str, list[tuple[str, str]]]:
    """For each extra that the installed Bellmark declares: what pip installs, and what is then there."""
    metadata = importlib.metadata.metadata("bellmark")
    found: dict[str, list[tuple[str, str]]] = {
        extra: [] for extra in metadata.get_all("Provides-Extra") or ()
    }
    for line in metadata.get_all("Requires-Dist") or ():
        match = re.match(r"""([\w.-]+)(?:\[([\w-]+)\])?.*extra\s*==\s*['"]([\w-]+)['"]""", line)
        if match and match[3] in found:
            # gymnasium[mujoco] is there if MuJoCo is, not if Gymnasium is.
            name = f"{match[1]}[{match[2]}]" if match[2] else match[1]
            found[match[3]].append((name, match[2] or match[1]))
    return found


def _import_problem(package: str) -> str:
    try:
        importlib.import_module(package)
    except Exception as problem:
        return f"{package} cannot be imported: {_one_line(problem)}"
    return ""


def _one_line(problem: Exception) -> str:
    return f"{type(problem).__name__}: {problem}".splitlines()[0][:200]
