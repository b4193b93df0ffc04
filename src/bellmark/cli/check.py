"""`bellmark check ENV`: does this environment keep its contract, and if not, what is to be mended?"""

from bellmark.cli.arguments import Parser

EPILOG = """examples:
  bellmark check CartPole-v1
  bellmark check path/to/my_world.py:MyWorld
  bellmark check my_package.worlds:MyWorld

exit status: 0 if it can be trained on, 1 if something must be mended, 2 if there is no such environment
"""

MARKS = {
    "passed": ("✓", "green"),
    "note": ("·", "cyan"),
    "warning": ("!", "yellow"),
    "error": ("✗", "red"),
}


def main(arguments: list[str]) -> int:
    parser = Parser(
        prog="bellmark check",
        description="Check an environment of either kind, and explain what is broken.",
        epilog=EPILOG,
    )
    parser.add_argument("environment", metavar="ENV", help="an id, an example, module:Class or file.py:Class")
    namespace = parser.parse(arguments)

    from rich.console import Console
    from rich.table import Table

    from bellmark.envs.checker import check_environment

    report = check_environment(namespace.environment)
    console = Console(highlight=False)
    console.print(report.note, style="bold", markup=False, soft_wrap=True)
    table = Table.grid(padding=(0, 2))
    for finding in report.findings:
        mark, colour = MARKS[finding.severity]
        table.add_row(f"[{colour}]{mark}[/]", finding.subject, _text(finding.found, finding.mend))
    console.print(table)
    warnings = sum(finding.severity == "warning" for finding in report.findings)
    if not report.passed:
        console.print("\n[red bold]it cannot be trained on as it is[/]")
        return 1
    console.print(
        f"\n[green bold]it can be trained on[/]{f', with {warnings} warning(s)' if warnings else ''}"
    )
    return 0


def _text(found: str, mend: str):
    """Plain text: what an environment says about itself is never read as markup."""
    from rich.text import Text

    return Text.assemble(found, ("\n→ " + mend, "dim") if mend else "")
