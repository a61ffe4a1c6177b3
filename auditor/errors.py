"""Everything that can go wrong, one exit code each.

    AuditorError                 2   the audit itself failed
    ├── UsageError              64   the command, a probe name, a parameter or the policy is wrong
    │   └── PolicyError         64   a policy file is malformed; names line and key
    ├── UnsupportedArtifact      4   nothing auditable: the kind is recognised (or not) and named
    ├── MalformedArtifact        2   a file of a known kind breaks its own format
    ├── RefusedArtifact          2   opening it would be unsafe (disallowed pickle globals, limits exceeded)
    ├── BaseUnavailable          2   the base model is not there, or is not a model
    ├── IncompatibleArtifact     2   an adapter does not fit the base it was put on
    ├── CoverageError            2   weights did not all arrive where they should have
    ├── OutputError              2   a run directory or report could not be written
    ├── OutOfMemory              2   a training needs more memory than there is; names what to lower
    ├── ResourceCap              2   the whole command reached a cap on what it may take
    │   ├── MemoryCap            2   ... on memory
    │   └── TimeCap              2   ... on time
    ├── SignatureError           2   a run is not signed, or its signature cannot be read
    ├── BudgetExhausted          3   stopped before the minimum that the policy asks for
    └── MissingExtra             2   an optional package is needed; the message names the extra

Messages are one sentence, say what is wrong and what to do, and never carry raw untrusted text
(pass names from artifacts through :func:`auditor.text.inert` first).
"""

from __future__ import annotations

from collections.abc import Iterable

__all__ = [
    "EXIT_AUDIT_ERROR",
    "EXIT_FINDINGS",
    "EXIT_INCONCLUSIVE",
    "EXIT_NOTHING_AUDITABLE",
    "EXIT_PASS",
    "EXIT_PRECEDENCE",
    "EXIT_USAGE",
    "AuditorError",
    "BaseUnavailable",
    "BudgetExhausted",
    "CoverageError",
    "IncompatibleArtifact",
    "MalformedArtifact",
    "MemoryCap",
    "MissingExtra",
    "OutOfMemory",
    "OutputError",
    "PolicyError",
    "RefusedArtifact",
    "ResourceCap",
    "TimeCap",
    "SignatureError",
    "UnsupportedArtifact",
    "UsageError",
    "combine_exit_codes",
]

EXIT_PASS = 0
EXIT_FINDINGS = 1
EXIT_AUDIT_ERROR = 2
EXIT_INCONCLUSIVE = 3
EXIT_NOTHING_AUDITABLE = 4
EXIT_USAGE = 64

EXIT_PRECEDENCE = (
    EXIT_USAGE,
    EXIT_AUDIT_ERROR,
    EXIT_FINDINGS,
    EXIT_INCONCLUSIVE,
    EXIT_NOTHING_AUDITABLE,
    EXIT_PASS,
)
"""Which code wins where several apply, first wins."""


def combine_exit_codes(codes: Iterable[int]) -> int:
    """The one that wins over several reports; 0 if there are none. A code not in the table counts as 2."""
    known = (code if code in EXIT_PRECEDENCE else EXIT_AUDIT_ERROR for code in codes)
    return min(known, key=EXIT_PRECEDENCE.index, default=EXIT_PASS)


class AuditorError(Exception):
    """Base of all errors that end a command with one sentence and an exit code."""

    exit_code: int = EXIT_AUDIT_ERROR


class UsageError(AuditorError):
    """The command line, a name or a parameter is wrong."""

    exit_code = EXIT_USAGE


class PolicyError(UsageError):
    """A policy file is malformed; the message names file, line and key."""


class UnsupportedArtifact(AuditorError):
    """Nothing auditable: the kind is named, with what would be needed."""

    exit_code = EXIT_NOTHING_AUDITABLE


class MalformedArtifact(AuditorError):
    """A file of a known kind breaks its own format."""


class RefusedArtifact(AuditorError):
    """Opening the file would be unsafe."""


class BaseUnavailable(AuditorError):
    """The base model is not present, or what is there is not a model."""


class IncompatibleArtifact(AuditorError):
    """The adapter does not fit the base."""


class CoverageError(AuditorError):
    """Weights did not all arrive where they should have."""


class OutputError(AuditorError):
    """A run directory or a report could not be written."""


class SignatureError(AuditorError):
    """A signature is missing or cannot be read, so that nothing can be said about the run."""


class BudgetExhausted(AuditorError):
    """The budget ended before the policy's minimum."""

    exit_code = EXIT_INCONCLUSIVE


class OutOfMemory(AuditorError):
    """A training needs more memory than there is; the message says which setting to lower."""


class ResourceCap(AuditorError):
    """The process reached a cap on what it may take."""


class MemoryCap(ResourceCap):
    """The memory cap was reached."""


class TimeCap(ResourceCap):
    """The time cap was reached."""


class MissingExtra(AuditorError):
    """An optional package is needed; the message names the extra that brings it."""
