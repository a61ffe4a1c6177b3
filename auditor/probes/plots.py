"""Evidence plots: small, legible on light and dark pages, the same bytes for the same numbers."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

__all__ = ["displacement_plot", "profile_plot"]

_INK, _QUIET, _ALARM = "#24292f", "#5b7c99", "#c0392b"


def displacement_plot(values: Sequence[float], labels: Sequence[tuple[str, float]], channel: str) -> bytes:
    """All displacements in falling order, the labelled entries marked. PNG bytes."""
    figure, axes = _axes("rank of the vocabulary entry", f"displacement ({channel})")
    ordered = sorted(values, reverse=True)
    axes.plot(range(1, len(ordered) + 1), ordered, color=_QUIET, linewidth=1.6)
    axes.set_xscale("log")
    for i, (text, value) in enumerate(labels):
        plain = text.encode("ascii", "backslashreplace").decode()
        axes.plot([i + 1], [value], "o", color=_ALARM if i == 0 else _QUIET, markersize=6 if i == 0 else 4)
        if i == 0:
            axes.annotate(
                plain,
                (1, value),
                xytext=(12, -14),
                textcoords="offset points",
                color=_ALARM,
                va="center",
                parse_math=False,
            )
    return _png(figure)


def profile_plot(
    levels: Sequence[float], means: Sequence[float], low: Sequence[float], high: Sequence[float]
) -> bytes:
    """A profile over noise levels with a band. PNG bytes."""
    figure, axes = _axes("noise level (share of the schedule)", "relative difference")
    axes.fill_between(levels, low, high, color=_QUIET, alpha=0.25, linewidth=0)
    axes.plot(levels, means, "o-", color=_QUIET, linewidth=1.6, markersize=4)
    axes.set_ylim(bottom=0)
    return _png(figure)


def _axes(x: str, y: str) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6, 2.6), dpi=150, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_xlabel(x, color=_INK)
    axes.set_ylabel(y, color=_INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, axis="y", color="#e6e8eb", linewidth=0.8)
    return figure, axes


def _png(figure: Any) -> bytes:
    out = io.BytesIO()
    figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()
