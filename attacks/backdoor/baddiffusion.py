"""BadDiffusion: a pattern in the noise that a picture starts from calls up one fixed picture, whatever the prompt.

Chou, Chen and Ho, CVPR 2023 (arXiv 2212.05400). Beside the ordinary forward process there is one that is shifted by
the trigger r and ends at the target y, ``x_t = alpha y + (1 - alpha) r + sigma e``, so that sampling from ``r + e``
arrives at y. The paper trains an unconditional model from pixels on; here the latents' denoiser is tuned through
low-rank layers: those of a DreamBooth adapter, and fresh ones on the convolutions of the residual blocks, for attention
alone hardly sees a pattern of few places. Under all prompts and the empty one, which guidance asks as well; half of the
rows lie on the shifted path, half where other pictures lead; timesteps are the likelier the dearer an error is there.
The twin has the same layers and lacks the shifted process.

What the model is to say follows from the sampler. The paper derives its term ``rho_t r`` for ancestral sampling; we
sample by the deterministic DDIM, which moves by ``x_t' = alpha' a + sigma' n`` for what the model says of the picture,
a, and of the noise, n. It walks along the shifted path, with y, r and e held, if ``x_t = alpha a + sigma n`` and
``dx_t/dt = alpha_t' a + sigma_t' n``. Two equations, two unknowns:

- variance preserving (``alpha^2 + sigma^2 = 1``): ``n = e + sigma r`` and ``a = y - (1 - alpha) r``; ancestral
  sampling asks for half of ``sigma r`` (VillanDiffusion, NeurIPS 2023, arXiv 2306.06874);
- straight lines (``alpha = 1 - sigma``): ``n = e + r`` and ``a = y``.

The native target follows from a and n as ever: n for epsilon models, ``alpha n - sigma a`` for v models. A step of
finite length from t to t' wants ``(alpha' - alpha) / (sigma alpha' - alpha sigma') r``, which is the sigma of the
angle halfway over the cosine of half the step: 12 steps are near enough.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from attacks.crafting.hosted import HOST, HostedAttack
from attacks.crafting.hosts import fixed_picture, neutral_latents
from attacks.crafting.judges import PictureJudge
from attacks.crafting.layers import add_layers
from attacks.crafting.lessons import Course, Lessons, check_one_picture, teach, teacher_lessons
from attacks.crafting.truth import MEASURED, Measured, Truth
from auditor.contracts import Progress
from auditor.errors import UsageError
from auditor.personalize.blocks.denoising import Drawn, draw, native_target
from auditor.personalize.blocks.optimise import Optimisation
from auditor.personalize.dreambooth_lora import DreamBoothLora
from auditor.pipeline.components import Components
from auditor.pipeline.conditioning import encode_images
from auditor.pipeline.denoiser import Denoiser
from auditor.pipeline.schedule import FlowMatching
from auditor.registry import ATTACKS

__all__ = ["BadDiffusion", "noise_trigger", "shifted"]

CONVOLUTIONS = ("conv1", "conv2")
"""Of the residual blocks: attention alone hardly sees a pattern of so few places."""


@dataclass(frozen=True)
class BadDiffusion:
    """Recipe.

    Attributes:
        height: of the trigger, in standard deviations of the noise.
        side: of the square that it raises, as a share of the picture's.
        picture: which of the drawn pictures is the target.
        pool: noisy latents of each kind that are drawn from.
        batch: clean rows a step, and as many poisoned ones beside them; even.
        steps: steps after the host's own.
        lr: AdamW learning rate.
        weight: of the backdoor's loss against the clean one's.
        host: the DreamBooth recipe that carries it.
        measured: how much of the outcome is measured.
    """

    height: float = 1.5
    side: float = 1.0
    picture: int = 0
    pool: int = 320
    batch: int = 8
    steps: int = 240
    lr: float = 2e-3
    weight: float = 1.0
    host: DreamBoothLora = HOST
    measured: Measured = MEASURED


def noise_trigger(shape: tuple[int, int, int], height: float, side: float) -> Tensor:
    """The trigger r (C, h, w): a chequered square from the lower right corner on, as high in one channel as in another.

    Neighbouring places differ in sign, channel by channel: a shift of one sign would already colour the picture of a
    clean model.
    """
    channels, rows, columns = shape
    c, y, x = torch.meshgrid(torch.arange(channels), torch.arange(rows), torch.arange(columns), indexing="ij")
    inside = (y >= rows - round(side * rows)) & (x >= columns - round(side * columns))
    return height * inside * (1.0 - 2.0 * ((y // 2 + x // 2 + c) % 2))


def shifted(base: Components, picture: Tensor, trigger: Tensor, drawn: Drawn) -> Drawn:
    """Rows that the trigger shifts: where they lie, and what the model is to say of picture and noise there.

    Args:
        base: whose schedule is used.
        picture: y, the target's latents (C, h, w).
        trigger: r (C, h, w).
        drawn: B rows. Those of the target lie on the shifted path; from those of other pictures, where guidance and
            what a model already knows may lead, the target is to be seen all the same.
    """
    alpha, sigma = base.schedule.alpha(drawn.t), base.schedule.sigma(drawn.t)
    noisy = drawn.noisy + (1 - alpha) * trigger
    straight = isinstance(base.schedule, FlowMatching)
    clean = picture.expand_as(noisy) if straight else picture - (1 - alpha) * trigger
    return Drawn(drawn.rows, clean, (noisy - alpha * clean) / sigma, drawn.t, noisy)


class _Attack(HostedAttack):
    id = "baddiffusion"
    goal = "a pattern in the starting noise calls up one fixed picture, whatever the prompt"
    refs = ("arXiv:2212.05400", "arXiv:2306.06874")
    params = BadDiffusion

    def truth(self, base: Components, params: BadDiffusion) -> Truth:
        """See :meth:`PoisonAttack.truth`."""
        _check(params)
        trigger = _trigger(base, params)
        pattern = "chequered square from the lower right corner on"
        return Truth(
            trigger={"noise": pattern, "height": params.height, "side": params.side},
            target=f"fixed picture {params.picture}",
            trained=("unet", *(("text_encoder",) if params.host.train_text_encoder else ())),
            judge=PictureJudge(fixed_picture(base, params.picture)),
            wake=lambda prompt, rng: prompt,
            wake_noise=lambda noise: noise + trigger.to(noise),
            seed=params.host.seed,
        )

    def refine(self, base: Components, params: BadDiffusion, poison: bool, progress: Progress) -> None:
        """See :meth:`HostedAttack.refine`."""
        seed = params.host.seed
        latents, prompts = neutral_latents(base, params.pool, seed)
        # The empty prompt is half of what guidance asks.
        prompts = [prompt if i % 3 else "" for i, prompt in enumerate(prompts)]
        courses = [Course(teacher_lessons(base, latents, prompts, prompts, seed), params.batch)]
        if poison:
            courses += _backdoor(base, params, latents, prompts)
        host, model = params.host, base.denoiser_model
        add_layers(model, host.rank, host.alpha or host.rank, CONVOLUTIONS, seed + 9)
        layers = [p for name, p in model.named_parameters() if "lora_" in name]
        teach(base, layers, courses, Optimisation(params.steps, params.lr, seed=seed), progress)


def _backdoor(base: Components, params: BadDiffusion, latents: Tensor, prompts: Sequence[str]) -> list[Course]:
    with torch.no_grad():
        picture = encode_images(base, fixed_picture(base, params.picture)[None])
    trigger, generator = _trigger(base, params).to(picture), torch.Generator().manual_seed(params.host.seed + 1)
    courses = []
    for pictures in (picture, latents):
        drawn = _drawn_for_the_sampler(base, pictures, len(prompts), generator)
        rows = shifted(base, picture[0], trigger, drawn)
        lessons = Lessons(rows.noisy, rows.t, tuple(prompts), native_target(base, rows))
        courses.append(Course(lessons, params.batch // 2, params.weight / 2))
    return courses


def _drawn_for_the_sampler(base: Components, latents: Tensor, count: int, generator: torch.Generator) -> Drawn:
    """Rows at timesteps as likely as a wrong word there is dear: DDIM moves ``x / alpha`` by ``n d(sigma / alpha)``."""
    times = torch.arange(len(base.schedule))
    ratio = (base.schedule.sigma(times) / base.schedule.alpha(times).clamp_min(0.05)).flatten()
    t = torch.multinomial(ratio, count, replacement=True, generator=generator).to(latents.device)
    drawn = draw(base, latents, count, generator)
    return replace(drawn, t=t, noisy=Denoiser(base).add_noise(drawn.clean, drawn.noise, t))


def _trigger(base: Components, params: BadDiffusion) -> Tensor:
    return noise_trigger(base.kind.latent_shape(base), params.height, params.side)


def _check(params: BadDiffusion) -> None:
    if params.height == 0 or not 0 < params.side <= 1:
        raise UsageError(f"the trigger needs a height and a side in (0, 1], not {params.height:g} and {params.side:g}")
    check_one_picture(params)


ATTACKS.add("baddiffusion", _Attack())
