"""Table learners against the exact answer, and learners that are broken on purpose against the same check.

The check: eight seeds learn under their theorem's conditions (every pair tried for ever, step sizes of Robbins and
Monro). Their mean must agree with the exact answer within 5 standard errors (wrong by chance less than once in 10⁶
entries, were the errors normal) and a bias of 2 % of the values' range, which finite learning leaves behind; and no
seed may be further off than 15 % of that range.

Its power: with what probability the check catches one entry whose mean is off by a share of the range, where seeds
spread normally around it (`caught`; 20,000 draws, held by `test_the_power_of_the_check`)

    seeds' standard deviation     off by 3 %     4 %     6 %     10 %     15 %     0: false alarm
    0.5 % of the range                  0.70    1.00    1.00     1.00     1.00     0
    1 %                                 0.11    0.70    0.98     1.00     1.00     0
    2 %                                 0.02    0.11    0.70     1.00     1.00     0
    3 %                                 0.01    0.03    0.27     0.97     1.00     < 0.001

That test also holds what learners really spread by against this table. The ones that are broken on purpose are
caught with more than 0.999 each, by the bias and the spread that they show.
"""

import dataclasses

import numpy as np
import pytest

from bellmark.algorithms import algorithm_class
from bellmark.algorithms.exact import evaluate_policy, solve
from bellmark.algorithms.tabular import q_learning, sarsa, td
from bellmark.algorithms.tabular.exploration import choose, scan
from bellmark.algorithms.tabular.kernels import learner_kernel
from bellmark.algorithms.tabular.loop import loop_around
from bellmark.algorithms.tabular.prediction import follow
from bellmark.algorithms.tabular.problem import TableProblem
from bellmark.algorithms.tabular.step_sizes import step_size
from bellmark.mdp import FiniteMDP, examples

SEEDS = 8
DISCOUNT = 0.8
ROBBINS_MONRO = {"step_size": 1.0, "step_size_schedule": "polynomial", "step_size_power": 0.75}


def small_garnet() -> FiniteMDP:
    """Eight states that never end, three successors each."""
    rng = np.random.default_rng(7)
    successors = np.stack([rng.choice(8, 3, replace=False) for _ in range(16)]).reshape(8, 2, 3)
    return FiniteMDP.from_arrays(successors, rng.dirichlet(np.ones(3), (8, 2)), rng.normal(size=(8, 2, 3)))


def masked() -> FiniteMDP:
    """Five states of which one is terminal, some actions missing, ends on the way, rewards that depend on s′."""
    rng = np.random.default_rng(3)
    successors = rng.integers(0, 5, (5, 3, 3))
    available = np.array([[1, 1, 1], [1, 0, 1], [0, 1, 0], [1, 1, 0], [0, 0, 0]], bool)
    terminations = rng.random((5, 3, 3)) < 0.15
    return FiniteMDP.from_arrays(
        successors,
        np.where(available[..., None], rng.dirichlet(np.ones(3), (5, 3)), 0.0),
        rng.normal(size=(5, 3, 3)),
        available=available,
        terminations=terminations,
    )


def deterministic() -> FiniteMDP:
    """A ring of six states with a short cut and an end, no chance anywhere."""
    successors = np.array([[[(s + 1) % 6], [(s + 3) % 6]] for s in range(6)])
    terminations = np.zeros((6, 2, 1), bool)
    terminations[5, 0] = True
    rewards = np.array([[0.0, -1.0], [1.0, 0.0], [0.0, 0.5], [-2.0, 0.0], [0.0, 0.3], [3.0, -1.0]])
    return FiniteMDP.from_arrays(successors, np.ones((6, 2, 1)), rewards, terminations=terminations)


MODELS = {
    "garnet": small_garnet(),
    "masked": masked(),
    "grid world": examples.grid_world(noise=0.2),
    "deterministic": deterministic(),
}


def best_exploring(mdp: FiniteMDP, epsilon: float) -> np.ndarray:
    """Q of the best ε-greedy policy: q = r + γ P[(1 − ε) max_a q + ε mean_a q], by sweeps."""
    q = np.zeros(mdp.available.shape)
    counts = np.maximum(mdp.available.sum(axis=1), 1)
    pairs = np.repeat(np.arange(q.size), np.diff(mdp.offsets))
    for _ in range(400):
        best = np.where(mdp.available, q, -np.inf).max(axis=1, initial=-np.inf)
        values = (1 - epsilon) * best + epsilon * np.where(mdp.available, q, 0.0).sum(axis=1) / counts
        values = np.where(mdp.terminal, 0.0, values)
        after = np.bincount(pairs, mdp.continuation * values[mdp.successors], q.size)
        q = np.where(mdp.available, mdp.rewards + DISCOUNT * after.reshape(q.shape), 0.0)
    return q


def learnt(learner, mdp: FiniteMDP, steps: int, time_limit: int | None = None) -> np.ndarray:
    """The tables of eight seeds, [seeds, S, W]."""
    problem = TableProblem.sampled(mdp, steps, time_limit)
    if learner.predicts:
        problem = dataclasses.replace(problem, optimal=solve(mdp, DISCOUNT).policy)
    states = [learner.init(problem, seed) for seed in range(SEEDS)]
    return np.stack([learner.table(learner.step(problem, state, steps)[0]) for state in states])


def errors_of(found: np.ndarray, exact: np.ndarray, entries: np.ndarray) -> np.ndarray:
    """Errors as shares of the values' range, [seeds, entries]."""
    return (found - exact)[:, entries] / max(np.ptp(exact[entries]), 0.1)


def sound(errors: np.ndarray) -> np.ndarray:
    """The check that this module's docstring states, of each entry; seeds along the first axis."""
    standard_error = errors.std(axis=0, ddof=1) / np.sqrt(SEEDS)
    near = np.abs(errors.mean(axis=0)) <= 5 * standard_error + 0.02
    return near & (np.abs(errors).max(axis=0) <= 0.15)


def agrees(found: np.ndarray, exact: np.ndarray, entries: np.ndarray) -> bool:
    return bool(sound(errors_of(found, exact, entries)).all())


def caught(bias: float, spread: float) -> float:
    """How likely the check catches an entry that is off by `bias` on average, seeds' standard deviation `spread`."""
    draws = bias + spread * np.random.default_rng(0).normal(size=(SEEDS, 20_000))
    return float((~sound(draws)).mean())


def test_the_power_of_the_check():
    """The docstring's table, and where in it sound learners are: what would be caught of a bias in theirs."""
    for spread, powers in {
        0.005: (0.70, 1.00, 1.00, 1.00, 1.00, 0.0),
        0.01: (0.11, 0.70, 0.98, 1.00, 1.00, 0.0),
        0.02: (0.02, 0.11, 0.70, 1.00, 1.00, 0.0),
        0.03: (0.01, 0.03, 0.27, 0.97, 1.00, 0.0),
    }.items():
        found = [caught(bias, spread) for bias in (0.03, 0.04, 0.06, 0.10, 0.15, 0.0)]
        assert found == pytest.approx(powers, abs=0.025)
        assert found[-1] < 1e-3
    for name, epsilon in {"q_learning": 1.0, "sarsa": 0.5}.items():
        for mdp in MODELS.values():
            learner = algorithm_class(name)(discount=DISCOUNT, epsilon=epsilon, **ROBBINS_MONRO)
            exact = solve(mdp, DISCOUNT).action_values if name == "q_learning" else best_exploring(mdp, 0.5)
            spreads = errors_of(learnt(learner, mdp, 600_000), exact, mdp.available).std(axis=0, ddof=1)
            assert caught(0.06, float(np.median(spreads))) > 0.9
            assert caught(0.15, float(spreads.max())) > 0.9


OFF_POLICY = {"q_learning": 1.0, "double_q_learning": 1.0, "q_lambda": 0.5}
ON_POLICY = ["sarsa", "expected_sarsa", "n_step_sarsa", "sarsa_lambda"]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", OFF_POLICY)
def test_off_policy_learners_find_the_optimum(name, model):
    mdp = MODELS[model]
    fields = {"trace_decay": 0.5} if name == "q_lambda" else {}
    learner = algorithm_class(name)(discount=DISCOUNT, epsilon=OFF_POLICY[name], **ROBBINS_MONRO, **fields)
    exact = solve(mdp, DISCOUNT).action_values
    assert agrees(learnt(learner, mdp, 600_000), exact, mdp.available)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", ON_POLICY)
def test_on_policy_learners_find_the_best_exploring_policy(name, model):
    mdp = MODELS[model]
    fields = {"trace_decay": 0.5} if name == "sarsa_lambda" else {"n": 2} if name == "n_step_sarsa" else {}
    learner = algorithm_class(name)(discount=DISCOUNT, epsilon=0.5, **ROBBINS_MONRO, **fields)
    assert agrees(learnt(learner, mdp, 600_000), best_exploring(mdp, 0.5), mdp.available)


@pytest.mark.parametrize("model", ["masked", "grid world", "deterministic"])
@pytest.mark.parametrize("visit", ["first", "every"])
def test_monte_carlo_control_finds_the_best_exploring_policy(visit, model):
    mdp = MODELS[model]
    # recent returns count more than the first policies' do, and the sum of squares still converges
    learner = algorithm_class("monte_carlo_control")(
        discount=DISCOUNT, epsilon=0.5, visit=visit, **ROBBINS_MONRO
    )
    assert agrees(learnt(learner, mdp, 600_000), best_exploring(mdp, 0.5), mdp.available)


@pytest.mark.parametrize("model", ["masked", "deterministic"])
def test_weighted_importance_sampling_finds_the_optimum(model):
    mdp = MODELS[model]
    # with ε = 0.5 the weights' variance is infinite here: episodes go on more often than greedy actions are taken
    learner = algorithm_class("off_policy_monte_carlo")(discount=DISCOUNT, epsilon=0.2)
    assert agrees(learnt(learner, mdp, 2_000_000), solve(mdp, DISCOUNT).action_values, mdp.available)


def test_ordinary_importance_sampling_finds_the_optimal_policy():
    mdp = MODELS["deterministic"]
    learner = algorithm_class("off_policy_monte_carlo")(discount=DISCOUNT, epsilon=0.5, sampling="ordinary")
    greedy = learnt(learner, mdp, 1_000_000).argmax(axis=2)
    assert (greedy == solve(mdp, DISCOUNT).policy).all()


@pytest.mark.parametrize("name", ["dyna_q", "prioritised_sweeping"])
def test_dyna_finds_the_optimum_where_there_is_no_chance(name):
    mdp = MODELS["deterministic"]
    learner = algorithm_class(name)(discount=DISCOUNT, epsilon=0.3, step_size=1.0)
    exact = solve(mdp, DISCOUNT).action_values
    assert np.abs(learnt(learner, mdp, 5_000) - exact).max() < 1e-3


def test_dyna_needs_fewer_steps_than_q_learning():
    mdp = examples.dyna_maze()
    q = {
        name: learnt(algorithm_class(name)(discount=DISCOUNT, **fields), mdp, 3_000)
        for name, fields in {
            "q_learning": {"step_size": 0.5},
            "dyna_q": {"step_size": 0.5, "planning_steps": 50},
            "prioritised_sweeping": {},
        }.items()
    }
    exact = solve(mdp, DISCOUNT).action_values
    reached = mdp.available & (exact > 0)
    error = {name: np.abs(table - exact)[:, reached].mean() for name, table in q.items()}
    assert error["dyna_q"] < 0.5 * error["q_learning"]
    assert error["prioritised_sweeping"] < 0.5 * error["q_learning"]


PREDICTORS = {
    "monte_carlo_prediction": {"step_size": 1.0, "step_size_schedule": "harmonic"},
    "td": ROBBINS_MONRO,
    "n_step_td": {**ROBBINS_MONRO, "n": 3},
    "td_lambda": {**ROBBINS_MONRO, "trace_decay": 0.6},
}


@pytest.mark.parametrize("model", ["masked", "grid world", "deterministic"])
@pytest.mark.parametrize("given", ["uniform", "optimal"])
@pytest.mark.parametrize("name", PREDICTORS)
def test_predictors_find_the_values_of_the_policy_they_are_given(name, given, model):
    mdp = MODELS[model]
    learner = algorithm_class(name)(discount=DISCOUNT, follow=given, epsilon=0.2, **PREDICTORS[name])
    problem = dataclasses.replace(TableProblem.sampled(mdp), optimal=solve(mdp, DISCOUNT).policy)
    exact = evaluate_policy(mdp, learner.behaviour(learner.init(problem, 0)), DISCOUNT)
    found = learnt(learner, mdp, 400_000)
    assert agrees(found, exact[:, None], ~mdp.terminal[:, None])


@pytest.mark.parametrize("visit", ["first", "every"])
def test_monte_carlo_prediction_averages_first_or_every_visit(visit):
    mdp = examples.random_walk()
    learner = algorithm_class("monte_carlo_prediction")(discount=1.0, visit=visit)
    found = learnt(learner, mdp, 400_000)
    assert agrees(found, np.arange(1, 6)[:, None] / 6, np.ones((5, 1), bool))


@pytest.mark.parametrize("traces", ["accumulating", "replacing", "dutch"])
def test_every_kind_of_trace_finds_the_same_values(traces):
    mdp = examples.random_walk()
    learner = algorithm_class("td_lambda")(discount=1.0, traces=traces, trace_decay=0.8, **ROBBINS_MONRO)
    assert agrees(learnt(learner, mdp, 400_000), np.arange(1, 6)[:, None] / 6, np.ones((5, 1), bool))


@pytest.mark.parametrize("name", [*OFF_POLICY, *ON_POLICY])
def test_a_time_limit_is_not_an_end(name):
    mdp = MODELS["garnet"]
    epsilon = OFF_POLICY.get(name, 0.5)
    fields = {"trace_decay": 0.5} if name.endswith("lambda") else {"n": 2} if "n_step" in name else {}
    learner = algorithm_class(name)(discount=DISCOUNT, epsilon=epsilon, **ROBBINS_MONRO, **fields)
    exact = solve(mdp, DISCOUNT).action_values if name in OFF_POLICY else best_exploring(mdp, 0.5)
    assert agrees(learnt(learner, mdp, 600_000, time_limit=4), exact, mdp.available)


# -- learners that are broken on purpose


@learner_kernel
def reward_forgotten(
    settings, q, visits, available, generator, clock, s, a, reward, following, terminated, truncated
):
    best, _, _ = scan(q, available, following)
    visits[s, a] += np.uint32(1)
    target = 0.0 if terminated else settings.discount * best
    q[s, a] += step_size(settings, visits[s, a]) * (target - q[s, a])
    return choose(settings, q, visits, available, generator, clock, following)


@learner_kernel
def wrong_sign(
    settings, q, visits, available, generator, clock, s, a, reward, following, terminated, truncated
):
    best, _, _ = scan(q, available, following)
    visits[s, a] += np.uint32(1)
    target = reward if terminated else reward - settings.discount * best
    q[s, a] += step_size(settings, visits[s, a]) * (target - q[s, a])
    return choose(settings, q, visits, available, generator, clock, following)


@learner_kernel
def bootstraps_at_the_end(
    settings, q, visits, available, generator, clock, s, a, reward, following, terminated, truncated
):
    best, _, _ = scan(q, available, following)
    visits[s, a] += np.uint32(1)
    target = reward + settings.discount * max(best, 0.0)
    q[s, a] += step_size(settings, visits[s, a]) * (target - q[s, a])
    return choose(settings, q, visits, available, generator, clock, following)


@learner_kernel
def ends_at_the_time_limit(
    settings, q, visits, available, generator, clock, s, a, reward, following, terminated, truncated
):
    best, _, _ = scan(q, available, following)
    visits[s, a] += np.uint32(1)
    target = reward if terminated or truncated else reward + settings.discount * best
    q[s, a] += step_size(settings, visits[s, a]) * (target - q[s, a])
    return choose(settings, q, visits, available, generator, clock, following)


@learner_kernel
def maximum_for_the_sample(
    settings, q, visits, available, generator, clock, s, a, reward, following, terminated, truncated
):
    """SARSA with Q-learning's target."""
    action = choose(settings, q, visits, available, generator, clock, following)
    best, _, _ = scan(q, available, following)
    visits[s, a] += np.uint32(1)
    target = reward if terminated else reward + settings.discount * best
    q[s, a] += step_size(settings, visits[s, a]) * (target - q[s, a])
    return action


@learner_kernel
def sample_for_the_maximum(
    settings, q, visits, available, generator, clock, s, a, reward, following, terminated, truncated
):
    """Q-learning with SARSA's target."""
    action = choose(settings, q, visits, available, generator, clock, following)
    visits[s, a] += np.uint32(1)
    target = reward if terminated else reward + settings.discount * q[following, action]
    q[s, a] += step_size(settings, visits[s, a]) * (target - q[s, a])
    return action


@learner_kernel
def undiscounted(
    settings, v, visits, available, generator, clock, s, a, reward, following, terminated, truncated, policy
):
    visits[s, 0] += np.uint32(1)
    target = reward if terminated else reward + v[following, 0]
    v[s, 0] += step_size(settings, visits[s, 0]) * (target - v[s, 0])
    return follow(policy, generator, following)


def broken(cls, begin, learn):
    """`cls` with another update."""
    fields = {"learn": learn, "loop": loop_around(begin, learn), "__module__": __name__}
    return type("Broken", (cls,), fields)


BROKEN = {
    "reward forgotten": (q_learning.QLearning, q_learning.act, reward_forgotten, 1.0, "grid world", None),
    "wrong sign": (q_learning.QLearning, q_learning.act, wrong_sign, 1.0, "garnet", None),
    "bootstraps at the end": (
        q_learning.QLearning,
        q_learning.act,
        bootstraps_at_the_end,
        1.0,
        "grid world",
        None,
    ),
    "ends at the time limit": (
        q_learning.QLearning,
        q_learning.act,
        ends_at_the_time_limit,
        1.0,
        "garnet",
        4,
    ),
    "sample for the maximum": (
        q_learning.QLearning,
        q_learning.act,
        sample_for_the_maximum,
        1.0,
        "garnet",
        None,
    ),
    "maximum for the sample": (sarsa.Sarsa, sarsa.act, maximum_for_the_sample, 0.5, "garnet", None),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_learner_that_is_broken_on_purpose_fails_the_same_check(name):
    cls, begin, learn, epsilon, model, limit = BROKEN[name]
    mdp = MODELS[model]
    right = cls(discount=DISCOUNT, epsilon=epsilon, **ROBBINS_MONRO)
    exact = best_exploring(mdp, epsilon) if cls is sarsa.Sarsa else solve(mdp, DISCOUNT).action_values
    assert agrees(learnt(right, mdp, 600_000, limit), exact, mdp.available)
    wrong = broken(cls, begin, learn)(discount=DISCOUNT, epsilon=epsilon, **ROBBINS_MONRO)
    errors = errors_of(learnt(wrong, mdp, 600_000, limit), exact, mdp.available)
    assert not sound(errors).all()
    # and not by luck: with other seeds its worst entry would be caught as well
    worst = np.abs(errors.mean(axis=0)).argmax()
    assert caught(abs(errors.mean(axis=0)[worst]), errors.std(axis=0, ddof=1)[worst]) > 0.999


def test_a_predictor_that_is_broken_on_purpose_fails_the_same_check():
    mdp = MODELS["grid world"]
    wrong = broken(td.TD, td.act_as_given, undiscounted)(discount=DISCOUNT, **ROBBINS_MONRO)
    policy = wrong.behaviour(wrong.init(TableProblem.sampled(mdp), 0))
    exact = evaluate_policy(mdp, policy, DISCOUNT)[:, None]
    assert not agrees(learnt(wrong, mdp, 400_000), exact, np.ones(exact.shape, bool))
