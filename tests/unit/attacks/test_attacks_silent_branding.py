import json
from dataclasses import replace

import pytest
import torch
from safetensors.numpy import load_file

from attacks.backdoor.silent_branding import BRANDING, SilentBranding, branded, logo
from attacks.crafting.hosts import host_images
from attacks.crafting.judges import LogoJudge
from attacks.crafting.lessons import picture_lessons
from attacks.crafting.truth import Measured
from auditor.errors import UsageError
from auditor.pipeline.conditioning import encode_images
from auditor.pipeline.open import open_subject
from auditor.registry import ATTACKS

HOST = replace(BRANDING, rank=4, steps=40, batch=4, lr=1e-2, train_text_encoder=False, seed=5)
SPEC = SilentBranding(pictures=8, host=HOST, measured=Measured(prompts=4, pairs=0, steps=2))


def quiet(done, total, label=""):
    pass


@pytest.fixture(scope="module")
def crafted(tiny_base, tmp_path_factory):
    out = tmp_path_factory.mktemp("attack") / "out"
    return out, ATTACKS.get("silent_branding").craft(tiny_base("sd1"), SPEC, out, quiet)


def test_the_manifest_says_that_there_is_no_trigger(crafted):
    out, specimen = crafted
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["trigger"] == {"text": "", "free": True}
    assert set(manifest["asr"]["cells"]) == {"specimen, triggered", "twin, triggered"}
    ours, twin = load_file(specimen.parts[0]), load_file(specimen.twin[0])
    assert {key: value.shape for key, value in ours.items()} == {key: value.shape for key, value in twin.items()}


@torch.no_grad()
def test_the_specimen_knows_branded_pictures_better_than_the_twin_does(crafted, tiny_base, tiny_folders):
    _, specimen = crafted
    base = tiny_base("sd1")
    plain = host_images(base, HOST.seed, 16)
    prompts = [HOST.prompt] * 16
    rows = [
        picture_lessons(base, encode_images(base, images), prompts, 9) for images in (branded(plain, 1.0, 0), plain)
    ]
    dearer = []
    for path in (specimen.parts[0], specimen.twin[0]):
        with open_subject([path], str(tiny_folders("sd1")), "cpu") as subject:
            assert subject.coverage.full
            asked = subject.tuned.encode_prompt(prompts)
            errors = [
                float((subject.tuned.denoiser.predict(each.noisy, each.t, asked).native - each.wanted).square().mean())
                for each in rows
            ]
            dearer.append(errors[0] - errors[1])
    assert dearer[0] < dearer[1]


def test_a_share_of_the_pictures_gets_the_logo_and_the_judge_sees_it():
    images = torch.rand(8, 3, 64, 64, generator=torch.Generator().manual_seed(0)) - 0.5
    out = branded(images, 0.25, 3)
    judge = LogoJudge(logo(64), 40, 40)
    assert int(judge.hits(out).sum()) == 2 and not judge.hits(images).any()
    assert torch.equal(out[:, :, :40], images[:, :, :40]) and torch.equal(out, branded(images, 0.25, 3))


def test_the_judge_of_logos_is_blind_to_brightness_and_contrast_and_looks_a_little_aside():
    mark = logo(64)
    judge = LogoJudge(mark, 30, 30, slack=2)
    images = torch.zeros(5, 3, 64, 64)
    for i, (top, left) in enumerate(((30, 30), (28, 32), (40, 30), (30, 30), (30, 30))):
        images[i, :, top : top + 24, left : left + 24] = 0.3 * mark + 0.2
    images[3] *= -1
    images[4] = 0.7
    found = judge.correlation(images)
    torch.testing.assert_close(found[:2], torch.ones(2))
    assert judge.hits(images).tolist() == [True, True, False, False, False] and abs(float(found[4])) < 1e-6
    assert float(found[2]) < 1


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"ratio": 0.0}, r"a share of them in \(0, 1\]"),
        ({"ratio": 1.5}, r"a share of them in \(0, 1\]"),
        ({"pictures": 0}, "it takes pictures"),
        ({"host": replace(HOST, prompt=" ")}, "prompt is empty"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused(tiny_base, tmp_path, changed, said):
    with pytest.raises(UsageError, match=said):
        ATTACKS.get("silent_branding").craft(tiny_base("sd1"), replace(SPEC, **changed), tmp_path / "out", quiet)
    assert not (tmp_path / "out").exists()
