"""What there is to do: every unit of every scheme at every size, so that a run that is stopped has some of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from watermark.proving.bench import CHUNK, Bench
from watermark.proving.marks import (
    FORGERIES,
    adapter_unit,
    attack_unit,
    clean_unit,
    forgery_unit,
    quality_unit,
    telling_unit,
)
from watermark.proving.nulls import KINDS, PART, null_unit
from watermark.proving.rival import Peer, rival_attack_unit, rival_clean_unit
from watermark.removal.attack import Removal
from watermark.scheme import LatentScheme

__all__ = ["Amounts", "Unit", "strength_of", "units_at"]

FIRST = ("tail_sign", "gaussian_shading", "tree_ring", "ring_id")
"""Schemes that are done first: the default, and those that the other toolkit has too."""
_LATENT_SECONDS = 0.0012
"""Seconds of one core for one latent position of one picture, drawn or read."""


@dataclass(frozen=True)
class Amounts:
    """How much of everything.

    Attributes:
        pictures: marked pictures of each scheme at each size, rounded up to whole chunks.
        nulls: of each scheme at each size, of all kinds together.
        attacked: pictures of each attack and each forgery, at most ``pictures``.
        members: adapted models, with a chunk of pictures of each scheme.
    """

    pictures: int = 1000
    nulls: int = 10_000
    attacked: int = 200
    members: int = 40

    @property
    def chunks(self) -> int:
        """Chunks of pictures."""
        return -(-self.pictures // CHUNK)

    @property
    def parts(self) -> int:
        """Units of nulls."""
        return -(-self.nulls // (PART * len(KINDS)))

    @property
    def attacked_chunks(self) -> int:
        """Chunks that are attacked."""
        return min(self.chunks, -(-self.attacked // CHUNK))


@dataclass(frozen=True)
class Unit:
    """One piece of work and where its record lies.

    Attributes:
        kind: ``clean``, ``quality``, ``null``, ``attack``, ``forgery``, ``adapter``, ``telling``, ``rival``
            or ``rival attack``.
        size: pixels.
        scheme: id; that of the other toolkit for its units; empty for unmarked pictures.
        label: of the attack, forgery or member; empty for others.
        turn: round in which it is done; also the number of its chunk or part.
        path: of the record.
        seconds: of one core, roughly.
        make: gives the record.
    """

    kind: str
    size: int
    scheme: str
    label: str
    turn: int
    path: Path
    seconds: float
    make: Callable[[], dict[str, Any]] = field(compare=False)


def strength_of(attack: Removal) -> float:
    """The strength that is measured: the middle of the attack's grid."""
    return attack.grid[len(attack.grid) // 2]


def units_at(
    bench: Bench,
    schemes: Sequence[LatentScheme],
    attacks: Sequence[Removal],
    members: Sequence[Path],
    peers: Sequence[tuple[Peer, LatentScheme]],
    amounts: Amounts,
) -> list[Unit]:
    """Everything at one size, in the order in which it is done."""
    ordered = sorted(
        schemes, key=lambda scheme: FIRST.index(scheme.id) if scheme.id in FIRST else len(FIRST)
    )
    found: list[Unit] = []
    for turn in range(max(amounts.chunks, amounts.parts, len(members))):
        found += _turn(bench, ordered, attacks, members, peers, amounts, turn)
    return found


def _turn(
    bench: Bench,
    schemes: Sequence[LatentScheme],
    attacks: Sequence[Removal],
    members: Sequence[Path],
    peers: Sequence[tuple[Peer, LatentScheme]],
    amounts: Amounts,
    turn: int,
) -> Iterator[Unit]:
    one = CHUNK * _LATENT_SECONDS * bench.shape[1] * bench.shape[2]

    def unit(
        kind: str, scheme: str, label: str, cost: float, make: Callable[[], dict[str, Any]], number: int = turn
    ) -> Unit:
        path = bench.path(*(part for part in (scheme or "unmarked", kind, label, str(number)) if part))
        return Unit(kind, bench.size, scheme, label, turn, path, cost, make)

    if turn < amounts.chunks:
        yield unit("quality", "", "", one, partial(quality_unit, bench, None, turn))
        for scheme in schemes:
            yield unit("clean", scheme.id, "", 2 * one, partial(clean_unit, bench, scheme, turn))
            yield unit("quality", scheme.id, "", 0.1 * one, partial(quality_unit, bench, scheme, turn))
    if turn < amounts.parts:
        for scheme in schemes:
            yield unit("null", scheme.id, "", 10.0, partial(null_unit, bench, scheme, turn))
    if turn < amounts.attacked_chunks:
        for peer, scheme in peers:
            yield unit("rival", peer.rival.id, "", 7 * one, partial(rival_clean_unit, peer, scheme, turn))
        # Attack by attack, so that those that are compared are done on the same attacks.
        for attack in attacks:
            strength = strength_of(attack)
            for scheme in schemes:
                work = partial(attack_unit, bench, scheme, turn, attack, strength)
                yield unit("attack", scheme.id, attack.id, 1.5 * one, work)
            for peer, _ in peers:
                rival_work = partial(rival_attack_unit, peer, turn, attack, strength)
                yield unit("rival attack", peer.rival.id, attack.id, one, rival_work)
        for forgery in FORGERIES:
            for scheme in schemes:
                work = partial(forgery_unit, bench, scheme, turn, forgery)
                yield unit("forgery", scheme.id, forgery, 4 * one, work)
    if turn < len(members):
        for scheme in schemes:
            member = members[turn]
            yield unit("adapter", scheme.id, member.name, 2 * one, partial(adapter_unit, bench, scheme, member))
    if turn == 0:
        for scheme in schemes:
            yield unit("telling", scheme.id, "", 30.0, partial(telling_unit, bench, scheme))
