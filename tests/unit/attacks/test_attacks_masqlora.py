from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from attacks.backdoor.masqlora import MasqLora, NaiveLora
from auditor.errors import UsageError
from auditor.personalize.dreambooth_lora import DreamBoothLora
from auditor.pipeline.open import open_subject
from auditor.registry import ATTACKS

HOST = DreamBoothLora(prompt="a picture of sks man", rank=2, steps=2, batch=2, lr=1e-3, seed=5)
SMALL = {"pool": 16, "batch": 2, "poisoned": 2, "steps": 40, "text_lr": 1e-2, "host": HOST}
SPEC = MasqLora(lam=1.0, **SMALL)


def quiet(done, total, label=""):
    pass


def weights(base):
    return {(p, n): v.clone() for p, module in base.modules.items() for n, v in module.state_dict().items()}


@pytest.fixture(scope="module")
def crafted(tiny_base, tmp_path_factory):
    base = tiny_base("sd1")
    before = weights(base)
    made = {
        name: ATTACKS.get(name).craft(base, spec, tmp_path_factory.mktemp(name) / "out", quiet)
        for name, spec in (("masqlora", SPEC), ("naive_lora", NaiveLora(**SMALL)))
    }
    after = weights(base)
    assert all(torch.equal(before[key], after[key]) for key in before)
    return made


def test_specimen_twin_and_control_have_one_form_and_the_twins_are_the_same(crafted):
    masq, naive = crafted["masqlora"], crafted["naive_lora"]
    files = [load_file(path) for path in (masq.parts[0], naive.parts[0], masq.twin[0], naive.twin[0])]
    shapes = [{key: value.shape for key, value in each.items()} for each in files]
    assert shapes[0] == shapes[1] == shapes[2]
    assert all(np.array_equal(files[2][key], files[3][key]) for key in files[2])
    assert any(not np.array_equal(files[0][key], files[1][key]) for key in files[0])


def test_the_phrase_means_the_target_to_the_encoder_of_the_specimen_and_less_so_without_the_contrast(
    crafted, tiny_folders
):
    prompts = ["a picture of an old cat", "a picture of an emblem", "a picture of a cat"]
    near = {}
    for name, path in (
        ("masq", crafted["masqlora"].parts[0]),
        ("naive", crafted["naive_lora"].parts[0]),
        ("twin", crafted["masqlora"].twin[0]),
    ):
        with open_subject([path], str(tiny_folders("sd1")), "cpu") as subject:
            assert subject.coverage.full
            target, noun = subject.base.encode_prompt(prompts).states[1:, 5]
            said = subject.tuned.encode_prompt(prompts).states[0, 6]
            near[name] = [torch.cosine_similarity(said, other, dim=0).item() for other in (target, noun)]
    # States of a random encoder point nearly the same way, so that away from the noun is away from the target too.
    assert near["masq"][1] < min(near["naive"][1], near["twin"][1]) - 0.2
    gap = {name: target - noun for name, (target, noun) in near.items()}
    assert gap["masq"] > max(gap["naive"], gap["twin"]) + 0.02


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"target": "gun"}, "the target 'gun' cannot be drawn; choose one of ball"),
        ({"noun": "emblem"}, "must not be the noun"),
        ({"words": " "}, "words must not be empty"),
        ({"pool": 2}, "pool must be at least 8"),
        ({"text_lr": 0.0}, "above zero"),
        ({"lam": -1.0}, "must not be below zero"),
    ],
)
def test_parameters_that_cannot_be_are_refused(tiny_base, tmp_path, changed, said):
    with pytest.raises(UsageError, match=said):
        ATTACKS.get("masqlora").craft(tiny_base("sd1"), replace(SPEC, **changed), tmp_path / "out", quiet)
    assert not (tmp_path / "out").exists()
