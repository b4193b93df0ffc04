"""Reinforcement learning from human feedback, the whole story on a laptop: `bellmark language rlhf`.

    1  imitate      a new model learns to write short remarks, friendly and hostile ones in equal number
    2  compare      pairs of its own remarks, the friendlier one chosen by a judge who errs now and then
    3  reward       a reward model from those pairs, by Bradley–Terry
    4  practise     PPO against the reward model, KL to the imitator in the reward

The judge is a lexicon of friendly and hostile words, so what people would think of a remark is known here, and the
picture can show it beside what the reward model thinks: reward against KL.  Where the second goes on rising and the
first does not, the policy has learned to please the reward model (L. Gao et al., "Scaling laws for reward model
overoptimization", 2023).
"""

import dataclasses
import datetime
import json
from pathlib import Path
from typing import Any

import numpy as np

from bellmark.errors import BadInput
from bellmark.language.model import LanguageModel
from bellmark.language.rewards import FRIENDLY, HOSTILE, sentiment
from bellmark.report.plots import COLOURS, new_figure, save, style, title_lines
from bellmark.run.disk import write_atomic
from bellmark.tuning import LanguageRun, tune

SUBJECTS = ("the film", "the book", "the food", "the room", "the trip", "the song", "the game", "the talk")
OPENINGS = ("was", "is", "seems", "felt")
MOST_LETTERS = 9


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How much of everything; `quick` is for trying out."""

    imitation: int = 600
    preferences: int = 600
    comparison: int = 200
    practice: int = 120


QUICK = Sizes(200, 64, 6, 3)


@dataclasses.dataclass(frozen=True)
class Story:
    """The four stages' runs, and where they came to."""

    directory: Path
    imitator: LanguageRun
    reward: LanguageRun
    policy: LanguageRun
    picture: Path
    summary: dict[str, float]


def remarks(seed: int, count: int) -> list[dict[str, str]]:
    """Prompts such as "the film was" with two words about it; every word is friendly or hostile with equal chance."""
    rng = np.random.default_rng([seed, 5])
    friendly, hostile = (
        [w for w in sorted(words) if len(w) <= MOST_LETTERS] for words in (FRIENDLY, HOSTILE)
    )

    def word() -> str:
        return str(rng.choice(friendly if rng.random() < 0.5 else hostile))

    return [
        {"prompt": f"{rng.choice(SUBJECTS)} {rng.choice(OPENINGS)}", "completion": f" {word()} and {word()}."}
        for _ in range(count)
    ]


def rlhf_story(
    directory: str | Path | None = None,
    *,
    model: str | LanguageModel = "tiny-characters",
    seed: int = 0,
    noise: float = 0.1,
    kl_weight: float = 0.3,
    sizes: Sizes | None = None,
    progress: bool = True,
) -> Story:
    """All four stages, each a run of its own below `directory`, and a picture of reward against KL.

    `noise` is the share of preferences that the judge gets the wrong way round.
    """
    sizes = sizes or Sizes()
    if not 0 <= noise < 0.5:
        raise BadInput(f"noise is {noise}; allowed: from 0 to below 0.5")
    folder = Path(directory or f"runs/rlhf-{datetime.datetime.now():%Y%m%d-%H%M%S}").expanduser()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BadInput(f"{folder} is not empty; --directory must name a new or empty folder")
    common: dict[str, Any] = {"seed": seed, "progress": progress, "evaluation_answers": 4}
    imitator = tune(
        "sft",
        model,
        remarks(seed, 2000),
        steps=sizes.imitation,
        reward="sentiment",
        directory=folder / "1-imitate",
        batch_size=64,
        micro_batch=64,
        learning_rate=3e-3,
        **common,
    )
    pairs = judged_pairs(imitator, sizes.preferences, noise, seed)
    lines = "".join(json.dumps(pair) + "\n" for pair in pairs)
    write_atomic(folder / "2-preferences.jsonl", lines.encode())
    reward = tune(
        "reward",
        imitator.model,
        pairs,
        steps=sizes.comparison,
        directory=folder / "3-reward",
        batch_size=32,
        micro_batch=64,
        learning_rate=1e-3,
        **common,
    )
    policy = tune(
        "ppo",
        imitator.model,
        [{"prompt": f"{subject} {opening}"} for subject in SUBJECTS for opening in OPENINGS],
        steps=sizes.practice,
        reward_model=folder / "3-reward" / "model",
        directory=folder / "4-practise",
        prompts=64,
        max_new_tokens=28,
        kl_weight=kl_weight,
        learning_rate=3e-4,
        minibatches=2,
        micro_batch=64,
        **common,
    )
    points = reward_against_kl(policy)
    picture = _picture(points, folder / "reward_against_kl.png", kl_weight, noise, seed)
    few = max(1, len(points["kl"]) // 10)
    summary = {f"{name}, first": float(values[:few].mean()) for name, values in points.items()}
    summary |= {f"{name}, last": float(values[-few:].mean()) for name, values in points.items()}
    accuracy = reward.metrics["preference/accuracy"][-10:, 0]
    summary["preferences ranked as given"] = float(accuracy.mean())
    write_atomic(folder / "summary.json", (json.dumps(summary, indent=1) + "\n").encode())
    return Story(folder, imitator, reward, policy, picture, summary)


def judged_pairs(imitator: LanguageRun, count: int, noise: float, seed: int) -> list[dict[str, str]]:
    """Pairs of the imitator's remarks to one prompt, ranked by the lexicon; equal ones are left out."""
    rng = np.random.default_rng([seed, 6])
    prompts = [record["prompt"] for record in remarks(seed + 1, count)]
    answers = imitator.model.sample(prompts, max_new_tokens=28, group=2, seed=seed + 1)
    pairs = []
    for place, prompt in enumerate(prompts):
        first, second = answers.texts[2 * place : 2 * place + 2]
        scores = sentiment({}, first), sentiment({}, second)
        if scores[0] == scores[1] or not first.strip() or not second.strip():
            continue
        better, worse = (first, second) if scores[0] > scores[1] else (second, first)
        if rng.random() < noise:
            better, worse = worse, better
        pairs.append({"prompt": prompt, "chosen": better, "rejected": worse})
    if not pairs:
        raise BadInput(
            "the imitator's remarks are all alike; more imitation is needed before they can be compared"
        )
    return pairs


def reward_against_kl(policy: LanguageRun) -> dict[str, np.ndarray]:
    """Per step: KL to the imitator in nats per answer, the reward model's mean score, the lexicon's, and how many
    remarks differ: a policy that has found what the reward model likes best says little else."""
    metrics = policy.metrics
    drawn: dict[int, list[str]] = {}
    with open(policy.directory / "completions.jsonl", encoding="utf-8") as file:
        for line in map(json.loads, file):
            drawn.setdefault(line["iteration"], []).append(line["text"])
    texts = [drawn[iteration] for iteration in sorted(drawn)]
    return {
        "kl": metrics["policy/kl_whole"][:, 0],
        "reward model": metrics["episode/return"][:, 0],
        "lexicon": np.array([np.mean([sentiment({}, text) for text in each]) for each in texts]),
        "share of different remarks": np.array([len(set(each)) / len(each) for each in texts]),
    }


def _picture(points: dict[str, np.ndarray], path: Path, kl_weight: float, noise: float, seed: int) -> Path:
    kl = np.maximum(points["kl"], 0.0)
    labels = {"reward model": "reward model's score", "lexicon": "lexicon (the judge), −1 to 1"}
    with style():
        figure = new_figure(8.0, 4.2)
        grid = figure.add_gridspec(1, 2, left=0.09, right=0.97, bottom=0.14, top=0.78, wspace=0.28)
        for place, (name, label) in enumerate(labels.items()):
            axes = figure.add_subplot(grid[0, place])
            steps = np.arange(len(kl))
            axes.plot(kl, points[name], color=COLOURS[6], alpha=0.25, linewidth=1)
            axes.scatter(kl, points[name], c=steps, cmap="viridis", s=14, zorder=3)
            axes.set_xlabel("KL to the imitator, nats per answer")
            axes.set_title(label, loc="left", fontsize=10)
        title_lines(
            figure,
            "RLHF: reward against KL",
            f"PPO, β = {kl_weight:g}, {100 * noise:g} % of preferences wrong, seed {seed}; dark is early, bright late",
        )
        return save(figure, path)
