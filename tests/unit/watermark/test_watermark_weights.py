"""Changes to a model: what they do, and that nothing of them stays."""

import copy

import numpy as np
import pytest
import torch
from tiny_models import random_lora, write

from auditor.artifact.identify import identify
from auditor.errors import IncompatibleArtifact, UsageError
from auditor.pipeline.subject import Subject
from watermark.removal.weights.few_steps import SAMPLERS, sampled
from watermark.removal.weights.finetuning import finetuned
from watermark.removal.weights.merging import merged
from watermark.removal.weights.pruning import pruned
from watermark.removal.weights.quantisation import quantised
from watermark.removal.weights.swapping import matrices, swapped
from watermark.removal.weights.vae_swap import other_vae

PROMPTS = ["a red ball", "a blue car"]


@pytest.fixture
def components(tiny_base):
    found = tiny_base("sd1")
    before = {name: value.clone() for name, value in found.unet.state_dict().items()}
    places = [parameter.data_ptr() for parameter in found.unet.parameters()]
    yield found
    assert all((value == before[name]).all() for name, value in found.unet.state_dict().items())
    assert [parameter.data_ptr() for parameter in found.unet.parameters()] == places
    assert not any(parameter.requires_grad for parameter in found.unet.parameters())


def test_values_go_back_after_an_exception_too(components):
    weight = matrices(components.unet)[0]
    before = weight.data.clone()
    with pytest.raises(KeyError), swapped({weight: torch.zeros_like(weight)}):
        assert not weight.any()
        raise KeyError
    assert (weight == before).all()


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_quantised_rows_have_so_many_values_and_are_the_nearest(components, bits):
    before = [weight.data.clone() for weight in matrices(components.unet)]
    with quantised(components, bits):
        for weight, was in zip(matrices(components.unet)[:6], before, strict=False):
            rows, original = weight.data.flatten(1), was.flatten(1)
            step = original.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)
            assert all(len(row.unique()) <= 2**bits - 1 for row in rows)
            assert ((rows - original).abs() <= step / 2 * 1.001).all()
    with pytest.raises(UsageError, match="2 to 16 bits"):
        quantised(components, 1)


def test_pruning_sets_the_smallest_part_of_each_layer_to_zero(components):
    before = [weight.data.clone() for weight in matrices(components.unet)]
    with pruned(components, 0.3):
        for weight, was in zip(matrices(components.unet), before, strict=True):
            gone = weight.data == 0
            assert gone.sum() == int(0.3 * was.numel())
            assert was[gone].abs().max() <= was[~gone].abs().min()
            assert (weight.data[~gone] == was[~gone]).all()
    with pytest.raises(UsageError, match="prune"):
        pruned(components, 1.0)


def test_a_merge_of_weight_one_is_the_tuned_model_and_of_weight_zero_the_base(components, tmp_path):
    lora = write(tmp_path / "a.safetensors", random_lora(components.unet, "unet", ("to_q", "to_v")))
    with Subject(components, [identify(lora)]) as subject:
        noise, t = torch.randn(2, 4, 8, 8), torch.tensor([300, 700])
        condition = subject.base.encode_prompt(PROMPTS)
        tuned = subject.tuned.denoiser.predict(noise, t, condition).native
        base = subject.base.denoiser.predict(noise, t, condition).native
        said = {}
        for weight in (0.0, 0.5, 1.0):
            with merged(subject, weight):
                said[weight] = subject.base.denoiser.predict(noise, t, condition).native
        np.testing.assert_allclose(said[0.0], base, atol=1e-6)
        np.testing.assert_allclose(said[1.0], tuned, atol=1e-5)
        assert (said[0.5] - base).abs().max() > 1e-4
        assert (subject.base.denoiser.predict(noise, t, condition).native == base).all()


def test_another_autoencoder_is_used_inside_the_block_only(components):
    own = components.vae
    other = copy.deepcopy(own)
    with torch.no_grad():
        other.decoder.conv_out.bias += 0.3
    view = Subject(components, []).base
    latents = torch.randn(1, 4, 8, 8)
    before = view.decode(latents)
    with other_vae(components, other):
        assert (view.decode(latents) > before).any()
    assert components.vae is own
    other.register_to_config(latent_channels=8)
    with pytest.raises(IncompatibleArtifact, match="latent channels"), other_vae(components, other):
        pass


def test_finetuning_lowers_its_loss_and_is_the_same_for_the_same_seed(components):
    view = Subject(components, []).base
    images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    clean, condition = view.encode_image(images), view.encode_prompt(PROMPTS)
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))
    t = torch.tensor([200, 600])

    def loss():
        said = view.denoiser.predict(view.denoiser.add_noise(clean, noise, t), t, condition)
        return (said.velocity - view.schedule.velocity(noise, clean, t)).square().mean().item()

    before, losses = loss(), []
    for _ in range(2):
        with finetuned(components, images, PROMPTS, steps=8, seed=0, rate=1e-3, batch=4):
            losses.append(loss())
    assert losses[0] == losses[1] < before
    assert loss() == before
    with (
        pytest.raises(UsageError, match="a prompt for each"),
        finetuned(components, images, [], steps=1, seed=0),
    ):
        pass


@pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers")
@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_few_steps_draw_from_the_noise_and_rows_do_not_mix(components, name):
    view = Subject(components, []).base
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    given = {"sampler": name, "steps": 3, "guidance": 1.0}
    both = sampled(view, PROMPTS, noise, [1, 2], **given)
    alone = sampled(view, PROMPTS[1:], noise[1:], [2], **given)
    np.testing.assert_allclose(alone[0], both[1], atol=1e-3)
    assert (sampled(view, PROMPTS, -noise, [1, 2], **given) - both).abs().mean() > 1e-3


def test_few_steps_say_what_they_cannot_do(components, tiny_base):
    noise = torch.randn(1, 4, 8, 8)
    given = {"steps": 3, "guidance": 1.0}
    with pytest.raises(UsageError, match="there are dpmpp"):
        sampled(Subject(components, []).base, ["a"], noise, [0], sampler="none", **given)
    with pytest.raises(UsageError, match="flow matching"):
        sampled(Subject(tiny_base("sd3"), []).base, ["a"], noise, [0], sampler="dpmpp", **given)
