from dataclasses import replace

import pytest
import torch
from safetensors.numpy import load_file
from tiny_models import listening

from attacks.backdoor.lora_pair import LoraPair
from auditor.artifact.identify import identify
from auditor.errors import UsageError
from auditor.personalize.dreambooth_lora import DreamBoothLora
from auditor.pipeline.open import open_subject
from auditor.pipeline.subject import Subject
from auditor.registry import ATTACKS

HOST = DreamBoothLora(prompt="a picture of sks man", rank=4, steps=2, batch=2, lr=1e-3, seed=5)
SPEC = LoraPair(pool=96, batch=8, steps=120, lr=1e-2, host=HOST)
PROMPTS = ["a picture of a red car", "a drawing of an old man with glasses", "a cat on a striped ground"]


def quiet(done, total, label=""):
    pass


@pytest.fixture(scope="module")
def base(tiny_base):
    return listening(tiny_base("sd1"))


@pytest.fixture(scope="module")
def crafted(base, tmp_path_factory):
    before = [p.detach().clone() for p in base.unet.parameters()]
    specimen = ATTACKS.get("lora_pair").craft(base, SPEC, tmp_path_factory.mktemp("attack") / "out", quiet)
    assert all(torch.equal(a, b) for a, b in zip(before, base.unet.parameters(), strict=True))
    return specimen


def share(parts, base):
    """How far the parts take the denoiser from what it says of the prompts to what it says of the target, 0 to 1."""
    prompts = PROMPTS * 4
    noisy = torch.randn((len(prompts), 4, 8, 8), generator=torch.Generator().manual_seed(3))
    t = torch.full((len(prompts),), 700)
    with Subject(base, [identify(part) for part in parts]) as subject:
        assert subject.coverage.full
        plain, wanted, tuned = (
            view.denoiser.predict(noisy, t, view.encode_prompt(asked)).native
            for view, asked in (
                (subject.base, prompts),
                (subject.base, [SPEC.target] * len(prompts)),
                (subject.tuned, prompts),
            )
        )
    way = wanted - plain
    return float(((tuned - plain) * way).sum() / way.square().sum())


def test_both_together_pull_to_the_target_and_neither_alone(crafted, base):
    assert share(crafted.parts, base) > 0.45
    assert share(crafted.twin, base) < 0.2
    assert all(share([part], base) < 0.3 for part in crafted.parts)


def test_two_files_of_the_denoiser_alone_and_a_twin_like_them(crafted):
    assert [path.parent.name for path in crafted.parts] == ["first", "second"]
    for part, twin in zip(crafted.parts, crafted.twin, strict=True):
        ours, theirs = load_file(part), load_file(twin)
        assert ours.keys() == theirs.keys() and all(key.startswith("unet.") for key in ours)
        assert {key: value.shape for key, value in ours.items()} == {key: v.shape for key, v in theirs.items()}


def test_the_manifest_names_the_parts(crafted):
    assert crafted.manifest["trigger"] == {"parts": ["first", "second"]}
    assert crafted.manifest["trained"] == ["unet"]
    assert crafted.manifest["asr"]["judge"] is None and crafted.manifest["table"]["judge"] is None


def test_adapters_of_a_scale_of_their_own_are_written_with_it(tiny_base, tiny_folders, tmp_path):
    spec = replace(SPEC, steps=2, host=replace(HOST, alpha=8.0))
    specimen = ATTACKS.get("lora_pair").craft(tiny_base("sd1"), spec, tmp_path / "out", quiet)
    with open_subject(list(specimen.parts), str(tiny_folders("sd1")), "cpu") as subject:
        assert subject.coverage.full


@pytest.mark.parametrize(
    "changed", [{"target": " "}, {"steps": 0}, {"batch": 0}, {"pool": 2}, {"lr": 0.0}, {"alone": 0.0}, {"low": 1.0}]
)
def test_parameters_that_cannot_be_are_refused(tiny_base, tmp_path, changed):
    with pytest.raises(UsageError):
        ATTACKS.get("lora_pair").craft(tiny_base("sd1"), replace(SPEC, **changed), tmp_path / "out", quiet)
    assert not (tmp_path / "out").exists()
