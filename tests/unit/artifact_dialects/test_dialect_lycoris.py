"""LyCORIS files against ``lycoris-lora``: what its modules compute is what we read from what they save."""

import contextlib
import copy
import logging

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from auditor.artifact.adapter import (
    Dense,
    GeneralisedLowRank,
    Hadamard,
    Kronecker,
    LowRank,
    Rotation,
    Scaled,
    tensors_in,
)
from auditor.artifact.dialects import read_adapter
from auditor.artifact.features import delta_features
from auditor.artifact.tensors import ArrayTensors
from auditor.errors import AuditorError, UnsupportedArtifact

modules = pytest.importorskip("lycoris.modules")
logging.getLogger("LyCORIS").setLevel(logging.ERROR)

PATH = "down_blocks.0.resnets.0.conv1"
FLAT = "lora_unet_" + PATH.replace(".", "_")
LAYERS = {
    "linear": lambda: nn.Linear(24, 32),
    "conv": lambda: nn.Conv2d(24, 32, 3, padding=1),
    "point": lambda: nn.Conv2d(24, 32, 1),
}
# algorithm, kind of layer, settings, what we should make of it
CASES = [
    ("LoConModule", "linear", {"lora_dim": 4, "alpha": 2}, LowRank),
    ("LoConModule", "conv", {"lora_dim": 4, "alpha": 2, "use_tucker": True}, LowRank),
    ("LoConModule", "linear", {"lora_dim": 4, "alpha": 2, "rs_lora": True}, LowRank),
    ("LoConModule", "conv", {"lora_dim": 4, "alpha": 2, "weight_decompose": True}, LowRank),
    (
        "LoConModule",
        "conv",
        {"lora_dim": 4, "alpha": 2, "weight_decompose": True, "wd_on_out": False},
        LowRank,
    ),
    ("LohaModule", "linear", {"lora_dim": 4, "alpha": 2}, Hadamard),
    ("LohaModule", "linear", {"lora_dim": 4, "alpha": 2, "rs_lora": True}, Hadamard),
    ("LohaModule", "linear", {"lora_dim": 4, "alpha": 3, "use_scalar": True}, Hadamard),
    ("LohaModule", "linear", {"lora_dim": 4, "alpha": 2, "weight_decompose": True}, Hadamard),
    ("LohaModule", "conv", {"lora_dim": 4, "alpha": 2}, Hadamard),
    ("LohaModule", "conv", {"lora_dim": 4, "alpha": 2, "use_tucker": True}, Hadamard),
    (
        "LohaModule",
        "conv",
        {"lora_dim": 4, "alpha": 2, "weight_decompose": True, "wd_on_out": False},
        Hadamard,
    ),
    ("LohaModule", "point", {"lora_dim": 4, "alpha": 2, "use_tucker": True}, Hadamard),
    ("LokrModule", "linear", {"lora_dim": 2, "alpha": 1, "factor": 4}, Kronecker),
    ("LokrModule", "linear", {"lora_dim": 1, "alpha": 3, "factor": 4, "decompose_both": True}, Kronecker),
    ("LokrModule", "linear", {"lora_dim": 2, "alpha": 1, "full_matrix": True}, Kronecker),
    ("LokrModule", "linear", {"lora_dim": 100, "alpha": 1}, Kronecker),
    ("LokrModule", "linear", {"lora_dim": 2, "alpha": 3, "factor": 4, "rs_lora": True}, Kronecker),
    ("LokrModule", "linear", {"lora_dim": 2, "alpha": 3, "factor": 4, "use_scalar": True}, Kronecker),
    (
        "LokrModule",
        "linear",
        {"lora_dim": 2, "alpha": 3, "factor": 4, "unbalanced_factorization": True},
        Kronecker,
    ),
    ("LokrModule", "linear", {"lora_dim": 2, "alpha": 1, "factor": 4, "weight_decompose": True}, Kronecker),
    ("LokrModule", "conv", {"lora_dim": 2, "alpha": 1, "factor": 4}, Kronecker),
    ("LokrModule", "conv", {"lora_dim": 2, "alpha": 1, "factor": 4, "use_tucker": True}, Kronecker),
    ("LokrModule", "conv", {"lora_dim": 100, "alpha": 1, "factor": 4}, Kronecker),
    (
        "LokrModule",
        "conv",
        {"lora_dim": 2, "alpha": 1, "factor": 4, "weight_decompose": True, "wd_on_out": False},
        Kronecker,
    ),
    ("LokrModule", "point", {"lora_dim": 2, "alpha": 1, "factor": 4}, Kronecker),
    ("FullModule", "linear", {}, Dense),
    ("FullModule", "conv", {}, Dense),
    ("IA3Module", "linear", {}, Scaled),
    ("IA3Module", "linear", {"train_on_input": True}, Scaled),
    ("IA3Module", "conv", {}, Scaled),
    ("IA3Module", "conv", {"train_on_input": True}, Scaled),
    ("DiagOFTModule", "linear", {"lora_dim": 4}, Rotation),
    ("DiagOFTModule", "linear", {"lora_dim": 4, "constraint": 0.01}, Rotation),
    ("DiagOFTModule", "conv", {"lora_dim": 4, "rescaled": True, "constraint": 1}, Rotation),
    ("ButterflyOFTModule", "linear", {"lora_dim": 4}, Rotation),
    ("ButterflyOFTModule", "linear", {"lora_dim": 8, "rescaled": True, "constraint": 0.01}, Rotation),
    ("ButterflyOFTModule", "conv", {"lora_dim": 4, "rescaled": True}, Rotation),
    ("GLoRAModule", "linear", {"lora_dim": 4, "alpha": 2}, GeneralisedLowRank),
    ("GLoRAModule", "point", {"lora_dim": 4, "alpha": 2}, GeneralisedLowRank),
    ("GLoRAModule", "conv", {"lora_dim": 4, "alpha": 2}, GeneralisedLowRank),
]


def trained(algorithm, layer, options):
    """A module of the library around a layer, every parameter random."""
    torch.manual_seed(0)
    layer = LAYERS[layer]() if isinstance(layer, str) else layer
    module = getattr(modules, algorithm)("name", layer, 1.0, **options).eval()
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            around = parameter.clone() if name in ("dora_scale", "rescale") else 0.0
            parameter.copy_(around + 0.3 * torch.randn_like(parameter))
    if algorithm == "FullModule":  # saves a difference only once it stands in for the layer
        before = copy.deepcopy(layer)
        module.apply_to()
        return before, module
    return layer, module


def saved(module, prefix=FLAT):
    return {f"{prefix}.{key}": value.detach().numpy().copy() for key, value in module.state_dict().items()}


def applied(layer, delta, bias=None):
    weight = layer.weight + torch.from_numpy(delta)
    bias = layer.bias if bias is None else layer.bias + torch.from_numpy(bias)
    if isinstance(layer, nn.Linear):
        return functional.linear(DRAWN[layer.in_features], weight, bias)
    return functional.conv2d(DRAWN["picture"], weight, bias, padding=layer.padding)


DRAWN = {24: torch.randn(5, 24, generator=torch.Generator().manual_seed(1))}
DRAWN["picture"] = torch.randn(2, 24, 6, 6, generator=torch.Generator().manual_seed(1))


def close(ours, theirs, rtol=1e-5):
    error = torch.linalg.norm((ours - theirs).double()) / torch.linalg.norm(theirs.double())
    assert float(error) <= rtol


@pytest.mark.parametrize("prefix", [FLAT, FLAT.replace("lora_unet_", "lycoris_"), f"unet.{PATH}", PATH])
@pytest.mark.parametrize(("algorithm", "layer", "options", "kind"), CASES)
@torch.no_grad()
def test_what_the_library_computes_is_what_we_read(read, algorithm, layer, options, kind, prefix):
    layer, module = trained(algorithm, layer, options)
    adapter = read(saved(module, prefix))
    assert adapter.unmatched == () and list(adapter.components) == ["unet"]
    change = adapter.components["unet"][PATH]
    assert type(change) is kind
    # What it changes is read off its outputs: before and after, on the same inputs.
    x = DRAWN[24] if isinstance(layer, nn.Linear) else DRAWN["picture"]
    delta, bias = change.delta(layer.weight.numpy()), change.bias(layer.bias.numpy())
    assert delta.dtype == np.float32 and delta.shape == layer.weight.shape
    theirs = module(x)
    assert (theirs - layer(x)).norm() > 0.01 * theirs.norm()
    close(applied(layer, delta, bias) - layer(x), theirs - layer(x), rtol=2e-5)
    if kind in (Hadamard, Kronecker) and "weight_decompose" not in options:
        close(torch.from_numpy(delta), module.get_weight(module.shape) * module.scalar)


# The library's own merge multiplies LoHa and LoKr by their scale twice (4.1.3), so it is compared where that is 1.
@pytest.mark.parametrize(("algorithm", "layer", "options", "kind"), CASES)
@torch.no_grad()
def test_deltas_equal_the_merged_weights_of_the_library(read, algorithm, layer, options, kind):
    if kind in (Hadamard, Kronecker):
        options = {**options, "alpha": 0, "rs_lora": False, "use_scalar": False}
    layer, module = trained(algorithm, layer, options)
    change = read(saved(module)).components["unet"][PATH]
    weight, bias = module.get_merged_weight(1.0, layer.weight.shape, "cpu")
    close(layer.weight + torch.from_numpy(change.delta(layer.weight.numpy())), weight)
    if bias is not None:
        close(layer.bias + torch.from_numpy(change.bias(layer.bias.numpy())), bias)
    close(torch.from_numpy(change.delta(layer.weight.numpy())), weight - layer.weight, rtol=2e-5)


@pytest.mark.parametrize("layer", [nn.GroupNorm(4, 16), nn.LayerNorm(16)])
@torch.no_grad()
def test_norms_are_differences(read, layer):
    nn.init.normal_(layer.weight), nn.init.normal_(layer.bias)
    layer, module = trained("NormModule", layer, {})
    change = read(saved(module)).components["unet"][PATH]
    weight, bias = module.get_merged_weight(1.0, None, "cpu")
    close(layer.weight + torch.from_numpy(change.delta(layer.weight.numpy())), weight)
    close(layer.bias + torch.from_numpy(change.bias(layer.bias.numpy())), bias)


def test_alpha_of_two_whole_halves_is_ignored(read, rng):
    arrays = {f"{FLAT}.lokr_w1": rng.normal(size=(2, 3)), f"{FLAT}.lokr_w2": rng.normal(size=(4, 5))}
    wanted = np.kron(*arrays.values())
    arrays[f"{FLAT}.alpha"] = np.float32(7.0)
    change = read(arrays).components["unet"][PATH]
    assert change.rank is None and change.scale == 1.0
    np.testing.assert_allclose(change.delta(), wanted, rtol=1e-5)


def test_a_kronecker_product_by_brute_force(read, rng):
    parts = {"lokr_w1": (2, 3), "lokr_w2_a": (2, 4), "lokr_w2_b": (2, 5), "lokr_t2": (2, 2, 3, 3)}
    arrays = {name: rng.normal(size=shape) for name, shape in parts.items()}
    second = np.zeros((4, 5, 3, 3))
    for b, d, i, j in np.ndindex(4, 5, 2, 2):
        second[b, d] += arrays["lokr_t2"][i, j] * arrays["lokr_w2_a"][i, b] * arrays["lokr_w2_b"][j, d]
    wanted = np.zeros((8, 15, 3, 3))
    for a, c, b, d in np.ndindex(2, 3, 4, 5):
        wanted[a * 4 + b, c * 5 + d] = arrays["lokr_w1"][a, c] * second[b, d]
    change = read({f"{FLAT}.{k}": v for k, v in arrays.items()} | {f"{FLAT}.alpha": np.float32(1.0)})
    np.testing.assert_allclose(change.components["unet"][PATH].delta(), wanted / 2, rtol=1e-4, atol=1e-6)


def test_a_scalar_beside_the_factors_multiplies_the_change(read, rng):
    arrays = {
        f"{FLAT}.hada_w{i}_{x}": rng.normal(size=s) for i in (1, 2) for x, s in (("a", (3, 2)), ("b", (2, 4)))
    }
    plain = read(arrays).components["unet"][PATH].delta()
    scaled = read({**arrays, f"{FLAT}.scalar": np.float32(-0.5)}).components["unet"][PATH].delta()
    np.testing.assert_allclose(scaled, -0.5 * plain, rtol=1e-6)


@torch.no_grad()
def test_a_butterfly_by_brute_force(read, rng):
    """BOFT as the paper draws it: permute, rotate block by block, permute back, with explicit matrices."""
    stages, count, size = 3, 4, 4
    stored = rng.normal(size=(stages, count, size, size))
    outputs = count * size
    total = np.eye(outputs)
    for stage in range(stages):
        block = np.zeros((outputs, outputs))
        for n in range(count):
            q = stored[stage, n] - stored[stage, n].T
            block[n * size :][:size, n * size :][:, :size] = (np.eye(size) + q) @ np.linalg.inv(
                np.eye(size) - q
            )
        apart = size // 2 * 2**stage
        groups = np.arange(outputs).reshape(-1, 2, apart)
        order = [groups[c, g, k] for c in range(len(groups)) for k in range(apart) for g in (0, 1)]
        swap = np.eye(outputs)[order]
        total = swap.T @ block @ swap @ total
    base = rng.normal(size=(outputs, 6))
    change = read({f"{FLAT}.oft_blocks": stored, f"{FLAT}.alpha": np.float32(0)}).components["unet"][PATH]
    np.testing.assert_allclose(base + change.delta(base), total @ base, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(total @ total.T, np.eye(outputs), atol=1e-9)


@pytest.mark.parametrize("hostile", [float("nan"), float("inf"), 1e30, -1, 0, "8", [8], True, None])
def test_hostile_settings_of_a_peft_config_give_a_finite_scale_or_none(read, rng, hostile):
    stem = f"base_model.model.{PATH}"
    arrays = {f"{stem}.lokr_w1": rng.normal(size=(2, 2)), f"{stem}.lokr_w2": rng.normal(size=(2, 2))}
    config = {"peft_type": "LOKR", "r": hostile, "alpha": hostile, "feedforward_modules": [hostile]}
    if isinstance(hostile, float):
        with pytest.raises(UnsupportedArtifact, match="alpha is no single number"):
            read(arrays, config=config)
    else:
        [(_, _, change)] = read(arrays, config=config).modules()
        assert np.isfinite(change.delta()).all()


# Each makes one part of a well-formed change another shape, or leaves one out; nothing may be dropped in silence.
SHAPES = {
    "hada_w1_a": (6, 2), "hada_w1_b": (2, 5), "hada_w2_a": (6, 2), "hada_w2_b": (2, 5), "lokr_w1": (2, 2),
    "lokr_w1_a": (2, 1), "lokr_w1_b": (1, 2), "lokr_w2": (3, 2, 3, 3), "lokr_w2_a": (3, 1), "lokr_w2_b": (1, 2),
    "lokr_t2": (1, 1, 3, 3), "hada_t1": (2, 2, 3, 3), "hada_t2": (2, 2, 3, 3), "oft_blocks": (2, 3, 3),
    "rescale": (6, 1), "a1.weight": (5, 2), "a2.weight": (2, 5), "b1.weight": (6, 2), "b2.weight": (2, 5),
    "bm.weight": (2, 2, 3, 3),
    "diff": (6, 5), "diff_b": (6,), "w_norm": (6,), "b_norm": (6,), "weight": (6,), "on_input": (), "ia3_l": (6, 1),
    "lora_down.weight": (2, 5), "lora_up.weight": (6, 2), "lora_mid.weight": (2, 2, 3, 3), "alpha": (), "scalar": (),
    "dora_scale": (6, 1),
}  # fmt: skip
KINDS = [
    ["hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "alpha", "dora_scale", "scalar"],
    ["lokr_w1", "lokr_w2", "alpha"], ["lokr_w1_a", "lokr_w1_b", "lokr_w2_a", "lokr_w2_b", "alpha"],
    ["oft_blocks", "rescale", "alpha"], ["a1.weight", "a2.weight", "b1.weight", "b2.weight", "alpha"],
    ["diff", "diff_b"], ["w_norm", "b_norm"], ["weight", "on_input"], ["ia3_l"], ["diff_b"],
    ["lora_down.weight", "lora_up.weight", "alpha", "diff_b"],
]  # fmt: skip
PLACES = [PATH, "mid_block.attentions.0.proj_in", "down_blocks.0.resnets.0.norm1"]
NUMBERS = {"alpha", "scalar", "on_input"}  # read as numbers, not kept as tensors


@st.composite
def files(draw):
    """Keys of a few modules: mostly whole changes, with parts missing, added, or of odd shapes now and then."""
    found = {}
    for place in draw(st.lists(st.sampled_from(PLACES), unique=True, max_size=3)):
        parts = set(draw(st.sampled_from(KINDS)))
        if draw(st.booleans()):
            parts ^= set(draw(st.lists(st.sampled_from(sorted(SHAPES)), max_size=2)))
        dotted = draw(st.booleans())
        stem = f"unet.{place}" if dotted else "lora_unet_" + place.replace(".", "_")
        odd = draw(st.sampled_from(sorted(parts) or [""])) if draw(st.booleans()) else ""
        for part in parts:
            shape = SHAPES[part]
            if part == odd:
                shape = tuple(draw(st.lists(st.integers(0, 6), max_size=5)))
            found[f"{stem}.{part}"] = shape
    return found


@settings(max_examples=250, deadline=None)
@given(files(), st.integers(0, 3))
def test_every_key_is_accounted_for_and_nothing_but_our_errors_is_raised(shapes, filling):
    value = [1.0, 0.0, -3e38, float("nan")][filling]
    source = ArrayTensors({key: np.full(shape, value, np.float32) for key, shape in shapes.items()})
    try:
        adapter = read_adapter(source)
    except UnsupportedArtifact:
        return
    used = [tensor.name for _, _, change in adapter.modules() for tensor in tensors_in(change)]
    numbers = [k for k in shapes if k.rpartition(".")[2] in NUMBERS and k not in adapter.unmatched]
    assert sorted([*used, *numbers, *adapter.unmatched]) == sorted(shapes)
    for _, path, change in adapter.modules():
        shape = tuple(size or 4 for size in change.shape)
        for base in (None, np.ones(shape), np.ones((6, 5)), np.ones(6), np.ones(())):
            with contextlib.suppress(AuditorError), np.errstate(all="ignore"):
                assert change.delta(base).shape == (change.shape if base is None else base.shape)
            with contextlib.suppress(AuditorError), np.errstate(all="ignore"):
                delta_features(change, base, "unet", path)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(KINDS), st.booleans())
def test_well_formed_changes_are_read_whole(kind, dotted):
    if kind in (["ia3_l"], ["weight", "on_input"]) and not dotted:
        kind = ["weight", "on_input"]
    stem = f"unet.{PATH}" if dotted else "lora_unet_" + PATH.replace(".", "_")
    source = ArrayTensors({f"{stem}.{part}": np.ones(SHAPES[part], np.float32) for part in kind})
    adapter = read_adapter(source)
    assert adapter.unmatched == () and adapter.module_count == 1


def test_an_alpha_of_zero_means_two_things_and_is_told(read, rng):
    arrays = {
        f"{FLAT}.lora_down.weight": rng.normal(size=(2, 5)),
        f"{FLAT}.lora_up.weight": rng.normal(size=(6, 2)),
    }
    adapter = read({**arrays, f"{FLAT}.alpha": np.float32(0)})
    [told] = [p for p in adapter.problems if p.code == "dialect.alpha_zero"]
    assert told.severity == "medium" and not adapter.components["unet"][PATH].delta().any()
    # The reference library takes it for unset.
    layer = nn.Linear(5, 6)
    weights = [torch.from_numpy(arrays[f"{FLAT}.lora_{x}.weight"]).float() for x in ("up", "down")]
    with torch.no_grad():
        loaded = modules.LoConModule.make_module_from_state_dict(
            "x", layer, *weights, None, torch.tensor(0.0), None
        )
    assert loaded.scale == 1.0


FULL = "down_blocks.1.attentions.0.transformer_blocks.0"  # 640 wide in SD1, SD2 and SDXL
FAMILIES = [
    ({f"unet.{FULL}.attn2.to_k.hada_w1_a": (640, 2), "b": (2, 2048)}, "sdxl", ()),
    ({f"unet.{FULL}.attn2.to_k.hada_w1_a": (640, 2), "b": (2, 768)}, "sd1", ()),
    ({f"unet.{FULL}.attn2.to_k.oft_blocks": (20, 32, 32)}, "sd1", ("sd2", "sdxl")),
    ({f"unet.{FULL}.attn2.to_k.weight": (1024,), f"unet.{FULL}.attn2.to_k.on_input": ()}, "sd2", ()),
    (
        {f"unet.{FULL}.attn2.to_k.weight": (640,), f"unet.{FULL}.attn2.to_k.on_input": ()},
        "sd1",
        ("sd2", "sdxl"),
    ),
    ({"unet.down_blocks.0.resnets.0.conv1.hada_w1_a": (320, 2), "b": (2, 320 * 9)}, "sd1", ("sd2", "sdxl")),
    ({"unet.down_blocks.0.resnets.0.conv1.diff_b": (320,)}, "sd1", ("sd2", "sdxl")),
    ({"unet.down_blocks.0.resnets.0.norm1.w_norm": (321,)}, "other", ()),
]


@pytest.mark.parametrize(("shapes", "family", "others"), FAMILIES)
def test_families_are_told_by_what_the_shapes_say_and_no_more(read, shapes, family, others):
    keys = list(shapes)
    if "b" in shapes:
        stem = keys[0].rpartition(".")[0]
        shapes = {f"{stem}.hada_w{i}_{x}": shapes[keys[x == "b"]] for i in (1, 2) for x in ("a", "b")}
    wide = shapes[next(iter(shapes))] == (1024,)  # as many as SD2 has inputs there, and no layer outputs
    match = read({key: np.full(shape, wide, np.float32) for key, shape in shapes.items()}).family_match
    assert (match.family, match.alternatives) == (family, others)
    assert not any("(640, 0)" in line for line in match.evidence)
