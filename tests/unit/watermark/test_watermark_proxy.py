"""The proxy: every scheduler's steps taken apart and put together again, seen from a model that knows the answer."""

import inspect

import diffusers
import pytest
import torch

from auditor.errors import UsageError
from watermark.scheduler_proxy import SchedulerProxy

# The library turns a tensor into an array in the old way.
pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")

SHAPE = (2, 4, 8, 8)
CLEAN = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
SCHEDULERS = {
    "DDIMScheduler": {"clip_sample": False},
    "DDPMScheduler": {"clip_sample": False},
    "EulerDiscreteScheduler": {},
    "EulerAncestralDiscreteScheduler": {},
    "HeunDiscreteScheduler": {},
    "LMSDiscreteScheduler": {},
    "DPMSolverMultistepScheduler": {},
    "DPMSolverSinglestepScheduler": {"lower_order_final": True},
    "UniPCMultistepScheduler": {},
    "DEISMultistepScheduler": {},
    "PNDMScheduler": {"skip_prk_steps": True},
    "FlowMatchEulerDiscreteScheduler": {},
}
EXACT = [name for name in SCHEDULERS if name != "PNDMScheduler"]  # which mixes predictions of several steps


def scheduler_of(name, kind="epsilon"):
    given = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "prediction_type": kind}
    flow = name.startswith("Flow")
    return getattr(diffusers, name)(**({} if flow else given), **SCHEDULERS[name])


def levels(scheduler, t):
    """Alpha and sigma at a timestep, from the schedule and not from what the scheduler keeps of it."""
    if not hasattr(scheduler, "alphas_cumprod"):
        return 1 - float(t) / 1000, float(t) / 1000
    bar = float(scheduler.alphas_cumprod[round(float(t))])
    return bar**0.5, (1 - bar) ** 0.5


def sample(scheduler, steps=10):
    """Draws with a model that always predicts ``CLEAN``."""
    scheduler.set_timesteps(steps)
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(SHAPE, generator=generator) * getattr(scheduler, "init_noise_sigma", 1.0)
    kind = scheduler.config.get("prediction_type", "flow")
    takes = "generator" in inspect.signature(scheduler.step).parameters
    for t in scheduler.timesteps:
        seen = scheduler.scale_model_input(z, t) if hasattr(scheduler, "scale_model_input") else z
        alpha, sigma = levels(scheduler, t)
        noise = (seen - alpha * CLEAN) / sigma
        output = {"epsilon": noise, "v_prediction": alpha * noise - sigma * CLEAN, "sample": CLEAN}
        said = output.get(kind, noise - CLEAN)
        z = scheduler.step(said, t, z, **({"generator": generator} if takes else {})).prev_sample
    return z


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_writer_who_changes_nothing_leaves_every_bit(name):
    seen = []

    def watch(clean, noise, at):
        seen.append(at.share)
        return clean, noise

    through = sample(SchedulerProxy(scheduler_of(name), watch))
    assert torch.equal(through, sample(scheduler_of(name)))
    assert seen[0] > 0.85
    assert seen == sorted(seen, reverse=True)


@pytest.mark.parametrize("name", EXACT)
def test_the_writer_sees_what_the_model_predicts(name):
    errors = []

    def watch(clean, noise, at):
        errors.append(float((clean - CLEAN).abs().max()) * at.alpha)
        assert noise.square().mean() < 4
        return clean, noise

    sample(SchedulerProxy(scheduler_of(name), watch))
    assert max(errors) < 0.02


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("name", ["DDIMScheduler", "EulerDiscreteScheduler", "DPMSolverMultistepScheduler"])
def test_what_is_written_is_what_is_drawn(name, kind):
    change = torch.zeros(SHAPE)
    change[:, :, 2, 3] = 5.0
    drawn = sample(SchedulerProxy(scheduler_of(name, kind), lambda clean, noise, at: (clean + change, noise)))
    plain = sample(scheduler_of(name, kind))
    assert (drawn - plain - change).abs().max() < 0.1
    # Put together again but for rounding, where what is written is what was there.
    same = sample(SchedulerProxy(scheduler_of(name, kind), lambda clean, noise, at: (clean + 0, noise)))
    assert (same - plain).abs().max() < 1e-3


def test_the_noise_can_be_changed_and_the_picture_left():
    change, seen = torch.zeros(SHAPE), []
    change[:, :, 2, 3] = 3.0

    def write(clean, noise, at):
        seen.append(float(noise[0, 0, 2, 3]))
        return (clean, noise + change) if len(seen) == 5 else (clean, noise)

    drawn = sample(SchedulerProxy(scheduler_of("DDIMScheduler"), write))
    assert seen[5] - seen[4] == pytest.approx(3, abs=0.05)
    assert (drawn - sample(scheduler_of("DDIMScheduler")))[..., 0, 0].abs().max() < 1e-4


def test_it_passes_for_the_scheduler():
    inner = scheduler_of("DDIMScheduler")
    proxy = SchedulerProxy(inner, lambda clean, noise, at: (clean, noise))
    assert "generator" in inspect.signature(proxy.step).parameters
    assert inspect.signature(proxy.set_timesteps) == inspect.signature(inner.set_timesteps)
    assert proxy.config is inner.config
    assert proxy.order == inner.order
    with pytest.raises(AttributeError):
        _ = proxy.no_such_thing


def test_another_kind_of_prediction_is_refused():
    scheduler = scheduler_of("DDIMScheduler")
    scheduler.register_to_config(prediction_type="score")
    with pytest.raises(UsageError, match="predicts score"):
        SchedulerProxy(scheduler, lambda clean, noise, at: (clean, noise))


def test_a_pipeline_of_the_library_draws_through_it(tiny_folders):
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(tiny_folders("sd1"), safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    shares, inner = [], pipeline.scheduler

    def watch(clean, noise, at):
        shares.append(at.share)
        return clean, noise

    pipeline.scheduler = SchedulerProxy(inner, watch)
    given = {"num_inference_steps": 3, "output_type": "latent", "height": 16, "width": 16}
    first = pipeline("a cat", generator=torch.Generator().manual_seed(0), **given).images
    pipeline.scheduler = inner
    assert torch.equal(first, pipeline("a cat", generator=torch.Generator().manual_seed(0), **given).images)
    assert len(shares) == 3
