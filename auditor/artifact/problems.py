"""Oddities that do not make a file unreadable but that a person should know of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from auditor.text import inert

__all__ = ["Problem", "Severity", "problem"]

Severity = Literal["info", "low", "medium", "high", "critical"]


@dataclass(frozen=True, slots=True)
class Problem:
    """One oddity found while reading an artifact.

    Attributes:
        code: stable dotted identifier, ``safetensors.large_header`` for example.
        severity: how much it matters by itself.
        detail: one printable sentence; untrusted parts are already inert.
    """

    code: str
    severity: Severity
    detail: str


def problem(code: str, severity: Severity, detail: str) -> Problem:
    """Builds a :class:`Problem` whose detail is made inert and cut to 300 characters."""
    return Problem(code, severity, inert(detail, limit=300))
