"""What a mark that a model's weights carry is: 49 squares of the key's, in every picture that the weights draw."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from auditor.contracts import Progress
from auditor.errors import UsageError
from watermark.detection import Detection, Method
from watermark.engine.graphic import SQUARES, TILE, coarse, squares
from watermark.engine.hidden import judged_signs
from watermark.keys import MasterKey
from watermark.picture_scheme import FACTOR, PictureScheme
from watermark.scheme import Capacity, FloatArray, Shape, checked_payload

if TYPE_CHECKING:
    from auditor.pipeline.components import Components

__all__ = ["WeightScheme"]

_SIDE = TILE // FACTOR


class WeightScheme(PictureScheme):
    """A scheme that embeds in ``weights``: whoever draws with them marks, knowingly or not.

    The message is short and simple, because weights have to learn where in a picture they are before they can draw it:
    49 squares, dark or light by the key. They are read by the extraction of Safe-SD.

    Attributes:
        params: a frozen dataclass whose defaults are the recommended recipe.
    """

    embed_point = "weights"
    params: type

    def capacity(self, shape: Shape) -> Capacity:
        """See :meth:`PictureScheme.capacity`; present or absent, at the size that the weights were taught."""
        if shape != (4, _SIDE, _SIDE):
            raise UsageError(
                f"{self.id} needs pictures of {TILE}x{TILE} pixels, the size that the weights were taught to mark, "
                f"and not latents of {shape[0]}x{shape[1]}x{shape[2]}"
            )
        return Capacity(0, 0, SQUARES, float(SQUARES), "One message for every picture that the weights draw.")

    def modules(self, key: MasterKey, payload: bytes = b"") -> NDArray[np.bool_]:
        """See :meth:`PictureScheme.modules`."""
        checked_payload(payload, self.capacity((4, _SIDE, _SIDE)))
        return squares(self._signs(key) > 0)

    @abstractmethod
    def teach(
        self, base: Components, key: MasterKey, params: Any, out: Path, progress: Progress
    ) -> Path:
        """Teaches weights the key's message and writes them into a new folder, with ``provenance.json`` beside them.

        Args:
            base: the model; as before afterwards.
            key: the master key; neither it nor its message is written.
            params: an instance of ``self.params``.
            out: the folder; made.
            progress: told of every step.

        Returns:
            What diffusers loads: a folder of an autoencoder, or a LoRA file.

        Raises:
            UsageError: a parameter is out of range, or the networks do not fit the model.
        """

    def tell(
        self, out: Path, weights: Path, base: Components, key: MasterKey, recipe: Mapping[str, Any],
        taught: Mapping[str, Any],
    ) -> None:  # fmt: skip
        """Writes ``provenance.json``: which key by its id, recipe, base, the weights' hash, and how well it went."""
        from auditor.personalize.blocks.saving import sha256_of, write_sidecar

        told = {
            "watermark": self.id,
            "key": key.id,
            "params": dict(recipe),
            "base": {"ref": base.ref, "revision": base.revision, "sha256": base.sha256, "family": base.family},
            "files": {weights.name: sha256_of(weights)},
        }
        write_sidecar(out, told | dict(taught))

    def _judge(
        self, reading: FloatArray, held: Capacity, key: MasterKey, payload: bytes | None, seed: int
    ) -> Detection:
        agreeing = self._signs(key) * coarse(reading)
        tested = judged_signs(agreeing, seed)
        return Detection(
            scheme=self.id,
            p_value=max(tested.p_value, held.floor),
            method=tested.method,
            statistic=tested.deviations,
            n=held.n,
            floor=held.floor,
            tails={Method.CERTIFIED: max(tested.bound, held.floor)},
            details={"squares_wrong": int((agreeing < 0).sum())},
        )

    def _signs(self, key: MasterKey) -> FloatArray:
        return key.stream(f"{self.id}|squares").signs(SQUARES)
