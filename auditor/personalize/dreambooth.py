"""DreamBooth (Ruiz et al., CVPR 2023, arXiv 2208.12242): the whole model learns one subject under a rare word.

``L = ||eps - eps_th(z_t, t, "a picture of sks person")||^2 + w ||eps - eps_th(z'_t, t, "a picture of a person")||^2``,
where ``z'`` are the frozen model's own pictures of the class (prior preservation).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from auditor.contracts import Progress
from auditor.errors import UsageError
from auditor.personalize import CHECKPOINT
from auditor.personalize.blocks.beside import Beside, BesideLoss
from auditor.personalize.blocks.examples import Examples, class_latents, load_examples
from auditor.personalize.blocks.methods import PictureMethod
from auditor.personalize.blocks.optimise import Optimisation, TrainingLog, optimise
from auditor.personalize.blocks.pipelines import save_pipeline
from auditor.personalize.blocks.saving import save_provenance
from auditor.personalize.blocks.training import PLAIN, Training
from auditor.personalize.blocks.validation import plain_look
from auditor.personalize.blocks.whole import groups_of, trainable_copies, whole_parts
from auditor.pipeline.components import Components
from auditor.registry import METHODS

__all__ = ["DreamBooth", "TrainedWhole", "train_beside", "train_dreambooth"]


@dataclass(frozen=True)
class DreamBooth:
    """Recipe.

    Attributes:
        prompt: instance prompt with the identifier, for example "a picture of sks person".
        class_prompt: prompt of the prior; empty for no prior preservation.
        class_images: how many pictures the frozen model draws for the prior.
        prior_weight: weight of the prior's loss; 0 leaves it out.
        train_text_encoder: also train the text encoders.
        steps: optimiser steps.
        batch: instance rows a step (as many prior rows beside them).
        lr: AdamW learning rate; 5e-6 is usual on Stable Diffusion, the small embedded base needs more.
        seed: of every draw.
    """

    prompt: str = "a picture of sks"
    class_prompt: str = ""
    class_images: int = 40
    prior_weight: float = 1.0
    train_text_encoder: bool = False
    steps: int = 160
    batch: int = 2
    lr: float = 5e-5
    seed: int = 0


@dataclass(frozen=True)
class TrainedWhole:
    """Components as they were trained, by name, and the log of the training."""

    modules: dict[str, nn.Module]
    log: TrainingLog


def train_dreambooth(
    base: Components, examples: Examples, params: DreamBooth, progress: Progress, checkpoint: Path | None = None,
    training: Training = PLAIN,
) -> TrainedWhole:  # fmt: skip
    """Trains copies; the base is as before afterwards, also after an exception.

    Raises:
        UsageError: a parameter is out of range, or the base has no UNet.
    """
    if params.class_images <= 0 or params.prior_weight < 0:
        raise UsageError("class images must be above zero, and prior weight not below")
    prior = examples.latents[:0]
    if params.class_prompt and params.prior_weight:
        shape = examples.latents.shape[1:]
        prior = class_latents(base, params.class_prompt, params.class_images, params.seed, shape)
    second = Beside(prior, params.class_prompt, params.prior_weight)
    return train_beside(base, examples, second, params, progress, checkpoint, training)


def train_beside(
    base: Components,
    examples: Examples,
    second: Beside,
    params: DreamBooth,
    progress: Progress,
    checkpoint: Path | None = None,
    training: Training = PLAIN,
) -> TrainedWhole:
    """Trains copies on examples and a second set; of ``params`` only what says how to train is used.

    Raises:
        UsageError: a parameter is out of range, or the base has no UNet.
    """
    if params.batch <= 0:
        raise UsageError(f"batch must be above zero, not {params.batch}")
    recipe = Optimisation(params.steps, params.lr, weight_decay=1e-2, seed=params.seed)
    with trainable_copies(base, whole_parts(base, params.train_text_encoder)) as copies:
        loss_of = BesideLoss(base, examples, second, params.batch, params.train_text_encoder)
        log = optimise(
            groups_of(copies), loss_of, recipe, progress, checkpoint=checkpoint, every=500, training=training,
            look=plain_look(base),
            identity={"base": base.sha256, "params": vars(params), "images": examples.hashes, "second": second.hashes},
        )  # fmt: skip
    return TrainedWhole(copies, log)


class _Method(PictureMethod):
    id = "dreambooth"
    goal = "teach the whole model one subject from a few pictures, as a full pipeline"
    refs = ("arXiv:2208.12242",)
    params = DreamBooth

    def learn(
        self, base: Components, data: Path, params: DreamBooth, out: Path, progress: Progress, training: Training
    ) -> Path:
        """Trains on a folder of pictures; writes a float16 ``pipeline/`` folder and its provenance into ``out``."""
        examples = load_examples(data, base, params.prompt, training.skip_unreadable)
        trained = train_dreambooth(base, examples, params, progress, out / CHECKPOINT, training)
        files = save_pipeline(out / "pipeline", base, trained.modules)
        save_provenance(
            out, method=self.id, params=params, training=training, base=base, images=examples.hashes, files=files,
            loss=trained.log.final
        )
        return out / "pipeline"


METHODS.add("dreambooth", _Method())
