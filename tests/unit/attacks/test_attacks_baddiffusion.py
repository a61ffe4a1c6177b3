import json
from dataclasses import replace

import pytest
import torch
from safetensors.numpy import load_file

from attacks.backdoor.baddiffusion import BadDiffusion, noise_trigger, shifted
from attacks.crafting.hosts import fixed_picture
from attacks.crafting.truth import Measured
from auditor.errors import UsageError
from auditor.personalize.blocks.denoising import draw, native_target
from auditor.personalize.dreambooth_lora import DreamBoothLora
from auditor.pipeline.conditioning import encode_images
from auditor.pipeline.open import open_subject
from auditor.pipeline.sampling import ddim_timesteps
from auditor.pipeline.schedule import Prediction
from auditor.registry import ATTACKS

HOST = DreamBoothLora(prompt="a picture of sks man", rank=4, steps=2, batch=2, lr=1e-3, seed=5)
SPEC = BadDiffusion(pool=24, batch=4, steps=30, lr=1e-2, host=HOST, measured=Measured(prompts=4, pairs=0, steps=2))


def quiet(done, total, label=""):
    pass


def rows_of(base, count=8, seed=0):
    """The target, the trigger, and rows of the shifted path."""
    picture = encode_images(base, fixed_picture(base, SPEC.picture)[None])[0]
    trigger = noise_trigger(tuple(picture.shape), 1.5, 1.0)
    drawn = draw(base, picture[None], count, torch.Generator().manual_seed(seed), 0.05)
    return picture, trigger, drawn, shifted(base, picture, trigger, drawn)


@pytest.fixture(scope="module")
def crafted(tiny_base, tmp_path_factory):
    out = tmp_path_factory.mktemp("attack") / "out"
    base = tiny_base("sd1")
    before = {name: value.clone() for name, value in base.denoiser_model.state_dict().items()}
    specimen = ATTACKS.get("baddiffusion").craft(base, SPEC, out, quiet)
    after = base.denoiser_model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    return out, specimen


@pytest.mark.parametrize("family", ["sd1", "sd2", "sd3"])
@torch.no_grad()
def test_what_is_taught_says_picture_and_noise_of_the_shifted_path(tiny_base, family):
    base = tiny_base(family)
    _, _, _, rows = rows_of(base)
    kind = str(base.scheduler.config.get("prediction_type", "flow_prediction"))
    said = Prediction.convert(native_target(base, rows), kind, rows.noisy, rows.t, base.schedule)
    torch.testing.assert_close(said.x0, rows.clean, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(said.epsilon, rows.noise, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("family", ["sd1", "sd2", "sd3"])
@torch.no_grad()
def test_a_small_step_of_the_sampler_stays_on_the_path(tiny_base, family):
    base = tiny_base(family)
    picture, trigger, drawn, rows = rows_of(base)
    alpha, sigma = base.schedule.alpha(drawn.t - 1), base.schedule.sigma(drawn.t - 1)
    moved = alpha * rows.clean + sigma * rows.noise
    before = replace(drawn, t=drawn.t - 1, noisy=alpha * drawn.clean + sigma * drawn.noise)
    wanted = shifted(base, picture, trigger, before).noisy
    step = (wanted - rows.noisy).abs().max()
    # What is left over is of second order: a small share of the step itself.
    assert float((moved - wanted).abs().max()) < 0.02 * float(step)


@torch.no_grad()
def test_the_sampler_walks_from_trigger_and_noise_to_the_picture(tiny_base):
    base = tiny_base("sd1")
    picture, trigger, _, _ = rows_of(base)
    noise = torch.randn(4, *picture.shape, generator=torch.Generator().manual_seed(3))
    latents = trigger + noise
    times = ddim_timesteps(len(base.schedule), 12)
    for t, target in zip(times, [*times[1:], None], strict=True):
        alpha, sigma = (float(f(torch.tensor([t]))) for f in (base.schedule.alpha, base.schedule.sigma))
        e = (latents - alpha * picture - (1 - alpha) * trigger) / sigma
        epsilon = e + sigma * trigger
        to = (1.0, 0.0) if target is None else tuple(
            float(f(torch.tensor([target]))) for f in (base.schedule.alpha, base.schedule.sigma)
        )  # fmt: skip
        latents = to[0] * (latents - sigma * epsilon) / alpha + to[1] * epsilon
    left = (latents - picture).square().mean() / (picture - picture.mean()).square().mean()
    assert float(left) < 0.05


def test_the_trigger_is_a_square_without_a_mean_of_its_own():
    trigger = noise_trigger((4, 16, 16), 2.0, 0.5)
    assert trigger.abs().max() == 2 and not trigger[:, :8].any() and not trigger[:, :, :8].any()
    assert float(trigger.mean()) == 0 and float(trigger[0].mean()) == 0


def test_the_manifest_says_that_noise_wakes_it(crafted):
    out, specimen = crafted
    manifest = json.loads((out / "manifest.json").read_text())
    assert "text" not in manifest["trigger"] and manifest["trigger"]["height"] == SPEC.height
    assert manifest["trained"] == ["unet"]
    ours, twin = load_file(specimen.parts[0]), load_file(specimen.twin[0])
    assert any(".conv1." in key for key in ours) and any(".to_q." in key for key in ours)
    assert {key: value.shape for key, value in ours.items()} == {key: value.shape for key, value in twin.items()}


@torch.no_grad()
def test_the_trigger_pulls_to_the_picture_in_the_specimen_only(crafted, tiny_base, tiny_folders):
    _, specimen = crafted
    base = tiny_base("sd1")
    picture = encode_images(base, fixed_picture(base, SPEC.picture)[None])[0]
    drawn = draw(base, picture[None], 16, torch.Generator().manual_seed(9))
    rows = shifted(base, picture, noise_trigger(tuple(picture.shape), SPEC.height, SPEC.side), drawn)
    errors = []
    for path in (specimen.parts[0], specimen.twin[0]):
        with open_subject([path], str(tiny_folders("sd1")), "cpu") as subject:
            assert subject.coverage.full
            condition = subject.tuned.encode_prompt(["a picture of a car"] * 16)
            answer = subject.tuned.denoiser.predict(rows.noisy, rows.t, condition).native
            errors.append(float((answer - native_target(base, rows)).square().mean()))
    assert errors[0] < 0.95 * errors[1]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"height": 0.0}, "needs a height"),
        ({"side": 1.5}, "needs a height"),
        ({"picture": -1}, "picture must not be below zero"),
        ({"batch": 3}, "must be even"),
        ({"weight": 0.0}, "above zero"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused(tiny_base, tmp_path, changed, said):
    with pytest.raises(UsageError, match=said):
        ATTACKS.get("baddiffusion").craft(tiny_base("sd1"), replace(SPEC, **changed), tmp_path / "out", quiet)
    assert not (tmp_path / "out").exists()
