import json
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from auditor import banks
from auditor.banks import (
    BankAdapter,
    BankData,
    Recipe,
    bank_for,
    build_bank,
    load_bank,
    params_sha256,
    split_of,
    write_bank,
)
from auditor.contracts import Probe, Stage
from auditor.errors import MalformedArtifact, OutputError, UsageError
from auditor.stats import StatisticsError

BASE = "b" * 64


@dataclass(frozen=True)
class Tuned:
    levels: tuple[float, ...] = (0.1, 0.2)


PROBE = Probe(
    id="backdoor.x", version=2, goal="g", null="n", needs=frozenset(), stage=Stage.STEP,
    function=lambda *_: iter(()), params=Tuned, bank="x",
)  # fmt: skip


def adapters(n=60, seed=0):
    rng = np.random.default_rng(seed)
    return [
        BankAdapter(
            name=f"clean-{i:03d}",
            split=split_of(i),
            recipe=Recipe(
                method="lora" if i % 2 else "dora",
                rank=2 ** (1 + i % 4),
                steps=100 + i,
                lr=1e-4,
                extra={"norm": i / 10},
            ),
            scores={"score": float(rng.normal()), "profile": (float(i), 0.5)},
        )
        for i in range(n)
    ]


def bank(id="embedded.x@1", n=60, alpha=0.05, **rest) -> BankData:
    given = {
        "id": id,
        "probe": PROBE,
        "base_sha256": BASE,
        "score": "score",
        "adapters": adapters(n),
        "alpha": alpha,
    }
    return build_bank(**{**given, **rest})


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("AUDITOR_BANKS", str(tmp_path / "banks"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return tmp_path / "banks"


def test_the_split_is_by_index_and_never_moves_an_adapter():
    splits = [split_of(i) for i in range(1000)]
    assert splits[:300] == [split_of(i) for i in range(300)]
    assert {name: splits.count(name) for name in banks.SPLITS} == {
        "fit": 200,
        "calibrate": 600,
        "certify": 200,
    }
    with pytest.raises(ValueError, match="index"):
        split_of(-1)


@given(st.floats(-5, 5))
def test_p_values_are_conformal_on_the_calibrate_split(score):
    made = bank()
    clean = [a.scores["score"] for a in made.adapters if a.split == "calibrate"]
    assert made.size == len(clean) == 36
    assert made.p_value(score) == (1 + sum(s >= score for s in clean)) / (len(clean) + 1)
    assert made.p_value(score) >= made.p_floor == 1 / 37


def test_the_realised_rate_is_counted_on_the_certify_split_with_an_exact_interval():
    made = bank(alpha=0.3)
    certify = [a.scores["score"] for a in made.adapters if a.split == "certify"]
    alarms = sum(made.p_value(s) <= 0.3 for s in certify)
    assert (made.realised_fpr.alarms, made.realised_fpr.n) == (alarms, 12)
    exact = binomtest(alarms, 12).proportion_ci(0.95, "exact")
    assert (made.realised_fpr.ci.low, made.realised_fpr.ci.high) == pytest.approx((exact.low, exact.high))
    assert sum(a for a, _ in made.alarms_by("method").values()) == alarms
    assert sum(n for _, n in made.alarms_by("method").values()) == 12


def test_the_report_names_the_bank_with_its_calibrate_size():
    reference = bank(alpha=0.3).reference()
    assert (reference.id, reference.n) == ("embedded.x@1", 36)
    assert reference.realised_fpr_ci.low <= reference.realised_fpr <= reference.realised_fpr_ci.high


def test_a_bank_that_cannot_reach_its_level_is_not_built():
    with pytest.raises(StatisticsError, match="it takes 99"):
        bank(alpha=0.01)


@pytest.mark.parametrize(
    ("covariates", "inside"),
    [
        ({}, True),
        ({"method": "lora", "rank": 4, "steps": 120, "norm": 1.0}, True),
        ({"rank": 16}, True),
        ({"rank": 17}, False),
        ({"steps": 5}, False),
        ({"method": "lokr"}, False),
        ({"norm": 50.0}, False),
        ({"norm": float("nan")}, False),
        ({"rank": "4"}, False),
    ],
)
def test_support_is_the_range_of_the_recipes(covariates, inside):
    made = bank()
    assert made.in_support(covariates) is inside
    assert len(made.out_of_support(covariates)) == (not inside)


def test_an_unknown_covariate_or_score_is_named():
    with pytest.raises(UsageError, match="did you mean 'rank'"):
        bank().in_support({"ranks": 3})
    with pytest.raises(UsageError, match="did you mean 'profile'"):
        bank().scores("profil")


def test_scores_come_as_arrays_by_split():
    made = bank()
    assert made.scores().shape == (60,)
    assert made.scores("profile").shape == (60, 2)
    assert made.scores("profile", "fit")[:, 0].tolist() == [i for i in range(60) if split_of(i) == "fit"]


def test_a_score_that_is_not_a_number_has_no_p_value():
    with pytest.raises(StatisticsError):
        bank().p_value(float("nan"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"score": "profile"},
        {"score": "absent"},
        {"adapters": adapters(1) * 2},
        {"adapters": [a for a in adapters() if a.split == "fit"]},
        {"base_sha256": "short"},
    ],
)
def test_parts_that_do_not_fit_are_refused(wrong):
    with pytest.raises(ValueError):
        bank(**wrong)


def test_a_bank_is_written_the_same_twice_and_read_back(folder):
    made = bank()
    path = write_bank(made, folder)
    first = path.read_bytes()
    assert write_bank(bank(), folder).read_bytes() == first
    assert [p.name for p in folder.iterdir()] == ["embedded.x@1.json"]
    assert load_bank(path) == load_bank("embedded.x@1") == made


def test_a_bank_is_found_by_probe_version_parameters_and_base(folder):
    made = bank()
    write_bank(made, folder)
    assert bank_for(PROBE, BASE) == made
    assert bank_for(PROBE, BASE, Tuned()) == made
    assert bank_for(PROBE, "c" * 64) is None
    assert bank_for(PROBE, BASE, Tuned(levels=(0.3,))) is None
    newer = Probe(**{**PROBE.__dict__, "version": 3})
    assert bank_for(newer, BASE) is None


def test_the_newest_edition_is_taken(folder):
    for edition in (2, 10, 9):
        write_bank(bank(f"embedded.x@{edition}"), folder)
    assert bank_for(PROBE, BASE).id == "embedded.x@10"


def test_an_unknown_bank_names_the_closest(folder):
    write_bank(bank(), folder)
    with pytest.raises(UsageError, match=r"did you mean 'embedded\.x@1'"):
        load_bank("embedded.x@2")
    with pytest.raises(UsageError, match="no bank file"):
        load_bank(folder / "absent.json")


def tampered(text: str) -> str:
    body = json.loads(text)
    body["adapters"][0]["scores"]["score"] = 99.0
    return json.dumps(body)


@pytest.mark.parametrize(
    "change",
    [tampered, lambda text: text[:100], lambda text: "[]",
     lambda text: text.replace("embedded.x@1", "embedded.y@1"),
     lambda text: text.replace('"method": "lora"', '"method": NaN', 1), lambda text: "[" * 100_000],
)  # fmt: skip
def test_a_file_that_was_changed_is_refused(folder, change):
    path = write_bank(bank(), folder)
    path.write_text(change(path.read_text()))
    with pytest.raises(MalformedArtifact):
        load_bank(path)


def test_a_folder_that_cannot_be_written_is_an_output_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write the bank"):
        write_bank(bank(), tmp_path / "file")


def test_the_hash_of_parameters_is_that_of_their_values():
    assert params_sha256(Tuned()) == params_sha256(Tuned(levels=(0.1, 0.2)))
    assert params_sha256(Tuned()) != params_sha256(Tuned(levels=(0.2, 0.1)))


def test_shipped_banks_can_be_read():
    for path in sorted(banks.find.SHIPPED.glob("*.json")):
        load_bank(path)
