"""The log of issued nonces: one JSON object a line, written where pictures are marked and read where they are checked.

It holds no secret of the key. Whoever has it and the key finds marks that are too weak to be read blindly, at the price
of one look a nonce; and a picture whose nonce was never issued, or twice, is a forgery or a copy.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from auditor.engine.files import output_errors
from auditor.errors import UsageError
from auditor.text import inert
from watermark.keys import NONCE_BYTES, MasterKey

__all__ = ["Issued", "append_issued", "read_nonces"]

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
    """

    nonce: str
    key: str
    scheme: str
    payload: str
    shape: tuple[int, int, int]
    file: str


def append_issued(path: Path, issued: Issued) -> None:
    """Adds a line. Raises ``OutputError`` where it cannot be written."""
    with output_errors(path), path.open("a", encoding="ascii") as log:
        log.write(json.dumps(asdict(issued), ensure_ascii=True) + "\n")


def read_nonces(path: Path, key: MasterKey) -> tuple[bytes, ...]:
    """Nonces of a log, each once, in order. Lines of other keys are left out; a bare nonce in hexadecimal will do.

    Raises:
        UsageError: it cannot be read, a line is malformed (it is named), or no nonce is of this key.
    """
    shown = inert(str(path), 300)
    found: dict[bytes, None] = {}
    others = 0
    try:
        with path.open("r", encoding="utf-8", errors="strict") as log:
            for number, line in enumerate(log, 1):
                if not line.strip():
                    continue
                nonce, owner = _parsed(line, f"{shown}, line {number}")
                others += owner not in ("", key.id)
                if owner in ("", key.id):
                    found[nonce] = None
    except OSError as problem:
        reason = (problem.strerror or type(problem).__name__).lower()
        raise UsageError(f"the log '{shown}' cannot be read: {reason}") from problem
    except UnicodeDecodeError as problem:
        raise UsageError(f"'{shown}' is not a log of issued nonces") from problem
    if not found:
        told = f"all of its {others} lines are of other keys" if others else "it is empty"
        raise UsageError(f"'{shown}' holds no nonce of this key: {told}")
    return tuple(found)


def _parsed(line: str, where: str) -> tuple[bytes, str]:
    if len(line) > _LARGEST_LINE:
        raise UsageError(f"{where} is too long for a log of issued nonces")
    text: Any = line.strip()
    owner = ""
    try:
        if text.startswith("{"):
            entry = json.loads(text)
            text, owner = entry["nonce"], entry.get("key", "")
        nonce = bytes.fromhex(text)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UsageError(f"{where} holds no nonce") from None
    if len(nonce) != NONCE_BYTES or not isinstance(owner, str):
        raise UsageError(f"{where} holds no nonce of {NONCE_BYTES} bytes")
    return nonce, owner
