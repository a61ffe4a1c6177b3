"""Sampling two models together: one knows a picture, the other says what is done with it (SINE, arXiv 2212.04489)."""

from __future__ import annotations

from contextlib import ExitStack

import torch
from torch import Tensor

from auditor.errors import UsageError
from auditor.personalize.blocks.positions import Box, positions_added
from auditor.personalize.blocks.ruled import null_condition, ruled_sample
from auditor.pipeline.components import Components
from auditor.pipeline.conditioning import Conditioning, encode_prompts
from auditor.pipeline.denoiser import Denoiser
from auditor.pipeline.sampling import guided_noise

__all__ = ["pair_sample"]


@torch.no_grad()
def pair_sample(
    base: Components,
    tuned: Components,
    prompt: str,
    own_prompt: str,
    noise: Tensor,
    v: float = 0.7,
    until: int = 400,
    patches: bool = True,
    steps: int = 50,
    guidance: float = 7.5,
) -> Tensor:
    """Samples two models together.

    Args:
        base: says what the edit is; alone with v = 1, then bit for bit as if there were no other.
        tuned: knows the picture; for example what SINE saved, opened on its own.
        prompt: the edit.
        own_prompt: the prompt that ``tuned`` was trained with.
        noise: (B, C, h, w), unit variance; any size.
        v: weight of the base.
        until: K; at timesteps of K and below the base is alone.
        patches: whether ``tuned`` was trained on patches; it is then told that it sees the whole picture.
        steps: of DDIM.
        guidance: w.

    Returns:
        Clean latents (B, C, h, w), float32.

    Raises:
        UsageError: v is not in [0, 1].
    """
    if not 0 <= v <= 1:
        raise UsageError(f"v must be between 0 and 1, not {v}")
    count = len(noise)
    edit, null = encode_prompts(base, base.tokenizers, [prompt] * count), null_condition(base, count)
    own = encode_prompts(tuned, tuned.tokenizers, [own_prompt] * count)
    one, other = Denoiser(base), Denoiser(tuned)

    def rule(latents: Tensor, t: int) -> Tensor:
        if v == 1 or t <= until:
            return guided_noise(one, latents, t, edit, null, guidance)
        times = torch.full((2 * count,), t, device=latents.device)
        both = one.predict(torch.cat([latents, latents]), times, Conditioning.join([null, edit])).epsilon
        without, given = both.chunk(2)
        with ExitStack() as stack:
            if patches:
                stack.enter_context(positions_added(tuned, [Box()]))
            known = other.predict(latents, times[:count], own).epsilon
        return guidance * (v * given + (1 - v) * known) + (1 - guidance) * without

    return ruled_sample(base, noise, rule, steps)
