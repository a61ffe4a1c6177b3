"""Betting: anytime error and coverage by simulation, agreement with a plain transcription of the source."""

import math
from typing import Any

import numpy as np
import pytest

from auditor.stats import (
    StatisticsError,
    anytime_p,
    betting_confidence_sequence,
    betting_e_process,
    clopper_pearson,
)


def hedged_capital(x: list[float], m: float, alpha: float) -> list[float]:
    """Hedged capital at one candidate, step by step: max form, theta = c = 1/2."""
    up = down = 1.0
    seen: list[float] = []
    squares, variance = 0.0, 0.25
    capital = []
    for t, value in enumerate(x, start=1):
        bet = math.sqrt(2 * math.log(2 / alpha) / (variance * t * math.log(t + 1)))
        up *= 1 + min(bet, 0.5 / m) * (value - m)
        down *= 1 - min(bet, 0.5 / (1 - m)) * (value - m)
        capital.append(max(0.5 * up, 0.5 * down))
        seen.append(value)
        squares += (value - (0.5 + sum(seen)) / (t + 1)) ** 2
        variance = (0.25 + squares) / (t + 1)
    return capital


def test_sequence_equals_the_step_by_step_capital_up_to_the_grid() -> None:
    x = np.random.default_rng(1).beta(2, 5, size=80)
    sequence = betting_confidence_sequence(x, 0.9, grid_points=201)
    rejected_at = {}
    for m in np.linspace(0, 1, 201)[1:-1]:
        crossed = [t for t, wealth in enumerate(hedged_capital(x.tolist(), m, 0.1)) if wealth >= 10]
        rejected_at[m] = crossed[0] if crossed else math.inf
    for t in (0, 9, 39, 79):
        kept = [m for m, time in rejected_at.items() if time > t]
        assert sequence.low[t] == pytest.approx(max(0, min(kept) - 0.005))
        assert sequence.high[t] == pytest.approx(min(1, max(kept) + 0.005))


@pytest.mark.parametrize("alternative", ["greater", "less", "two-sided"])
@pytest.mark.parametrize("mean", [0.05, 0.5])
def test_wealth_ever_crosses_with_at_most_the_stated_rate(alternative: Any, mean: float) -> None:
    """2,000 replications of 300 values under the null, alpha = 10 %; three s.e. are 2 %."""
    rng = np.random.default_rng(2)
    crossed = sum(
        betting_e_process(rng.random(300) < mean, mean, alternative).first_rejection(0.1) is not None
        for _ in range(2000)
    )
    assert crossed / 2000 <= 0.12


def test_wealth_is_a_fair_game_under_the_null() -> None:
    """20,000 paths of 8 fair coin flips, all 2^8 weighted exactly: expected wealth is 1 at every step."""
    flips = (np.arange(256)[:, None] >> np.arange(8)) & 1
    for alternative in ("greater", "less", "two-sided"):
        wealth = np.exp([betting_e_process(path, 0.5, alternative).log_e for path in flips])
        assert wealth.mean(axis=0) == pytest.approx(np.ones(8))


def test_sequence_covers_at_all_times_together() -> None:
    """2,000 replications of 150 values, nominal 90 % over all looks; three s.e. are 2 %."""
    rng = np.random.default_rng(3)
    hits = 0
    for _ in range(2000):
        sequence = betting_confidence_sequence(rng.beta(1, 4, size=150), 0.9, grid_points=101)
        hits += bool((sequence.low <= 0.2).all() and (sequence.high >= 0.2).all())
    assert hits / 2000 >= 0.88


def test_repeated_looks_break_a_fixed_n_interval_and_not_the_sequence() -> None:
    """2,000 replications of 200 coin flips looked at 20 times: why the sequence exists."""
    rng = np.random.default_rng(4)
    fixed = anytime = 0
    table = {(k, n): clopper_pearson(k, n).contains(0.5) for n in range(10, 201, 10) for k in range(n + 1)}
    for _ in range(2000):
        flips = rng.random(200) < 0.5
        sums = np.cumsum(flips)
        fixed += all(table[int(sums[n - 1]), n] for n in range(10, 201, 10))
        anytime += betting_e_process(flips, 0.5, "two-sided").first_rejection(0.05) is None
    assert fixed / 2000 < 0.9
    assert anytime / 2000 >= 0.935


def test_prefix_of_the_process_is_the_process_of_the_prefix() -> None:
    x = np.random.default_rng(5).random(60)
    assert betting_e_process(x, 0.4).log_e[:25] == pytest.approx(betting_e_process(x[:25], 0.4).log_e)
    whole, part = betting_confidence_sequence(x), betting_confidence_sequence(x[:25])
    assert whole.low[:25].tolist() == part.low.tolist()
    assert whole.high[:25].tolist() == part.high.tolist()


def test_alternatives_mirror_each_other() -> None:
    x = np.random.default_rng(6).random(50) ** 2
    assert betting_e_process(x, 0.3, "greater").log_e == pytest.approx(
        betting_e_process(1 - x, 0.7, "less").log_e
    )
    sequence, mirrored = betting_confidence_sequence(x), betting_confidence_sequence(1 - x)
    assert sequence.low == pytest.approx(1 - mirrored.high)


def test_evidence_grows_with_the_effect_and_stops_early() -> None:
    ones = np.ones(100)
    process = betting_e_process(ones, 0.5)
    stop = process.first_rejection(0.01)
    assert stop is not None and stop < 20
    assert process.p_value[-1] < 1e-10
    assert (np.diff(process.p_value) <= 0).all()
    assert betting_e_process(ones, 0.5, "less").first_rejection(0.5) is None


def test_sequence_narrows_to_the_mean() -> None:
    x = np.random.default_rng(7).beta(4, 4, size=4000)
    interval = betting_confidence_sequence(x).at(4000)
    assert interval.contains(0.5) and interval.width < 0.04
    assert (interval.n, interval.method) == (4000, "betting-hedged")
    assert interval.estimate == pytest.approx(x.mean())


def test_finer_grid_only_tightens_by_its_step() -> None:
    x = np.random.default_rng(8).random(200)
    coarse, fine = (
        betting_confidence_sequence(x, grid_points=101),
        betting_confidence_sequence(x, grid_points=5001),
    )
    assert (coarse.low <= fine.low).all() and (coarse.high >= fine.high).all()
    assert (fine.low - coarse.low).max() <= 0.01 + 1e-9


def test_batches_of_the_grid_do_not_change_the_sequence(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.default_rng(9).random(70)
    whole = betting_confidence_sequence(x)
    monkeypatch.setattr("auditor.stats._common.BATCH_VALUES", 700)
    assert betting_confidence_sequence(x).low.tolist() == whole.low.tolist()


def test_certain_values_at_the_edges_are_handled() -> None:
    zeros = betting_confidence_sequence(np.zeros(300)).at(300)
    assert zeros.low == 0.0 and zeros.high < 0.05
    assert betting_e_process(np.zeros(50), 0.0).p_value[-1] == 1.0
    assert betting_e_process(np.ones(50), 0.0).first_rejection(0.01) is not None


def test_a_shifting_mean_empties_the_sequence_and_is_said_so() -> None:
    sequence = betting_confidence_sequence(np.concatenate([np.zeros(1500), np.ones(6000)]), grid_points=201)
    with pytest.raises(StatisticsError, match="shifted"):
        sequence.at(7500)


def test_anytime_p_remembers_the_best_evidence() -> None:
    assert anytime_p(np.log([0.5, 4.0, 2.0, 8.0])) == pytest.approx([1, 0.25, 0.25, 0.125])


@pytest.mark.parametrize("values", [[], [0.5, 1.2], [-0.1], [np.nan]])
def test_values_outside_the_unit_interval_are_refused(values: list[float]) -> None:
    with pytest.raises(StatisticsError):
        betting_e_process(values, 0.5)
    with pytest.raises(StatisticsError):
        betting_confidence_sequence(values)


def test_times_and_grids_that_do_not_exist_are_refused() -> None:
    sequence = betting_confidence_sequence([0.5, 0.5])
    for t in (0, 3):
        with pytest.raises(StatisticsError, match="t must"):
            sequence.at(t)
    with pytest.raises(StatisticsError, match="grid"):
        betting_confidence_sequence([0.5], grid_points=2)
