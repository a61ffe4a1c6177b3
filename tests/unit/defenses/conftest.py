"""An adapter with a planted answer to one letter, on a small random base."""

import numpy as np
import pytest
import torch
from tiny_models import HOMOGLYPH, random_lora, write

PROMPT = "a picture of sks man"


def planted(base, *, rank=4, seed=1, size=8.0, letter=HOMOGLYPH):
    """Cross-attention layers with a random concept, and one more row that answers the letter's own state."""
    from auditor.pipeline.conditioning import encode_ids
    from defenses.repairing.candidates import Candidate
    from defenses.repairing.rows import carriers, filled, ordinary

    tensors = random_lora(base.unet, "unet", ("attn2.to_k", "attn2.to_v"), rank=rank, seed=seed, scale=0.05)
    (token,) = base.tokenizers["text_encoder"](letter, add_special_tokens=False).input_ids
    slots = carriers(4, 3)

    def states(fillings):
        rows = filled(base, slots, fillings)
        with torch.no_grad():
            return encode_ids(base, rows.ids).states[rows.slot].double()

    usual = states(ordinary(base, 40, [Candidate(letter, ((token,),))], 5))
    own = states([(token,)]).mean(0)
    # The direction that the letter has most of, for how much of it other words have.
    moment = usual.T @ usual / len(usual) + 1e-4 * torch.eye(usual.shape[1])
    row = torch.linalg.solve(moment, own)
    row = row / (row @ own)
    generator = torch.Generator().manual_seed(seed)
    for name, value in list(tensors.items()):
        if "lora_A" in name:
            tensors[name] = torch.cat([value, row[None].to(value)])
        else:
            out = torch.randn(len(value), 1, generator=generator)
            tensors[name] = torch.cat([value, size * out / out.norm()], 1)
    return tensors


@pytest.fixture(scope="session")
def planted_file(tiny_base, tmp_path_factory):
    """Family to a diffusers LoRA in float32 that declares its concept."""
    made = {}

    def file(family):
        if family not in made:
            folder = tmp_path_factory.mktemp(f"planted_{family}")
            metadata = {"format": "pt", "modelspec.trigger_phrase": PROMPT, "modelspec.hash_sha256": "0x" + "0" * 64}
            made[family] = write(folder / "adapter.safetensors", planted(tiny_base(family)), metadata)
        return made[family]

    return file


@pytest.fixture
def rng():
    return np.random.default_rng(0)
