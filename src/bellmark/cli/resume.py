"""`bellmark resume RUN`: go on exactly where an interrupted or killed run stopped."""

from bellmark.cli.arguments import Parser, integer


def main(arguments: list[str]) -> int:
    parser = Parser(prog="bellmark resume", description="Go on with a run from its newest good checkpoint.")
    parser.add_argument("run", help="the run's directory")
    parser.add_argument("--steps", type=integer, help="extend the run to this many steps per seed")
    own = "name a user's own environment again: module:ClassName; a language run's: module:function"
    parser.add_argument("--environment", help=own)
    parser.add_argument("--reward", help="name a language run's own reward again: module:function")
    parser.add_argument("--observe", default="", metavar="NAMES", help="tensorboard,wandb")
    parser.add_argument(
        "--checkpoint-seconds", type=float, default=30.0, help="between checkpoints (default 30)"
    )
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds one Gymnasium step may take")
    parser.add_argument("--quiet", action="store_true", help="print the verdict only")
    given = parser.parse(arguments)

    from bellmark.run.directory import RunDirectory

    if RunDirectory.open(given.run).read_config()["environment"]["kind"] == "language":
        from bellmark.tuning import resume_language

        tuned = resume_language(
            given.run,
            steps=given.steps,
            reward=given.reward,
            environment=given.environment,
            progress=not given.quiet,
            checkpoint_seconds=given.checkpoint_seconds,
        )
        if given.quiet:
            print(tuned.verdict)
        return 130 if tuned.outcome == "interrupted" else 0

    from bellmark.front import resume

    run = resume(
        given.run,
        steps=given.steps,
        environment=given.environment,
        progress=not given.quiet,
        observers=given.observe,
        checkpoint_seconds=given.checkpoint_seconds,
        timeout=given.timeout,
    )
    if given.quiet:
        print(run.verdict)
    return 130 if run.outcome == "interrupted" else 0
