"""`bellmark experiment NAME`: a claim put to the test on many seeds, with a picture, raw figures and a verdict."""

import datetime
import itertools
import sys
import textwrap
from pathlib import Path

from bellmark.cli.arguments import Parser, integer
from bellmark.cli.list import summary
from bellmark.errors import BadInput
from bellmark.report.experiments import EXPERIMENTS

EPILOGUE = """examples:
  bellmark experiment --list
  bellmark experiment cliff-walking
  bellmark experiment random-walk --seeds 20 --directory runs/walk
"""


def _parser() -> Parser:
    parser = Parser(
        prog="bellmark experiment",
        description="Put a claim to the test: a picture, the raw figures, and whether it held.",
        epilog=EPILOGUE,
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="see bellmark experiment --list")
    parser.add_argument("--list", action="store_true", help="what experiments there are")
    parser.add_argument("--seeds", type=integer, help="how many seeds (default: the experiment's own)")
    parser.add_argument("--seed", type=integer, default=0, help="the first seed (default 0)")
    parser.add_argument("--directory", help="where to write (default runs/experiment-<name>-<time>)")
    return parser


def main(arguments: list[str]) -> int:
    """Run the command. 0 whether or not the claim held: either is an answer."""
    given = _parser().parse(arguments)
    if given.list:
        width = max(map(len, EXPERIMENTS))
        for name, module in EXPERIMENTS.items():
            print(f"{name:<{width}}  {summary(module)}")
        return 0
    if given.name is None:
        raise BadInput(f"an experiment's name is missing; allowed: {', '.join(EXPERIMENTS)}")

    from bellmark.report.experiments import experiment

    found = experiment(given.name)

    from bellmark.report.experiments.conduct import conduct
    from bellmark.run.train import seeds_from

    seeds = seeds_from(found.seeds if given.seeds is None else given.seeds, given.seed)
    if len(seeds) < found.least:
        raise BadInput(f"seeds is {len(seeds)}; allowed: at least {found.least}, because means are compared")
    if found.least:
        print(f"{found.name}: {len(seeds)} seeds …", file=sys.stderr, flush=True)
    directory = _directory(given.directory, found.name)
    outcome = conduct(found, seeds, directory)
    print(found.title)
    for text in (f"claim: {found.claim}", outcome.paragraph):
        print(f"\n{textwrap.fill(text, 100)}")
    print(f"\n{outcome.seconds:.1f} s; {found.source}")
    for file in outcome.files:
        print(f"  {file}")
    return 0


def _directory(given: str | None, name: str) -> Path:
    time = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    path = Path(given or f"runs/experiment-{name}-{time}").expanduser()
    if given is None:
        taken = itertools.count(2)
        while path.exists():
            path = Path(f"runs/experiment-{name}-{time}-{next(taken)}")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"cannot write to {path}: {error.strerror}") from None
    return path
