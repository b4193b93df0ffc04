"""`bellmark language …`: a language model that learns (sft, reward, ppo, grpo, dpo) and one that answers.

rlhf            imitation, preferences, a reward model and PPO, one after the other
sample, chat    answers in bulk to a file, or one by one to a person
evaluate        pass@k on the held-out questions of a task
"""

import itertools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bellmark.cli.arguments import Parser, add_fields, given_fields, integer, real
from bellmark.errors import BadInput, BellmarkError, unknown

DESCRIPTION = """Use a language model: a folder with config.json, a GGUF file, or SmolLM2-135M-Instruct."""

EXAMPLES = """examples:
  bellmark language sft --model tiny-characters --data sorting --steps 500
  bellmark language grpo --model runs/…/model --data sorting --preset dr_grpo --steps 200
  bellmark language grpo --model SmolLM2-135M-Instruct --data addition --template "Q: {a} + {b}\\nA:"
  bellmark language evaluate --model SmolLM2-135M-Instruct --data addition
  bellmark language sample --model SmolLM2-135M-Instruct --prompt "Two plus two is" --group 4
  bellmark language sample --model my-model --prompts questions.jsonl --output answers.jsonl --chat
  bellmark language chat --model SmolLM2-135M-Instruct"""


def _parser(command: str, description: str) -> Parser:
    parser = Parser(prog=f"bellmark language {command}", description=description, epilog=EXAMPLES)
    parser.add_argument(
        "--model", required=True, metavar="MODEL", help="a folder, a GGUF file, or a packaged name"
    )
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="default float32")
    parser.add_argument("--temperature", type=real, default=1.0, help="default 1; 0 is greedy")
    parser.add_argument("--top-k", type=integer, help="draw from the k most probable tokens only")
    parser.add_argument("--top-p", type=real, default=1.0, help="draw from the fewest tokens of this mass")
    parser.add_argument(
        "--min-p", type=real, default=0.0, help="… at least this times as probable as the best"
    )
    parser.add_argument("--seed", type=integer, default=0, help="default 0")
    return parser


def main(arguments: list[str]) -> int:
    """Run one of the commands."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(f"usage: bellmark language {'|'.join(COMMANDS)} --model MODEL …\n\n{DESCRIPTION}\n\n{EXAMPLES}")
        return 0
    command, *rest = arguments
    if command not in COMMANDS:
        raise unknown("language command", command, COMMANDS)
    return COMMANDS[command](rest)


def _drawing(given: Any) -> dict[str, Any]:
    names = ("temperature", "top_k", "top_p", "min_p", "seed")
    return {name: getattr(given, name) for name in names}


def sample(arguments: list[str]) -> int:
    parser = _parser("sample", "Draw answers to prompts.")
    parser.add_argument(
        "--prompt", action="append", default=[], metavar="TEXT", help="may be given several times"
    )
    parser.add_argument("--prompts", metavar="FILE", help='JSONL: one {"prompt": "…"} a line')
    parser.add_argument("--chat", action="store_true", help="put every prompt into the model's chat template")
    parser.add_argument("--group", type=integer, default=1, help="answers to every prompt; default 1")
    parser.add_argument("--max-new-tokens", type=integer, default=64, help="default 64")
    parser.add_argument(
        "--stop", action="append", default=[], metavar="TEXT", help="ends an answer; may be repeated"
    )
    parser.add_argument("--output", metavar="FILE", help="JSONL with texts, tokens and log-probabilities")
    given = parser.parse(arguments)
    prompts = [*given.prompt, *(_read_prompts(Path(given.prompts)) if given.prompts else [])]
    if not prompts:
        raise BadInput("a prompt is missing; give --prompt TEXT or --prompts FILE")

    # only now: everything above answers in milliseconds, without JAX
    from bellmark.language import load
    from bellmark.run.compilation import keep_compiled_programs

    keep_compiled_programs()
    model = load(given.model, dtype=given.dtype)
    questions = [model.chat_prompt(prompt) for prompt in prompts] if given.chat else prompts
    answers = model.sample(
        questions, given.max_new_tokens, group=given.group, stop=given.stop, **_drawing(given)
    )
    lines = []
    for number, answer in enumerate(answers):
        prompt = prompts[number // given.group]
        print(f"{prompt}\n  → {answer.text}{'' if answer.ended else ' …'}")
        record = {
            "prompt": prompt,
            "text": answer.text,
            "ended": answer.ended,
            "tokens": answer.tokens.tolist(),
            "log_probs": [round(float(value), 6) for value in answer.log_probs],
        }
        lines.append(json.dumps(record, ensure_ascii=False))
    if given.output:
        from bellmark.run.disk import write_atomic

        write_atomic(Path(given.output), ("\n".join(lines) + "\n").encode())
        print(f"wrote {given.output} ({len(lines)} answers)")
    return 0


def _read_prompts(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} cannot be read: {getattr(error, 'strerror', None) or 'not UTF-8'}") from None
    prompts = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            prompt = json.loads(line)["prompt"]
        except (ValueError, KeyError, TypeError, RecursionError):
            prompt = None
        if not isinstance(prompt, str):
            raise BadInput(f'line {number} of {path} is {line[:60]!r}; allowed: {{"prompt": "…"}}')
        prompts.append(prompt)
    return prompts


def chat(arguments: list[str]) -> int:
    parser = _parser("chat", "Talk with a model; an empty line or Ctrl-D ends the conversation.")
    parser.add_argument("--max-new-tokens", type=integer, default=256, help="per answer; default 256")
    parser.add_argument("--system", metavar="TEXT", help="an instruction that precedes the conversation")
    given = parser.parse(arguments)

    from bellmark.language import load
    from bellmark.run.compilation import keep_compiled_programs

    keep_compiled_programs()
    model = load(given.model, dtype=given.dtype)
    messages = [{"role": "system", "content": given.system}] if given.system else []
    # a model that cannot chat says so before the first question
    model.chat_prompt([*messages, {"role": "user", "content": "?"}])
    drawing = _drawing(given)
    while line := _question():
        messages.append({"role": "user", "content": line})
        answer = ""
        try:
            for piece in model.stream(model.chat_prompt(messages), given.max_new_tokens, **drawing):
                print(piece, end="", flush=True)
                answer += piece
        except BadInput as error:
            # the conversation has outgrown the model's context: what was said stays on the screen
            raise BellmarkError(f"the conversation ends here: {error}") from None
        print()
        messages.append({"role": "assistant", "content": answer})
        drawing["seed"] += 1
    return 0


def _question() -> str:
    try:
        return input("> " if sys.stdin.isatty() else "").strip()
    except EOFError:
        return ""


def _learning(name: str) -> Callable[[list[str]], int]:
    """The command that runs one learner."""

    def command(arguments: list[str]) -> int:
        # the flags are the learner's fields, so JAX is needed for them
        from bellmark.language.learners import DRAWING, FROM_PAIRS, learner_class, make_learner, presets_of

        cls, presets = learner_class(name), presets_of(name)
        wanted = next((b for a, b in itertools.pairwise(arguments) if a == "--preset"), None)
        known = wanted if wanted in presets else None
        what = "preferences: JSONL with prompt, chosen, rejected"
        if name not in FROM_PAIRS:
            what = "a task, or JSONL with prompt and answer (or completion)"
        parser = Parser(
            prog=f"bellmark language {name}", description=(cls.__doc__ or "").splitlines()[0], epilog=EXAMPLES
        )
        model = "a folder, a GGUF file, a packaged name, or a new model such as tiny-characters"
        parser.add_argument("--model", required=True, metavar="MODEL", help=model)
        parser.add_argument("--data", required=True, metavar="FILE_OR_TASK", help=what)
        parser.add_argument("--steps", type=integer, default=100, help="updates; default 100")
        parser.add_argument("--seed", type=integer, default=0, help="default 0")
        parser.add_argument(
            "--directory", help="where to keep the run (default runs/<learner>-<data>-<time>)"
        )
        parser.add_argument(
            "--dtype", choices=("float32", "bfloat16"), default="float32", help="default float32"
        )
        parser.add_argument("--checkpoint-seconds", type=real, default=60.0, help="default 60")
        parser.add_argument("--quiet", action="store_true", help="print the verdict only")
        if presets:
            parser.add_argument("--preset", choices=list(presets), help="a relative of this learner")
        if name not in FROM_PAIRS:
            parser.add_argument("--template", help='what is asked, of a question\'s fields: "{a} + {b} ="')
            parser.add_argument("--held-out", metavar="FILE", help="questions that are not learned from")
            parser.add_argument("--reward", help="exact, number, regex:PATTERN, sentiment or module:function")
            parser.add_argument("--evaluation-every", type=integer, default=0, help="steps; default 0: never")
            parser.add_argument(
                "--evaluation-answers", type=integer, default=4, help="to a question; default 4"
            )
            parser.add_argument(
                "--evaluation-questions", type=integer, default=64, help="at most; default 64"
            )
        if name in DRAWING:
            parser.add_argument("--reward-model", metavar="DIR", help="of bellmark language reward")
            parser.add_argument(
                "--environment", metavar="MODULE:FUNCTION", help="replies to answers: a conversation"
            )
            parser.add_argument("--turns", type=integer, help="answers in a conversation, at most")
            parser.add_argument("--on-reward-error", choices=("stop", "skip"), default="stop")
            parser.add_argument("--stop", action="append", default=[], metavar="TEXT", help="ends an answer")
        parser.add_argument(
            "--chat", action="store_true", help="prompts go through the model's chat template"
        )
        add_fields(parser.add_argument_group(f"{name}'s hyperparameters"), cls, make_learner(name, {}, known))
        given = parser.parse(arguments)

        from bellmark.tuning import tune

        names = ["preset", "template", "held_out", "reward", "reward_model", "on_reward_error", "stop"]
        names += ["environment", "turns"]
        looks = ("evaluation_every", "evaluation_answers", "evaluation_questions")
        options = {key: getattr(given, key) for key in (*names, *looks) if hasattr(given, key)}
        for key in ("template", "stop"):
            if options.get(key):
                options[key] = _unescaped(options[key])
        run = tune(
            name,
            given.model,
            given.data,
            steps=given.steps,
            seed=given.seed,
            directory=given.directory,
            dtype=given.dtype,
            progress=not given.quiet,
            checkpoint_seconds=given.checkpoint_seconds,
            chat=given.chat,
            **options,
            **given_fields(given),
        )
        if given.quiet:
            print(run.verdict)
        return 130 if run.outcome == "interrupted" else 0

    return command


def _unescaped(given: Any) -> Any:
    """`\\n` as a new line: shells make it hard to type one."""
    if isinstance(given, list):
        return [_unescaped(text) for text in given]
    return given.replace("\\n", "\n")


def evaluate(arguments: list[str]) -> int:
    parser = Parser(
        prog="bellmark language evaluate",
        description="Answer held-out questions: pass@1 and pass@k with a 95 % interval.",
        epilog=EXAMPLES,
    )
    parser.add_argument("run", nargs="?", help="a run of sft, ppo or grpo: its model, its questions")
    parser.add_argument("--model", metavar="MODEL", help="a folder, a GGUF file, or a packaged name")
    parser.add_argument("--data", metavar="FILE_OR_TASK", help="a task, or JSONL with prompt and answer")
    parser.add_argument("--reward", help="exact, number, regex:PATTERN, sentiment or module:function")
    parser.add_argument("--environment", metavar="MODULE:FUNCTION", help="replies to answers: a conversation")
    parser.add_argument("--turns", type=integer, help="answers in a conversation, at most")
    parser.add_argument("--template", help='what is asked, of a question\'s fields: "{a} + {b} ="')
    parser.add_argument("--chat", action="store_true", help="prompts go through the model's chat template")
    parser.add_argument("--stop", action="append", default=[], metavar="TEXT", help="ends an answer")
    parser.add_argument("--answers", type=integer, default=8, help="to every question; default 8")
    parser.add_argument("--questions", type=integer, default=256, help="at most; default 256")
    parser.add_argument("--max-new-tokens", type=integer, default=32, help="default 32")
    parser.add_argument("--temperature", type=real, default=1.0, help="default 1; 0 is greedy")
    parser.add_argument("--seed", type=integer, default=1_000_003, help="default 1000003")
    given = parser.parse(arguments)

    from bellmark.tuning import evaluate_language

    result = evaluate_language(
        given.run,
        model=given.model,
        data=given.data,
        reward=given.reward,
        environment=given.environment,
        turns=given.turns,
        template=None if given.template is None else _unescaped(given.template),
        chat=given.chat,
        stop=_unescaped(given.stop),
        answers=given.answers,
        questions=given.questions,
        max_new_tokens=given.max_new_tokens,
        temperature=given.temperature,
        seed=given.seed,
    )
    for sample in result.samples():
        print(f"{sample['prompt']}\n  → {sample['text']}   [{sample['reward']}]")
    low, high = result.interval()
    print(
        f"\npass@1 {result.pass_at(1):.3f} [{low:.3f}, {high:.3f}], pass@{given.answers} "
        f"{result.pass_at(given.answers):.3f}, mean reward {result.mean:.3f} on {len(result.prompts)} held-out "
        f"questions × {given.answers} answers"
    )
    return 0


def rlhf(arguments: list[str]) -> int:
    parser = Parser(
        prog="bellmark language rlhf",
        description="The whole story: imitation, preferences, a reward model, PPO, and reward against KL.",
    )
    parser.add_argument("--model", default="tiny-characters", help="default tiny-characters, a new model")
    parser.add_argument("--seed", type=integer, default=0, help="default 0")
    parser.add_argument("--noise", type=real, default=0.1, help="preferences that are wrong; default 0.1")
    parser.add_argument("--kl-weight", type=real, default=0.3, help="default 0.3")
    parser.add_argument("--directory", help="where to keep the runs (default runs/rlhf-<time>)")
    parser.add_argument("--quick", action="store_true", help="a few steps of everything, to see that it runs")
    parser.add_argument("--quiet", action="store_true", help="print the summary only")
    given = parser.parse(arguments)

    from bellmark.rlhf import QUICK, rlhf_story

    story = rlhf_story(
        given.directory,
        model=given.model,
        seed=given.seed,
        noise=given.noise,
        kl_weight=given.kl_weight,
        sizes=QUICK if given.quick else None,
        progress=not given.quiet,
    )
    for name, value in story.summary.items():
        print(f"{name:<32}{value:.3f}")
    print(f"picture  {story.picture}")
    return 0


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    **{name: _learning(name) for name in ("sft", "reward", "ppo", "grpo", "dpo")},
    "rlhf": rlhf,
    "evaluate": evaluate,
    "sample": sample,
    "chat": chat,
}
