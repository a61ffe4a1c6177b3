"""Kinds that are known and not read: ``auditor scan`` names each, says what it would take, and exits with 4."""

import json
import zipfile

import numpy as np
import pytest
import torch

from auditor.artifact.safetensors_write import write_arrays
from auditor.cli.main import run

BLOCK = "down_blocks.0.attentions.0.transformer_blocks.0"
ZEROS = torch.zeros(4, 4)
KINDS = {
    "IP-Adapter": {"image_proj.latents": (1, 4, 8), "ip_adapter.1.to_k_ip.weight": (8, 8)},
    "ControlNet-LoRA": {
        "lora_controlnet": (0,), "input_hint_block.0.weight": (4, 3, 3, 3), "input_blocks.1.0.in_layers.2.up": (4, 2),
    },
    "ControlNet,": {
        "controlnet_cond_embedding.conv_in.weight": (4, 3, 3, 3), "down_blocks.0.resnets.0.norm1.weight": (4,),
    },
    "T2I-Adapter": {"adapter.body.0.resnets.0.block1.weight": (4, 4, 3, 3), "adapter.conv_in.weight": (4, 4, 3, 3)},
    "AnimateDiff": {
        f"down_blocks.0.motion_modules.{i}.temporal_transformer.proj_in.weight": (4, 4) for i in range(2)
    },
    "Custom Diffusion": {f"{BLOCK}.attn2.processor.to_k_custom_diffusion.weight": (4, 4)},
    "OFT or BOFT adapter as PEFT stores it": {f"base_model.model.{BLOCK}.attn1.to_q.oft_R.weight": (4, 6)},
    "PEFT adapter other": {f"base_model.model.{BLOCK}.attn1.to_q.vera_lambda_b": (4,)},
    "T-LoRA": {
        f"lora_unet_{BLOCK.replace('.', '_')}_attn1_to_q.{part}": (4, 4)
        for part in ("q_layer.weight", "p_layer.weight", "lambda_layer", "alpha")
    },
    "T5-XXL": {"emb_params": (2, 4096)},
}  # fmt: skip


@pytest.mark.parametrize("name", KINDS)
def test_kinds_that_are_not_read_are_named_with_what_is_needed(tmp_path, capsys, name):
    arrays = {key: np.zeros(shape, np.float32) for key, shape in KINDS[name].items()}
    assert run(["scan", str(write_arrays(tmp_path / "x.safetensors", arrays))]) == 4
    out, err = capsys.readouterr()
    assert name in out + err and "not supported: " in err


@pytest.mark.parametrize(
    ("name", "state"),
    [
        (
            "IP-Adapter",
            {"image_proj": {"norm.weight": ZEROS}, "ip_adapter": {"1.to_k_ip.weight": ZEROS.clone()}},
        ),
        ("Custom Diffusion", {f"{BLOCK}.attn2.processor.to_k_custom_diffusion.weight": ZEROS}),
    ],
)
def test_kinds_in_pickles_are_named_too(tmp_path, capsys, name, state):
    torch.save(state, tmp_path / "x.bin")
    assert run(["scan", str(tmp_path / "x.bin")]) == 4
    assert name in capsys.readouterr().err


@pytest.mark.parametrize("method", ["VERA", "OFT", "BOFT", "ADALORA", "\u202eODD"])
def test_other_peft_methods_are_named(tmp_path, capsys, method):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": method}))
    write_arrays(
        tmp_path / "adapter_model.safetensors", {"base_model.model.x.y": np.zeros((2, 2), np.float32)}
    )
    assert run(["scan", str(tmp_path)]) == 4
    said = capsys.readouterr().err
    assert (
        "\u202e" not in said
        and method.strip("\u202e") in said
        and "LORA, LOHA, LOKR and IA3 are read" in said
    )


def test_a_gguf_file_is_named_with_what_its_header_says(tmp_path, capsys):
    gguf = pytest.importorskip("gguf")
    path = tmp_path / "flux.gguf"
    writer = gguf.GGUFWriter(path, "flux")
    writer.add_array("tokens", ["a", "b"])
    writer.add_array("numbers", [1, 2, 3])
    writer.add_float32("scale", 0.5)
    writer.add_bool("flag", True)
    for i, kind in enumerate(["Q4_0", "Q4_0", "Q8_0"]):
        quantised = gguf.quants.quantize(np.ones((2, 64), np.float32), gguf.GGMLQuantizationType[kind])
        writer.add_tensor(f"blk.{i}.weight", quantised, raw_dtype=gguf.GGMLQuantizationType[kind])
    writer.add_tensor("norm", np.ones(4, np.float32))
    for step in ("header", "kv_data", "tensors"):
        getattr(writer, f"write_{step}_to_file")()
    writer.close()
    assert run(["scan", str(path)]) == 4
    assert (
        "4 tensors of architecture 'flux', stored as Q4_0 (2), Q8_0 (1), F32 (1)" in capsys.readouterr().err
    )
    path.write_bytes(path.read_bytes()[:60])
    assert run(["scan", str(path)]) == 4
    said = capsys.readouterr()
    assert "is a GGUF file, which is not supported" in said.err and "the file is cut short" in said.out


def test_a_dduf_archive_is_named_with_its_pipeline(tmp_path, capsys):
    from huggingface_hub import export_entries_as_dduf

    index = {"_class_name": "FluxPipeline", "vae": ["diffusers", "AutoencoderKL"]}
    entries = [("model_index.json", json.dumps(index).encode()), ("vae/config.json", b"{}")]
    export_entries_as_dduf(tmp_path / "x.dduf", [*entries, ("vae/model.safetensors", b"\2\0\0\0\0\0\0\0{}")])
    assert run(["scan", str(tmp_path / "x.dduf")]) == 4
    said = capsys.readouterr().err
    assert "a DDUF archive (a FluxPipeline with vae)" in said and "unpack it" in said


@pytest.mark.parametrize(
    ("extra", "code", "told"),
    [
        ("vae/deeper/x.json", 1, "stand deeper than one folder"),
        ("run.py", 1, "of a kind that DDUF does not allow"),
    ],
)
def test_broken_rules_of_dduf_are_findings(tmp_path, capsys, extra, code, told):
    with zipfile.ZipFile(tmp_path / "x.dduf", "w") as archive:
        archive.writestr("model_index.json", json.dumps({"_class_name": ["odd", "Thing"]}))
        archive.writestr(extra, "{}")
    assert run(["scan", str(tmp_path / "x.dduf")]) == code
    said = capsys.readouterr()
    assert told in said.out and "names no pipeline class" in said.out + said.err


def test_a_compressed_archive_of_a_model_is_no_dduf(tmp_path, capsys):
    with zipfile.ZipFile(tmp_path / "x.dduf", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model_index.json", json.dumps({"_class_name": "FluxPipeline"}))
    assert run(["scan", str(tmp_path / "x.dduf")]) == 4
    assert "a zip archive, which is not opened" in capsys.readouterr().err
