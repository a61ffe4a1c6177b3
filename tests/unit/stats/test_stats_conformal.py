"""Conformal p-values: formula, validity by simulation, agreement of threshold and p-value."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from auditor.stats import (
    StatisticsError,
    bank_size_for,
    conformal_p,
    fpr_given_bank,
    in_support,
    mondrian_p,
    p_floor,
    split_conformal_threshold,
)

scores = st.integers(-5, 5).map(float)


@settings(deadline=None, derandomize=True, database=None)
@given(st.lists(scores, min_size=1, max_size=40), st.lists(scores, min_size=1, max_size=5))
def test_p_is_the_formula_with_ties_counted_against_the_subject(
    bank: list[float], audited: list[float]
) -> None:
    expected = [(1 + sum(b >= s for b in bank)) / (len(bank) + 1) for s in audited]
    assert conformal_p(audited, bank).tolist() == expected
    assert conformal_p(audited[0], bank) == expected[0]
    assert min(expected) >= p_floor(len(bank))


@settings(deadline=None, derandomize=True, database=None)
@given(
    st.lists(scores, min_size=1, max_size=120), scores, st.sampled_from([0.01, 0.05, 0.1, 0.2, 1 / 3, 0.5])
)
def test_threshold_flags_exactly_where_p_is_at_most_alpha(
    bank: list[float], score: float, alpha: float
) -> None:
    if len(bank) < bank_size_for(alpha):
        with pytest.raises(StatisticsError, match="needs at least"):
            split_conformal_threshold(bank, alpha)
    else:
        assert (score > split_conformal_threshold(bank, alpha)) == (conformal_p(score, bank) <= alpha)


@pytest.mark.parametrize(
    ("alpha", "m"), [(0.05, 19), (0.01, 99), (0.5, 1), (1 / 3, 2), (0.001, 999), (0.03, 33)]
)
def test_bank_size_is_the_smallest_that_reaches_alpha(alpha: float, m: int) -> None:
    assert bank_size_for(alpha) == m
    assert p_floor(m) <= alpha < p_floor(m - 1)


def test_a_hundred_clean_adapters_cannot_pass_one_percent_after_any_correction() -> None:
    assert p_floor(100) == 1 / 101
    with pytest.raises(StatisticsError, match="1999"):
        split_conformal_threshold(np.arange(100.0), 0.01 / 20)


def test_p_is_valid_with_ties_and_uniform_when_randomised() -> None:
    """20,000 replications, bank of 39, scores rounded so that ties are common."""
    rng = np.random.default_rng(1)
    conservative, randomised = np.empty(20_000), np.empty(20_000)
    for i in range(20_000):
        drawn = np.round(2 * rng.normal(size=40))
        conservative[i] = conformal_p(drawn[0], drawn[1:])
        randomised[i] = conformal_p(drawn[0], drawn[1:], ties="randomised", rng=rng)
    for alpha in (0.05, 0.1, 0.3):
        assert (conservative <= alpha).mean() <= alpha
    assert stats.kstest(randomised, "uniform").pvalue > 0.01
    assert (randomised <= conservative).all() and randomised.min() > 0


def test_shape_is_kept_and_infinity_is_a_score() -> None:
    bank = [1.0, 2.0, np.inf]
    assert conformal_p(np.zeros((2, 3)), bank).shape == (2, 3)
    assert conformal_p(np.inf, bank) == 0.5
    assert conformal_p(-np.inf, bank) == 1.0


def test_uncomputable_scores_are_never_clean() -> None:
    with pytest.raises(StatisticsError, match="NaN"):
        conformal_p(np.nan, [1.0])
    with pytest.raises(StatisticsError, match="NaN"):
        conformal_p(1.0, [1.0, np.nan])
    with pytest.raises(StatisticsError, match="at least 1"):
        conformal_p(1.0, [])
    with pytest.raises(StatisticsError, match="rng"):
        conformal_p(1.0, [1.0], ties="randomised")
    with pytest.raises(StatisticsError, match="ties"):
        conformal_p(1.0, [1.0], ties="kind")  # type: ignore[call-overload]  # the point of the test


def test_mondrian_equals_conformal_within_each_stratum() -> None:
    rng = np.random.default_rng(2)
    bank, labels = rng.normal(size=60), ["lora", "dora", "full"] * 20
    result = mondrian_p([0.1, 0.2, 0.3, 9.0], ["dora", "full", "dora", "unseen"], bank, labels)
    dora, full = bank[1::3], bank[2::3]
    expected = [conformal_p(0.1, dora), conformal_p(0.2, full), conformal_p(0.3, dora), 1.0]
    assert result.p_value.tolist() == expected
    assert result.bank_size.tolist() == [20, 20, 20, 0]
    assert result.floor.tolist() == [1 / 21, 1 / 21, 1 / 21, 1.0]


def test_mondrian_refuses_labels_that_do_not_fit() -> None:
    with pytest.raises(StatisticsError, match="strata"):
        mondrian_p([1.0], ["a", "b"], [1.0], ["a"])
    with pytest.raises(StatisticsError, match="strata"):
        mondrian_p([1.0], ["a"], [1.0], [])


def test_realised_fpr_of_a_bank_is_beta_distributed() -> None:
    """3,000 banks of 99 at alpha = 5 %: each threshold's true rate is in the range 90 % of the time."""
    rng = np.random.default_rng(3)
    interval = fpr_given_bank(99, 0.05, 0.9)
    true = np.array([1 - split_conformal_threshold(rng.random(99), 0.05) for _ in range(3000)])
    inside = ((interval.low <= true) & (true <= interval.high)).mean()
    assert inside == pytest.approx(0.9, abs=0.02)
    assert true.mean() == pytest.approx(interval.estimate, abs=0.002)
    assert interval.estimate == 0.05


def test_support_holds_its_rate_for_subjects_like_the_bank() -> None:
    """2,000 replications, bank of 60 skewed and discrete rows, alpha = 5 %; three s.e. are 1.5 %."""
    rng = np.random.default_rng(4)
    outside = 0
    for _ in range(2000):
        rows = np.column_stack([rng.exponential(size=61), rng.integers(0, 3, size=61), rng.normal(size=61)])
        outside += not in_support(rows[:1], rows[1:], alpha=0.05).inside[0]
    assert 0.03 <= outside / 2000 <= 0.065


def test_foreign_recipe_is_outside_even_on_a_column_that_never_varied() -> None:
    rng = np.random.default_rng(5)
    bank = np.column_stack([rng.normal(size=120), np.full(120, 4.0)])
    support = in_support([[0.0, 4.0], [0.0, 64.0], [40.0, 4.0]], bank)
    assert support.inside.tolist() == [True, False, False]
    assert support.p_value[1] == p_floor(120)


def test_a_hole_between_clusters_is_outside() -> None:
    rng = np.random.default_rng(6)
    bank = np.concatenate([rng.normal(-8, 0.3, size=(80, 1)), rng.normal(8, 0.3, size=(80, 1))])
    assert in_support([[0.0], [8.0]], bank).inside.tolist() == [False, True]


def test_support_refuses_a_bank_that_could_never_say_outside() -> None:
    with pytest.raises(StatisticsError, match="needs at least 99"):
        in_support([[0.0]], np.zeros((50, 1)))
    with pytest.raises(StatisticsError, match="columns"):
        in_support([[0.0, 1.0]], np.zeros((120, 1)))
