"""Waivers: what they set aside, what they cannot, and that nothing depends on the clock."""

from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from policy_cases import FULL, PROBES, finding, findings, result

from auditor.errors import PolicyError
from auditor.policy import DECISIONS, Policy, WaiverRule, load_policy, load_waivers, policy_from_document
from reports.model import Decision, Outcome, Severity

TODAY = "2026-11-24T08:00:00Z"
SHA = "a" * 64
DEFAULT = load_policy("default")
CLEAN = tuple(result(probe) for probe in PROBES[:3])
FAILED = (result("static.file_safety", Outcome.FAIL), *CLEAN[1:])


def waiver(**changes) -> WaiverRule:
    values = {"rule": "R", "owner": "Ada", "reason": "known", "expires": "2026-12-31"}
    return WaiverRule(**{**values, **changes})


def judged(policy, found, seen=CLEAN, sources=None, artifacts=(SHA,), created=TODAY):
    waived = policy.waive(found, artifacts=artifacts, created=created)
    verdict = policy.decide(
        results=seen,
        findings=waived.findings,
        coverage=FULL,
        planned=PROBES,
        sources=["static.file_safety"] * len(found) if sources is None else sources,
        remarks=waived.remarks,
    )
    return waived, verdict


def under(*waivers, **keys) -> Policy:
    return Policy.model_validate({**DEFAULT.model_dump(), **keys, "waivers": waivers})


def test_a_waived_finding_stays_and_no_longer_decides():
    waived, verdict = judged(under(waiver()), [finding(Severity.HIGH)])
    assert waived.findings[0].waiver.owner == "Ada"
    assert verdict.decision is Decision.ACCEPT_WITH_CONDITIONS
    assert verdict.reasons[0] == (
        "accept_with_conditions: t (high; R) is waived by Ada until 2026-12-31: known"
    )
    assert any(reason.startswith("condition: ") for reason in verdict.reasons)


@given(st.lists(findings, min_size=1), st.sampled_from(Severity))
def test_a_waiver_never_reaches_a_plain_accept_and_never_makes_a_decision_graver(found, limit):
    policy = under(waiver(), waivable_up_to=limit)
    waived, with_waivers = judged(policy, found)
    _, without = judged(DEFAULT, found)
    at_most = max(DECISIONS.index(without.decision), DECISIONS.index(Decision.ACCEPT_WITH_CONDITIONS))
    assert DECISIONS.index(with_waivers.decision) <= at_most
    if any(each.waiver for each in waived.findings):
        assert with_waivers.decision is not Decision.ACCEPT
    graver = [
        each for each in waived.findings if list(Severity).index(each.severity) > list(Severity).index(limit)
    ]
    assert not any(each.waiver for each in graver)


@pytest.mark.parametrize(
    ("changes", "covers"),
    [
        ({}, True),
        ({"rule": "R*"}, True),
        ({"rule": "S"}, False),
        ({"fingerprint": "f"}, True),
        ({"fingerprint": "g"}, False),
        ({"artifact": SHA}, True),
        ({"artifact": "b" * 64}, False),
    ],
)
def test_a_waiver_covers_what_it_names_and_nothing_else(changes, covers):
    waived, verdict = judged(under(waiver(**changes)), [finding(Severity.MEDIUM)])
    assert (waived.findings[0].waiver is not None) is covers
    assert (verdict.decision is Decision.ACCEPT_WITH_CONDITIONS) is covers
    assert bool(waived.limitations) is not covers


def test_among_several_artifacts_a_waiver_must_name_the_finding():
    both = (SHA, "b" * 64)
    waived, _ = judged(under(waiver(artifact=SHA)), [finding()], artifacts=both)
    assert waived.findings[0].waiver is None and "must name the fingerprint" in waived.limitations[0].text
    waived, _ = judged(under(waiver(artifact=SHA, fingerprint="f")), [finding()], artifacts=both)
    assert waived.findings[0].waiver is not None


@pytest.mark.parametrize(
    ("limit", "severity", "says"),
    [
        (
            "high",
            Severity.CRITICAL,
            "the finding is critical, and the policy lets findings be waived up to high",
        ),
        ("low", Severity.MEDIUM, "up to low"),
        (None, Severity.INFO, "lets no finding be waived"),
    ],
)
def test_a_finding_too_grave_to_be_waived_decides_and_the_attempt_is_told(limit, severity, says):
    _, verdict = judged(under(waiver(), waivable_up_to=limit), [finding(severity)])
    _, plain = judged(DEFAULT, [finding(severity)])
    assert verdict.decision is plain.decision
    [told] = [reason for reason in verdict.reasons if reason.startswith("waiver: ")]
    assert "Ada's waiver of R was refused" in told and says in told


@pytest.mark.parametrize(
    ("created", "holds"),
    [
        ("2026-12-31T23:59:59Z", True),
        ("2027-01-01T00:00:00Z", False),
        ("c", False),
    ],
)
def test_a_waiver_holds_to_the_end_of_its_last_day_by_the_reports_own_date(created, holds):
    waived, verdict = judged(under(waiver()), [finding(Severity.MEDIUM)], created=created)
    assert (verdict.decision is Decision.ACCEPT_WITH_CONDITIONS) is holds
    if not holds:
        assert verdict.decision is Decision.REVIEW
        assert "expired on 2026-12-31 and does nothing" in waived.remarks[0]


def test_of_two_waivers_an_active_one_counts_and_the_longest_is_named():
    policy = under(waiver(expires="2026-01-01"), waiver(owner="Bo", expires="2027-01-01"), waiver())
    waived, _ = judged(policy, [finding()])
    assert waived.findings[0].waiver.owner == "Bo" and not waived.remarks and not waived.limitations


@pytest.mark.parametrize(
    ("found", "rules", "sources", "expected"),
    [
        (("R",), ("R",), None, "accept_with_conditions"),
        (("R", "S"), ("R",), None, "quarantine"),
        (("R",), ("R",), ["behaviour.drift"], "review"),
        (("R",), ("R",), [], "review"),
        ((), ("R",), None, "review"),
    ],
)
def test_a_failure_is_covered_only_if_all_findings_of_its_probe_are_waived(found, rules, sources, expected):
    each = [finding().model_copy(update={"rule_id": rule}) for rule in found]
    _, verdict = judged(under(*(waiver(rule=rule) for rule in rules)), each, FAILED, sources)
    assert verdict.decision.value == expected


def test_one_waived_finding_does_not_cover_two_failures_of_its_probe():
    twice = (*FAILED, result("static.file_safety", Outcome.FAIL))
    assert judged(under(waiver()), [finding()], twice)[1].decision is Decision.REVIEW


def test_a_waiver_says_nothing_of_what_was_not_tested():
    _, verdict = judged(under(waiver()), [finding()], CLEAN[:1])
    assert verdict.decision is Decision.INCONCLUSIVE


def test_a_waived_finding_does_not_settle_the_case_early():
    hub = load_policy("hub-intake").with_waivers([waiver()])
    hub = Policy.model_validate({**hub.model_dump(), "waivable_up_to": "high"})
    waived = hub.waive([finding()], artifacts=[SHA], created=TODAY).findings
    seen = [FAILED[0]]
    assert hub.settles(seen, [finding()], ["static.file_safety"]) is Decision.QUARANTINE
    assert hub.settles(seen, waived, ["static.file_safety"]) is None


def test_waivers_are_part_of_the_plan_and_of_its_hash():
    assert DEFAULT.document  # computed once: a policy that comes from another must not inherit it
    policy = DEFAULT.with_waivers([waiver(), waiver()])
    assert len(policy.waivers) == 1 and policy.sha256 != DEFAULT.sha256
    assert policy_from_document(policy.document) == policy
    assert policy.with_waivers([waiver()]) == policy


def test_hostile_text_in_a_waiver_is_made_inert():
    hostile = waiver(owner="A\x1b[2J", reason="\u202eb", rule="R*\x07")
    for created, found in ((TODAY, [finding()]), ("2028-01-01", [finding()]), (TODAY, [])):
        waived, verdict = judged(under(hostile), found, created=created)
        told = [*verdict.reasons, *waived.remarks, *(each.text for each in waived.limitations)]
        assert not set("".join(told)) & set("\x1b\u202e\x07")


FULL_ONE = "rule: R\n  owner: Ada\n  reason: known\n  expires: 2026-12-31\n"


@pytest.mark.parametrize("text", [f"- {FULL_ONE}", f"waivers:\n- {FULL_ONE}"])
def test_a_file_of_waivers_is_a_list_with_or_without_its_name(tmp_path, text):
    path = tmp_path / "w.yaml"
    path.write_text(text)
    assert load_waivers(path) == (waiver(),)


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        (f"- {FULL_ONE}  onwer: x\n", 5, "'0.onwer' is unknown; did you mean 'owner'"),
        (f"waivers:\n- {FULL_ONE}  artefact: x\n", 6, "unknown; did you mean 'artifact'"),
        ("- rule: R\n  owner: Ada\n  reason: known\n", 1, "key '0.expires' is missing"),
        ("- rule: R\n  owner: Ada\n  reason: ''\n  expires: 2026-12-31\n", 3, "key '0.reason'"),
        (f"- {FULL_ONE}".replace("2026-12-31", "2026-02-30"), 4, ""),
        (f"- {FULL_ONE}".replace("2026-12-31", "never"), 4, "written as YYYY-MM-DD"),
        (f"- {FULL_ONE}".replace("2026-12-31", "2026-12-31 10:00:00"), 4, "written as YYYY-MM-DD"),
        (f"- {FULL_ONE}".replace("2026-12-31", "20261231"), 4, "written as YYYY-MM-DD"),
        (f"- {FULL_ONE}  artifact: abc\n", 5, "key '0.artifact'"),
        ("[]\n", 1, "a list of waivers"),
        ("", 1, "missing"),
        ("text\n", 1, "a list of waivers"),
    ],
)
def test_a_bad_file_of_waivers_names_file_line_and_key(tmp_path, text, line, said):
    path = tmp_path / "w.yaml"
    path.write_text(text)
    with pytest.raises(PolicyError) as caught:
        load_waivers(path)
    message = str(caught.value)
    assert message.startswith(f"{path}") and "\n" not in message and said in message
    assert f"line {line}" in message or not said


def test_a_waiver_of_yesterday_and_one_of_today():
    day = date(2026, 11, 24)
    for expires, holds in ((day, True), (day - timedelta(days=1), False)):
        waived, _ = judged(under(waiver(expires=expires)), [finding()])
        assert (waived.findings[0].waiver is not None) is holds
