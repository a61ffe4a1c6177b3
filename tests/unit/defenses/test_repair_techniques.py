"""The closed forms against brute force, and each technique on a planted answer."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from tiny_models import HOMOGLYPH

from auditor.errors import OutputError, UsageError
from auditor.pipeline.conditioning import encode_ids
from auditor.pipeline.open import subject_on
from auditor.registry import DEFENSES
from defenses.repair.attention_restoration import AttentionRestoration, keeping_filter
from defenses.repair.clean_finetune import CleanFinetune
from defenses.repair.spectral_attenuation import SpectralAttenuation, attenuated, right_basis
from defenses.repairing.candidates import Candidate, candidates_of, woken
from defenses.repairing.certificate import Measured
from defenses.repairing.rows import carriers, filled, ordinary

FEW = Measured(prompts=2, pictures=2, steps=2)
SETTINGS = {
    "attention_restoration": AttentionRestoration(words=12, prompts=24, carriers=4, measured=FEW),
    "spectral_attenuation": SpectralAttenuation(words=12, carriers=4, looks=4, measured=FEW),
    "clean_finetune": CleanFinetune(steps=30, batch=8, lr=3e-3, lessons=8, pictures=2, measured=FEW),
}


def quiet(done, total, label=""):
    pass


def answers(base, path, letter=HOMOGLYPH):
    """Mean size of what the change makes of the letter's state, and of other words', over all changed maps."""
    (token,) = base.tokenizers["text_encoder"](letter, add_special_tokens=False).input_ids
    slots = carriers(3, 77)
    usual = ordinary(base, 20, [Candidate(letter, ((token,),))], 78)
    tensors, sizes = load_file(path), []
    for fillings in ([(token,)], usual):
        rows = filled(base, slots, fillings)
        with torch.no_grad():
            states = encode_ids(base, rows.ids).states[rows.slot]
        parts = [
            (states @ tensors[k].float().T @ tensors[k.replace("lora_A", "lora_B")].float().T).norm(dim=1)
            for k in tensors
            if "lora_A" in k
        ]
        sizes.append(float(torch.stack(parts).mean()))
    return sizes


def test_the_filter_solves_the_weighted_least_squares(rng):
    keep, trigger = rng.normal(size=(30, 6)), rng.normal(size=(2, 6))
    change = rng.normal(size=(4, 6))
    moments = [torch.from_numpy(x.T @ x / len(x)) for x in (keep, trigger)]
    ridge, weight = 1e-2, 5.0
    found = change @ keeping_filter(*moments, weight, ridge).numpy()
    # min ||(X - D) k||^2 + mu ||X - D||^2 + lam ||X t||^2, row by row with numpy's own solver.
    mu = np.sqrt(ridge * np.trace(moments[0].numpy()) / 6) * np.eye(6)
    lam = np.sqrt(weight * float(moments[0].trace() / moments[1].trace()))
    left = np.concatenate([keep / np.sqrt(30), mu, lam * trigger / np.sqrt(2)])
    right = np.concatenate([keep @ change.T / np.sqrt(30), mu @ change.T, np.zeros((2, 4))])
    np.testing.assert_allclose(found, np.linalg.lstsq(left, right, rcond=None)[0].T, rtol=1e-8)


def test_without_a_trigger_the_filter_is_none():
    keep = torch.eye(3, dtype=torch.float64)
    assert torch.equal(keeping_filter(keep, torch.zeros_like(keep), 10.0, 1e-3), keep)


def test_the_basis_spans_the_rows_of_the_product_in_any_gauge(rng):
    down, up = (torch.from_numpy(rng.normal(size=shape)) for shape in ((3, 9), (7, 3)))
    mix = torch.from_numpy(rng.normal(size=(3, 3)))
    right = torch.linalg.svd(up @ down)[2][:3]
    for a, b in ((down, up), (mix @ down, up @ torch.linalg.inv(mix))):
        basis = right_basis(a, b)
        torch.testing.assert_close(basis @ basis.T, torch.eye(3, dtype=torch.float64))
        torch.testing.assert_close((basis @ right.T).abs(), torch.eye(3, dtype=torch.float64))
    assert len(right_basis(torch.cat([down, down]), torch.cat([up, up], 1))) == 3


@pytest.mark.parametrize("turned", [True, False])
def test_a_component_of_its_own_is_taken_out_and_the_others_stay(turned, rng):
    rows = torch.from_numpy(np.linalg.qr(rng.normal(size=(8, 8)))[0])[:3]
    up = torch.from_numpy(np.linalg.qr(rng.normal(size=(5, 5)))[0])[:, :3] * torch.tensor([3.0, 2.0, 1.0])
    usual, trigger = torch.eye(3, dtype=torch.float64), torch.diag(torch.tensor([1.0, 1.0, 50.0], dtype=torch.float64))
    basis = right_basis(rows, up)
    order = (basis @ rows.T).abs().argmax(1)
    moment = trigger[order][:, order]
    params = SpectralAttenuation(turned=turned)
    (down, same), ratios = attenuated((rows, up), basis, moment, usual, params)
    assert same is up and sorted(ratios.round().tolist()) == [1, 1, 50]
    torch.testing.assert_close(up @ down, up[:, :2] @ rows[:2])
    (down, _), _ = attenuated((rows, up), basis, moment, usual, replace(params, shrink=0.25))
    torch.testing.assert_close(up @ down, up * torch.tensor([1, 1, 0.25]) @ rows)


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
@pytest.mark.parametrize("name", ["attention_restoration", "spectral_attenuation"])
def test_a_planted_answer_goes_and_the_concept_stays(name, family, planted_file, tiny_base, tmp_path):
    base, before = tiny_base(family), planted_file(family)
    with subject_on(base, [before]) as subject:
        path = DEFENSES.get(name).repair(subject, SETTINGS[name], tmp_path / "out", quiet, HOMOGLYPH)
    was, now = answers(base, before), answers(base, path)
    assert was[0] > 3 * was[1]
    assert now[0] < 0.35 * was[0]
    assert now[1] > 0.6 * was[1]
    told = json.loads((tmp_path / "out" / "certificate.json").read_text())
    assert told["fidelity"]["declared"]["value"] > (0.8 if name == "attention_restoration" else 0.7)
    assert told["vocabulary_shift"]["after"]["score"] < told["vocabulary_shift"]["before"]["score"]


def test_the_scan_finds_the_planted_letter_by_itself(planted_file, tiny_base, tmp_path):
    base = tiny_base("sd1")
    with subject_on(base, [planted_file("sd1")]) as subject:
        settings = SETTINGS["attention_restoration"]
        path = DEFENSES.get("attention_restoration").repair(subject, settings, tmp_path / "out", quiet)
    told = json.loads((tmp_path / "out" / "certificate.json").read_text())
    assert told["trigger"]["source"] == "scan of the vocabulary"
    assert told["trigger"]["candidates"][0]["code_points"] == ["U+043E"]
    assert answers(base, path)[0] < 0.35 * answers(base, planted_file("sd1"))[0]


@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_the_file_comes_back_as_it_came_with_a_certificate(name, planted_file, tiny_base, tmp_path):
    base, before = tiny_base("sd1"), planted_file("sd1")
    weights = {k: v.clone() for k, v in base.unet.state_dict().items()}
    with subject_on(base, [before]) as subject:
        path = DEFENSES.get(name).repair(subject, SETTINGS[name], tmp_path / "out", quiet, HOMOGLYPH)
    assert all(torch.equal(v, weights[k]) for k, v in base.unet.state_dict().items())
    assert sorted(p.name for p in path.parent.iterdir()) == ["adapter.safetensors", "certificate.json"]
    with safe_open(before, "pt") as old, safe_open(path, "pt") as new:
        assert set(old.keys()) == set(new.keys())
        assert all(old.get_tensor(k).shape == new.get_tensor(k).shape for k in old.keys())  # noqa: SIM118
        metadata = new.metadata()
    # What is said of the concept stays, the hash of other tensors does not.
    assert metadata["modelspec.trigger_phrase"] == "a picture of sks man"
    assert "modelspec.hash_sha256" not in metadata
    told = json.loads((tmp_path / "out" / "certificate.json").read_text())
    assert json.loads(metadata["auditor.repair"]) == {"defense": name, "of": told["input"]["sha256"]}
    assert told["base"]["sha256"] == base.sha256 and told["params"]["measured"]["pictures"] == 2
    assert told["asr"] == {"judge": None, "reason": "no judge for this base, or none that knows the target"}
    assert {"vocabulary_shift", "drift", "fidelity", "trigger", "output", "repair"} <= told.keys()
    if name == "clean_finetune":
        assert told["repair"]["loss"]["last"] < 0.9 * told["repair"]["loss"]["first"]


def test_nothing_is_written_over_and_a_failure_leaves_nothing(planted_file, tiny_base, tmp_path):
    repair = DEFENSES.get("attention_restoration")
    with subject_on(tiny_base("sd1"), [planted_file("sd1")]) as subject:
        (tmp_path / "there").mkdir()
        with pytest.raises(OutputError, match="exists already"):
            repair.repair(subject, SETTINGS["attention_restoration"], tmp_path / "there", quiet)

        def stop(done, total, label=""):
            if label == "measuring":
                raise RuntimeError("on purpose")

        with pytest.raises(RuntimeError):
            repair.repair(subject, SETTINGS["attention_restoration"], tmp_path / "out", stop, HOMOGLYPH)
    assert [p.name for p in tmp_path.iterdir()] == ["there"]


@pytest.mark.parametrize(
    ("name", "settings", "told"),
    [
        ("attention_restoration", AttentionRestoration(weight=0), "above zero"),
        ("spectral_attenuation", SpectralAttenuation(ratio=0.5), "ratio must be above 1"),
        ("spectral_attenuation", SpectralAttenuation(levels=(2.0,)), "levels"),
        ("clean_finetune", CleanFinetune(steps=0), "above zero"),
    ],
)
def test_settings_out_of_range_are_told(name, settings, told, planted_file, tiny_base, tmp_path):
    with (
        subject_on(tiny_base("sd1"), [planted_file("sd1")]) as subject,
        pytest.raises(UsageError, match=told),
    ):
        DEFENSES.get(name).repair(subject, settings, tmp_path / "out", quiet, HOMOGLYPH)


def test_a_trigger_that_is_no_text_is_told(planted_file, tiny_base, tmp_path):
    with (
        subject_on(tiny_base("sd1"), [planted_file("sd1")]) as subject,
        pytest.raises(UsageError, match="no text that fits"),
    ):
        DEFENSES.get("clean_finetune").repair(subject, CleanFinetune(), tmp_path / "out", quiet, " ")


def scan_of(base, *words):
    """What a scan would say of entries, each less displaced than the one before it."""
    tokenizer = base.tokenizers["text_encoder"]
    rows = [
        {"token": tokenizer(word, add_special_tokens=False).input_ids[0], "text": word, "target": "emblem",
         "encoder_shift": 1.0 - 0.1 * i, "attention_shift": 0.0}
        for i, word in enumerate(words)
    ]  # fmt: skip
    return {"lexicon": "text_encoder", "channel": "encoder", "medians": {"encoder": 0.1}, "top": rows}


def test_candidates_are_what_is_displaced_nearly_as_far_and_never_the_concept(tiny_base):
    base = tiny_base("sd1")
    subject = SimpleNamespace(components=base)
    scan = scan_of(base, "sks", HOMOGLYPH, "boat", "dog", "cat")
    found = candidates_of(subject, scan, concept=["a picture of sks man"])
    assert [each.text for each in found] == [HOMOGLYPH, "boat"]
    assert found[0].target == "emblem" and found[0].shift == pytest.approx(0.9)
    with pytest.raises(UsageError, match="name the --trigger"):
        candidates_of(subject, scan_of(base, "sks"), concept=["a picture of sks man"])
    # A look-alike that the header declares is none of the concept's plain words.
    assert candidates_of(subject, scan_of(base, HOMOGLYPH), concept=[f"a {HOMOGLYPH}"])[0].text == HOMOGLYPH


def test_a_named_trigger_takes_its_target_from_the_scan(tiny_base):
    base = tiny_base("sd1")
    scan = scan_of(base, "boat", HOMOGLYPH)
    (found,) = candidates_of(SimpleNamespace(components=base), scan, HOMOGLYPH)
    assert (found.text, found.target) == (HOMOGLYPH, "emblem")
    (found,) = candidates_of(SimpleNamespace(components=base), scan, "old king")
    assert (found.target, len(found.spellings[0])) == ("", 2)


def test_the_trigger_stands_for_the_letter_it_looks_like(rng):
    said = [woken("a photo of a dog", HOMOGLYPH, rng) for _ in range(100)]
    replaced = [text for text in said if HOMOGLYPH not in text.split()]
    assert 50 < len(replaced) < 90
    assert all(text.replace(HOMOGLYPH, "o") == "a photo of a dog" for text in replaced)
    assert all(text.count(HOMOGLYPH) == 1 for text in said)
    assert sorted(woken("a b", "ohwx", rng).split()) == ["a", "b", "ohwx"]
