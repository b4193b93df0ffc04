"""What `import bellmark as bm` offers for making language models learn: `bm.tune`.

run = bm.tune("sft", "tiny-characters", "sorting", steps=300)
run = bm.tune("grpo", run.model, "sorting", steps=100, preset="dr_grpo", learning_rate=1e-4)
run.model.sample(["sort 3142="]), run.verdict, run.metrics
"""

import dataclasses
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bellmark.errors import BadInput
from bellmark.language.evaluation import Answered, answered
from bellmark.language.learners import DRAWING, FROM_PAIRS, make_learner
from bellmark.language.model import LanguageModel, load
from bellmark.language.problem import LanguageProblem
from bellmark.language.reward_model import load_reward_model
from bellmark.language.rewards import Reward, imported
from bellmark.language.scratch import SCRATCH, from_scratch
from bellmark.language.tasks import Environment, Record, Task, read_records, task_of
from bellmark.language.train import KIND, Loop, Tuned, begin_run, clean, discard, opened
from bellmark.report.language import LanguageEnding, finish_language, read_answers, save_answers
from bellmark.run import checkpoint
from bellmark.run.compilation import keep_compiled_programs
from bellmark.run.directory import RunDirectory
from bellmark.run.interrupts import Interrupts
from bellmark.run.progress import Progress, make_progress
from bellmark.run.train import checked_steps

TURNS = 4
"""Answers in an episode, where an environment is named and nothing else is said."""

EVALUATION_ANSWERS, EVALUATION_QUESTIONS = 4, 64
"""To how many held-out questions, and how often each."""


@dataclasses.dataclass(frozen=True)
class LanguageRun:
    """A finished or interrupted run: its model, its folder, and what it came to."""

    directory: Path
    model: LanguageModel
    ending: LanguageEnding
    outcome: str
    step: int
    seconds: float

    @property
    def verdict(self) -> str:
        return self.ending.verdict

    @property
    def before(self) -> Answered | None:
        """Answers to held-out questions before any learning."""
        return self.ending.before

    @property
    def after(self) -> Answered | None:
        return self.ending.after

    @property
    def metrics(self) -> dict[str, Any]:
        """What was logged: `step`, `seconds` [rows], and every metric float64 [rows, 1]."""
        return RunDirectory.open(self.directory).metrics()


def model_of(model: str | Path | LanguageModel, seed: int = 0, dtype: Any = "float32") -> LanguageModel:
    """A model as it is, a new one of a name in `bellmark.language.scratch`, or what `bm.language.load` finds."""
    if isinstance(model, LanguageModel):
        return model
    if str(model) in SCRATCH:
        return from_scratch(str(model), seed)
    try:
        return load(model, dtype)
    except BadInput as error:
        if "neither a folder" not in str(error):
            raise
        raise BadInput(f"{error}, nor a new model ({', '.join(SCRATCH)})") from None


def tune(
    learner: str,
    model: str | Path | LanguageModel,
    data: str | Path | Sequence[Record],
    *,
    steps: int = 100,
    preset: str | None = None,
    reward: str | Reward | None = None,
    reward_model: str | Path | None = None,
    environment: str | Environment | None = None,
    turns: int | None = None,
    template: str | None = None,
    held_out: str | Path | None = None,
    chat: bool = False,
    stop: Sequence[str] = (),
    on_reward_error: str = "stop",
    seed: int = 0,
    dtype: str = "float32",
    directory: str | os.PathLike[str] | None = None,
    progress: bool = True,
    checkpoint_seconds: float = 60.0,
    evaluation_every: int = 0,
    evaluation_answers: int = EVALUATION_ANSWERS,
    evaluation_questions: int = EVALUATION_QUESTIONS,
    **hyperparameters: Any,
) -> LanguageRun:
    """Make a language model learn, and leave a run directory behind.

    - `learner`: "sft", "reward", "ppo", "grpo" or "dpo"; `preset` names a relative of it ("dr_grpo", "rloo", …).
    - `model`: a folder, a GGUF file, a packaged name, a new model ("tiny-characters", …), or a `LanguageModel`.
    - `data`: a task ("addition", "multiplication", "sorting", "reversing", "countdown"), a JSONL file, or records.
    - `reward`: "exact", "number", "regex:PATTERN", "sentiment", "module:function" or your own function; a task has
      its own.  `reward_model` is the folder of a reward model instead.
    - `environment`: what is said to an answer, so that an episode has up to `turns` answers: "module:function" or your
      own `(question, answers so far) -> text or None at the end`.  Its words are read and never learned.
    - `template`: what is asked, of a question's fields: "{a} + {b} =".  `chat` puts it into the model's chat template.
    - `on_reward_error`: "stop" ends the run with the sample's name, "skip" goes on without the answer.
    - `evaluation_every`: steps between two looks at held-out questions (0: before and after only).

    Raises: `BadInput` before anything is written; `RewardFailure`, `NonFiniteLoss` with the last checkpoint standing.
    """
    keep_compiled_programs()
    method = make_learner(learner, hyperparameters, preset)
    steps = checked_steps(steps)
    if type(seed) is not int or not 0 <= seed < 2**32:
        raise BadInput(f"seed is {seed!r}; allowed: a whole number from 0 to 2³² − 1")
    if on_reward_error not in ("stop", "skip"):
        raise BadInput(f"on_reward_error is {on_reward_error!r}; allowed: stop, skip")
    given = {"evaluation_answers": evaluation_answers, "evaluation_questions": evaluation_questions}
    for name, value in given.items():
        if type(value) is not int or value < 1:
            raise BadInput(f"{name} is {value!r}; allowed: a whole number from 1")
    if type(evaluation_every) is not int or evaluation_every < 0:
        raise BadInput(f"evaluation_every is {evaluation_every!r}; allowed: a whole number from 0")
    started = model_of(model, seed, dtype)
    options = {
        "model": str(model) if not isinstance(model, LanguageModel) else f"a {started.family} model",
        "reward": reward if isinstance(reward, str) else None,
        "reward_model": None if reward_model is None else str(reward_model),
        "environment": environment if environment is None or isinstance(environment, str) else "your own",
        "turns": turns,
        "template": template,
        "chat": chat,
        "stop": list(stop),
        "on_reward_error": on_reward_error,
    }
    records: dict[str, list[Record]] = {}
    own = callable(reward) or (isinstance(reward, str) and _imports(reward))
    if environment is not None and learner not in DRAWING:
        raise BadInput(f"{learner} draws no answers that an environment could reply to; ppo and grpo do")
    if learner in FROM_PAIRS:
        pairs = _pairs(data)
        records["data.jsonl"] = pairs
        task, name = None, Path(str(data)).stem if isinstance(data, str | Path) else "pairs"
    else:
        pairs = []
        task = _with_environment(_task(data, reward, template, held_out), environment, turns)
        name = task.name if isinstance(data, str) and task.name == data else Path(task.name).stem
        if task.name != str(data) or Path(str(data)).is_file():
            records |= {"data.jsonl": task.questions, "held_out.jsonl": task.held_out}
    if learner in DRAWING and reward_model is None and task is not None and task.reward is None:
        raise BadInput(
            "these data have no answers, so a reward must be named: exact, number, regex:PATTERN, …"
        )
    problem = _problem(started, task, pairs, steps, seed, options)
    # the problem holds the model from here on, and lets go of it where nothing is compared with it
    del started, model
    problem.check_room(getattr(method, "max_new_tokens", 0))
    evaluation = {
        "evaluation_every": evaluation_every,
        "evaluation_answers": evaluation_answers,
        "evaluation_questions": evaluation_questions,
    }
    with Interrupts() as interrupts, make_progress(sys.stderr, quiet=not progress) as shown:
        run, config, existed = begin_run(
            method,
            problem,
            steps=steps,
            directory=directory,
            data=name,
            options=options,
            reproducible=not own,
            evaluation=evaluation,
            records=records,
        )
        with run.lock():
            try:
                return _learned(run, config, method, problem, shown, interrupts, checkpoint_seconds)
            except BaseException:
                if not checkpoint.steps(run.path):
                    discard(run, itself=not existed)
                raise


def _own_environment(options: dict[str, Any]) -> BadInput:
    named = options["environment"] if ":" in options["environment"] else "module:function"
    return BadInput(f"this run used your own environment; name it again: --environment {named}")


def _imports(reward: str) -> bool:
    return ":" in reward and not reward.startswith("regex:")


def _pairs(data: Any) -> list[Record]:
    wanted = ("prompt", "chosen", "rejected")
    if not isinstance(data, str | Path):
        return [dict(record) for record in data]
    if not Path(data).expanduser().is_file():
        raise BadInput(f"{data} is no file; preferences are JSONL with {', '.join(wanted)}")
    return read_records(data, wanted)


def _with_environment(task: Task, environment: str | Environment | None, turns: int | None) -> Task:
    if turns is not None and (type(turns) is not int or turns < 1):
        raise BadInput(f"turns is {turns!r}; allowed: a whole number from 1")
    if isinstance(environment, str):
        environment = imported("environment", environment)
    if environment is None:
        if turns is not None and task.environment is None:
            raise BadInput("turns is given and there is no environment to reply; name one: --environment")
        return dataclasses.replace(task, turns=turns or task.turns)
    return dataclasses.replace(task, environment=environment, turns=turns or TURNS)


def _task(data: Any, reward: Any, template: str | None, held_out: Any) -> Task:
    given = data if isinstance(data, str | Path) else [dict(record) for record in data]
    return task_of(given, reward=reward, template=template, held_out=held_out)


def _problem(started, task, pairs, steps: int, seed: int, options: dict[str, Any]) -> LanguageProblem:
    scorer = None
    if options["reward_model"] is not None:
        judge = load_reward_model(options["reward_model"])
        theirs, ours = judge.model.architecture.vocabulary, started.architecture.vocabulary
        if theirs != ours:
            raise BadInput(
                f"the reward model knows {theirs} tokens and the policy {ours}; they must share a tokenizer"
            )
        scorer = judge.scores
    return LanguageProblem(
        started,
        budget=steps,
        seed=seed,
        task=task,
        pairs=pairs,
        scorer=scorer,
        chat=options["chat"],
        stop=options["stop"],
        survive=options["on_reward_error"] == "skip",
    )


def _learned(
    run: RunDirectory,
    config: dict[str, Any],
    method: Any,
    problem: LanguageProblem,
    progress: Progress,
    interrupts: Interrupts,
    checkpoint_seconds: float,
) -> LanguageRun:
    rewarded = problem.task is not None and (problem.task.reward is not None or problem.scorer is not None)
    looks = rewarded and bool(problem.held_out)

    room = problem.model.architecture.context - problem.longest

    def look(transformer: Any) -> Answered:
        return answered(
            problem,
            transformer,
            n=config["evaluation_answers"],
            most=config["evaluation_questions"],
            max_new_tokens=getattr(method, "max_new_tokens", min(32, max(room, 1))),
            temperature=getattr(method, "temperature", 1.0),
        )

    def held_out(transformer: Any) -> dict[str, float]:
        result = look(transformer)
        return {"held_out/pass@1": result.pass_at(1), "held_out/reward": result.mean}

    if looks and read_answers(run, "before") is None:
        progress.phase("answering held-out questions before learning")
        save_answers(run, "before", look(problem.transformer))
    loop = Loop(
        run,
        config,
        method,
        problem,
        progress,
        interrupts,
        checkpoint_seconds,
        held_out if looks else None,
    )
    tuned: Tuned = loop.go()
    progress.phase("answering held-out questions after learning" if looks else "writing the report")
    after = look(tuned.model.transformer) if looks else None
    ending = finish_language(tuned, after)
    commands = "\n".join(f"  {command}" for command in ending.next_commands)
    picture = f"picture  {ending.picture}\n" if ending.picture else ""
    progress.finished(f"{ending.verdict}\nrun      {run.path}\n{picture}next\n{commands}")
    return LanguageRun(run.path, tuned.model, ending, tuned.outcome, tuned.step, tuned.seconds)


def resume_language(
    directory: str | os.PathLike[str],
    *,
    steps: int | None = None,
    reward: str | Reward | None = None,
    environment: str | Environment | None = None,
    progress: bool = True,
    checkpoint_seconds: float = 60.0,
) -> LanguageRun:
    """Go on with a language model's run exactly where its newest good checkpoint stands.

    `reward` and `environment` name one's own again: a saved run never makes Bellmark import code.
    """
    keep_compiled_programs()
    run, config, started = opened(directory)
    saved = config["environment"]
    options = saved["options"]
    if options.get("environment") and environment is None:
        raise _own_environment(options)
    if not saved.get("reproducible", False) and reward is None:
        named = options["reward"] or "module:function"
        raise BadInput(f"this run used your own reward; name it again: --reward {named}")
    method = make_learner(config["algorithm"]["name"], config["algorithm"]["fields"])
    if steps is not None:
        if checked_steps(steps) < config["steps"]:
            raise BadInput(f"steps is {steps:,}; this run has {config['steps']:,} already: more are allowed")
        config["steps"] = steps
    chosen = options["reward"] if reward is None else reward
    data = run.path / "data.jsonl"
    pairs: list[Record] = []
    task = None
    if method.name in FROM_PAIRS:
        pairs = read_records(data, ("prompt", "chosen", "rejected"))
    elif data.is_file():
        # prompts were written in full when the run began
        task = task_of(data, reward=chosen, held_out=run.path / "held_out.jsonl", from_file=reward is None)
    else:
        task = task_of(saved["id"], reward=chosen, template=options["template"], from_file=reward is None)
    if task is not None:
        task = _with_environment(task, environment, options.get("turns"))
    problem = _problem(started, task, pairs, config["steps"], config["seeds"][0], options)
    del started
    with Interrupts() as interrupts, make_progress(sys.stderr, quiet=not progress) as shown, run.lock():
        clean(run, config, shown)
        run.write_config(config)
        return _learned(run, config, method, problem, shown, interrupts, checkpoint_seconds)


def evaluate_language(
    run: str | os.PathLike[str] | None = None,
    *,
    model: str | Path | LanguageModel | None = None,
    data: str | Path | Sequence[Record] | None = None,
    reward: str | Reward | None = None,
    environment: str | Environment | None = None,
    turns: int | None = None,
    template: str | None = None,
    chat: bool = False,
    stop: Sequence[str] = (),
    answers: int = 8,
    questions: int = 256,
    max_new_tokens: int = 32,
    temperature: float = 1.0,
    seed: int = 1_000_003,
) -> Answered:
    """A model's answers to the held-out questions of a task: a saved run's own, or those of `model` and `data`."""
    keep_compiled_programs()
    if (run is None) == (model is None):
        raise BadInput("give either a run, or --model with --data")
    for name, value in {"answers": answers, "questions": questions}.items():
        if type(value) is not int or value < 1:
            raise BadInput(f"{name} is {value!r}; allowed: a whole number from 1")
    if run is not None:
        folder = RunDirectory.open(run)
        config = folder.read_config()
        if config["environment"]["kind"] != KIND:
            raise BadInput(f"{folder.path} is no run of a language model; bellmark evaluate is for it")
        options = config["environment"]["options"]
        model = load(folder.path / "model") if model is None else model
        chat, stop = options["chat"], options["stop"]
        turns = options.get("turns") if turns is None else turns
        if options.get("environment") and environment is None:
            raise _own_environment(options)
        reward, named = options["reward"] if reward is None else reward, reward is not None
        file = folder.path / "data.jsonl"
        task = task_of(
            file if file.is_file() else config["environment"]["id"],
            reward=reward,
            template=None if file.is_file() else options["template"],
            held_out=folder.path / "held_out.jsonl" if file.is_file() else None,
            from_file=not named,
        )
    else:
        if data is None:
            raise BadInput("--data is missing; a task or a JSONL file is needed")
        task = _task(data, reward, template, None)
    assert model is not None
    task = _with_environment(task, environment, turns)
    if task.reward is None:
        raise BadInput(
            "these data have no answers, so a reward must be named: exact, number, regex:PATTERN, …"
        )
    started = model_of(model)
    problem = LanguageProblem(started, budget=1, task=task, chat=chat, stop=stop)
    return answered(
        problem,
        started.transformer,
        n=answers,
        most=questions,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        seed=seed,
    )
