"""Returns and advantages against loops that follow the definitions, and against numbers worked by hand.

The loops know episodes as lists of steps, not as factors: what the recursions must get right is the endings.
"""

import numpy as np
import pytest

from arrays import on_numpy
from bellmark.maths import returns

discounted_return = on_numpy(returns.discounted_return)
episode_completes = on_numpy(returns.episode_completes)
episode_start = on_numpy(returns.episode_start)
generalised_advantage = on_numpy(returns.generalised_advantage)
lambda_return = on_numpy(returns.lambda_return)
n_step_return = on_numpy(returns.n_step_return)
td_error = on_numpy(returns.td_error)

TOLERANCE = {"rtol": 2e-5, "atol": 2e-5}  # float32 sums of a few dozen terms
DISCOUNT, TRACE_DECAY = 0.9, 0.7


def steps(time=23, count=5, seed=0):
    """Random steps in which terminations, truncations and both at once occur, also at the last step."""
    rng = np.random.default_rng(seed)
    terminated, truncated = (rng.random((2, time, count)) < 0.15).astype(bool)
    terminated[3, 0] = truncated[3, 0] = True
    terminated[-1, 1], truncated[-1, 2] = True, True
    terminated[-1, 0] = truncated[-1, 0] = False
    reward, value, next_value = rng.normal(size=(3, time, count)).astype(np.float32)
    return reward, value, next_value, terminated, truncated


def factors(terminated, truncated):
    return (1.0 - terminated).astype(np.float32), (1.0 - (terminated | truncated)).astype(np.float32)


def n_step(reward, next_value, terminated, truncated, t, n):
    """R_t + γR_{t+1} + … for at most n steps; what the ending adds is decided where the sum stops."""
    total, weight = 0.0, 1.0
    for k in range(t, len(reward)):
        total += weight * reward[k]
        weight *= DISCOUNT
        last = k == len(reward) - 1 or k - t + 1 == n
        if terminated[k]:
            return total
        if truncated[k] or last:
            return total + weight * next_value[k]
    raise AssertionError


def steps_left(terminated, truncated, t):
    k = t
    while k < len(terminated) - 1 and not (terminated[k] or truncated[k]):
        k += 1
    return k - t + 1


def loop(function, reward, *columns):
    out = np.zeros_like(reward)
    for b in range(reward.shape[1]):
        for t in range(reward.shape[0]):
            out[t, b] = function(reward[:, b], *(column[:, b] for column in columns), t)
    return out


def test_by_hand():
    """Three steps, γ = ½, λ = ½, V = 4 at every successor: the last step is cut, or terminated, or both."""
    reward, value = np.array([1.0, 2.0, 4.0], np.float32), np.zeros(3, np.float32)
    four = np.full(3, 4.0, np.float32)
    goes_on, ends = np.ones(3, np.float32), np.array([1.0, 1.0, 0.0], np.float32)
    # truncated: 4 + ½·4 = 6; 2 + ½(½·4 + ½·6) = 4.5; 1 + ½(½·4 + ½·4.5) = 3.125
    cut = lambda_return(reward, four, goes_on, ends, 0.5, 0.5)
    np.testing.assert_array_equal(cut, [3.125, 4.5, 6.0])
    # the data ends there without an ending: the same numbers
    np.testing.assert_array_equal(lambda_return(reward, four, goes_on, goes_on, 0.5, 0.5), [3.125, 4.5, 6.0])
    # terminated, truncated as well or not: 4; 2 + ½(2 + 2) = 4; 1 + ½(2 + 2) = 3
    over = lambda_return(reward, four, ends, ends, 0.5, 0.5)
    np.testing.assert_array_equal(over, [3.0, 4.0, 4.0])
    np.testing.assert_array_equal(discounted_return(reward, ends, 0.5), [3.0, 4.0, 4.0])
    np.testing.assert_array_equal(n_step_return(reward, four, goes_on, ends, 0.5, 2), [3.0, 5.0, 6.0])
    np.testing.assert_array_equal(td_error(reward, four, four, ends, 0.5), [-1.0, 0.0, 0.0])
    advantage = generalised_advantage(reward, value, four, ends, ends, 0.5, 0.5)
    # δ = 3, 4, 4; 4 + ¼·4 = 5; 3 + ¼·5 = 4.25
    np.testing.assert_array_equal(advantage, [4.25, 5.0, 4.0])


def test_discounted_return():
    reward, _, _, terminated, truncated = steps()

    def definition(reward, terminated, truncated, t):
        left = steps_left(terminated, truncated, t)
        return sum(DISCOUNT**k * reward[t + k] for k in range(left))

    got = discounted_return(reward, factors(terminated, truncated)[1], DISCOUNT)
    np.testing.assert_allclose(got, loop(definition, reward, terminated, truncated), **TOLERANCE)


@pytest.mark.parametrize("n", [1, 2, 3, 7, 100])
def test_n_step_return(n):
    reward, _, next_value, terminated, truncated = steps()
    got = n_step_return(reward, next_value, *factors(terminated, truncated), DISCOUNT, n)
    want = loop(lambda *a: n_step(*a, n), reward, next_value, terminated, truncated)
    np.testing.assert_allclose(got, want, **TOLERANCE)


def test_n_step_return_needs_a_step():
    one = np.ones(1, np.float32)
    with pytest.raises(ValueError, match="steps is 0"):
        n_step_return(one, one, one, one, 0.9, 0)


@pytest.mark.parametrize("trace_decay", [0.0, TRACE_DECAY, 1.0])
def test_lambda_return_is_the_weighted_sum_of_n_step_returns(trace_decay):
    """G^λ = (1 − λ) Σ_n λ^{n−1} G^(n), the last one with all the weight that is left."""
    reward, _, next_value, terminated, truncated = steps()

    def definition(reward, next_value, terminated, truncated, t):
        left = steps_left(terminated, truncated, t)
        weights = [(1 - trace_decay) * trace_decay ** (n - 1) for n in range(1, left)] + [
            trace_decay ** (left - 1)
        ]
        sums = [n_step(reward, next_value, terminated, truncated, t, n) for n in range(1, left + 1)]
        return np.dot(weights, sums)

    got = lambda_return(reward, next_value, *factors(terminated, truncated), DISCOUNT, trace_decay)
    np.testing.assert_allclose(got, loop(definition, reward, next_value, terminated, truncated), **TOLERANCE)


@pytest.mark.parametrize("trace_decay", [0.0, TRACE_DECAY, 1.0])
def test_generalised_advantage_is_the_discounted_sum_of_td_errors(trace_decay):
    reward, value, next_value, terminated, truncated = steps()

    def definition(reward, value, next_value, terminated, truncated, t):
        total = 0.0
        for k in range(steps_left(terminated, truncated, t)):
            i = t + k
            following = 0.0 if terminated[i] else DISCOUNT * next_value[i]
            total += (DISCOUNT * trace_decay) ** k * (reward[i] + following - value[i])
        return total

    got = generalised_advantage(
        reward, value, next_value, *factors(terminated, truncated), DISCOUNT, trace_decay
    )
    want = loop(definition, reward, value, next_value, terminated, truncated)
    np.testing.assert_allclose(got, want, **TOLERANCE)


def test_advantage_plus_value_is_the_lambda_return_where_values_agree():
    """Â_t + V(s_t) = G^λ_t, given that V(s′_t) is V(s_{t+1}) where the episode goes on."""
    reward, value, next_value, terminated, truncated = steps()
    ended = terminated | truncated
    next_value[:-1] = np.where(ended[:-1], next_value[:-1], value[1:])
    ends = factors(terminated, truncated)
    advantage = generalised_advantage(reward, value, next_value, *ends, DISCOUNT, TRACE_DECAY)
    target = lambda_return(reward, next_value, *ends, DISCOUNT, TRACE_DECAY)
    np.testing.assert_allclose(advantage + value, target, **TOLERANCE)
    alone = generalised_advantage(reward, value, next_value, *ends, DISCOUNT, 0.0)
    np.testing.assert_allclose(alone, td_error(reward, value, next_value, ends[0], DISCOUNT), **TOLERANCE)


def test_environments_side_by_side_are_environments_one_by_one():
    reward, value, next_value, terminated, truncated = steps()
    ends = factors(terminated, truncated)
    together = generalised_advantage(reward, value, next_value, *ends, DISCOUNT, TRACE_DECAY)
    for b in range(reward.shape[1]):
        columns = (x[:, b] for x in (reward, value, next_value, *ends))
        alone = generalised_advantage(*columns, DISCOUNT, TRACE_DECAY)
        np.testing.assert_array_equal(together[:, b], alone)


def test_termination_wins_over_truncation():
    """Both flags at once: what V says of the successor must not matter."""
    reward, value, next_value, terminated, truncated = steps()
    terminated[5], truncated[5] = True, True
    other = next_value.copy()
    other[5] = 1e6
    ends = factors(terminated, truncated)
    for function in (
        lambda v: lambda_return(reward, v, *ends, DISCOUNT, TRACE_DECAY),
        lambda v: n_step_return(reward, v, *ends, DISCOUNT, 3),
        lambda v: generalised_advantage(reward, value, v, *ends, DISCOUNT, TRACE_DECAY),
    ):
        np.testing.assert_array_equal(function(next_value), function(other))


def test_where_episodes_begin_and_whether_they_end():
    # environment 0 starts afresh and ends at 1 and 4 of 0…5; environment 1 was under way, and ends at 2
    unbroken = np.ones((6, 2), np.float32)
    unbroken[[1, 4], 0] = 0
    unbroken[2, 1] = 0
    began = episode_start(unbroken, np.array([True, False]))
    np.testing.assert_array_equal(began[:, 0], [0, 0, 2, 2, 2, 5])
    np.testing.assert_array_equal(began[:, 1], [-1, -1, -1, 3, 3, 3])
    completes = episode_completes(unbroken)
    np.testing.assert_array_equal(completes[:, 0], [1, 1, 1, 1, 1, 0])
    np.testing.assert_array_equal(completes[:, 1], [1, 1, 1, 0, 0, 0])
