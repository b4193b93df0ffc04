"""Natural gradient, TRPO, penalised PPO and ACKTR: their steps against the papers', and what they refuse."""

import dataclasses
from typing import Any, NamedTuple

import equinox as eqx
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from bellmark.algorithms.policy_gradient import natural_policy_gradient as natural_file
from bellmark.algorithms.policy_gradient import trpo as trpo_file
from bellmark.algorithms.policy_gradient.acktr import ACKTR, as_matrices, curvature
from bellmark.algorithms.policy_gradient.natural_policy_gradient import NaturalPolicyGradient
from bellmark.algorithms.policy_gradient.ppo_penalty import PPOPenalty
from bellmark.algorithms.policy_gradient.trpo import TRPO
from bellmark.envs.gymnasium import HostEnvironments
from bellmark.errors import BadInput
from bellmark.experience.host_rollout import HostProblem
from bellmark.experience.rollout import CompiledProblem
from bellmark.maths import fisher
from small_environments import Countdown, Tracking

KEY = jax.random.key(0)
SMALL = {"environments": 4, "rollout_length": 16, "hidden": (6,)}


class OneForbidden(Countdown):
    """All actions but `steps % 3` are valid: discrete actions with masks."""

    def action_mask(self, state):
        return jnp.arange(3) != state.steps % 3


PROBLEMS = {
    "discrete": OneForbidden(terminates=7),
    "two choices": Countdown(truncates=5, actions="two choices", nested=True),
    "continuous": Tracking(),
}


def problem(name):
    return CompiledProblem(PROBLEMS[name], 10_000, None)


def natural(**fields):
    return NaturalPolicyGradient(**{**SMALL, "value_epochs": 2, "value_minibatches": 2, **fields})


def trpo(**fields):
    return TRPO(**{**SMALL, "value_epochs": 2, "value_minibatches": 2, **fields})


def penalised(**fields):
    return PPOPenalty(**{**SMALL, "epochs": 2, "minibatches": 2, **fields})


def acktr(**fields):
    return ACKTR(**{**SMALL, **fields})


MAKERS = {"natural_policy_gradient": natural, "trpo": trpo, "ppo_penalty": penalised, "acktr": acktr}


def collected(algorithm, name):
    """A state and a rollout, and the policy not at its start, where it is the same everywhere."""
    one = problem(name)
    state = algorithm.init(one, KEY)
    where = (lambda s: s.networks.actor) if hasattr(state, "networks") else (lambda s: s.actor.network)
    vector, unflatten = ravel_pytree(where(state))
    noise = jax.random.normal(jax.random.key(7), vector.shape)
    state = eqx.tree_at(where, state, unflatten(vector + 0.3 * noise))
    return jax.jit(lambda s: algorithm.collect(one, s))(state)


@pytest.fixture(scope="module", params=PROBLEMS)
def case(request):
    algorithm = trpo(entropy_weight=0.02, normalise_advantage=False)
    state, (rollout, finished) = collected(algorithm, request.param)
    return algorithm, state, (rollout, finished), jax.jit(algorithm.samples)(state, rollout)


def natural_step(algorithm):
    """The natural gradient's step on what `case` holds; only the actor's type is another file's."""

    def step(actor, samples):
        moved, metrics = algorithm.natural_step(natural_file.Actor(actor.network, actor.head), samples)
        return trpo_file.Actor(moved.network, moved.head), metrics

    return jax.jit(step)


class Both(NamedTuple):
    network: Any
    head: Any


def distribution_of(actor, samples):
    return actor.head.distribution(actor.network(samples.features), samples.action_mask)


def mean_kl(old, new, samples):
    return float(jnp.mean(distribution_of(old, samples).kl(distribution_of(new, samples))))


def test_the_step_is_the_natural_gradient_of_the_policy_gradient(case):
    """With everything written out: F from the KL's second derivative, the solve by NumPy, the gradient from ∇log π."""
    _, state, _, samples = case
    vector, unflatten = ravel_pytree(state.actor)

    def gain(v):
        distribution = distribution_of(unflatten(v), samples)
        score = jnp.mean(samples.advantage * distribution.log_prob(samples.action))
        return score + 0.02 * jnp.mean(distribution.entropy())

    old = distribution_of(state.actor, samples)
    divergence = lambda v: jnp.mean(old.kl(distribution_of(unflatten(v), samples)))  # noqa: E731
    gradient, fisher = jax.jit(lambda v: (jax.grad(gain)(v), jax.hessian(divergence)(v)))(vector)
    gradient, fisher = np.asarray(gradient, float), np.asarray(fisher, float)
    damped = fisher + 0.1 * np.eye(len(vector))
    direction = np.linalg.solve(damped, gradient)
    want = np.sqrt(2 * 0.01 / (gradient @ direction)) * direction

    exactly = {
        "conjugate_gradient_iterations": len(vector),
        "entropy_weight": 0.02,
        "normalise_advantage": False,
    }
    actor, metrics = natural_step(natural(**exactly))(state.actor, samples)
    step = np.asarray(ravel_pytree(actor)[0] - vector, float)
    np.testing.assert_allclose(step, want, rtol=2e-2, atol=2e-3 * np.abs(want).max())
    assert float(metrics["policy/kl"]) == pytest.approx(mean_kl(state.actor, actor, samples), rel=1e-3)
    # TRPO's gradient is of the surrogate, and at the old policy it is the same
    actor, metrics = jax.jit(trpo(**exactly).trusted_step)(state.actor, samples)
    step = np.asarray(ravel_pytree(actor)[0] - vector, float)
    share = 0.8 ** (float(metrics["step/tries"]) - 1)
    assert float(metrics["step/refused"]) == 0
    np.testing.assert_allclose(step, share * want, rtol=2e-2, atol=2e-3 * np.abs(want).max())


def test_an_accepted_step_never_breaks_the_limit_and_always_gains(case):
    """Whatever the advantages, the limit and the damping: bold ones too, where the quadratic is far off."""
    _, state, _, samples = case
    rng = np.random.default_rng(0)
    bold = trpo(line_search_steps=4)

    @jax.jit
    def attempt(actor, advantage, limit, damping):
        algorithm = eqx.tree_at(lambda a: (a.kl_limit, a.damping), bold, (limit, damping))
        changed = dataclasses.replace(samples, advantage=advantage)
        after, metrics = algorithm.trusted_step(actor, changed)
        old, new = (distribution_of(a, samples) for a in (actor, after))
        ratio = jnp.exp(new.log_prob(samples.action) - old.log_prob(samples.action))
        gain = jnp.mean((ratio - 1) * (advantage - advantage.mean()) / advantage.std())
        return after, metrics, jnp.mean(old.kl(new)), gain

    refused = 0
    for _ in range(40):
        limit, damping = (float(10 ** rng.uniform(*range)) for range in ((-4, 0.5), (-6, -1)))
        advantage = jnp.float32(rng.normal(size=64) * rng.choice([0.1, 10.0], 64))
        actor, metrics, divergence, gain = attempt(state.actor, advantage, limit, damping)
        if float(metrics["step/refused"]):
            refused += 1
            assert eqx.tree_equal(actor, state.actor)
            assert float(metrics["policy/kl"]) == 0
        else:
            assert float(divergence) <= limit * (1 + 1e-4) + 1e-6
            assert float(gain) > -1e-5
    assert refused < 40


def test_without_the_line_search_the_limit_breaks(case):
    """The natural gradient with the same bold limit oversteps it: so the test above could fail."""
    _, state, _, samples = case
    bold = natural(kl_limit=3.0, damping=1e-6, normalise_advantage=True)
    rng = np.random.default_rng(0)
    step = natural_step(bold)
    divergences = []
    for _ in range(6):
        changed = dataclasses.replace(samples, advantage=jnp.float32(rng.normal(size=64)))
        divergences.append(mean_kl(state.actor, step(state.actor, changed)[0], samples))
    assert max(divergences) > 3.0


@pytest.mark.parametrize("name", ["trpo", "natural_policy_gradient"])
def test_an_unsound_direction_is_refused_counted_and_changes_nothing(case, name, monkeypatch):
    _, state, _, samples = case
    algorithm = MAKERS[name]()
    improve = jax.jit(algorithm.trusted_step) if name == "trpo" else natural_step(algorithm)
    nan = dataclasses.replace(samples, advantage=samples.advantage.at[0].set(jnp.nan))
    actor, metrics = improve(state.actor, nan)
    assert eqx.tree_equal(actor, state.actor)
    assert (float(metrics["step/refused"]), float(metrics["step/broken"])) == (1, 1)
    assert all(np.isfinite(v) for k, v in metrics.items() if k.startswith(("step/", "policy/kl")))
    # nothing to be gained anywhere: nothing is broken, and nothing moves
    zero = dataclasses.replace(samples, advantage=jnp.zeros(64))
    actor, metrics = improve(state.actor, zero)
    assert eqx.tree_equal(actor, state.actor)
    assert float(metrics["step/broken"]) == 0


def test_a_run_goes_on_after_refused_steps(monkeypatch):
    """Fisher products that are NaN: every step is refused and told, the policy stays, the critic learns on."""
    monkeypatch.setattr(fisher, "fisher_vector_product", lambda *_: lambda v: v * jnp.nan)
    algorithm = trpo()
    state, data = collected(algorithm, "discrete")
    after, metrics = jax.jit(algorithm.update)(state, data)
    assert eqx.tree_equal(after.actor, state.actor)
    assert not eqx.tree_equal(after.critic, state.critic)
    assert (float(metrics["step/refused"]), float(metrics["step/broken"])) == (1, 1)
    assert all(np.isfinite(v) for k, v in metrics.items() if not k.startswith("episode/"))


def test_curvature_from_every_other_sample_is_nearly_that_of_all(case):
    _, state, _, samples = case
    steps = []
    for stride in (1, 2):
        actor, _ = natural_step(natural(curvature_stride=stride))(state.actor, samples)
        steps.append(np.asarray(ravel_pytree(actor)[0] - ravel_pytree(state.actor)[0]))
    cosine = steps[0] @ steps[1] / np.linalg.norm(steps[0]) / np.linalg.norm(steps[1])
    assert 0.7 < cosine < 0.99999


def test_penalised_loss_is_the_papers():
    algorithm = penalised(entropy_weight=0.1, value_weight=0.7)
    state, (rollout, _) = collected(algorithm, "discrete")
    samples = algorithm.samples(state, rollout)
    moved = eqx.tree_at(lambda n: n.actor.layers[-1].bias, state.networks, jnp.array([0.3, -0.2, 0.1]))
    loss, _ = algorithm.loss(moved, samples, jnp.float32(2.5))
    mask = np.asarray(samples.action_mask)
    logits = [jnp.where(mask, n.actor(samples.features), -jnp.inf) for n in (moved, state.networks)]
    new, old = (np.asarray(jax.nn.softmax(x), float) for x in logits)
    taken = np.arange(64), np.asarray(samples.action)
    gain = np.asarray(samples.advantage, float)
    gain = (gain - gain.mean()) / gain.std()
    want = (
        -np.mean(new[taken] / old[taken] * gain)
        + 2.5 * np.sum(old[mask] * np.log(old[mask] / new[mask])) / 64
    )
    error = np.asarray(moved.critic(samples.features))[:, 0] - np.asarray(samples.value_target)
    want += 0.7 * np.mean(error**2) / 2 + 0.1 * np.sum(new[mask] * np.log(new[mask])) / 64
    assert float(loss) == pytest.approx(want, rel=1e-4)


def test_the_penalty_follows_the_divergence():
    """Against what the divergence of the whole rollout says; large steps double it, none halve it."""
    penalties = {}
    for rate in (0.3, 1e-9):
        algorithm = penalised(learning_rate=rate, penalty=1.5)
        state, data = collected(algorithm, "discrete")
        after, metrics = jax.jit(algorithm.update)(state, data)
        samples = algorithm.samples(state, data[0])
        old, new = (distribution_of(Both(n.actor, n.head), samples) for n in (state.networks, after.networks))
        assert float(metrics["policy/kl"]) == pytest.approx(float(jnp.mean(old.kl(new))), rel=1e-3, abs=1e-6)
        assert float(metrics["policy/penalty"]) == 1.5
        penalties[rate] = float(after.penalty)
    assert penalties == {0.3: 3.0, 1e-9: 0.75}


def test_the_penalty_holds_the_policy_back():
    """The same data, one heavy penalty and one light: the heavy one's policy stays nearer."""
    state, data = collected(penalised(), "discrete")
    divergences = []
    for penalty in (100.0, 1e-3):
        algorithm = penalised(learning_rate=0.02, epochs=8)
        changed = eqx.tree_at(lambda s: s.penalty, state, jnp.float32(penalty))
        divergences.append(float(jax.jit(algorithm.update)(changed, data)[1]["policy/kl"]))
    assert divergences[0] < 0.3 * divergences[1]


def test_acktr_steps_along_the_factored_natural_gradient():
    """Actor and critic written out once more, layer by layer, with Kronecker products and NumPy's solver."""
    algorithm = acktr(entropy_weight=0.02)
    state, (rollout, _) = collected(algorithm, "continuous")
    samples = algorithm.samples(state, rollout)
    actor, _, metrics = jax.jit(algorithm.actor_step)(state.actor, state.actor_factors, samples)
    gradient = jax.grad(lambda a: algorithm.objective(a, samples)[0])(state.actor)
    deviation = np.exp(np.asarray(state.actor.head.log_std))
    mean = np.asarray(state.actor.network(samples.features))
    scores = jnp.float32((np.asarray(samples.action) - mean) / deviation**2)
    directions, product = solved(state.actor.network, samples, lambda _: scores, gradient.network)
    head = np.asarray(gradient.head.log_std) / 2.01
    product += head @ np.asarray(gradient.head.log_std)
    step = min(1.0, np.sqrt(2 * 0.001 / product))
    assert float(metrics["step/share"]) == pytest.approx(step, rel=1e-2)
    for got, old, want in zip(
        as_matrices(actor.network), as_matrices(state.actor.network), directions, strict=True
    ):
        np.testing.assert_allclose(got - old, step * want, rtol=3e-2, atol=3e-3 * np.abs(step * want).max())
    np.testing.assert_allclose(actor.head.log_std - state.actor.head.log_std, step * head, rtol=1e-2)

    critic, _, metrics = jax.jit(algorithm.critic_step)(state.critic, state.critic_factors, samples)
    loss, gradient = jax.value_and_grad(algorithm.value_loss)(state.critic, samples)
    ascent = jax.tree.map(jnp.negative, gradient)
    directions, product = solved(state.critic, samples, jnp.ones_like, ascent)
    step = min(1.0, np.sqrt(2 * 0.01 * 2 * float(loss) / product))
    assert float(metrics["step/value_share"]) == pytest.approx(step, rel=1e-2)
    for got, old, want in zip(as_matrices(critic), as_matrices(state.critic), directions, strict=True):
        np.testing.assert_allclose(got - old, step * want, rtol=3e-2, atol=3e-3 * np.abs(step * want).max())


def solved(network, samples, scores, gradient):
    """Every layer's ((A + π√λ) ⊗ (S + √λ/π))⁻¹ ∇, and the sum of their products with the gradient."""
    found, product = [], 0.0
    inputs, slopes = curvature(network, samples.features, scores)
    for x, g, wanted in zip(inputs, slopes, as_matrices(gradient), strict=True):
        x, g, wanted = (
            np.c_[np.asarray(x, float), np.ones(64)],
            np.asarray(g, float),
            np.asarray(wanted, float),
        )
        a, s = x.T @ x / 64, g.T @ g / 64
        ratio = np.sqrt(np.trace(a) / len(a) / (np.trace(s) / len(s)))
        a, s = a + ratio * 0.1 * np.eye(len(a)), s + 0.1 / ratio * np.eye(len(s))
        found.append(np.linalg.solve(np.kron(a, s), wanted.ravel()).reshape(wanted.shape))
        product += np.sum(found[-1] * wanted)
    return found, product


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("algorithm", MAKERS)
def test_every_kind_of_action(algorithm, name):
    learner = MAKERS[algorithm](normalise_observations=True, normalise_rewards=True, entropy_weight=0.01)
    one = problem(name)
    learner.check(one)

    @jax.jit
    def run(state):
        return jax.lax.scan(lambda s, _: learner.step(one, s), state, length=3)

    start = learner.init(one, KEY)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(start))
    state, metrics = run(start)
    assert not np.array_equal(*(ravel_pytree(learner.policy(s).network)[0] for s in (start, state)))
    assert all(np.isfinite(v).all() for k, v in metrics.items() if not k.startswith("episode/"))
    assert all(float(v) == 0 for k in metrics if k.endswith("refused") for v in metrics[k])
    assert (metrics["policy/kl"] > 0).all()
    assert state.inputs.moments is not None
    assert float(state.inputs.moments.count) == pytest.approx(192, abs=0.1)


@pytest.mark.parametrize("algorithm", MAKERS)
def test_gymnasium_environments(algorithm):
    learner = MAKERS[algorithm](environments=2)
    environments = HostEnvironments(lambda: gymnasium.make("CartPole-v1"), 2, "CartPole-v1")
    host = HostProblem.open(environments, 1000, 500, seed=0)
    state, data = learner.collect(host, learner.init(host, KEY))
    after, metrics = jax.jit(learner.update)(state, data)
    environments.close()
    assert float(metrics["policy/kl"]) > 0
    assert not eqx.tree_equal(learner.policy(after).network, learner.policy(state).network)


REFUSED = [
    ("trpo", {"kl_limit": 0.0}, "kl_limit is 0.0; allowed: more than 0, finite"),
    ("trpo", {"kl_limit": -0.01}, "kl_limit is -0.01"),
    ("trpo", {"damping": 0.0}, "damping is 0.0"),
    ("trpo", {"backtrack": 1.0}, "backtrack is 1.0; allowed: between 0 and 1, both excluded"),
    ("trpo", {"line_search_steps": 0}, "line_search_steps is 0"),
    ("trpo", {"conjugate_gradient_iterations": 0}, "conjugate_gradient_iterations is 0"),
    ("trpo", {"curvature_stride": 3}, "curvature_stride is 3, which does not divide"),
    ("trpo", {"value_minibatches": 5}, "value_minibatches is 5, which does not divide"),
    ("natural_policy_gradient", {"kl_limit": 0.0}, "kl_limit is 0.0"),
    ("natural_policy_gradient", {"discount": 1.5}, "discount is 1.5"),
    ("ppo_penalty", {"kl_target": 0.0}, "kl_target is 0.0"),
    ("ppo_penalty", {"penalty": 0.0}, "penalty is 0.0"),
    ("acktr", {"kl_limit": 0.0}, "kl_limit is 0.0"),
    ("acktr", {"value_kl_limit": float("nan")}, "value_kl_limit is nan"),
    ("acktr", {"factor_decay": 1.5}, "factor_decay is 1.5; allowed: from 0 to 1"),
    ("acktr", {"hidden": (0,)}, "hidden"),
]


@pytest.mark.parametrize(("algorithm", "fields", "says"), REFUSED)
def test_hyperparameters_are_checked_in_one_line(algorithm, fields, says):
    with pytest.raises(BadInput, match=says) as refusal:
        MAKERS[algorithm](**fields).check(problem("discrete"))
    assert "\n" not in str(refusal.value)


class Pictures(Countdown):
    @property
    def observation_space(self):
        return gymnasium.spaces.Box(0, 255, (8, 8, 3), np.uint8)


def test_acktr_says_what_it_cannot_see():
    with pytest.raises(BadInput, match="acktr is for fully connected networks") as refusal:
        acktr().check(CompiledProblem(Pictures(), 1000, None))
    assert "\n" not in str(refusal.value)
    trpo().check(CompiledProblem(Pictures(), 1000, None))
