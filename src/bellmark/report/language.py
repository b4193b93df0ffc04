"""How a language model's run ends: answers before and after, pass@1 on held-out questions, a picture, next commands."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from bellmark.language.evaluation import Answered
from bellmark.language.learners import DRAWING, FROM_PAIRS
from bellmark.language.train import Tuned
from bellmark.report.plots import COLOURS, new_figure, save, style, title_lines
from bellmark.run.directory import RunDirectory, write_atomic


@dataclasses.dataclass(frozen=True)
class LanguageEnding:
    """What a run came to; the two evaluations are None where nothing is held out."""

    before: Answered | None
    after: Answered | None
    verdict: str
    picture: Path | None
    next_commands: tuple[str, ...]


def save_answers(run: RunDirectory, name: str, result: Answered) -> None:
    """`report/<name>.json`: every answer to the held-out questions."""
    run.report.mkdir(exist_ok=True)
    table = {
        "prompts": result.prompts,
        "texts": result.texts,
        "rewards": [[None if math.isnan(r) else r for r in row] for row in result.rewards.tolist()],
        "ended": result.ended.tolist(),
    }
    write_atomic(run.report / f"{name}.json", (json.dumps(table, ensure_ascii=False) + "\n").encode())


def read_answers(run: RunDirectory, name: str) -> Answered | None:
    path = run.report / f"{name}.json"
    if not path.is_file():
        return None
    table = json.loads(path.read_bytes())
    rewards = np.array([[math.nan if r is None else r for r in row] for row in table["rewards"]])
    return Answered(table["prompts"], table["texts"], rewards, np.array(table["ended"], bool))


def finish_language(tuned: Tuned, after: Answered | None) -> LanguageEnding:
    """Write report/ and say what the run came to."""
    run = tuned.directory
    run.report.mkdir(exist_ok=True)
    before = read_answers(run, "before")
    if after is not None:
        save_answers(run, "after", after)
    text = _verdict(tuned, before, after)
    if tuned.outcome == "interrupted":
        text = f"interrupted at step {tuned.step:,} of {tuned.config['steps']:,}; so far {text}"
    columns = run.metrics()
    picture = None
    if len(columns["step"]) > 1:
        picture = learning_picture(columns, tuned.config, before, after, run.report / "learning_curve.png")
    summary: dict[str, Any] = {"verdict": text, "warnings": tuned.signs.counts}
    for name, result in {"before": before, "after": after}.items():
        if result is not None and len(result.prompts):
            low, high = result.interval()
            summary[name] = {
                "mean_reward": result.mean,
                "pass@1": result.pass_at(1),
                "interval": [low, high],
                "questions": len(result.prompts),
                "answers_each": int(result.rewards.shape[1]),
            }
    write_atomic(run.report / "summary.json", (json.dumps(summary, indent=1) + "\n").encode())
    write_atomic(run.report / "answers.md", _answers(before, after, text).encode())
    return LanguageEnding(before, after, text, picture, _next(tuned))


def _verdict(tuned: Tuned, before: Answered | None, after: Answered | None) -> str:
    parts = []
    if before is not None and after is not None and len(after.prompts):
        low, high = after.interval()
        parts.append(
            f"pass@1 {before.pass_at(1):.3f} → {after.pass_at(1):.3f} [{low:.3f}, {high:.3f}], "
            f"reward {before.mean:.3f} → {after.mean:.3f} on {len(after.prompts)} held-out questions × "
            f"{after.rewards.shape[1]} answers"
        )
    else:
        columns = tuned.directory.metrics()
        for name in ("loss/negative_log_likelihood", "preference/accuracy"):
            if name in columns and len(columns["step"]):
                table = columns[name][:, 0]
                few = max(1, len(table) // 10)
                parts.append(
                    f"{name.split('/')[1].replace('_', ' ')} {table[:few].mean():.3f} → {table[-few:].mean():.3f}"
                )
    if tuned.signs.summary:
        parts.append(f"warnings: {tuned.signs.summary}")
    return "; ".join(parts) or f"{tuned.step:,} steps"


def _answers(before: Answered | None, after: Answered | None, verdict: str) -> str:
    lines = ["# Answers to held-out questions", "", verdict, ""]
    if after is not None:
        lines += ["| prompt | before | reward | after | reward |", "|---|---|---|---|---|"]
        firsts = before.samples(16) if before is not None else [{}] * 16
        for old, new in zip(firsts, after.samples(16), strict=False):
            cells = [new["prompt"], old.get("text", ""), old.get("reward", ""), new["text"], new["reward"]]
            lines.append("| " + " | ".join(_cell(cell) for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(value: Any) -> str:
    text = f"{value:.3g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|").replace("\n", "⏎")


CURVES = {
    "episode/return": "mean reward of drawn answers",
    "loss/negative_log_likelihood": "negative log-likelihood per token",
    "preference/accuracy": "preferences ranked as given",
}
BESIDE = {
    "policy/entropy": "entropy",
    "policy/kl_reference": "KL to reference",
    "policy/kl_whole": "KL to reference",
    "groups/without_signal": "groups without signal",
    "episode/length": "tokens an answer",
    "loss/margin": "margin",
    "optimiser/gradient_norm": "gradient norm",
}


def learning_picture(columns, config, before: Answered | None, after: Answered | None, path: Path) -> Path:
    """The learning curve with pass@1 on held-out questions, and up to three small panels."""
    main = next((name for name in CURVES if name in columns), "loss/total")
    beside = [name for name in BESIDE if name in columns and np.isfinite(columns[name]).any()][:3]
    step = columns["step"]
    with style():
        figure = new_figure(8.0, 4.5)
        grid = figure.add_gridspec(
            max(1, len(beside)),
            2,
            width_ratios=[3.2, 1],
            left=0.09,
            right=0.97,
            bottom=0.12,
            top=0.8,
            wspace=0.28,
            hspace=0.9,
        )
        axes = figure.add_subplot(grid[:, 0])
        values = columns[main][:, 0]
        axes.plot(step, values, color=COLOURS[0], alpha=0.3, linewidth=1)
        axes.plot(step, _smooth(values), color=COLOURS[0], linewidth=2.2, label=CURVES.get(main, main))
        held_step, held = _held_out(columns, before, after)
        if len(held):
            label = "pass@1, held-out questions"
            axes.plot(held_step, held, color=COLOURS[1], marker="o", markersize=4, label=label)
        axes.set_xlabel("step")
        axes.legend(frameon=False, loc="best")
        for place, name in enumerate(beside):
            small = figure.add_subplot(grid[place, 1])
            small.plot(step, columns[name][:, 0], color=COLOURS[6], linewidth=1.2)
            small.set_title(BESIDE[name], fontsize=9, loc="left")
            small.tick_params(labelsize=8)
            if place + 1 < len(beside):
                small.set_xticklabels([])
        environment = config["environment"]
        title_lines(
            figure,
            f"{config['algorithm']['name'].upper()} · {environment['id']}",
            f"{_short(environment['options']['model'])}, seed {config['seeds'][0]}, {len(step):,} steps",
        )
        return save(figure, path)


def _short(model: str) -> str:
    """A model's name, or of its folder the last two names: where runs lie is nothing that a picture tells."""
    return "/".join(Path(model).parts[-2:])


def _smooth(values: np.ndarray) -> np.ndarray:
    """The mean over a window of a twentieth of the run."""
    width = max(1, len(values) // 20)
    padded = np.concatenate([np.full(width - 1, np.nan), values])
    return np.array([np.nanmean(padded[i : i + width]) for i in range(len(values))])


def _held_out(columns, before: Answered | None, after: Answered | None) -> tuple[np.ndarray, np.ndarray]:
    steps, values = [], []
    if before is not None and len(before.prompts):
        steps, values = [0], [before.pass_at(1)]
    if "held_out/pass@1" in columns:
        there = np.isfinite(columns["held_out/pass@1"][:, 0])
        steps += columns["step"][there].tolist()
        values += columns["held_out/pass@1"][there, 0].tolist()
    if after is not None and len(after.prompts) and (not steps or steps[-1] != columns["step"][-1]):
        steps.append(int(columns["step"][-1]))
        values.append(after.pass_at(1))
    return np.array(steps), np.array(values)


def _next(tuned: Tuned) -> tuple[str, ...]:
    path = tuned.directory.path
    if tuned.outcome == "interrupted":
        return (f"bellmark resume {path}",)
    name = tuned.learner.name
    if name in DRAWING:
        return (
            f"bellmark language evaluate {path}",
            f'bellmark language sample --model {path}/model --prompt "…"',
        )
    if name in FROM_PAIRS and name == "reward":
        return (f"bellmark language ppo --model MODEL --data PROMPTS --reward-model {path}/model",)
    return (f"bellmark language grpo --model {path}/model --data TASK",)
