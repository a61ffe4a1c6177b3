"""kohya naming against the conversion that diffusers does."""

import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from auditor.artifact.architectures import sgm_names, text_modules, unet_modules
from auditor.artifact.dialects.kohya import flattened_modules
from auditor.artifact.family import SIGNATURES, expected_modules
from auditor.errors import UnsupportedArtifact

SD1, SD2, SDXL, EMBEDDED = SIGNATURES[:4]
# The converter of some diffusers releases has no rule for these, so it is no reference for them.
UNREAD_BY_DIFFUSERS = ("time_embed", "label_emb")


def _lora(rng, name, shape, rank=2, alpha=1.0):
    kernel, ones = shape[2:], (1,) * len(shape[2:])
    return {
        f"{name}.lora_down.weight": rng.standard_normal((rank, shape[1], *kernel)).astype(np.float32),
        f"{name}.lora_up.weight": rng.standard_normal((shape[0], rank, *ones)).astype(np.float32),
        f"{name}.alpha": np.float32(alpha),
    }


def _small(shape):
    return tuple(min(size, 3) for size in shape[:2]) + shape[2:]


def _by_diffusers(arrays, layers_per_block=2):
    """Path to dense delta, by way of diffusers' converter and its names."""
    from diffusers.loaders.lora_conversion_utils import (
        _convert_non_diffusers_lora_to_diffusers,
        _maybe_map_sgm_blocks_to_diffusers,
    )
    from diffusers.utils import convert_state_dict_to_peft, convert_unet_state_dict_to_peft

    logging.getLogger("diffusers").setLevel(logging.ERROR)
    state = {key: torch.from_numpy(np.asarray(value)) for key, value in arrays.items()}
    state = _maybe_map_sgm_blocks_to_diffusers(state, SimpleNamespace(layers_per_block=layers_per_block))
    state, alphas = _convert_non_diffusers_lora_to_diffusers(state)
    unet = {k.removeprefix("unet."): v for k, v in state.items() if k.startswith("unet.")}
    unet = convert_unet_state_dict_to_peft(unet)
    found = {}
    for component, tensors in (("unet", unet), ("text_encoder", None), ("text_encoder_2", None)):
        if tensors is None:
            own = {
                k.removeprefix(f"{component}."): v for k, v in state.items() if k.startswith(f"{component}.")
            }
            tensors = convert_state_dict_to_peft(own) if own else {}
        for key, down in tensors.items():
            if "lora_A" in key:
                up = tensors[key.replace("lora_A", "lora_B")]
                product = torch.einsum("or,ri->oi", up.flatten(1), down.flatten(1))
                path = key.split(".lora_A")[0]
                found[component, path] = product.reshape(up.shape[0], *down.shape[1:]).numpy()
    return found, alphas


def _paths(adapter):
    return {(component, path) for component, path, _ in adapter.modules()}


def test_sd1_names_agree_with_diffusers_module_by_module(rng, read):
    arrays = {}
    for path, shape in unet_modules(SD1.denoiser).items():
        if len(shape) > 1:
            arrays |= _lora(rng, "lora_unet_" + path.replace(".", "_"), _small(shape))
    for path, shape in text_modules(SD1.text[0]).items():
        if len(shape) > 1:
            arrays |= _lora(rng, "lora_te_" + path.replace(".", "_"), _small(shape))
    adapter = read(arrays)
    reference, alphas = _by_diffusers(arrays)
    assert len(alphas) == len(reference)
    assert _paths(adapter) == set(reference)
    assert adapter.unmatched == ()
    for component, path, delta in adapter.modules():
        np.testing.assert_allclose(
            delta.delta(), reference[component, path] * delta.scale, rtol=1e-5, atol=1e-6
        )
        assert delta.scale == 0.5


def test_sdxl_sgm_names_agree_with_diffusers_module_by_module(rng, read):
    arrays = {}
    for sgm, path in sgm_names(SDXL.denoiser).items():
        shape = unet_modules(SDXL.denoiser)[path]
        if len(shape) > 1 and not sgm.startswith(UNREAD_BY_DIFFUSERS):
            arrays |= _lora(rng, "lora_unet_" + sgm.replace(".", "_"), _small(shape), rank=1)
    for prefix, plan in (("lora_te1_", SDXL.text[0]), ("lora_te2_", SDXL.text[1])):
        for path, shape in text_modules(plan).items():
            if len(shape) > 1 and path != "text_projection":
                arrays |= _lora(rng, prefix + path.replace(".", "_"), _small(shape), rank=1)
    adapter = read(arrays)
    reference, _ = _by_diffusers(arrays)
    assert _paths(adapter) == set(reference)
    for component, path, delta in adapter.modules():
        np.testing.assert_allclose(
            delta.delta(), reference[component, path] * delta.scale, rtol=1e-5, atol=1e-6
        )


def test_no_flattened_name_means_two_modules():
    for component in ("unet", "text_encoder", "text_encoder_2"):
        seen = flattened_modules(component)
        for signature in SIGNATURES:
            for path in expected_modules(signature, component):
                assert seen[path.replace(".", "_")] == path
    for signature in (SD1, SD2, SDXL):
        for sgm, path in sgm_names(signature.denoiser).items():
            assert flattened_modules("unet")[sgm.replace(".", "_")] == path


def test_sdxl_family_from_kohya_names_and_shapes(rng, read):
    shapes = {
        "lora_unet_input_blocks_4_1_transformer_blocks_1_attn2_to_k": (640, 2048),
        "lora_te1_text_model_encoder_layers_0_self_attn_q_proj": (768, 768),
        "lora_te2_text_model_encoder_layers_31_mlp_fc1": (5120, 1280),
    }
    arrays = {k: v for name, shape in shapes.items() for k, v in _lora(rng, name, shape).items()}
    adapter = read(arrays)
    assert adapter.family == "sdxl"
    assert adapter.family_evidence[0] == "attn2.to_k takes 2048 columns: SDXL text width"
    assert set(adapter.components) == {"unet", "text_encoder", "text_encoder_2"}


def test_two_spellings_of_one_module_are_not_merged(rng, read):
    shape = (640, 640)
    first = _lora(rng, "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q", shape)
    second = _lora(rng, "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q", shape)
    adapter = read({**first, **second})
    assert adapter.module_count == 1
    assert set(adapter.unmatched) == set(second)
    assert {p.code for p in adapter.problems} >= {"dialect.duplicate", "dialect.unmatched"}


def test_names_outside_every_known_base_are_left_unmatched_unless_the_base_is_given(rng, read):
    known = _lora(rng, "lora_unet_conv_in", (320, 4, 3, 3))
    foreign = _lora(rng, "lora_unet_odd_block_7_to_q", (5, 5))
    adapter = read({**known, **foreign})
    assert set(adapter.unmatched) == set(foreign)
    base = {"unet": {"odd_block.7.to_q": (5, 5), "conv_in": (320, 4, 3, 3)}}
    adapter = read({**known, **foreign}, base=base)
    assert _paths(adapter) == {("unet", "conv_in"), ("unet", "odd_block.7.to_q")}
    assert adapter.family == "given"
    with pytest.raises(UnsupportedArtifact, match="naming that no known base has"):
        read(foreign)


def test_incomplete_and_mismatched_parts_become_unmatched(rng, read):
    good = _lora(rng, "lora_unet_conv_in", (320, 4, 3, 3))
    lone = {"lora_unet_conv_out.lora_down.weight": np.zeros((2, 320, 3, 3), np.float32)}
    wrong = _lora(rng, "lora_unet_mid_block_resnets_0_conv1", (1280, 1280, 3, 3))
    wrong["lora_unet_mid_block_resnets_0_conv1.lora_up.weight"] = np.zeros((1280, 5, 1, 1), np.float32)
    adapter = read({**good, **lone, **wrong})
    assert adapter.module_count == 1
    assert set(adapter.unmatched) == {*lone, *wrong}
    assert {p.code for p in adapter.problems} >= {"dialect.incomplete", "dialect.shape"}


@pytest.mark.parametrize("alpha", [np.nan, np.inf, 1e9])
def test_an_alpha_that_is_no_sane_number_rejects_the_module(alpha, rng, read):
    arrays = _lora(rng, "lora_unet_conv_in", (320, 4, 3, 3))
    other = _lora(rng, "lora_unet_conv_out", (4, 320, 3, 3), alpha=alpha)
    adapter = read({**arrays, **other})
    assert set(adapter.unmatched) == set(other)


def test_full_differences_and_bundled_embeddings(rng, read):
    value = rng.standard_normal((320, 4, 3, 3)).astype(np.float32)
    arrays = {
        "lora_unet_conv_in.diff": value,
        "bundle_emb.cat.string_to_param.*": np.zeros((2, 768), np.float32),
    }
    adapter = read(arrays)
    delta = adapter.components["unet"]["conv_in"]
    np.testing.assert_array_equal(delta.delta(), value)
    assert delta.rank is None
    assert adapter.embeddings["cat"]["text_encoder"].shape == (2, 768)
