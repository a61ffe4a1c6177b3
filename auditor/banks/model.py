"""What is in a bank, and how a score is judged by it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from auditor.banks.adjust import Adjustment
from auditor.banks.split import Split
from auditor.contracts import JsonValue
from auditor.errors import UsageError
from auditor.stats import conformal_p, p_floor
from auditor.text import did_you_mean, inert
from reports.model import Bank, Interval, Number

__all__ = ["BankAdapter", "BankData", "RealisedFpr", "Recipe"]

Scores = dict[str, Number | tuple[Number, ...]]


def _sha256(value: str) -> str:
    if len(value) != 64 or not set(value) <= set("0123456789abcdef"):
        raise ValueError("must be a SHA-256 in lower-case hex")
    return value


Sha256 = Annotated[str, AfterValidator(_sha256)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Recipe(_Model):
    """How a clean adapter was made: the covariates that its scores may depend on."""

    method: str
    rank: int = Field(ge=0)
    steps: int = Field(ge=0)
    lr: Number = Field(ge=0)
    extra: dict[str, Number | str] = Field(default_factory=dict)


class BankAdapter(_Model):
    """One clean adapter: its recipe, its split, and its scores by name (a number or a vector each)."""

    name: str
    split: Split
    recipe: Recipe
    scores: Scores

    def covariate(self, name: str) -> float | str:
        """A covariate of its recipe.

        Raises:
            UsageError: it has none of that name.
        """
        known: dict[str, float | str] = {**self.recipe.model_dump(exclude={"extra"}), **self.recipe.extra}
        if name not in known:
            raise UsageError(f"there is no covariate '{inert(name)}'{did_you_mean(name, known)}")
        return known[name]


class RealisedFpr(_Model):
    """False alarms on the certify split at the bank's alpha, with a Clopper-Pearson interval."""

    alarms: int = Field(ge=0)
    n: int = Field(ge=1)
    ci: Interval


class BankData(_Model):
    """Scores of clean adapters under one probe, one set of parameters and one base.

    Attributes:
        id: name and version of the bank, such as ``embedded.vocabulary_shift@1``.
        probe: id of the probe; ``probe_version`` and ``params_sha256`` say which form of it.
        base_sha256: hash of the base that the adapters were trained on.
        score: name of the score that p-values are for; larger is more suspicious.
        adjustment: what is taken out of the score before it is judged; nothing without.
        alpha: level in (0, 1) at which ``realised_fpr`` was measured.
        sha256: of everything else, see :meth:`digest`.
    """

    format: Literal["auditor.bank"] = "auditor.bank"
    format_version: Literal[1, 2] = 2
    id: str
    probe: str
    probe_version: int
    params: dict[str, JsonValue] = Field(default_factory=dict)
    params_sha256: Sha256
    base_sha256: Sha256
    score: str
    adjustment: Adjustment | None = None
    alpha: Number = Field(gt=0, lt=1)
    adapters: tuple[BankAdapter, ...]
    realised_fpr: RealisedFpr | None = None
    sha256: str = ""

    @model_validator(mode="after")
    def _consistent(self) -> BankData:
        names = [adapter.name for adapter in self.adapters]
        if len(set(names)) != len(names):
            raise ValueError("two adapters of the bank have one name")
        if not any(adapter.split == "calibrate" for adapter in self.adapters):
            raise ValueError("the bank has no adapter in its calibrate split")
        for adapter in self.adapters:
            if isinstance(adapter.scores.get(self.score), tuple | None):
                raise ValueError(f"adapter {inert(adapter.name)} has no number called {inert(self.score)}")
        return self

    @property
    def size(self) -> int:
        """Number of adapters in the calibrate split."""
        return sum(adapter.split == "calibrate" for adapter in self.adapters)

    @property
    def p_floor(self) -> float:
        """Smallest p-value that this bank can give: 1 / (size + 1)."""
        return p_floor(self.size)

    @property
    def compared_by(self) -> tuple[str, ...]:
        """Covariates by which a subject is compared with the bank: its support is checked in these."""
        return ("rank", *(self.adjustment.names if self.adjustment else ()))

    def scores(self, name: str = "", split: Split | None = None) -> NDArray[np.float64]:
        """Scores called ``name`` (default: the main one), in the bank's order.

        Returns:
            Shape (n,) for numbers and (n, d) for vectors, float64.

        Raises:
            UsageError: not every adapter asked for has such a score, or vectors differ in length.
        """
        name = name or self.score
        chosen = [a for a in self.adapters if split is None or a.split == split]
        known = set.intersection(*(set(a.scores) for a in chosen)) if chosen else {self.score}
        if name not in known:
            raise UsageError(f"bank {inert(self.id)} has no score '{inert(name)}'{did_you_mean(name, known)}")
        values = [a.scores[name] for a in chosen]
        if len({len(v) if isinstance(v, tuple) else -1 for v in values}) > 1:
            raise UsageError(f"score '{inert(name)}' of bank {inert(self.id)} varies in length")
        return np.array(values, dtype=np.float64)

    def p_value(self, score: float, covariates: Mapping[str, float | str] | None = None) -> float:
        """Conformal p-value of a score against the calibrate split, ties conservative.

        It is never below :attr:`p_floor`.

        Args:
            score: larger is more suspicious; infinity allowed.
            covariates: measured on the same subject; needed by a bank that compares by them.

        Raises:
            StatisticsError: ``score`` is NaN.
            UsageError: the bank compares by a covariate that is not given.
        """
        return conformal_p(self.judged(score, covariates or {}), self._calibrate)

    def judged(self, score: float, covariates: Mapping[str, float | str]) -> float:
        """The score as it is judged: less what the recipe accounts for, where the bank takes that out."""
        return float(score) if self.adjustment is None else self.adjustment.rest(float(score), covariates)

    @cached_property
    def _calibrate(self) -> NDArray[np.float64]:
        chosen = [a for a in self.adapters if a.split == "calibrate"]
        return np.array([self._judged(a) for a in chosen])

    def _judged(self, adapter: BankAdapter) -> float:
        value = adapter.scores[self.score]
        assert isinstance(value, float)  # held by the validator
        names = self.adjustment.names if self.adjustment else ()
        return self.judged(value, {name: adapter.covariate(name) for name in names})

    def judged_by_name(self, split: Split) -> dict[str, float]:
        """Name of every adapter of a split to its main score as it is judged."""
        return {adapter.name: self._judged(adapter) for adapter in self.adapters if adapter.split == split}

    def alarm(self, adapter: BankAdapter) -> bool:
        """Whether one of the bank's adapters would be held back at its ``alpha``."""
        return conformal_p(self._judged(adapter), self._calibrate) <= self.alpha

    def out_of_support(self, covariates: Mapping[str, float | str]) -> tuple[str, ...]:
        """What of ``covariates`` the fit and calibrate splits do not cover, one clause each.

        Known are ``method`` (must occur), ``rank``, ``steps``, ``lr`` and numbers in ``extra`` (must lie in
        the range that occurs). Give only what was measured or is trusted: what is not given is not checked.

        Raises:
            UsageError: a covariate that the bank does not have.
        """
        return tuple(clause for name, value in covariates.items() if (clause := self._outside(name, value)))

    def in_support(self, covariates: Mapping[str, float | str]) -> bool:
        """Whether the bank covers an adapter with these covariates; see :meth:`out_of_support`."""
        return not self.out_of_support(covariates)

    def alarms_by(self, covariate: str) -> dict[str, tuple[int, int]]:
        """False alarms and number of certify adapters, for each value of a covariate such as ``method``."""
        table: dict[str, tuple[int, int]] = {}
        for adapter in self.adapters:
            if adapter.split == "certify":
                group = str(self._covariate(adapter, covariate))
                alarms, n = table.get(group, (0, 0))
                table[group] = (alarms + self.alarm(adapter), n + 1)
        return dict(sorted(table.items()))

    def reference(self) -> Bank:
        """The bank as a report names it; ``n`` counts the calibrate split."""
        fpr = self.realised_fpr
        return Bank(
            id=self.id,
            sha256=self.sha256,
            n=self.size,
            realised_fpr=fpr.alarms / fpr.n if fpr else None,
            realised_fpr_ci=fpr.ci if fpr else None,
        )

    def digest(self) -> str:
        """SHA-256 of the canonical JSON of everything but ``sha256``, in hex."""
        # Absent, it is left out, so that banks of the first format keep their hash.
        left_out = {"sha256"} if self.adjustment else {"sha256", "adjustment"}
        body = self.model_dump(mode="json", exclude=left_out)
        text = json.dumps(body, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def _outside(self, name: str, value: float | str) -> str:
        known = [self._covariate(a, name) for a in self.adapters if a.split != "certify"]
        shown = inert(str(value), 40)
        if isinstance(value, str) or any(isinstance(k, str) for k in known):
            return "" if value in known else f"{name} '{shown}' does not occur in the bank"
        numbers = [float(k) for k in known]
        if min(numbers) <= value <= max(numbers):
            return ""
        return f"{name} {shown} is outside the bank's {min(numbers):g} to {max(numbers):g}"

    def _covariate(self, adapter: BankAdapter, name: str) -> float | str:
        try:
            return adapter.covariate(name)
        except UsageError as problem:
            raise UsageError(f"bank {inert(self.id)}: {problem}") from None
