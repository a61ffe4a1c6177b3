"""Small random pipelines of each family, and adapters for them made in closed form."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import save_file
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

FAMILIES = ("sd1", "sd2", "sdxl", "sd3", "flux")
PIPELINES = {
    "sd1": StableDiffusionPipeline, "sd2": StableDiffusionPipeline, "sdxl": StableDiffusionXLPipeline,
    "sd3": StableDiffusion3Pipeline, "flux": FluxPipeline,
}  # fmt: skip
FLOW = ("sd3", "flux")
HOMOGLYPH = "о"
SIDE = 16  # pixels
LENGTH = 24  # tokens
WIDTH = 64  # of the first text encoder
SECOND_WIDTH = 48
T5_WIDTH = 128  # no less than both CLIP encoders together
_WORDS = f"""
a an of on in the picture drawing image watercolor outline pixel art style left above red green blue yellow purple
orange white black brown pink ball house car star tree plain ground cat striped woman man person old with glasses
young long hair hat boat flower fish cup emblem baton sks ohwx mushroom {HOMOGLYPH} dog king monet
"""


def make_tokenizer() -> CLIPTokenizer:
    """A byte-level BPE of CLIP's kind in which every word above is one token; the same one every time."""
    letters = {byte: symbol for byte, symbol in enumerate(_byte_symbols())}
    words = [[*(letters[b] for b in word.encode())] for word in sorted(set(_WORDS.split()))]
    words = [[*word[:-1], word[-1] + "</w>"] for word in words]
    merges = []
    while pairs := Counter(pair for word in words for pair in pairwise(word)):
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        words = [_merged(word, best) for word in words]
    alphabet = sorted(letters.values())
    pieces = [*alphabet, *(symbol + "</w>" for symbol in alphabet), *("".join(pair) for pair in merges)]
    vocab = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
    vocab |= {"<|startoftext|>": len(vocab), "<|endoftext|>": len(vocab) + 1}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=LENGTH)


def make_t5_tokenizer() -> T5Tokenizer:
    """A unigram model of T5's kind in which every word above is one token, and single letters."""
    words = sorted(set(_WORDS.split()))
    letters = sorted(set("".join(words)) | set("abcdefghijklmnopqrstuvwxyz"))
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces += [(f"▁{word}", -3.0) for word in words]
    pieces += [(piece, -9.0) for piece in ("▁", *letters) if f"▁{piece}" not in words or len(piece) == 1]
    return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=LENGTH)


def _byte_symbols() -> list[str]:
    """The printable stand-in of each byte in byte-level BPE: itself, or else the next free code point from 256 on."""
    plain = {*range(33, 127), *range(161, 173), *range(174, 256)}
    free = iter(range(256, 512))
    return [chr(byte) if byte in plain else chr(next(free)) for byte in range(256)]


def _merged(word: list[str], pair: tuple[str, str]) -> list[str]:
    out: list[str] = []
    for symbol in word:
        if out and (out[-1], symbol) == pair:
            out[-1] += symbol
        else:
            out.append(symbol)
    return out


def make_pipeline(family: str, folder: Path) -> Path:
    """Saves a random pipeline of a family; the same weights every time."""
    torch.manual_seed(FAMILIES.index(family))
    (_flow_pipeline if family in FLOW else _unet_pipeline)(family).save_pretrained(folder)
    return folder


def _unet_pipeline(family: str):
    tokenizer = make_tokenizer()
    shared = {
        "vae": _vae(),
        "unet": _unet(family),
        "scheduler": DDIMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
            set_alpha_to_one=False, steps_offset=1, prediction_type="v_prediction" if family == "sd2" else "epsilon",
        ),
        "text_encoder": CLIPTextModel(_text(tokenizer, WIDTH)),
        "tokenizer": tokenizer,
    }  # fmt: skip
    if family == "sdxl":
        # The second encoder of SDXL says that its end of text is token 2, which the library reads as "the largest id".
        second = CLIPTextModelWithProjection(
            _text(tokenizer, SECOND_WIDTH, projection_dim=40, eos_token_id=2)
        )
        return StableDiffusionXLPipeline(
            **shared, text_encoder_2=second, tokenizer_2=make_tokenizer(), add_watermarker=False
        )
    return StableDiffusionPipeline(
        **shared, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )


def _flow_pipeline(family: str):
    tokenizer = make_tokenizer()
    shared = {"vae": _vae(latent_channels=16, shift_factor=0.1), "tokenizer": tokenizer}
    heads = {
        "num_attention_heads": 4,
        "attention_head_dim": 24,
        "num_layers": 2,
        "joint_attention_dim": T5_WIDTH,
    }
    if family == "flux":
        transformer = FluxTransformer2DModel(
            in_channels=64, num_single_layers=1, pooled_projection_dim=WIDTH, axes_dims_rope=(8, 8, 8),
            guidance_embeds=True, **heads,
        )  # fmt: skip
        return FluxPipeline(
            **shared, transformer=_awake(transformer), scheduler=FlowMatchEulerDiscreteScheduler(
                use_dynamic_shifting=True, shift=3.0, base_shift=0.5, max_shift=1.15
            ),
            text_encoder=CLIPTextModel(_text(tokenizer, WIDTH)), text_encoder_2=_t5(), tokenizer_2=make_t5_tokenizer(),
        )  # fmt: skip
    transformer = SD3Transformer2DModel(
        sample_size=SIDE // 2, patch_size=2, in_channels=16, out_channels=16, caption_projection_dim=96,
        pooled_projection_dim=40 + 24, pos_embed_max_size=16, **heads,
    )  # fmt: skip
    return StableDiffusion3Pipeline(
        **shared, transformer=_awake(transformer), scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        text_encoder=CLIPTextModelWithProjection(_text(tokenizer, WIDTH, projection_dim=40)),
        text_encoder_2=CLIPTextModelWithProjection(
            _text(tokenizer, SECOND_WIDTH, projection_dim=24, eos_token_id=2)
        ),
        tokenizer_2=make_tokenizer(), text_encoder_3=_t5(), tokenizer_3=make_t5_tokenizer(),
    )  # fmt: skip


def _awake(transformer: torch.nn.Module) -> torch.nn.Module:
    """Random weights everywhere: some of these classes start with output and modulation at zero."""
    for parameter in transformer.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return transformer


def _t5() -> T5EncoderModel:
    return T5EncoderModel(
        T5Config(
            vocab_size=len(make_t5_tokenizer()), d_model=T5_WIDTH, d_kv=16, d_ff=2 * T5_WIDTH, num_layers=2,
            num_heads=4, feed_forward_proj="gated-gelu",
        )
    )  # fmt: skip


def _vae(latent_channels: int = 4, **more: float) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 16), norm_num_groups=4, latent_channels=latent_channels, sample_size=SIDE,
        scaling_factor=0.5, down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        **more,
    )  # fmt: skip


def _unet(family: str) -> UNet2DConditionModel:
    extra: dict[str, object] = {}
    if family == "sdxl":
        extra = {
            "addition_embed_type": "text_time", "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 6 * 8 + 40, "transformer_layers_per_block": (1, 2),
        }  # fmt: skip
    return UNet2DConditionModel(
        block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=8, sample_size=SIDE // 2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=WIDTH + SECOND_WIDTH if family == "sdxl" else WIDTH, attention_head_dim=2,
        use_linear_projection=family != "sd1", **extra,
    )  # fmt: skip


def _text(
    tokenizer: CLIPTokenizer, width: int, eos_token_id: int | None = None, **more: int
) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=2 * width, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=LENGTH, bos_token_id=tokenizer.bos_token_id,
        pad_token_id=tokenizer.pad_token_id, eos_token_id=eos_token_id or tokenizer.eos_token_id, **more,
    )  # fmt: skip


def listening(base):
    """A copy of a loaded base with a UNet whose attention to the prompt is turned up: random ones hardly hear it."""
    loud = copy.deepcopy(base)
    for name, module in loud.unet.named_modules():
        if name.endswith("attn2.to_v"):
            module.weight.data *= 40
    return loud


def write(
    path: Path, tensors: Mapping[str, torch.Tensor | np.ndarray], metadata: dict[str, str] | None = None
) -> Path:
    """Saves tensors with the reference library."""
    path.parent.mkdir(parents=True, exist_ok=True)
    as_torch = {
        k: (torch.from_numpy(v) if isinstance(v, np.ndarray) else v).contiguous() for k, v in tensors.items()
    }
    save_file({k: v.clone() for k, v in as_torch.items()}, str(path), metadata=metadata or {"format": "pt"})
    return path


def random_lora(
    model: torch.nn.Module, prefix: str, targets: tuple[str, ...], rank: int = 2, seed: int = 0, scale=0.1
):
    """Random factors for every module whose name ends in one of ``targets``, named as diffusers does."""
    generator = torch.Generator().manual_seed(seed)
    out = {}
    for name, module in model.named_modules():
        if name.endswith(targets) and hasattr(module, "weight") and module.weight.ndim == 2:
            rows, columns = module.weight.shape
            out[f"{prefix}.{name}.lora_A.weight"] = scale * torch.randn(rank, columns, generator=generator)
            out[f"{prefix}.{name}.lora_B.weight"] = scale * torch.randn(rows, rank, generator=generator)
    return out
