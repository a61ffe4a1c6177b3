"""The six decisions in order, and what follows from the order alone."""

from __future__ import annotations

from collections.abc import Iterable

from reports.model import Decision

__all__ = ["DECISIONS", "milder", "rank", "worst"]

DECISIONS = tuple(Decision)
"""From best to worst."""


def rank(decision: Decision) -> int:
    """0 for the best decision, 5 for the worst."""
    return DECISIONS.index(decision)


def worst(decisions: Iterable[Decision]) -> Decision:
    """The gravest of some decisions; ``accept`` if there are none."""
    return max(decisions, key=rank, default=Decision.ACCEPT)


def milder(left: Decision, right: Decision) -> Decision:
    """The milder of two."""
    return min(left, right, key=rank)
