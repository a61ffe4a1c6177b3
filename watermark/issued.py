"""The log of issued nonces: one JSON object a line, written where pictures are marked and read where they are checked.

It holds no secret of the key. Whoever has it and the key finds marks that are too weak to be read blindly, at the price
of one look a nonce; and a picture whose nonce was never issued, or twice, is a forgery or a copy.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from auditor.engine.files import output_errors
from auditor.errors import UsageError
from auditor.text import inert
from watermark.keys import NONCE_BYTES, MasterKey

__all__ = ["Issued", "append_issued", "nonces_of", "read_issued", "read_nonces"]

_LARGEST_LINE = 1 << 14


@dataclass(frozen=True)
class Issued:
    """One marked picture.

    Attributes:
        nonce: hexadecimal.
        key: id of the master key.
        scheme: id.
        payload: hexadecimal.
        shape: (C, h, w) of its latents.
        file: name of the picture.
        look: perceptual hash of the picture, hexadecimal; empty where none was taken.
    """

    nonce: str
    key: str
    scheme: str
    payload: str
    shape: tuple[int, int, int]
    file: str
    look: str = ""


def append_issued(path: Path, issued: Issued) -> None:
    """Adds a line. Raises ``OutputError`` where it cannot be written."""
    with output_errors(path), path.open("a", encoding="ascii") as log:
        log.write(json.dumps(asdict(issued), ensure_ascii=True) + "\n")


def read_nonces(path: Path, key: MasterKey) -> tuple[bytes, ...]:
    """Nonces of a log, each once, in order; raises as :func:`read_issued`."""
    return nonces_of(read_issued(path, key))


def nonces_of(issued: Sequence[Issued]) -> tuple[bytes, ...]:
    """The nonces, each once, in order."""
    return tuple(dict.fromkeys(bytes.fromhex(entry.nonce) for entry in issued))


def read_issued(path: Path, key: MasterKey) -> tuple[Issued, ...]:
    """Entries of a log in order, without those of other keys.

    A line that is a bare nonce in hexadecimal will do; it says nothing but that.

    Raises:
        UsageError: it cannot be read, a line is malformed (it is named), or no nonce is of this key.
    """
    shown = inert(str(path), 300)
    found: list[Issued] = []
    others = 0
    try:
        with path.open("r", encoding="utf-8", errors="strict") as log:
            for number, line in enumerate(log, 1):
                if not line.strip():
                    continue
                entry = _parsed(line, f"{shown}, line {number}")
                others += entry.key not in ("", key.id)
                if entry.key in ("", key.id):
                    found.append(entry)
    except OSError as problem:
        reason = (problem.strerror or type(problem).__name__).lower()
        raise UsageError(f"the log '{shown}' cannot be read: {reason}") from problem
    except UnicodeDecodeError as problem:
        raise UsageError(f"'{shown}' is not a log of issued nonces") from problem
    if not found:
        told = f"all of its {others} lines are of other keys" if others else "it is empty"
        raise UsageError(f"'{shown}' holds no nonce of this key: {told}")
    return tuple(found)


def _parsed(line: str, where: str) -> Issued:
    if len(line) > _LARGEST_LINE:
        raise UsageError(f"{where} is too long for a log of issued nonces")
    text: Any = line.strip()
    try:
        said: dict[str, Any] = json.loads(text) if text.startswith("{") else {"nonce": text}
        entry = _checked(said)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UsageError(f"{where} holds no nonce") from None
    if len(entry.nonce) != 2 * NONCE_BYTES:
        raise UsageError(f"{where} holds no nonce of {NONCE_BYTES} bytes")
    return entry


def _checked(said: dict[str, Any]) -> Issued:
    """An entry whose fields are what they are declared to be, those that are missing empty."""
    words = {name: said.get(name, "") for name in ("key", "scheme", "payload", "file", "look")}
    shape = tuple(said.get("shape", (0, 0, 0)))
    if not all(isinstance(word, str) for word in words.values()) or len(shape) != 3:
        raise ValueError("a field is of another kind")
    if not all(type(side) is int for side in shape):
        raise ValueError("a shape is three whole numbers")
    bytes.fromhex(words["payload"]), int(words["look"] or "0", 16)
    return Issued(nonce=bytes.fromhex(said["nonce"]).hex(), shape=shape, **words)
