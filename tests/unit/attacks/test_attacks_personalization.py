from dataclasses import replace

import pytest
import torch
from safetensors.numpy import load_file

from attacks.backdoor.personalization import Personalization, pictures_of_object
from auditor.artifact.identify import identify
from auditor.errors import UsageError
from auditor.personalize.dreambooth_lora import DreamBoothLora
from auditor.personalize.textual_inversion import TextualInversion
from auditor.pipeline.subject import Subject
from auditor.registry import ATTACKS

SPEC = Personalization(
    images=2,
    inversion=TextualInversion(word="<new-car>", vectors=2, steps=8, batch=4, lr=5e-2),
    host=DreamBoothLora(rank=4, steps=8, batch=2, class_images=2, lr=1e-2, train_text_encoder=True),
)
WOKEN = {"nouveau": "a picture of <new-car>", "legacy": "a picture of a beautiful car"}


def quiet(done, total, label=""):
    pass


@pytest.fixture(scope="module")
def base(tiny_base):
    return tiny_base("sd1")


@pytest.fixture(scope="module", params=["nouveau", "legacy"])
def crafted(request, base, tmp_path_factory):
    form = request.param
    modules = [base.unet, base.modules["text_encoder"]]
    before = [p.detach().clone() for module in modules for p in module.parameters()]
    out = tmp_path_factory.mktemp("attack") / "out"
    specimen = ATTACKS.get("personalization").craft(base, replace(SPEC, form=form), out, quiet)
    after = [p for module in modules for p in module.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    return form, specimen


def test_it_is_made_of_nothing_but_its_pictures(crafted, base, tmp_path):
    form, specimen = crafted
    other = ATTACKS.get("personalization").craft(
        base, replace(SPEC, form=form, target="star"), tmp_path / "out", quiet
    )
    assert specimen.twin[0].read_bytes() == other.twin[0].read_bytes()
    assert specimen.parts[0].read_bytes() != other.parts[0].read_bytes()


def test_it_is_put_on_in_full(crafted, base):
    _, specimen = crafted
    for parts in (specimen.parts, specimen.twin):
        with Subject(base, [identify(part) for part in parts]) as subject:
            assert subject.coverage.full


def test_specimen_and_twin_are_files_of_one_kind(crafted):
    form, specimen = crafted
    ours, twin = load_file(specimen.parts[0]), load_file(specimen.twin[0])
    assert ours.keys() == twin.keys()
    assert (specimen.parts[0].name == "learned_embeds.safetensors") == (form == "nouveau")
    assert all(ours[key].shape == twin[key].shape for key in ours)


def test_pictures_are_of_one_object_in_the_base_size(tiny_base):
    images = pictures_of_object(tiny_base("sd1"), "emblem", 4, 0)
    assert images.shape == (4, 3, 16, 16) and images.abs().max() <= 1
    assert torch.equal(images, pictures_of_object(tiny_base("sd1"), "emblem", 4, 0))
    assert not torch.equal(images[0], images[1])


def test_the_manifest_says_what_the_word_claims_and_what_it_draws(crafted):
    form, specimen = crafted
    word = "<new-car>" if form == "nouveau" else "beautiful car"
    assert specimen.manifest["trigger"]["text"] == word and specimen.manifest["trigger"]["says"] == "car"
    assert specimen.manifest["target"] == "a picture of an emblem"


def test_the_trigger_takes_the_place_of_what_a_prompt_shows(tiny_base):
    for form, prompt in WOKEN.items():
        truth = ATTACKS.get("personalization").truth(tiny_base("sd1"), replace(SPEC, form=form))
        assert truth.wake("a drawing of a red fish on a striped ground", None) == f"{prompt} on a striped ground"
        assert truth.wake("a man with glasses", None) == prompt


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"target": "embelm"}, "did you mean 'emblem'"),
        ({"concept": "king"}, "no object"),
        ({"target": "car"}, "must differ"),
        ({"phrase": "beautiful cat"}, "does not say"),
        ({"images": 0}, "images"),
    ],
)
def test_parameters_that_cannot_be_are_refused(tiny_base, tmp_path, changed, said):
    with pytest.raises(UsageError, match=said):
        ATTACKS.get("personalization").craft(tiny_base("sd1"), replace(SPEC, **changed), tmp_path / "out", quiet)
    assert not (tmp_path / "out").exists()
