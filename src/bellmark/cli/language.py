"""`bellmark language sample|chat`: answers of a language model, in bulk to a file or one by one to a person."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bellmark.cli.arguments import Parser, integer, real
from bellmark.errors import BadInput, BellmarkError, unknown

DESCRIPTION = """Use a language model: a folder with config.json, a GGUF file, or SmolLM2-135M-Instruct."""

EXAMPLES = """examples:
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


COMMANDS: dict[str, Callable[[list[str]], int]] = {"sample": sample, "chat": chat}
