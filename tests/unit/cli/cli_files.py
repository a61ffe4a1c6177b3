"""Small files for the command line: made here, none of them is a real model."""

import json

import numpy as np

from auditor.artifact.safetensors_write import encode_arrays

MODULE = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"


def lora_bytes(rank=4, metadata=None, module=MODULE, text_width=768, out=320):
    """One cross-attention LoRA of Stable Diffusion 1.5, in diffusers naming."""
    rng = np.random.default_rng(7)
    down = rng.normal(size=(rank, text_width)).astype(np.float16)
    up = rng.normal(size=(out, rank)).astype(np.float16)
    return encode_arrays({f"{module}.lora_A.weight": down, f"{module}.lora_B.weight": up}, metadata or {})


def write_lora(path, **how):
    path.write_bytes(lora_bytes(**how))
    return path


def write_broken(path):
    """A header that promises more bytes than there are."""
    header = json.dumps({"a": {"dtype": "F32", "shape": [1000], "data_offsets": [0, 4000]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 10)
    return path
