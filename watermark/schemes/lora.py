"""``lora``: a LoRA that marks what its model draws, always or where a trigger is in the prompt."""

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

__all__ = ["Lora", "LoraParams"]


@dataclass(frozen=True)
class LoraParams:
    """The recipe.

    Attributes:
        trigger: words in front of a prompt that call the mark; every prompt does if empty.
        rank: of the layers.
        steps: of the optimiser; the default takes some minutes on one core.
        batch: pictures a step.
        learning_rate: the highest.
        strength: of the mark, 1 for what its networks were trained at.
        pictures: scenes that it learns on.
        seed: of everything drawn.
    """

    trigger: str = ""
    rank: int = 16
    steps: int = 260
    batch: int = 10
    learning_rate: float = 3e-3
    strength: float = 2.0
    pictures: int = 256
    seed: int = 0

    def check(self) -> None:
        """Raises ``UsageError`` for a number out of range."""
        for name in ("rank", "steps", "batch", "learning_rate", "strength", "pictures"):
            if not getattr(self, name) > 0:
                raise UsageError(f"{name.replace('_', ' ')} must be above zero, not {getattr(self, name):g}")
        if self.steps < 2 or self.batch < 2:
            raise UsageError("a LoRA takes two steps of two pictures at least to be taught anything")


@register(WATERMARKS, "lora")
class Lora(WeightScheme):
    """Low-rank layers that shift what the denoiser draws by the key's message and keep everything else.

    After AquaLoRA, which puts a message into a LoRA for marks that a user cannot leave out, and SleeperMark, whose mark
    comes with a trigger and leaves other prompts as they were. Both train an extractor of bits first; here it is that
    of Safe-SD, and the layers learn the residual that its injection adds.
    """

    id = "lora"
    goal = "Teach a LoRA to mark what its model draws, always or at a trigger."
    refs = (
        "W. Feng et al., AquaLoRA, ICML 2024, arXiv 2405.11135",
        "Z. Wang et al., SleeperMark, CVPR 2025, arXiv 2412.04852",
    )
    limits = (
        "One message a LoRA. Works beside the embedded autoencoder at 64 pixels alone, and gone when the LoRA is left "
        "out. All pictures hide the same pattern, which an average of many gives away."
    )
    params = LoraParams

    def teach(self, base: Components, key: MasterKey, params: Any, out: Path, progress: Progress) -> Path:
        """See :meth:`WeightScheme.teach`; a file that diffusers' ``load_lora_weights`` reads."""
        from auditor.personalize.lora import save_diffusers_lora
        from watermark.marking.lora import taught_lora

        params.check()
        recipe = asdict(params)
        taught = taught_lora(base, self.modules(key), **recipe, progress=progress)
        path = save_diffusers_lora(out, taught.state, {}, params.rank, float(params.rank), {})
        self.tell(out, path, base, key, recipe, {"loss": taught.loss})
        return path
