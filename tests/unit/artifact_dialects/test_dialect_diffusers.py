"""diffusers naming in all its ages, and PEFT folders written by PEFT itself."""

import json

import numpy as np
import pytest
import torch

from auditor.artifact.adapter import LowRank, Overwrite
from auditor.artifact.claim_checks import check_claims
from auditor.artifact.identify import identify

ATTENTION = "down_blocks.0.attentions.0.transformer_blocks.0.attn2"
LAYER = "text_model.encoder.layers.0"


def pair(rng, down, up, shape, rank=2):
    return {
        down: rng.standard_normal((rank, shape[1])).astype(np.float32),
        up: rng.standard_normal((shape[0], rank)).astype(np.float32),
    }


SPELLINGS = [
    ("unet.{}.to_k.lora_A.weight", "unet.{}.to_k.lora_B.weight", "to_k"),
    ("unet.{}.to_k.lora_A.default.weight", "unet.{}.to_k.lora_B.default.weight", "to_k"),
    ("unet.{}.to_k.lora.down.weight", "unet.{}.to_k.lora.up.weight", "to_k"),
    ("unet.{}.to_k.lora_down.weight", "unet.{}.to_k.lora_up.weight", "to_k"),
    ("unet.{}.processor.to_k_lora.down.weight", "unet.{}.processor.to_k_lora.up.weight", "to_k"),
    ("{}.processor.to_out_lora.down.weight", "{}.processor.to_out_lora.up.weight", "to_out.0"),
    ("unet.{}.to_out.0.lora_A.weight", "unet.{}.to_out.0.lora_B.weight", "to_out.0"),
    ("{}.to_v.lora_A.weight", "{}.to_v.lora_B.weight", "to_v"),
]


@pytest.mark.parametrize(("down", "up", "name"), SPELLINGS)
def test_every_unet_spelling_is_one_path(down, up, name, rng, read):
    arrays = pair(rng, down.format(ATTENTION), up.format(ATTENTION), (320, 768))
    adapter = read(arrays)
    assert list(adapter.components["unet"]) == [f"{ATTENTION}.{name}"]
    expected = arrays[up.format(ATTENTION)] @ arrays[down.format(ATTENTION)]
    np.testing.assert_allclose(adapter.components["unet"][f"{ATTENTION}.{name}"].delta(), expected, atol=1e-5)
    assert adapter.dialect == "diffusers"
    assert adapter.unmatched == ()


TEXT_SPELLINGS = [
    ("text_encoder.text_model.encoder.layers.0.self_attn.{}_proj.lora_linear_layer.down.weight", "q"),
    ("text_encoder.text_model.encoder.layers.0.self_attn.{}_proj.lora_A.weight", "k"),
    ("text_encoder.encoder.layers.0.self_attn.{}_proj.lora_A.weight", "v"),
    ("text_encoder.text_model.encoder.layers.0.self_attn.to_{}_lora.down.weight", "out"),
    ("text_model.encoder.layers.0.self_attn.{}_proj.lora.down.weight", "q"),
]


@pytest.mark.parametrize(("spelling", "name"), TEXT_SPELLINGS)
def test_every_text_encoder_spelling_is_one_path(spelling, name, rng, read):
    down = spelling.format(name)
    adapter = read(pair(rng, down, down.replace("lora_A", "lora_B").replace("down", "up"), (768, 768)))
    assert list(adapter.components["text_encoder"]) == [f"{LAYER}.self_attn.{name}_proj"]


def test_the_wide_unprefixed_text_encoder_is_the_second_one(rng, read):
    key = "text_model.encoder.layers.0.self_attn.q_proj.lora_A.weight"
    adapter = read(pair(rng, key, key.replace("lora_A", "lora_B"), (1280, 1280)))
    assert adapter.family == "sdxl"
    assert list(adapter.components) == ["text_encoder_2"]


def test_alpha_comes_from_the_adapter_metadata_per_component_and_pattern(rng, read):
    arrays = pair(
        rng, f"unet.{ATTENTION}.to_k.lora_A.weight", f"unet.{ATTENTION}.to_k.lora_B.weight", (320, 768)
    )
    arrays |= pair(
        rng, f"unet.{ATTENTION}.to_q.lora_A.weight", f"unet.{ATTENTION}.to_q.lora_B.weight", (320, 320), 4
    )
    meta = {
        "unet.r": 2,
        "unet.lora_alpha": 1,
        "unet.rank_pattern": {"to_q": 4},
        "unet.alpha_pattern": {"attn2.to_q": 12},
    }
    adapter = read(arrays, {"lora_adapter_metadata": json.dumps(meta)})
    scales = {path.rpartition(".")[2]: delta.scale for path, delta in adapter.components["unet"].items()}
    assert scales == {"to_k": 0.5, "to_q": 3.0}
    checks = {check.claim: check for check in check_claims(adapter)}
    assert checks["lora_adapter_metadata.unet.r"].agrees is True
    assert checks["lora_adapter_metadata.unet.lora_alpha"].agrees is None


def test_a_config_without_alpha_means_what_peft_takes_it_to_mean(rng, read):
    arrays = pair(
        rng, f"unet.{ATTENTION}.to_k.lora_A.weight", f"unet.{ATTENTION}.to_k.lora_B.weight", (320, 768)
    )
    adapter = read(arrays, {"lora_adapter_metadata": json.dumps({"unet.r": 2})})
    assert adapter.components["unet"][f"{ATTENTION}.to_k"].alpha == 8.0


def test_patterns_are_never_run_as_expressions(rng, read):
    arrays = pair(
        rng, f"unet.{ATTENTION}.to_k.lora_A.weight", f"unet.{ATTENTION}.to_k.lora_B.weight", (320, 768)
    )
    meta = {"unet.lora_alpha": 2, "unet.alpha_pattern": {"(a+)+$": 9, "to_.*": 7}}
    adapter = read(arrays, {"lora_adapter_metadata": json.dumps(meta)})
    assert adapter.components["unet"][f"{ATTENTION}.to_k"].scale == 1.0
    assert "peft.pattern" in {p.code for p in adapter.problems}


def test_biases_and_unknown_keys_are_left_over_not_dropped(rng, read):
    arrays = pair(
        rng, f"unet.{ATTENTION}.to_k.lora_A.weight", f"unet.{ATTENTION}.to_k.lora_B.weight", (320, 768)
    )
    extra = {f"unet.{ATTENTION}.to_k.lora_B.bias": np.zeros(320), "vae.thing": np.zeros(3)}
    assert read({**arrays, **extra}).unmatched == tuple(sorted(extra))


class Attention(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.to_q = torch.nn.Linear(8, 6, bias=False)
        self.to_k = torch.nn.Linear(10, 6, bias=False)
        self.to_out = torch.nn.ModuleList([torch.nn.Linear(6, 8)])


class Block(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv_in = torch.nn.Conv2d(4, 8, 3)
        self.down_blocks = torch.nn.ModuleList([Attention(), Attention()])
        self.conv_norm_out = torch.nn.GroupNorm(2, 8)

    def forward(self, x):
        return x


def peft_folder(tmp_path, **options):
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(7)
    model = Block()
    base = {name: value.clone().numpy() for name, value in model.state_dict().items()}
    config = LoraConfig(r=3, lora_alpha=6, target_modules=["to_q", "to_k", "to_out.0", "conv_in"], **options)
    model = get_peft_model(model, config)
    for name, value in model.named_parameters():
        if "lora_" in name or "modules_to_save" in name:
            value.data += 0.1 * torch.randn_like(value)
    model.save_pretrained(tmp_path)
    merged = {name: value.detach().numpy() for name, value in model.merge_and_unload().state_dict().items()}
    return base, merged


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_rslora": True},
        {"alpha_pattern": {"to_q": 1}, "rank_pattern": {"down_blocks.1.to_k": 2}},
        {"use_dora": True},
        {"modules_to_save": ["conv_norm_out"]},
    ],
    ids=["plain", "rank_stabilised", "patterns", "dora", "saved_modules"],
)
def test_a_peft_folder_gives_the_change_that_peft_merges(options, tmp_path):
    base, merged = peft_folder(tmp_path, **options)
    with identify(tmp_path) as found:
        adapter = found.require_adapter()
        assert (adapter.dialect, adapter.unmatched) == ("peft", ())
        changed = set()
        for component, path, delta in adapter.modules():
            assert component == "unet"
            changed.add(f"{path}.weight")
            expected = merged[f"{path}.weight"] - base[f"{path}.weight"]
            np.testing.assert_allclose(delta.delta(base[f"{path}.weight"]), expected, atol=2e-6)
            assert isinstance(delta, Overwrite if path == "conv_norm_out" else LowRank)
        assert changed == {n for n in base if not np.array_equal(base[n], merged[n]) and n.endswith("weight")}
        contradicted = [check for check in found.checks if check.agrees is False]
        assert contradicted == []


def test_config_claims_that_do_not_hold_are_named(tmp_path):
    peft_folder(tmp_path)
    path = tmp_path / "adapter_config.json"
    config = json.loads(path.read_text()) | {"r": 16, "use_dora": True, "target_modules": ["to_q"]}
    path.write_text(json.dumps(config))
    with identify(tmp_path) as found:
        verdicts = {check.claim: check.agrees for check in found.checks}
    assert verdicts["adapter_config.r"] is False
    assert verdicts["adapter_config.use_dora"] is False
    assert verdicts["adapter_config.target_modules"] is False


def test_config_entries_beyond_plain_lora_are_problems(tmp_path):
    peft_folder(tmp_path)
    path = tmp_path / "adapter_config.json"
    extra = {
        "auto_mapping": {"base_model_class": "X", "parent_library": "evil"},
        "megatron_config": {"a": 1},
        "megatron_core": "evil.module",
        "init_lora_weights": "pissa_niter_4",
        "layer_replication": [[0, 4]],
    }
    path.write_text(json.dumps(json.loads(path.read_text()) | extra))
    with identify(tmp_path) as found:
        codes = {p.code for p in found.problems}
    assert codes >= {"peft.auto_mapping", "peft.megatron", "peft.initialisation", "peft.extra"}


def test_files_saved_by_a_pipeline_read_back(tmp_path):
    """Through diffusers' own writer, with its metadata."""
    from diffusers import StableDiffusionPipeline, UNet2DConditionModel
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    torch.manual_seed(3)
    unet = UNet2DConditionModel(
        block_out_channels=(8, 16),
        layers_per_block=1,
        cross_attention_dim=12,
        norm_num_groups=4,
        attention_head_dim=2,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )
    config = LoraConfig(
        r=2, lora_alpha=8, init_lora_weights=False, target_modules=["to_q", "to_k", "to_v", "to_out.0"]
    )
    unet.add_adapter(config)
    before = {n: m.base_layer.weight.clone() for n, m in unet.named_modules() if hasattr(m, "base_layer")}
    StableDiffusionPipeline.save_lora_weights(
        tmp_path,
        unet_lora_layers=convert_state_dict_to_diffusers(get_peft_model_state_dict(unet)),
        unet_lora_adapter_metadata=config.to_dict(),
    )
    unet.fuse_lora()
    after = {n: m.base_layer.weight for n, m in unet.named_modules() if hasattr(m, "base_layer")}
    with identify(tmp_path / "pytorch_lora_weights.safetensors") as found:
        adapter = found.require_adapter()
        assert set(adapter.components["unet"]) == set(before)
        assert adapter.family == "other"
        for path, delta in adapter.components["unet"].items():
            assert delta.scale == 4.0
            expected = (after[path] - before[path]).detach().numpy()
            np.testing.assert_allclose(delta.delta(), expected, atol=1e-5)
