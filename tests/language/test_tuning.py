"""Runs of language models: everything is kept, an interrupted run goes on bit for bit, and bad input is one line."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

import bellmark as bm
from bellmark.cli.main import run as command
from bellmark.errors import BadInput, CorruptFile
from bellmark.language.rewards import RewardFailure
from bellmark.language.train import Loop
from bellmark.tuning import evaluate_language, resume_language
from language_worlds import tiny_model

SMALL = {"batch_size": 8, "learning_rate": 3e-3, "warm_up": 0, "width": 64}
DRAW = {"prompts": 4, "group": 4, "max_new_tokens": 4, "learning_rate": 1e-3}
ASIDE = {"evaluation_answers": 1, "evaluation_questions": 2, "progress": False}


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def drawn(model, tmp_path_factory):
    """A finished run of GRPO on additions, every iteration kept."""
    folder = tmp_path_factory.mktemp("grpo") / "run"
    friendly = {"reward": "regex:[0-9]", "on_reward_error": "stop"}
    return bm.tune("grpo", model, "addition", steps=4, directory=folder, **friendly, **DRAW, **ASIDE)


def weights_of(folder):
    return {p.name: p.read_bytes() for p in (folder / "model").iterdir()}


def rows_of(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{**row, "seconds": 0} for row in rows]


def test_what_a_run_leaves(drawn, model):
    assert drawn.outcome == "finished"
    names = {p.name for p in drawn.directory.iterdir()}
    assert names >= {
        "config.json",
        "metrics.jsonl",
        "completions.jsonl",
        "checkpoints",
        "start",
        "model",
        "report",
    }
    report = {p.name for p in (drawn.directory / "report").iterdir()}
    assert report == {"before.json", "after.json", "summary.json", "answers.md", "learning_curve.png"}
    lines = [json.loads(line) for line in (drawn.directory / "completions.jsonl").read_text().splitlines()]
    assert len(lines) == 4 * 16
    assert {line["iteration"] for line in lines} == {0, 1, 2, 3}
    for line in lines:
        assert line["reward"] == line["parts"]["reward"] == float(any(c.isdigit() for c in line["text"]))
        assert line["tokens"] <= 4
    # the sampler and the trainer agree before the first update, and it is logged
    metrics = drawn.metrics
    assert metrics["sampler/mismatch_largest"][0, 0] < 1e-3
    assert (metrics["sampler/mismatch"] < 1e-3).all()
    # mean of the batch's rewards, fractions and all
    first = np.mean([line["reward"] for line in lines if line["iteration"] == 0])
    np.testing.assert_allclose(metrics["episode/return"][0, 0], first, rtol=1e-6)
    # what was saved is what learned, and not what it began with
    again = bm.language.load(drawn.directory / "model")
    np.testing.assert_array_equal(again.transformer.embedding, drawn.model.transformer.embedding)
    assert (again.transformer.embedding != model.transformer.embedding).any()


def test_an_interrupted_run_goes_on_bit_for_bit(drawn, model, tmp_path, monkeypatch):
    whole = Loop._record

    def stop_after_two(self, writer, metrics, elapsed):
        whole(self, writer, metrics, elapsed)
        self.interrupts.asked = self.iteration == 2

    monkeypatch.setattr(Loop, "_record", stop_after_two)
    folder = tmp_path / "run"
    half = bm.tune(
        "grpo", model, "addition", steps=4, directory=folder, reward="regex:[0-9]", **DRAW, **ASIDE
    )
    assert half.outcome == "interrupted"
    assert half.step == 2
    monkeypatch.setattr(Loop, "_record", whole)
    # a kill left more behind than its checkpoint knows
    with open(folder / "completions.jsonl", "a") as file:
        file.write('{"iteration": 2, "prompt": "lost"}\n')
    with open(folder / "metrics.jsonl", "a") as file:
        file.write('{"iteration":3,"step":3,"seconds":1.0,"metrics":{}}\n')
    assert command(["resume", str(folder), "--quiet"]) == 0
    assert weights_of(folder) == weights_of(drawn.directory)
    assert rows_of(folder) == rows_of(drawn.directory)
    name = "completions.jsonl"
    assert (folder / name).read_bytes() == (drawn.directory / name).read_bytes()


def test_a_finished_run_can_be_lengthened_and_evaluated(drawn, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(drawn.directory, folder)
    longer = resume_language(folder, steps=5, progress=False)
    assert longer.step == 5
    result = evaluate_language(folder, answers=2, questions=2, max_new_tokens=4)
    assert result.rewards.shape == (2, 2)
    with pytest.raises(BadInput, match="this run has 5 already"):
        resume_language(folder, steps=4, progress=False)


def test_a_start_that_was_changed_is_refused(drawn, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(drawn.directory, folder)
    (folder / "start" / "model.safetensors").write_bytes(b"other")
    with pytest.raises(CorruptFile, match="is not the model that this run began with"):
        resume_language(folder, steps=5, progress=False)


class Failing:
    """A user's reward: raises or returns NaN on some answers."""

    def __init__(self, value):
        self.value, self.calls = value, 0

    def __call__(self, question, text):
        self.calls += 1
        if self.calls % 5:
            return {"length": 0.25 * len(text), "bonus": 0.125}
        if self.value is None:
            raise RuntimeError("no idea")
        return self.value


def test_a_reward_that_fails_stops_the_run_and_names_the_sample(model, tmp_path):
    folder = tmp_path / "run"
    data = [{"prompt": "1+1="}, {"prompt": "2+2="}]
    with pytest.raises(RewardFailure, match=r"failed on the answer '.*' to '\d\+\d=': RuntimeError: no idea"):
        bm.tune("grpo", model, data, steps=2, reward=Failing(None), directory=folder, **DRAW, **ASIDE)
    assert not folder.exists()


def test_or_the_run_survives_and_counts(model, tmp_path, capsys):
    data = [{"prompt": "1+1="}]
    options = {"reward": Failing(float("nan")), "on_reward_error": "skip", "directory": tmp_path / "run"}
    run = bm.tune("grpo", model, data, steps=2, **options, **DRAW, **ASIDE)
    assert run.outcome == "finished"
    lines = [json.loads(line) for line in (run.directory / "completions.jsonl").read_text().splitlines()]
    lost = [line for line in lines if line["reward"] is None]
    assert len(lost) == run.metrics["answers/failed_rewards"].sum() > 0
    kept = [line for line in lines if line["reward"] is not None]
    for line in kept:
        assert line["parts"] == {"length": 0.25 * len(line["text"]), "bonus": 0.125}
        np.testing.assert_allclose(line["reward"], sum(line["parts"].values()))
    said = capsys.readouterr().err
    assert "it returned reward = nan; this answer teaches nothing" in said
    assert "failed rewards: some rewards failed" in said
    assert json.loads((run.directory / "report/summary.json").read_text())["warnings"]["failed rewards"] == 2
    # a saved run never makes Bellmark import a user's code
    with pytest.raises(BadInput, match="used your own reward; name it again"):
        resume_language(run.directory, steps=3, progress=False)


class Teacher:
    """An environment that says what it thinks of a first answer, or raises when it has said enough."""

    def __init__(self, patience=None):
        self.patience, self.heard = patience, []

    def __call__(self, question, answers):
        self.heard.append((question["prompt"], list(answers)))
        if self.patience is not None and len(self.heard) > self.patience:
            raise RuntimeError("no more words")
        return " again:" if len(answers) == 1 else None


GUESS = {"turns": 2, "progress": False, **DRAW}
"""The words of both turns fit the same rows as in the other tests."""


def first_and_last(question, text):
    """What the reward sees is the whole conversation."""
    return float(len(text.split(" again:")[-1]) > 2)


@pytest.fixture(scope="module")
def conversation(model, tmp_path_factory):
    """Three steps of guessing with a teacher of one's own."""
    folder = tmp_path_factory.mktemp("guessing") / "run"
    teacher = Teacher()
    questions = [{"prompt": "guess 2-8:", "answer": "5"}]
    run = bm.tune(
        "grpo",
        model,
        questions,
        environment=teacher,
        reward=first_and_last,
        steps=3,
        directory=folder,
        **GUESS,
    )
    return run, teacher


def test_a_run_with_an_environment(conversation):
    run, teacher = conversation
    lines = [json.loads(line) for line in (run.directory / "completions.jsonl").read_text().splitlines()]
    assert len(lines) == 3 * 16
    for line in lines:
        # both answers, the teacher's words between them, and nothing of those counted as the model's
        first, second = line["text"].split(" again:")
        assert line["tokens"] <= 8
        assert line["ended"]
        assert line["reward"] == first_and_last({}, line["text"])
        assert ("guess 2-8:", [first]) in teacher.heard
        assert ("guess 2-8:", [first, second]) in teacher.heard
    assert (run.metrics["sampler/mismatch"] < 1e-3).all()
    assert (run.metrics["episode/length"] <= 8).all()


def test_it_is_lost_only_from_where_the_environment_failed(conversation, model, tmp_path):
    """It raises in the third step: one error names the sample, two steps stand, and the run goes on bit for bit."""
    whole, _ = conversation
    folder = tmp_path / "run"
    questions = [{"prompt": "guess 2-8:", "answer": "5"}]
    named = {"reward": first_and_last, "directory": folder, "steps": 3}
    with pytest.raises(RewardFailure) as failure:
        bm.tune("grpo", model, questions, environment=Teacher(2 * 32 + 5), **named, **GUESS)
    said = str(failure.value)
    assert "\n" not in said
    assert "the environment failed on the answer '" in said
    assert "' to 'guess 2-8:': RuntimeError: no more words" in said
    assert f"what was learned stands at step 2: bellmark resume {folder}" in said
    assert len((folder / "completions.jsonl").read_text().splitlines()) == 2 * 16
    # nobody imports a user's code unasked
    with pytest.raises(BadInput, match="used your own environment; name it again"):
        resume_language(folder, progress=False)
    again = {"reward": first_and_last, "environment": Teacher()}
    run = resume_language(folder, progress=False, **again)
    assert run.outcome == "finished"
    assert weights_of(folder) == weights_of(whole.directory)
    assert rows_of(folder) == rows_of(whole.directory)
    # asked once more, the same way
    teacher = Teacher()
    result = evaluate_language(
        model=folder / "model",
        data=questions * 2,
        reward=first_and_last,
        environment=teacher,
        turns=2,
        answers=2,
        max_new_tokens=4,
    )
    assert result.rewards.shape == (1, 2)
    assert all(" again:" in text for text in result.texts[0])
    assert result.ended.all()
    assert len(teacher.heard) == 4


def test_an_environment_that_fails_at_once_leaves_nothing_behind(model, tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(RewardFailure, match="the environment failed on the answer"):
        bm.tune(
            "grpo",
            model,
            [{"prompt": "guess 2-8:", "answer": "5"}],
            environment=lambda question, answers: 7,
            reward=first_and_last,
            directory=folder,
            **GUESS,
        )
    assert not folder.exists()


def test_sft_learns_and_packing_changes_nothing(model, tmp_path):
    data = [{"prompt": f"{a}+1=", "completion": str(a + 1)} for a in range(9)]
    options = {**SMALL, "steps": 8, "anneal": False, "learning_rate": 1e-2}
    packed = bm.tune("sft", model, data, directory=tmp_path / "packed", **options, **ASIDE)
    loss = packed.metrics["loss/negative_log_likelihood"][:, 0]
    assert loss[-1] < loss[0] - 0.5
    single = bm.tune("sft", model, data, directory=tmp_path / "single", **{**options, "width": 6}, **ASIDE)
    np.testing.assert_allclose(single.metrics["loss/negative_log_likelihood"][:, 0], loss, rtol=1e-3)
    assert packed.metrics["text/answer_tokens"][0, 0] == 8 * 2


def test_preferences_to_a_reward_model_to_ppo(model, tmp_path):
    pairs = [{"prompt": f"{a}=", "chosen": "yes", "rejected": "no!"} for a in range(9)]
    options = {"steps": 12, "batch_size": 8, "learning_rate": 1e-2, "warm_up": 0, "progress": False}
    rewards = bm.tune("reward", model, pairs, directory=tmp_path / "reward", **options)
    assert rewards.metrics["preference/accuracy"][-1, 0] == 1
    direct = bm.tune("dpo", model, pairs, directory=tmp_path / "dpo", **{**options, "learning_rate": 1e-3})
    assert direct.metrics["loss/margin"][-1, 0] > 0
    np.testing.assert_allclose(direct.metrics["loss/preference"][0, 0], np.log(2), rtol=1e-4)
    ppo = bm.tune(
        "ppo",
        model,
        # one question: nothing is held out, and so no other sampler is compiled for it
        [{"prompt": "5="}],
        reward_model=tmp_path / "reward" / "model",
        steps=2,
        directory=tmp_path / "ppo",
        prompts=8,
        kl_target=0.5,
        max_new_tokens=4,
        rank=2,
        progress=False,
    )
    # β moves, by its gain and at most a fifth of it
    weight = ppo.metrics["policy/kl_weight"][:, 0]
    assert 0.97 * 0.05 < weight[0] < 1.03 * 0.05
    assert weight[0] != 0.05
    # adapters are merged in what is saved, and only they moved
    started = bm.language.load(tmp_path / "ppo" / "start")
    np.testing.assert_array_equal(ppo.model.transformer.embedding, started.transformer.embedding)
    assert (ppo.model.transformer.layers.up.weight != started.transformer.layers.up.weight).any()
    assert jax.tree.structure(ppo.model.transformer) == jax.tree.structure(started.transformer)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            "grpo --model tiny-characters --data additoin",
            "unknown task or file 'additoin' (did you mean 'addition'?)",
        ),
        ("grpo --model nothing --data addition", "nor a new model (tiny-characters"),
        ("grpo --model tiny-characters --data addition --preset grop", "invalid choice: 'grop'"),
        ("grpo --model tiny-characters --data addition --group 1", "group is 1; allowed: at least 2"),
        ("grpo --model tiny-characters --data addition --reward regex:[", "is no regular expression"),
        ("grpo --model tiny-characters --data addition --reward os:nothing", "os has no function 'nothing'"),
        (
            "grpo --model tiny-characters --data addition --template {c}",
            "cannot be filled in; allowed fields: prompt",
        ),
        ("grpo --model tiny-characters --data addition --minibatches 7", "does not divide the 64 answers"),
        ("grpo --model tiny-characters --data addition --max-new-tokens 300", "more than the 256"),
        (
            "dpo --model tiny-characters --data nowhere.jsonl",
            "nowhere.jsonl is no file; preferences are JSONL",
        ),
        ("ppo --model tiny-characters --data addition --reward-model .", "is no reward model"),
        ("evaluate --model tiny-characters", "--data is missing"),
    ],
)
def test_bad_input_is_one_line(words, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput) as complaint:
        command(["language", *words.split()])
    assert said in str(complaint.value)
    assert "\n" not in str(complaint.value)
    assert not list(tmp_path.iterdir())


def test_fields_of_learners_are_flags(capsys):
    with pytest.raises(SystemExit):
        command(["language", "grpo", "--help", "--preset", "dapo"])
    text = capsys.readouterr().out
    assert "--kl-weight" in text
    assert "--clip-high" in text


def test_learners_are_final_and_their_fields_are_their_settings():
    from bellmark.language.learners import LEARNERS, learner_class, make_learner, presets_of

    for name in LEARNERS:
        cls = learner_class(name)
        assert dataclasses.is_dataclass(cls)
        assert cls.name == name
        for preset in presets_of(name):
            make_learner(name, {}, preset)
