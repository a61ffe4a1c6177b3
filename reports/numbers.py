"""How numbers are written in every format: three significant digits, and never a bare zero rate."""

from __future__ import annotations

from reports.model import Bank, Interval

__all__ = [
    "NONE",
    "RATE_UNITS",
    "bytes_size",
    "duration",
    "interval",
    "number",
    "p_value",
    "percent",
    "quantity",
    "rate",
    "realised_fpr",
]

NONE = "–"  # shown where a value does not exist
RATE_UNITS = frozenset({"fraction", "rate", "probability"})  # written as percentages


def number(value: float | None) -> str:
    """Three significant digits; thousands separated; powers of ten outside 1e-4 to 1e7."""
    if value is None:
        return NONE
    if value == 0:
        return "0"
    size = abs(value)
    if size < 1e-4 or size >= 1e7:
        return f"{value:.2e}"
    if float(value).is_integer() or size >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def p_value(value: float | None) -> str:
    """A p-value with two significant digits."""
    return NONE if value is None else f"{value:.2g}"


def percent(fraction: float | None) -> str:
    """A fraction in [0, 1] as a percentage with three significant digits."""
    return NONE if fraction is None else f"{100 * fraction:.3g} %"


def rate(value: float, ci: Interval | None) -> str:
    """A proportion with its interval; nothing seen is a bound, not a zero."""
    if value == 0:
        return f"none seen, at most {percent(ci.high)}" if ci else "none seen"
    return f"{percent(value)} ({percent(ci.low)} to {percent(ci.high)})" if ci else percent(value)


def realised_fpr(bank: Bank) -> str:
    """The false-positive rate that was measured on clean adapters held out of the calibration."""
    return "not measured" if bank.realised_fpr is None else rate(bank.realised_fpr, bank.realised_fpr_ci)


def quantity(value: float | None, unit: str) -> str:
    """A value with its unit; rates as percentages, and no bare zero among them."""
    if value is None:
        return NONE
    if unit in RATE_UNITS:
        return percent(value) if value else "none seen"
    return f"{number(value)} {unit}" if unit else number(value)


def interval(ci: Interval, unit: str = "") -> str:
    """Bounds and level, as in ``10.1 to 14.2 (95 % CI)``; rates as percentages."""
    show = percent if unit in RATE_UNITS else number
    return f"{show(ci.low)} to {show(ci.high)} ({percent(ci.level)} CI)"


def bytes_size(count: int) -> str:
    """A file size in decimal units."""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{count} B" if unit == "B" else f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


def duration(seconds: float) -> str:
    """Seconds below two minutes, minutes and seconds above."""
    if seconds < 120:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s"
