"""SD3 and Flux told from each other, from their sizes, and from the transformers that are not read."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from original_layout import original_flux, original_sd3

from auditor.artifact.adapter import tensors_in
from auditor.artifact.checkpoint import is_checkpoint, match_checkpoint
from auditor.artifact.claim_checks import check_claims
from auditor.artifact.dialects import read_adapter
from auditor.artifact.dialects.kohya import flattened_modules
from auditor.artifact.family import SIGNATURES, expected_modules, match_family, title_of
from auditor.artifact.identify import identify
from auditor.artifact.original_names import original_module
from auditor.artifact.safetensors_write import write_arrays
from auditor.artifact.tensors import ArrayTensors
from auditor.errors import UnsupportedArtifact

BY_NAME = {signature.called: signature for signature in SIGNATURES}
BLOCK = "transformer_blocks.0"


def match(modules):
    return match_family({"transformer": modules})


@pytest.mark.parametrize(
    ("modules", "family", "sizes"),
    [
        ({f"{BLOCK}.attn.to_q": (1536, 1536)}, "sd3", ("SD3 medium", "SD3.5 medium")),
        ({f"{BLOCK}.norm1.linear": (9216, 1536)}, "sd3", ("SD3 medium",)),
        ({f"{BLOCK}.norm1.linear": (13824, 1536)}, "sd3", ("SD3.5 medium",)),
        ({f"{BLOCK}.attn2.to_q": (1536, 1536)}, "sd3", ("SD3.5 medium",)),
        ({"transformer_blocks.37.attn.to_q": (2432, 2432)}, "sd3", ("SD3.5 large",)),
        ({f"{BLOCK}.attn.to_q": (3072, 3072)}, "flux", ("Flux dev", "Flux schnell")),
        ({"time_text_embed.guidance_embedder.linear_1": (3072, 256)}, "flux", ("Flux dev",)),
        ({f"{BLOCK}.attn.to_q": (1000, 1000)}, "other", ()),
        ({"transformer_blocks.38.attn.to_q": (2432, 2432)}, "other", ()),
    ],
)
def test_shapes_tell_family_and_size(modules, family, sizes):
    found = match(modules)
    assert (found.family, found.sizes, found.alternatives) == (family, sizes, ())
    assert found.evidence


def test_evidence_says_what_it_was_concluded_from():
    large = match({f"{BLOCK}.attn.to_q": (2432, 2432), "context_embedder": (2432, 4096)}).evidence
    assert large[0] == "context_embedder takes 4096 columns: the text width of SD3 and Flux"
    assert large[1] == "transformer attention is 2432 wide: as in SD3.5 large"
    assert "there is a transformer: SD1, SD2, SDXL and the embedded base have none" in large
    assert "of the sizes of SD3 only SD3.5 large has all of these modules" in large
    single = match({"single_transformer_blocks.0.proj_mlp": (12288, 3072)}).evidence
    assert "single_transformer_blocks.0.proj_mlp is changed: SD3 medium has no such module" in single
    assert "every shape fits Flux dev and Flux schnell: nothing in the file tells these sizes apart" in single
    assert any("Chroma" in sentence for sentence in single)
    assert not any("Chroma" in s for s in match({f"{BLOCK}.norm1.linear": (18432, 3072)}).evidence)
    control = match({**expected_modules(BY_NAME["Flux dev"], "transformer"), "x_embedder": (3072, 128)})
    assert (control.family, control.misfits) == ("flux", ("transformer: x_embedder",))
    assert not any("has all of these modules" in sentence for sentence in control.evidence)
    for odd in ((), (7,), (3072, 5)):
        told = match({**expected_modules(BY_NAME["Flux dev"], "transformer"), "context_embedder": odd})
        assert not any(sentence.startswith("context_embedder takes") for sentence in told.evidence)
    wrong = match({f"{BLOCK}.attn.to_q": (1000, 1000)}).evidence
    assert "the nearest known family, SD3 medium, does not have 1 of them" in wrong[-1]
    assert (title_of("sd3"), title_of("flux")) == ("SD3", "Flux")


def test_no_name_means_two_modules():
    flat = {**flattened_modules("unet")}
    for name, path in flattened_modules("transformer").items():
        assert flat.get(name, path) == path
        assert original_module(name, flat=True) is None or path == "context_embedder"
    for signature in SIGNATURES:
        for component in signature.plans:
            for path in expected_modules(signature, component):
                assert flattened_modules(component)[path.replace(".", "_")] == path


# --- claims ---


@pytest.mark.parametrize(
    ("key", "value", "agrees"),
    [
        ("modelspec.architecture", "flux-1-dev/lora", True),
        ("modelspec.architecture", "stable-diffusion-3-medium/lora", False),
        ("modelspec.architecture", "stable-diffusion-v1/lora", False),
        ("ss_base_model_version", "flux1", True),
        ("ss_base_model_version", "sd3m", False),
        ("ss_base_model_version", "sdxl_base_v1-0", False),
    ],
)
def test_claims_of_a_family_are_compared_with_the_shapes(key, value, agrees, read):
    name = "lora_unet_double_blocks_0_img_attn_proj"
    arrays = {
        f"{name}.lora_down.weight": np.ones((1, 3072), np.float32),
        f"{name}.lora_up.weight": np.ones((3072, 1), np.float32),
    }
    checks = check_claims(read(arrays, {key: value}))
    assert checks[0].agrees is agrees
    assert "Flux" in checks[0].measured


def test_claims_of_a_size_are_compared_too(read):
    name = "transformer.transformer_blocks.0.attn.to_q"
    arrays = {
        f"{name}.lora_A.weight": np.ones((1, 2432), np.float32),
        f"{name}.lora_B.weight": np.ones((2432, 1), np.float32),
    }
    for value, agrees in (
        ("stable-diffusion-3-medium/lora", False),
        ("stabilityai/stable-diffusion-3.5-medium", False),
        ("stabilityai/stable-diffusion-3.5-large", True),
        ("sd3", True),
        ("sd3_mymerge", True),
    ):
        check = check_claims(read(arrays, {"ss_sd_model_name": value}))[0]
        assert check.agrees is agrees
        assert agrees or check.measured == "SD3.5 large"


# --- transformers that are not read ---

FOREIGN = {
    "Flux2Transformer2DModel": "Flux.2",
    "QwenImageTransformer2DModel": "Qwen-Image",
    "WanTransformer3DModel": "Wan",
    "HunyuanVideoTransformer3DModel": "HunyuanVideo",
    "PixArtTransformer2DModel": "PixArt",
    "SanaTransformer2DModel": "Sana",
    "Lumina2Transformer2DModel": "Lumina 2",
    "ZImageTransformer2DModel": "Z-Image",
    "AuraFlowTransformer2DModel": "AuraFlow",
    "ChromaTransformer2DModel": "Chroma",
    "LTXVideoTransformer3DModel": "LTX-Video",
    "MochiTransformer3DModel": "cross-attention",
}


def lora_of(path, rows, columns, ends):
    return {
        f"{path}.{ends[0]}.weight": np.zeros((1, columns)),
        f"{path}.{ends[1]}.weight": np.zeros((rows, 1)),
    }


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("kind", FOREIGN)
def test_adapters_for_every_linear_layer_of_another_transformer_are_named(kind):
    import diffusers

    with torch.device("meta"):
        model = getattr(diffusers, kind)()
    dotted, flat = {}, {}
    for path, module in model.named_modules():
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d):
            rows, columns = module.weight.shape[:2]
            dotted |= lora_of(f"transformer.{path}", rows, columns, ("lora_A", "lora_B"))
            flat |= lora_of(f"lora_unet_{path.replace('.', '_')}", rows, columns, ("lora_down", "lora_up"))
    for arrays in (dotted, flat):
        with pytest.raises(UnsupportedArtifact, match=FOREIGN[kind]) as caught:
            read_adapter(ArrayTensors(arrays))
        assert "loader for that transformer family" in str(caught.value)


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (["double_blocks.{}.img_attn_qkv", "double_blocks.{}.img_mlp.fc1", "single_blocks.{}.linear1"], "Hunyuan"),
        (["double_blocks.{}.img_attn.qkv", "double_stream_modulation_img.lin"], "Flux.2"),
        (["double_layers.{}.attn.w1q"], "AuraFlow"),
        (["double_blocks.{}.img_attn.qkv", "distilled_guidance_layer.layers.{}.in_layer"], "Chroma"),
        (["layers.{}.attention.qkv", "layers.{}.feed_forward.w1"], "Lumina 2 or Z-Image"),
        (["blocks.{}.self_attn.q", "blocks.{}.ffn.0"], "Wan"),
        (["blocks.{}.attn.qkv", "blocks.{}.cross_attn.kv_linear"], "PixArt or Sana"),
        (["double_stream_blocks.{}.block.attn1.to_q"], "HiDream"),
    ],
)  # fmt: skip
def test_adapters_in_the_original_names_of_another_transformer_are_named(names, kind):
    arrays = {}
    for index in range(6):
        for name in names:
            arrays |= lora_of(f"diffusion_model.{name.format(index)}", 9216, 3072, ("lora_A", "lora_B"))
    with pytest.raises(UnsupportedArtifact, match=kind):
        read_adapter(ArrayTensors(arrays))


def test_one_foreign_key_does_not_keep_a_flux_adapter_from_being_read():
    """Else a single key would be enough to be named unsupported, and never looked at."""
    arrays = {}
    for index in range(19):
        for stream in ("img", "txt"):
            path = f"diffusion_model.double_blocks.{index}.{stream}_attn.proj"
            arrays |= lora_of(path, 3072, 3072, ("lora_A", "lora_B"))
    stray = "diffusion_model.distilled_guidance_layer.in_proj.lora_A.weight"
    adapter = read_adapter(ArrayTensors({**arrays, stray: np.zeros((1, 4))}))
    assert (adapter.family, adapter.unmatched) == ("flux", (stray,))
    assert any("Chroma" in problem.detail for problem in adapter.problems)


# --- whole models ---


def whole_model(size):
    """Name to shape of every weight of a published model, in original naming."""
    if size.startswith("Flux"):
        modules = original_flux(guidance=size == "Flux dev")
    else:
        layers, width = (38, 2432) if "large" in size else (24, 1536)
        modules = original_sd3(layers, 13 if size == "SD3.5 medium" else 0, width, normed="3.5" in size)
    return {f"{n}.{'scale' if n.endswith('_norm') else 'weight'}": shape for n, shape in modules.items()}


class Shapes(ArrayTensors):
    """Names and shapes without values."""

    @property
    def specs(self):
        from auditor.artifact.tensors import _Spec

        return {name: _Spec("F16", shape) for name, shape in self.arrays.items()}


@pytest.mark.parametrize("size", ["SD3 medium", "SD3.5 medium", "SD3.5 large", "Flux dev", "Flux schnell"])
@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_whole_transformers_in_one_file_are_recognised_with_family_and_size(size, prefix):
    shapes = whole_model(size)
    source = Shapes({f"{prefix}{name}": shape for name, shape in shapes.items()})
    assert is_checkpoint(source)
    found = match_checkpoint(source)
    assert found.family == BY_NAME[size].family
    assert size in found.sizes
    assert found.misfits == ()
    assert ("whole" in found.evidence[0]) and (bool(prefix) == ("model.diffusion_model" in found.evidence[0]))


def test_a_part_of_a_transformer_by_itself_is_no_checkpoint_and_no_adapter():
    shapes = {name: np.zeros((3, 3)) for name in whole_model("Flux dev") if name.startswith("double")}
    assert not is_checkpoint(ArrayTensors(shapes))
    with pytest.raises(UnsupportedArtifact, match="transformer of a model by itself"):
        read_adapter(ArrayTensors(shapes))


@pytest.mark.parametrize(
    ("pipeline", "kind", "size"),
    [
        ("StableDiffusion3Pipeline", "SD3Transformer2DModel", "SD3.5 large"),
        ("FluxPipeline", "FluxTransformer2DModel", "Flux schnell"),
    ],
)
def test_model_folders_are_recognised_by_shapes_and_config(pipeline, kind, size, tmp_path):
    family = BY_NAME[size].family
    folder = tmp_path / "model"
    (folder / "transformer").mkdir(parents=True)
    index = {"_class_name": pipeline, "transformer": ["diffusers", kind]}
    (folder / "model_index.json").write_text(json.dumps(index))
    config = folder / "transformer" / "config.json"
    config.write_text(json.dumps({"_class_name": kind}))
    with identify(folder) as found:
        assert (found.kind, found.family.family) == ("model_folder", family)
        assert found.family.evidence == (f"transformer/config.json names the class {kind}",)
    # Two shards, a handful of layers each: enough to tell the size.
    modules = {p: s for p, s in expected_modules(BY_NAME[size], "transformer").items() if "attn.norm" in p}
    for number, name in enumerate(modules):
        arrays = {f"{name}.weight": np.zeros(modules[name], np.float16)}
        if number < 2:
            write_arrays(folder / "transformer" / f"diffusion_pytorch_model-{number}.safetensors", arrays)
    with identify(folder) as found:
        assert (found.family.family, found.problems) == (family, ())
    config.write_text(json.dumps({"_class_name": "SomeOtherTransformer"}))
    with identify(folder) as found:
        assert found.family.family == family
        assert {problem.code for problem in found.problems} == {"model.family"}


def test_a_folder_of_an_unpublished_size_has_the_family_of_its_class_if_its_names_agree(tmp_path):
    folder = tmp_path / "model"
    (folder / "transformer").mkdir(parents=True)
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "FluxPipeline"}))
    (folder / "transformer" / "config.json").write_text(json.dumps({"_class_name": "FluxTransformer2DModel"}))
    weights = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    arrays = {"single_transformer_blocks.1.proj_mlp.weight": np.zeros((8, 2), np.float16)}
    write_arrays(weights, arrays)
    with identify(folder) as found:
        assert (found.family.family, found.problems) == ("flux", ())
        assert "its modules are named like those of Flux" in found.family.evidence
    weights.unlink()
    write_arrays(weights, {**arrays, "transformer_blocks.0.attn1.to_q.weight": np.zeros((2, 2), np.float16)})
    with identify(folder) as found:
        assert found.family.family == "other"
        assert {problem.code for problem in found.problems} == {"model.family"}


# --- every key ends in one place ---

PREFIXES = [
    "", "transformer.", "diffusion_model.", "lora_unet_", "lora_transformer_", "base_model.model.",
    "lora_te3_", "text_encoder_3.", "text_encoders.t5xxl.transformer.",
]  # fmt: skip
PLACES = [
    "double_blocks.0.img_attn.qkv", "double_blocks_0_img_attn_qkv", "single_blocks.1.linear1",
    "single_blocks_1_linear1", "joint_blocks.2.context_block.adaLN_modulation.1", "final_layer.linear",
    "joint_blocks_0_x_block_attn_qkv", "transformer_blocks.0.attn.to_q", "transformer_blocks_0_attn_to_q",
    "final_layer_adaLN_modulation_1", "double_blocks.0.processor.qkv_lora1", "encoder.block.0.layer.0.x",
    "double_blocks.0.img_attn_qkv", "double_blocks.0.img_attn.norm.key_norm", "layers.0.attention.qkv",
]  # fmt: skip
ENDS = [
    ".lora_A.weight", ".lora_B.weight", ".lora_down.weight", ".lora_up.weight", ".down.weight", ".up.weight",
    ".alpha", ".dora_scale", ".diff", ".scale", ".weight", "",
]  # fmt: skip
keys = st.builds("{}{}{}".format, st.sampled_from(PREFIXES), st.sampled_from(PLACES), st.sampled_from(ENDS))
shapes = st.sampled_from(
    [(), (1,), (3,), (3, 3), (6, 3), (9, 3), (12, 3), (2, 3), (3, 1), (9, 2), (1, 3), (4, 4, 1, 1)]
)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.one_of(keys, st.text(max_size=8)), shapes, max_size=14))
def test_every_key_is_in_changes_or_left_over_and_never_both(specs):
    source = ArrayTensors({key: np.ones(shape, np.float32) for key, shape in specs.items()})
    try:
        adapter = read_adapter(source)
    except UnsupportedArtifact:
        return
    used = {t.name for _, _, delta in adapter.modules() for t in tensors_in(delta)}
    used |= {t.name for encoders in adapter.embeddings.values() for t in encoders.values()}
    left = list(adapter.unmatched)
    assert len(left) == len(set(left))
    assert not used & set(left)
    # An alpha is a number of a change, not a tensor of it.
    assert {key for key in specs if key not in used and key not in left} <= {
        key for key in specs if key.endswith(".alpha")
    }
    for component, path, delta in adapter.modules():
        assert component and path
        if getattr(delta, "magnitude", None) is None:
            assert delta.delta(np.zeros(delta.shape)).shape == delta.shape


@given(st.text(alphabet="abcdefghijklmnop._0123456789", max_size=40))
def test_names_that_are_not_of_the_original_code_are_no_modules_of_it(name):
    blocks = ("double_blocks", "single_blocks", "joint_blocks")
    assert name.startswith(blocks) or original_module(name) is None
