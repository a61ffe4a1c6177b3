"""Methods that train whole models: DreamBooth, SINE, StyleForge."""

import copy
import dataclasses
import json

import diffusers
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from auditor.errors import OutputError, UsageError
from auditor.personalize.blocks.beside import Beside, BesideLoss
from auditor.personalize.blocks.examples import Examples, class_latents
from auditor.personalize.blocks.pair import pair_sample
from auditor.personalize.blocks.pipelines import save_pipeline
from auditor.personalize.blocks.positions import Box, draw_box, positions_added, sine_grid
from auditor.personalize.blocks.ruled import null_condition
from auditor.personalize.blocks.whole import trainable_copies, whole_parts
from auditor.personalize.dreambooth import DreamBooth, train_dreambooth
from auditor.personalize.sine import Sine, train_sine
from auditor.personalize.styleforge import StyleForge, joined, train_styleforge
from auditor.pipeline.components import load_components
from auditor.pipeline.conditioning import encode_prompts
from auditor.pipeline.denoiser import Denoiser
from auditor.pipeline.sampling import ddim_sample
from auditor.registry import METHODS

FAMILIES = ["sd1", "sdxl"]
SHORT = {"steps": 2, "batch": 2, "lr": 1e-3, "seed": 3}
RECIPE = DreamBooth(
    prompt="a picture of sks man", class_prompt="a man", class_images=2, train_text_encoder=True, **SHORT
)


def quiet(done, total, label=""):
    pass


def stop(done, total, label=""):
    raise RuntimeError("on purpose")


def examples(base, pixels, prompt=RECIPE.prompt):
    return Examples.of(base, pixels, [prompt] * len(pixels))


def fitting(base, pixels, progress):
    aux = examples(base, pixels.flip(3), "a picture in style")
    image = torch.nn.functional.interpolate(pixels[:1], (32, 32))
    return {
        "dreambooth": lambda: train_dreambooth(base, examples(base, pixels), RECIPE, progress),
        "sine": lambda: train_sine(base, image, Sine(train_text_encoder=True, **SHORT), progress),
        "styleforge": lambda: train_styleforge(base, examples(base, pixels), aux, StyleForge(**SHORT), progress),
    }


@pytest.mark.parametrize("method", ["dreambooth", "sine", "styleforge"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_base_comes_back_exactly_also_after_an_exception(tiny_base, pixels, unchanged, family, method):
    base = tiny_base(family)
    check = unchanged(base)
    trained = fitting(base, pixels, quiet)[method]()
    check()
    own = base.unet.state_dict()
    moved = [k for k, v in trained.modules["unet"].state_dict().items() if not torch.equal(v, own[k])]
    assert len(moved) > 0.9 * len(own)
    assert not any(p.requires_grad or p.grad is not None for m in trained.modules.values() for p in m.parameters())
    with pytest.raises(RuntimeError, match="on purpose"):
        fitting(base, pixels, stop)[method]()
    check()


def test_gradients_reach_only_what_is_trained(tiny_base, pixels):
    base = tiny_base("sdxl")
    before = encode_prompts(base, base.tokenizers, ["a man"])
    for text, wanted in ((False, {"unet"}), (True, {"unet", "text_encoder", "text_encoder_2"})):
        with trainable_copies(base, whole_parts(base, text)) as copies:
            now = encode_prompts(base, base.tokenizers, ["a man"])
            assert torch.equal(now.states, before.states) and torch.equal(now.pooled, before.pooled)
            loss_of = BesideLoss(base, examples(base, pixels), Beside(torch.zeros(0), "", 0.0), 2, text)
            step = type("Step", (), {"generator": torch.Generator().manual_seed(0)})
            loss_of(step).backward()
            reached = {n for n, m in base.modules.items() if any(p.grad is not None for p in m.parameters())}
            assert reached == set(copies) == wanted


def test_the_loss_is_that_of_both_sets_written_out(tiny_base, pixels):
    base = tiny_base("sd1")
    own, prior = examples(base, pixels), torch.randn(3, 4, 8, 8)
    step = type("Step", (), {"generator": torch.Generator().manual_seed(5)})
    ours = BesideLoss(base, own, Beside(prior, "a man", 0.3), 2, False)(step)
    generator, scheduler, total = torch.Generator().manual_seed(5), base.new_scheduler(), 0.0
    for latents, prompt, weight in ((own.latents, RECIPE.prompt, 1.0), (prior, "a man", 0.3)):
        rows = torch.randint(len(latents), (2,), generator=generator)
        noise = torch.randn((2, 4, 8, 8), generator=generator)
        t = torch.randint(0, 1000, (2,), generator=generator)
        noisy = scheduler.add_noise(latents[rows], noise, t)
        ids = base.tokenizers["text_encoder"]([prompt] * 2, padding="max_length", return_tensors="pt").input_ids
        states = base.modules["text_encoder"](ids).last_hidden_state
        said = base.unet(noisy, t, encoder_hidden_states=states).sample
        total = total + weight * torch.nn.functional.mse_loss(said, noise)
    assert torch.allclose(ours, total, atol=1e-5)


def test_without_a_weight_the_prior_is_not_there(tiny_base, pixels):
    base = tiny_base("sd1")
    off = DreamBooth(**{**vars(RECIPE), "prior_weight": 0.0, "train_text_encoder": False})
    plain = DreamBooth(**{**vars(off), "class_prompt": ""})
    one, other = (train_dreambooth(base, examples(base, pixels), params, quiet) for params in (off, plain))
    assert one.log.losses == other.log.losses
    same = zip(one.modules["unet"].parameters(), other.modules["unet"].parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in same)


def test_styleforge_with_own_samples_as_auxiliary_pictures_is_dreambooth(tiny_base, pixels):
    base = tiny_base("sd1")
    style = examples(base, pixels, "a picture in sks style")
    booth = DreamBooth(prompt=style.prompts[0], class_prompt="a picture in style", class_images=2, **SHORT)
    own = class_latents(base, booth.class_prompt, 2, booth.seed, style.latents.shape[1:])
    one = train_dreambooth(base, style, booth, quiet)
    aux = Examples(pixels, own, ("a picture in style",) * 2)
    other = train_styleforge(base, style, aux, StyleForge(**SHORT), quiet)
    assert one.log.losses == other.log.losses
    without = train_styleforge(base, style, None, StyleForge(**SHORT), quiet)
    off = train_styleforge(base, style, aux, StyleForge(aux_weight=0.0, **SHORT), quiet)
    assert without.log.losses == off.log.losses != other.log.losses


def test_two_sets_keep_their_own_words(tiny_base, pixels):
    base = tiny_base("sd1")
    sets = ((pixels, "a picture in sks style"), (pixels[:1], "a picture in ohwx style"))
    both = joined([examples(base, *each) for each in sets])
    assert both.prompts == ("a picture in sks style",) * 2 + ("a picture in ohwx style",)
    assert torch.allclose(both.latents[2], both.latents[0], atol=1e-5)
    assert len(both.hashes) == 3


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", FAMILIES)
def test_the_saved_folder_opens_everywhere_and_says_what_was_trained(tiny_base, folder_of, tmp_path, noise, family):
    base = tiny_base(family)
    path = METHODS.get("dreambooth").fit(base, folder_of("photos"), RECIPE, tmp_path / "out", quiet)
    sidecar = json.loads((tmp_path / "out" / "provenance.json").read_text())
    assert sidecar["method"] == "dreambooth" and len(sidecar["images"]) == 2
    assert "pipeline/unet/diffusion_pytorch_model.safetensors" in sidecar["files"]
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"pipeline", "provenance.json"}
    for file in path.rglob("*.safetensors"):
        assert {str(v.dtype) for v in load_file(file).values() if v.is_floating_point()} == {"torch.float16"}
    opened = load_components(path, torch.device("cpu"), torch.float32)
    pipe = diffusers.DiffusionPipeline.from_pretrained(path, torch_dtype=torch.float32)
    assert type(pipe).__name__ == ("StableDiffusionPipeline" if family == "sd1" else "StableDiffusionXLPipeline")
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = diffusers.DDIMScheduler.from_config(pipe.scheduler.config)
    theirs = pipe(
        [RECIPE.prompt] * 2, latents=noise, num_inference_steps=5, guidance_scale=3.0, output_type="latent",
        height=16, width=16,
    ).images  # fmt: skip
    with torch.no_grad():
        condition = encode_prompts(opened, opened.tokenizers, [RECIPE.prompt] * 2)
        ours = ddim_sample(Denoiser(opened), noise, condition, null_condition(opened, 2), 5, 3.0)
    # The library's last step ends at the first timestep and ours at clean latents.
    assert torch.nn.functional.cosine_similarity(ours.flatten(), theirs.float().flatten(), dim=0) > 0.999
    again = METHODS.get("dreambooth")
    with pytest.raises(OutputError, match="exists already"):
        again.fit(base, tmp_path / "photos", RECIPE, tmp_path / "out", quiet)


def test_what_is_saved_is_what_was_trained(tiny_base, pixels, tmp_path):
    base = tiny_base("sd1")
    trained = train_dreambooth(base, examples(base, pixels), RECIPE, quiet)
    save_pipeline(tmp_path / "p", base, trained.modules, torch.float32)
    opened = load_components(tmp_path / "p", torch.device("cpu"), torch.float32)
    for name, module in opened.modules.items():
        wanted = trained.modules.get(name, base.modules[name]).state_dict()
        assert all(torch.equal(value, wanted[key]) for key, value in module.state_dict().items())


def test_a_folder_that_cannot_be_finished_is_not_there(tiny_base, tmp_path):
    base = tiny_base("sd1")
    broken = torch.nn.Linear(2, 2)
    with torch.no_grad():
        broken.weight.fill_(1e30)
    with pytest.raises(OutputError, match="not finite"):
        save_pipeline(tmp_path / "p", base, {"unet": broken})
    assert not list(tmp_path.iterdir())


def test_a_killed_run_goes_on_to_the_same_weights(tiny_base, pixels, tmp_path, monkeypatch):
    """With text encoders, some of whose weights no gradient reaches."""
    import auditor.personalize.dreambooth as module

    base, path = tiny_base("sdxl"), tmp_path / "checkpoint.safetensors"
    real = module.optimise
    monkeypatch.setattr(module, "optimise", lambda *a, **k: real(*a, **{**k, "every": 1}))
    whole = train_dreambooth(base, examples(base, pixels), RECIPE, quiet)

    def killed(done, total, label=""):
        if label and done == 1 and path.exists():
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError):
        train_dreambooth(base, examples(base, pixels), RECIPE, killed, path)
    assert path.exists()
    parts = train_dreambooth(base, examples(base, pixels), RECIPE, quiet, path)
    for name, module_ in whole.modules.items():
        other = parts.modules[name].state_dict()
        assert all(torch.equal(value, other[key]) for key, value in module_.state_dict().items())


# SINE


@pytest.mark.parametrize("family", FAMILIES)
def test_the_base_alone_is_the_base_bit_for_bit(tiny_base, pixels, noise, family):
    base = tiny_base(family)
    trained = train_sine(base, pixels[:1], Sine(patches=False, steps=3, lr=1e-2), quiet)
    tuned = dataclasses.replace(base, modules={**base.modules, **trained.modules})
    condition = encode_prompts(base, base.tokenizers, ["a house"] * 2)
    with torch.no_grad():
        plain = ddim_sample(Denoiser(base), noise, condition, null_condition(base, 2), 6, 3.0)
    def mixed(**how):
        return pair_sample(base, tuned, "a house", "a picture of sks", noise, steps=6, guidance=3.0, **how)

    assert torch.equal(mixed(v=1.0), plain)
    assert torch.equal(mixed(v=0.3, until=1000), plain)
    assert not torch.equal(mixed(v=0.3), plain)
    # The same mixture of a model with itself and one prompt is that model.
    itself = pair_sample(base, base, "a house", "a house", noise, v=0.4, steps=6, guidance=3.0, patches=False)
    assert torch.allclose(itself, plain, atol=1e-4)


def test_the_mixture_is_what_the_paper_writes(tiny_base, noise):
    base = tiny_base("sd1")
    calls = []
    real = base.unet.forward

    def seen(latents, t, **given):
        out = real(latents, t, **given)
        calls.append(out.sample)
        return out

    base.unet.forward = seen
    try:
        got = pair_sample(base, base, "a house", "a cat", noise, v=0.7, until=0, steps=1, guidance=4.0, patches=False)
    finally:
        del base.unet.forward
    (null, edit), own = calls[0].chunk(2), calls[1]
    epsilon = 4.0 * (0.7 * edit + 0.3 * own) + (1 - 4.0) * null
    bar = float(base.schedule.alphas_cumprod[1])
    assert torch.allclose(got, (noise - (1 - bar) ** 0.5 * epsilon) / bar**0.5, atol=1e-4)


def test_the_grid_tells_places_apart_and_a_patch_is_a_crop_of_the_whole():
    grid = sine_grid(20, 32)
    assert grid.shape == (1, 20, 32, 32) and float(grid.abs().max()) <= 1
    assert torch.allclose(grid[0, 0, 0], torch.sin(torch.arange(1, 33.0)))
    assert torch.allclose(grid[0, 10, :, 0], torch.sin(torch.arange(1, 33.0)))
    assert len(torch.unique(grid[0].flatten(1).T, dim=0)) == 32 * 32
    assert torch.equal(Box(0.25, 0.5, 0.75, 1.0).cut(grid, (16, 16)), grid[..., 8:24, 16:])
    for i in range(50):
        box = draw_box(np.random.default_rng(i), 0.1)
        assert 0 <= box.top < box.bottom <= 1 + 1e-9 and 0.1 <= box.right - box.left <= 1
        assert box.cut(grid, (8, 8)).shape[-2:] == (8, 8)


def test_the_place_of_a_patch_reaches_the_model_and_leaves_again(tiny_base, noise):
    base = tiny_base("sd1")
    condition = encode_prompts(base, base.tokenizers, ["a man"] * 2)

    def predict():
        with torch.no_grad():
            return Denoiser(base).predict(noise, torch.tensor([500, 500]), condition).native

    plain = predict()
    with positions_added(base, [Box(), Box(0.5, 0.5, 1, 1)]):
        told = predict()
    with positions_added(base, [Box()]):
        whole = predict()
    assert torch.equal(predict(), plain)
    assert torch.allclose(told[0], whole[0], atol=1e-5)
    assert not torch.allclose(told[1], whole[1], atol=1e-3)


# What is refused


def test_bad_input_ends_with_one_sentence(tiny_base, pixels, folder_of, tmp_path, noise):
    base, photos = tiny_base("sd1"), folder_of("photos")
    for method, params, said in (
        ("dreambooth", DreamBooth(prompt=" "), "prompt is empty"),
        ("dreambooth", DreamBooth(steps=0), "steps must be above zero"),
        ("dreambooth", DreamBooth(batch=0), "batch must be above zero"),
        ("dreambooth", DreamBooth(class_images=0), "class images must be above zero"),
        ("sine", Sine(), "exactly one picture, not 2"),
        ("styleforge", StyleForge(), "--aux"),
        ("styleforge", StyleForge(aux=photos, aux_weight=-1.0), "aux weight must not be below zero"),
        ("styleforge", StyleForge(aux=tmp_path / "no"), "not a folder of images"),
    ):
        with pytest.raises(UsageError, match=said):
            METHODS.get(method).fit(base, photos, params, tmp_path / "out", quiet)
    with pytest.raises(UsageError, match="v must be between 0 and 1"):
        pair_sample(base, base, "a", "b", noise, v=1.5)
    with pytest.raises(UsageError, match="least patch"):
        train_sine(base, pixels[:1], Sine(least_patch=0.0), quiet)
    half = load_components_half(base)
    with pytest.raises(UsageError, match="in float32"):
        train_dreambooth(half, examples(base, pixels), DreamBooth(**SHORT), quiet)


def load_components_half(base):
    return dataclasses.replace(base, modules={**base.modules, "unet": copy.deepcopy(base.unet).half()})


def test_the_folders_of_styleforge_are_all_in_its_provenance(tiny_base, folder_of, tmp_path):
    params = StyleForge(aux=folder_of("aux", 1, 1), grounds=folder_of("grounds", 1, 2), **SHORT)
    METHODS.get("styleforge").fit(tiny_base("sd1"), folder_of("style"), params, tmp_path / "out", quiet)
    told = json.loads((tmp_path / "out" / "provenance.json").read_text())
    assert (len(told["images"]), len(told["aux_images"])) == (3, 1)
    assert told["prompts"] == [params.prompt] * 2 + [params.grounds_prompt]
