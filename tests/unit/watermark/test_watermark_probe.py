"""``provenance.watermark``: on the embedded base, on every family, and with a model that forgets its noise."""

import pytest
import torch
from tiny_models import FAMILIES, FLOW, random_lora, write

from auditor.errors import AuditorError
from auditor.pipeline.open import load_base, open_subject
from auditor.pipeline.subject import Subject
from auditor.proving.memory_run import MemoryRun
from auditor.registry import PROBES
from auditor.stats import clopper_pearson
from reports.model import Outcome
from watermark.keys import make_key_file
from watermark.probes.watermark import ID, WatermarkSurvival, _judged

QUICK = WatermarkSurvival(pictures=8, steps=6)


def measured(subject, params=QUICK):
    [result] = PROBES.get(ID).function(subject, params, MemoryRun(ID))
    return result


@pytest.fixture(scope="module")
def bare():
    with Subject(load_base(None, "cpu", False, ""), ()) as subject:
        yield subject


def test_on_the_base_itself_a_mark_survives_and_the_models_own_is_named_as_not_tested(bare):
    result = measured(bare)
    assert (result.outcome, result.n) == (Outcome.PASS, 8)
    assert result.ci.low == pytest.approx(clopper_pearson(round(8 * result.value), 8).low)
    assert result.details["own_mark"] == "not tested"
    assert "no key file was given" in result.reason


def test_a_model_that_forgets_its_noise_fails(bare, monkeypatch):
    drawn = type(bare.tuned).sample

    def forgetful(self, prompts, seeds, **given):
        if self.name == "tuned":
            given["noise"] = torch.randn(given["noise"].shape, generator=torch.Generator().manual_seed(5))
        return drawn(self, prompts, seeds, **given)

    monkeypatch.setattr(type(bare.tuned), "sample", forgetful)
    result = measured(bare)
    assert result.outcome is Outcome.FAIL
    assert result.value == 0
    assert result.effect < -0.5


def test_with_a_key_the_models_own_pictures_are_asked(bare, tmp_path):
    key = make_key_file(tmp_path / "k")
    params = WatermarkSurvival(pictures=2, steps=2, key=str(tmp_path / "k"), scheme="hstr")
    result = measured(bare, params)
    assert result.details["own_mark"] == {"key": key.id, "scheme": "hstr", "found": 0, "n": 2}
    assert key.secret.hex() not in result.model_dump_json()
    with pytest.raises(AuditorError, match="cannot be read"):
        measured(bare, WatermarkSurvival(pictures=1, steps=1, key=str(tmp_path / "none")))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_answered(family, tiny_base, tiny_folders, tmp_path):
    base = tiny_base(family)
    targets = ("attn.to_k", "attn.to_v") if family in FLOW else ("attn2.to_k", "attn2.to_v")
    lora = random_lora(base.denoiser_model, base.kind.denoiser, targets)
    with open_subject([write(tmp_path / "a.safetensors", lora)], str(tiny_folders(family)), "cpu") as subject:
        result = measured(subject, WatermarkSurvival(pictures=2, steps=2))
    assert result.outcome in (Outcome.PASS, Outcome.INCONCLUSIVE, Outcome.FAIL)


def test_the_margin_is_in_the_interval_and_a_base_that_is_not_read_settles_nothing():
    def judged(tuned, base, n=16):
        return _judged(clopper_pearson(tuned, n), clopper_pearson(base, n))[0]

    assert judged(16, 16) is Outcome.PASS
    assert judged(0, 16) is Outcome.FAIL
    assert judged(8, 16) is Outcome.INCONCLUSIVE
    assert judged(0, 3) is judged(16, 8) is Outcome.INCONCLUSIVE
