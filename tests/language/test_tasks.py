"""Tasks and rewards: every given answer is right, wrong ones are not, and files and functions are read with care."""

import json
import subprocess
import sys

import numpy as np
import pytest

from bellmark.errors import BadInput
from bellmark.language.evaluation import Answered
from bellmark.language.rewards import parts_of, reward_of, sentiment
from bellmark.language.tasks import TASKS, countdown_reward, read_records, task_of
from bellmark.language.warning_signs import WarningSigns


@pytest.mark.parametrize("name", TASKS)
def test_a_task_s_own_answers_are_right_and_others_are_not(name):
    task = task_of(name)
    total = len(task.questions) + len(task.held_out)
    assert len(task.held_out) == round(0.2 * total)
    # in a conversation the prompt does not say what is asked for: the environment knows
    asked = lambda record: (record["prompt"], record["answer"] if task.turns > 1 else "")  # noqa: E731
    questions = {asked(record) for record in task.questions}
    assert len(questions) == len(task.questions)
    assert not questions & {asked(record) for record in task.held_out}
    for record in task.questions + task.held_out:
        assert sum(parts_of(task.reward(record, record["answer"])).values()) == pytest.approx(1.0)
        for wrong in ("", "77", "no"):
            assert sum(parts_of(task.reward(record, wrong)).values()) < 0.5 or record["answer"] == wrong
    # what is held out does not depend on the seed of a run, or on the day
    assert task_of(name).held_out == task.held_out


def test_answers_are_what_they_should_be():
    numbers = {record["prompt"]: record["answer"] for record in task_of("addition").questions}
    assert all(eval(prompt.rstrip("=")) == int(answer) for prompt, answer in numbers.items())
    one = task_of("sorting").questions[0]
    assert one["answer"] == "".join(sorted(one["digits"]))
    one = task_of("reversing").questions[0]
    assert one["answer"] == one["digits"][::-1]


@pytest.mark.parametrize(
    ("text", "reward"),
    [
        ("3*5+7", 1.0),
        (" (7 + 3*5) ", 1.0),
        ("3+5+7", 0.1),
        ("22", 0.0),
        ("3*5+7+0", 0.0),
        ("3*5*", 0.0),
        ("__import__('os')", 0.0),
        ("9**9**9", 0.0),
        ("(" * 300, 0.0),
    ],
)
def test_countdown_looks_at_numbers_and_value(text, reward):
    question = {"numbers": [3, 5, 7], "target": 22}
    assert sum(countdown_reward(question, text).values()) == pytest.approx(reward)


def test_rewards_by_name():
    question = {"prompt": "7+5=", "answer": "12"}
    assert [reward_of("number")(question, text) for text in (" 12.", "is 12, not 13", "13", "")] == [
        1,
        1,
        0,
        0,
    ]
    assert [reward_of("exact")(question, text) for text in (" 12 ", "12.", "")] == [1, 0, 0]
    assert reward_of("regex:^[a-z]+$")(question, "yes") == 1
    assert (
        -1
        <= sentiment({}, "an awful and terrible day")
        < sentiment({}, "a day")
        == 0
        < sentiment({}, "lovely")
    )
    # fractions survive
    assert parts_of({"a": 0.25, "b": np.float32(0.5)}) == {"a": 0.25, "b": 0.5}
    for broken in (float("nan"), {"a": float("inf")}, "many", None, {}):
        with pytest.raises(ValueError, match="it returned"):
            parts_of(broken)


def test_a_saved_run_never_imports_a_reward(tmp_path):
    (tmp_path / "mine.py").write_text("open('imported', 'w')\ndef reward(question, text): return 1.0\n")
    code = "from bellmark.language.rewards import reward_of; reward_of('mine:reward', from_file={})"
    said = subprocess.run(
        [sys.executable, "-c", code.format(True)], cwd=tmp_path, capture_output=True, text=True
    ).stderr
    assert "used your own reward mine:reward; name it again: --reward mine:reward" in said
    assert not (tmp_path / "imported").exists()
    subprocess.run([sys.executable, "-c", code.format(False)], cwd=tmp_path, check=True)
    assert (tmp_path / "imported").exists()


def test_files_of_questions(tmp_path):
    file = tmp_path / "questions.jsonl"
    file.write_text("".join(json.dumps({"prompt": f"{i}", "answer": f"{i}"}) + "\n" for i in range(10)))
    task = task_of(file, template="say {prompt}")
    assert (len(task.questions), len(task.held_out)) == (8, 2)
    assert all(record["prompt"].startswith("say ") for record in task.questions)
    assert task.reward({"answer": "3"}, "3") == 1
    apart = task_of(file, held_out=file)
    assert len(apart.questions) == len(apart.held_out) == 10
    file.write_text('{"prompt": "a"}\n{"promt": "b"}\n')
    with pytest.raises(BadInput, match=r"line 2 of .* allowed: \{\"prompt\": \"…\"\}"):
        read_records(file)
    file.write_text("\n")
    with pytest.raises(BadInput, match="is empty"):
        read_records(file)


def test_pass_at_k_is_unbiased():
    rewards = np.array([[1.0, 0.0, 0.0, 1.0], [0.0, 0.0, 0.0, np.nan]])
    result = Answered(["a", "b"], [["x"] * 4] * 2, rewards, np.ones((2, 4), bool))
    assert result.pass_at(1) == pytest.approx(0.25)
    # of the six pairs of the first question's answers one has none that is right
    assert result.pass_at(2) == pytest.approx(0.5 * 5 / 6)
    assert result.pass_at(4) == 0.5
    low, high = result.interval()
    assert 0 <= low < 0.25 < high <= 0.5


@pytest.mark.parametrize(
    ("metrics", "sign"),
    [
        ({"groups/without_signal": 1.0}, "no learning signal"),
        ({"groups/without_signal": 0.75}, "zero-variance groups"),
        ({"answers/truncated": 0.9}, "truncated answers"),
        ({"policy/kl_reference": 2.0}, "KL running away"),
        ({"policy/kl_whole": 30.0, "episode/length": 10.0}, "KL running away"),
        ({"sampler/mismatch": 0.2}, "sampler/trainer mismatch"),
        ({"answers/failed_rewards": 1.0}, "failed rewards"),
        ({"policy/entropy": 0.01, "episode/return": 0.5}, "entropy collapse"),
    ],
)
def test_signs_are_explained_once_and_counted(metrics, sign):
    signs = WarningSigns()
    sound = {
        "groups/without_signal": 0.25,
        "answers/truncated": 0.1,
        "policy/kl_reference": 0.01,
        "sampler/mismatch": 1e-6,
        "answers/failed_rewards": 0.0,
        "policy/entropy": 2.0,
        "episode/return": 0.5,
    }
    assert signs.look(sound) == []
    said = signs.look({**sound, **metrics})
    assert len(said) == 1
    assert said[0].startswith(f"{sign}: ")
    assert signs.look({**sound, **metrics}) == []
    assert signs.counts == {sign: 2}
    assert signs.summary == f"{sign} in 2 iterations"


def test_guessing_is_a_conversation():
    task = task_of("guessing")
    assert task.turns == 3
    assert task.environment is not None
    question = {"prompt": "guess 2-8:", "answer": "6"}
    assert task.environment(question, ["5"]) == "higher:"
    assert task.environment(question, ["5", "7"]) == "lower:"
    assert task.environment(question, ["what"]) == "a number:"
    assert task.environment(question, ["5", "7", "6"]) is None
    assert task.reward is not None
    assert task.reward(question, "5higher:7lower:6") == 1
    assert task.reward(question, "6lower:7") == 0
    assert task.reward(question, "what") == 0
    # every number of a range is asked for
    asked = [q["answer"] for q in [*task.questions, *task.held_out] if q["prompt"] == "guess 3-9:"]
    assert sorted(asked) == list("3456789")
