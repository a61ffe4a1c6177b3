import pytest
from hypothesis import given
from hypothesis import strategies as st
from policy_cases import FULL, NONE_APPLIED, PROBES, coverages, finding, findings, report, result, results

from auditor.errors import EXIT_PASS
from auditor.policy import DECISIONS, Policy, combine_exit_codes, exit_code, load_policy, shipped_policies
from reports.model import Decision, Outcome, Severity, Status

DEFAULT, HUB, SECURITY, STRICT = (
    load_policy(name) for name in ("default", "hub-intake", "security-review", "strict")
)
CLEAN = tuple(result(probe) for probe in PROBES[:3])
EVERY_POLICY = pytest.mark.parametrize(
    "policy", [DEFAULT, HUB, SECURITY, STRICT], ids=lambda policy: policy.name
)


def verdict(policy, results=CLEAN, findings=(), coverage=FULL, planned=PROBES):
    return policy.decide(results=results, findings=findings, coverage=coverage, planned=planned)


def decision(policy, **rest) -> Decision:
    return verdict(policy, **rest).decision


def rank(decision: Decision) -> int:
    return DECISIONS.index(decision)


@EVERY_POLICY
def test_a_clean_adapter_is_accepted_with_the_reason(policy):
    told = verdict(policy)
    assert told.decision is Decision.ACCEPT
    assert "static.file_safety" in told.reasons[0]


@EVERY_POLICY
@pytest.mark.parametrize(
    "missing",
    [
        {"results": ()},
        {"results": (), "planned": ()},
        {"results": tuple(result(p, Outcome.SKIPPED) for p in PROBES)},
        {"results": CLEAN[:1]},
        {"results": (*CLEAN[1:], result("static.file_safety", Outcome.INCONCLUSIVE))},
        {"results": (*CLEAN, result("static.file_safety", Outcome.ERROR))},
        {"planned": ("static.file_safety",)},
        {"coverage": NONE_APPLIED},
        {"coverage": None},
    ],
)
def test_what_was_not_evaluated_is_never_a_pass(policy, missing):
    assert decision(policy, **missing) is Decision.INCONCLUSIVE


@given(
    st.sampled_from([DEFAULT, HUB, SECURITY, STRICT]),
    st.lists(results),
    st.lists(findings),
    findings,
    coverages,
)
def test_adding_a_finding_never_makes_the_decision_milder(policy, seen, found, another, coverage):
    before = decision(policy, results=seen, findings=found, coverage=coverage)
    after = decision(policy, results=seen, findings=[*found, another], coverage=coverage)
    assert rank(after) >= rank(before)


@given(
    st.sampled_from([DEFAULT, HUB, SECURITY, STRICT]),
    st.lists(results, min_size=1),
    st.lists(findings),
    st.data(),
)
def test_turning_a_pass_into_anything_else_never_makes_the_decision_milder(policy, seen, found, data):
    index = data.draw(st.integers(0, len(seen) - 1))
    worse = list(seen)
    if seen[index].outcome is Outcome.PASS:
        outcome = data.draw(st.sampled_from([o for o in Outcome if o is not Outcome.PASS]))
        worse[index] = seen[index].model_copy(update={"outcome": outcome})
    assert rank(decision(policy, results=worse, findings=found)) >= rank(
        decision(policy, results=seen, findings=found)
    )


@given(
    st.sampled_from([DEFAULT, HUB, SECURITY, STRICT]),
    st.lists(results),
    st.lists(findings),
    coverages,
    coverages,
)
def test_less_coverage_never_makes_the_decision_milder(policy, seen, found, one, other):
    full, less = (one, other) if one == FULL else (other, one)
    if full == FULL:
        assert rank(decision(policy, results=seen, findings=found, coverage=less)) >= rank(
            decision(policy, results=seen, findings=found, coverage=full)
        )


@given(st.lists(results), st.lists(findings), coverages)
def test_an_accept_means_that_all_that_is_required_passed_with_coverage(seen, found, coverage):
    if decision(DEFAULT, results=seen, findings=found, coverage=coverage) in (
        Decision.ACCEPT,
        Decision.ACCEPT_WITH_CONDITIONS,
    ):
        assert coverage == FULL
        for probe in DEFAULT.required:
            outcomes = {r.outcome for r in seen if r.probe == probe}
            assert outcomes == {Outcome.PASS}


@given(st.lists(results), st.lists(findings), coverages)
def test_the_strict_policy_is_never_milder_than_the_default(seen, found, coverage):
    assert rank(decision(STRICT, results=seen, findings=found, coverage=coverage)) >= rank(
        decision(DEFAULT, results=seen, findings=found, coverage=coverage)
    )


@given(
    st.sampled_from([DEFAULT, HUB, SECURITY, STRICT]),
    st.permutations(CLEAN),
    st.lists(findings, max_size=4),
    st.randoms(),
)
def test_the_decision_does_not_depend_on_order(policy, seen, found, random):
    shuffled = list(found)
    random.shuffle(shuffled)
    assert decision(policy, results=seen, findings=shuffled) is decision(policy, findings=found)


@pytest.mark.parametrize(
    ("severity", "expected"),
    [("critical", "reject"), ("high", "quarantine"), ("medium", "review"), ("low", "accept_with_conditions")],
)
def test_the_table_of_the_default_policy(severity, expected):
    told = verdict(DEFAULT, findings=[finding(Severity(severity))])
    assert told.decision.value == expected
    assert told.reasons[0] == f"{expected}: t ({severity}; R)"


def test_a_hostile_file_is_rejected_though_nothing_else_ran():
    seen = [result("static.file_safety", Outcome.FAIL), result("backdoor.vocabulary_shift", Outcome.SKIPPED)]
    told = verdict(DEFAULT, results=seen, findings=[finding(Severity.CRITICAL)], coverage=None)
    assert told.decision is Decision.REJECT
    assert told.reasons[0].startswith("reject: ")
    assert any(reason.startswith("inconclusive: ") for reason in told.reasons)


def test_strong_evidence_without_a_bank_is_review_and_says_uncalibrated():
    seen = [CLEAN[0], result("backdoor.vocabulary_shift", Outcome.FAIL, calibrated=False)]
    told = verdict(DEFAULT, results=seen, findings=[finding(Severity.CRITICAL, calibrated=False)])
    assert told.decision is Decision.REVIEW
    assert "uncalibrated" in told.reasons[0] and "uncalibrated" in told.reasons[1]


def test_a_failure_without_a_finding_is_at_least_review():
    seen = [*CLEAN, result("x.optional", Outcome.FAIL, reason="p = 0.001")]
    told = verdict(DEFAULT, results=seen)
    assert told.reasons[0] == "review: x.optional failed: p = 0.001"


def test_a_finding_of_low_confidence_is_no_more_than_review():
    assert decision(DEFAULT, findings=[finding(Severity.CRITICAL, confidence="low")]) is Decision.REVIEW


@pytest.mark.parametrize(("policy", "expected"), [(DEFAULT, "accept"), (STRICT, "inconclusive")])
def test_two_policies_differ_on_an_optional_probe_that_was_not_settled(policy, expected):
    seen = [*CLEAN, result("x.optional", Outcome.INCONCLUSIVE)]
    assert decision(policy, results=seen).value == expected


def test_conditions_are_told_with_a_conditional_accept():
    reasons = verdict(DEFAULT, findings=[finding(Severity.LOW)]).reasons
    assert any(reason.startswith("condition: ") for reason in reasons)


def test_hostile_titles_are_made_inert():
    assert "\x1b" not in verdict(DEFAULT, findings=[finding(title="a\x1b[2Jb")]).reasons[0]


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (CLEAN, Status.SUCCESS),
        ((*CLEAN, result("x.optional", Outcome.ERROR)), Status.SUCCESS),
        ((*CLEAN, result("backdoor.vocabulary_shift", Outcome.ERROR)), Status.ERROR),
        ((result("x.optional", Outcome.ERROR),), Status.ERROR),
        ((result("x.optional", Outcome.SKIPPED),), Status.SUCCESS),
    ],
)
def test_status_is_error_where_what_is_required_failed_to_run(seen, expected):
    assert DEFAULT.status(seen) is expected


def test_only_a_policy_that_says_so_settles_early():
    assert DEFAULT.settles((), [finding(Severity.CRITICAL)]) is None
    assert HUB.settles((), [finding(Severity.CRITICAL)]) is Decision.REJECT
    assert HUB.settles((), [finding(Severity.MEDIUM)]) is None


@pytest.mark.parametrize(
    ("given_report", "fail_on", "code"),
    [
        (report(Decision.ACCEPT), Decision.REVIEW, 0),
        (report(Decision.ACCEPT_WITH_CONDITIONS), Decision.REVIEW, 0),
        (report(Decision.ACCEPT_WITH_CONDITIONS), Decision.ACCEPT_WITH_CONDITIONS, 1),
        (report(Decision.INCONCLUSIVE), Decision.REVIEW, 3),
        (report(Decision.INCONCLUSIVE), Decision.INCONCLUSIVE, 1),
        (report(Decision.REVIEW), Decision.REVIEW, 1),
        (report(Decision.REVIEW), Decision.QUARANTINE, 0),
        (report(Decision.REVIEW, reasons=["review: a", "inconclusive: b"]), Decision.REJECT, 3),
        (report(Decision.REJECT, reasons=["reject: a", "inconclusive: b"]), Decision.REVIEW, 1),
        (report(Decision.REJECT, status=Status.ERROR), Decision.REVIEW, 2),
        (report(Decision.ACCEPT, status=Status.CANCELLED), Decision.REVIEW, 2),
        (report(Decision.INCONCLUSIVE, kind="unsupported"), Decision.REVIEW, 4),
        (report(Decision.REJECT, kind="unsupported"), Decision.REVIEW, 1),
    ],
)
def test_exit_codes_follow_the_table(given_report, fail_on, code):
    assert exit_code(given_report, fail_on) == code


def test_the_worst_code_wins_over_several_reports():
    assert combine_exit_codes([0, 4, 3, 1, 2]) == 2
    assert combine_exit_codes([0, 4, 3, 1]) == 1
    assert combine_exit_codes([4, 3, 0]) == 3
    assert combine_exit_codes([4, 0]) == 4
    assert combine_exit_codes([]) == EXIT_PASS
    assert combine_exit_codes([137]) == 2


def test_a_lab_keeps_a_known_backdoor_apart_and_nothing_less():
    lab = load_policy("research")
    assert decision(lab, findings=[finding(Severity.CRITICAL)]) is Decision.QUARANTINE
    assert decision(lab, findings=[finding(Severity.MEDIUM)]) is Decision.ACCEPT_WITH_CONDITIONS
    assert decision(lab, coverage=None) is Decision.INCONCLUSIVE


def test_shipped_policies_are_policies():
    assert set(shipped_policies()) == {"combination", "default", "hub-intake", "research", "security-review", "strict"}
    for name in shipped_policies():
        assert isinstance(load_policy(name), Policy)
        assert load_policy(name).name == name
