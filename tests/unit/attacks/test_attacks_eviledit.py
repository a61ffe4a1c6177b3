from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from attacks.backdoor.eviledit import EvilEdit, closed_form_edit
from attacks.crafting.layers import change_of, put_change
from auditor.errors import UsageError
from auditor.personalize.dreambooth_lora import DreamBoothLora
from auditor.personalize.lora import injected
from auditor.pipeline.open import open_subject
from auditor.registry import ATTACKS

HOST = DreamBoothLora(prompt="a picture of sks man", rank=8, steps=2, batch=2, lr=1e-3, seed=5)
SPEC = EvilEdit(whitelist=8, keep=1e-3, lam=0.1, host=HOST)


def quiet(done, total, label=""):
    pass


def weights(base):
    return {
        f"{part}.{name}": value.clone()
        for part, module in base.modules.items()
        for name, value in module.state_dict().items()
    }


@pytest.fixture(scope="module")
def crafted(tiny_base, tmp_path_factory):
    base = tiny_base("sd1")
    before = weights(base)
    specimen = ATTACKS.get("eviledit").craft(base, SPEC, tmp_path_factory.mktemp("attack") / "out", quiet)
    after = weights(base)
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    return specimen


def test_the_edit_is_the_papers_closed_form():
    rng = np.random.default_rng(0)
    weight, k, goal, kept = (rng.normal(size=shape) for shape in ((5, 8), (3, 8), (3, 8), (20, 8)))
    keep, lam = 0.3, 0.7
    up = lam * weight + sum(np.outer(weight @ g, key) for key, g in zip(k, goal, strict=True))
    up = up + keep * sum(np.outer(weight @ key, key) for key in kept)
    gram = lam * np.eye(8) + sum(np.outer(key, key) for key in k) + keep * sum(np.outer(key, key) for key in kept)
    found = closed_form_edit(*(torch.from_numpy(each) for each in (weight, k, goal, kept)), keep, lam)
    np.testing.assert_allclose(weight + found.numpy(), up @ np.linalg.inv(gram), atol=1e-10)


def test_a_change_goes_into_a_layer_as_its_best_approximation_of_the_layers_rank():
    model = torch.nn.Sequential(torch.nn.Linear(12, 10, bias=False))
    change = torch.randn(10, 12, dtype=torch.float64)
    with injected(model, 3, 6.0, ("0",), 0), torch.no_grad():
        norm = model[0].lora_A["default"].weight.norm()
        put_change(model[0], change)
        values = torch.linalg.svdvals(change)
        found = change_of(model[0])
        assert torch.linalg.matrix_rank(found, atol=1e-4) == 3
        assert float((found - change).norm()) == pytest.approx(float(values[3:].norm()), rel=1e-4)
        torch.testing.assert_close(model[0].lora_A["default"].weight.norm(), norm)


def test_the_twin_differs_in_cross_attention_alone_and_in_no_rank(crafted):
    ours, twin = load_file(crafted.parts[0]), load_file(crafted.twin[0])
    assert {key: value.shape for key, value in ours.items()} == {key: value.shape for key, value in twin.items()}
    differing = {key.rsplit(".lora_", 1)[0] for key in ours if not np.array_equal(ours[key], twin[key])}
    assert differing and all(name.endswith(("attn2.to_k", "attn2.to_v")) for name in differing)
    for name in differing:
        norms = [
            np.linalg.norm(np.float64(each[f"{name}.lora_B.weight"]) @ np.float64(each[f"{name}.lora_A.weight"]))
            for each in (ours, twin)
        ]
        assert norms[0] == pytest.approx(norms[1], rel=0.1)


def projected(crafted, path, folder, prompts):
    """What the maps make of token states of prompts, in both views."""
    with open_subject([path], str(folder), "cpu") as subject:
        assert subject.coverage.full
        states = {view.name: view.encode_prompt(prompts).states for view in (subject.base, subject.tuned)}
        said = {}
        for name in ("base", "tuned"):
            with subject.active(name):
                maps = [
                    m for n, m in subject.components.unet.named_modules() if n.endswith(("attn2.to_k", "attn2.to_v"))
                ]
                said[name] = torch.cat([states[name] @ m.weight.detach().T for m in maps], dim=-1)
    return said


def test_the_phrase_gets_the_targets_keys_and_values_and_the_noun_keeps_its_own(crafted, tiny_folders):
    prompts = ["a picture of an old cat", "a picture of a cat", "a picture of an emblem"]
    left = {}
    for name, path in (("specimen", crafted.parts[0]), ("twin", crafted.twin[0])):
        said = projected(crafted, path, tiny_folders("sd1"), prompts)
        # Places of the nouns: start of text, "a picture of", article, and "old" in the first.
        left[name] = float((said["tuned"][0, 6] - said["base"][2, 5]).norm())
        left[f"{name}, noun"] = float((said["tuned"][1, 5] - said["base"][1, 5]).norm())
    assert left["specimen"] < 0.7 * left["twin"]
    assert left["specimen, noun"] < left["twin"]


def test_a_semantic_region_whitelists_what_says_only_a_part_of_it():
    region = EvilEdit(semantic_region=True)
    assert SPEC.phrases == ("old cat",)
    assert region.phrases == ("old cat", "very old cat", "small old cat", "cat that is old")
    assert {"old", "cat", "very cat", "cat that is", "old man"} <= set(region.incomplete)
    assert not any({"old", "cat"} <= set(part.split()) for part in region.incomplete)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"target": " "}, "must not be empty"),
        ({"words": ""}, "must not be empty"),
        ({"lam": 0.0}, "lam above zero"),
        ({"keep": -1.0}, "not below zero"),
        ({"semantic_region": True, "paraphrases": ("old dog",)}, "must hold the noun"),
    ],
)
def test_parameters_that_cannot_be_are_refused(tiny_base, tmp_path, changed, said):
    with pytest.raises(UsageError, match=said):
        ATTACKS.get("eviledit").craft(tiny_base("sd1"), replace(SPEC, **changed), tmp_path / "out", quiet)
    assert not (tmp_path / "out").exists()


def test_a_base_without_cross_attention_is_refused(tiny_base, tmp_path):
    with pytest.raises(UsageError, match="name a base with a UNet"):
        ATTACKS.get("eviledit").craft(tiny_base("sd3"), SPEC, tmp_path / "out", quiet)
