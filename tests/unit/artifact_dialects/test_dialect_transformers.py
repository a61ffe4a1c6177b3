"""SD3 and Flux adapters in every naming: written or converted by diffusers, read here, the same change."""

import json
import logging
import re

import numpy as np
import pytest
import torch
from original_layout import original_sd3

from auditor.artifact.adapter import LowRank, Overwrite, tensors_in
from auditor.artifact.identify import identify
from auditor.artifact.safetensors_write import write_arrays

logging.getLogger("diffusers").setLevel(logging.ERROR)

WIDTH, INNER = 3072, 12288  # the converters of diffusers have the width of Flux built in
ATTENTION = ["to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"]
FLUX_LINEARS = [*ATTENTION, "proj_mlp", "proj_out", "net.0.proj", "net.2", "norm.linear", "norm1.linear"]


def tiny_flux():
    from diffusers import FluxTransformer2DModel

    torch.manual_seed(1)
    return FluxTransformer2DModel(
        num_layers=2, num_single_layers=2, num_attention_heads=2, attention_head_dim=16, in_channels=8,
        joint_attention_dim=12, pooled_projection_dim=10, axes_dims_rope=(4, 4, 8), guidance_embeds=True,
    )  # fmt: skip


def tiny_sd3():
    from diffusers import SD3Transformer2DModel

    torch.manual_seed(2)
    return SD3Transformer2DModel(
        sample_size=8, num_layers=3, num_attention_heads=2, attention_head_dim=8, caption_projection_dim=16,
        joint_attention_dim=12, pooled_projection_dim=10, pos_embed_max_size=8, dual_attention_layers=(0,),
        qk_norm="rms_norm", in_channels=4, out_channels=4,
    )  # fmt: skip


def tiny_clip():
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(3)
    config = CLIPTextConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, vocab_size=30
    )
    return CLIPTextModel(config)


def shapes_of(model):
    return {
        n: tuple(m.weight.shape) for n, m in model.named_modules() if getattr(m, "weight", None) is not None
    }


def adapted(model, targets):
    """Adds a random adapter; gives its file tensors, its config and the change that fusing it makes."""
    from peft import LoraConfig, inject_adapter_in_model
    from peft.utils import get_peft_model_state_dict

    config = LoraConfig(r=2, lora_alpha=6, init_lora_weights=False, target_modules=targets)
    # By PEFT itself: transformers' own add_adapter asks for releases of PEFT that may not be out yet (5.24 does).
    inject_adapter_in_model(config, model)
    layers = {n: m for n, m in model.named_modules() if hasattr(m, "base_layer")}
    before = {n: m.base_layer.weight.detach().clone() for n, m in layers.items()}
    state = {k: v.clone() for k, v in get_peft_model_state_dict(model).items()}
    for layer in layers.values():
        layer.merge()
    change = {n: (m.base_layer.weight.detach() - before[n]).numpy() for n, m in layers.items()}
    return state, config.to_dict(), change


def assert_same(found, expected):
    assert set(found) == set(expected)
    for path, delta in found.items():
        np.testing.assert_allclose(delta.delta(), expected[path], atol=1e-5, err_msg=path)


def normal(change):
    # Releases of transformers differ in whether the encoder sits under text_model.
    return {f"text_model.{path.removeprefix('text_model.')}": value for path, value in change.items()}


def test_a_flux_file_saved_by_diffusers_reads_back(tmp_path):
    from diffusers import FluxPipeline

    transformer, meta, change = adapted(tiny_flux(), FLUX_LINEARS)
    text, text_meta, text_change = adapted(tiny_clip(), ["q_proj", "v_proj", "fc1"])
    FluxPipeline.save_lora_weights(
        tmp_path,
        transformer_lora_layers=transformer,
        text_encoder_lora_layers=text,
        transformer_lora_adapter_metadata=meta,
        text_encoder_lora_adapter_metadata=text_meta,
    )
    with identify(tmp_path / "pytorch_lora_weights.safetensors") as found:
        adapter = found.require_adapter()
        assert (adapter.dialect, adapter.unmatched) == ("diffusers", ())
        assert all(delta.scale == 3.0 for _, _, delta in adapter.modules())
        assert_same(adapter.components["transformer"], change)
        assert_same(adapter.components["text_encoder"], normal(text_change))
        assert [check.claim for check in found.checks if check.agrees is False] == []


def test_an_sd3_file_saved_by_diffusers_reads_back(tmp_path):
    from diffusers import StableDiffusion3Pipeline

    targets = [*ATTENTION, "net.0.proj", "net.2", "norm1.linear", "norm1_context.linear", "pos_embed.proj"]
    transformer, meta, change = adapted(tiny_sd3(), targets)
    assert any(".attn2." in path for path in change)
    texts = [adapted(tiny_clip(), ["q_proj", "out_proj"]) for _ in range(2)]
    StableDiffusion3Pipeline.save_lora_weights(
        tmp_path,
        transformer_lora_layers=transformer,
        text_encoder_lora_layers=texts[0][0],
        text_encoder_2_lora_layers=texts[1][0],
        transformer_lora_adapter_metadata=meta,
        text_encoder_lora_adapter_metadata=texts[0][1],
        text_encoder_2_lora_adapter_metadata=texts[1][1],
    )
    with identify(tmp_path / "pytorch_lora_weights.safetensors") as found:
        adapter = found.require_adapter()
        assert adapter.unmatched == ()
        assert_same(adapter.components["transformer"], change)
        assert_same(adapter.components["text_encoder"], normal(texts[0][2]))
        assert_same(adapter.components["text_encoder_2"], normal(texts[1][2]))


@pytest.mark.parametrize("prefix", ["", "base_model.model."])
def test_unprefixed_and_peft_names_are_the_same_modules(prefix, tmp_path, read):
    model = tiny_flux()
    base = {"transformer": shapes_of(model)}
    state, meta, change = adapted(model, FLUX_LINEARS)
    arrays = {f"{prefix}{key}": value.numpy() for key, value in state.items()}
    adapter = read(arrays, config={"lora_alpha": meta["lora_alpha"], "r": 2}, base=base)
    assert (adapter.family, adapter.unmatched) == ("given", ())
    assert_same(adapter.components["transformer"], change)


def test_t5_layers_are_the_second_encoder_of_flux_and_the_third_of_sd3(rng, read):
    from transformers import T5Config, T5EncoderModel

    torch.manual_seed(4)
    model = T5EncoderModel(
        T5Config(d_model=16, d_kv=4, d_ff=24, num_layers=2, num_heads=3, feed_forward_proj="gated-gelu")
    )
    shapes = shapes_of(model)
    state, _, change = adapted(model, ["q", "o", "wi_0"])
    flat = {}
    for key, value in state.items():
        path, _, part = key.rpartition(".lora_")
        part = {"A.weight": "lora_down.weight", "B.weight": "lora_up.weight"}[part]
        flat[f"lora_te3_{path.replace('.', '_')}.{part}"] = value.numpy()
        flat[f"lora_te3_{path.replace('.', '_')}.alpha"] = np.float32(6)
    sd3 = pair(rng, "lora_unet_joint_blocks_0_x_block_attn_proj", 1536, 1536)
    flux = pair(rng, "lora_unet_single_blocks_0_linear2", 3072, 15360)
    for component, denoiser in (("text_encoder_3", sd3), ("text_encoder_2", flux)):
        adapter = read({**flat, **denoiser}, base={component: shapes})
        assert set(adapter.components) == {"transformer", component}
        assert_same(adapter.components[component], change)
    real = pair(rng, "lora_te3_encoder_block_0_layer_0_SelfAttention_q", 4096, 4096)
    assert read({**real, **sd3}).components["text_encoder_3"]
    assert read({**real, **flux}).components["text_encoder_2"]
    assert read({**real, **flux}).family == "flux"


# --- original names, against the converters of diffusers ---


def pair(rng, name, rows, columns, rank=1, alpha=None, ends=("lora_down", "lora_up")):
    arrays = {
        f"{name}.{ends[0]}.weight": rng.standard_normal((rank, columns)).astype(np.float32),
        f"{name}.{ends[1]}.weight": rng.standard_normal((rows, rank)).astype(np.float32),
    }
    return arrays | ({} if alpha is None else {f"{name}.alpha": np.float32(alpha)})


# Module, rows, columns; those whose width is not built into a converter are narrow.
DOUBLE = [
    *((f"{s}_attn.qkv", 9, 5) for s in ("img", "txt")),
    *((f"{s}_attn.proj", 4, 5) for s in ("img", "txt")),
    *((f"{s}_mlp.0", 7, 5) for s in ("img", "txt")),
    *((f"{s}_mlp.2", 5, 7) for s in ("img", "txt")),
    *((f"{s}_mod.lin", 12, 5) for s in ("img", "txt")),
]
SINGLE = [("linear1", 3 * WIDTH + INNER, WIDTH), ("linear2", 4, 9), ("modulation.lin", 6, 5)]
OUTSIDE = [
    ("img_in", 5, 3),
    ("txt_in", 5, 4),
    *((f"{name}_in.{layer}_layer", 5, 4) for name in ("time", "vector", "guidance") for layer in ("in", "out")),
    ("final_layer.linear", 3, 5),
    ("final_layer.adaLN_modulation.1", 10, 5),
]  # fmt: skip


def original_flux(doubles=19, singles=38):
    yield from OUTSIDE
    for index in range(doubles):
        yield from ((f"double_blocks.{index}.{name}", rows, columns) for name, rows, columns in DOUBLE)
    for index in range(singles):
        yield from ((f"single_blocks.{index}.{name}", rows, columns) for name, rows, columns in SINGLE)


def tensors(arrays):
    return {key: torch.from_numpy(np.array(value)) for key, value in arrays.items()}


FACTOR = re.compile(
    r"(?:(?P<encoder>text_encoder)\.|transformer\.)?(?P<path>.+?)"
    r"(?:\.to_(?P<old>q|k|v|out)_lora|\.lora_linear_layer|\.lora)?[._](?P<part>A|B|down|up)\.weight"
)


def converted(state):
    """(component, module) to the pair of factors, of a state dict in diffusers names."""
    found = {}
    for key, value in state.items():
        # Some modules of the transformer lack their component in what the converter gives.
        match = FACTOR.fullmatch(key)
        if match:
            path = f"{match['path']}.{match['old']}_proj" if match["old"] else match["path"]
            factors = found.setdefault((match["encoder"] or "transformer", path), [None, None])
            factors[match["part"] in ("B", "up")] = value.numpy()
    return found


def assert_same_as_factors(adapter, factors, rng):
    assert {(component, path) for component, path, _ in adapter.modules()} == set(factors)
    for component, path, delta in adapter.modules():
        down, up = factors[component, path]
        # The product applied to a vector: written out in full the widest would take a minute.
        probe = rng.standard_normal(down.shape[1])
        left, right = delta.factors()
        ours = delta.scale * (left @ (right @ probe))
        np.testing.assert_allclose(ours, up @ (down @ probe), rtol=1e-4, atol=1e-5, err_msg=path)


def test_kohya_flux_agrees_with_diffusers_module_by_module(rng, read):
    from diffusers.loaders.lora_conversion_utils import _convert_kohya_flux_lora_to_diffusers

    arrays = {}
    for name, rows, columns in original_flux():
        # The converter takes no notice of the alphas of the last layer.
        alpha = None if name.startswith("final_layer") else 0.5
        arrays |= pair(rng, f"lora_unet_{name.replace('.', '_')}", rows, columns, rank=2, alpha=alpha)
    for layer in range(2):
        for name in ("self_attn_q_proj", "self_attn_out_proj", "mlp_fc1", "mlp_fc2"):
            name = f"lora_te1_text_model_encoder_layers_{layer}_{name}"
            arrays |= pair(rng, name, 6, 5, rank=2, alpha=0.5)
    adapter = read(arrays)
    assert (adapter.dialect, adapter.unmatched) == ("kohya", ())
    factors = converted(_convert_kohya_flux_lora_to_diffusers(tensors(arrays)))
    assert_same_as_factors(adapter, factors, rng)


def test_comfy_flux_agrees_with_diffusers_module_by_module(rng, read):
    from diffusers.loaders.lora_conversion_utils import _convert_kohya_flux_lora_to_diffusers

    arrays = {}
    for name, rows, columns in original_flux(2, 2):
        alpha = None if name.startswith("final_layer") else 4.0
        arrays |= pair(rng, f"diffusion_model.{name}", rows, columns, rank=2, alpha=alpha)
    name = "text_encoders.clip_l.transformer.text_model.encoder.layers.3.mlp.fc1"
    arrays |= pair(rng, name, 6, 5, alpha=1.0)
    adapter = read(arrays)
    assert (adapter.dialect, adapter.unmatched) == ("original", ())
    factors = converted(_convert_kohya_flux_lora_to_diffusers(tensors(arrays)))
    assert_same_as_factors(adapter, factors, rng)


def test_black_forest_labs_names_agree_with_diffusers_norms_included(rng, read):
    from diffusers.loaders.lora_conversion_utils import _convert_bfl_flux_control_lora_to_diffusers

    arrays = {}
    for name, rows, columns in original_flux():
        arrays |= pair(rng, name, rows, columns, ends=("lora_A", "lora_B"))
    # The converter swaps the halves of both factors of this one, which is right where those of A are equal.
    down = f"{OUTSIDE[-1][0]}.lora_A.weight"
    arrays |= pair(rng, OUTSIDE[-1][0], 10, 5, rank=2, ends=("lora_A", "lora_B"))
    arrays[down][1] = arrays[down][0]
    blocks = [f"double_blocks.{i}.{stream}_attn" for i in range(19) for stream in ("img", "txt")]
    blocks += [f"single_blocks.{i}" for i in range(38)]
    norms = [f"{block}.norm.{name}_norm.scale" for block in blocks for name in ("query", "key")]
    arrays |= {name: rng.standard_normal(4).astype(np.float32) for name in norms}
    adapter = read(arrays)
    assert adapter.unmatched == ()
    state = _convert_bfl_flux_control_lora_to_diffusers(tensors(arrays))
    overwritten = {p: d for _, p, d in adapter.modules() if isinstance(d, Overwrite)}
    assert len(overwritten) == len(norms)
    for path, delta in overwritten.items():
        np.testing.assert_array_equal(delta.value.array(), state[f"transformer.{path}.weight"].numpy())
    low_rank = {p: d for p, d in adapter.components["transformer"].items() if isinstance(d, LowRank)}
    factors = converted(state)
    assert {("transformer", path) for path in low_rank} == set(factors)
    for path, delta in low_rank.items():
        for ours, theirs in zip((delta.down, delta.up), factors["transformer", path], strict=True):
            np.testing.assert_array_equal(ours.array(), theirs)


def test_xlabs_names_agree_with_diffusers(rng, read):
    from diffusers.loaders.lora_conversion_utils import _convert_xlabs_flux_lora_to_diffusers

    arrays = {}
    for name, rows in (("qkv_lora1", 9), ("qkv_lora2", 9), ("proj_lora1", 4), ("proj_lora2", 4)):
        arrays |= pair(rng, f"double_blocks.3.processor.{name}", rows, 5, ends=("down", "up"))
    for name, rows in (("qkv_lora", 9), ("proj_lora", 4)):
        arrays |= pair(rng, f"single_blocks.7.processor.{name}", rows, 5, ends=("down", "up"))
    adapter = read(arrays)
    assert (adapter.dialect, adapter.unmatched) == ("original", ())
    assert_same_as_factors(adapter, converted(_convert_xlabs_flux_lora_to_diffusers(tensors(arrays))), rng)


def test_projections_trained_apart_and_stored_as_one_agree_with_diffusers(rng, read):
    """sd-scripts' ``split_qkv``: the factors of q, k and v side by side, zeros elsewhere in the up factor."""
    from diffusers.loaders.lora_conversion_utils import _convert_kohya_flux_lora_to_diffusers

    name = "lora_unet_double_blocks_0_img_attn_qkv"
    up = np.zeros((9, 6), np.float32)
    for index in range(3):
        up[3 * index : 3 * index + 3, 2 * index : 2 * index + 2] = rng.standard_normal((3, 2))
    arrays = pair(rng, name, 9, 5, rank=6, alpha=3.0) | {f"{name}.lora_up.weight": up}
    adapter = read(arrays)
    assert_same_as_factors(adapter, converted(_convert_kohya_flux_lora_to_diffusers(tensors(arrays))), rng)


def test_a_kohya_file_applied_by_diffusers_changes_the_weights_that_we_say(rng, read):
    """Converted, loaded and fused by diffusers, on a small Flux; the single blocks are checked above."""
    from diffusers.loaders.lora_conversion_utils import _convert_kohya_flux_lora_to_diffusers

    model = tiny_flux()
    base = {"transformer": shapes_of(model)}
    before = {name: model.get_submodule(name).weight.detach().clone() for name in base["transformer"]}
    sizes = {"attn_qkv": (96, 32), "attn_proj": (32, 32), "mlp_0": (128, 32), "mlp_2": (32, 128)}
    sizes["mod_lin"] = (192, 32)
    arrays = pair(rng, "lora_unet_single_blocks_1_linear2", 32, 160, 2, 3.0)
    for block in range(2):
        for stream in ("img", "txt"):
            for name, (rows, columns) in sizes.items():
                arrays |= pair(rng, f"lora_unet_double_blocks_{block}_{stream}_{name}", rows, columns, 2, 3.0)
    adapter = read(arrays, base=base)
    assert (adapter.family, adapter.unmatched) == ("given", ())
    state = _convert_kohya_flux_lora_to_diffusers(tensors(arrays))
    model.load_lora_adapter(state, prefix="transformer")
    model.fuse_lora()
    changed = {}
    for name, module in model.named_modules():
        if hasattr(module, "base_layer"):
            changed[name] = (module.base_layer.weight.detach() - before[name]).numpy()
    assert_same(adapter.components["transformer"], changed)


def small_sd3():
    shapes = original_sd3(layers=3, dual=1, width=8)
    return {name: shape for name, shape in shapes.items() if name != "x_embedder.proj"}


@pytest.mark.parametrize("spelling", ["lora_unet_", "diffusion_model."])
def test_original_sd3_names_agree_with_the_checkpoint_converter(spelling, rng, read):
    """No converter for such adapters exists; that for checkpoints is linear, so changes can go through it."""
    from diffusers.loaders.single_file_utils import convert_sd3_transformer_checkpoint_to_diffusers

    arrays, checkpoint = {}, {}
    for name, (rows, columns) in small_sd3().items():
        key = spelling + (name.replace(".", "_") if spelling.endswith("_") else name)
        factors = pair(rng, key, rows, columns, rank=2, alpha=1.0)
        product = factors[f"{key}.lora_up.weight"] @ factors[f"{key}.lora_down.weight"]
        checkpoint |= {f"{name}.weight": torch.from_numpy(0.5 * product), f"{name}.bias": torch.zeros(rows)}
        arrays |= factors
    for name in ("pos_embed", "x_embedder.proj.weight", "x_embedder.proj.bias"):
        checkpoint[name] = torch.zeros(1)
    state = convert_sd3_transformer_checkpoint_to_diffusers(checkpoint)
    expected = {k.removesuffix(".weight"): v.numpy() for k, v in state.items() if k.endswith(".weight")}
    del expected["pos_embed.proj"]
    adapter = read(arrays)
    assert adapter.unmatched == ()
    assert_same(adapter.components["transformer"], expected)


# --- counting ---


def test_a_key_that_serves_several_modules_is_read_for_each_and_left_over_once(rng, read):
    name = "lora_unet_double_blocks_0_img_attn_qkv"
    arrays = pair(rng, name, 9216, 3072, rank=2, alpha=1.0)
    adapter = read(arrays)
    assert adapter.module_count == 3
    names = [t.name for _, _, delta in adapter.modules() for t in tensors_in(delta)]
    assert names.count(f"{name}.lora_down.weight") == names.count(f"{name}.lora_up.weight") == 3
    assert adapter.ranks == {2: 3}
    # Eight rows are no three thirds: the whole of it is left over, each key once.
    known = pair(rng, "lora_unet_double_blocks_1_img_attn_proj", 3072, 3072)
    adapter = read({**known, **pair(rng, name, 8, 3072, rank=2, alpha=1.0)})
    assert adapter.unmatched == tuple(sorted(arrays))
    assert adapter.module_count == 1
    assert "dialect.fused" in {problem.code for problem in adapter.problems}


def test_a_module_changed_under_two_names_is_changed_once(rng, read):
    fused = pair(rng, "lora_unet_double_blocks_0_img_attn_qkv", 9216, 3072)
    apart = pair(rng, "lora_transformer_transformer_blocks_0_attn_to_k", 3072, 3072)
    adapter = read({**apart, **fused})
    assert list(adapter.components["transformer"]) == ["transformer_blocks.0.attn.to_k"]
    assert adapter.unmatched == tuple(sorted(fused))
    adapter = read({**fused, **apart})
    assert adapter.module_count == 3
    assert adapter.unmatched == tuple(sorted(apart))


def test_full_differences_of_fused_projections_come_apart_too(rng, read):
    value = rng.standard_normal((9, 4)).astype(np.float32)
    adapter = read({"lora_unet_joint_blocks_0_x_block_attn_qkv.diff": value})
    parts = [adapter.components["transformer"][f"transformer_blocks.0.attn.to_{n}"].delta() for n in "qkv"]
    np.testing.assert_array_equal(np.concatenate(parts), value)


def test_the_scale_of_a_peft_folder_holds_for_original_names(tmp_path, rng):
    folder = tmp_path / "adapter"
    folder.mkdir()
    name = "base_model.model.double_blocks.0.img_attn.qkv"
    write_arrays(
        folder / "adapter_model.safetensors", pair(rng, name, 9216, 3072, 2, ends=("lora_A", "lora_B"))
    )
    config = {"r": 2, "lora_alpha": 8, "alpha_pattern": {}, "target_modules": ["qkv"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    with identify(folder) as found:
        assert {delta.scale for _, _, delta in found.require_adapter().modules()} == {4.0}


@pytest.mark.parametrize(
    "name",
    [
        "lora_unet_double_blocks_0_img_attn_qkv",
        "lycoris_double_blocks_0_img_attn_qkv",
        "diffusion_model.double_blocks.0.img_attn.qkv",
    ],
)
def test_lycoris_changes_of_fused_projections_come_apart_too(name, rng, read):
    first, second = (rng.standard_normal(shape).astype(np.float32) for shape in ((3, 2), (4, 5)))
    adapter = read({f"{name}.lokr_w1": first, f"{name}.lokr_w2": second})
    assert (adapter.dialect, adapter.unmatched, adapter.module_count) == ("lycoris", (), 3)
    parts = [adapter.components["transformer"][f"transformer_blocks.0.attn.to_{n}"].delta() for n in "qkv"]
    np.testing.assert_allclose(np.concatenate(parts), np.kron(first, second), rtol=1e-6)


def test_lycoris_names_of_diffusers_modules_are_read(rng, read):
    name = "lycoris_transformer_blocks_0_attn_to_q"
    arrays = {
        f"{name}.lokr_w1": rng.standard_normal((48, 48)),
        f"{name}.lokr_w2": rng.standard_normal((64, 64)),
    }
    adapter = read({key: value.astype(np.float32) for key, value in arrays.items()})
    assert (adapter.family, list(adapter.components)) == ("flux", ["transformer"])
