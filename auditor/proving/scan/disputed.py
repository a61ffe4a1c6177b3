"""Where another scanner flags an ordinary file: why we hold that it is wrong, one sentence a case."""

from __future__ import annotations

from auditor.proving.scan.specimen import Specimen

__all__ = ["dispute"]

_REBUILD = (
    "torch writes every state dict with these functions; called on a storage of the same file with plain "
    "numbers, as here, they make a tensor and nothing else"
)
_TRAINING = "the word is part of a caption or a setting that the trainer wrote, and nothing executes metadata"
_NUMBERS = "a NumPy array of numbers holds no pickle, and the scanner could not say so"

# (scanner, kind of benign file; "*" is any) -> why
_REASONS: dict[tuple[str, str], str] = {}


def dispute(scanner: str, specimen: Specimen) -> str:
    """The reason why a benign specimen flagged by ``scanner`` is no catch; empty if there is none on file."""
    return _REASONS.get((scanner, specimen.stands_for), _REASONS.get((scanner, "*"), ""))
