"""Finding marks in pictures that were turned, mirrored, cut or scaled: a search over what may have been done.

Inversion nearly commutes with such changes, so that they can be undone on the inverted latents, hundreds of times in
the time of one inversion. Every candidate is a look, and the p-value pays for all of them: the list is fixed before the
picture is seen. The best few can be undone on the picture itself and inverted again; each of these is a look as well.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from auditor.contracts import JsonValue
from auditor.errors import UsageError
from watermark.detection import Detection
from watermark.scheme import Shape

__all__ = [
    "Change",
    "Registered",
    "candidates",
    "cuts",
    "mirrors",
    "search",
    "searching",
    "turns",
    "undone",
    "zooms",
]

FloatArray = NDArray[np.float64]
Test = Callable[[Any], Detection]
"""From one picture's latents (C, h, w) to what they say."""

_ANGLE = 3.0
_AREAS = (0.9, 0.75, 0.5)


@dataclass(frozen=True)
class Change:
    """What may have been done to a picture, in this order.

    Attributes:
        mirrored: left and right.
        angle: turned about its middle, in degrees, counter-clockwise.
        top: rows cut off above, in latents.
        left: columns cut off at the left, in latents.
        zoom: side of what was kept over the side that it was scaled to; 1 where it was not scaled.
    """

    mirrored: bool = False
    angle: float = 0.0
    top: float = 0.0
    left: float = 0.0
    zoom: float = 1.0

    def magnified(self, factor: float) -> Change:
        """The same in units of which ``factor`` go into one latent, such as pixels."""
        return Change(self.mirrored, self.angle, self.top * factor, self.left * factor, self.zoom)

    def document(self) -> dict[str, JsonValue]:
        """As JSON values."""
        return {
            "mirrored": self.mirrored,
            "angle": self.angle,
            "top": self.top,
            "left": self.left,
            "zoom": self.zoom,
        }


@dataclass(frozen=True)
class Registered:
    """The best candidate.

    Attributes:
        change: what was undone.
        detection: corrected for all candidates; ``details`` names the change.
        latents: with the change undone, (C, h, w); zeros where the picture says nothing.
    """

    change: Change
    detection: Detection
    latents: FloatArray


def turns(step: float = 3.0, mirrored: bool = False) -> list[Change]:
    """Every ``step`` degrees of a whole turn, and their mirror images if asked for."""
    angles = [i * step for i in range(math.ceil(360 / step))]
    return [Change(flip, angle) for flip in ((False, True) if mirrored else (False,)) for angle in angles]


def mirrors() -> list[Change]:
    """As it is, and mirrored."""
    return [Change(), Change(mirrored=True)]


def cuts(shape: Shape, found: Shape) -> list[Change]:
    """Every place that smaller latents ``found`` may have within ``shape``, not scaled."""
    rows, columns = shape[1] - found[1], shape[2] - found[2]
    return [Change(top=top, left=left) for top, left in product(range(rows + 1), range(columns + 1))]


def zooms(shape: Shape, areas: Iterable[float], step: float = 1.0) -> list[Change]:
    """Parts of the picture scaled up to all of it: every place, ``step`` latents apart, for each part of the area."""
    changes = []
    for area in areas:
        zoom = math.sqrt(area)
        rows, columns = (np.arange(0, side * (1 - zoom) + 1e-9, step) for side in shape[1:])
        changes += [Change(top=float(t), left=float(c), zoom=zoom) for t, c in product(rows, columns)]
    return changes


def undone(planes: FloatArray, change: Change, height: int, width: int) -> FloatArray:
    """Planes (C, h, w) as they were before a change: (C, height, width), bilinear, zeros where nothing is known."""
    from scipy.ndimage import affine_transform

    cos, sin = math.cos(math.radians(change.angle)), math.sin(math.radians(change.angle))
    forward = np.array([[cos, -sin], [sin, cos]]) @ np.diag([1.0, -1.0 if change.mirrored else 1.0])
    middle = np.array([height, width]) / 2
    cut = np.array([change.top, change.left])
    # Where a point of the picture as it was went to, counted from the corner; indices are half a cell further in.
    matrix = forward / change.zoom
    offset = (middle + forward @ (0.5 - middle) - cut) / change.zoom - 0.5
    return np.stack(
        [
            affine_transform(plane, matrix, offset, (height, width), order=1, mode="constant", cval=0.0)
            for plane in np.asarray(planes, dtype=np.float64)
        ]
    )


def search(latents: FloatArray, test: Test, shape: Shape, changes: Sequence[Change]) -> Registered:
    """Tests every candidate.

    Args:
        latents: inverted, (C, h', w').
        test: what one picture's latents (C, h, w) say.
        shape: (C, h, w) of the latents as they were marked.
        changes: the candidates; the identity is tried only if it is among them.

    Returns:
        The candidate of the smallest p-value, which is multiplied by the number of candidates.

    Raises:
        UsageError: no candidates, or other channels than ``shape`` has.
    """
    if not changes or latents.ndim != 3 or latents.shape[0] != shape[0]:
        raise UsageError(
            f"a search takes candidates, and latents of {shape[0]} channels, not {latents.shape}"
        )
    best: Registered | None = None
    for change in changes:
        back = undone(latents, change, *shape[1:])
        if not back.any():
            continue
        detection = test(back)
        if best is None or detection.p_value < best.detection.p_value:
            best = Registered(change, detection, back)
    if best is None:
        raise UsageError("no candidate leaves anything of the picture to test")
    told = best.detection.corrected(len(changes)).noting(registration=best.change.document())
    return Registered(best.change, told, best.latents)


def candidates(shape: Shape, found: Shape) -> list[Change]:
    """What is tried on latents of which nothing is known, as this project declares it.

    Smaller latents: every place within ``shape``. Latents of the same size: turns by three degrees, the mirror image,
    and three quarters, nine tenths and half of the area scaled up, at every place a latent apart.

    Raises:
        UsageError: latents larger than ``shape``, or of other channels.
    """
    if found[0] != shape[0] or found[1] > shape[1] or found[2] > shape[2]:
        raise UsageError(f"latents of {found} cannot be a part of marked latents of {shape}")
    if found != shape:
        return cuts(shape, found)
    return [*turns(_ANGLE), Change(mirrored=True), *zooms(shape, _AREAS)]


def searching(test: Test, shape: Shape) -> Test:
    """A test that searches as well, each way at half of the level.

    Args:
        test: what latents of ``shape`` say.
        shape: (C, h, w) of the latents as they are marked.
    """

    def both(latents: Any) -> Detection:
        found = search(latents, test, shape, candidates(shape, latents.shape)).detection
        if latents.shape != shape:
            return found
        plain = test(latents)
        return min(plain.corrected(2), found.corrected(2), key=lambda detection: detection.p_value)

    return both
