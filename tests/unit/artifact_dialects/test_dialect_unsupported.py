"""What is not read is named, and nothing is ever dropped in silence."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from auditor.artifact.adapter import tensors_in
from auditor.artifact.checkpoint import is_checkpoint, match_checkpoint
from auditor.artifact.dialects import read_adapter
from auditor.artifact.tensors import ArrayTensors
from auditor.errors import UnsupportedArtifact

UNET = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
NAMED = {
    f"{UNET}.hada_w1_a": "LoHa",
    f"{UNET}.lokr_w1": "LoKr",
    f"{UNET}.oft_blocks": "OFT",
    f"{UNET}.a1.weight": "GLoRA",
    f"{UNET}.on_input": r"\(IA\)3",
    "lora_unet_double_blocks_0_img_mlp_fc1.lora_down.weight": "HunyuanVideo",
    "lora_unet_blocks_0_self_attn_q.lora_down.weight": "Wan",
    "diffusion_model.blocks.0.self_attn.q.lora_A.weight": "Wan",
    "diffusion_model.blocks.0.attn.qkv_x.lora_A.weight": "diffusion transformer",
    "transformer_blocks.0.attn.to_q.weight": "transformer of a model by itself",
    "down_blocks.0.motion_modules.0.temporal_transformer.proj_in.weight": "AnimateDiff",
    "image_proj.latents": "IP-Adapter",
    "controlnet_cond_embedding.conv_in.weight": "ControlNet",
    "control_model.input_blocks.0.0.weight": "ControlNet",
    "adapter.body.0.resnets.0.block1.weight": "T2I-Adapter",
    "unet.down_blocks.0.attn2.processor.to_k_custom_diffusion.weight": "Custom Diffusion",
    "decoder.conv_in.weight": "autoencoder",
    "model.layers.0.self_attn.q_proj.weight": "language model",
    "lora_unet_unknown_place.lora_down.weight": "no known base has",
}


@pytest.mark.parametrize("key", sorted(NAMED))
def test_known_kinds_are_named_with_what_is_needed(key):
    source = ArrayTensors(
        {key: np.zeros((4, 4, 2)), key.replace("down", "up").replace("lora_A", "lora_B"): np.zeros((4, 4, 2))}
    )
    with pytest.raises(UnsupportedArtifact, match=NAMED[key]) as caught:
        read_adapter(source)
    assert caught.value.exit_code == 4


def test_whole_models_are_not_taken_for_overwrites():
    arrays = {"conv_in.weight": np.zeros((320, 4, 3, 3)), "conv_out.weight": np.zeros((4, 320, 3, 3))}
    arrays["down_blocks.0.resnets.0.norm1.weight"] = np.zeros(320)
    with pytest.raises(UnsupportedArtifact, match="UNet of a model by itself"):
        read_adapter(ArrayTensors(arrays))


def test_unknown_and_empty_files_say_so():
    with pytest.raises(UnsupportedArtifact, match=r"'a\\u202eb\.c' for example"):
        read_adapter(ArrayTensors({"a\u202eb.c": np.zeros((3, 3))}))
    with pytest.raises(UnsupportedArtifact, match="holds no tensors"):
        read_adapter(ArrayTensors({}))


def test_left_over_lycoris_keys_are_named_beside_what_was_read(rng, read):
    arrays = {
        f"{UNET}.lora_down.weight": np.zeros((2, 320)),
        f"{UNET}.lora_up.weight": np.zeros((320, 2)),
        f"{UNET.replace('to_q', 'to_k')}.hada_w1_a": np.zeros((320, 2)),
    }
    adapter = read(arrays)
    assert len(adapter.unmatched) == 1
    assert any("LoHa" in p.detail for p in adapter.problems)


CONTEXT = "model.diffusion_model.input_blocks.{}.1.transformer_blocks.0.attn2.to_k.weight"


@pytest.mark.parametrize(
    ("block", "columns", "family"), [(1, 768, "sd1"), (1, 1024, "sd2"), (4, 2048, "sdxl"), (4, 1280, "other")]
)
def test_single_file_checkpoints_are_recognised_with_family(block, columns, family):
    arrays = {
        CONTEXT.format(block): np.zeros((4, columns)),
        "model.diffusion_model.input_blocks.0.0.weight": np.zeros((320, 4, 3, 3)),
        "first_stage_model.decoder.conv_in.weight": np.zeros(3),
        "cond_stage_model.transformer.x": np.zeros(3),
    }
    source = ArrayTensors(arrays)
    assert is_checkpoint(source)
    match = match_checkpoint(source)
    assert match.family == family
    parts = "model.diffusion_model, first_stage_model, cond_stage_model"
    assert match.evidence[0] == f"keys begin with {parts}: a whole model in one file"


def test_checkpoints_of_other_denoisers_are_named():
    source = ArrayTensors({"model.diffusion_model.blocks.0.self_attn.q.weight": np.zeros((4, 4))})
    with pytest.raises(UnsupportedArtifact, match="Wan"):
        match_checkpoint(source)


PREFIXES = [
    "",
    "unet.",
    "text_encoder.",
    "lora_unet_",
    "lora_te1_",
    "base_model.model.",
    "unet:",
    "string_to_param/",
]
PLACES = [
    "conv_in",
    "mid_block.resnets.0.norm1",
    "down_blocks_0_resnets_0_conv1",
    "0",
    "3:",
    "x.y",
    "encoder.layers.0.a",
]
ENDS = [
    "",
    ".weight",
    ".bias",
    ".lora_A.weight",
    ".lora_B.weight",
    ".lora_down.weight",
    ".lora_up.weight",
    ".alpha",
    ":up",
]
ENDS += [
    ":down",
    ".dora_scale",
    ".lora_mid.weight",
    ".lora_magnitude_vector",
    ".diff",
    ".to_out_lora.down.weight",
]
keys = st.builds("{}{}{}".format, st.sampled_from(PREFIXES), st.sampled_from(PLACES), st.sampled_from(ENDS))
shapes = st.lists(st.integers(0, 3), max_size=5).map(tuple)


@settings(max_examples=250, deadline=None)
@given(st.dictionaries(st.one_of(keys, st.text(max_size=12)), shapes, max_size=12))
def test_every_key_ends_in_one_change_one_vector_or_the_rest(specs):
    source = ArrayTensors({key: np.ones(shape, np.float32) for key, shape in specs.items()})
    try:
        adapter = read_adapter(source)
    except UnsupportedArtifact:
        return
    used = [t.name for _, _, delta in adapter.modules() for t in tensors_in(delta)]
    used += [t.name for encoders in adapter.embeddings.values() for t in encoders.values()]
    alphas = [k for k in specs if k.endswith(".alpha") and k not in adapter.unmatched and k not in used]
    assert sorted([*used, *alphas, *adapter.unmatched]) == sorted(specs)
    for _, _, delta in adapter.modules():
        if not hasattr(delta, "magnitude") or delta.magnitude is None:
            delta.delta(np.zeros(delta.shape))
