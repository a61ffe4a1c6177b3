"""Prompts from a file: ``--prompts`` of ``auditor audit``."""

from __future__ import annotations

from pathlib import Path

from auditor.errors import UsageError
from auditor.text import inert

__all__ = ["read_prompts"]

_LARGEST = 1 << 20
_MOST = 500


def read_prompts(path: Path) -> list[str]:
    """One prompt a line, as it stands: a trigger may be a letter that nobody sees. Empty lines are left out.

    Raises:
        UsageError: it cannot be read, is larger than 1 MB, is not UTF-8, or has no prompt or more than 500.
    """
    shown = inert(str(path), 300)
    try:
        if path.stat().st_size > _LARGEST:
            raise UsageError(f"the prompts in {shown} are larger than {_LARGEST >> 20} MB")
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UsageError(f"cannot read the prompts in {shown}: {(error.strerror or 'error').lower()}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"the prompts in {shown} are not UTF-8 text") from error
    # Only line feeds end a line: splitlines() would also cut at characters that can be part of a prompt.
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    prompts = list(dict.fromkeys(line for line in lines if line.strip(" \t")))
    if not 1 <= len(prompts) <= _MOST:
        raise UsageError(f"{shown} has {len(prompts)} prompts; 1 to {_MOST} are screened at once")
    return prompts
