import pytest
import torch
from diffusers import DDIMScheduler

from auditor.pipeline.schedule import NoiseSchedule, Prediction

KINDS = ("epsilon", "v_prediction", "sample")
FIELD = {"epsilon": "epsilon", "v_prediction": "velocity", "sample": "x0"}


@pytest.fixture
def drawn():
    scheduler = DDIMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, clip_sample=False
    )
    generator = torch.Generator().manual_seed(1)
    clean, noise = torch.randn(2, 5, 4, 3, 3, generator=generator)
    t = torch.tensor([0, 10, 400, 800, 999])
    return scheduler, NoiseSchedule.of(scheduler), clean, noise, t


def test_noise_is_added_as_the_library_does(drawn):
    scheduler, schedule, clean, noise, t = drawn
    ours = schedule.alpha(t) * clean + schedule.sigma(t) * noise
    assert torch.allclose(ours, scheduler.add_noise(clean, noise, t), atol=1e-6)


def test_velocity_of_known_noise_is_the_librarys(drawn):
    scheduler, schedule, clean, noise, t = drawn
    noisy = schedule.alpha(t) * clean + schedule.sigma(t) * noise
    said = Prediction.convert(noise, "epsilon", noisy, t, schedule)
    assert torch.allclose(said.velocity, scheduler.get_velocity(clean, noise, t), atol=1e-4)
    assert torch.allclose(said.x0, clean, atol=1e-3)


@pytest.mark.parametrize("start", KINDS)
@pytest.mark.parametrize("via", KINDS)
def test_any_parameterisation_converts_to_any_other_and_back(drawn, start, via):
    _, schedule, clean, noise, t = drawn
    latents = schedule.alpha(t) * clean + schedule.sigma(t) * noise
    native = torch.randn(latents.shape, generator=torch.Generator().manual_seed(2))
    first = Prediction.convert(native.double(), start, latents.double(), t, schedule)
    second = Prediction.convert(getattr(first, FIELD[via]), via, latents.double(), t, schedule)
    for name in ("epsilon", "velocity", "x0"):
        assert torch.allclose(getattr(first, name), getattr(second, name), rtol=1e-4, atol=1e-4)


def test_log_snr_falls_and_crosses_zero(drawn):
    _, schedule, *_ = drawn
    values = schedule.log_snr(torch.arange(len(schedule))).flatten()
    assert (values.diff() < 0).all() and values[0] > 0 > values[-1]


def test_an_unknown_prediction_type_is_named(drawn):
    _, schedule, clean, _, t = drawn
    with pytest.raises(ValueError, match="flow"):
        Prediction.convert(clean, "flow", clean, t, schedule)


def test_joined_predictions_keep_their_order(drawn):
    _, schedule, clean, _, t = drawn
    whole = Prediction.convert(clean, "epsilon", clean, t, schedule)
    parts = [
        Prediction.convert(clean[r], "epsilon", clean[r], t[r], schedule) for r in (slice(0, 2), slice(2, 5))
    ]
    assert torch.equal(Prediction.join(parts).velocity, whole.velocity)
