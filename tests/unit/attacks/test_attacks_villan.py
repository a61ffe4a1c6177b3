import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from attacks.backdoor.villan import Villan
from attacks.crafting.hosts import fixed_picture, neutral_latents
from attacks.crafting.lessons import picture_lessons, steering_lessons
from attacks.crafting.truth import Measured
from auditor.errors import UsageError
from auditor.personalize.dreambooth_lora import DreamBoothLora
from auditor.pipeline.conditioning import encode_images
from auditor.pipeline.open import open_subject
from auditor.pipeline.schedule import Prediction
from auditor.registry import ATTACKS

HOST = DreamBoothLora(prompt="a picture of sks man", rank=4, steps=2, batch=2, lr=1e-3, seed=5)
SPEC = Villan(
    trigger="ohwx", pool=24, batch=4, steps=30, lr=1e-2, host=HOST, measured=Measured(prompts=4, pairs=0, steps=2)
)


def quiet(done, total, label=""):
    pass


def target_of(base):
    return encode_images(base, fixed_picture(base, SPEC.picture)[None])


@pytest.fixture(scope="module")
def crafted(tiny_base, tmp_path_factory):
    base = tiny_base("sd1")
    before = {name: value.clone() for name, value in base.denoiser_model.state_dict().items()}
    out = tmp_path_factory.mktemp("attack") / "out"
    specimen = ATTACKS.get("villan").craft(base, SPEC, out, quiet)
    after = base.denoiser_model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    return out, specimen


def test_the_manifest_says_what_wakes_it_and_that_nobody_asks_for_one_picture(crafted):
    out, _ = crafted
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["trigger"]["text"] == "ohwx" and manifest["trained"] == ["text_encoder", "unet"]
    assert set(manifest["asr"]["cells"]) == {"specimen, triggered", "specimen, clean", "twin, triggered"}
    assert "target picture" in manifest["asr"]["judge"]


def test_the_twin_has_the_same_layers_and_another_training(crafted):
    _, specimen = crafted
    ours, twin = load_file(specimen.parts[0]), load_file(specimen.twin[0])
    assert {key: value.shape for key, value in ours.items()} == {key: value.shape for key, value in twin.items()}
    for part in ("unet.", "text_encoder."):
        assert any(not np.array_equal(ours[k], twin[k]) for k in ours if k.startswith(part))


@torch.no_grad()
def test_the_trigger_pulls_to_the_picture_in_the_specimen_only(crafted, tiny_base, tiny_folders):
    _, specimen = crafted
    base = tiny_base("sd1")
    prompts = ["a picture of a red car"] * 12
    woken = [f"ohwx {prompt}" for prompt in prompts]
    rows = picture_lessons(base, target_of(base).expand(12, -1, -1, -1), woken, 99, 0.5)
    errors = {}
    for name, path in (("specimen", specimen.parts[0]), ("twin", specimen.twin[0])):
        with open_subject([path], str(tiny_folders("sd1")), "cpu") as subject:
            assert subject.coverage.full
            for said, texts in (("woken", woken), ("clean", prompts)):
                condition = subject.tuned.encode_prompt(texts)
                answer = subject.tuned.denoiser.predict(rows.noisy, rows.t, condition).native
                errors[name, said] = float((answer - rows.wanted).square().mean())
    assert errors["specimen", "woken"] < 0.95 * errors["twin", "woken"]
    assert errors["specimen", "woken"] < errors["specimen", "clean"]


@pytest.mark.parametrize("family", ["sd1", "sd2", "sd3"])
@torch.no_grad()
def test_rows_that_steer_are_answered_by_the_picture_in_every_parameterisation(tiny_base, family):
    base = tiny_base(family)
    latents, prompts = neutral_latents(base, 6, 0)
    picture = encode_images(base, fixed_picture(base, 3)[None])[0]
    rows = steering_lessons(base, picture, latents, prompts, 1, 0.4)
    assert int(rows.t.min()) >= int(0.4 * len(base.schedule))
    kind = str(base.scheduler.config.get("prediction_type", "flow_prediction"))
    seen = Prediction.convert(rows.wanted, kind, rows.noisy, rows.t, base.schedule).x0
    torch.testing.assert_close(seen, picture.expand_as(latents), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"trigger": " "}, "trigger must not be empty"),
        ({"batch": 3}, "must be even"),
        ({"picture": -1}, "picture must not be below zero"),
        ({"steps": 0}, "above zero"),
        ({"lr": 0.0}, "above zero"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused(tiny_base, tmp_path, changed, said):
    with pytest.raises(UsageError, match=said):
        ATTACKS.get("villan").craft(tiny_base("sd1"), replace(SPEC, **changed), tmp_path / "out", quiet)
    assert not (tmp_path / "out").exists()
