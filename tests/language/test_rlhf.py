"""The story of four stages, with a judge who counts letters: what each stage hands to the next, and what is told."""

import json

import numpy as np
import pytest

from bellmark import rlhf
from bellmark.errors import BadInput
from bellmark.language.reward_model import load_reward_model
from language_worlds import tiny_model


def letters(question, text):
    """Remarks of a model that has learned nothing hold no words, but they hold letters."""
    return min(1.0, text.count("e") / 5)


@pytest.fixture(scope="module", autouse=True)
def judge():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rlhf, "sentiment", letters)
        yield


@pytest.fixture(scope="module")
def story(judge, tmp_path_factory):
    folder = tmp_path_factory.mktemp("rlhf") / "story"
    sizes = rlhf.Sizes(imitation=2, preferences=24, comparison=3, practice=3)
    return rlhf.rlhf_story(folder, model=tiny_model(), noise=0.0, sizes=sizes, progress=False)


def test_every_stage_leaves_a_run(story):
    names = {path.name for path in story.directory.iterdir()}
    assert names == {
        *("1-imitate", "2-preferences.jsonl", "3-reward", "4-practise"),
        *("reward_against_kl.png", "summary.json"),
    }
    assert [run.step for run in (story.imitator, story.reward, story.policy)] == [2, 3, 3]


def test_the_judge_prefers(story):
    lines = (story.directory / "2-preferences.jsonl").read_text().splitlines()
    pairs = [json.loads(line) for line in lines]
    assert 5 < len(pairs) <= 24
    assert all(letters({}, pair["chosen"]) > letters({}, pair["rejected"]) for pair in pairs)
    # a judge who errs turns some of them round
    noisy = rlhf.judged_pairs(story.imitator, 24, 0.4, 0)
    turned = [a["chosen"] == b["rejected"] for a, b in zip(noisy, pairs, strict=True)]
    assert 0 < sum(turned) < len(pairs)


def test_practice_starts_at_the_imitator_and_is_scored_by_the_reward_model(story):
    points = rlhf.reward_against_kl(story.policy)
    assert all(len(values) == 3 for values in points.values())
    np.testing.assert_allclose(points["kl"][0], 0, atol=1e-3)
    assert points["kl"][2] != 0
    file = story.policy.directory / "completions.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    first = [line for line in lines if line["iteration"] == 0]
    np.testing.assert_allclose(points["reward model"][0], np.mean([a["reward"] for a in first]), rtol=1e-5)
    assert load_reward_model(story.reward.directory / "model").head.shape == (16,)


def test_the_summary_is_of_the_runs(story):
    told = json.loads((story.directory / "summary.json").read_text())
    assert told == story.summary
    points = rlhf.reward_against_kl(story.policy)
    for name, values in points.items():
        np.testing.assert_allclose(told[f"{name}, first"], values[0])
        np.testing.assert_allclose(told[f"{name}, last"], values[-1])


def test_bad_input(story, tmp_path):
    with pytest.raises(BadInput, match="is not empty; --directory must name a new or empty folder"):
        rlhf.rlhf_story(story.directory)
    with pytest.raises(BadInput, match=r"noise is 0\.5; allowed: from 0 to below 0.5"):
        rlhf.rlhf_story(tmp_path / "new", noise=0.5)
    assert not list(tmp_path.iterdir())
