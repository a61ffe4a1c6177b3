"""Several probes judged as one: banks that measured the same clean adapters, pooled.

Splitting a level over probes makes each of them blinder, and a bank of m adapters cannot judge below 1 / (m + 1). Where
the same adapters were scored by all of them, nothing has to be split: what is judged is how far the worst probe is out,
against how far the worst probe is out for each clean adapter. Scores are comparable because what recipes account for
is taken out of them and the rest is in usual deviations. These are the single-step maxT p-values of Westfall and Young
(*Resampling-Based Multiple Testing*, 1993): each holds for its own probe, and all of them together keep the level.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from auditor.banks.model import BankData
from auditor.stats import conformal_p, p_floor

__all__ = ["Pool", "pools_of"]

SHARED = 0.8
"""Share of the smaller calibrate split that two banks must have in common to be pooled."""


class Pool:
    """Banks of different probes over the same adapters.

    Args:
        banks: each with an adjustment, so that scores are comparable. An adapter that a bank does not have was nothing
            to its probe, and counts as less than any score there.
    """

    def __init__(self, banks: Sequence[BankData]) -> None:
        self.banks = tuple(banks)
        worst: dict[str, float] = {}
        for bank in self.banks:
            for name, rest in bank.judged_by_name("calibrate").items():
                worst[name] = max(rest, worst.get(name, -np.inf))
        self._worst: NDArray[np.float64] = np.array(list(worst.values()))

    @property
    def size(self) -> int:
        """Number of adapters in any calibrate split."""
        return len(self._worst)

    @property
    def p_floor(self) -> float:
        """Smallest p-value that the pool can give."""
        return p_floor(self.size)

    def p_value(self, rest: float) -> float:
        """For one probe's score less what recipes account for (:meth:`BankData.judged`); ties conservative."""
        return conformal_p(rest, self._worst)

    def alarms(self, alpha: float) -> dict[str, bool]:
        """For each adapter of a certify split, whether any probe would hold it back at ``alpha``."""
        worst: dict[str, float] = {}
        for bank in self.banks:
            for name, rest in bank.judged_by_name("certify").items():
                worst[name] = max(rest, worst.get(name, -np.inf))
        return {name: self.p_value(rest) <= alpha for name, rest in worst.items()}


def pools_of(banks: Mapping[str, BankData]) -> dict[str, Pool]:
    """Probe id to the pool that judges it, for probes whose banks share adapters with another's.

    Args:
        banks: by probe id. Those without an adjustment are left out: their scores have a unit of their own.
    """
    groups: list[list[str]] = []
    for probe, bank in banks.items():
        if bank.adjustment is None:
            continue
        group = next((g for g in groups if all(_shared(bank, banks[other]) for other in g)), None)
        if group is None:
            groups.append([probe])
        else:
            group.append(probe)
    made = {tuple(group): Pool([banks[probe] for probe in group]) for group in groups if len(group) > 1}
    return {probe: pool for group, pool in made.items() for probe in group}


def _shared(one: BankData, other: BankData) -> bool:
    first, second = ({a.name for a in bank.adapters if a.split == "calibrate"} for bank in (one, other))
    return len(first & second) >= SHARED * min(len(first), len(second))
