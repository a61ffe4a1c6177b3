import diffusers
import pytest
import torch

from auditor.errors import UsageError
from auditor.pipeline.conditioning import encode_prompts
from auditor.pipeline.denoiser import Denoiser
from auditor.pipeline.sampling import (
    ddim_invert,
    ddim_sample,
    ddim_timesteps,
    scheduler_sample,
    seeded_noise,
)

FAMILIES = ("sd1", "sd2", "sdxl")
PROMPTS = ["a picture of a red ball", "a drawing of a cat", "a man"]
SHAPE = (4, 8, 8)


@pytest.fixture(params=FAMILIES)
def drawn(request, tiny_base):
    base = tiny_base(request.param)
    with torch.no_grad():
        condition = encode_prompts(base, base.tokenizers, PROMPTS)
        null = encode_prompts(base, base.tokenizers, [""] * 3)
    return base, Denoiser(base), condition, null


def library_loop(base, scheduler, noise, condition, null, steps, guidance):
    """The denoising loop as written in the library's own pipelines."""
    scheduler.set_timesteps(steps)
    latents = noise * scheduler.init_noise_sigma
    added = None
    if condition.pooled is not None:
        ids = torch.tensor([[16.0, 16, 0, 0, 16, 16]]).repeat(2 * len(noise), 1)
        added = {"text_embeds": torch.cat([null.pooled, condition.pooled]), "time_ids": ids}
    for t in scheduler.timesteps:
        seen = scheduler.scale_model_input(torch.cat([latents] * 2), t)
        states = torch.cat([null.states, condition.states])
        said = base.unet(seen, t, encoder_hidden_states=states, added_cond_kwargs=added).sample
        without, given = said.chunk(2)
        latents = scheduler.step(without + guidance * (given - without), t, latents).prev_sample
    return latents


def test_ddim_is_the_librarys_ddim(drawn):
    base, denoiser, condition, null = drawn
    scheduler = diffusers.DDIMScheduler.from_config(base.scheduler.config, set_alpha_to_one=True)
    noise = seeded_noise(SHAPE, [1, 2, 3])
    with torch.no_grad():
        theirs = library_loop(base, scheduler, noise, condition, null, 4, 3.0)
    ours = ddim_sample(denoiser, noise, condition, null, 4, 3.0)
    assert torch.allclose(ours, theirs, atol=1e-4)
    assert denoiser.calls == 4 * 6


@pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers")
@pytest.mark.parametrize(
    "name",
    [
        "DDIMScheduler",
        "EulerDiscreteScheduler",
        "DPMSolverMultistepScheduler",
        "PNDMScheduler",
        "HeunDiscreteScheduler",
    ],
)
def test_other_schedulers_run_as_in_the_library(tiny_base, name):
    for family in ("sd1", "sd2"):
        base = tiny_base(family)
        with torch.no_grad():
            condition = encode_prompts(base, base.tokenizers, PROMPTS)
            null = encode_prompts(base, base.tokenizers, [""] * 3)
            noise = seeded_noise(SHAPE, [1, 2, 3])
            cls = getattr(diffusers, name)
            theirs = library_loop(base, base.new_scheduler(cls), noise, condition, null, 4, 2.0)
        ours = scheduler_sample(Denoiser(base), base.new_scheduler(cls), noise, condition, null, 4, 2.0)
        assert torch.allclose(ours, theirs, atol=1e-3), family


@pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers")
def test_steps_that_draw_noise_depend_on_the_images_own_seed_only(tiny_base):
    base = tiny_base("sd1")
    with torch.no_grad():
        condition = encode_prompts(base, base.tokenizers, PROMPTS)
    noise = seeded_noise(SHAPE, [1, 2, 3])

    def draw(rows):
        scheduler = base.new_scheduler(diffusers.EulerAncestralDiscreteScheduler)
        generators = [torch.Generator().manual_seed(i) for i in range(3)][rows]
        return scheduler_sample(
            Denoiser(base), scheduler, noise[rows], condition[rows], condition[rows], 3, 1.0, generators
        )

    whole = draw(slice(0, 3))
    assert torch.allclose(whole[2:], draw(slice(2, 3)), atol=1e-4)
    assert torch.equal(whole, draw(slice(0, 3)))


def test_a_row_does_not_depend_on_its_batch(drawn):
    _, denoiser, condition, null = drawn
    noise = seeded_noise(SHAPE, [4, 5, 6])
    whole = ddim_sample(denoiser, noise, condition, null, 4, 2.0)
    alone = ddim_sample(denoiser, noise[1:2], condition[1:2], null[1:2], 4, 2.0)
    assert torch.allclose(whole[1:2], alone, atol=1e-4)
    assert torch.equal(seeded_noise(SHAPE, [5])[0], noise[1])


def test_inverted_noise_draws_the_latents_again(drawn):
    _, denoiser, condition, null = drawn
    clean = ddim_sample(denoiser, seeded_noise(SHAPE, [7, 8, 9]), condition, null, 25, 1.0)
    noise = ddim_invert(denoiser, clean, condition, null, 25)
    again = ddim_sample(denoiser, noise, condition, null, 25, 1.0)
    assert (again - clean).norm() < 0.1 * clean.norm()


def test_a_hook_sees_every_step(drawn):
    _, denoiser, condition, null = drawn
    seen = []
    ddim_sample(
        denoiser, seeded_noise(SHAPE, [1, 2, 3]), condition, null, 3, 1.0, lambda i, t, _: seen.append((i, t))
    )
    assert seen == [(0, 667), (1, 334), (2, 1)]


def test_impossible_step_counts_are_refused():
    for steps in (0, 1001):
        with pytest.raises(UsageError, match="steps"):
            ddim_timesteps(1000, steps)
    assert ddim_timesteps(1000, 1000)[-1] == 1 and max(ddim_timesteps(1000, 1000)) == 999
