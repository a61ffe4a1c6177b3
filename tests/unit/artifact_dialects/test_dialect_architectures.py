"""Generated module lists against the classes they describe."""

import pytest
import torch

from auditor.artifact.architectures import sgm_names, text_modules, unet_modules
from auditor.artifact.family import SIGNATURES

UNET_BASES = [s for s in SIGNATURES if "unet" in s.plans]
UNETS = {
    "sd1": {"block_out_channels": (320, 640, 1280, 1280), "cross_attention_dim": 768},
    "sd2": {
        "block_out_channels": (320, 640, 1280, 1280),
        "cross_attention_dim": 1024,
        "use_linear_projection": True,
    },
    "sdxl": {
        "block_out_channels": (320, 640, 1280),
        "cross_attention_dim": 2048,
        "transformer_layers_per_block": (1, 2, 10),
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    },
    "embedded": {
        "block_out_channels": (64, 128, 192),
        "layers_per_block": 1,
        "cross_attention_dim": 192,
        "norm_num_groups": 16,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    },
}


@pytest.mark.parametrize("signature", UNET_BASES, ids=lambda s: s.family)
def test_generated_modules_are_those_of_diffusers(signature):
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel(**UNETS[signature.family])
    real = {
        n: tuple(m.weight.shape) for n, m in unet.named_modules() if getattr(m, "weight", None) is not None
    }
    assert dict(unet_modules(signature.denoiser)) == real


@pytest.mark.parametrize("signature", UNET_BASES, ids=lambda s: s.family)
def test_generated_text_layers_are_those_of_transformers(signature):
    from transformers import CLIPTextConfig, CLIPTextModel

    plan = signature.text[0]
    config = CLIPTextConfig(
        hidden_size=plan.hidden,
        intermediate_size=plan.inner,
        num_hidden_layers=plan.layers,
        num_attention_heads=4,
    )
    with torch.device("meta"):
        model = CLIPTextModel(config)
    # Releases differ in whether the encoder sits under text_model; the paths here always have it.
    real = {
        f"text_model.{n.removeprefix('text_model.')}": tuple(m.weight.shape)
        for n, m in model.named_modules()
        if getattr(m, "weight", None) is not None and "embedding" not in n
    }
    assert dict(text_modules(plan)) == real


def test_every_module_has_one_sgm_name():
    for signature in UNET_BASES:
        names = sgm_names(signature.denoiser)
        assert sorted(names.values()) == sorted(unet_modules(signature.denoiser))


def test_known_sgm_names_are_translated():
    sd1, _, sdxl, _ = (sgm_names(s.denoiser) for s in UNET_BASES)
    assert sd1["input_blocks.4.1.proj_in"] == "down_blocks.1.attentions.0.proj_in"
    assert sd1["output_blocks.2.1.conv"] == "up_blocks.0.upsamplers.0.conv"
    assert sd1["output_blocks.8.2.conv"] == "up_blocks.2.upsamplers.0.conv"
    assert sd1["input_blocks.3.0.op"] == "down_blocks.0.downsamplers.0.conv"
    assert sdxl["output_blocks.2.2.conv"] == "up_blocks.0.upsamplers.0.conv"
    assert sdxl["input_blocks.7.1.transformer_blocks.9.attn2.to_k"] == (
        "down_blocks.2.attentions.0.transformer_blocks.9.attn2.to_k"
    )
    assert sdxl["label_emb.0.2"] == "add_embedding.linear_2"
