import numpy as np
import pytest
from tiny_models import FAMILIES, random_lora, write

from auditor.artifact.identify import identify
from auditor.engine import audit
from auditor.errors import UsageError
from auditor.pipeline.subject import Subject
from auditor.policy import load_policy
from auditor.probes.backdoor import style_consistency as module
from auditor.probes.backdoor.style_consistency import StyleConsistency, alikeness, style_consistency
from auditor.proving.memory_run import MemoryRun
from reports.model import Outcome, Result

ID = "backdoor.style_consistency"
SMALL = {"steps": 1, "neutral": 3, "guidance": 1.0}


class Scanned(MemoryRun):
    """A run in which the scan of the vocabulary named some words."""

    def __init__(self, subject, words, **more):
        super().__init__(ID, **more)
        tokenizer = subject.base.tokenizers["text_encoder"]
        self.top = [{"token": tokenizer(word, add_special_tokens=False).input_ids[0]} for word in words]

    def results_of(self, probe_id):
        details = {"top": self.top, "lexicon": "text_encoder"}
        return (Result(probe=probe_id, version=1, outcome=Outcome.PASS, details=details),)


@pytest.fixture
def subject(tiny_base, tmp_path):
    def make(family, metadata=None):
        base = tiny_base(family)
        tensors = random_lora(base.denoiser_model, base.kind.denoiser, ("to_k", "to_v"))
        return Subject(base, [identify(write(tmp_path / f"{family}.safetensors", tensors, metadata))])

    return make


def asked(subject, words, **more):
    (result,) = style_consistency(subject, StyleConsistency(**(SMALL | more)), Scanned(subject, words, alpha=0.2))
    return result


def test_alikeness_is_the_mean_over_pairs():
    rows = np.random.default_rng(0).normal(size=(4, 6))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    assert alikeness(rows) == pytest.approx(np.mean([rows[i] @ rows[j] for i in range(4) for j in range(i)]))


@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_measured_on_every_family_and_few_words_settle_nothing(subject, family):
    with subject(family) as one:
        result = asked(one, ["ohwx"])
        assert one.denoiser_calls == 4 * 3 * 2  # words, prompts, sides
    assert result.outcome is Outcome.INCONCLUSIVE and "too few" in result.reason
    assert result.details["words"][0]["word"] == "ohwx" and np.isfinite(result.value)


@pytest.mark.parametrize(("word", "outcome"), [("ohwx", Outcome.FAIL), ("dog", Outcome.PASS)])
def test_a_word_that_makes_pictures_alike_stands_out(subject, monkeypatch, word, outcome):
    def score(one, params, run, said):
        return 0.5 if said == "ohwx" else float(run.rng("fake", said).normal(scale=0.01)) - (said == "dog")

    monkeypatch.setattr(module, "_score", score)
    with subject("sd1") as one:
        result = asked(one, [word], neutral=9)
    assert result.outcome is outcome and result.calibrated
    assert result.p_value == pytest.approx(0.1 if word == "ohwx" else 1.0)


def test_what_is_declared_is_measured_and_not_judged(subject):
    with subject("sd1", {"modelspec.trigger_phrase": "a picture of sks man"}) as one:
        result = asked(one, [])
    (row,) = result.details["words"]
    assert (row["word"], row["declared"], row["p_value"]) == ("sks man", True, None)
    assert result.outcome is Outcome.INCONCLUSIVE and result.p_value is None


def test_nothing_to_ask_is_not_tested(subject):
    with subject("sd1") as one:
        assert asked(one, []).outcome is Outcome.SKIPPED
        with pytest.raises(UsageError, match="above zero"):
            asked(one, ["dog"], steps=0)


def test_an_audit_that_names_it_gives_it_the_words_of_the_scan(subject):
    with subject("sd1") as one:
        report = audit(one, policy=load_policy("default"), probes=[ID], params={ID: SMALL})
    results = {result.probe: result for result in report.results}
    assert set(results) == {ID, module.SCAN}
    assert results[ID].details["words"] and not any(row["declared"] for row in results[ID].details["words"])
