"""Every experiment: it runs, its picture and figures are kept, and its verdict is a function of the figures."""

import csv
import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from bellmark.errors import BadInput
from bellmark.report.experiments import (
    EXPERIMENTS,
    activations,
    aliased_corridor,
    base,
    baselines,
    discount_noise,
    entropy,
    experiment,
    random_walk,
    sample_reuse,
    staleness,
    time_limits,
    trust_regions,
)
from bellmark.report.experiments.base import Findings, Table
from bellmark.report.experiments.conduct import conduct
from bellmark.report.experiments.sampling import along_the_way, by_episode

FEW = {
    "cliff-walking": 6,
    "random-walk": 12,
    "step-sizes": 4,
    "maximisation-bias": 40,
    "planning-steps": 20,
    # of 40 seeds exponential ε finds it with 3: no more than chance may bring, once in twenty times
    "exploration": 80,
    "baselines": 8,
    "trace-decay": 8,
}
"""Seeds, as few as the claims can be told from chance with; 4 for the others."""

FINDINGS = {}


def table(**curves):
    """Curves that hardly differ from seed to seed."""
    noise = np.linspace(-0.001, 0.001, 4)[:, None]
    values = {name: np.asarray(curve, np.float64) + noise for name, curve in curves.items()}
    return Table("across", np.arange(1.0, 1.0 + len(next(iter(curves.values())))), "measured", values)


def made():
    """Figures by which the claims of the experiments with neural networks hold; to learn them takes minutes."""
    t = trust_regions
    factors = t.FACTORS
    others = {t.CLIP: 0.02 * factors, t.PENALTY: 0.02 * factors, t.VANILLA: 0.1 * factors}
    largest = table(**{t.TRPO: 0.5 * t.LIMIT * factors, **others})
    largest.curves[t.TRPO][:] = 0.5 * t.LIMIT * factors
    level = np.full(len(factors), 300.0)
    returns = table(
        **{t.TRPO: level, t.CLIP: level, t.PENALTY: level, t.VANILLA: np.where(factors < t.BOLD, 300.0, 20.0)}
    )
    behind = {f"staleness measured, {actors} actors": actors - 1.0 for actors in staleness.ACTORS.tolist()}
    stale = {staleness.STALE: [100.0, 90.0, 60.0, 40.0], staleness.IN_STEP: [100.0, 70.0, 50.0, 30.0]}
    again = {
        sample_reuse.CLIPPED: [50.0, 80.0, 150.0, 120.0],
        sample_reuse.FREE: [51.0, 80.0, 140.0, 30.0],
    }
    rates = np.ones(len(activations.LEARNING_RATES))
    return {
        "trust-regions": Findings(
            range(4),
            {
                "divergence": largest,
                "largest": dataclasses.replace(largest, position=factors),
                "returns": dataclasses.replace(returns, position=factors),
            },
            {"the limit": t.LIMIT},
        ),
        "staleness": Findings(
            range(4), {"actors": table(**stale), "learning": table(A2C=[1.0, 2.0])}, behind
        ),
        "sample-reuse": Findings(
            range(4), {"epochs": table(**again), "learning": table(**{"1 epoch": [20.0, 40.0]})}
        ),
        "activations": Findings(
            range(4),
            {
                world: table(**{activations.TANH: tanh * rates, activations.RELU: rates})
                for world, tanh in zip(activations.WORLDS, (1.0, 2.0, 0.5), strict=True)
            },
        ),
    }


@pytest.fixture(params=EXPERIMENTS)
def found(request, monkeypatch):
    """An experiment and what it finds with few seeds, measured once for all tests."""
    monkeypatch.setattr(discount_noise, "DISCOUNTS", np.linspace(0.1, 0.9, 5))
    monkeypatch.setattr(discount_noise, "NOISES", np.linspace(0.0, 0.6, 4))
    monkeypatch.setattr(random_walk, "STEP_SIZES", np.array([0.02, 0.1, 0.4, 0.8]))
    monkeypatch.setattr(aliased_corridor, "ENVIRONMENTS", 32)
    monkeypatch.setattr(baselines, "SHARPNESS", np.array([0.0]))
    monkeypatch.setattr(time_limits, "LIMITS", np.array([5.0, 10.0]))
    monkeypatch.setattr(entropy, "WEIGHTS", entropy.WEIGHTS[[0, 4, -1]])
    one = experiment(request.param)
    if one.name in made():
        return one, made()[one.name]
    if one.name not in FINDINGS:
        FINDINGS[one.name] = one.measure(list(range(FEW.get(one.name, 4))) if one.least else [0])
    return one, FINDINGS[one.name]


def exchanged(findings, turned=False):
    """The same figures under each other's names, in reverse or turned by one, and other exact numbers."""
    tables = {}
    for name, table in findings.tables.items():
        values = list(table.curves.values())[::-1]
        values = values[:1] + values[:0:-1] if turned else values
        tables[name] = dataclasses.replace(table, curves=dict(zip(table.curves, values, strict=True)))
    exact = {name: value + 1.0 for name, value in findings.exact.items()}
    return dataclasses.replace(findings, tables=tables, exact=exact)


def test_the_claim_holds_and_other_figures_give_another_verdict(found):
    one, findings = found
    verdict = one.judge(findings)
    assert verdict.held, verdict.sentence
    assert verdict.sentence.startswith("The claim held: ")
    assert all(verdict.parts.values())
    # the best weight lies in the middle, where the reverse leaves it
    other = one.judge(exchanged(findings, turned=one.name == "entropy"))
    assert not other.held
    assert other.sentence.startswith("The claim did not hold (it failed in: ")
    failed = [part for part, held in other.parts.items() if not held]
    assert failed
    assert all(part in other.sentence for part in failed)


def test_everything_is_kept(found, tmp_path):
    one, findings = found
    # measured already: what is tested is what is done with it
    quick = dataclasses.replace(one, measure=lambda seeds: findings)
    outcome = conduct(quick, findings.seeds, tmp_path)
    assert {file.name for file in outcome.files} == {path.name for path in tmp_path.iterdir()}
    with Image.open(tmp_path / "picture.png") as picture:
        assert picture.width >= 1200
        assert len(picture.convert("RGB").getcolors(maxcolors=2**24)) > 20
    for name, table in findings.tables.items():
        with (tmp_path / f"{name}.csv").open(encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == sum(np.size(values) for values in table.curves.values())
        label, values = next(iter(table.curves.items()))
        assert rows[0]["curve"] == label
        assert float(rows[0][table.measured]) == pytest.approx(float(values[0, 0]), rel=1e-9, nan_ok=True)
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["held"] is True
    assert result["verdict"] in outcome.paragraph
    assert result["claim"] == one.claim


def test_the_exact_numbers_of_the_corridor_are_those_published():
    assert aliased_corridor.worth(0.05) == pytest.approx(-82.11, abs=0.005)
    assert aliased_corridor.worth(0.95) == pytest.approx(-44.21, abs=0.005)
    assert aliased_corridor.worth(2 - 2**0.5) == pytest.approx(-(6 + 4 * 2**0.5), abs=1e-9)


def test_means_are_compared_with_their_uncertainty():
    rng = np.random.default_rng(0)
    noise = rng.normal(size=200)
    assert base.above(noise + 1.0, noise * 0.5)
    assert not base.above(rng.normal(size=200), rng.normal(size=200) + 0.05)
    assert base.above(np.array([2.0, 2.0]), np.array([1.0, 1.0]))


def test_episodes_are_those_of_the_learners_own_loop():
    from bellmark.algorithms.tabular.problem import TableProblem
    from bellmark.algorithms.tabular.q_learning import QLearning
    from bellmark.mdp.examples import cliff_walking

    learner, mdp = QLearning(discount=1.0, step_size=0.5), cliff_walking()
    seen = by_episode(learner, mdp, [3, 4], 20, keep_tables=True)
    problem = TableProblem.sampled(mdp)
    state = learner.init(problem, 4)
    _, metrics = learner.step(problem, state, int(seen.lengths[1].sum()))
    assert np.array_equal(state.values, seen.tables[1, -1])
    assert metrics["episode/return"] == pytest.approx(seen.returns[1].mean())
    [lengths] = along_the_way(
        learner, mdp, [4], np.array([1.0, 50.0]), lambda _, state: [float(state.place[3])]
    )
    assert lengths.tolist() == [[1.0, 50.0]]


def test_too_few_seeds_are_refused(tmp_path):
    with pytest.raises(BadInput, match="seeds is 1; cliff-walking compares means over seeds: at least 2"):
        conduct(experiment("cliff-walking"), [0], tmp_path)


def test_trust_regions_measures_what_is_judged_and_drawn(monkeypatch):
    """One learner of the four, and so little of it that nothing can be claimed: the others compile for minutes."""
    monkeypatch.setattr(trust_regions, "ITERATIONS", 4)
    monkeypatch.setattr(trust_regions, "LENGTH", 16)
    monkeypatch.setattr(trust_regions, "FACTORS", np.array([0.0, 1.0]))
    learner, knob = trust_regions.learners()[trust_regions.VANILLA]
    returns, divergence = trust_regions._learn(dataclasses.replace(learner, hidden=(4,)), knob, [0, 1, 2])
    assert returns.shape == (2, 3)
    assert divergence.shape == (2, 3, 4)
    assert np.abs(divergence[0]).max() < 1e-6  # a step of no size moves nothing
    assert divergence[1].min() > 1e-6


def test_staleness_is_measured(monkeypatch):
    monkeypatch.setattr(staleness, "STEPS", 200)
    monkeypatch.setattr(staleness, "POINTS", 1)
    monkeypatch.setattr(staleness, "HIDDEN", (4,))
    returns, behind = staleness._returns(4, 4, [0, 1])
    assert returns.shape == (2, 1)
    # all actors begin with the learner of version 0: the first of five rounds is 1.5 behind, the others 3
    assert behind == pytest.approx((1.5 + 4 * 3) / 5)


def test_the_clip_matters_where_samples_are_used_again(monkeypatch):
    monkeypatch.setattr(sample_reuse, "ITERATIONS", 4)
    monkeypatch.setattr(sample_reuse, "LENGTH", 16)
    monkeypatch.setattr(sample_reuse, "POINTS", 2)
    monkeypatch.setattr(sample_reuse, "HIDDEN", (4,))
    monkeypatch.setattr(sample_reuse, "CLIP", 1e-6)
    found = sample_reuse._learn(3, [0, 1])
    assert found.shape == (2, 2, 2)
    assert np.isfinite(found).all()
    assert not np.array_equal(found[0], found[1])


def test_each_learning_rate_has_its_own_run(monkeypatch):
    """One of the six programs that the experiment compiles."""
    monkeypatch.setattr(activations, "ITERATIONS", 3)
    monkeypatch.setattr(activations, "LENGTH", 16)
    monkeypatch.setattr(activations, "POINTS", 1)
    monkeypatch.setattr(activations, "HIDDEN", (4,))
    monkeypatch.setattr(activations, "LEARNING_RATES", np.array([1e-3, 0.1]))
    relu = activations._learn("CartPole-v1", "relu", activations.WORLDS["CartPole-v1"], [0, 1])
    assert relu.shape == (2, 2)
    assert not np.array_equal(relu[:, 0], relu[:, 1])
