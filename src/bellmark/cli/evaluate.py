"""`bellmark evaluate RUN`: the return of a run's final policies, with its interval."""

from bellmark.cli.arguments import Parser, integer
from bellmark.errors import BadInput


def main(arguments: list[str]) -> int:
    parser = Parser(prog="bellmark evaluate", description="Play episodes with a run's final policies.")
    parser.add_argument("run", help="the run's directory")
    parser.add_argument("--episodes", type=integer, default=100, help="per seed (default 100)")
    parser.add_argument("--seed", type=integer, default=0, help="where the episodes start (default 0)")
    parser.add_argument("--environment", help="another environment with the same spaces")
    parser.add_argument(
        "--stochastic", action="store_true", help="sample actions instead of taking the most probable"
    )
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds one Gymnasium step may take")
    given = parser.parse(arguments)

    from rich.console import Console
    from rich.table import Table

    from bellmark.report.evaluate import evaluate
    from bellmark.report.finish import verdict
    from bellmark.run.directory import RunDirectory

    config = RunDirectory.open(given.run).read_config()
    if config["environment"]["kind"] == "language":
        raise BadInput(f"{given.run} is a language model's run: bellmark language evaluate {given.run}")
    result = evaluate(
        given.run,
        given.environment,
        given.episodes,
        given.seed,
        deterministic=not given.stochastic,
        timeout=given.timeout,
    )
    threshold = config["environment"].get("threshold") if given.environment is None else None
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("seed", "mean return", "deviation", "least", "most", "mean length"):
        table.add_column(column, justify="right")
    for seed, returns, lengths in zip(config["seeds"], result.returns, result.lengths, strict=True):
        numbers = (returns.mean(), returns.std(), returns.min(), returns.max(), lengths[lengths >= 0].mean())
        table.add_row(str(seed), *(f"{number:,.1f}" for number in numbers))
    console = Console()
    console.print(table)
    console.print(f"\n{verdict(result, threshold)[1]}", highlight=False)
    return 0
