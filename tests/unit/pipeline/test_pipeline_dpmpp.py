import diffusers
import pytest
import torch

from auditor.errors import UsageError
from auditor.pipeline.conditioning import encode_prompts
from auditor.pipeline.denoiser import Denoiser
from auditor.pipeline.dpmpp import dpmpp_invert, dpmpp_sample
from auditor.pipeline.sampling import ddim_invert, ddim_sample, scheduler_sample, seeded_noise
from auditor.pipeline.subject import Subject

PROMPTS = ["a picture of a red ball", "a drawing of a cat"]
SHAPE = (4, 8, 8)
FAMILIES = ("sd1", "sd2", "sdxl")


@pytest.fixture(params=FAMILIES)
def drawn(request, tiny_base):
    base = tiny_base(request.param)
    with torch.no_grad():
        condition = encode_prompts(base, base.tokenizers, PROMPTS)
        null = encode_prompts(base, base.tokenizers, ["", ""])
    return base, condition, null, seeded_noise(SHAPE, [1, 2])


def error(found, noise):
    return float((found - noise).norm() / noise.norm())


@pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers")
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("steps", [1, 6, 16])
def test_the_solver_is_the_librarys(drawn, steps, spacing, monkeypatch):
    base, condition, null, noise = drawn
    scheduler = base.new_scheduler(
        diffusers.DPMSolverMultistepScheduler,
        algorithm_type="dpmsolver++", solver_order=2, solver_type="midpoint", timestep_spacing=spacing,
    )  # fmt: skip
    monkeypatch.setattr(base, "scheduler", scheduler)
    theirs = scheduler_sample(Denoiser(base), base.new_scheduler(), noise, condition, null, steps, 2.0)
    denoiser, seen = Denoiser(base), []
    ours = dpmpp_sample(denoiser, noise, condition, null, steps, 2.0, lambda i, t, _: seen.append((i, t)))
    scheduler.set_timesteps(steps)
    assert seen == list(enumerate(scheduler.timesteps.tolist()))
    assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-4)
    assert denoiser.calls == 2 * steps * len(noise)


def test_inversion_of_the_solver_finds_the_noise_again(drawn):
    base, condition, null, noise = drawn
    denoiser = Denoiser(base)

    def found(steps, refine):
        clean = dpmpp_sample(denoiser, noise, condition, null, steps, 1.0)
        return error(dpmpp_invert(denoiser, clean, condition, null, steps, 1.0, refine), noise)

    assert found(8, 0) < found(3, 0)
    errors = [found(3, refine) for refine in (0, 3, 16)]
    assert errors[2] < errors[1] < errors[0] and errors[2] < 1e-3


def test_ddim_inversion_can_be_refined_to_the_same_end(drawn):
    base, condition, null, noise = drawn
    denoiser = Denoiser(base)
    clean = ddim_sample(denoiser, noise, condition, null, 4, 1.0)
    plain, refined = (
        error(ddim_invert(denoiser, clean, condition, null, 4, 1.0, refine), noise) for refine in (0, 12)
    )
    assert refined < 1e-3 and refined < plain / 5


def test_images_are_inverted_by_the_method_that_is_named(tiny_base):
    view = Subject(tiny_base("sd1"), []).base
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    ddim, solver = (view.invert(images, PROMPTS, steps=4, method=name) for name in ("ddim", "dpmpp"))
    assert ddim.shape == solver.shape == (2, *SHAPE) and not torch.equal(ddim, solver)
    assert torch.equal(ddim, view.invert(images, PROMPTS, steps=4))


def test_impossible_step_counts_are_refused(tiny_base):
    base = tiny_base("sd1")
    with torch.no_grad():
        condition = encode_prompts(base, base.tokenizers, PROMPTS)
    for steps in (0, 501):
        with pytest.raises(UsageError, match="steps"):
            dpmpp_sample(Denoiser(base), seeded_noise(SHAPE, [1, 2]), condition, condition, steps, 1.0)
