"""Making a bank from measured scores, and writing it."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable
from pathlib import Path

from auditor.banks.adjust import Adjustment
from auditor.banks.model import BankAdapter, BankData, RealisedFpr
from auditor.banks.params import params_document, params_sha256
from auditor.contracts import Params, Probe
from auditor.errors import OutputError
from auditor.stats import StatisticsError, bank_size_for, clopper_pearson
from reports.model import Interval

__all__ = ["build_bank", "write_bank"]

LEVEL = 0.95


def build_bank(
    *,
    id: str,
    probe: Probe,
    base_sha256: str,
    score: str,
    adapters: Iterable[BankAdapter],
    alpha: float,
    params: Params | None = None,
    adjustment: Adjustment | None = None,
) -> BankData:
    """A bank with its realised false-positive rate on the certify split, and its hash.

    Args:
        id: such as ``embedded.vocabulary_shift@1``; the number after ``@`` grows with every new bank.
        probe: what the scores come from.
        base_sha256: the base that the adapters were trained on.
        score: name of the main score, a number for every adapter; larger is more suspicious.
        adapters: clean ones only, in the zoo's order.
        alpha: level to certify at.
        params: of the probe; its defaults if None.
        adjustment: what recipes account for, fitted on these adapters (:func:`auditor.banks.fit_adjustment`).

    Raises:
        StatisticsError: too few adapters to calibrate at ``alpha``: a rate of 0 would then mean nothing.
        ValueError: the parts do not fit together (see :class:`BankData`).
    """
    used = probe.params() if params is None else params
    bank = BankData(
        id=id,
        probe=probe.id,
        probe_version=probe.version,
        params=params_document(used),
        params_sha256=params_sha256(used),
        base_sha256=base_sha256,
        score=score,
        adjustment=adjustment,
        alpha=alpha,
        adapters=tuple(adapters),
    )
    if bank.p_floor > alpha:
        raise StatisticsError(
            f"{bank.size} adapters in the calibrate split cannot reach alpha = {alpha:g}; "
            f"it takes {bank_size_for(alpha)}."
        )
    bank = bank.model_copy(update={"realised_fpr": _realised(bank)})
    return bank.model_copy(update={"sha256": bank.digest()})


def _realised(bank: BankData) -> RealisedFpr | None:
    certify = [adapter for adapter in bank.adapters if adapter.split == "certify"]
    if not certify:
        return None
    alarms = sum(map(bank.alarm, certify))
    exact = clopper_pearson(alarms, len(certify), LEVEL)
    ci = Interval(method=exact.method, level=exact.level, low=exact.low, high=exact.high)
    return RealisedFpr(alarms=alarms, n=len(certify), ci=ci)


def write_bank(bank: BankData, folder: Path) -> Path:
    """Writes ``folder/<id>.json``, the same bytes for the same bank; whole or not at all.

    Raises:
        OutputError: the folder cannot be written.
    """
    text = json.dumps(bank.model_dump(mode="json"), sort_keys=True, indent=1, allow_nan=False)
    target = folder / f"{bank.id}.json"
    temporary = ""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, suffix=".tmp", delete=False) as file:
            temporary = file.name
            file.write(text.encode() + b"\n")
        Path(temporary).chmod(0o644)
        Path(temporary).replace(target)
    except OSError as problem:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        raise OutputError(f"cannot write the bank {target}: {problem.strerror or problem}") from problem
    return target
