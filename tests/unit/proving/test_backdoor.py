import json
from dataclasses import asdict

import numpy as np
import pytest

from auditor.banks import bank_directories, load_bank
from auditor.proving.backdoor.audited import Audited, Said
from auditor.proving.backdoor.tables import Case, audit_alarms, write_backdoor

VOCABULARY, DRIFT, COMBINATION = "backdoor.vocabulary_shift", "behaviour.drift", "backdoor.combination"


def said(rest, p=None, named="", outcome="pass"):
    return Said(outcome=outcome, value=rest, p_value=p, rest=rest, named=named, seconds=1.5, calls=10)


def arm(decision="accept", **rests):
    probes = {name.replace("_", ".", 1): each for name, each in rests.items()}
    return Audited(decision, (4, 4), probes, (), {"kind": "lora", "rank": 4.0})


def case(index, specimen, twin, attack="rickrolling", trigger="о", asr=0.9):
    return Case(attack, index, trigger, "an emblem", asr, specimen, twin)


def found(rest=5.0, p=0.004, named="о"):
    return arm("reject", backdoor_vocabulary_shift=said(rest, p, named, "fail"), behaviour_drift=said(0.1, 0.6))


def clean(rest=0.2):
    return arm(backdoor_vocabulary_shift=said(rest, 0.4), behaviour_drift=said(0.3, 0.5))


@pytest.fixture
def table(tmp_path):
    def make(cases, banks=()):
        written = write_backdoor(tmp_path, cases, banks, {}, {"seed": 0, "base_sha256": "f" * 64})
        assert json.loads((tmp_path / "backdoor.json").read_text()) == json.loads(json.dumps(written))
        return written, (tmp_path / "backdoor.md").read_text(), (tmp_path / "backdoor.csv").read_text()

    return make


def test_an_audit_reads_back_as_it_was_written():
    whole = found()
    assert Audited.read(json.loads(json.dumps(asdict(whole)))) == whole


def test_the_score_of_an_audit_is_the_largest_rest_and_nothing_judged_is_no_score():
    assert found().score == 5.0
    assert arm(backdoor_vocabulary_shift=said(None)).score is None


def test_counts_and_auroc_of_an_attack(table):
    cases = [case(0, found(), clean()), case(1, found(4.0, 0.03), clean(0.5)), case(2, clean(0.4), clean(0.1))]
    written, text, csv = table(cases)
    (row,) = written["attacks"]
    probe = row["probes"][0]
    assert (probe["planted_at_0.01"]["alarms"], probe["planted_at_0.05"]["alarms"]) == (1, 2)
    assert (probe["twins_at_0.01"]["alarms"], probe["twins_at_0.01"]["n"]) == (0, 3)
    # Of nine comparisons of a specimen with a twin, only 0.4 against 0.5 goes the wrong way.
    assert row["auroc"]["value"] == pytest.approx(8 / 9)
    assert (row["held_back"]["alarms"], row["trigger_named"], row["twins_accepted"]["alarms"]) == (2, 2, 3)
    assert "| `rickrolling` | 3 | 90% | 2 of 3" in text
    assert len(csv.splitlines()) == 1 + 3 * 2 * 2 and r"'\u043e'" in csv


def test_a_pair_is_named_where_there_is_no_word(table):
    pair = arm("reject", backdoor_combination=said(3.0, 0.004, "a.safetensors + b.safetensors", "fail"))
    other = arm("reject", backdoor_vocabulary_shift=said(3.0, 0.004, "dog", "fail"))
    twin = arm(backdoor_combination=said(0.1, 0.5))
    cases = [case(i, each, twin, "lora_pair", "") for i, each in enumerate((pair, other))]
    written, _, _ = table(cases)
    assert written["attacks"][0]["trigger_named"] == 1


def test_what_was_not_judged_is_told_and_no_alarm(table):
    outside = arm("inconclusive", backdoor_vocabulary_shift=said(9.0, None))
    written, text, _ = table([case(0, outside, outside)])
    (row,) = written["attacks"]
    assert row["probes"][0]["planted_at_0.05"]["alarms"] == 0 and row["probes"][0]["outside"] == 2
    assert (row["held_back"]["alarms"], row["inconclusive"]) == (0, 1)
    assert "1 inconclusive" in text and "too few" in text


def test_alarms_of_an_audit_are_those_of_either_bank_at_its_share():
    banks = [load_bank(path) for path in sorted(bank_directories()[-1].glob("*.json"))]
    banks = [bank for bank in banks if bank.probe in (VOCABULARY, DRIFT)]
    counted = audit_alarms(banks, 0.01)
    held = set()
    members = [{a.name for a in bank.adapters if a.split == "certify"} for bank in banks]
    for bank in banks:
        calibrate = np.sort([bank._judged(a) for a in bank.adapters if a.split == "calibrate"])
        for adapter in bank.adapters:
            above = (calibrate >= bank._judged(adapter)).sum()
            if adapter.split == "certify" and (1 + above) / (1 + len(calibrate)) <= 0.005:
                held.add(adapter.name)
    assert counted["n"] == len(members[0] & members[1]) and counted["alarms"] == len(held & members[0] & members[1])
    assert sum(row["n"] for row in counted["by_method"].values()) == counted["n"]
