"""What ``auditor policy check`` says of a file, and the published schema of policy files."""

import json
from datetime import date

import jsonschema
import pytest
import yaml

from auditor.banks import bank_directories, load_bank
from auditor.contracts import Capability, Probe, Stage
from auditor.policy import check_policy, load_policy, policy_path, shipped_policies
from auditor.policy.schema import PATH, render, schema
from auditor.registry import PROBES, Registry

TODAY = date(2026, 11, 24)
SMALL = "name: x\nrequired: [static.file_safety]\n"


def registry():
    known = Registry("probe")
    known._loaded = True
    for name, stage, bank in (
        ("static.file_safety", Stage.FILE, ""),
        ("backdoor.a", Stage.WEIGHTS, "a"),
        ("behaviour.b", Stage.STEP, "b"),
    ):
        one = Probe(
            id=name, version=1, goal="g", null="n", needs=frozenset({Capability.FILE}), stage=stage,
            function=lambda *_: iter(()), bank=bank,
        )  # fmt: skip
        known.add(name, one)
    return known


@pytest.fixture
def check(tmp_path):
    def of(text, banks=(("backdoor.a", 99), ("behaviour.b", 99))):
        path = tmp_path / "mine.yaml"
        path.write_text(text)
        return check_policy(path, today=TODAY, banks=dict(banks), rules=["PMA-FILE-001"], registry=registry())

    return of


def test_every_error_is_told_in_the_order_of_the_lines(check):
    found = check("nmae: x\nalpha: 2\ngates:\n  hihg: reject\n  low: acept\nprobes: []\n")
    assert {notice.level for notice in found} == {"error"}
    assert {(n.line, n.key) for n in found} == {
        (1, "nmae"), (1, "name"), (1, "required"), (2, "alpha"), (4, "gates.hihg"), (5, "gates.low"),
    }  # fmt: skip
    assert [n.line for n in found] == sorted(n.line for n in found)
    assert any("did you mean 'high'" in n.text for n in found)


def test_a_sound_policy_has_no_notices(check):
    assert check(SMALL) == []


@pytest.mark.parametrize(
    ("text", "line", "key", "said"),
    [
        (
            "probes: [bakdoor.a]\n",
            3,
            "probes.0",
            "no installed probe matches 'bakdoor.a'; did you mean 'backdoor.a'",
        ),
        ("split: {bakdoor: 1}\n", 3, "split.bakdoor", "of the family 'bakdoor'"),
        ("alpha: 0.01\n", 3, "alpha", "backdoor.a is left a level of 0.005"),
        ("split: {backdoor: 0}\nprobes: [backdoor.a]\n", None, "", ""),
    ],
)
def test_what_will_not_do_what_its_author_hopes_is_a_warning(check, text, line, key, said):
    found = check(SMALL + text)
    if line is None:
        assert found == []
        return
    assert [n.level for n in found] == ["warning"] * len(found)
    assert any((n.line, n.key) == (line, key) and said in n.text for n in found), found


def test_a_required_probe_without_alpha_and_an_unknown_one(check):
    found = check("name: x\nrequired: [backdoor.a]\nsplit: {backdoor: 0}\n")
    assert ["backdoor.a is required" in n.text and n.line == 3 for n in found] == [True]
    found = check("name: x\nrequired: [nothing.here]\n")
    assert ["no audit can begin" in n.text for n in found] == [True]


def test_a_level_that_no_bank_reaches_says_how_large_one_must_be(check):
    [notice] = check(SMALL + "alpha: 0.02\nsplit: {behaviour: 0}\n", banks=[("backdoor.a", 19)])
    assert "cannot judge below 0.05 (it takes 49)" in notice.text


WAIVER = "waivers:\n- rule: {rule}\n  owner: Ada\n  reason: r\n  expires: {expires}\n"


@pytest.mark.parametrize(
    ("rule", "expires", "more", "said"),
    [
        ("PMA-FILE-001", "2026-11-23", "  fingerprint: f\n", ["expired on 2026-11-23"]),
        ("PMA-FILE-001", "2026-12-24", "  fingerprint: f\n", ["expires soon"]),
        ("PMA-FILE-001", "2027-12-24", "  fingerprint: f\n", []),
        ("PMA-FLIE-001", "2027-12-24", "  fingerprint: f\n", ["did you mean 'PMA-FILE-001'"]),
        ("backdoor.*", "2027-12-24", "", ["covers every artifact"]),
        ("backdoor.*", "2027-12-24", "  fingerprint: f\nwaivable_up_to: null\n", ["does nothing"]),
    ],
)
def test_waivers_that_expired_are_broad_or_name_nothing(check, rule, expires, more, said):
    found = check(SMALL + WAIVER.format(rule=rule, expires=expires) + more)
    assert len(found) == len(said)
    assert all(text in notice.text for text, notice in zip(said, found, strict=True))


@pytest.mark.parametrize("name", shipped_policies())
def test_a_shipped_policy_can_do_what_it_says_with_the_shipped_banks(name):
    """Fails where a new probe takes so much of the level that a shipped bank can no longer judge at its share."""
    sizes: dict[str, int] = {}
    for path in bank_directories()[-1].glob("*.json"):
        bank = load_bank(path)
        sizes[bank.probe] = max(sizes.get(bank.probe, 0), bank.reference().n)
    assert check_policy(policy_path(name), today=TODAY, banks=sizes, rules=[], registry=PROBES) == []


@pytest.mark.parametrize("name", shipped_policies())
def test_a_shipped_policy_is_commented_named_and_fits_the_published_schema(name):
    text = policy_path(name).read_text("utf-8")
    assert text.startswith("# ") and load_policy(name).name == name
    jsonschema.Draft202012Validator(schema()).validate(yaml.safe_load(text))


def test_the_published_schema_is_the_models_and_refuses_what_it_does_not_know():
    jsonschema.Draft202012Validator.check_schema(schema())
    assert PATH.read_text("utf-8") == render(), "run: python -m auditor.policy.schema"
    valid = jsonschema.Draft202012Validator(schema()).is_valid
    good = {"name": "x", "required": ["a"]}
    assert valid(good) and not valid({**good, "alhpa": 0.1}) and not valid({"name": "x"})
    waiver = {"rule": "R", "owner": "o", "reason": "r", "expires": "2026-12-31"}
    assert valid({**good, "waivers": [waiver]})
    assert not valid({**good, "waivers": [{**waiver, "owner": ""}]})


def test_every_key_is_described():
    body = json.loads(render())
    for properties in (body["properties"], body["$defs"]["WaiverRule"]["properties"]):
        assert all(each.get("description") for each in properties.values())


def test_the_old_name_of_hub_intake_is_the_same_policy():
    assert load_policy("hub_intake") == load_policy("hub-intake")
