"""The zoo: recipes that never move, a cache that holds whole members only, and tables counted right."""

import json
from collections import Counter

import numpy as np
import pytest

from auditor.artifact.together import identify_parts
from auditor.banks import BankAdapter, split_of_recipe
from auditor.errors import UsageError
from auditor.personalize.dreambooth_lora import DreamBoothLora
from auditor.personalize.textual_inversion import TextualInversion
from auditor.pipeline.open import load_base
from auditor.probes.backdoor.spectral_screen import screen_of
from auditor.proving.zoo import Member, Pictures, batches, draw_member, home_of, make, zoo_folder
from auditor.proving.zoo.build import parts_made
from auditor.proving.zoo.forensics import EXPECTED, confusion
from auditor.proving.zoo.members import SHARES
from auditor.proving.zoo.merged import MERGE, Merge, draw_merges, write_merge
from auditor.proving.zoo.prove import Record
from auditor.proving.zoo.score import Measured, measure
from auditor.proving.zoo.spectra import read_spectrum
from auditor.proving.zoo.tables import banks_of, write_zoo
from auditor.registry import METHODS


@pytest.fixture(scope="module")
def base():
    return load_base(device="cpu")


def test_every_method_has_a_share_and_a_class_its_files_show():
    assert set(SHARES) == set(EXPECTED) - {MERGE} <= set(METHODS.names())
    assert sum(SHARES.values()) == pytest.approx(1)


def test_a_member_depends_on_its_number_and_the_seed_only():
    assert draw_member(17) == draw_member(17) != draw_member(17, seed=1)
    assert len({draw_member(i).digest for i in range(200)}) == 200


def test_the_splits_have_the_shares_that_were_declared():
    splits = Counter(split_of_recipe(draw_member(i).digest) for i in range(800))
    for split, share in (("fit", 1 / 8), ("calibrate", 3 / 8), ("certify", 1 / 2)):
        assert abs(splits[split] / 800 - share) < 3.3 * (share * (1 - share) / 800) ** 0.5
    with pytest.raises(ValueError, match="hash"):
        split_of_recipe("abc")


def test_low_rank_members_of_one_shape_are_made_together_and_none_is_lost():
    drawn = [draw_member(i) for i in range(300)]
    made = list(batches(drawn))
    assert sorted(m.index for batch in made for m in batch) == list(range(300))
    assert [len(batch) for batch in batches([small_lora(i, 1 + i) for i in range(12)])] == [8, 4]
    for batch in made:
        ranks = {(m.method, getattr(m.params, "rank", 0), m.params.batch) for m in batch}
        assert len(ranks) == 1


def small_lora(index, steps, seed=0):
    recipe = DreamBoothLora(prompt="a picture of sks person", steps=steps, batch=1, rank=2, class_images=1, seed=seed)
    return Member(index, "dreambooth-lora", Pictures("person", 2, 3), recipe)


def test_members_are_kept_whole_and_not_made_twice(base, tmp_path, monkeypatch):
    members = [small_lora(0, 1), small_lora(1, 2, seed=5)]
    make(members, base, tmp_path)
    files = [home_of(m, base, tmp_path) / "pytorch_lora_weights.safetensors" for m in members]
    before = [file.stat().st_mtime_ns for file in files]
    make(members, base, tmp_path)
    assert [file.stat().st_mtime_ns for file in files] == before
    told = json.loads((files[1].parent / "member.json").read_text())
    assert (told["params"]["steps"], told["digest"]) == (2, members[1].digest)
    word = Member(2, "textual-inversion", Pictures("object", 2, 3), TextualInversion(steps=1, batch=1))

    def stop(*_args, **_more):
        raise KeyboardInterrupt

    monkeypatch.setattr(METHODS.get("textual-inversion").__class__, "fit", stop)
    with pytest.raises(KeyboardInterrupt):
        make([word], base, tmp_path)
    assert not home_of(word, base, tmp_path).exists()
    assert not list(tmp_path.rglob("*.part"))


def test_merges_stay_in_the_split_of_their_parts_and_are_drawn_once():
    trained = [draw_member(i) for i in range(300)]
    merges = draw_merges(trained, 40)
    assert merges == draw_merges(trained, 40) != draw_merges(trained, 40, seed=1)
    by_digest = {member.digest: member for member in trained}
    for merge in merges:
        assert {by_digest[part].split for part in merge.params.parts} == {merge.split}
        assert merge.params.rank == sum(by_digest[part].params.rank for part in merge.params.parts)
    assert len({merge.digest for merge in merges}) == len(merges) > 30
    assert {merge.split for merge in merges} == {"fit", "calibrate", "certify"}


def test_a_merge_is_the_weighted_sum_of_its_parts_and_reads_as_one(base, tmp_path):
    parts = [small_lora(0, 8), small_lora(1, 4, seed=5)]
    make(parts, base, tmp_path)
    homes = [home_of(part, base, tmp_path) for part in parts]
    params = Merge(tuple(p.digest for p in parts), (1.0, 0.25), "a picture of sks person", 4, 8, 1e-3, "", False)
    merge = Member(2, MERGE, parts[0].pictures, params, "certify")
    assert parts_made(params, base, tmp_path)
    make([merge], base, tmp_path)
    first, second, both = ({(c, p): delta.delta(None) for c, p, delta in adapter_in(home).modules()}
                           for home in (*homes, home_of(merge, base, tmp_path)))  # fmt: skip
    for place, change in both.items():
        np.testing.assert_allclose(change, first[place] + 0.25 * second[place], atol=2e-3 * np.abs(change).max())
    assert measure(base, home_of(merge, base, tmp_path)).covariates["kind"] == "merged"
    with pytest.raises(UsageError, match="not in the zoo"):
        write_merge(params, [homes[0], tmp_path / "elsewhere"], tmp_path / "out")


def adapter_in(home):
    (part,) = identify_parts(home)
    return part.adapter


def test_a_member_is_measured_with_its_recipe_and_a_new_word_alone_has_no_score(base, tmp_path):
    lora, word = small_lora(0, 1), Member(
        2, "textual-inversion", Pictures("object", 2, 3), TextualInversion(steps=1, batch=1)
    )  # fmt: skip
    for member in (lora, word):
        make([member], base, tmp_path)
    found = measure(base, home_of(word, base, tmp_path))
    assert (found.scores, found.covariates["kind"], found.refused) == ({}, "embedding", "")
    assert found.coverage == (1, 1)


def test_the_cache_is_where_the_user_says(monkeypatch, tmp_path):
    monkeypatch.setenv("AUDITOR_ZOO", str(tmp_path / "z"))
    assert zoo_folder() == tmp_path / "z"
    monkeypatch.delenv("AUDITOR_ZOO")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert zoo_folder() == tmp_path / "personalized-model-auditor" / "zoo"


def test_the_confusion_matrix_counts_classes_and_unknown_is_wrong():
    read = [("dreambooth", "full"), ("sine", "full"), ("dreambooth-lora", "low_rank"), ("dreambooth-lora", "unknown")]
    table = confusion(read)
    assert (table["right"], table["n"]) == (3, 4)
    assert table["classes"] == {"full": {"full": 2}, "low_rank": {"low_rank": 1, "unknown": 1}}
    assert table["methods"]["dreambooth-lora"] == {"right": 1, "n": 2}


def records(count=200):
    """Drawn members with scores made up: the first drift of each is its number, so that counts are known."""
    made = []
    for i in range(count):
        member = draw_member(i)
        words = EXPECTED[member.method] in ("embedding", "per_step_embedding")
        covariates = {
            "kind": EXPECTED[member.method], "rank": 4.0, "denoiser_norm": -12.0 if words else -2 + i / count,
            "text_norm": -12.0, "vectors": float(words), "touched": "unet",
        }  # fmt: skip
        scores = {
            "vocabulary_shift": 1.0, "encoder_excess": 0.0, "attention_excess": 0.01 + i * 1e-4, "drift": -2 + i / 100,
        }  # fmt: skip
        found = {"entry": "x", "target": "y", "code_points": "U+0078"}
        spectrum = {} if words else {"prompt.size": float(-2 + i % 7), "text.left": float(i % 5)}
        made.append(Record(member, Measured(covariates, (1, 1), {} if words else scores, found), spectrum))
    return made


def test_tables_and_banks_come_from_the_records_alone(base, tmp_path):
    made = records()
    table = write_zoo(base, made, tmp_path, tmp_path / "banks", 0, 0.05)
    measured = [r for r in made if r.measured.scores]
    row = table["rows"][1]
    assert (row["probe"], sum(row["splits"].values())) == ("behaviour.drift", len(measured))
    assert row["certify"]["n"] == row["splits"]["certify"] == sum(m["n"] for m in row["by_method"].values())
    assert row["not_measured"] == sorted(m for m in SHARES if "embedding" in EXPECTED[m])
    assert table["recipes"]["right"] == table["recipes"]["n"] == len(made)
    bank = banks_of(base, made, 0.05)["drift"]
    alarms = sum(map(bank.alarm, (a for a in bank.adapters if a.split == "certify")))
    assert row["certify"]["alarms"] == alarms
    assert {p.name for p in (tmp_path / "banks").iterdir()} == {
        "embedded.drift@3.json", "embedded.spectral_screen@1.json", "embedded.vocabulary_shift@3.json",
    }  # fmt: skip
    text = (tmp_path / "zoo.md").read_text()
    assert f"{len(made)} clean adapters" in text and "not measured" not in text.split("by method")[0]
    assert len((tmp_path / "zoo.csv").read_text().splitlines()) == len(made) + 1


def test_the_bank_compares_by_the_rank_that_the_file_shows(base):
    bank = banks_of(base, records(), 0.05)["vocabulary_shift"]
    assert {a.recipe.rank for a in bank.adapters} == {4}
    assert all(isinstance(a, BankAdapter) and "touched" in a.recipe.extra for a in bank.adapters)


def test_the_bank_of_the_screen_keeps_the_features_of_those_that_it_learns_from(base):
    made = records()
    bank = banks_of(base, made, 0.05)["spectral_screen"]
    assert len(bank.adapters) == sum(bool(r.spectrum) for r in made)
    for adapter in bank.adapters:
        known = {"spectral_screen"} | ({"prompt.size", "text.left"} if adapter.split == "fit" else set())
        assert set(adapter.scores) == known
        assert adapter.covariate("log_rank") == pytest.approx(np.log(4))
    assert screen_of(bank).adjustments.keys() == {"prompt.size", "text.left"}


def test_a_spectrum_is_read_of_a_member_and_of_words_there_is_none(base, tmp_path):
    lora, word = small_lora(0, 1), Member(
        2, "textual-inversion", Pictures("object", 2, 3), TextualInversion(steps=1, batch=1)
    )  # fmt: skip
    for member in (lora, word):
        make([member], base, tmp_path)
    assert "prompt.size" in read_spectrum(base, home_of(lora, base, tmp_path))
    assert read_spectrum(base, home_of(word, base, tmp_path)) == {}
