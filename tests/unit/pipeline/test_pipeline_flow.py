"""SD3 and Flux against the library's own pipelines."""

import json
import shutil

import diffusers
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import FLOW, LENGTH, PIPELINES

from auditor.errors import BaseUnavailable, UsageError
from auditor.pipeline.components import load_components
from auditor.pipeline.conditioning import encode_prompts
from auditor.pipeline.denoiser import Denoiser
from auditor.pipeline.euler import euler_invert, euler_sample, noise_levels
from auditor.pipeline.families.flux import pack, unpack
from auditor.pipeline.sampling import ddim_sample, scheduler_sample, seeded_noise
from auditor.pipeline.subject import Subject

CPU = torch.device("cpu")
PROMPTS = ["a picture of a red ball", "a cat"]
SHAPE = (16, 8, 8)


def library(folder, family, **parts):
    pipe = PIPELINES[family].from_pretrained(folder, **parts)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def changed(tiny_folders, tmp_path):
    """A copy of a tiny folder with one JSON file changed."""

    def change(family, path, **values):
        folder = tmp_path / family
        if not folder.exists():
            shutil.copytree(tiny_folders(family), folder)
        file = folder / path
        file.write_text(json.dumps(json.loads(file.read_text()) | values))
        return folder

    return change


def drawn(pipe, family, noise, size=16, steps=4, guidance=1.0, true_guidance=1.0, output="pt"):
    """What the library's pipeline draws from our noise."""
    more = {"guidance_scale": guidance, "max_sequence_length": LENGTH}
    if family == "flux":
        noise = pipe._pack_latents(noise, *noise.shape)
        more |= {"true_cfg_scale": true_guidance, "negative_prompt": [""] * len(PROMPTS)}
    return pipe(
        PROMPTS, latents=noise, num_inference_steps=steps, height=size, width=size, output_type=output, **more
    ).images


def load(folder):
    return load_components(folder, CPU, torch.float32)


def conditions(base):
    with torch.no_grad():
        return encode_prompts(base, base.tokenizers, PROMPTS), encode_prompts(base, base.tokenizers, ["", ""])


@pytest.mark.parametrize("family", FLOW)
def test_prompts_are_encoded_as_the_librarys_pipeline_does(tiny_base, tiny_folders, family):
    ours, _ = conditions(tiny_base(family))
    pipe = library(tiny_folders(family), family)
    with torch.no_grad():
        if family == "sd3":
            theirs, _, pooled, _ = pipe.encode_prompt(
                PROMPTS, None, None, do_classifier_free_guidance=False, max_sequence_length=LENGTH
            )
        else:
            theirs, pooled, _ = pipe.encode_prompt(PROMPTS, max_sequence_length=LENGTH)
    assert torch.allclose(ours.states, theirs, atol=1e-5)
    assert torch.allclose(ours.pooled, pooled, atol=1e-5)


def test_sd3_runs_without_its_largest_encoder(changed):
    folder = changed("sd3", "model_index.json", text_encoder_3=[None, None], tokenizer_3=[None, None])
    base = load(folder)
    assert list(base.text_encoders) == ["text_encoder", "text_encoder_2"] == list(base.tokenizers)
    ours, _ = conditions(base)
    pipe = library(folder, "sd3", text_encoder_3=None, tokenizer_3=None)
    with torch.no_grad():
        theirs = pipe.encode_prompt(PROMPTS, None, None, do_classifier_free_guidance=False)[0]
    assert ours.states.shape == theirs.shape == (2, LENGTH + 256, 128)
    assert torch.allclose(ours.states, theirs, atol=1e-5)
    assert Subject(base, []).base.sample(["a cat"], [1], steps=2).isfinite().all()


@pytest.mark.parametrize("size", [16, 32])
@pytest.mark.parametrize(
    ("family", "guidance", "true_guidance"),
    [("sd3", 1.0, 1.0), ("sd3", 4.0, 1.0), ("flux", 3.5, 1.0), ("flux", 1.5, 2.0)],
)
def test_images_are_those_of_the_librarys_pipeline(
    tiny_base, tiny_folders, family, guidance, true_guidance, size
):
    view = Subject(tiny_base(family), []).base
    seeds = [3, 4]
    noise = seeded_noise(view.latent_shape(size), seeds)
    theirs = drawn(library(tiny_folders(family), family), family, noise, size, 4, guidance, true_guidance)
    ours = view.sample(PROMPTS, seeds, steps=4, guidance=guidance, true_guidance=true_guidance, size=size)
    assert ours.shape == (2, 3, size, size)
    assert torch.allclose(ours / 2 + 0.5, theirs, atol=1e-4)
    assert ours.std() > 0.05


def test_a_flux_without_guidance_input_ignores_guidance_as_its_pipeline_does(changed, tiny_folders):
    folder = changed("flux", "transformer/config.json", guidance_embeds=False)
    path = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    save_file({k: v for k, v in load_file(path).items() if "guidance" not in k}, path)
    view = Subject(load(folder), []).base
    noise = seeded_noise(view.latent_shape(), [3, 4])
    theirs = drawn(library(folder, "flux"), "flux", noise, guidance=3.5)
    assert torch.allclose(view.sample(PROMPTS, [3, 4], steps=4, guidance=7.0) / 2 + 0.5, theirs, atol=1e-4)


def test_the_usual_guidance_is_told_where_nobody_says_another(tiny_base):
    base = tiny_base("flux")
    condition, _ = conditions(base)
    noise, t = seeded_noise(SHAPE, [0, 1]), torch.tensor([500, 900])
    with torch.no_grad():
        usual, said, other = (
            Denoiser(base).predict(noise, t, c).native
            for c in (condition, condition.told(3.5), condition.told(1.0))
        )
    assert torch.equal(usual, said) and not torch.allclose(usual, other, atol=1e-4)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers")
@pytest.mark.parametrize(
    ("family", "scheduler"),
    [
        ("sd3", "FlowMatchEulerDiscreteScheduler"),
        ("sd3", "FlowMatchHeunDiscreteScheduler"),
        ("sd3", "DPMSolverMultistepScheduler"),
        ("flux", "FlowMatchEulerDiscreteScheduler"),
    ],
)
def test_other_schedulers_run_as_in_the_library(tiny_base, tiny_folders, family, scheduler):
    base, pipe = tiny_base(family), library(tiny_folders(family), family)
    cls = getattr(diffusers, scheduler)
    more = (
        {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
        if "DPM" in scheduler
        else {}
    )
    pipe.scheduler = cls.from_config(pipe.scheduler.config, **more)
    noise = seeded_noise(SHAPE, [1, 2])
    theirs = drawn(pipe, family, noise, guidance=3.5, output="latent")
    condition, null = conditions(base)
    weight = 3.5
    if family == "flux":
        condition, weight = condition.told(3.5), 1.0
        theirs = unpack(theirs, 4, 4)
    ours = scheduler_sample(
        Denoiser(base), base.new_scheduler(cls, **more), noise, condition, null, 4, weight
    )
    assert torch.allclose(ours, theirs, atol=1e-3)


def test_sd3_shifts_by_image_size_where_its_scheduler_says_so(changed):
    folder = changed("sd3", "scheduler/scheduler_config.json", use_dynamic_shifting=True)
    view = Subject(load(folder), []).base
    noise = seeded_noise(view.latent_shape(), [3, 4])
    theirs = drawn(library(folder, "sd3"), "sd3", noise)
    assert torch.allclose(view.sample(PROMPTS, [3, 4], steps=4, guidance=1.0) / 2 + 0.5, theirs, atol=1e-4)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers")
def test_levels_do_not_depend_on_the_scheduler_that_a_base_is_saved_with(tiny_base, changed):
    more = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
    name = "DPMSolverMultistepScheduler"
    folder = changed("sd3", "scheduler/scheduler_config.json", _class_name=name, shift=None, **more)
    latents = torch.zeros(1, 16, 8, 8)
    ours, theirs = (noise_levels(Denoiser(base), 5, latents) for base in (load(folder), tiny_base("sd3")))
    assert ours == theirs


def test_latents_are_packed_as_in_the_library():
    latents = torch.randn(2, 16, 6, 8)
    packed = diffusers.FluxPipeline._pack_latents(latents, 2, 16, 6, 8)
    assert torch.equal(pack(latents), packed) and torch.equal(unpack(packed, 3, 4), latents)


@pytest.mark.parametrize("family", FLOW)
def test_levels_fall_from_noise_to_nothing_and_depend_on_size_where_the_base_says_so(tiny_base, family):
    denoiser = Denoiser(tiny_base(family))
    small, large = (noise_levels(denoiser, 5, torch.zeros(1, 16, side, side)) for side in (8, 64))
    assert len(small) == 6 and small[0] == 1 and small[-1] == 0 and small == sorted(small, reverse=True)
    assert (small == large) == (family == "sd3")
    for steps in (0, 1001):
        with pytest.raises(UsageError, match="steps"):
            noise_levels(denoiser, steps, torch.zeros(1, 16, 8, 8))


@pytest.mark.parametrize("family", FLOW)
def test_a_row_does_not_depend_on_its_batch(tiny_base, family):
    view = Subject(tiny_base(family), []).base
    whole = view.sample([*PROMPTS, "a man"], [5, 6, 7], steps=3)
    assert torch.allclose(whole, view.sample([*PROMPTS, "a man"], [5, 6, 7], steps=3, batch=2), atol=1e-5)
    assert torch.allclose(whole[2:], view.sample(["a man"], [7], steps=3), atol=1e-5)


@pytest.mark.parametrize("family", FLOW)
def test_inversion_finds_the_noise_again(tiny_base, family):
    denoiser = Denoiser(tiny_base(family))
    condition, null = conditions(tiny_base(family))
    noise = seeded_noise(SHAPE, [7, 8])
    errors = {}
    for steps in (3, 9):
        clean = euler_sample(denoiser, noise, condition, null, steps, 2.0)
        for refine in (0, 2, 10):
            found = euler_invert(denoiser, clean, condition, null, steps, 2.0, refine)
            errors[steps, refine] = float((found - noise).norm() / noise.norm())
    assert errors[9, 0] < errors[3, 0] < 0.5
    for steps in (3, 9):
        assert errors[steps, 10] < errors[steps, 2] < errors[steps, 0]
        assert errors[steps, 10] < 1e-4


@pytest.mark.parametrize("family", FLOW)
def test_images_are_inverted_with_the_familys_own_sampler(tiny_base, family):
    view = Subject(tiny_base(family), []).base
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    noise = view.invert(images, PROMPTS, steps=3)
    assert noise.shape == (2, *SHAPE)
    assert torch.equal(noise, view.invert(images, PROMPTS, steps=3, method="euler"))
    for method in ("ddim", "dpmpp"):
        with pytest.raises(UsageError, match="variance-preserving"):
            view.invert(images, PROMPTS, steps=3, method=method)


def test_samplers_of_the_other_kind_are_refused(tiny_base):
    view = Subject(tiny_base("sd1"), []).base
    with pytest.raises(UsageError, match="flow-matching"):
        view.invert(torch.zeros(1, 3, 16, 16), [""], steps=2, method="euler")
    with pytest.raises(UsageError, match="there is no sampler 'heun'"):
        view.invert(torch.zeros(1, 3, 16, 16), [""], steps=2, method="heun")
    condition, null = conditions(tiny_base("flux"))
    with pytest.raises(UsageError, match="DDIM"):
        ddim_sample(Denoiser(tiny_base("flux")), seeded_noise(SHAPE, [0, 1]), condition, null, 2, 1.0)


def test_maps_that_half_precision_overflows_stay_wide(tiny_folders):
    base = load_components(tiny_folders("sd3"), CPU, torch.float16)
    t5 = dict(base.modules["text_encoder_3"].named_parameters())
    wide = {name for name, p in t5.items() if p.dtype == torch.float32}
    assert wide == {name for name in t5 if name.endswith(".wo.weight")} and wide
    assert base.dtype == torch.float16 and base.vae.dtype == torch.float32


def test_a_base_with_a_scheduler_of_the_other_kind_is_refused(changed):
    folder = changed(
        "sd3", "scheduler/scheduler_config.json", _class_name="DDIMScheduler", prediction_type="epsilon"
    )
    with pytest.raises(BaseUnavailable, match=r"DDIMScheduler.*flow-matching"):
        load(folder)


def test_a_t5_tokenizer_has_to_be_in_the_hashed_form(changed):
    folder = changed("flux", "model_index.json")
    (folder / "tokenizer_2" / "tokenizer.json").rename(folder / "tokenizer_2" / "spiece.model")
    with pytest.raises(BaseUnavailable, match=r"tokenizer_2/tokenizer\.json"):
        load(folder)


def test_methods_about_unets_say_so_on_other_bases(tiny_base):
    with pytest.raises(BaseUnavailable, match="flux"):
        _ = tiny_base("flux").unet
    assert tiny_base("sd1").unet is tiny_base("sd1").denoiser_model
