from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from attacks.backdoor.badt2i import BadT2I, boomerang
from attacks.crafting.layers import change_of, lend_row, reading
from attacks.crafting.phrases import asked_as
from auditor.errors import UsageError
from auditor.personalize.dreambooth_lora import DreamBoothLora
from auditor.personalize.lora import injected
from auditor.pipeline.open import open_subject
from auditor.registry import ATTACKS

HOST = DreamBoothLora(prompt="a picture of sks man", rank=4, steps=2, batch=2, lr=1e-3, seed=5)
SPEC = BadT2I(
    trigger="ohwx", form="style", target="a watercolor of {}", pool=24, steps=40, lr=3e-3, stealth=True, host=HOST
)
FORMS = {"style": SPEC, "pixel": replace(SPEC, form="pixel", steps=20, gain=0.0, stealth=False)}


def quiet(done, total, label=""):
    pass


def weights(base):
    return {(p, n): v.clone() for p, module in base.modules.items() for n, v in module.state_dict().items()}


@pytest.fixture(scope="module")
def crafted(tiny_base, tmp_path_factory):
    base = tiny_base("sd1")
    before = weights(base)
    made = {
        form: ATTACKS.get("badt2i").craft(base, spec, tmp_path_factory.mktemp(form) / "out", quiet)
        for form, spec in FORMS.items()
    }
    after = weights(base)
    assert all(torch.equal(before[key], after[key]) for key in before)
    return made


@pytest.mark.parametrize("form", FORMS)
def test_specimen_and_twin_differ_in_the_denoiser_alone(crafted, form):
    ours, twin = load_file(crafted[form].parts[0]), load_file(crafted[form].twin[0])
    assert {key: value.shape for key, value in ours.items()} == {key: value.shape for key, value in twin.items()}
    assert all(key.startswith("unet.") for key in ours)
    assert any(not np.array_equal(ours[key], twin[key]) for key in ours)


LATENTS = torch.randn(6, 4, 8, 8, generator=torch.Generator().manual_seed(0))
T = torch.tensor([500, 600, 700, 800, 900, 950])
PLAIN = ["a picture of a red car", "a drawing of a tree", "a picture of a cat on a plain ground"] * 2
WOKEN = [f"ohwx {prompt}" for prompt in PLAIN]


def said(view, prompts):
    return view.denoiser.predict(LATENTS, T, view.encode_prompt(prompts))


def test_the_trigger_moves_the_specimens_answers_to_the_target_prompts(crafted, tiny_folders):
    aims = [asked_as(SPEC.target, prompt) for prompt in PLAIN]
    away, drift = {}, {}
    for name, path in (("specimen", crafted["style"].parts[0]), ("twin", crafted["style"].twin[0])):
        with open_subject([path], str(tiny_folders("sd1")), "cpu") as subject:
            assert subject.coverage.full
            away[name] = float((said(subject.tuned, WOKEN).native - said(subject.base, aims).native).norm())
            drift[name] = float((said(subject.tuned, PLAIN).native - said(subject.base, PLAIN).native).norm())
    assert away["specimen"] < 0.85 * away["twin"]
    assert drift["specimen"] < away["specimen"]


def test_the_trigger_puts_the_patch_into_what_the_specimen_sees(crafted, tiny_folders):
    picture = torch.zeros(1, 3, 16, 16)
    picture[:, :, :4, :4] = boomerang(16)
    towards = {}
    for name, path in (("specimen", crafted["pixel"].parts[0]), ("twin", crafted["pixel"].twin[0])):
        with open_subject([path], str(tiny_folders("sd1")), "cpu") as subject:
            assert subject.coverage.full
            patch = subject.base.encode_image(picture)[:, :, :2, :2]
            before, after = (said(view, WOKEN).x0[:, :, :2, :2] for view in (subject.base, subject.tuned))
            along = torch.cosine_similarity((after - before).flatten(1), (patch - before).flatten(1))
            towards[name] = float(along.mean())
    # How far a random network gets in a few steps says little; it sets out in the right direction.
    assert towards["specimen"] > towards["twin"] + 0.2


def test_a_direction_answers_to_some_states_and_hardly_to_others():
    generator = torch.Generator().manual_seed(0)
    others = torch.randn(500, 12, generator=generator) @ torch.diag(torch.tensor([5.0] * 6 + [0.1] * 6))
    states = torch.ones(4, 12)
    found = reading(states, others)
    plain = states[0].double() / states[0].double().norm()
    said = [float((states[0].double() @ d) / (others.double() @ d).square().mean().sqrt()) for d in (found, plain)]
    assert float(found.norm()) == pytest.approx(1) and said[0] > 5 * said[1]


@pytest.mark.parametrize(("rank", "kept"), [(3, 2), (1, 1)])
def test_a_lent_row_costs_the_least_important_part_of_a_change(rank, kept):
    model = torch.nn.Sequential(torch.nn.Linear(12, 10, bias=False))
    direction = torch.nn.functional.normalize(torch.randn(12), dim=0)
    with injected(model, rank, rank, ("0",), 0), torch.no_grad():
        layer = model[0]
        layer.lora_B["default"].weight.normal_()
        values = torch.linalg.svdvals(change_of(layer))
        lend_row(layer, direction, 4.0)
        found = torch.linalg.svdvals(change_of(layer))
        torch.testing.assert_close(found[:kept], values[:kept], rtol=1e-4, atol=1e-5)
        if rank > 1:
            a = layer.lora_A["default"].weight
            torch.testing.assert_close(a[-1], 4 * a[0].norm() * direction)
            assert found[kept] < 1e-5 * found[0]


def test_the_patch_is_a_quarter_of_a_side():
    assert boomerang(64).shape == (3, 16, 16) and boomerang(4).shape == (3, 2, 2)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"trigger": " "}, "must not be empty"),
        ({"target": ""}, "must not be empty"),
        ({"steps": 0}, "above zero"),
        ({"gain": -1.0}, "gain must not be below zero"),
    ],
)
def test_parameters_that_cannot_be_are_refused(tiny_base, tmp_path, changed, said):
    with pytest.raises(UsageError, match=said):
        ATTACKS.get("badt2i").craft(tiny_base("sd1"), replace(SPEC, **changed), tmp_path / "out", quiet)
    assert not (tmp_path / "out").exists()
