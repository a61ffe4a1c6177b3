"""LyCORIS adapters of every algorithm on whole small pipelines, against the library's own wrapper."""

import copy
import logging

import pytest
import torch
from tiny_models import write

from auditor.pipeline.open import open_subject

lycoris = pytest.importorskip("lycoris")
logging.getLogger("LyCORIS").setLevel(logging.ERROR)

ALGORITHMS = {
    "locon": {"use_tucker": True, "train_norm": True},
    "loha": {"use_tucker": True},
    "loha, decomposed": {"dora_wd": True},
    "lokr": {"factor": 4, "train_norm": True},
    "lokr, decomposed on inputs": {"factor": 4, "dora_wd": True, "wd_on_output": False},
    "lokr, both factored": {"factor": 8, "decompose_both": True, "linear_dim": 1},
    "full": {"train_norm": True},
    "ia3": {},
    "diag-oft": {"rescaled": True},
    "diag-oft, constrained": {"constraint": 0.01},
    "boft": {"rescaled": True},
    "glora": {},
}


def wrapped(unet, algorithm):
    """The library's network around a copy of a UNet, every parameter moved at random."""
    torch.manual_seed(0)
    unet, settings = copy.deepcopy(unet), {"linear_dim": 2, "linear_alpha": 1, **ALGORITHMS[algorithm]}
    network = lycoris.create_lycoris(unet, 1.0, algo=algorithm.partition(",")[0], **settings)
    network.apply_to()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            scale = parameter.abs().mean() if name.endswith(("dora_scale", "rescale")) else 0.2
            parameter.add_(0.3 * scale * torch.randn_like(parameter))
    return unet.eval(), network.eval()


def conditions(subject, prompts):
    noise = torch.randn(len(prompts), 4, 8, 8, generator=torch.Generator().manual_seed(0))
    return noise, torch.full((len(prompts),), 500), subject.base.encode_prompt(prompts)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", ["sd1", "sdxl"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_applies_in_full_and_as_the_library_runs_it(
    tiny_base, tiny_folders, tmp_path, algorithm, family
):
    base = tiny_base(family)
    unet, network = wrapped(base.unet, algorithm)
    tensors = {key.replace("lycoris_", "lora_unet_", 1): value for key, value in network.state_dict().items()}
    path = write(tmp_path / "lycoris.safetensors", tensors)
    before = {key: value.clone() for key, value in base.unet.state_dict().items()}
    with open_subject([path], str(tiny_folders(family)), "cpu") as subject:
        assert subject.artifacts[0].adapter.dialect == "lycoris"
        assert subject.coverage.full, subject.coverage
        assert subject.coverage.keys_total == len(network.loras)
        noise, t, condition = conditions(subject, ["a picture of a red ball"])
        ours = subject.tuned.denoiser.predict(noise, t, condition).native
        plain = subject.base.denoiser.predict(noise, t, condition).native
        # The same forward pass, through the library's modules.
        subject.components.modules["unet"], held = unet, subject.components.modules["unet"]
        with torch.no_grad():
            theirs = subject.base.denoiser.predict(noise, t, condition).native
        subject.components.modules["unet"] = held
        assert (theirs - plain).norm() > 1e-2 * plain.norm()
        assert (ours - theirs).norm() < 1e-4 * theirs.norm()
    for key, value in held.state_dict().items():
        assert torch.equal(value, before[key])


@pytest.mark.filterwarnings("ignore")
def test_text_encoders_are_changed_too(tiny_base, tiny_folders, tmp_path):
    base = tiny_base("sdxl")
    tensors, wanted = {}, {}
    for prefix, name in (("lora_te1", "text_encoder"), ("lora_te2", "text_encoder_2")):
        encoder = base.modules[name]
        path = next(n for n, _ in encoder.named_modules() if n.endswith("layers.1.mlp.fc1"))
        layer = encoder.get_submodule(path)
        module = lycoris.modules.LohaModule("x", layer, 1.0, 2, 2.0)
        torch.nn.init.normal_(module.hada_w2_a)
        flat = f"{prefix}_text_model_{path.removeprefix('text_model.')}".replace(".", "_")
        tensors |= {f"{flat}.{k}": v.detach() for k, v in module.state_dict().items()}
        wanted[name, path] = module.get_merged_weight(1.0, layer.weight.shape)[0].detach()
    path = write(tmp_path / "text.safetensors", tensors)
    with open_subject([path], str(tiny_folders("sdxl")), "cpu") as subject:
        assert subject.coverage.full
        for (name, path), weight in wanted.items():
            tuned = subject.changes.modules[name, path, "weight"].tuned
            assert torch.allclose(tuned, weight, rtol=1e-5, atol=1e-6)


def test_a_bias_for_a_layer_without_one_is_not_applied(tiny_folders, tmp_path):
    name = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"
    odd = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_out_0"
    tensors = {f"{name}.diff": torch.ones(32, 64), f"{name}.diff_b": torch.ones(32)}
    tensors |= {f"{odd}.diff": torch.ones(32, 32), f"{odd}.diff_b": torch.ones(1)}
    path = write(tmp_path / "bias.safetensors", tensors)
    with open_subject([path], str(tiny_folders("sd1")), "cpu") as subject:
        assert (subject.coverage.keys_applied, subject.coverage.keys_total) == (0, 2)
        assert not subject.changes.modules
