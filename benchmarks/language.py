"""Sampling beside `transformers.generate`: the same weights, the same prompts, in turn, in one process.

    pip install -e ".[test]" torch==2.13.0 transformers==5.23.0
    python benchmarks/language.py --repeats 3 --output benchmarks/results/language.json

Two shapes with random weights (what is drawn does not matter for the time, and no answer ends early): SmolLM2-135M at
batches of 16 and of 1, and a model of 5 million parameters at a batch of 64.  Both sides run in float32 on the same
threads and draw from the full vocabulary at temperature 1.  Every repeat times both, ours first and theirs first by
turns; a ratio is the median of the repeats' ratios.  Ours is compiled before the clock starts; the seconds that takes
are reported too.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import transformers

from bellmark.language import Architecture, LanguageModel, load
from bellmark.run.machine import machine, versions

SMOL = Architecture(49152, 576, 30, 9, 3, 64, 1536, 8192, rotary_base=100_000.0)
SMALL = Architecture(2000, 256, 6, 4, 4, 64, 704, 1024)
CASES = {
    "135M, batch 16": (SMOL, 2, 8),
    "135M, batch 1": (SMOL, 1, 1),
    "5M, batch 64": (SMALL, 8, 8),
}
PROMPT = 32


def measure(architecture, prompts, group, new_tokens, repeats):
    tokens = np.random.default_rng(0).integers(0, architecture.vocabulary, (prompts, PROMPT))
    with tempfile.TemporaryDirectory() as folder:
        LanguageModel.start(architecture).save(folder)
        ours = load(folder)
        theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    rows = torch.from_numpy(np.repeat(tokens, group, axis=0))
    count = len(rows) * new_tokens

    def run_ours():
        began = time.perf_counter()
        made = ours.sample(tokens.tolist(), new_tokens, group=group, end_tokens=())
        assert made.mask.sum() == count
        return count / (time.perf_counter() - began)

    def run_theirs():
        began = time.perf_counter()
        with torch.no_grad():
            made = theirs.generate(
                rows,
                attention_mask=torch.ones_like(rows),
                max_new_tokens=new_tokens,
                do_sample=True,
                temperature=1.0,
                top_k=0,
                top_p=1.0,
                eos_token_id=None,
                pad_token_id=0,
            )
        assert made.shape[1] == PROMPT + new_tokens
        return count / (time.perf_counter() - began)

    began = time.perf_counter()
    run_ours()
    first = time.perf_counter() - began
    run_theirs()
    timings = []
    for repeat in range(repeats):
        order = (run_ours, run_theirs) if repeat % 2 == 0 else (run_theirs, run_ours)
        speed = {run.__name__: run() for run in order}
        timings.append((speed["run_ours"], speed["run_theirs"]))
    return {
        "ours_tokens_per_second": [round(mine, 2) for mine, _ in timings],
        "transformers_tokens_per_second": [round(other, 2) for _, other in timings],
        "ratio": round(statistics.median(mine / other for mine, other in timings), 3),
        "first_call_seconds": round(first, 1),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--only", choices=list(CASES))
    parser.add_argument("--output")
    given = parser.parse_args()
    found = {
        "machine": machine(),
        "versions": {**versions(), "torch": torch.__version__, "transformers": transformers.__version__},
        "prompt_tokens": PROMPT,
        "new_tokens": given.new_tokens,
        "cases": {},
    }
    for name, case in CASES.items():
        if given.only in (None, name):
            found["cases"][name] = measure(*case, given.new_tokens, given.repeats)
            print(name, found["cases"][name], flush=True)
    if given.output:
        Path(given.output).write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
