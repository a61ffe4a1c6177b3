"""Picture files through the ladder: what ``detect`` and ``trace`` have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from auditor.errors import AuditorError, MalformedArtifact, UsageError, combine_exit_codes
from auditor.text import inert
from watermark.detection import Decision, Detection

if TYPE_CHECKING:
    from auditor.pipeline.view import View
    from watermark.forgery.witness import Witness
    from watermark.inversion import Reached
    from watermark.issued import Issued
    from watermark.keys import MasterKey
    from watermark.manifests import Manifest, Provenance
    from watermark.picture_scheme import PictureScheme
    from watermark.scheme import LatentScheme

__all__ = ["EXITS", "Picture", "exit_code", "named_mark", "read_marks", "said", "with_manifest", "witnessed"]

EXITS = {Decision.MARKED: 0, Decision.NOT_MARKED: 1, Decision.INCONCLUSIVE: 3}

_BATCH = 16
_WORDS = {
    Decision.MARKED: "marked",
    Decision.NOT_MARKED: "not marked",
    Decision.INCONCLUSIVE: "inconclusive",
}


@dataclass(frozen=True)
class Picture:
    """One file and what came of it: either a place on the ladder, or the error that kept it from one.

    Attributes:
        path: of the file.
        reached: where it got to on the ladder.
        error: what kept it from there.
        witness: what speaks for or against a mark that was found, where that was asked.
        provenance: what mark and manifest say together, why, and the manifest; where that was asked.
    """

    path: Path
    reached: Reached | None = None
    error: AuditorError | None = None
    witness: Witness | None = None
    provenance: tuple[Provenance, str, Manifest | None] | None = None


def read_marks(
    paths: Sequence[Path],
    view: View,
    scheme: LatentScheme | PictureScheme,
    key: MasterKey,
    alpha: float,
    issued: Sequence[Issued],
    payload: bytes | None,
    read_payload: bool = False,
) -> list[Picture]:
    """Tests picture files, those of one size together; a file that cannot be read keeps no other from being read.

    Args:
        paths: of the pictures.
        view: the model that inverts.
        scheme: that marked them.
        key: the master key.
        alpha: level at which a picture is settled.
        issued: entries of a log, or none.
        payload: where it is known.
        read_payload: whether payloads are to be read from the picture and never taken from the log.

    Raises:
        UsageError: the scheme cannot run at the size of a picture, or a nonce or payload does not fit.
    """
    from torch import Tensor, stack

    from auditor.pipeline.families.family import vae_factor
    from watermark.first_rung import print_test
    from watermark.inversion import Reached, Rung, climb
    from watermark.issued import nonces_of
    from watermark.picture_scheme import PictureScheme
    from watermark.pictures import read_picture

    out: dict[int, Picture] = {}
    by_size: dict[tuple[int, ...], list[tuple[int, Tensor]]] = {}
    multiple = vae_factor(view.components) * view.components.kind.patch(view.components)
    for i, path in enumerate(paths):
        try:
            image = read_picture(path, multiple)
        except AuditorError as error:
            out[i] = Picture(path, error=error)
        else:
            by_size.setdefault(tuple(image.shape), []).append((i, image))

    nonces = nonces_of(issued)
    if isinstance(scheme, PictureScheme):
        for group in by_size.values():
            images = stack([image for _, image in group])
            readings = scheme.read(view, images)
            for (i, _), reading in zip(group, readings, strict=True):
                detection = scheme.detect(reading, key, nonces=nonces, payload=payload)
                out[i] = Picture(paths[i], Reached(detection, reading[None].astype("float32"), Rung(0, 0, 1)))
        return [out[i] for i in range(len(paths))]

    def test(latents: object) -> Detection:
        return scheme.detect(latents, key, nonces=nonces, payload=payload)

    first = test if read_payload else print_test(scheme, key, issued, test, payload)

    for group in by_size.values():
        images = stack([image for _, image in group])
        reached = climb(view, images, test, alpha, batch=_BATCH, first=first, share=scheme.share)
        out |= {i: Picture(paths[i], found) for (i, _), found in zip(group, reached, strict=True)}
    return [out[i] for i in range(len(paths))]


def witnessed(
    picture: Picture,
    scheme: LatentScheme | PictureScheme,
    key: MasterKey,
    alpha: float,
    issued: Sequence[Issued] | None,
    bind: bool,
) -> Picture:
    """The picture with what log and binding say of its mark, if one was found.

    Raises:
        UsageError: the scheme's marks have no nonce, or too little of one to bind.
    """
    from watermark.forgery.witness import bound_length, witness
    from watermark.pictures import read_picture

    found = picture.reached
    if found is None or found.detection.decide(alpha) is not Decision.MARKED:
        return picture
    nonce, (channels, height, width) = found.detection.nonce, found.latents.shape
    if nonce is None:
        raise UsageError(f"marks of {scheme.id} have no nonce that a log or a binding could speak of")
    length = bound_length(scheme.capacity((channels, height, width)))
    image = read_picture(picture.path, 1)
    return replace(picture, witness=witness(key, nonce, image, length, issued, bind))


def with_manifest(picture: Picture, scheme: LatentScheme | PictureScheme, key: MasterKey, alpha: float) -> Picture:
    """The picture with what its mark and its manifest say together.

    Raises:
        MissingExtra: the library that reads manifests is not there.
    """
    from watermark.manifests import compared, read_manifest

    if picture.reached is None:
        return picture
    found = named_mark(picture.reached, scheme)
    decision = found.decide(alpha)
    if decision is Decision.INCONCLUSIVE:
        return picture
    try:
        manifest = read_manifest(picture.path.read_bytes())
    except MalformedArtifact:  # a picture of a kind that carries none
        manifest = None
    state, why = compared(found, decision is Decision.MARKED, manifest, key)
    return replace(picture, provenance=(state, why, manifest))


def named_mark(reached: Reached, scheme: LatentScheme | PictureScheme) -> Detection:
    """What was found, with as much of the nonce as a manifest names."""
    from watermark.forgery.witness import with_whole_nonce

    channels, height, width = reached.latents.shape
    return with_whole_nonce(reached.detection, scheme.capacity((channels, height, width)))


def exit_code(pictures: Sequence[Picture], alpha: float) -> int:
    """The code that wins over all pictures."""
    return combine_exit_codes(_code(picture, alpha) for picture in pictures)


def _code(picture: Picture, alpha: float) -> int:
    if picture.error is not None:
        return picture.error.exit_code
    assert picture.reached is not None
    conflict = picture.provenance is not None and picture.provenance[0] == "conflict"
    if conflict or (picture.witness is not None and picture.witness.against):
        return EXITS[Decision.NOT_MARKED]
    return EXITS[picture.reached.detection.decide(alpha)]


def said(picture: Picture, alpha: float) -> str:
    """One line about a picture that was read."""
    assert picture.reached is not None
    found = picture.reached.detection
    decision = found.decide(alpha)
    line = f"{_WORDS[decision]:<12}  {inert(str(picture.path), 300)}  p {_number(found)}"
    if decision is Decision.MARKED and found.payload:
        line += f", payload as read {found.payload.hex()}"
    if picture.witness is not None and picture.witness.against:
        line += f"; but {picture.witness.against}"
    if picture.provenance is not None:
        state, why, _ = picture.provenance
        line += f"; provenance: {str(state).upper()}" + (f" ({why})" if why else "")
    if decision is Decision.INCONCLUSIVE:
        line += f": no picture of this size can come below {found.floor:.2g} with {found.looks:,} looks"
    return line


def _number(found: Detection) -> str:
    sign = "<=" if found.method == "certified" else "="
    return f"{sign} {found.p_value:.3g} ({str(found.method).replace('_', ' ')})"
