"""What a forger gets and pays, and how often a detector is taken in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from auditor.contracts import JsonValue
from auditor.errors import UsageError
from auditor.stats import clopper_pearson
from watermark.detection import Decision, Detection

__all__ = ["Forged", "ForgeryRate", "forgery_rate"]


@dataclass(frozen=True)
class Forged:
    """Forged pictures and their price.

    Attributes:
        images: (B, 3, H, W) in [-1, 1].
        calls: evaluations of the denoiser on one latent, for all of them; a gradient counts as two more.
        marked: marked pictures of the owner's that were needed, for all of them.
    """

    images: Tensor
    calls: int
    marked: int


@dataclass(frozen=True)
class ForgeryRate:
    """How often forged pictures are taken for the owner's at a level.

    Attributes:
        accepted: pictures that were.
        n: all of them.
        alpha: the detector's level: its rate of false alarms on pictures that have nothing to do with the key.
        low: lower end of the two-sided 95 % interval (Clopper-Pearson).
        high: upper end.
        calls: evaluations of the denoiser a picture.
        marked: marked pictures that were needed in all.
    """

    accepted: int
    n: int
    alpha: float
    low: float
    high: float
    calls: float
    marked: int

    def document(self) -> dict[str, JsonValue]:
        """As JSON values."""
        return {
            "accepted": self.accepted,
            "n": self.n,
            "alpha": self.alpha,
            "low": self.low,
            "high": self.high,
            "calls": self.calls,
            "marked": self.marked,
        }


def forgery_rate(
    forged: Forged, detections: Sequence[Detection], alpha: float, refused: Sequence[bool] = ()
) -> ForgeryRate:
    """The rate at a level.

    Args:
        forged: pictures and price.
        detections: of each of them.
        alpha: level.
        refused: of each, whether a defence spoke against it; no defence if empty.

    Raises:
        UsageError: no pictures, another number of detections, or a detector that cannot reach the level on any picture,
            of which no rate says anything.
    """
    n = len(forged.images)
    against = list(refused) or [False] * n
    if not n or len(detections) != n or len(against) != n:
        raise UsageError(f"{n} forged pictures need as many detections, not {len(detections)}")
    decisions = [detection.decide(alpha) for detection in detections]
    if Decision.INCONCLUSIVE in decisions:
        raise UsageError(f"a level of {alpha:g} is out of reach of this scheme at this size")
    accepted = sum(
        decision is Decision.MARKED and not no for decision, no in zip(decisions, against, strict=True)
    )
    interval = clopper_pearson(accepted, n)
    return ForgeryRate(accepted, n, alpha, interval.low, interval.high, forged.calls / n, forged.marked)
