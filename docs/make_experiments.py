"""Carry out every experiment and write docs/experiments.md with what came out: `python docs/make_experiments.py`.

With names, only those are carried out, and the sections of the others stay as they are.
"""

import re
import sys
import tempfile
import textwrap
from pathlib import Path

from PIL import Image

from bellmark.report.experiments import EXPERIMENTS, experiment
from bellmark.report.experiments.conduct import Outcome, conduct

DOCS = Path(__file__).parent

HEAD = """# Experiments

`bellmark experiment NAME` puts a claim of the textbook (or of ours) to the test on many seeds and says whether it held.

    bellmark experiment --list
    bellmark experiment cliff-walking --seeds 100 --directory runs/cliff

It leaves a picture, every figure of every seed as CSV, and `result.json` with the verdict and its parts. The verdict is
computed from those figures and from nothing else; means are compared by 95 % bootstrap intervals of the differences of
the same seed, and `tests/report/test_experiments.py` checks that other figures get the other verdict. The learners are
those of `bellmark train`, and wherever the model gives an exact answer it is in the picture.

This page is written by `docs/make_experiments.py`, verdicts included.
"""


def main(wanted: list[str]) -> None:
    for name in wanted or EXPERIMENTS:
        one = experiment(name)
        with tempfile.TemporaryDirectory() as folder:
            outcome = conduct(one, list(range(one.seeds)) if one.least else [0], Path(folder))
            with Image.open(Path(folder) / "picture.png") as picture:
                # a palette makes the file a third as large, and nobody sees the difference
                small = picture.convert("RGB").quantize(256, dither=Image.Dither.NONE)
        small.save(DOCS / "pictures" / f"experiment-{name}.png", optimize=True)
        put(one.title, section(outcome))
        print(f"{name}: {outcome.verdict.sentence}", flush=True)


def put(title: str, text: str) -> None:
    """Write the page with this section in its place, and all others as they are."""
    page = DOCS / "experiments.md"
    there = re.split(r"^(?=## )", page.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    sections = {one[3 : one.index("\n")]: one.rstrip("\n") + "\n" for one in there} | {title: text}
    titles = [experiment(name).title for name in EXPERIMENTS]
    page.write_text("\n".join([HEAD, *(sections[t] for t in titles if t in sections)]), encoding="utf-8")


def section(outcome: Outcome) -> str:
    one = outcome.experiment
    seeds = f"{one.seeds:,} seeds" if one.least else "exact, no seeds"
    paragraphs = (
        f"**Claim.** {one.claim}",
        outcome.paragraph,
        f"*{one.source}; {seeds}; `bellmark experiment {one.name}`*",
    )
    filled = "\n\n".join(textwrap.fill(text, 118, break_on_hyphens=False) for text in paragraphs)
    return f"## {one.title}\n\n![{one.title}](pictures/experiment-{one.name}.png)\n\n{filled}\n"


if __name__ == "__main__":
    main(sys.argv[1:])
