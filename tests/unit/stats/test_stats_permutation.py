"""Permutation tests against enumeration and scipy; max-T family-wise error by simulation."""

from itertools import combinations
from typing import Any

import numpy as np
import pytest
from scipy import stats

from auditor.stats import (
    StatisticsError,
    max_t_adjusted,
    max_t_sign_flip,
    max_t_two_sample,
    permutation_test,
)

ALTERNATIVES: list[Any] = ["two-sided", "greater", "less"]


@pytest.mark.parametrize("alternative", ALTERNATIVES)
def test_exact_form_equals_enumeration(alternative: Any) -> None:
    first, second = np.array([1.2, 0.4, 2.2, 0.4]), np.array([0.1, 0.4, -0.3, 0.9, 0.5])
    pooled = np.concatenate([first, second])
    values = []
    for chosen in combinations(range(9), 4):
        rest = [i for i in range(9) if i not in chosen]
        values.append(pooled[list(chosen)].mean() - pooled[rest].mean())
    null, observed = np.array(values), first.mean() - second.mean()
    expected = {
        "two-sided": np.abs(null) >= abs(observed) - 1e-9,
        "greater": null >= observed - 1e-9,
        "less": null <= observed + 1e-9,
    }[alternative].mean()
    result = permutation_test(first, second, alternative=alternative)
    assert result.p_value == pytest.approx(expected)
    assert (result.method, result.n) == ("permutation-exact", 9)


def test_exact_form_equals_scipy_for_any_statistic() -> None:
    rng = np.random.default_rng(1)
    first, second = rng.normal(0.5, 1, 6), rng.normal(0, 1, 7)
    ours = permutation_test(
        first,
        second,
        lambda a, b: np.median(a, axis=1) - np.median(b, axis=1),
        alternative="greater",
    )
    theirs = stats.permutation_test(
        (first, second),
        lambda a, b, axis: np.median(a, axis=axis) - np.median(b, axis=axis),
        vectorized=True,
        n_resamples=np.inf,
        alternative="greater",
    )
    assert (ours.p_value, ours.statistic) == pytest.approx((theirs.pvalue, theirs.statistic))


def test_monte_carlo_form_agrees_with_the_exact_one() -> None:
    rng = np.random.default_rng(2)
    first, second = rng.normal(0.6, 1, 8), rng.normal(0, 1, 8)
    exact = permutation_test(first, second)
    sampled = permutation_test(first, second, rng=rng, resamples=40_000, exact_up_to=1)
    assert (exact.method, sampled.method) == ("permutation-exact", "permutation-monte-carlo")
    assert sampled.p_value == pytest.approx(exact.p_value, abs=0.01)


def test_level_holds_under_the_null() -> None:
    """2,000 replications, 12 + 20 exponential rows, alpha = 5 %; three standard errors are 1.5 %."""
    rng = np.random.default_rng(3)
    p = np.array(
        [
            permutation_test(
                rng.exponential(size=12), rng.exponential(size=20), rng=rng, resamples=199
            ).p_value
            for _ in range(2000)
        ]
    )
    assert 0.035 <= (p <= 0.05).mean() <= 0.065


def test_constant_samples_are_no_evidence() -> None:
    assert permutation_test(np.full(5, 0.1), np.full(6, 0.1)).p_value == 1.0


def test_batching_does_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = np.random.default_rng(4).normal(size=(2, 20))
    whole = permutation_test(first, second, rng=np.random.default_rng(5), resamples=500)
    monkeypatch.setattr("auditor.stats._common.BATCH_VALUES", 400)
    assert permutation_test(first, second, rng=np.random.default_rng(5), resamples=500) == whole


def test_large_samples_need_a_generator_and_statistics_a_shape() -> None:
    with pytest.raises(StatisticsError, match="rng"):
        permutation_test(np.arange(30.0), np.arange(30.0))
    with pytest.raises(StatisticsError, match="shape"):
        permutation_test([1.0, 2.0], [3.0], lambda a, b: a)
    with pytest.raises(StatisticsError, match="NaN"):
        permutation_test([1.0, np.nan], [3.0])


def brute_force_max_t(observed: np.ndarray, null: np.ndarray, step_down: bool) -> np.ndarray:
    order = np.argsort(-observed)
    adjusted = np.zeros(len(observed))
    previous = 0.0
    for rank, hypothesis in enumerate(order):
        competitors = order[rank:] if step_down else order
        hits = sum(max(row[c] for c in competitors) >= observed[hypothesis] for row in null)
        previous = max(previous, (1 + hits) / (1 + len(null)))
        adjusted[hypothesis] = previous
    return adjusted


@pytest.mark.parametrize("step_down", [True, False])
def test_max_t_equals_a_plain_loop(step_down: bool) -> None:
    rng = np.random.default_rng(6)
    null = np.abs(rng.normal(size=(150, 7)))
    observed = np.abs(rng.normal(size=7)) * 2
    assert max_t_adjusted(observed, null, step_down) == pytest.approx(
        brute_force_max_t(observed, null, step_down)
    )


def test_step_down_is_never_above_single_step_nor_below_the_raw_p() -> None:
    rng = np.random.default_rng(7)
    null, observed = np.abs(rng.normal(size=(400, 9))), np.abs(rng.normal(1, 1, size=9))
    raw = (1 + (null >= observed).sum(axis=0)) / 401
    down, single = max_t_adjusted(observed, null), max_t_adjusted(observed, null, step_down=False)
    assert (raw <= down + 1e-12).all() and (down <= single + 1e-12).all()


def test_perfectly_dependent_hypotheses_cost_nothing() -> None:
    rng = np.random.default_rng(8)
    column = np.abs(rng.normal(size=(500, 1)))
    adjusted = max_t_adjusted([2.0] * 10, np.repeat(column, 10, axis=1))
    assert adjusted == pytest.approx([(1 + (column >= 2).sum()) / 501] * 10)


@pytest.mark.parametrize("design", ["two-sample", "sign-flip"])
def test_family_wise_error_holds_beside_a_true_effect(design: str) -> None:
    """2,000 replications, 6 correlated columns of which one is shifted; alpha = 10 %, three s.e. are 2 %."""
    rng = np.random.default_rng(9)
    false_alarms = found = 0
    for _ in range(2000):
        rows = rng.normal(size=(24, 6)) + rng.normal(size=(24, 1))
        rows[:12, 0] += 2.5
        if design == "two-sample":
            p = max_t_two_sample(rows[:12], rows[12:], rng=rng, resamples=99)
        else:
            rows[12:, 0] += 2.5
            p = max_t_sign_flip(rows, rng=rng, resamples=99)
        false_alarms += bool((p[1:] <= 0.1).any())
        found += bool(p[0] <= 0.1)
    assert 0.06 <= false_alarms / 2000 <= 0.12
    assert found / 2000 > 0.8


def test_two_sample_and_one_sample_t_are_the_textbook_ones() -> None:
    rng = np.random.default_rng(10)
    first, second = rng.normal(size=(9, 3)), rng.normal(size=(11, 3))
    from auditor.stats.permutation import _absolute_t, _absolute_welch_t

    pooled = np.concatenate([first, second])
    member = np.arange(20)[None] < 9
    welch = np.abs(stats.ttest_ind(first, second, equal_var=False).statistic)
    assert _absolute_welch_t(member, pooled - pooled.mean(axis=0))[0] == pytest.approx(welch)
    one = np.abs(stats.ttest_1samp(first, 0).statistic)
    assert _absolute_t(np.ones((1, 9)), first)[0] == pytest.approx(one)


def test_columns_without_spread_are_quiet_unless_they_differ() -> None:
    first, second = np.zeros((8, 3)), np.zeros((8, 3))
    first[:, 0] = 1.0
    first[:, 1], second[:, 1] = np.random.default_rng(11).normal(size=(2, 8))
    p = max_t_two_sample(first, second, rng=np.random.default_rng(12))
    assert p[0] < 0.01 and p[2] == 1.0


def test_max_t_refuses_shapes_that_do_not_fit() -> None:
    with pytest.raises(StatisticsError, match="shape"):
        max_t_adjusted([1.0, 2.0], np.ones((5, 3)))
    with pytest.raises(StatisticsError, match="columns"):
        max_t_two_sample(np.ones((3, 2)), np.ones((3, 1)), rng=np.random.default_rng(0))
    with pytest.raises(StatisticsError, match="NaN"):
        max_t_adjusted([np.nan], np.ones((5, 1)))
