"""HiFi Tuner: vectors at the end of the prompt, masks, vectors by sampler step, pasted references."""

import json

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from auditor.errors import MalformedArtifact, UsageError
from auditor.personalize.blocks.examples import Examples
from auditor.personalize.blocks.masks import load_masks, to_latent_grid
from auditor.personalize.blocks.reference import Pasted, fit_placement, inverted_path, placed
from auditor.personalize.blocks.ruled import null_condition, ruled_sample
from auditor.personalize.blocks.stepwise import (
    LearnedSteps,
    Reference,
    ended,
    load_steps,
    save_steps,
    stepwise_sample,
)
from auditor.personalize.hifi import HiFi, train_hifi
from auditor.pipeline.conditioning import encode_prompts
from auditor.pipeline.denoiser import Denoiser
from auditor.pipeline.sampling import ddim_sample, ddim_timesteps
from auditor.registry import METHODS

FAMILIES = ["sd1", "sdxl"]
RECIPE = HiFi(prompt="a picture of a man", vectors=3, steps=3, sampler_steps=4, refine=2, batch=2, lr=1e-2, seed=3)


def quiet(done, total, label=""):
    pass


@pytest.fixture
def pictures(pixels):
    return lambda base: Examples.of(base, pixels, [RECIPE.prompt] * len(pixels))


def changed(**how):
    return HiFi(**{**vars(RECIPE), **how})


def disc(x, y, radius, side=32, stretch=1.0):
    rows, columns = np.mgrid[0:side, 0:side]
    inside = ((columns - x) / stretch) ** 2 + (rows - y) ** 2 <= radius**2
    return torch.from_numpy(inside.astype(np.float32))[None, None]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_base_stays_as_it_is_also_after_an_exception(tiny_base, pictures, unchanged, family):
    base = tiny_base(family)
    check = unchanged(base)
    one, again = (train_hifi(base, pictures(base), None, RECIPE, quiet).learned for _ in range(2))
    assert torch.equal(one.vectors, again.vectors)
    assert one.vectors.shape == (4, 3, encode_prompts(base, base.tokenizers, [""]).states.shape[-1])
    check()

    def stop(done, total, label=""):
        assert total == 3 + 2 * 4
        if done == 6:
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        train_hifi(base, pictures(base), None, RECIPE, stop)
    check()


def test_vectors_start_at_the_empty_prompt_and_each_step_goes_on_from_the_one_before(tiny_base, pictures):
    base = tiny_base("sd1")
    barely = train_hifi(base, pictures(base), None, changed(lr=1e-12), quiet).learned
    null = encode_prompts(base, base.tokenizers, [""]).states[0, -3:]
    assert torch.equal(barely.null, null)
    assert torch.allclose(barely.vectors, null.expand(4, -1, -1), atol=1e-6)
    shared = train_hifi(base, pictures(base), None, changed(refine=0), quiet).learned
    assert all(torch.equal(each, shared.vectors[0]) for each in shared.vectors)
    by_step = train_hifi(base, pictures(base), None, RECIPE, quiet).learned
    moves = torch.cat([shared.vectors[:1], by_step.vectors]).diff(dim=0).abs().amax((1, 2))
    # Adam moves no value further than about its rate a step.
    assert bool((moves > 0).all()) and float(moves.max()) < 2 * 2 * RECIPE.lr


def test_each_step_is_refined_at_its_own_timestep(tiny_base, pictures):
    base, seen = tiny_base("sd1"), []
    real = base.unet.forward

    def spy(latents, t, **given):
        seen.append(t.tolist())
        return real(latents, t, **given)

    base.unet.forward = spy
    try:
        train_hifi(base, pictures(base), None, changed(sampler_steps=10, refine=1, steps=1), quiet)
    finally:
        del base.unet.forward
    assert seen[1:] == [[t] * 2 for t in ddim_timesteps(1000, 10)]


def test_a_mask_of_everything_is_no_mask_and_another_is_felt(tiny_base, pictures):
    base = tiny_base("sd1")
    half = torch.zeros(2, 1, 16, 16)
    half[..., :8] = 1
    none, every, some = (
        train_hifi(base, pictures(base), masks, RECIPE, quiet) for masks in (None, torch.ones(2, 1, 16, 16), half)
    )
    assert torch.allclose(none.learned.vectors, every.learned.vectors, atol=1e-3)
    assert none.log.losses[0] == pytest.approx(every.log.losses[0], abs=1e-5)
    assert some.log.losses[0] != pytest.approx(none.log.losses[0], abs=1e-4)


def test_the_anchor_holds_vectors_at_the_empty_prompt(tiny_base, pictures):
    base = tiny_base("sd1")
    free, held = (
        train_hifi(base, pictures(base), None, changed(anchor=anchor, steps=15, refine=0), quiet).learned
        for anchor in (0.0, 50.0)
    )
    assert (held.vectors - held.null).norm() < 0.5 * (free.vectors - free.null).norm()


@pytest.mark.parametrize("family", FAMILIES)
def test_shared_vectors_are_a_plain_condition_bit_for_bit(tiny_base, noise, family):
    base = tiny_base(family)
    encoded = encode_prompts(base, base.tokenizers, ["a red car"] * 2)
    rows = torch.randn(3, encoded.states.shape[-1], generator=torch.Generator().manual_seed(0))
    condition = ended(encoded, rows)
    assert torch.equal(condition.states[:, :-3], encoded.states[:, :-3])
    assert torch.equal(condition.states[1, -3:], rows)
    with torch.no_grad():
        plain = ddim_sample(Denoiser(base), noise, condition, null_condition(base, 2), 5, 3.0)
    learned = LearnedSteps("a car", rows.expand(5, -1, -1), rows)
    assert torch.equal(stepwise_sample(base, learned, "a red car", noise, 3.0), plain)


def test_the_library_samples_the_same_with_states_exchanged_by_step(tiny_base, tiny_folders, noise):
    base = tiny_base("sd1")
    vectors = torch.randn(5, 3, 64, generator=torch.Generator().manual_seed(0))
    learned = LearnedSteps("a car", vectors, torch.zeros(3, 64))
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(tiny_folders("sd1"))
    pipe.set_progress_bar_config(disable=True)
    given, empty = pipe.encode_prompt("a red car", "cpu", 1, True, "")
    states = [torch.cat([given[:, :-3], rows[None]], 1) for rows in learned.vectors]

    def exchange(pipe, i, t, said):
        return {"prompt_embeds": torch.cat([empty, states[min(i + 1, 4)]])}

    theirs = pipe(
        prompt_embeds=states[0], negative_prompt_embeds=empty, latents=noise[:1], num_inference_steps=5,
        guidance_scale=3.0, output_type="latent", callback_on_step_end=exchange,
        callback_on_step_end_tensor_inputs=["prompt_embeds"],
    ).images  # fmt: skip
    ours = stepwise_sample(base, learned, "a red car", noise[:1], 3.0)
    # The library's last step ends at the first timestep and ours at clean latents.
    assert torch.nn.functional.cosine_similarity(ours.flatten(), theirs.flatten(), dim=0) > 0.999
    turned = LearnedSteps("a car", learned.vectors.flip(0), learned.null)
    other = stepwise_sample(base, turned, "a red car", noise[:1], 3.0)
    assert (ours - theirs).norm() < 0.2 * (ours - other).norm()


# Masks


def painted(folder, name, image):
    folder.mkdir(exist_ok=True)
    Image.fromarray((image[0, 0].numpy() * 255).astype(np.uint8)).save(folder / name)


def test_masks_follow_their_pictures(folder_of, tmp_path, tiny_base):
    photos, masks = folder_of("photos"), tmp_path / "masks"
    painted(masks, "1.png", disc(16, 16, 40))
    painted(masks, "0.bmp", disc(8, 8, 6))
    loaded = load_masks(masks, photos, 16)
    assert loaded.shape == (2, 1, 16, 16) and bool((loaded[1] == 1).all())
    assert 0 < float(loaded[0].mean()) < 0.4
    assert torch.allclose(to_latent_grid(loaded, (8, 8)).mean((1, 2, 3)), loaded.mean((1, 2, 3)), atol=1e-5)
    path = METHODS.get("hifi").fit(tiny_base("sd1"), photos, changed(masks=masks), tmp_path / "out", quiet)
    told = json.loads((tmp_path / "out" / "provenance.json").read_text())
    assert (len(told["masks"]), set(told["files"])) == (2, {"learned_steps.safetensors"})
    assert load_steps(path).prompt == RECIPE.prompt and load_steps(path).vectors.shape == (4, 3, 64)


def test_masks_that_do_not_fit_are_named(folder_of, tmp_path):
    photos, masks = folder_of("photos"), tmp_path / "masks"
    painted(masks, "0.png", disc(8, 8, 6))
    with pytest.raises(UsageError, match="picture '1' has no mask"):
        load_masks(masks, photos, 16)
    painted(masks, "1.png", disc(8, 8, -1))
    painted(masks, "2.png", disc(8, 8, 6))
    with pytest.raises(UsageError, match="2 pictures need as many masks, not 3"):
        load_masks(masks, photos, 16)
    (masks / "2.png").unlink()
    painted(masks, "1.png", torch.zeros(1, 1, 32, 32))
    with pytest.raises(UsageError, match="mask '1' is black all over"):
        load_masks(masks, photos, 16)


# References


@pytest.mark.parametrize(("x", "y", "radius"), [(10.0, 20.0, 8.0), (16.0, 16.0, 5.0), (22.0, 12.0, 9.0)])
def test_a_placement_moves_a_mask_onto_another(x, y, radius):
    mask, target = disc(16, 16, 7, stretch=1.6), disc(x, y, radius, stretch=1.6)
    moved = placed(mask, fit_placement(mask, target))
    assert float((moved - target).abs().sum()) < 0.25 * float(target.sum())
    upright = disc(16, 16, 7, stretch=1.0)
    assert torch.allclose(placed(upright, fit_placement(upright, upright)), upright, atol=1e-5)


def test_a_turned_mask_is_turned_back():
    mask = disc(16, 16, 6, stretch=2.0)
    angle = torch.tensor(np.pi / 6)
    turn = torch.tensor([[[angle.cos(), -angle.sin(), 0], [angle.sin(), angle.cos(), 0]]])
    target = placed(mask, turn)
    assert float((placed(mask, fit_placement(mask, target)) - target).abs().sum()) < 0.1 * float(target.sum())
    assert float((mask - target).abs().sum()) > 0.3 * float(target.sum())


def test_the_path_of_a_picture_is_written_out_step_by_step(tiny_base, noise):
    base = tiny_base("sd1")
    condition = encode_prompts(base, base.tokenizers, ["a man"] * 2)
    clean, times = 0.5 * noise, ddim_timesteps(1000, 4)
    path = inverted_path(base, clean, condition, 4)
    assert sorted(path, reverse=True) == times
    latents, bar, seen = clean, 1.0, times[-1]
    for t in reversed(times):
        with torch.no_grad():
            epsilon = Denoiser(base).predict(latents, torch.tensor([seen, seen]), condition).epsilon
        following = float(base.schedule.alphas_cumprod[t])
        x0 = (latents - (1 - bar) ** 0.5 * epsilon) / bar**0.5
        latents, bar, seen = following**0.5 * x0 + (1 - following) ** 0.5 * epsilon, following, t
        assert torch.allclose(path[t], latents, atol=1e-4)


def pasted(base, region, noise, **how):
    times = ddim_timesteps(1000, 8)
    encoded = encode_prompts(base, base.tokenizers, ["a man"] * 2)
    path = inverted_path(base, 0.5 * noise[:1].flip(3), encoded[:1], 8)
    rule = Pasted(
        base, path, region, times, dict.fromkeys(times, encoded), null_condition(base, 2), 3.0, **{
            "start": 6, "end": 2, "rounds": 3, **how
        }
    )  # fmt: skip
    return rule, ruled_sample(base, noise, rule.rule, 8, rule.overwrite)


@pytest.mark.parametrize("family", FAMILIES)
def test_pasting_nothing_changes_nothing(tiny_base, noise, family):
    base = tiny_base(family)
    with torch.no_grad():
        condition = encode_prompts(base, base.tokenizers, ["a man"] * 2)
        plain = ddim_sample(Denoiser(base), noise, condition, null_condition(base, 2), 8, 3.0)
    assert torch.equal(pasted(base, torch.zeros(1, 1, 8, 8), noise)[1], plain)
    assert torch.equal(pasted(base, torch.ones(1, 1, 8, 8), noise, start=1, end=5)[1], plain)


def test_a_pasted_region_follows_the_reference_and_the_rest_does_not(tiny_base, noise):
    base = tiny_base("sd1")
    region = torch.zeros(1, 1, 8, 8)
    region[..., :4] = 1
    latents = []
    rule, _ = pasted(base, region, noise)
    real = rule.overwrite

    def watch(i, t, seen):
        real(i, t, seen)
        latents.append(seen.clone())

    ruled_sample(base, noise, rule.rule, 8, watch)
    for i, seen in enumerate(latents[:-1]):
        left = 7 - i
        same = torch.allclose(seen[..., :4], rule.path[rule.times[i + 1]].expand(2, -1, -1, -1)[..., :4], atol=1e-5)
        assert same is (1 <= left <= 6)
        assert not torch.allclose(seen[..., 4:], rule.path[rule.times[i + 1]].expand(2, -1, -1, -1)[..., 4:], atol=1e-2)


def test_the_empty_prompt_is_trained_towards_the_path(tiny_base, noise):
    base = tiny_base("sd1")
    times = ddim_timesteps(1000, 8)
    distances = []
    for rounds in (0, 8):
        encoded = encode_prompts(base, base.tokenizers, ["a man"] * 2)
        path = inverted_path(base, 0.5 * noise[:1].flip(3), encoded[:1], 8)
        rule = Pasted(
            base, path, torch.ones(1, 1, 8, 8), times, dict.fromkeys(times, encoded), null_condition(base, 2), 3.0,
            8, 2, rounds, lr=5e-2,
        )  # fmt: skip
        with torch.no_grad():
            epsilon = rule.rule(noise, times[0])
        (a, s), (b, r) = ((float(base.schedule.alphas_cumprod[t]) ** 0.5,
                           float(1 - base.schedule.alphas_cumprod[t]) ** 0.5) for t in times[:2])  # fmt: skip
        distances.append(float((b * (noise - s * epsilon) / a + r * epsilon - path[times[1]]).norm()))
    assert distances[1] < distances[0]


def test_a_reference_is_sampled_with_from_end_to_end(tiny_base, pixels, noise):
    base = tiny_base("sd1")
    learned = LearnedSteps("a man", torch.zeros(6, 2, 64), torch.zeros(2, 64))
    mask = disc(8, 8, 5, 16)
    reference = Reference(pixels[:1], mask, mask, start=5, end=2, rounds=1)
    plain = stepwise_sample(base, learned, "a man", noise, 3.0)
    out = stepwise_sample(base, learned, "a man", noise, 3.0, reference)
    assert out.shape == plain.shape and bool(torch.isfinite(out).all())
    apart = (out[:1] - out[1:]).square().mean(1)[0]
    inside = to_latent_grid(mask, (8, 8))[0, 0] > 0.5
    assert float(apart[inside].mean()) < float(apart[~inside].mean())


def test_bad_input_ends_with_one_sentence(tiny_base, folder_of, tmp_path):
    base, photos = tiny_base("sd1"), folder_of("photos")
    for how, said in (
        ({"vectors": 0}, "vectors must be between 1 and 23"),
        ({"vectors": 24}, "vectors must be between 1 and 23"),
        ({"batch": 0}, "batch must be above zero"),
        ({"sampler_steps": 0}, "sampler steps must be above zero"),
        ({"anchor": -1.0}, "anchor must not be below zero"),
        ({"refine": -1}, "refine must not be below zero"),
        ({"masks": tmp_path / "no"}, "not a folder of images"),
        ({"prompt": ""}, "prompt is empty"),
        ({"sampler_steps": 2000}, "sampler steps are not possible"),
    ):
        with pytest.raises(UsageError, match=said):
            METHODS.get("hifi").fit(base, photos, changed(**how), tmp_path / "out", quiet)
    path = tmp_path / "x.safetensors"
    for tensors in ({"steps": torch.ones(2, 3)}, {"steps": torch.ones(2, 3, 4), "null": torch.ones(2, 4)}):
        save_file(tensors, path, {"prompt": "x"})
        with pytest.raises(MalformedArtifact, match="holds no learned steps"):
            load_steps(path)
    with pytest.raises(MalformedArtifact):
        load_steps(tmp_path / "gone.safetensors")
    good = LearnedSteps("x", torch.ones(2, 3, 4), torch.ones(3, 4))
    assert torch.equal(load_steps(save_steps(tmp_path / "deep" / "er", good)).vectors, good.vectors)
