"""`bellmark solve MODEL`: the exact answer to a finite decision problem, in the terminal and as pictures.

MODEL is a named example (`grid-world`), a saved model, a text map ending in .txt, or the id of a Gymnasium
environment that publishes its table. The parameters of an example are flags of the same name, and several
values separated by commas solve every combination and draw the routes side by side. JAX is never imported
here.
"""

import contextlib
import csv
import datetime
import inspect
import itertools
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bellmark.cli.arguments import Parser, boolean, integer
from bellmark.errors import BadInput, BellmarkError, unknown
from bellmark.mdp import FiniteMDP, GridLayout
from bellmark.mdp.examples import EXAMPLES, grid_from_file
from bellmark.mdp.routes import likely_route, settled, visited
from bellmark.report.numbers import number

MOST_CASES = 36
MOST_RECORDED = 3_000
"""States up to which every sweep is kept for the picture of how the bounds closed."""
MOST_ROWS = 24
ARROWS = {
    (-1, 0): "↑",
    (0, 1): "→",
    (1, 0): "↓",
    (0, -1): "←",
    (-1, 1): "↗",
    (1, 1): "↘",
    (1, -1): "↙",
    (-1, -1): "↖",
    (0, 0): "·",
}
WITH_TABLES = ("FrozenLake-v1", "FrozenLake8x8-v1", "CliffWalking-v1", "CliffWalkingSlippery-v1", "Taxi-v4")
EPILOG = """MODEL is one of
{examples}
or a saved model, a map.txt, or a Gymnasium id such as {identifier}.
bellmark solve MODEL --help lists its own parameters. Several values, as in --discount 0.1,0.9, solve every
combination.
"""
READERS: dict[Any, Callable[[str], Any]] = {int: integer, float: float, bool: boolean, str: str}


@dataclass(frozen=True)
class Problem:
    """One combination of flags: a model and the discount to solve it at."""

    given: dict[str, Any]
    mdp: FiniteMDP
    discount: float


def main(arguments: list[str]) -> int:
    """Solve, print, draw. Returns 0; 1 where a bound missed the tolerance; 2 after one line about bad
    input."""
    try:
        return _main(arguments)
    except BadInput as error:
        print(f"bellmark: {error}", file=sys.stderr)
        return 2
    except BellmarkError as error:
        print(f"bellmark: {error}", file=sys.stderr)
        return 1


def _main(arguments: list[str]) -> int:
    if not arguments:
        raise BadInput(
            "solve needs a model: an example, a file, or a Gymnasium id; see bellmark solve --help"
        )
    if arguments[0] in ("-h", "--help"):
        _parser(None, {}).print_help()
        return 0
    if arguments[0].startswith("-"):
        raise BadInput(f"the model comes first: bellmark solve grid-world {arguments[0]} …")
    name, build = _builder(arguments[0])
    parameters = _parameters(build)
    given = vars(_parser(name, parameters).parse([_dashed(word) for word in arguments[1:]]))
    problems = list(_problems(build, parameters, given))
    solve = _solver(given)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 140)
    if len(problems) == 1:
        return _one(console, name, problems[0], solve, given)
    return _many(console, name, problems, solve, given)


# ------------------------------------------------------------------------------------------- what was asked
# for


def _builder(name: str) -> tuple[str, Callable[..., FiniteMDP]]:
    """(what to call it, a function of its parameters)."""
    if (example := name.replace("_", "-")) in EXAMPLES:
        return example, EXAMPLES[example]
    path = Path(name)
    if path.is_file():
        if path.suffix == ".txt":

            def from_map(noise: float = 0.2, living_reward: float = 0.0, discount: float = 0.9) -> FiniteMDP:
                return grid_from_file(path, noise, living_reward, discount)

            return name, from_map
        return name, lambda: FiniteMDP.load(path)
    if "/" in name or path.suffix in (".txt", ".safetensors", ".mdp"):
        raise BadInput(f"there is no file {name}")
    return name, lambda: _from_gymnasium(name.removeprefix("gymnasium:"))


def _from_gymnasium(identifier: str) -> FiniteMDP:
    import gymnasium

    if identifier not in gymnasium.registry:
        raise unknown("example or Gymnasium id", identifier, [*EXAMPLES, *WITH_TABLES])
    try:
        with contextlib.closing(gymnasium.make(identifier)) as environment:
            return FiniteMDP.from_gymnasium(environment)
    except gymnasium.error.Error as error:
        raise BadInput(f"Gymnasium cannot make {identifier}: {error}") from None


def _parameters(build: Callable[..., FiniteMDP]) -> dict[str, inspect.Parameter]:
    """The parameters that can be flags; the discount is one for every model."""
    found = inspect.signature(build).parameters.values()
    return {p.name: p for p in found if p.annotation in READERS and p.name != "discount"}


def _parser(name: str | None, parameters: dict[str, inspect.Parameter]) -> Parser:
    parser = Parser(
        prog="bellmark solve " + (name or "MODEL"),
        description="Solve a finite Markov decision process exactly, with proved bounds.",
        epilog=EPILOG.format(examples=textwrap.fill(", ".join(EXAMPLES), 100), identifier=WITH_TABLES[0]),
    )
    own = parser.add_argument_group("parameters of " + name) if name and parameters else parser
    for parameter in parameters.values():
        own.add_argument(
            "--" + parameter.name.replace("_", "-"),
            dest="parameter:" + parameter.name,
            metavar=parameter.annotation.__name__.upper(),
            help=f"default {parameter.default}",
        )
    parser.add_argument("--discount", metavar="D[,D…]", help="in [0, 1]; default: the model's own, else 0.99")
    parser.add_argument("--method", default="auto", help="default auto, which chooses and says why")
    parser.add_argument("--tolerance", type=float, default=1e-6, help="proved error; default 1e-6")
    parser.add_argument("--horizon", type=integer, help="steps, for --method finite_horizon")
    parser.add_argument("--temperature", type=float, default=0.0, help="for --method soft_value_iteration")
    parser.add_argument("--directory", help="where files go; default runs/solve-MODEL-TIME")
    parser.add_argument("--no-pictures", action="store_true", help="print only; write nothing")
    parser.add_argument("--animate", action="store_true", help="also save the sweeps as a GIF (grids)")
    return parser


def _problems(
    build: Callable[..., FiniteMDP], parameters: dict[str, inspect.Parameter], given: dict[str, Any]
) -> Iterator[Problem]:
    """Every combination of the values given, in the order of the flags."""
    lists: dict[str, list[Any]] = {}
    if given["discount"] is not None:
        lists["discount"] = _values("discount", float, given["discount"])
        for value in lists["discount"]:
            if not 0.0 <= value <= 1.0:
                raise BadInput(f"discount is {value:g}; it must lie in [0, 1]")
    for name, parameter in parameters.items():
        if (text := given["parameter:" + name]) is not None:
            lists[name] = _values(name, parameter.annotation, text)
    cases = [dict(zip(lists, values, strict=True)) for values in itertools.product(*lists.values())]
    if len(cases) > MOST_CASES:
        raise BadInput(f"{len(cases)} combinations were asked for; at most {MOST_CASES} fit on a picture")
    for case in cases:
        mdp = build(**{name: value for name, value in case.items() if name != "discount"})
        suggested = 0.99 if mdp.discount is None else mdp.discount
        yield Problem(case, mdp, case.get("discount", suggested))


def _dashed(word: str) -> str:
    """`--living_reward=0.1` as `--living-reward=0.1`."""
    flag, equals, value = word.partition("=")
    return flag.replace("_", "-") + equals + value if word.startswith("--") else word


def _values(name: str, kind: Any, text: str) -> list[Any]:
    # Text may contain commas of its own, and no text parameter is worth sweeping.
    parts = [text] if kind is str else text.split(",")
    try:
        return [READERS[kind](part) for part in parts]
    except Exception:
        flag = "--" + name.replace("_", "-")
        words = {int: "a whole number", float: "a number", bool: "true or false"}[kind]
        raise BadInput(f"{flag} is {text!r}; it must be {words}, or several separated by commas") from None


def _solver(given: dict[str, Any]) -> Callable[[Problem, bool, str | None], Any]:
    def solve(problem: Problem, record: bool, method: str | None = None) -> Any:
        from bellmark.algorithms.exact.solve import solve

        return solve(
            problem.mdp,
            problem.discount,
            method or given["method"],
            given["tolerance"],
            record=record,
            horizon=given["horizon"],
            temperature=given["temperature"],
        )

    return solve


def _directory(given: dict[str, Any], name: str) -> Path | None:
    if given["no_pictures"]:
        return None
    stem = Path(name).stem.replace(":", "-")
    time = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    path = Path(given["directory"] or f"runs/solve-{stem}-{time}")
    if given["directory"] is None:
        taken = itertools.count(2)
        while path.exists():
            path = Path(f"runs/solve-{stem}-{time}-{next(taken)}")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"cannot write to {path}: {error.strerror}") from None
    return path


# ------------------------------------------------------------------------------------------------- the answer


def _one(console: Console, name: str, problem: Problem, solve: Any, given: dict[str, Any]) -> int:
    mdp = problem.mdp
    solution = solve(problem, mdp.num_states <= MOST_RECORDED)
    directory = _directory(given, name)
    _print_answer(console, name, problem, solution)
    if directory is not None:
        _save(console, mdp, problem, solution, directory, given["animate"])
    _print_next(console, name, problem, given, directory)
    return _status(console, [solution])


def _many(console: Console, name: str, problems: list[Problem], solve: Any, given: dict[str, Any]) -> int:
    # Which way to go can hang on differences far below any tolerance (0.1 to the tenth power), so that
    # small models are solved to the last digit.
    exact = given["method"] == "auto" and max(p.mdp.num_states for p in problems) <= MOST_RECORDED
    solutions = [solve(problem, False, "policy_iteration" if exact else None) for problem in problems]
    swept = [key for key in problems[0].given if len({problem.given[key] for problem in problems}) > 1]
    fixed = {key: value for key, value in problems[0].given.items() if key not in swept}
    details = "".join(f", {_words(key)} {_text(value)}" for key, value in fixed.items())
    console.print(f"[bold]{name}[/bold]{details}: {len(problems)} combinations", soft_wrap=True)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for key in swept:
        table.add_column(_words(key), justify="right")
    for heading in ("start is worth", "proved error", "route"):
        table.add_column(heading, justify="left" if heading == "route" else "right")
    for problem, solution in zip(problems, solutions, strict=True):
        worth, _, _ = _worth(problem.mdp, solution)
        error = float(np.max(solution.upper - solution.lower, initial=0.0))
        cells = [_text(problem.given[key]) for key in swept]
        table.add_row(*cells, f"{worth:.6g}", f"{error:.0e}", _route(problem.mdp, solution))
    console.print(table)
    directory = _directory(given, name)
    if directory is not None and problems[0].mdp.layout is not None:
        from bellmark.report.finite_plots import Case, route_figure, save

        cases = [
            Case(", ".join(f"{_words(k)} {_text(p.given[k])}" for k in swept), p.mdp, s)
            for p, s in zip(problems, solutions, strict=True)
        ]
        last = len({problem.given[swept[-1]] for problem in problems}) if len(swept) > 1 else None
        path = save(route_figure(cases, columns=last, title=name + details), directory / "routes.png")
        console.print(f"\nroutes side by side  {path}", soft_wrap=True)
    return _status(console, solutions)


def _route(mdp: FiniteMDP, solution: Any) -> str:
    """The likely route in arrows: "→ → ↑"; as names where the model has no grid, at most twelve steps."""
    states = likely_route(mdp, solution.policy, solution.values)
    if not states:
        return "never ends"
    if mdp.layout is None:
        names = [str(mdp.states[state]) for state in states]
        return " ".join(names[:12]) + (" …" if len(names) > 12 else "")
    steps = []
    for before, after in itertools.pairwise(states):
        down = int(mdp.layout.rows[after] - mdp.layout.rows[before])
        right = int(mdp.layout.columns[after] - mdp.layout.columns[before])
        steps.append(ARROWS.get((int(np.sign(down)), int(np.sign(right))), "·"))
    runs = [(arrow, len(list(group))) for arrow, group in itertools.groupby(steps)]
    return (
        " ".join(arrow + (str(length) if length > 1 else "") for arrow, length in runs)
        + f"  ({len(steps)} steps)"
    )


def _print_answer(console: Console, name: str, problem: Problem, solution: Any) -> None:
    mdp = problem.mdp
    sizes = f"{mdp.num_states:,} states, {mdp.num_actions} actions, {mdp.num_transitions:,} transitions"
    aim = f"discount {problem.discount:g}" if solution.gain is None else "average reward"
    console.print(f"[bold]{name}[/bold]: {sizes}; {aim}", soft_wrap=True)
    because = f" ({solution.reason})" if solution.reason else ""
    effort = f"{_seconds(solution.seconds)}, {solution.iterations} iterations"
    console.print(f"solved by {solution.method} in {effort}{because}", style="dim", soft_wrap=True)
    worth, low, high = _worth(mdp, solution)
    what = "the start is worth" if solution.gain is None else "in the long run every step earns"
    console.print(
        f"{what} [bold]{worth:.6g}[/bold], proved to lie in [{low:.9g}, {high:.9g}]\n", soft_wrap=True
    )
    if mdp.layout is not None and mdp.layout.directions and 11 * mdp.layout.shape[1] < console.width:
        console.print(_grid(mdp, mdp.layout, solution))
    else:
        console.print(_table(mdp, solution))
    free = ~settled(mdp)
    ties = [state for state in solution.ties if free[state]]
    if ties:
        example = ties[0]
        actions = ", ".join(str(mdp.actions[action]) for action in solution.ties[example][:6])
        many = "one state has" if len(ties) == 1 else f"{len(ties):,} states have"
        console.print(
            f"{many} several best actions, for example {mdp.states[example]!s}: {actions}", soft_wrap=True
        )


def _worth(mdp: FiniteMDP, solution: Any) -> tuple[float, float, float]:
    """(value of the start, its lower and its upper bound); the gain and its bounds where that was asked for."""
    # A bound may be infinite where nothing was proved, and 0 · ∞ is not a number.
    begins = mdp.initial_distribution > 0.0
    start = mdp.initial_distribution[begins]
    low, high = (float(start @ bound[begins]) for bound in (solution.lower, solution.upper))
    return float(start @ solution.values[begins]) if solution.gain is None else solution.gain, low, high


def _grid(mdp: FiniteMDP, layout: GridLayout, solution: Any) -> Table:
    """The map in the terminal: value and arrow per cell, gains green, losses red."""
    table = Table(box=box.SQUARE, show_header=False, show_lines=True, padding=(0, 1))
    for _ in range(layout.shape[1]):
        table.add_column(justify="right", no_wrap=True)
    cells = [[Text("") for _ in range(layout.shape[1])] for _ in range(layout.shape[0])]
    for row, column in layout.walls:
        cells[row][column] = Text("▒▒▒▒▒", style="dim")
    entered, ends = visited(mdp), settled(mdp)
    biggest = float(np.abs(solution.values[entered]).max(initial=0.0)) or 1.0
    for state in range(mdp.num_states):
        row, column = int(layout.rows[state]), int(layout.columns[state])
        if row < 0:
            continue
        mark = layout.marks.get(state, "")
        if not entered[state]:
            cells[row][column] = Text(mark or "~", style="red" if state in layout.cliffs else "bold")
            continue
        value = float(solution.values[state])
        way = None if ends[state] else layout.directions[int(solution.policy[state])]
        arrow = ARROWS.get(way, "?") if way is not None else "●"
        strong = abs(value) > 0.5 * biggest
        style = ("bold " if strong else "") + ("green" if value > 0 else "red" if value < 0 else "dim")
        cells[row][column] = Text(f"{number(value)} {arrow}", style=style)
    for line in cells:
        table.add_row(*line)
    return table


def _table(mdp: FiniteMDP, solution: Any) -> Table:
    """State, value, best action and the action values, for the states an episode is likeliest to begin in."""
    order = np.argsort(-mdp.initial_distribution, kind="stable")[:MOST_ROWS]
    if mdp.num_states <= MOST_ROWS:
        order = np.arange(mdp.num_states)
    shown = mdp.num_actions if mdp.num_actions <= 6 else 0
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("state", "value", "best", *(f"q({mdp.actions[a]})" for a in range(shown))):
        table.add_column(heading, justify="left" if heading in ("state", "best") else "right")
    q = solution.action_values
    for state in order.tolist():
        best = "terminal" if mdp.terminal[state] else str(mdp.actions[int(solution.policy[state])])
        row = [number(q[state, action]) if np.isfinite(q[state, action]) else "" for action in range(shown)]
        table.add_row(str(mdp.states[state]), number(solution.values[state]), best, *row)
    if mdp.num_states > MOST_ROWS:
        table.add_row("…", f"{mdp.num_states - MOST_ROWS:,} more", "in solution.csv")
    return table


def _save(
    console: Console,
    mdp: FiniteMDP,
    problem: Problem,
    solution: Any,
    directory: Path,
    animate: bool,
) -> None:
    from bellmark.report.finite_plots import (
        animate_sweeps,
        picture_layout,
        save,
        solution_figure,
        sweeps_from_zero,
    )

    written = [("picture", save(solution_figure(mdp, solution), directory / "solution.png"))]
    written.append(("every state", _save_table(mdp, solution, directory / "solution.csv")))
    with contextlib.suppress(BadInput):  # names that no file can hold; the table has them as text
        written.append(("the model", mdp.save(directory / "model.safetensors")))
    if animate:
        if picture_layout(mdp) is None:
            raise BadInput(f"{mdp.name or 'this model'} has no grid to animate; leave --animate out")
        sweeps = sweeps_from_zero(mdp, problem.discount)
        written.append(("animation", animate_sweeps(mdp, sweeps, problem.discount, directory / "sweeps.gif")))
    console.print()
    for what, path in written:
        console.print(f"{what:<12} {path}", soft_wrap=True)


def _save_table(mdp: FiniteMDP, solution: Any, path: Path) -> Path:
    q = solution.action_values
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(
            ["state", "value", "lower", "upper", "best", *(f"q({action})" for action in mdp.actions)]
        )
        for state in range(mdp.num_states):
            best = "" if mdp.terminal[state] else mdp.actions[int(solution.policy[state])]
            bounds = (solution.values[state], solution.lower[state], solution.upper[state])
            bounds_text = [repr(float(bound)) for bound in bounds]
            values = [repr(float(value)) if np.isfinite(value) else "" for value in q[state]]
            rows.writerow([str(mdp.states[state]), *bounds_text, best, *values])
    return path


def _print_next(
    console: Console, name: str, problem: Problem, given: dict[str, Any], directory: Path | None
) -> None:
    flags = "".join(f" --{key.replace('_', '-')} {_text(value)}" for key, value in problem.given.items())
    lines = []
    if problem.mdp.layout is not None and not given["animate"]:
        lines.append((f"bellmark solve {name}{flags} --animate", "watch the sweeps"))
    if "noise" in problem.given or name in ("grid-world", "discount-grid"):
        lines.append(
            ("bellmark solve two-exits --discount 0.1,0.9 --noise 0,0.5", "how the best route changes")
        )
    lines.append(
        (f"bellmark train q_learning {name} --discount {problem.discount:g} --steps 100000", "learn it")
    )
    width = max(len(command) for command, _ in lines)
    console.print("\nnext", style="bold")
    for command, why in lines:
        console.print(f"  {command:<{width}}   [dim]{why}[/dim]", soft_wrap=True)


def _status(console: Console, solutions: list[Any]) -> int:
    """1 if anything missed its tolerance: the numbers above are then bounds, not yet an answer."""
    if any(solution.interrupted for solution in solutions):
        console.print("\ninterrupted; the bounds above hold", style="yellow")
        return 130
    missed = [solution for solution in solutions if not solution.converged]
    if missed:
        error = max(float(np.max(solution.upper - solution.lower, initial=0.0)) for solution in missed)
        console.print(
            f"\nthe proved error is {error:.1e}, above the tolerance {missed[0].tolerance:.1e}: "
            "the bounds hold, but they are wider than asked for",
            style="yellow",
            soft_wrap=True,
        )
        return 1
    return 0


def _words(name: str) -> str:
    return name.replace("_", " ")


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _seconds(seconds: float) -> str:
    return f"{1e3 * seconds:.3g} ms" if seconds < 1.0 else f"{seconds:.3g} s"
