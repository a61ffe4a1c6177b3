"""Reading banks, and finding the one that fits."""

from __future__ import annotations

import json
import os
from functools import lru_cache
from pathlib import Path

from pydantic import ValidationError

from auditor.banks.model import BankData
from auditor.banks.params import params_sha256
from auditor.contracts import Params, Probe
from auditor.errors import MalformedArtifact, UsageError
from auditor.text import did_you_mean, inert

__all__ = ["bank_directories", "bank_for", "load_bank"]

SHIPPED = Path(__file__).parent / "data"
MOST_BYTES = 64 * 2**20


def bank_directories() -> tuple[Path, ...]:
    """Where banks are looked for, first match first.

    The folders in ``AUDITOR_BANKS`` (separated like ``PATH``), the user's data folder, the shipped ones.
    """
    named = [Path(part) for part in os.environ.get("AUDITOR_BANKS", "").split(os.pathsep) if part]
    data = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return (*named, Path(data) / "personalized-model-auditor" / "banks", SHIPPED)


def load_bank(id_or_path: str | Path) -> BankData:
    """Reads a bank by file path, or by id from :func:`bank_directories`; its hash is verified.

    Raises:
        UsageError: there is no such bank (with the closest known id).
        MalformedArtifact: the file is not a bank, or was changed after it was written.
    """
    path = Path(id_or_path)
    if isinstance(id_or_path, Path) or path.suffix == ".json" or len(path.parts) > 1:
        if not path.is_file():
            raise UsageError(f"there is no bank file {inert(str(path))}")
        return _read(path)
    files = {found.stem: found for folder in reversed(bank_directories()) for found in _bank_files(folder)}
    if id_or_path not in files:
        raise UsageError(f"there is no bank '{inert(id_or_path)}'{did_you_mean(id_or_path, files)}")
    return _read(files[id_or_path])


def bank_for(probe: Probe, base_sha256: str, params: Params | None = None) -> BankData | None:
    """The newest bank of the first folder that has one for this probe, its parameters and this base.

    Args:
        probe: id and version must match.
        base_sha256: the audited base.
        params: of the probe; its defaults if None. Scores under other parameters are other scores.

    Raises:
        MalformedArtifact: a file in one of the folders is not a bank.
    """
    used = probe.params() if params is None else params
    wanted = (probe.id, probe.version, params_sha256(used), base_sha256)
    for folder in bank_directories():
        banks = [_read(path) for path in _bank_files(folder)]
        fitting = [b for b in banks if (b.probe, b.probe_version, b.params_sha256, b.base_sha256) == wanted]
        if fitting:
            return max(fitting, key=lambda bank: (_edition(bank.id), bank.id))
    return None


def _bank_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.json")) if folder.is_dir() else []


def _edition(bank_id: str) -> int:
    digits = bank_id.rpartition("@")[2]
    return int(digits) if digits.isdecimal() and len(digits) < 10 else 0


def _read(path: Path) -> BankData:
    facts = path.stat()
    return _read_version(path, facts.st_mtime_ns, facts.st_size)


@lru_cache(maxsize=32)
def _read_version(path: Path, modified: int, size: int) -> BankData:
    shown = inert(str(path))
    if size > MOST_BYTES:
        raise MalformedArtifact(f"the bank {shown} is larger than {MOST_BYTES // 2**20} MB")
    try:
        bank = BankData.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except ValidationError as problem:
        first = problem.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise MalformedArtifact(f"{shown} is not a bank: {inert(where)}: {inert(first['msg'])}") from problem
    except (ValueError, RecursionError) as problem:
        raise MalformedArtifact(f"{shown} is not a bank: it is not JSON") from problem
    if bank.sha256 != bank.digest():
        raise MalformedArtifact(f"the bank {shown} was changed after it was written; its hash does not match")
    if bank.id != path.stem:
        raise MalformedArtifact(f"the bank {shown} calls itself {inert(bank.id)}")
    return bank
