"""Whether two runs are identical, and what differs if not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

from auditor.contracts import JsonValue
from reports.model import AuditReport

__all__ = ["Difference", "compare_reports", "identical"]


@dataclass(frozen=True)
class Difference:
    """One place where two reports differ; ``None`` where one of them has nothing.

    Attributes:
        path: such as ``results[2].p_value``.
        left: JSON value in the first report.
        right: JSON value in the second.
    """

    path: str
    left: JsonValue
    right: JsonValue


def identical(left: AuditReport, right: AuditReport) -> bool:
    """Whether two runs are one: equal but for date, cost and host."""
    return left.canonical() == right.canonical()


def compare_reports(left: AuditReport, right: AuditReport) -> tuple[Difference, ...]:
    """All differences in the canonical form, in its order; empty exactly if :func:`identical`."""
    return tuple(_walk("", json.loads(left.canonical()), json.loads(right.canonical())))


def _walk(path: str, left: JsonValue, right: JsonValue) -> Iterator[Difference]:
    if isinstance(left, dict) and isinstance(right, dict):
        for key in sorted(left.keys() | right.keys()):
            yield from _walk(f"{path}.{key}" if path else key, left.get(key), right.get(key))
    elif isinstance(left, list) and isinstance(right, list):
        for index in range(max(len(left), len(right))):
            pair = (items[index] if index < len(items) else None for items in (left, right))
            yield from _walk(f"{path}[{index}]", *pair)
    elif left != right or type(left) is not type(right):
        yield Difference(path, left, right)
