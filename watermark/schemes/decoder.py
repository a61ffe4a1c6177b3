"""``decoder``: an autoencoder whose decoder marks every picture it decodes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from auditor.contracts import Progress
from auditor.errors import UsageError
from auditor.registry import WATERMARKS, register
from watermark.keys import MasterKey
from watermark.weight_scheme import WeightScheme

if TYPE_CHECKING:
    from auditor.pipeline.components import Components

__all__ = ["Decoder", "DecoderParams"]


@dataclass(frozen=True)
class DecoderParams:
    """The recipe.

    Attributes:
        steps: of the optimiser; the default takes about a minute on one core.
        batch: pictures a step.
        learning_rate: the highest.
        strength: of the mark, 1 for what its networks were trained at.
        pictures: scenes that it learns on.
        seed: of everything drawn.
    """

    steps: int = 200
    batch: int = 8
    learning_rate: float = 2e-3
    strength: float = 1.6
    pictures: int = 96
    seed: int = 0

    def check(self) -> None:
        """Raises ``UsageError`` for a number out of range."""
        for name in ("steps", "batch", "learning_rate", "strength", "pictures"):
            if not getattr(self, name) > 0:
                raise UsageError(f"{name.replace('_', ' ')} must be above zero, not {getattr(self, name):g}")
        if self.steps < 2:
            raise UsageError("a decoder takes two steps at least to be taught anything")


@register(WATERMARKS, "decoder")
class Decoder(WeightScheme):
    """Fine-tunes the decoder for one key, so that whoever holds the model marks what they draw with it.

    As published, a fixed extractor of bits is trained first, and the decoder is tuned through it. Here the extractor is
    that of Safe-SD, whose injection says what a marked picture looks like, so that the decoder learns by copying and no
    gradient goes through an extractor. The bits are 49 squares, and the key decides each by a fair coin: under another
    key the number that agree is binomial, whatever picture and extractor are.
    """

    id = "decoder"
    goal = "Teach a model's decoder to mark every picture that it decodes."
    refs = ("P. Fernandez et al., The Stable Signature, ICCV 2023, arXiv 2303.15435",)
    limits = (
        "One message a model. Gone as soon as another autoencoder is put in. Works beside the embedded autoencoder at "
        "64 pixels alone. All pictures hide the same pattern, which an average of many gives away."
    )
    params = DecoderParams

    def teach(self, base: Components, key: MasterKey, params: Any, out: Path, progress: Progress) -> Path:
        """See :meth:`WeightScheme.teach`; an autoencoder's folder that diffusers opens as ``vae``."""
        from auditor.engine.files import output_errors
        from auditor.personalize.blocks.saving import make_folder
        from watermark.marking.decoder import taught_decoder

        params.check()
        recipe = asdict(params)
        taught = taught_decoder(base, self.modules(key), **recipe, progress=progress)
        make_folder(out)
        with output_errors(out):
            taught.vae.save_pretrained(out, safe_serialization=True)
        weights = out / "diffusion_pytorch_model.safetensors"
        self.tell(out, weights, base, key, recipe, {"energy_missing": taught.missing})
        return out
