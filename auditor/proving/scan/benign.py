"""Ordinary files of every kind that a hub receives, made by seed: none of them may raise an alarm."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from auditor.artifact.safetensors_write import Entry, encode_arrays, write_entries
from auditor.proving.scan import craft
from auditor.proving.scan.benign_metadata import training_metadata
from auditor.proving.scan.specimen import Specimen

__all__ = ["KINDS", "benign"]

Arrays = dict[str, NDArray[Any]]
Files = dict[str, bytes]
_WIDTHS = {"sd1": 768, "sd2": 1024, "sdxl": 2048}


def benign(count: int = 200, seed: int = 0) -> tuple[Specimen, ...]:
    """``count`` benign specimens, the kinds in turn, so that every kind is there from ``len(KINDS)`` on.

    Args:
        count: how many.
        seed: of shapes, values, names and captions; a specimen depends on it and on its number only.
    """
    names = list(KINDS)
    return tuple(_specimen(names[number % len(names)], number, seed) for number in range(count))


def _specimen(kind: str, number: int, seed: int) -> Specimen:
    def files() -> Mapping[str, bytes]:
        return KINDS[kind](np.random.default_rng((seed, number)))

    return Specimen(f"{kind} {number:04d}", "benign", kind, files)


def _pair(rng: np.random.Generator, width: int, dtype: str = "f2") -> tuple[NDArray[Any], NDArray[Any]]:
    rank = int(rng.choice((2, 4, 8, 16)))
    down = (rng.normal(size=(rank, width)) / 8).astype(dtype)
    return down, (rng.normal(size=(320, rank)) / 8).astype(dtype)


def _block(rng: np.random.Generator) -> str:
    return f"down_blocks_0_attentions_{rng.integers(2)}_transformer_blocks_0_attn2_to"


def _kohya(rng: np.random.Generator, dtype: str = "f2", family: str = "sd1") -> Arrays:
    arrays: Arrays = {}
    block = _block(rng)
    for part in ("k", "v")[: int(rng.integers(1, 3))]:
        down, up = _pair(rng, _WIDTHS[family], dtype)
        module = f"lora_unet_{block}_{part}"
        arrays |= {f"{module}.lora_down.weight": down, f"{module}.lora_up.weight": up}
        arrays[f"{module}.alpha"] = np.array(float(down.shape[0]), dtype)
    return arrays


def _diffusers(rng: np.random.Generator, prefix: str = "unet.", dtype: str = "f4") -> Arrays:
    down, up = _pair(rng, 768, dtype)
    module = f"{prefix}down_blocks.0.attentions.{rng.integers(2)}.transformer_blocks.0.attn2.to_k"
    return {f"{module}.lora_A.weight": down, f"{module}.lora_B.weight": up}


def _raw(
    arrays: Arrays, dtype: str, itemsize: int, rng: np.random.Generator, metadata: dict[str, str]
) -> bytes:
    """The same tensors in a dtype that numpy does not have; the bit patterns are of small normal numbers."""
    out = io.BytesIO()
    entries = [
        Entry(name, dtype, a.shape, (_words(rng, a.size, itemsize).tobytes(),)) for name, a in arrays.items()
    ]
    write_entries(out, entries, metadata)
    return out.getvalue()


def _words(rng: np.random.Generator, count: int, itemsize: int) -> NDArray[Any]:
    if itemsize == 1:
        return rng.integers(0, 0x60, count).astype("u1")
    return (rng.normal(size=count) / 8).astype("<f4").view("<u4").__rshift__(16).astype("<u2")


def _safetensors(arrays: Arrays, metadata: dict[str, str] | None = None) -> Files:
    return {"lora.safetensors": encode_arrays(arrays, metadata or {})}


def _peft(rng: np.random.Generator) -> Files:
    down, up = _pair(rng, 768, "f4")
    module = "base_model.model.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
    rank = int(down.shape[0])
    config = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": rank,
        "target_modules": ["to_k"],
        "bias": "none",
        "base_model_name_or_path": "stable-diffusion-v1-5/stable-diffusion-v1-5",
        "inference_mode": True,
    }
    return {
        "adapter_config.json": json.dumps(config, indent=2).encode(),
        "adapter_model.safetensors": encode_arrays(
            {f"{module}.lora_A.weight": down, f"{module}.lora_B.weight": up}, {"format": "pt"}
        ),
        "README.md": b"---\nlibrary_name: peft\n---\n# An adapter\n",
    }


def _model_folder(rng: np.random.Generator) -> Files:
    index = {"_class_name": "StableDiffusionPipeline", "_diffusers_version": "0.38.0"}
    parts = {"unet": ["diffusers", "UNet2DConditionModel"], "scheduler": ["diffusers", "DDIMScheduler"]}
    weights = {"conv_in.weight": rng.normal(size=(8, 4, 3, 3)).astype("f2")}
    return {
        "model_index.json": json.dumps(index | parts, indent=2).encode(),
        "unet/config.json": json.dumps({"_class_name": "UNet2DConditionModel"}).encode(),
        "unet/diffusion_pytorch_model.safetensors": encode_arrays(weights, {"format": "pt"}),
        "scheduler/scheduler_config.json": json.dumps({"_class_name": "DDIMScheduler"}).encode(),
    }


def _embedding(rng: np.random.Generator) -> Files:
    tokens = int(rng.integers(1, 9))
    return {"token.safetensors": encode_arrays({"emb_params": rng.normal(size=(tokens, 768)).astype("f4")})}


def _header_like_a_pickle(rng: np.random.Generator) -> Files:
    """A header length whose first bytes are PROTO 2, 3 or 4: one file in a thousand has such a one."""
    arrays = _kohya(rng)
    wanted = 0x80 + 256 * int(rng.choice((2, 3, 4)))
    data = encode_arrays(arrays, {"format": "pt"})
    length = int.from_bytes(data[:8], "little")
    while wanted < length:
        wanted += 0x10000
    text = data[8 : 8 + length].rstrip().ljust(wanted)
    return {"lora.safetensors": wanted.to_bytes(8, "little") + text + data[8 + length :]}


def _torch(
    value: Callable[[np.random.Generator], Any], name: str, zipped: bool = True
) -> Callable[[np.random.Generator], Files]:
    def make(rng: np.random.Generator) -> Files:
        import torch

        out = io.BytesIO()
        torch.save(value(rng), out, _use_new_zipfile_serialization=zipped)
        return {name: out.getvalue()}

    return make


def _torch_lora(rng: np.random.Generator) -> Any:
    import torch

    dtype = (torch.float16, torch.bfloat16, torch.float32)[int(rng.integers(3))]
    return {name: torch.from_numpy(a).to(dtype) for name, a in _kohya(rng).items()}


def _torch_embedding(rng: np.random.Generator) -> Any:
    import torch

    vectors = torch.from_numpy(rng.normal(size=(int(rng.integers(1, 5)), 768)).astype("f4"))
    return {
        "string_to_token": {"*": torch.tensor(265)},
        "string_to_param": {"*": vectors},
        "name": "cat-toy",
        "step": 2999,
        "sd_checkpoint": "6ce0161689",
        "sd_checkpoint_name": "v1-5-pruned-emaonly",
    }


def _learned_embeds(rng: np.random.Generator) -> Any:
    import torch

    return {"<cat-toy>": torch.from_numpy(rng.normal(size=768).astype("f4"))}


def _checkpoint(rng: np.random.Generator) -> Any:
    import torch

    prefix = "model.diffusion_model.input_blocks"
    state = {
        f"{prefix}.0.0.weight": torch.from_numpy(rng.normal(size=(320, 4, 3, 3)).astype("f2")),
        f"{prefix}.1.1.transformer_blocks.0.attn2.to_k.weight": torch.zeros(320, 768).half(),
        "first_stage_model.encoder.conv_in.weight": torch.zeros(128, 3, 3, 3).half(),
        "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight": torch.zeros(
            64, 768
        ).half(),
    }
    return {"state_dict": state, "global_step": 840_000, "epoch": 3}


def _optimizer(rng: np.random.Generator) -> Any:
    import torch

    layer = torch.nn.Linear(int(rng.integers(4, 9)), 3)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=1e-4)
    layer(torch.zeros(1, layer.in_features)).sum().backward()
    optimizer.step()
    return {"model": layer.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 7}


def _numpy(rng: np.random.Generator) -> Files:
    out = io.BytesIO()
    np.save(out, rng.normal(size=(4, 77, 768)).astype(rng.choice(("f2", "f4"))))
    return {"embeddings.npy": out.getvalue()}


def _numpy_zip(rng: np.random.Generator) -> Files:
    out = io.BytesIO()
    save = np.savez if rng.random() < 0.5 else np.savez_compressed
    save(out, mu=rng.normal(size=(64, 64)), sigma=np.eye(64), labels=rng.integers(0, 9, 64))
    return {"statistics.npz": out.getvalue()}


def _deflated(rng: np.random.Generator) -> Files:
    """A torch file that somebody packed anew with an ordinary tool."""
    del rng
    return {"learned_embeds.bin": craft.embedding_file(method=8)}


def _mixed_names(rng: np.random.Generator) -> Files:
    names = ("смайлик", "猫のおもちゃ", "Ελένη", "بچه‌ها", "família", "naïve-Ωmega", "고양이", "emoji 🐱‍👤")
    arrays = _diffusers(rng)
    name = str(rng.choice(names))
    return {f"{name}.safetensors": encode_arrays(arrays, {"ss_output_name": name, "modelspec.title": name})}


KINDS: dict[str, Callable[[np.random.Generator], Files]] = {
    "kohya fp16": lambda rng: _safetensors(_kohya(rng)),
    "kohya fp32 with metadata": lambda rng: _safetensors(_kohya(rng, "f4"), training_metadata(rng)),
    "kohya sdxl with captions": lambda rng: _safetensors(
        _kohya(rng, family="sdxl"), training_metadata(rng, 3000)
    ),
    "kohya bf16": lambda rng: {"lora.safetensors": _raw(_kohya(rng), "BF16", 2, rng, training_metadata(rng))},
    "kohya fp8 e4m3": lambda rng: {"lora.safetensors": _raw(_kohya(rng), "F8_E4M3", 1, rng, {})},
    "kohya fp8 e5m2": lambda rng: {"lora.safetensors": _raw(_kohya(rng), "F8_E5M2", 1, rng, {})},
    "diffusers lora": lambda rng: _safetensors(_diffusers(rng), {"format": "pt"}),
    "diffusers text encoder lora": lambda rng: _safetensors(
        _diffusers(rng)
        | {
            f"text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_{part}.weight": np.zeros(
                shape, "f4"
            )
            for part, shape in (("A", (4, 768)), ("B", (768, 4)))
        }
    ),
    "peft folder": _peft,
    "model folder": _model_folder,
    "embedding": _embedding,
    "names of many scripts": _mixed_names,
    "header length like a pickle": _header_like_a_pickle,
    "no tensors": lambda rng: {"empty.safetensors": craft.safetensors({"__metadata__": {"format": "pt"}})},
    "torch lora": _torch(_torch_lora, "lora.pt"),
    "torch lora as bin": _torch(_torch_lora, "pytorch_lora_weights.bin"),
    "legacy torch lora": _torch(_torch_lora, "lora.ckpt", zipped=False),
    "torch embedding": _torch(_torch_embedding, "cat-toy.pt"),
    "legacy torch embedding": _torch(_torch_embedding, "cat-toy.pt", zipped=False),
    "learned embeds": _torch(_learned_embeds, "learned_embeds.bin"),
    "torch checkpoint": _torch(_checkpoint, "model.ckpt"),
    "torch training state": _torch(_optimizer, "optimizer.pt"),
    "torch file packed anew": _deflated,
    "numpy array": _numpy,
    "numpy archive": _numpy_zip,
}
"""Kind to a maker of its files."""
