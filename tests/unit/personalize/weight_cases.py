"""What tests of methods that change weights share: a folder of small photos, all weights of a base, one evaluation."""

import numpy as np
import torch
from PIL import Image

from auditor.pipeline.conditioning import encode_prompts
from auditor.pipeline.denoiser import Denoiser


def quiet(done, total, label=""):
    pass


def write_photos(folder, count=2, side=16):
    folder.mkdir()
    for i in range(count):
        pixels = np.random.default_rng(i).integers(0, 255, (side, side, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return folder


def all_weights(base):
    """Copies, and the parameter objects themselves: neither may change."""
    named = {f"{n}.{k}": p for n, m in base.modules.items() for k, p in m.named_parameters()}
    return {k: (p, p.detach().clone()) for k, p in named.items()}


def same_weights(base, before):
    after = {f"{n}.{k}": p for n, m in base.modules.items() for k, p in m.named_parameters()}
    return after.keys() == before.keys() and all(
        p is before[k][0] and torch.equal(p, before[k][1]) and not p.requires_grad for k, p in after.items()
    )


def evaluate(base, prompt="a picture of sks cat", t=300, condition=None, side=8):
    latents = torch.randn(2, 4, side, side, generator=torch.Generator().manual_seed(0))
    condition = condition or encode_prompts(base, base.tokenizers, [prompt] * 2)
    with torch.no_grad():
        return Denoiser(base).predict(latents, torch.tensor([t, 40]), condition).native
