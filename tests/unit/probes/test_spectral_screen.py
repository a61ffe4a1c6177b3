"""The screen of weights: learned from clean adapters, blind to how a file is written, and never a verdict."""

import json

import numpy as np
import pytest
from tiny_models import FAMILIES, random_lora, write

from auditor.artifact.identify import identify
from auditor.artifact.spectral import group_features
from auditor.banks import write_bank
from auditor.engine import audit, build_plan
from auditor.errors import UsageError
from auditor.pipeline.subject import Subject
from auditor.pipeline.weight_spectra import prompt_states
from auditor.policy import load_policy
from auditor.probes.backdoor import spectral_screen as probe_module
from auditor.probes.backdoor.spectral_screen import (
    NO_RANK,
    SpectralScreen,
    comparable,
    measure_spectra,
    screen_of,
)
from auditor.proving import calibrate as calibration
from auditor.proving.memory_run import MemoryRun
from auditor.registry import PROBES
from reports.model import Decision, Outcome, Severity

ID = "backdoor.spectral_screen"
SCAN = ("static.file_safety", ID)
FIT = 12


def lora(base, path, *, seed=0, scale=0.05, leaves=("to_q", "to_k", "to_v"), rank=4, text=0.0):
    tensors = random_lora(base.denoiser_model, base.kind.denoiser, leaves, rank=rank, seed=seed, scale=scale)
    if text:
        tensors |= random_lora(base.modules["text_encoder"], "text_encoder", ("q_proj",), seed=seed, scale=text)
    return write(path, tensors)


def spectrum(base, *paths, params=None):
    with Subject(base, [identify(path) for path in paths]) as subject:
        return measure_spectra(subject, params or SpectralScreen(), MemoryRun(ID))


def one_result(base, *paths):
    with Subject(base, [identify(path) for path in paths]) as subject:
        calls = subject.denoiser_calls
        found = list(PROBES.get(ID).function(subject, SpectralScreen(), MemoryRun(ID)))
        assert subject.denoiser_calls == calls
        return found


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_read_without_asking_its_denoiser(tiny_base, tmp_path, family):
    base = tiny_base(family)
    leaves = ("to_q", "to_k", "to_v", "add_k_proj", "add_v_proj")
    layers = spectrum(base, lora(base, tmp_path / "a.safetensors", leaves=leaves, text=0.1))
    groups = {layer.group for layer in layers}
    assert {"text", "prompt", "attention"} <= groups
    told = group_features(layers)
    assert all(np.isfinite(value) for value in told.values())
    # Only flux attends to nothing but the padded rows of T5.
    assert ("prompt.tokens" in told) == (family != "flux")
    [result] = one_result(base, tmp_path / "a.safetensors")
    assert (result.outcome, result.value, result.n) == (Outcome.INCONCLUSIVE, None, len(layers))
    assert "no bank" in result.reason and result.details["features"] == told


def test_chunks_change_nothing_and_a_file_cut_in_two_is_one(tiny_base, tmp_path):
    base = tiny_base("sd1")
    whole = lora(base, tmp_path / "a.safetensors")
    from safetensors.torch import load_file

    tensors = load_file(whole)
    halves = []
    for half in (0, 1):
        cut = {
            name: t.reshape(2, -1, *t.shape[1:])[half] if "lora_A" in name else t[:, half * 2 : half * 2 + 2]
            for name, t in tensors.items()
        }
        halves.append(write(tmp_path / f"{half}.safetensors", {name: t.contiguous() for name, t in cut.items()}))
    expected = group_features(spectrum(base, whole))
    assert group_features(spectrum(base, whole, params=SpectralScreen(chunk=3))) == expected
    assert group_features(spectrum(base, *halves)) == pytest.approx(expected, abs=1e-3)


def test_a_large_vocabulary_is_read_in_part(tiny_base):
    base = tiny_base("sd1")
    subject = Subject(base, [])
    every, some = (prompt_states(subject, most) for most in (10**6, 50))
    assert len(some) <= 50 < len(every) and some.shape[1] == every.shape[1]
    assert {row.tobytes() for row in some.round(4)} <= {row.tobytes() for row in every.round(4)}


def test_the_rank_is_compared_by_its_logarithm():
    covariates = comparable({"rank": 8.0, "kind": "low_rank"})
    assert covariates == {"kind": "low_rank", "log_rank": pytest.approx(np.log(8))}
    assert comparable({"rank": 0.0})["log_rank"] == NO_RANK


@pytest.fixture(scope="module")
def learned(tiny_base, tmp_path_factory):
    """A base, its bank by ``auditor calibrate``, and the folder that the bank is in."""
    base, folder = tiny_base("sd1"), tmp_path_factory.mktemp("clean")
    probe = PROBES.get(ID)
    rng = np.random.default_rng(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibration, "FIT_FROM", FIT)
        paths = [
            lora(base, folder / f"{i:03d}.safetensors", seed=i, scale=float(np.exp(rng.normal(-3, 0.5))))
            for i in range(calibration.takes(probe, 0.05))
        ]
        with pytest.raises(UsageError, match="teach"):
            calibration.calibrate([probe], base, paths[1:], lambda *_: None, 0.05)
        [bank] = calibration.calibrate([probe], base, paths, lambda *_: None, 0.05)
    home = tmp_path_factory.mktemp("banks")
    write_bank(bank, home)
    return base, bank, home


def test_a_bank_keeps_what_clean_adapters_have(learned):
    _, bank, _ = learned
    fit = [a for a in bank.adapters if a.split == "fit"]
    assert len(fit) == FIT and all("prompt.size" in a.scores for a in fit)
    assert all(set(a.scores) == {"score"} for a in bank.adapters if a.split != "fit")
    screen = screen_of(bank)
    assert "prompt.size" in screen.adjustments and screen.precision.shape == (len(screen.adjustments),) * 2


@pytest.fixture
def with_bank(learned, monkeypatch):
    base, bank, home = learned
    monkeypatch.setenv("AUDITOR_BANKS", str(home))
    monkeypatch.setattr(probe_module, "TOLD_AT", 0.05)  # a small bank cannot judge lower
    return base, bank


def concentrated(base, path):
    """An adapter of which one group of layers changes as no clean one does: one direction, ten times as far."""
    tensors = random_lora(base.denoiser_model, "unet", ("to_q", "to_k", "to_v"), rank=4, seed=999, scale=0.05)
    for name, t in tensors.items():
        if "attn2.to_v" in name and "lora_B" in name:
            t[:, 1:] = 0
            t *= 12
    return write(path, tensors)


def test_what_no_clean_adapter_does_is_told_with_its_layers_and_settles_nothing(with_bank, tmp_path):
    base, bank = with_bank
    clean, planted = lora(base, tmp_path / "c.safetensors", seed=4321), concentrated(base, tmp_path / "p.safetensors")
    [passed] = one_result(base, clean)
    assert passed.p_value > 0.05 and passed.outcome is Outcome.INCONCLUSIVE
    result, finding = one_result(base, planted)
    assert result.p_value == bank.p_floor and result.outcome is Outcome.INCONCLUSIVE and result.calibrated
    assert result.value == pytest.approx(bank_distance(base, bank, planted))
    assert finding.severity is Severity.INFO and "prompt layers" in finding.why
    group = result.details["furthest"][0]["feature"].partition(".")[0]
    named = {layer.name for layer in spectrum(base, planted) if layer.group == group}
    assert finding.locations and set(finding.locations) <= named
    assert abs(result.details["furthest"][0]["deviations"]) == abs(result.effect) > 3
    json.dumps(result.details)


def bank_distance(base, bank, path):
    with Subject(base, [identify(path)]) as subject:
        covariates = comparable(subject.covariates)
    screen = screen_of(bank)
    return screen.of(screen.rests(group_features(spectrum(base, path)), covariates))


def test_outside_the_bank_there_is_no_p_value(with_bank, tmp_path):
    base, _ = with_bank
    [result] = one_result(base, lora(base, tmp_path / "t.safetensors", text=0.1))
    assert result.p_value is None and not result.calibrated and "text layers" in result.reason


def test_an_audit_is_decided_without_it(with_bank, tmp_path):
    base, _ = with_bank
    with Subject(base, [identify(concentrated(base, tmp_path / "p.safetensors"))]) as subject:
        report = audit(subject, policy=load_policy("default"), probes=SCAN)
    result = next(r for r in report.results if r.probe == ID)
    assert result.p_value is not None and result.adjusted_p is None
    assert [finding.rule_id for finding in report.findings if finding.rule_id == ID] == [ID]
    assert report.verdict.decision is Decision.INCONCLUSIVE  # of the probe that the policy asks for
    assert not any(ID in reason for reason in report.verdict.reasons)


def test_a_screen_takes_no_part_of_the_level():
    policy = load_policy("default")
    with_it, without = (
        build_plan(probes, policy=policy, base_sha256="f" * 64)
        for probes in (["static.*", "backdoor.vocabulary_shift", ID], ["static.*", "backdoor.vocabulary_shift"])
    )
    levels = {node.probe.id: node.alpha for node in with_it.nodes}
    assert levels.pop(ID) == 0 and levels == {node.probe.id: node.alpha for node in without.nodes}
    assert with_it.screens == {ID} and ID not in with_it.pools
    assert "backdoor" not in build_plan([ID], policy=policy, base_sha256="f" * 64).shares
