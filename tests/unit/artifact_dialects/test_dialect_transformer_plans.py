"""Generated module lists of SD3, Flux and T5 against the classes they describe."""

import inspect

import pytest
import torch

from auditor.artifact.family import SIGNATURES, expected_modules
from auditor.artifact.transformer_plans import (
    FluxPlan,
    SD3Plan,
    T5Plan,
    flux_modules,
    sd3_modules,
    t5_modules,
)

SD3 = {"joint_attention_dim": 4096, "pooled_projection_dim": 2048, "pos_embed_max_size": 96}
# How each published base departs from the defaults of its class.
SD3_SIZES = {
    "SD3 medium": {"num_layers": 24, "num_attention_heads": 24, "caption_projection_dim": 1536},
    "SD3.5 medium": {
        "num_layers": 24,
        "num_attention_heads": 24,
        "caption_projection_dim": 1536,
        "dual_attention_layers": tuple(range(13)),
        "qk_norm": "rms_norm",
    },
    "SD3.5 large": {
        "num_layers": 38,
        "num_attention_heads": 38,
        "caption_projection_dim": 2432,
        "qk_norm": "rms_norm",
    },
}
BY_NAME = {signature.called: signature for signature in SIGNATURES}


def weights_of(model):
    return {
        n: tuple(m.weight.shape) for n, m in model.named_modules() if getattr(m, "weight", None) is not None
    }


def sd3(**config):
    from diffusers import SD3Transformer2DModel

    with torch.device("meta"):
        return weights_of(SD3Transformer2DModel(**SD3, **config))


def flux(**config):
    from diffusers import FluxTransformer2DModel

    with torch.device("meta"):
        return weights_of(FluxTransformer2DModel(**config))


@pytest.mark.parametrize("size", SD3_SIZES)
def test_sd3_modules_are_those_of_diffusers(size):
    assert dict(expected_modules(BY_NAME[size], "transformer")) == sd3(**SD3_SIZES[size])


@pytest.mark.parametrize(("size", "guidance"), [("Flux dev", True), ("Flux schnell", False)])
def test_flux_modules_are_those_of_diffusers_by_default(size, guidance):
    assert dict(expected_modules(BY_NAME[size], "transformer")) == flux(guidance_embeds=guidance)


def test_small_transformers_follow_the_same_plans():
    small = {"num_layers": 3, "num_attention_heads": 2, "attention_head_dim": 8, "caption_projection_dim": 16}
    plan = SD3Plan(16, 3, dual=2, normed=True, context=4096, pooled=2048, head=8)
    assert dict(sd3_modules(plan)) == sd3(**small, dual_attention_layers=(0, 1), qk_norm="rms_norm")
    plan = FluxPlan(32, 2, 1, guidance=False, context=12, pooled=10, channels=8, head=16)
    assert dict(flux_modules(plan)) == flux(
        num_layers=2, num_single_layers=1, num_attention_heads=2, attention_head_dim=16,
        joint_attention_dim=12, pooled_projection_dim=10, in_channels=8, axes_dims_rope=(4, 4, 8),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("plan", "config"),
    [
        # T5 v1.1 XXL, the encoder of both families.
        (T5Plan(), {"d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64}),
        (T5Plan(2, 16, 24, 12, 3), {"d_model": 16, "d_kv": 4, "d_ff": 24, "num_layers": 2, "num_heads": 3}),
    ],
    ids=["xxl", "small"],
)
def test_t5_modules_are_those_of_transformers(plan, config):
    from transformers import T5Config, T5EncoderModel

    with torch.device("meta"):
        model = T5EncoderModel(T5Config(**config, feed_forward_proj="gated-gelu"))
    real = {n: shape for n, shape in weights_of(model).items() if n not in ("shared", "encoder.embed_tokens")}
    assert dict(t5_modules(plan)) == real


def test_published_sizes_are_those_that_diffusers_itself_names():
    """SD3.5 has dual attention in the first 13 blocks, says the class; single files reveal the last block."""
    from diffusers import SD3Transformer2DModel
    from diffusers.loaders.single_file_utils import CHECKPOINT_KEY_NAMES

    source = inspect.getsource(SD3Transformer2DModel.__init__)
    assert str(SD3_SIZES["SD3.5 medium"]["dual_attention_layers"]) in source
    last = max(
        int(p.split(".")[1])
        for p in expected_modules(BY_NAME["SD3.5 large"], "transformer")
        if "_blocks." in p
    )
    assert f"joint_blocks.{last}.x_block.mlp.fc1.weight" in CHECKPOINT_KEY_NAMES["sd35_large"]
