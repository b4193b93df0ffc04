"""Imports go one way, so that from a file's folder alone you know what it may import; and light things stay light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import bellmark
from bellmark.algorithms import ALGORITHMS

SOURCE = Path(bellmark.__file__).parent

RANK = {
    "types": 0,
    "maths": 1,
    "mdp": 2,
    "networks": 2,
    "envs": 2,
    "experience": 3,
    "algorithms": 4,
    "run": 5,
    "language": 6,
    "report": 7,
    "tuning": 8,
    "front": 9,
    "rlhf": 9,
    "cli": 10,
}
"""A folder may import its own rank and those below it; folders of one rank are listed in ASIDE."""

ASIDE = {("envs", "mdp"), ("mdp", "envs")}
"""Folders of the same rank that may meet: a finite model is an environment too."""

ANYWHERE = {"errors", "_version"}


def module_of(path: Path) -> tuple[str, ...]:
    return ("bellmark", *path.relative_to(SOURCE).with_suffix("").parts)


def imports_of(path: Path) -> set[str]:
    """Every module that `path` imports, at its top or inside functions; what only type checkers see is left out."""
    module, found = module_of(path), set()

    def visit(node):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = module[: len(module) - node.level] if node.level else ()
            base = ".".join([*package, *([node.module] if node.module else [])])
            found.update(f"{base}.{alias.name}" for alias in node.names)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text()))
    return found


def folder(module: str) -> str | None:
    """The part of Bellmark that a module belongs to, None for anybody else's and for the front door itself."""
    parts = module.split(".")
    return parts[1] if parts[0] == "bellmark" and len(parts) > 1 and parts[1] in RANK else None


FILES = sorted(path for path in SOURCE.rglob("*.py"))


def test_every_part_has_its_place():
    parts = {path.relative_to(SOURCE).parts[0].removesuffix(".py") for path in FILES} - {
        "__init__",
        "__main__",
    }
    assert parts <= RANK.keys() | ANYWHERE


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_go_one_way(path):
    mine = folder(".".join(module_of(path)))
    if mine is None:
        return
    for module in imports_of(path):
        other = folder(module)
        if other is None or other == mine:
            continue
        lower = RANK[other] < RANK[mine] or (mine, other) in ASIDE
        assert lower, f"{path.relative_to(SOURCE)} imports {module}, but {other} does not come before {mine}"


def test_finite_models_need_neither_jax_nor_the_maths_made_with_it():
    for path in (SOURCE / "mdp").rglob("*.py"):
        for module in imports_of(path):
            assert module.split(".")[0] not in ("jax", "equinox", "optax", "jaxtyping"), f"{path}: {module}"
            assert folder(module) != "maths", f"{path}: {module}"


def test_algorithm_files_never_import_each_other():
    """An algorithm reads from top to bottom in its file: nobody imports it but its package's `__init__`.

    What several algorithms of one folder need lies in a file of its own there; `base`, `checks`, `descent` and
    `replayed` serve all folders.
    """
    root = SOURCE / "algorithms"
    algorithms = {where.split(":")[0] for where in ALGORITHMS.values()}
    assert "bellmark.algorithms.policy_gradient.ppo" in algorithms
    for path in root.rglob("*.py"):
        if path.name == "__init__.py" or path.parent == root:
            continue
        mine = path.relative_to(root).parts[0]
        for module in imports_of(path):
            if folder(module) != "algorithms":
                continue
            below = module.removeprefix("bellmark.algorithms.").split(".")
            assert below[0] in ("base", "checks", "descent", "replayed", mine), f"{path}: {module}"
            assert ".".join(["bellmark.algorithms", *below[:2]]) not in algorithms, f"{path}: {module}"


def loaded(statement: str) -> tuple[set[str], float]:
    """The packages in memory after `statement` in a new process, and the seconds it took."""
    code = f"import time; t = time.perf_counter(); {statement}; s = time.perf_counter() - t\n"
    code += "import sys; print(s); print('\\n'.join({name.split('.')[0] for name in sys.modules}))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    seconds, *names = out.split()
    return set(names), float(seconds)


@pytest.mark.parametrize(
    "module", ["bellmark", "bellmark.mdp", "bellmark.algorithms.exact", "bellmark.cli.main"]
)
def test_these_never_load_jax(module):
    names, _ = loaded(f"import {module}")
    assert not names & {"jax", "equinox", "optax", "torch"}


def test_the_front_door_opens_at_once():
    """0.2 s is promised; 1 s is allowed here, for a machine that is busy with the other tests."""
    assert min(loaded("import bellmark")[1] for _ in range(2)) < 1.0
