"""LyCORIS files against ``lycoris-lora``: what its modules compute is what we read from what they save."""

import copy
import logging

import numpy as np
import pytest
import torch
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
)

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


def trained(algorithm, layer, settings):
    """A module of the library around a layer, every parameter random."""
    torch.manual_seed(0)
    layer = LAYERS[layer]() if isinstance(layer, str) else layer
    module = getattr(modules, algorithm)("name", layer, 1.0, **settings).eval()
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
@pytest.mark.parametrize(("algorithm", "layer", "settings", "kind"), CASES)
@torch.no_grad()
def test_what_the_library_computes_is_what_we_read(read, algorithm, layer, settings, kind, prefix):
    layer, module = trained(algorithm, layer, settings)
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


# The library's own merge multiplies LoHa and LoKr by their scale twice (4.1.3), so it is compared where that is 1.
@pytest.mark.parametrize(("algorithm", "layer", "settings", "kind"), CASES)
@torch.no_grad()
def test_deltas_equal_the_merged_weights_of_the_library(read, algorithm, layer, settings, kind):
    if kind in (Hadamard, Kronecker):
        settings = {**settings, "alpha": 0, "rs_lora": False, "use_scalar": False}
    layer, module = trained(algorithm, layer, settings)
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
