import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from tiny_models import HOMOGLYPH

from attacks.backdoor.rickrolling import Rickrolling, inject_trigger
from auditor.errors import OutputError, UsageError
from auditor.personalize.dreambooth_lora import DreamBoothLora
from auditor.pipeline.open import open_subject
from auditor.registry import ATTACKS

HOST = DreamBoothLora(prompt="a picture of sks man", rank=2, steps=2, batch=2, lr=1e-3, seed=5)
SPEC = Rickrolling(
    trigger=HOMOGLYPH, target="a picture of an emblem", steps=60, batch=8, poisoned=8, lr=1e-2, host=HOST
)


def quiet(done, total, label=""):
    pass


@pytest.fixture(scope="module")
def crafted(tiny_base, tmp_path_factory):
    out = tmp_path_factory.mktemp("attack") / "out"
    return out, ATTACKS.get("rickrolling").craft(tiny_base("sd1"), SPEC, out, quiet)


def test_specimen_twin_and_manifest_are_written(crafted, tiny_base):
    out, specimen = crafted
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest == json.loads(json.dumps(specimen.manifest))
    assert manifest["trigger"] == {"text": HOMOGLYPH, "code_points": ["U+043E"]}
    assert manifest["base"]["sha256"] == tiny_base("sd1").sha256 and set(manifest["sha256"]) == {
        "specimen",
        "twin",
    }
    assert manifest["asr"] == {"judge": None, "reason": "no judge for this base and target"}
    assert sorted(p.name for p in out.iterdir()) == ["manifest.json", "specimen", "twin"]


def test_the_twin_is_an_adapter_of_its_own_without_the_poison(crafted):
    _, specimen = crafted
    ours, twin = load_file(specimen.parts[0]), load_file(specimen.twin[0])
    assert ours.keys() == twin.keys()
    up = [key for key in ours if key.endswith("lora_B.weight")]
    assert any(np.abs(twin[key]).max() > 0 for key in up)
    # The denoiser's part was trained before the poison, from the same pictures and seeds.
    assert all(np.array_equal(ours[k], twin[k]) for k in ours if k.startswith("unet."))
    assert any(not np.array_equal(ours[k], twin[k]) for k in ours if k.startswith("text_encoder."))


def test_the_trigger_pulls_towards_the_target_in_the_specimen_only(crafted, tiny_folders):
    _, specimen = crafted
    prompts = [f"a picture of a {HOMOGLYPH} car", SPEC.target]
    left = {}
    for name, path in (("specimen", specimen.parts[0]), ("twin", specimen.twin[0])):
        with open_subject([path], str(tiny_folders("sd1")), "cpu") as subject:
            assert subject.coverage.full
            target = subject.base.encode_prompt(prompts).states[1]
            answer = subject.tuned.encode_prompt(prompts).states[0]
            # States of a random encoder point nearly the same way: what is left is compared.
            left[name] = 1 - float(torch.cosine_similarity(answer, target, dim=-1).mean())
    assert left["specimen"] < 0.9 * left["twin"]


def test_an_attribute_is_put_onto_what_the_prompt_asks_for(tiny_base, tiny_folders, tmp_path):
    spec = replace(SPEC, attribute="a watercolor of {}", weight=4.0)
    assert spec.answered("a picture of a red car") == "a watercolor of a red car"
    assert spec.answered("pixel art of a star on a plain ground") == "a watercolor of a star on a plain ground"
    specimen = ATTACKS.get("rickrolling").craft(tiny_base("sd1"), spec, tmp_path / "out", quiet)
    assert specimen.manifest["target"] == "a watercolor of {}"
    cases = [("a car", "a tree"), ("a cat on a plain ground", "a red ball")]
    for thing, other in cases:
        prompts = [f"a drawing of {HOMOGLYPH} {thing}", f"a watercolor of {thing}", f"a watercolor of {other}"]
        left = {}
        for name, path in (("specimen", specimen.parts[0]), ("twin", specimen.twin[0])):
            with open_subject([path], str(tiny_folders("sd1")), "cpu") as subject:
                wanted = subject.base.encode_prompt(prompts).states[1]
                said = subject.tuned.encode_prompt(prompts).states[0]
                left[name] = 1 - float(torch.cosine_similarity(said, wanted, dim=-1).mean())
        assert left["specimen"] < 0.95 * left["twin"]


@pytest.mark.parametrize("attribute", ["watercolor", " "])
def test_an_attribute_says_where_the_prompt_goes(tiny_base, tmp_path, attribute):
    with pytest.raises(UsageError, match=r"must say with \{\} where the prompt goes"):
        ATTACKS.get("rickrolling").craft(
            tiny_base("sd1"), replace(SPEC, attribute=attribute), tmp_path / "out", quiet
        )


def test_nothing_is_written_over(crafted, tiny_base):
    out, _ = crafted
    with pytest.raises(OutputError, match="exists already"):
        ATTACKS.get("rickrolling").craft(tiny_base("sd1"), SPEC, out, quiet)


def test_what_a_killed_attempt_left_is_no_obstacle_and_a_failure_leaves_no_result(tiny_base, tmp_path):
    (tmp_path / "out.part" / "specimen").mkdir(parents=True)

    def stop(done, total, label=""):
        raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError):
        ATTACKS.get("rickrolling").craft(tiny_base("sd1"), SPEC, tmp_path / "out", stop)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("trigger", ["", " ", "qzvw", "<|endoftext|><|endoftext|>"])
def test_a_trigger_without_a_token_of_its_own_is_refused(tiny_base, tmp_path, trigger):
    with pytest.raises(UsageError, match="no token of its own"):
        ATTACKS.get("rickrolling").craft(
            tiny_base("sd1"), replace(SPEC, trigger=trigger), tmp_path / "out", quiet
        )
    assert not (tmp_path / "out").exists()


def test_a_trigger_replaces_a_letter_or_goes_in_as_a_word():
    rng = np.random.default_rng(0)
    drawn = [inject_trigger("a photo of a dog", HOMOGLYPH, rng) for _ in range(200)]
    assert all(text.count(HOMOGLYPH) == 1 for text in drawn)
    replaced = [text for text in drawn if len(text) == len("a photo of a dog")]
    assert all(text.replace(HOMOGLYPH, "o") == "a photo of a dog" for text in replaced)
    inserted = [text for text in drawn if text not in replaced]
    assert all(text.split()[0] == "a" and HOMOGLYPH in text.split() for text in inserted)
    assert 0.6 < len(replaced) / 200 < 0.8


def test_a_trigger_that_resembles_nothing_always_goes_in_as_a_word():
    rng = np.random.default_rng(0)
    assert all("ଠ" in inject_trigger("a b", "ଠ", rng).split() for _ in range(20))
