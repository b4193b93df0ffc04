"""`bellmark list algorithms|environments|runs`: what there is.  JAX is never imported."""

import ast
from collections.abc import Sequence
from pathlib import Path

from bellmark.cli.arguments import Parser
from bellmark.errors import unknown

EPILOGUE = """examples:
  bellmark list environments --containing cart
  bellmark list runs --directory runs
"""


def main(arguments: list[str]) -> int:
    """Run the command and return its exit status."""
    parser = Parser(prog="bellmark list", description="List what there is.", epilog=EPILOGUE)
    parser.add_argument("what", metavar="algorithms|environments|runs")
    parser.add_argument("--containing", default="", metavar="TEXT", help="only names that contain this text")
    parser.add_argument("--directory", default="runs", help="where runs are (default runs)")
    given = parser.parse(arguments)
    lists = {
        "algorithms": lambda: _algorithms(given.containing),
        "environments": lambda: _environments(given.containing),
        "runs": lambda: _runs(given.containing, Path(given.directory)),
    }
    if given.what not in lists:
        raise unknown("list", given.what, lists)
    lists[given.what]()
    return 0


def summary(target: str) -> str:
    """The first line of the docstring of a class such as `bellmark.envs.base:Limits`; nothing is imported."""
    module, _, name = target.partition(":")
    path = Path(__file__).parents[2].joinpath(*module.split(".")).with_suffix(".py")
    tree = ast.parse(path.read_text(encoding="utf-8"))
    classes = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
    text = next((ast.get_docstring(node) for node in classes), None) or ast.get_docstring(tree) or ""
    return text.partition("\n")[0]


def _algorithms(containing: str) -> None:
    from bellmark.algorithms import ALGORITHMS

    shown = {name: target for name, target in ALGORITHMS.items() if containing.lower() in name.lower()}
    _table([(name, summary(target)) for name, target in sorted(shown.items())])
    _count(len(shown), "algorithm", "; bellmark train NAME --help shows its hyperparameters")


def _environments(containing: str) -> None:
    from bellmark.envs.registry import OWN, list_environments

    kinds = {
        "compiled": "compiled twin",
        "own": "compiled",
        "finite": "finite example",
        "gymnasium": "Gymnasium",
    }
    found = [entry for entry in list_environments() if containing.lower() in entry.id.lower()]
    rows = [("id", "kind", "time limit", "solved at", "")] if found else []
    for entry in found:
        limit = f"{entry.time_limit:,}" if entry.time_limit else ""
        threshold = f"{entry.threshold:g}" if entry.threshold is not None else ""
        needs = f"needs {entry.install}" if entry.install else ""
        kind = kinds.get("own" if entry.id in OWN else entry.kind, entry.kind)
        rows.append((entry.id, kind, limit, threshold, needs))
    _table(rows, right=(2, 3))
    _count(
        len(found),
        "environment",
        "; your own: module:ClassName",
    )


def _runs(containing: str, root: Path) -> None:
    from bellmark.run.directory import last_numbers, list_runs

    rows: list[tuple[str, ...]] = [("run", "seeds", "steps", "return", "state")]
    for run in list_runs(root):
        if containing.lower() not in run.path.name.lower():
            continue
        config = run.read_config()
        step, mean = last_numbers(run.metrics_path)
        holder = run.in_use_by()
        state = "finished" if step >= config["steps"] else "interrupted"
        if holder is not None:
            state = f"running (process {holder})" if holder else "running"
        done = f"{step:,} of {config['steps']:,}"
        mean_text = "" if mean is None else f"{mean:.4g}"
        rows.append((str(run.path), str(len(config["seeds"])), done, mean_text, state))
    _table(rows if len(rows) > 1 else [], right=(1, 2, 3))
    _count(len(rows) - 1, "run", f" in {root}" + ("" if len(rows) > 1 else "; bellmark train makes one"))


def _table(rows: Sequence[tuple[str, ...]], right: tuple[int, ...] = ()) -> None:
    """Print rows in aligned columns, with nothing that a pipe would have to strip."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            cell.rjust(width) if place in right else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())


def _count(number: int, noun: str, hint: str) -> None:
    print(f"{number} {noun}{'' if number == 1 else 's'}{hint}")
