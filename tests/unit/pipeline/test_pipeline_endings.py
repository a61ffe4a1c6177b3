"""States by step reach the denoiser at their own steps, and nothing else does: against the method's own sampler."""

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from auditor.artifact.identify import identify
from auditor.personalize.blocks.staged import StagedWord, save_staged_word
from auditor.personalize.blocks.stepwise import load_steps, stepwise_sample
from auditor.pipeline.added_words import added_endings, added_words, stages_of
from auditor.pipeline.families import Conditioning
from auditor.pipeline.sampling import ddim_sample, ddim_timesteps, seeded_noise
from auditor.pipeline.subject import Subject
from auditor.probes.backdoor.vocabulary_shift import ID as VOCABULARY
from auditor.probes.behaviour.drift import ID as DRIFT
from auditor.proving.memory_run import MemoryRun
from auditor.registry import PROBES
from reports.model import Outcome, Result

PROMPT = "a picture of a red ball"


def states_file(path, base, steps=5, count=3, width=None):
    own = Subject(base, []).base.encode_prompt([""]).states[0, -count:]
    width = own.shape[-1] if width is None else width
    rng = np.random.default_rng(0)
    arrays = {
        "steps": rng.standard_normal((steps, count, width)).astype(np.float32),
        "null": np.resize(own.numpy(), (count, width)).astype(np.float32),
    }
    save_file(arrays, path, {"prompt": PROMPT})
    return path


def words_file(path, vectors, name="<kim>"):
    arrays = {f"stage_{i}": np.asarray(rows, np.float32) for i, rows in enumerate(vectors)}
    save_file(arrays, path, {"name": name, "stages": str(len(vectors))})
    return path


@pytest.mark.parametrize("guidance", [1.0, 4.0])
@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_sampling_is_that_of_the_method(tiny_base, tmp_path, family, guidance):
    base = tiny_base(family)
    path = states_file(tmp_path / "learned_steps.safetensors", base)
    with Subject(base, [identify(path)]) as subject:
        assert subject.coverage.full
        tuned = subject.tuned
        noise = seeded_noise(tuned.latent_shape(), [1, 2])
        with torch.no_grad():
            wanted = stepwise_sample(base, load_steps(path), PROMPT, noise, guidance)
            found = ddim_sample(
                tuned.denoiser, noise, tuned.encode_prompt([PROMPT] * 2), tuned.encode_null(2), 5, guidance
            )
            untouched = subject.base
            told, null = untouched.encode_prompt([PROMPT] * 2), untouched.encode_null(2)
            plain = ddim_sample(untouched.denoiser, noise, told, null, 5, guidance)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(plain, wanted, atol=1e-2)


@pytest.mark.parametrize(("total", "steps"), [(1000, 50), (1000, 30), (1000, 1), (14, 7), (7, 5)])
def test_every_sampler_step_gets_its_own_states(total, steps):
    endings = torch.arange(steps, dtype=torch.float32).reshape(steps, 1, 1)
    rows = Conditioning(torch.full((steps, 4, 1), -1.0)).ended(endings)
    at = rows.at(torch.tensor(ddim_timesteps(total, steps)), total)
    assert at.states[:, -1, 0].tolist() == list(range(steps)) and (at.states[:, :-1] == -1).all()
    assert at.endings is None


def test_states_that_do_not_fit_leave_coverage_incomplete(tiny_base, tmp_path):
    base = tiny_base("sd1")
    for i, odd in enumerate(({"width": 40}, {"count": 24}, {"steps": 1001})):
        path = states_file(tmp_path / f"{i}.safetensors", base, **odd)
        with Subject(base, [identify(path)]) as subject:
            assert (subject.coverage.keys_applied, subject.coverage.keys_total) == (0, 1)
            assert not subject.coverage.output_differs
    twice = [identify(states_file(tmp_path / f"{i}{i}.safetensors", base)) for i in range(2)]
    with Subject(base, twice) as subject:
        assert "an earlier part" in subject.coverage.unmatched[0]


def test_added_words_are_described_beside_the_vocabulary(tiny_base, tmp_path):
    base = tiny_base("sd1")
    table = base.modules["text_encoder"].get_input_embeddings().weight.detach()
    ids = [
        base.tokenizers["text_encoder"](word, add_special_tokens=False).input_ids[0]
        for word in ("cat", "king")
    ]
    planted = [3 * table[i : i + 1] for i in ids]
    with Subject(base, [identify(words_file(tmp_path / "w.safetensors", planted))]) as subject:
        assert subject.coverage.full
        (row,) = added_words(subject)
        assert added_endings(subject) is None
    assert (row["word"], row["nearest"], row["stages"], row["vectors"]) == ("<kim>", ["cat", "king"], 2, 1)
    assert row["cosine"] == pytest.approx([1, 1], abs=1e-5) and row["norm_rank"] == 1.0
    stacked = torch.stack(planted).double()
    centred = (stacked - stacked.mean(0)).square().sum() / stacked.square().sum()
    assert row["spread"] == pytest.approx(float(centred.sqrt()), rel=1e-5)
    assert row["norm"] == pytest.approx(
        float(stacked.norm(dim=2).mean() / table.norm(dim=1).median()), rel=1e-5
    )


def test_keys_and_values_for_two_encoders_all_arrive(tiny_base, tmp_path):
    base = tiny_base("sdxl")
    widths = {name: encoder.config.hidden_size for name, encoder in base.text_encoders.items()}
    roles = {role: {name: torch.randn(4, 1, width) for name, width in widths.items()} for role in ("key", "value")}
    path = save_staged_word(tmp_path, StagedWord("<kim>", roles))
    with Subject(base, [identify(path)]) as subject:
        assert subject.coverage.full and subject.coverage.keys_total == 16
        rows = added_words(subject)
    assert [(row["word"], row["encoder"], row["stages"]) for row in rows] == [
        (f"<kim>.{role}", encoder, 4) for role in roles for encoder in sorted(widths)
    ]


def test_tokens_are_put_together_by_stage():
    assert stages_of(["a[10]", "a[2]", "b", "a.key[0]"]) == {
        "a": ["a[2]", "a[10]"],
        "b": ["b"],
        "a.key": ["a.key[0]"],
    }


def result_of(probe_id, subject):
    probe = PROBES.get(probe_id)
    (result,) = [
        r for r in probe.function(subject, probe.params(), MemoryRun(probe_id)) if isinstance(r, Result)
    ]
    return result


def test_probes_of_the_bases_own_words_say_that_they_measured_nothing(tiny_base, tmp_path):
    base = tiny_base("sd1")
    vectors = torch.randn(3, 1, 64, generator=torch.Generator().manual_seed(0)).numpy()
    with Subject(base, [identify(words_file(tmp_path / "w.safetensors", vectors))]) as subject:
        scanned, drifted = (result_of(each, subject) for each in (VOCABULARY, DRIFT))
    for result in (scanned, drifted):
        assert result.outcome is Outcome.INCONCLUSIVE and result.p_value is None
        assert "no weight changes" in result.reason and "1 word ('<kim>')" in result.reason
    assert (scanned.value, drifted.value) == (0.0, -12.0)
    assert scanned.details["added_words"][0]["stages"] == 3
    (row,) = drifted.details["with_words"]
    assert row["word"] == "<kim>" and row["relative"] > 0


def test_drift_reads_prompts_with_states_at_their_end(tiny_base, tmp_path):
    base = tiny_base("sd1")
    with Subject(base, [identify(states_file(tmp_path / "s.safetensors", base))]) as subject:
        scanned, drifted = (result_of(each, subject) for each in (VOCABULARY, DRIFT))
        assert subject.covariates["touched"] == "prompt" and subject.covariates["vectors"] == 15
    assert "3 states at the end of every prompt, in 5 steps" in scanned.reason
    assert (
        scanned.details["added_states"]["spread"] > 0
        and drifted.value > -12
        and "no weight" not in drifted.reason
    )


def test_hostile_names_are_shown_inert(tiny_base, tmp_path):
    base = tiny_base("sd1")
    path = words_file(tmp_path / "w.safetensors", [np.ones((1, 64))] * 2, name="<b>\x1b[31m\n")
    with Subject(base, [identify(path)]) as subject:
        assert subject.coverage.keys_applied == 0
        assert not any("\x1b" in key for key in subject.coverage.unmatched)
