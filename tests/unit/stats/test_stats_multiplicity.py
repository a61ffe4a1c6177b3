"""Multiplicity corrections against statsmodels; the split's family-wise error by simulation."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests

from auditor.stats import StatisticsError, alpha_split, benjamini_hochberg, bonferroni, decide_families, holm

METHODS = [(bonferroni, "bonferroni"), (holm, "holm"), (benjamini_hochberg, "fdr_bh")]


def test_adjusted_p_values_equal_statsmodels_with_ties_and_edges() -> None:
    rng = np.random.default_rng(0)
    for _ in range(15):
        p = np.round(rng.random(rng.integers(1, 30)) ** 3, int(rng.integers(1, 6)))
        for ours, name in METHODS:
            assert ours(p) == pytest.approx(multipletests(p, method=name)[1], abs=1e-12)


def test_no_hypotheses_give_no_p_values() -> None:
    for ours, _ in METHODS:
        assert ours([]).size == 0


@pytest.mark.parametrize("p", [[0.1, 1.1], [-0.1], [np.nan, 0.5]])
def test_what_is_no_p_value_is_refused(p: list[float]) -> None:
    for ours, _ in METHODS:
        with pytest.raises(StatisticsError):
            ours(p)


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(
    st.dictionaries(st.text(max_size=3), st.floats(1e-6, 1e6), min_size=1, max_size=12),
    st.floats(1e-6, 0.5),
)
def test_shares_are_proportional_and_spend_no_more_than_alpha(
    weights: dict[str, float], alpha: float
) -> None:
    shares = alpha_split(alpha, weights)
    assert sum(shares.values()) == pytest.approx(alpha) and sum(shares.values()) <= alpha * (1 + 1e-12)
    total = sum(weights.values())
    assert shares == pytest.approx({name: alpha * weight / total for name, weight in weights.items()})


def test_weights_must_be_declared_and_positive() -> None:
    for weights in ({}, {"a": 0.0}, {"a": -1.0}, {"a": float("nan")}, {"a": float("inf")}):
        with pytest.raises(StatisticsError):
            alpha_split(0.01, weights)


def test_family_p_values_compare_with_the_audit_level() -> None:
    decisions = decide_families({"backdoor": [0.001, 0.2], "bias": [0.006]}, 0.01, {"backdoor": 3, "bias": 1})
    assert decisions["backdoor"].alpha == pytest.approx(0.0075)
    assert decisions["backdoor"].adjusted_p == pytest.approx([0.002 / 0.75, 0.2 / 0.75])
    assert decisions["backdoor"].rejected.tolist() == [True, False]
    assert decisions["bias"].adjusted_p == pytest.approx([0.024])
    assert not decisions["bias"].rejected.any()


def test_undeclared_family_is_refused_and_missing_one_is_not() -> None:
    with pytest.raises(StatisticsError, match="declared"):
        decide_families({"surprise": [0.1]}, 0.01, {"backdoor": 1})
    assert decide_families({}, 0.01, {"backdoor": 1}) == {}


def test_family_wise_error_of_a_split_audit() -> None:
    """4,000 replications of 3 families of correlated null p-values, alpha = 10 %; three s.e. are 1.4 %."""
    from scipy.special import ndtr

    rng = np.random.default_rng(1)
    alarms = 0
    for _ in range(4000):
        p = ndtr(0.6 * rng.normal() + 0.8 * rng.normal(size=12))
        families = {"a": p[:2], "b": p[2:7], "c": p[7:]}
        decisions = decide_families(families, 0.1, {"a": 2, "b": 1, "c": 1})
        alarms += any(d.rejected.any() for d in decisions.values())
    assert 0.04 <= alarms / 4000 <= 0.1 + 0.014
