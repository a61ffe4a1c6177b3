"""Taking out of a score what the recipe of a clean adapter accounts for.

Clean scores grow with the size of the change and differ by how it is made, so that one bank of many recipes would hold
back strong clean adapters and wave weak bad ones through. A ridge regression on the fit split predicts the score from
covariates that are measured from the file; what is judged is the rest, in units of what is usual for its kind. The
calibrate split then gives p-values that hold whether or not the prediction is any good (locally weighted conformal
inference: J. Lei et al., JASA 2018, arXiv 1604.04173).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from auditor.errors import UsageError
from reports.model import Number

if TYPE_CHECKING:
    from auditor.banks.model import BankAdapter

__all__ = ["Adjustment", "fit_adjustment"]

Transform: TypeAlias = Literal["identity", "log"]
Covariates = Mapping[str, float | str]
FEWEST = 3
BORROWED = 5
PENALTY = 1.0
"""Of the ridge, on columns of unit size: half a dozen adapters outweigh it."""


class Term(BaseModel):
    """One covariate's share of a clean score.

    Attributes:
        name: of the covariate.
        form: the number itself, whether it is above ``absent``, or whether a named covariate is ``level``.
        level: a value of a named covariate.
        absent: at or below this value a number means that there is nothing to measure, and counts as ``centre``.
        centre: mean over the fit split, where there is something to measure.
        spread: its standard deviation.
        weight: what one spread more adds.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    form: Literal["number", "present", "level"] = "number"
    level: str = ""
    absent: Number | None = None
    centre: Number = 0.0
    spread: Number = Field(default=1.0, gt=0)
    weight: Number = 0.0

    def column(self, value: float | str) -> float:
        """The standardised value."""
        if self.form == "level":
            return (float(value == self.level) - self.centre) / self.spread
        number = float(value)
        present = self.absent is None or number > self.absent
        if self.form == "present":
            return (float(present) - self.centre) / self.spread
        return (number - self.centre) / self.spread if present else 0.0


class Adjustment(BaseModel):
    """What a clean score is expected to be, given covariates.

    Attributes:
        transform: the score is taken as it is, or as the logarithm of itself plus ``offset``.
        offset: in units of the score.
        intercept: expected score at mean covariates.
        terms: of the regression.
        spread: standard deviation of what is left over the fit split.
        spread_by: a named covariate whose values differ in it; none if empty.
        spreads: value of that covariate to its own standard deviation; ``spread`` for all others.
        r_squared: share of the fit split's variance that it accounts for.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    transform: Transform = "identity"
    offset: Number = Field(default=0.0, ge=0)
    intercept: Number = 0.0
    terms: tuple[Term, ...] = ()
    spread: Number = Field(default=1.0, gt=0)
    spread_by: str = ""
    spreads: dict[str, Annotated[Number, Field(gt=0)]] = Field(default_factory=dict)
    r_squared: Number = 0.0

    @property
    def names(self) -> tuple[str, ...]:
        """Covariates that have to be given."""
        by = (self.spread_by,) if self.spread_by else ()
        return tuple(dict.fromkeys((*(term.name for term in self.terms), *by)))

    def rest(self, score: float, covariates: Covariates) -> float:
        """The score less what is expected, in usual deviations; larger is more suspicious, infinite scores stay so.

        Raises:
            UsageError: a covariate is missing.
        """
        missing = [name for name in self.names if name not in covariates]
        if missing:
            raise UsageError(f"the bank compares by {', '.join(missing)}, which was not measured")
        expected = sum(term.weight * term.column(covariates[term.name]) for term in self.terms)
        deviation = _transformed(score, self.transform, self.offset) - self.intercept - expected
        return deviation / self.spreads.get(str(covariates.get(self.spread_by, "")), self.spread)


def fit_adjustment(
    adapters: Sequence[BankAdapter],
    score: str,
    numbers: Mapping[str, float | None],
    named: Sequence[str] = (),
) -> Adjustment:
    """Fits the regression on the adapters of the fit split; others are not looked at.

    Scores none of which is negative are sizes, which recipes multiply: they are taken as logarithms, with a tenth of
    their median added so that the logarithm of nothing is finite. Others are taken as they are.

    Args:
        adapters: of a bank, all splits.
        score: name of the score.
        numbers: covariates that are numbers, each with the value at or below which there is nothing to measure,
            or None.
        named: covariates with named values, the first one also for the usual deviation; what fewer than three fit
            adapters have, or lack, gets no term.

    Raises:
        UsageError: fewer than ten adapters to fit, or one without a covariate.
    """
    fit = [adapter for adapter in adapters if adapter.split == "fit"]
    if len(fit) < 10:
        raise UsageError(f"{len(fit)} adapters cannot tell what recipes account for; it takes 10")
    raw = np.array([_number(a, score) for a in fit])
    transform: Transform = "log" if raw.min() >= 0 and raw.max() > 0 else "identity"
    offset = float(np.median(raw)) / 10 if transform == "log" else 0.0
    values = np.array([_transformed(value, transform, offset) for value in raw])
    terms = [*_numeric(fit, numbers), *_levels(fit, named)]
    columns = np.array([[term.column(a.covariate(term.name)) for term in terms] for a in fit]).reshape(
        len(fit), -1
    )
    centred = values - values.mean()
    weights = np.linalg.solve(columns.T @ columns + PENALTY * np.eye(len(terms)), columns.T @ centred)
    left = centred - columns @ weights
    whole = float(np.square(centred).sum())
    # Where all scores of the fit split are one, nothing tells deviations apart.
    spread = float(left.std()) or 1.0
    by = named[0] if named else ""
    groups = [str(a.covariate(by)) for a in fit] if by else []
    return Adjustment(
        transform=transform,
        offset=offset,
        intercept=float(values.mean()),
        terms=tuple(t.model_copy(update={"weight": float(w)}) for t, w in zip(terms, weights, strict=True)),
        spread=spread,
        spread_by=by,
        spreads=_spreads(left, groups, spread),
        r_squared=1 - float(np.square(left).sum()) / whole if whole else 0.0,
    )


def _spreads(left: NDArray[np.float64], groups: Sequence[str], spread: float) -> dict[str, float]:
    """Root mean square of what is left by group, drawn toward the whole's by :data:`BORROWED` members."""
    named = np.array(groups)
    found = {}
    for group in sorted(set(groups)):
        own = left[named == group]
        total = float(np.square(own).sum()) + BORROWED * spread**2
        found[group] = math.sqrt(total / (len(own) + BORROWED))
    return found


def _numeric(fit: Sequence[BankAdapter], numbers: Mapping[str, float | None]) -> list[Term]:
    terms = []
    for name, absent in numbers.items():
        values = np.array([float(a.covariate(name)) for a in fit])
        present: NDArray[np.bool_] = values > (-np.inf if absent is None else absent)
        terms += _indicator(present, Term(name=name, form="present", absent=absent))
        if present.sum() >= FEWEST and values[present].std() > 0:
            centre, spread = float(values[present].mean()), float(values[present].std())
            terms.append(Term(name=name, absent=absent, centre=centre, spread=spread))
    return terms


def _levels(fit: Sequence[BankAdapter], named: Sequence[str]) -> list[Term]:
    terms = []
    for name in named:
        values = [str(a.covariate(name)) for a in fit]
        for level in sorted(set(values)):
            terms += _indicator(np.array(values) == level, Term(name=name, form="level", level=level))
    return terms


def _indicator(hits: NDArray[np.bool_], term: Term) -> list[Term]:
    """The standardised term, where enough of the fit split is on either side."""
    if min(hits.sum(), (~hits).sum()) < FEWEST:
        return []
    share = float(hits.mean())
    return [term.model_copy(update={"centre": share, "spread": math.sqrt(share * (1 - share))})]


def _number(adapter: BankAdapter, score: str) -> float:
    value = adapter.scores[score]
    if isinstance(value, tuple):
        raise UsageError(f"score '{score}' is not a number")
    return float(value)


def _transformed(score: float, transform: Transform, offset: float) -> float:
    if transform == "identity":
        return score
    return math.log(score + offset) if score + offset > 0 else -math.inf
