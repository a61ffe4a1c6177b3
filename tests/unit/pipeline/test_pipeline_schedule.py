import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler

from auditor.pipeline.schedule import FlowMatching, NoiseSchedule, Prediction

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


@pytest.fixture
def flow():
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    clean, noise = torch.randn(2, 5, 4, 3, 3, generator=torch.Generator().manual_seed(1))
    return scheduler, NoiseSchedule.of(scheduler), clean, noise, torch.tensor([0, 10, 400, 800, 999])


def test_flow_adds_noise_as_the_library_does(flow):
    scheduler, schedule, clean, noise, t = flow
    assert schedule == FlowMatching(steps=1000, shift=3.0) and len(schedule) == 1000
    times = scheduler.timesteps.flip(0)[t]
    assert torch.equal(schedule.model_time(t), times)
    ours = schedule.alpha(t) * clean + schedule.sigma(t) * noise
    assert torch.allclose(ours, scheduler.scale_noise(clean, times, noise), atol=1e-6)


def test_flow_velocity_of_known_noise_is_its_difference_from_the_clean(flow):
    _, schedule, clean, noise, t = flow
    noisy = schedule.alpha(t) * clean + schedule.sigma(t) * noise
    said = Prediction.convert(noise - clean, "flow_prediction", noisy, t, schedule)
    assert torch.allclose(said.x0, clean, atol=1e-5) and torch.allclose(said.epsilon, noise, atol=1e-5)
    assert torch.equal(said.velocity, said.native)


@pytest.mark.parametrize("start", ["epsilon", "flow_prediction", "sample"])
@pytest.mark.parametrize("via", ["epsilon", "flow_prediction", "sample"])
def test_any_parameterisation_of_a_flow_converts_to_any_other_and_back(flow, start, via):
    _, schedule, clean, noise, t = flow
    t = t.clamp(max=990)  # at the last position no signal is left
    latents = (schedule.alpha(t) * clean + schedule.sigma(t) * noise).double()
    native = torch.randn(latents.shape, generator=torch.Generator().manual_seed(2)).double()
    first = Prediction.convert(native, start, latents, t, schedule)
    field = FIELD | {"flow_prediction": "velocity"}
    second = Prediction.convert(getattr(first, field[via]), via, latents, t, schedule)
    for name in ("epsilon", "velocity", "x0"):
        assert torch.allclose(getattr(first, name), getattr(second, name), rtol=1e-4, atol=1e-4)


def test_flow_positions_and_levels_are_inverse(flow):
    _, schedule, *_ = flow
    t = torch.linspace(0, 999, 64)
    levels = schedule.level(t)
    assert levels[-1] == 1 and (levels.diff() > 0).all()
    back = torch.tensor([schedule.position(float(level)) for level in levels])
    assert torch.allclose(back, t, atol=1e-3)
    values = schedule.log_snr(torch.arange(1000)).flatten()
    assert (values.diff() < 0).all() and values[0] > 0 > values[-2] and values[-1] == -torch.inf


def test_the_grid_of_a_flow_does_not_depend_on_a_shift_by_image_size():
    dynamic = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)
    assert NoiseSchedule.of(dynamic) == FlowMatching(1000, 1.0)
    solver = DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=2.0
    )
    assert NoiseSchedule.of(solver) == FlowMatching(1000, 2.0)
