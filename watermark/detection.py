"""What a detector says of one picture: a p-value that holds exactly, how it was found, and what it read.

The null hypothesis of every scheme is the same: *the key was drawn without regard to this picture*. Whatever the
picture, its sampler and what was done to it, the inverted latents are taken as they are and the key is what is random,
so that P(p <= a) <= a holds for each picture alone. No model of natural images enters, and no threshold.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from auditor.contracts import JsonValue
from auditor.text import inert

__all__ = ["Decision", "Detection", "Method"]


class Method(StrEnum):
    """How a p-value was found."""

    EXACT = "exact"
    """From the whole distribution over keys."""
    MONTE_CARLO = "monte_carlo"
    """By rank among keys drawn at random; no smaller than one over their number."""
    SADDLE_POINT = "saddle_point"
    """An approximation of the tail, good to a few percent, not a bound."""
    CERTIFIED = "certified"
    """From a proven bound on the tail (Hoeffding, Bentkus and Dzindzalieta, or Markov on an e-value)."""


class Decision(StrEnum):
    """What a p-value comes to at a level."""

    MARKED = "marked"
    NOT_MARKED = "not_marked"
    INCONCLUSIVE = "inconclusive"
    """The scheme, at this size or with so many looks, cannot reach the level whatever the picture."""


@dataclass(frozen=True)
class Detection:
    """The outcome for one picture.

    Attributes:
        scheme: id of the scheme.
        p_value: in (0, 1], after correction for ``looks``.
        method: how it was found.
        statistic: what was tested, larger for more of the mark; its unit is the scheme's own.
        n: latent coordinates that the statistic rests on.
        floor: the smallest p-value that the key space and the looks allow; nothing below it is ever claimed.
        looks: how many hypotheses were tried (nonces, keys, registrations), the Bonferroni factor within ``p_value``.
        nonce: the nonce that was read or matched, if any.
        payload: the payload as read; meaningless unless the picture is marked. Empty where the scheme carries none.
        tails: p-values of other methods for the same statistic, by :class:`Method`, for comparison; corrected alike.
        details: what else the scheme has to say, as JSON values.
    """

    scheme: str
    p_value: float
    method: Method
    statistic: float
    n: int
    floor: float
    looks: int = 1
    nonce: bytes | None = None
    payload: bytes = b""
    tails: Mapping[Method, float] = field(default_factory=dict)
    details: Mapping[str, JsonValue] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Holds what every scheme promises. Raises ``ValueError`` for a p-value that cannot be one."""
        if not 0 < self.p_value <= 1:
            raise ValueError(f"a p-value of {self.p_value} cannot be: it lies above 0 and at most at 1")
        if self.looks < 1 or self.n < 1:
            raise ValueError("a detection rests on one look and one coordinate at least")

    @property
    def bits(self) -> tuple[int, ...]:
        """Of the payload, most significant of each byte first."""
        return tuple(byte >> place & 1 for byte in self.payload for place in reversed(range(8)))

    def decide(self, alpha: float) -> Decision:
        """Marked where ``p_value <= alpha``; inconclusive where no picture could have been."""
        if self.floor > alpha:
            return Decision.INCONCLUSIVE
        return Decision.MARKED if self.p_value <= alpha else Decision.NOT_MARKED

    def corrected(self, looks: int) -> Detection:
        """The same detection as the best of ``looks`` that were tried, each with the looks it had by itself.

        Raises:
            ValueError: fewer than one.
        """
        if looks < 1:
            raise ValueError("there is no best of nothing")
        return replace(
            self,
            p_value=min(1.0, self.p_value * looks),
            floor=min(1.0, self.floor * looks),
            looks=self.looks * looks,
            tails={method: min(1.0, p * looks) for method, p in self.tails.items()},
        )

    def noting(self, **details: JsonValue) -> Detection:
        """The same detection with more details."""
        return replace(self, details={**self.details, **details})

    def document(self) -> dict[str, JsonValue]:
        """The same fields for every scheme, as JSON values; never anything of the key."""
        return {
            "scheme": inert(self.scheme),
            "p_value": self.p_value,
            "method": str(self.method),
            "statistic": self.statistic,
            "n": self.n,
            "floor": self.floor,
            "looks": self.looks,
            "nonce": None if self.nonce is None else self.nonce.hex(),
            "payload": self.payload.hex(),
            "bits": "".join(map(str, self.bits)),
            "tails": {str(method): p for method, p in self.tails.items()},
            "details": dict(self.details),
        }
