"""Bootstrap intervals against scipy, and their coverage by simulation."""

import numpy as np
import pytest
from scipy import stats

from auditor.stats import StatisticsError, bootstrap, paired_bootstrap


def mean(batch: np.ndarray) -> np.ndarray:
    return np.asarray(batch.mean(axis=1))


def variance(batch: np.ndarray) -> np.ndarray:
    return np.asarray(batch.var(axis=1, ddof=1))


@pytest.mark.parametrize(("method", "scipy_name"), [("bca", "BCa"), ("percentile", "percentile")])
def test_interval_agrees_with_scipy_up_to_monte_carlo_error(method: str, scipy_name: str) -> None:
    rows = np.random.default_rng(1).lognormal(size=35)
    ours = bootstrap(rows, variance, rng=np.random.default_rng(2), method=method, resamples=40_000)  # type: ignore[arg-type]  # parametrised literal
    theirs = stats.bootstrap(
        (rows,),
        lambda sample, axis: np.var(sample, axis=axis, ddof=1),
        n_resamples=40_000,
        method=scipy_name,
        rng=np.random.default_rng(3),
    ).confidence_interval
    width = theirs.high - theirs.low
    assert ours.low == pytest.approx(theirs.low, abs=0.03 * width)
    assert ours.high == pytest.approx(theirs.high, abs=0.03 * width)
    assert ours.method == f"bootstrap-{method}"
    assert ours.n == 35
    assert ours.estimate == pytest.approx(rows.var(ddof=1))


def test_paired_interval_agrees_with_scipy() -> None:
    rng = np.random.default_rng(4)
    first = rng.normal(size=40)
    second = 0.9 * first + 0.3 * rng.normal(size=40)

    def correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        a, b = a - a.mean(axis=-1, keepdims=True), b - b.mean(axis=-1, keepdims=True)
        return np.asarray((a * b).sum(-1) / np.sqrt((a**2).sum(-1) * (b**2).sum(-1)))

    ours = paired_bootstrap(first, second, correlation, rng=np.random.default_rng(5), resamples=20_000)
    theirs = stats.bootstrap(
        (first, second),
        lambda a, b, axis: correlation(a, b),
        paired=True,
        n_resamples=20_000,
        rng=np.random.default_rng(6),
    ).confidence_interval
    width = theirs.high - theirs.low
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.04 * width)


def test_paired_default_is_the_difference_of_means() -> None:
    rng = np.random.default_rng(7)
    first, second = rng.normal(size=(2, 30))
    by_pair = paired_bootstrap(first, second, rng=np.random.default_rng(8))
    by_row = bootstrap(first - second, mean, rng=np.random.default_rng(8))
    assert (by_pair.low, by_pair.high) == pytest.approx((by_row.low, by_row.high))


def test_bca_covers_the_mean_of_skewed_rows() -> None:
    """2,000 replications, n = 40, exponential: nominal 95 %, at least 91 % (known small-sample shortfall)."""
    rng = np.random.default_rng(9)
    hits = sum(
        bootstrap(rng.exponential(size=40), mean, rng=rng, resamples=400).contains(1.0) for _ in range(2000)
    )
    assert 0.91 <= hits / 2000 <= 0.97


def test_clusters_restore_coverage_that_rows_lose() -> None:
    """2,000 replications of 30 clusters of 8 rows, correlation 0.5 inside: nominal 95 %."""
    rng = np.random.default_rng(10)
    labels = np.repeat(np.arange(30), 8)
    hits = np.zeros(2)
    for _ in range(2000):
        rows = rng.normal(size=30)[labels] + rng.normal(size=240)
        for index, clusters in enumerate((labels, None)):
            interval = bootstrap(rows, mean, rng=rng, method="percentile", resamples=100, clusters=clusters)
            hits[index] += interval.contains(0.0)
    assert 0.91 <= hits[0] / 2000 <= 0.97
    assert hits[1] / 2000 < 0.75


def test_unequal_clusters_equal_a_brute_force_resampling() -> None:
    rng = np.random.default_rng(11)
    sizes = rng.integers(1, 9, size=25)
    labels = np.repeat(np.arange(25), sizes)
    rng.shuffle(labels)
    rows = rng.normal(size=labels.size) + 0.3 * labels
    ours = bootstrap(
        rows, mean, rng=np.random.default_rng(12), method="percentile", resamples=5000, clusters=labels
    )
    sums = np.array([rows[labels == label].sum() for label in range(25)])
    picks = np.random.default_rng(13).integers(0, 25, size=(5000, 25))
    brute = sums[picks].sum(axis=1) / np.bincount(labels)[picks].sum(axis=1)
    low, high = np.quantile(brute, [0.025, 0.975])
    assert (ours.low, ours.high) == pytest.approx((low, high), abs=0.05 * (high - low))
    assert (ours.n, ours.method) == (25, "cluster-bootstrap-percentile")


def test_one_row_clusters_equal_the_plain_bootstrap() -> None:
    rows = np.random.default_rng(14).normal(size=25)
    plain = bootstrap(rows, mean, rng=np.random.default_rng(15))
    clustered = bootstrap(rows, mean, rng=np.random.default_rng(15), clusters=np.arange(25))
    assert (plain.low, plain.high) == (clustered.low, clustered.high)


def test_matrix_rows_are_drawn_whole() -> None:
    rng = np.random.default_rng(16)
    rows = rng.normal(size=(50, 2))
    rows[:, 1] = -rows[:, 0] + 1
    total = bootstrap(
        rows, lambda b: b.sum(axis=2).mean(axis=1) + 1e-9 * b[:, 0, 0], rng=rng, method="percentile"
    )
    assert total.low == pytest.approx(1.0, abs=1e-6) and total.high == pytest.approx(1.0, abs=1e-6)


def test_same_seed_gives_the_same_interval_and_batching_does_not_matter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = np.random.default_rng(17).normal(size=30)
    whole = bootstrap(rows, mean, rng=np.random.default_rng(18))
    monkeypatch.setattr("auditor.stats._common.BATCH_VALUES", 64)
    assert bootstrap(rows, mean, rng=np.random.default_rng(18)) == whole


def test_bca_is_replaced_by_name_where_every_resample_is_on_one_side() -> None:
    rows = np.arange(20.0)
    beyond = bootstrap(
        rows,
        lambda batch: np.where((batch == rows[: batch.shape[1]]).all(axis=1), 99.0, batch.mean(axis=1)),
        rng=np.random.default_rng(20),
    )
    assert beyond.method == "bootstrap-percentile"


def test_constant_statistic_claims_no_certainty() -> None:
    with pytest.raises(StatisticsError, match="exact interval"):
        bootstrap(np.zeros(20), mean, rng=np.random.default_rng(0))


@pytest.mark.parametrize("rows", [[1.0], [1.0, np.nan, 2.0], 3.0])
def test_rows_that_cannot_be_resampled_are_refused(rows: object) -> None:
    with pytest.raises(StatisticsError):
        bootstrap(rows, mean, rng=np.random.default_rng(0))  # type: ignore[arg-type]  # the point of the test


def test_statistics_of_wrong_shape_or_value_are_refused() -> None:
    rows = np.arange(5.0)
    with pytest.raises(StatisticsError, match="shape"):
        bootstrap(rows, lambda batch: batch, rng=np.random.default_rng(0))
    with pytest.raises(StatisticsError, match="NaN"):
        bootstrap(rows, lambda batch: batch[:, 0] * np.nan, rng=np.random.default_rng(0))


def test_options_and_labels_that_make_no_sense_are_refused() -> None:
    rows, rng = np.arange(5.0), np.random.default_rng(0)
    with pytest.raises(StatisticsError, match="method"):
        bootstrap(rows, mean, rng=rng, method="magic")  # type: ignore[arg-type]  # the point of the test
    with pytest.raises(StatisticsError, match="resamples"):
        bootstrap(rows, mean, rng=rng, resamples=9)
    with pytest.raises(StatisticsError, match="label each"):
        bootstrap(rows, mean, rng=rng, clusters=[1, 2])
    with pytest.raises(StatisticsError, match="two rows or clusters"):
        bootstrap(rows, mean, rng=rng, clusters=[1] * 5)
    with pytest.raises(StatisticsError, match="one shape"):
        paired_bootstrap(rows, rows[1:], rng=rng)
