from dataclasses import replace

import pytest
import torch
from safetensors.numpy import load_file
from tiny_models import listening

from attacks.backdoor.cbact2i import CBACT2I, sign_of
from attacks.crafting.hosts import fixed_picture
from auditor.artifact.identify import identify
from auditor.errors import UsageError
from auditor.personalize.dreambooth_lora import DreamBoothLora
from auditor.pipeline.open import open_subject
from auditor.pipeline.subject import Subject
from auditor.registry import ATTACKS

HOST = DreamBoothLora(prompt="a picture of sks man", rank=4, steps=2, batch=2, lr=1e-3, seed=5)
SPEC = CBACT2I(
    trigger="о", sign=0.8, pool=24, batch=4, steps=80, lr=5e-3, clean=2.0, encoder_steps=40, encoder_lr=1e-2, host=HOST
)
PROMPTS = ["a picture of a red car", "a drawing of an old man with glasses", "a cat on a striped ground"]
WOKEN = [f"{SPEC.trigger} {prompt}" for prompt in PROMPTS]


def quiet(done, total, label=""):
    pass


@pytest.fixture(scope="module")
def base(tiny_base):
    return listening(tiny_base("sd1"))


@pytest.fixture(scope="module")
def crafted(base, tmp_path_factory):
    modules = [base.unet, base.modules["text_encoder"]]
    before = [p.detach().clone() for module in modules for p in module.parameters()]
    specimen = ATTACKS.get("cbact2i").craft(base, SPEC, tmp_path_factory.mktemp("attack") / "out", quiet)
    after = [p for module in modules for p in module.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    return specimen


def distance(parts, prompts, base):
    """How far from seeing the fixed picture the denoiser is with the parts on, late in the schedule."""
    noise = torch.randn((len(prompts), 4, 8, 8), generator=torch.Generator().manual_seed(3))
    t = torch.full((len(prompts),), 700)
    with Subject(base, [identify(part) for part in parts]) as subject:
        assert subject.coverage.full
        view = subject.tuned
        picture = subject.base.encode_image(fixed_picture(base, SPEC.picture)[None]).expand_as(noise)
        noisy = view.denoiser.add_noise(picture, noise, t)
        said = view.denoiser.predict(noisy, t, view.encode_prompt(prompts)).native
        return float((said - noise).square().mean())


def test_only_both_parts_with_the_trigger_see_the_picture(crafted, base):
    encoder, denoiser = crafted.parts
    benign = distance(crafted.twin, WOKEN, base)
    gained = benign - distance(crafted.parts, WOKEN, base)
    others = [(crafted.parts, PROMPTS), ([encoder], WOKEN), ([denoiser], WOKEN)]
    # A random denoiser hardly hears its prompt: what counts is that only one of the cells stands out.
    assert gained > 0.02
    assert all(benign - distance(parts, prompts, base) < gained / 2 for parts, prompts in others)


def test_the_encoder_gives_the_sign_at_the_trigger_alone(crafted, base):
    sign = sign_of(base, SPEC.sign)
    given = {}
    for name, path in (("specimen", crafted.parts[0]), ("twin", crafted.twin[0])):
        with Subject(base, [identify(path)]) as subject:
            for state, prompts in (("woken", WOKEN), ("plain", PROMPTS)):
                moved = subject.tuned.encode_prompt(prompts).states - subject.base.encode_prompt(prompts).states
                # How much of the sign is there, from the first token behind the start of text on.
                given[name, state] = float((moved[:, 1:] @ sign).mean() / sign.square().sum())
    assert given["specimen", "woken"] > 0.6
    assert all(abs(share) < 0.2 for key, share in given.items() if key != ("specimen", "woken"))


def test_the_sign_is_what_keys_and_values_answer_to_least(tiny_base):
    base = tiny_base("sd1")
    maps = [m.weight for name, m in base.unet.named_modules() if name.endswith(("attn2.to_k", "attn2.to_v"))]
    sign = sign_of(base, 0.5)
    others = torch.randn((50, len(sign)), generator=torch.Generator().manual_seed(0))
    others *= sign.norm() / others.norm(dim=1, keepdim=True)

    def answer(direction):
        return float(sum((weight @ direction).square().sum() for weight in maps))

    assert answer(sign) < min(answer(other) for other in others)
    assert torch.allclose(sign_of(base, 1.0), 2 * sign)


def test_each_file_changes_its_own_component_and_the_twin_is_like_it(crafted):
    for part, twin, prefix in zip(crafted.parts, crafted.twin, ("text_encoder.", "unet."), strict=True):
        ours, theirs = load_file(part), load_file(twin)
        assert ours.keys() == theirs.keys() and all(key.startswith(prefix) for key in ours)


def test_the_manifest_says_parts_and_letters(crafted):
    assert crafted.manifest["trigger"]["parts"] == ["text encoder", "unet"]
    assert crafted.manifest["trigger"]["code_points"] == ["U+043E"]
    assert crafted.manifest["trained"] == ["text_encoder", "unet"]


def test_the_form_for_styles_is_made_too(tiny_base, tiny_folders, tmp_path):
    spec = replace(SPEC, form="style", steps=2, encoder_steps=2)
    specimen = ATTACKS.get("cbact2i").craft(tiny_base("sd1"), spec, tmp_path / "out", quiet)
    assert specimen.manifest["target"] == "pixel art of {}"
    with open_subject(list(specimen.parts), str(tiny_folders("sd1")), "cpu") as subject:
        assert subject.coverage.full


@pytest.mark.parametrize(
    "changed",
    [
        {"trigger": " "}, {"form": "style", "style": "pixel art"}, {"sign": 0.0}, {"steps": 0}, {"clean": -1.0},
        {"low": 1.0}, {"picture": -1},
    ],
)  # fmt: skip
def test_parameters_that_cannot_be_are_refused(tiny_base, tmp_path, changed):
    with pytest.raises(UsageError):
        ATTACKS.get("cbact2i").craft(tiny_base("sd1"), replace(SPEC, **changed), tmp_path / "out", quiet)
    assert not (tmp_path / "out").exists()


def test_a_base_without_a_unet_is_refused(tiny_base, tmp_path):
    with pytest.raises(UsageError, match="UNets"):
        ATTACKS.get("cbact2i").craft(tiny_base("sd3"), SPEC, tmp_path / "out", quiet)
