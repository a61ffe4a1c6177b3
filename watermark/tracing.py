"""Who drew a marked picture: users as payloads, and an accusation that bounds the risk of an innocent one.

A user's payload is derived from the master key, so that whoever is innocent of a picture has signs in it that are
independent of those the picture carries, whatever these are. Each user is a look: with U users the chance that any
innocent one is accused is at most the level. That level is apart from, and below, the one of detection: a picture can
be marked and nobody be accused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from auditor.contracts import JsonValue
from auditor.errors import UsageError
from auditor.text import inert
from watermark.detection import Detection
from watermark.engine.sums import agreement
from watermark.keys import MasterKey
from watermark.scheme import LatentScheme, checked_latents

__all__ = ["Trace", "trace", "user_payload"]


@dataclass(frozen=True)
class Trace:
    """Who a picture points to.

    Attributes:
        users: how many were compared.
        best: the likeliest user.
        p_value: bound on the chance that any innocent user agrees as well, after correction for all of them.
        margin: deviations between the likeliest user and the next.
        sharing: other users whose payload is the same; not empty only where latents hold few bits.
        accused: the user, if the picture is marked, the p-value is at most the level, and nobody shares the payload.
        floor: the smallest p-value that so many users and this size allow.
    """

    users: int
    best: str
    p_value: float
    margin: float
    sharing: tuple[str, ...]
    accused: str | None
    floor: float

    def document(self) -> dict[str, JsonValue]:
        """As JSON values."""
        return {
            "users": self.users,
            "best": inert(self.best),
            "p_value": self.p_value,
            "margin": self.margin,
            "sharing": [inert(user) for user in self.sharing],
            "accused": None if self.accused is None else inert(self.accused),
            "floor": self.floor,
        }


def user_payload(key: MasterKey, user: str, bits: int) -> bytes:
    """The payload of a user: ``bits`` pseudorandom bits, a multiple of 8, 256 at most."""
    return key.derive(f"user|{user}")[: bits // 8]


def trace(
    scheme: LatentScheme,
    latents: object,
    key: MasterKey,
    detection: Detection,
    users: Sequence[str],
    *,
    alpha: float,
    accuse: float,
    looks: int = 1,
) -> Trace:
    """Compares a picture with users.

    Args:
        scheme: that marked it.
        latents: inverted, (C, h, w).
        key: the master key.
        detection: what the scheme said of the same latents; its nonce is taken.
        users: their names, all different.
        alpha: level of detection.
        accuse: level of accusation, for all users together.
        looks: how many inversions the latents are the best of.

    Raises:
        UsageError: no user, or the same one twice, or a scheme that carries no payload to trace by.
    """
    if not users or len(set(users)) < len(users):
        raise UsageError("tracing needs users, each of them once")
    values = checked_latents(latents)
    held = scheme.capacity(values.shape)
    bits = held.payload_bits
    if not bits or (held.nonce_bits and detection.nonce is None):
        raise UsageError(f"{scheme.id} carries no payload at this size, so that nobody can be traced")
    payloads = [user_payload(key, user, bits) for user in users]
    rows = scheme.fingerprints(values, key, detection.nonce or b"", payloads)
    found = [agreement(row) for row in rows]
    order = sorted(range(len(users)), key=lambda i: -found[i].deviations)
    first = order[0]
    sharing = tuple(users[i] for i in order[1:] if payloads[i] == payloads[first])
    rest = [found[i].deviations for i in order[1:] if payloads[i] != payloads[first]]
    p = min(1.0, found[first].bound * len(users) * looks)
    guilty = detection.p_value <= alpha and p <= accuse and not sharing
    return Trace(
        users=len(users),
        best=users[first],
        p_value=p,
        margin=found[first].deviations - max(rest, default=0.0),
        sharing=sharing,
        accused=users[first] if guilty else None,
        floor=min(1.0, 2.0 ** -min(rows.shape[1], 1000) * len(users) * looks),
    )
