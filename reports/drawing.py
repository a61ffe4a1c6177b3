"""Small static drawings: an interval on its axis, a share as a bar, a severity as four steps.

Geometry goes into SVG attributes and looks into classes of the style sheet, because the page's content
security policy allows no style attribute.
"""

from __future__ import annotations

import math

from markupsafe import Markup

from reports.model import Result, Severity
from reports.numbers import RATE_UNITS

__all__ = ["interval_svg", "severity_svg", "share_svg"]

_WIDTH, _HEIGHT, _PAD = 168.0, 22.0, 5.0
_HIDDEN = 'aria-hidden="true" focusable="false"'  # the same numbers stand beside every drawing as text
_LEVELS = {Severity.INFO: 0, Severity.LOW: 1, Severity.MEDIUM: 2, Severity.HIGH: 3, Severity.CRITICAL: 4}


def interval_svg(result: Result) -> Markup:
    """Draws value and confidence interval with zero in view; empty where there is neither.

    A rate (interval within 0 and 1, and a unit that says so) is drawn on the whole range from 0 to 1. The
    smallest detectable effect is a hollow tick.
    """
    if result.value is None or result.ci is None:
        return Markup("")
    low, high = _domain(result)
    if not math.isfinite(high - low):
        return Markup("")
    middle = _HEIGHT / 2

    def x(value: float) -> str:
        share = (value - low) / (high - low)
        return f"{_PAD + min(1.0, max(0.0, share)) * (_WIDTH - 2 * _PAD):.1f}"

    marks = [f'<line class="axis" x1="{_PAD}" y1="{middle}" x2="{_WIDTH - _PAD}" y2="{middle}"/>']
    marks += [
        f'<line class="zero" x1="{x(tick)}" y1="3" x2="{x(tick)}" y2="{_HEIGHT - 3}"/>'
        for tick in sorted({0.0, *((1.0,) if (low, high) == (0.0, 1.0) else ())})
    ]
    if result.min_detectable_effect is not None and low <= result.min_detectable_effect <= high:
        at = x(result.min_detectable_effect)
        marks.append(f'<line class="mde" x1="{at}" y1="2" x2="{at}" y2="{_HEIGHT - 2}"/>')
    marks.append(
        f'<line class="ci" x1="{x(result.ci.low)}" y1="{middle}" x2="{x(result.ci.high)}" y2="{middle}"/>'
        f'<line class="cap" x1="{x(result.ci.low)}" y1="7" x2="{x(result.ci.low)}" y2="15"/>'
        f'<line class="cap" x1="{x(result.ci.high)}" y1="7" x2="{x(result.ci.high)}" y2="15"/>'
        f'<circle class="value" cx="{x(result.value)}" cy="{middle}" r="3.6"/>'
    )
    return Markup(
        f'<svg class="interval" viewBox="0 0 {_WIDTH:.0f} {_HEIGHT:.0f}" width="{_WIDTH:.0f}"'
        f' height="{_HEIGHT:.0f}" {_HIDDEN}>{"".join(marks)}</svg>'
    )


def share_svg(done: int, total: int) -> Markup:
    """Draws ``done`` of ``total`` as a bar; an empty bar where the total is zero."""
    share = done / total if total else 0.0
    # A remainder too small to see must not look like a full bar.
    width = 1000 * share if share in (0.0, 1.0) else min(985.0, max(15.0, 1000 * share))
    return Markup(
        f'<svg class="share" viewBox="0 0 1000 10" preserveAspectRatio="none" {_HIDDEN}>'
        '<rect class="track" x="0" y="0" width="1000" height="10"/>'
        f'<rect class="fill" x="0" y="0" width="{width:.1f}" height="10"/></svg>'
    )


def severity_svg(severity: Severity) -> Markup:
    """Draws a severity as up to four filled steps of rising height."""
    level = _LEVELS[severity]
    steps = "".join(
        f'<rect class="{"on" if step < level else "off"}" x="{5 * step}" y="{9 - 3 * step}" width="3.4"'
        f' height="{4 + 3 * step}" rx="0.8"/>'
        for step in range(4)
    )
    return Markup(f'<svg class="steps" viewBox="0 0 19 13" width="19" height="13" {_HIDDEN}>{steps}</svg>')


def _domain(result: Result) -> tuple[float, float]:
    assert result.value is not None and result.ci is not None
    points = [0.0, result.value, result.ci.low, result.ci.high]
    if result.unit in RATE_UNITS and min(points) >= 0 and max(points) <= 1:
        return 0.0, 1.0
    if result.min_detectable_effect is not None:
        points.append(result.min_detectable_effect)
    low, high = min(points), max(points)
    spread = (high - low) or 1.0
    return low - (0.04 * spread if low < 0 else 0.0), high + 0.08 * spread
