import pytest

from reports import numbers
from reports.model import Bank, Interval

CI = Interval(method="Clopper-Pearson", level=0.95, low=0.0, high=0.0362)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "–"),
        (0, "0"),
        (3.14159, "3.14"),
        (4096, "4,096"),
        (1234.5, "1,234"),
        (0.000012, "1.20e-05"),
        (2.5e9, "2.50e+09"),
        (-0.5, "-0.5"),
        (120.0, "120"),
    ],
)
def test_three_significant_digits(value: float | None, shown: str) -> None:
    assert numbers.number(value) == shown


def test_nothing_seen_is_a_bound_and_never_zero_per_cent() -> None:
    bank = Bank(id="b", sha256="", n=100, realised_fpr=0.0, realised_fpr_ci=CI)
    assert numbers.realised_fpr(bank) == "none seen, at most 3.62 %"
    assert numbers.quantity(0.0, "fraction") == "none seen"
    assert numbers.realised_fpr(Bank(id="b", sha256="", n=100)) == "not measured"


@pytest.mark.parametrize(
    ("count", "shown"),
    [(0, "0 B"), (999, "999 B"), (104_448, "104 kB"), (3_262_000, "3.26 MB"), (2 * 10**12, "2 TB")],
)
def test_sizes_are_decimal(count: int, shown: str) -> None:
    assert numbers.bytes_size(count) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.004, "0.004 s"), (41.7, "42 s"), (600, "10 min 00 s"), (125.4, "2 min 05 s")]
)
def test_durations(seconds: float, shown: str) -> None:
    assert numbers.duration(seconds) == shown
