"""Verdicts: what counts as solved, and what is said where nothing can be."""

import numpy as np
import pytest

import bellmark as bm
from bellmark.report.evaluate import summarise
from bellmark.report.finish import naming, verdict
from bellmark.report.optimality import NEAR, Optimality, sentence


def evaluation(means, episodes=4):
    returns = np.repeat(np.array(means, float)[:, None], episodes, axis=1)
    return summarise(returns, np.ones_like(returns, int), "World-v0", 0, True)


@pytest.mark.parametrize(
    "means, solved, words",
    [
        ([480], 1, "solved: mean return 480.0"),
        ([475], 1, "solved: mean return 475.0"),
        ([474.9], 0, "not solved: mean return 474.9"),
        ([480, 480], 2, "solved on all 2 seeds: "),
        ([480, 470], 1, "solved on 1 of 2 seeds: "),
        ([3, 4], 0, "not solved on any of 2 seeds: mean return 3.5"),
    ],
)
def test_solved_is_a_mean_return_at_the_threshold(means, solved, words):
    count, text = verdict(evaluation(means), 475.0)
    assert count == solved
    assert text.startswith(words)
    assert text.endswith("threshold 475")


def test_no_threshold_is_no_verdict():
    count, text = verdict(evaluation([3.0]), None)
    assert count is None
    assert text.endswith("no threshold is known for World-v0")
    assert verdict(evaluation([3.0]), None, None, "no gap to the optimum: endless")[1].endswith("endless")


def test_episodes_that_never_ended_are_counted():
    returns = np.ones((1, 4))
    given_up = summarise(returns, np.array([[5, -1, 5, -1]]), "World-v0", 0, True)
    assert "(2 episodes given up as endless)" in verdict(given_up, None)[1]


def test_near_optimal_is_a_share_of_what_random_misses():
    count, text = verdict(evaluation([1.0, 1.0]), None, Optimality((0.0, 0.5), (0.1, 0.6), 10.0, 0.9))
    assert count == 1
    assert text.startswith(
        "near-optimal on 1 of 2 seeds: mean gap to the optimum 0.25 (discount 0.9), 2.5 % of"
    )
    assert sentence(Optimality((10 * NEAR,), (1.0,), 10.0, 0.9))[0] == "near-optimal"
    assert sentence(Optimality((10 * NEAR + 1e-9,), (1.0,), 10.0, 0.9))[0] == "not near-optimal"
    assert sentence(Optimality((0.0,), (0.0,), 0.0, 0.9))[0] == "near-optimal"


def test_a_policy_that_never_ends_has_no_gap(tmp_path):
    """Undiscounted and paid for staying: the value of staying is infinite, and the run says why there is no gap."""
    mdp = bm.FiniteMDP.from_arrays(
        successors=np.array([[[0], [1]], [[1], [1]]]),
        probabilities=np.ones((2, 2, 1)),
        rewards=np.array([[1.0, 0.0], [0.0, 0.0]]),
    )
    small = {"environments": 2, "rollout_length": 8, "minibatches": 2, "hidden": (4,), "episodes": 1}
    run = bm.train(
        "ppo",
        mdp,
        steps=16,
        directory=tmp_path / "run",
        progress=False,
        discount=1.0,
        **small,
    )
    assert run.ending.optimality is None
    assert "no gap to the optimum: " in run.verdict


@pytest.mark.parametrize(
    "environment, added",
    [
        ({"id": "CartPole-v1", "reproducible": True, "options": {}}, ""),
        ({"id": "mine:World", "reproducible": False, "options": {}}, " --environment mine:World"),
        (
            {"id": "mine:World", "reproducible": False, "options": {"size": 3}},
            " --environment module:ClassName",
        ),
        ({"id": "<World>", "reproducible": False, "options": {}}, " --environment module:ClassName"),
    ],
)
def test_the_next_commands_name_what_they_need(environment, added):
    assert naming({"environment": environment}) == added
