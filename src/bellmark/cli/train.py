"""`bellmark train ALGORITHM ENV`: a trained agent, a verdict, a picture and the next commands."""

import sys

from bellmark.cli.arguments import Parser, add_fields, given_fields, integer, integers
from bellmark.errors import BadInput, unknown


def _parser() -> Parser:
    parser = Parser(
        prog="bellmark train",
        description="Train an agent; ends with a verdict, a picture and the next commands.",
        epilog="bellmark train ALGORITHM --help shows the algorithm's hyperparameters.\n"
        "examples:\n"
        "  bellmark train ppo CartPole-v1\n"
        "  bellmark train ppo Pendulum-v1 --steps 100_000 --seeds 10\n"
        "  bellmark train ppo gymnasium:CartPole-v1 --learning-rate 3e-4\n"
        "  bellmark train ppo my_module:MyEnvironment --hidden 128,128",
    )
    parser.add_argument("algorithm", help="see bellmark list algorithms")
    parser.add_argument("environment", help="a Gymnasium id, gymnasium:ID, module:ClassName, or an example")
    run = parser.add_argument_group("run")
    run.add_argument(
        "--steps", type=integer, help="environment steps per seed (default: the preset's, or 100,000)"
    )
    run.add_argument(
        "--seeds", type=integer, default=1, help="how many seeds, trained side by side (default 1)"
    )
    run.add_argument("--seed", type=integer, default=0, help="the first seed (default 0)")
    run.add_argument("--seed-list", type=integers, help="these seeds instead, as 3,14,15")
    run.add_argument(
        "--directory", help="where to keep the run (default runs/<algorithm>-<environment>-<time>)"
    )
    run.add_argument("--episodes", type=integer, default=100, help="of evaluation, per seed (default 100)")
    run.add_argument("--observe", default="", metavar="NAMES", help="tensorboard,wandb")
    run.add_argument(
        "--checkpoint-seconds", type=float, default=30.0, help="between checkpoints (default 30)"
    )
    run.add_argument(
        "--timeout", type=float, default=60.0, help="seconds one Gymnasium step may take (default 60)"
    )
    run.add_argument("--quiet", action="store_true", help="print the verdict only")
    return parser


def main(arguments: list[str]) -> int:
    from bellmark.algorithms import ALGORITHMS

    parser = _parser()
    words = [word for word in arguments if not word.startswith("-")]
    if not words:
        parser.parse(arguments)
    # flags may come first, and then their values look like algorithms
    algorithm = next((word for word in words if word in ALGORITHMS), None)
    if algorithm is None:
        raise unknown("algorithm", words[0], ALGORITHMS)
    environment = next(iter(words[words.index(algorithm) + 1 :]), "")

    # only now is JAX needed: the flags are the algorithm's fields
    from bellmark.algorithms import algorithm_class
    from bellmark.run.presets import configured

    cls = algorithm_class(algorithm)
    add_fields(
        parser.add_argument_group(f"{algorithm}'s hyperparameters"), cls, configured(algorithm, environment)
    )
    given = parser.parse(arguments)

    from bellmark.front import train

    if given.seed_list and given.seeds != 1:
        raise BadInput("--seeds and --seed-list were both given; allowed: one of them")
    run = train(
        given.algorithm,
        given.environment,
        steps=given.steps,
        seeds=given.seed_list or given.seeds,
        seed=given.seed,
        directory=given.directory,
        progress=not given.quiet,
        observers=given.observe,
        episodes=given.episodes,
        checkpoint_seconds=given.checkpoint_seconds,
        timeout=given.timeout,
        **given_fields(given),
    )
    if given.quiet:
        print(run.verdict)
    sys.stdout.flush()
    return 130 if run.outcome == "interrupted" else 0
