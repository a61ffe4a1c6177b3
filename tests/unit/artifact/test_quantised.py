"""Quantised weights are recognised by the keys and types that the libraries write."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from auditor.artifact.identify import identify
from auditor.artifact.quantised import quantised_config, quantised_folder, quantised_tensors
from auditor.artifact.tensors import ArrayTensors

LAYER = "down_blocks.0.attentions.0.proj_in"
SCHEMES = {
    "bitsandbytes in 4 bits": [
        "weight",
        "weight.absmax",
        "weight.quant_map",
        "weight.quant_state.bitsandbytes__nf4",
    ],
    "bitsandbytes in 8 bits": ["weight", "SCB", "weight_format"],
    "SVDQuant (nunchaku)": ["qweight", "wscales", "smooth", "lora_down", "lora_up"],
    "GPTQ": ["qweight", "qzeros", "scales", "g_idx"],
    "AWQ": ["qweight", "qzeros", "scales"],
    "compressed-tensors": ["weight_packed", "weight_scale", "weight_shape"],
    "HQQ": ["W_q", "meta"],
    "optimum-quanto": ["weight._data", "weight._scale", "input_scale"],
    "torchao": ["_weight_qdata", "_weight_scale"],
    "8-bit floats with scales": ["weight", "scale_weight", "scale_input"],
}


def source(*names, prefix=f"{LAYER}."):
    return ArrayTensors({f"{prefix}{name}": np.zeros((2, 2), np.float32) for name in names})


@pytest.mark.parametrize("scheme", SCHEMES)
def test_schemes_are_told_by_their_keys(scheme):
    found = quantised_tensors(source(*SCHEMES[scheme]).specs)
    assert found.scheme == scheme and not found.loadable
    assert found.evidence.startswith(f"key '{LAYER}") and "hidden" in found.told


@pytest.mark.parametrize(
    "names",
    [
        ["weight", "bias"],
        ["lora_down.weight", "lora_up.weight", "alpha"],
        ["lokr_w1", "lokr_w2", "dora_scale"],
    ],
)
def test_ordinary_weights_and_adapters_are_not(names):
    assert quantised_tensors(source(*names).specs) is None


def test_what_quanto_and_torchs_own_eight_bit_floats_write(tmp_path):
    narrow = {f"{LAYER}.weight": torch.zeros(4, 4).to(torch.float8_e4m3fn)}
    save_file(narrow, str(tmp_path / "cast.safetensors"))
    save_file({**narrow, f"{LAYER}.weight_scale": torch.ones(1)}, str(tmp_path / "scaled.safetensors"))
    for name, loadable in (("cast", True), ("scaled", False)):
        with identify(tmp_path / f"{name}.safetensors") as found:
            [note] = [p for p in found.problems if p.code == "quantised.weights"]
            assert note.severity == "info" and "8-bit" in note.detail
        (tmp_path / name / "unet").mkdir(parents=True)
        (tmp_path / f"{name}.safetensors").rename(tmp_path / name / "unet" / "model.safetensors")
        assert quantised_folder(tmp_path / name)["unet"].loadable is loadable


def test_a_config_names_its_method():
    assert quantised_config({"quantization_config": {"quant_method": "torchao"}}).scheme == "torchao"
    assert quantised_config({"quantization_config": {"_load_in_4bit": True}}).scheme == "bitsandbytes"
    assert quantised_config({"quantization_config": 3}) is None and quantised_config({}) is None


@pytest.mark.parametrize("config", [b"{", b"[1]", b"\xff"])
def test_a_damaged_component_is_left_to_its_reader(tmp_path, config):
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "config.json").write_bytes(config)
    (tmp_path / "unet" / "model.safetensors").write_bytes(b"\5\0\0\0\0\0\0\0{}")
    assert quantised_folder(tmp_path) == {}


def test_a_model_folder_says_which_component_is(tmp_path):
    (tmp_path / "transformer").mkdir()
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "FluxPipeline"}))
    (tmp_path / "transformer" / "x.gguf").write_bytes(b"GGUF\3\0\0\0" + bytes(16))
    with identify(tmp_path) as found:
        [note] = [p for p in found.problems if p.code == "quantised.weights"]
        assert note.detail.startswith("transformer: weights are quantised with GGUF blocks")
