"""Tails of sums of signs against every outcome, against scipy, and by simulation."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from watermark.detection import Decision, Detection, Method
from watermark.engine.mixture import word_evidence
from watermark.engine.sums import agreement
from watermark.tails import (
    SPENT,
    certified,
    hoeffding,
    monte_carlo,
    random_signs,
    rank_p,
    saddle_point,
    settle,
)

WEIGHTS = st.lists(st.floats(0.01, 10), min_size=1, max_size=10).map(np.array)


def every_sum(weights):
    return np.array(list(itertools.product([-1, 1], repeat=len(weights)))) @ weights


@given(WEIGHTS, st.integers(0, 2**10 - 1))
@settings(max_examples=60, deadline=None)
def test_bounds_are_never_below_the_tail_at_any_of_its_values(weights, which):
    sums = every_sum(weights)
    t = float(sums[which % len(sums)])
    exact = float((sums >= t - 1e-9 * np.abs(weights).sum()).mean())
    assert exact <= certified(t, weights) * (1 + 1e-9)
    assert certified(t, weights) <= hoeffding(t, weights) * (1 + 1e-9)


def test_the_largest_value_has_the_exact_tail():
    weights = np.random.default_rng(0).uniform(0.5, 2, size=40)
    assert certified(float(weights.sum()), weights) == pytest.approx(2.0**-40)


@pytest.mark.parametrize("t", [0.5, 2, 4, 6])
def test_saddle_point_is_near_the_tail(t):
    weights = np.abs(np.random.default_rng(1).normal(size=14))
    exact = float((every_sum(weights) >= t).mean())
    assert saddle_point(t, weights) == pytest.approx(exact, rel=0.12)
    assert saddle_point(-t, weights) == pytest.approx(1 - exact, rel=0.12)


def test_far_tails_follow_the_normal_one_for_many_weights():
    weights = np.ones(100_000)
    for deviations in (1, 4, 8):
        t = deviations * math.sqrt(len(weights))
        tail = stats.norm.sf(deviations)
        assert saddle_point(t, weights) == pytest.approx(tail, rel=0.02)
        assert tail <= certified(t, weights) <= 3.2 * tail


@pytest.mark.parametrize("k", [55, 60, 75, 92])
def test_ties_count_against_the_mark_as_in_the_binomial_tail(k):
    """At least k agreements of 100, not more than k: the published threshold code is one off."""
    exact = stats.binom.sf(k - 1, 100, 0.5)
    assert certified(2 * k - 100, np.ones(100)) >= exact
    rng = np.random.default_rng(2)
    ranked = [monte_carlo(2 * k - 100, np.ones(100), 199, rng) for _ in range(20)]
    assert np.mean(ranked) >= exact - 4 * math.sqrt(exact / (199 * 20))


def test_ranks_are_uniform_and_their_floor_is_one_over_all():
    rng = np.random.default_rng(3)
    assert rank_p(5.0, np.zeros(99)) == 0.01
    assert rank_p(0.0, np.zeros(99)) == 1.0
    ranks = [rank_p(float(v[0]), v[1:]) for v in rng.normal(size=(2000, 100))]
    assert stats.kstest(ranks, "uniform").pvalue > 1e-3


def test_settling_holds_every_level_over_both_ways():
    rng = np.random.default_rng(4)
    weights = np.abs(rng.normal(size=64))
    drawn = np.concatenate([signs @ weights for signs in random_signs(80_000, 64, rng)])
    bank = np.sort(drawn[:999])
    # The rank by bisection, so that many can be looked at.
    p = np.array([
        settle(certified(t, weights), lambda t=t: (1 + 999 - np.searchsorted(bank, t - 1e-9)) / 1000)[0]
        for t in drawn[40_000::5]
    ])  # fmt: skip
    for alpha in (0.5, 0.05, 0.01, 0.002):
        assert (p <= alpha).mean() <= alpha + 4 * math.sqrt(alpha / len(p)) + 4 * math.sqrt(alpha / 1000)
    assert settle(SPENT, lambda: 0.5) == (SPENT, Method.CERTIFIED)
    assert settle(SPENT * 1.01, lambda: 0.5) == (0.5 + SPENT, Method.MONTE_CARLO)


def test_the_best_of_a_thousand_users_keeps_the_level():
    rng, n, users = np.random.default_rng(5), 128, 1000
    alarms = 0
    for _ in range(60):
        values = rng.normal(size=n)
        best = max(float((signs @ values).max()) for signs in random_signs(users, n, rng))
        alarms += certified(best, values) * users <= 0.05
    assert alarms <= stats.binom.ppf(0.9999, 60, 0.05)


def test_prefixes_are_paid_for():
    rng, p = np.random.default_rng(6), []
    for i in range(300):
        values = rng.normal(size=60) * rng.choice([-1, 1], size=60)
        p.append(agreement(values, (20, 60)).settled(i)[0])
    assert stats.kstest(p, "uniform").pvalue > 1e-3
    strong = agreement(np.concatenate([np.ones(40), rng.normal(size=40)]), (40, 80))
    assert strong.bound <= 1e-10


def test_evidence_for_unknown_bits_has_mean_one():
    """The average over every outcome of the signs, for values as they are."""
    rng = np.random.default_rng(7)
    values = rng.normal(size=9)
    signs = np.array(list(itertools.product([-1, 1], repeat=9)))
    e = [math.exp(word_evidence((s[:8] * values[:8]).reshape(2, 4), s[8:] * values[8:]).log_e) for s in signs]
    assert np.mean(e) == pytest.approx(1.0, rel=1e-9)


def test_bits_are_those_of_the_payload_from_the_most_significant_on():
    read = Detection("x", 1.0, Method.EXACT, 0.0, 8, floor=0.1, payload=b"\x81\x02")
    assert read.document()["bits"] == "1000000100000010"
    assert Detection("x", 1.0, Method.EXACT, 0.0, 8, floor=0.1).bits == ()


def test_a_detection_says_when_no_picture_could_reach_the_level():
    few = Detection("ring", 2.0**-8, Method.EXACT, 1.0, 8, floor=2.0**-8)
    assert few.decide(1e-6) is Decision.INCONCLUSIVE
    assert few.decide(0.01) is Decision.MARKED
    assert few.corrected(4).p_value == 2.0**-6
    assert few.corrected(4).decide(0.01) is Decision.INCONCLUSIVE
    with pytest.raises(ValueError, match="cannot be"):
        Detection("x", 0.0, Method.EXACT, 1.0, 8, floor=0.1)
