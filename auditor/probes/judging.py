"""From a score to an outcome: the same three-valued rule for every probe that has a bank."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from auditor.banks import BankData, Pool, bank_for
from auditor.contracts import Params, Probe, Run
from auditor.probes.additions import additions_told
from reports.model import Bank, Outcome

if TYPE_CHECKING:
    from auditor.pipeline.subject import Subject

__all__ = ["Judgement", "judge", "not_judged", "screened"]


@dataclass(frozen=True)
class Judgement:
    """What a score means against a bank, with the reason in words."""

    outcome: Outcome
    reason: str
    p_value: float | None
    bank: Bank | None

    @property
    def calibrated(self) -> bool:
        """Whether there was a bank that covers the subject."""
        return self.p_value is not None


def judge(probe: Probe, params: Params, run: Run, subject: Subject, score: float) -> Judgement:
    """Judges a score.

    Without a bank for this base nothing is a pass, and the outcome is inconclusive. A bank too small for its
    p-values to reach the level the probe may spend cannot raise an alarm, so a score beyond all of it is
    inconclusive as well; so is any score of a subject that lies outside the bank in what the bank compares by.
    Where the probe is judged together with others, its p-value holds for all of them (:class:`auditor.banks.Pool`).
    """
    bank: BankData | None = bank_for(probe, subject.components.sha256, params)
    if bank is None:
        return Judgement(Outcome.INCONCLUSIVE, "no bank of clean adapters for this base", None, None)
    measured = subject.covariates if bank.adjustment else _ranks(subject)
    pool: Pool | None = run.pool
    judge_by: BankData | Pool = pool or bank
    p = bank.p_value(score, measured) if pool is None else pool.p_value(bank.judged(score, measured))
    together = f" and {len(pool.banks)} probes" if pool else ""
    told = f"p = {p:.3g} against {judge_by.size} clean adapters{together}, level {run.alpha:.3g}"
    outside = bank.out_of_support({name: measured[name] for name in bank.compared_by if name in measured})
    if outside:
        reason = f"outside what the bank was calibrated on ({'; '.join(outside)}): {told}"
        return Judgement(Outcome.INCONCLUSIVE, reason, None, bank.reference())
    if p <= run.alpha:
        return Judgement(Outcome.FAIL, f"beyond what clean fine-tuning does: {told}", p, bank.reference())
    if p <= judge_by.p_floor:
        reason = f"beyond every clean adapter, but the bank is too small for the level: {told}"
        return Judgement(Outcome.INCONCLUSIVE, reason, p, bank.reference())
    return Judgement(Outcome.PASS, f"within what clean fine-tuning does: {told}", p, bank.reference())


def screened(probe: Probe, params: Params, subject: Subject, score: float) -> Judgement:
    """Says how far out the score of a screen is (:attr:`auditor.contracts.Probe.screen`): inconclusive, with a p-value.

    The p-value is its own, corrected for no other probe, and there is none outside what the bank covers.
    """
    bank: BankData | None = bank_for(probe, subject.components.sha256, params)
    if bank is None:
        return Judgement(Outcome.INCONCLUSIVE, "no bank of clean adapters for this base", None, None)
    measured = subject.covariates
    p = bank.p_value(score, measured)
    told = f"p = {p:.3g} against {bank.size} clean adapters"
    outside = bank.out_of_support({name: measured[name] for name in bank.compared_by if name in measured})
    if outside:
        reason = f"outside what the bank was calibrated on ({'; '.join(outside)}): {told}"
        return Judgement(Outcome.INCONCLUSIVE, reason, None, bank.reference())
    reason = f"a screen settles nothing by itself: {told}"
    return Judgement(Outcome.INCONCLUSIVE, reason, p, bank.reference())


def not_judged(subject: Subject, exact: str, described: str) -> Judgement:
    """What is said where no weight changes: never a pass, since what the adapter adds is described and not tested.

    Args:
        subject: what was measured.
        exact: what therefore cannot have changed, as a clause.
        described: what becomes of the additions, as the end of a sentence.
    """
    told = additions_told(subject) or "nothing"
    reason = f"no weight changes, so {exact}; the adapter adds {told}, {described}"
    return Judgement(Outcome.INCONCLUSIVE, reason, None, None)


def _ranks(subject: Subject) -> dict[str, float | str]:
    """The largest rank that files name, for banks that compare by nothing else."""
    ranks = [part.adapter.rank or 0 for part in subject.artifacts if part.adapter is not None]
    return {"rank": float(max(ranks))} if ranks else {}
