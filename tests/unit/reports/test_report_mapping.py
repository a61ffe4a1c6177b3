"""Controls: only full evidence is ``met``, and nothing in a mapping claims more than that."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_samples import SAMPLES, accept

from reports.mapping import (
    Mapping,
    MappingError,
    Row,
    apply_mappings,
    assess,
    load_mapping,
    shipped_mappings,
)
from reports.model import Artifact, Coverage, Outcome, Result, Status

FULL = Coverage(keys_total=2, keys_applied=2, output_differs=True)
SETTLED = (Outcome.PASS, Outcome.FAIL)


def row(**changes) -> Row:
    return Row(**{"id": "X-1", "title": "t", "limits": "l", "requires": ("a.x", "b.*"), **changes})


MAPPING = Mapping(scheme="S", edition="1", about="a", source="s", checked="c", controls=(row(),))


def measured(probe, outcome=Outcome.PASS, calibrated=True, n=10) -> Result:
    return Result(probe=probe, version=1, outcome=outcome, calibrated=calibrated, n=n)


GOOD = (measured("a.x"), measured("b.y"), measured("b.z"))


def control(results=GOOD, coverage=FULL, status=Status.SUCCESS, kind="adapter", installed=(), **changes):
    report = accept()[0]
    subject = report.subject.model_copy(
        update={
            "coverage": coverage,
            "artifacts": (Artifact(path="p", sha256="a" * 64, size=1, kind=kind),),
        }
    )
    plan = report.plan.model_copy(update={"probes": ()})
    report = report.model_copy(
        update={"results": tuple(results), "subject": subject, "plan": plan, "status": status}
    )
    return assess(report, MAPPING, row(**changes), installed)


def test_all_that_is_required_with_n_and_coverage_is_met():
    found = control(min_n={"a.x": 10})
    assert (found.status, found.evidence) == ("met", ("a.x", "b.y", "b.z"))
    assert found.reason == "Evidence for it: a.x, b.y, b.z ran with full n and passed."
    assert (found.scheme, found.edition, found.id, found.limits) == ("S", "1", "X-1", "l")


@pytest.mark.parametrize(
    ("changes", "status", "said"),
    [
        ({"results": ()}, "not_assessed", "a.x was not part of this audit; b.* was not part"),
        ({"results": (), "installed": ["a.x"]}, "not_assessed", "this release has no probe b.*"),
        ({"results": GOOD[:1]}, "partial", "Evidence from a.x alone: b.* was not part of this audit."),
        ({"results": (*GOOD[:2], measured("b.z", Outcome.INCONCLUSIVE))}, "partial", "b.z was inconclusive"),
        ({"results": (*GOOD[:2], measured("b.z", Outcome.ERROR))}, "partial", "b.z failed to run"),
        ({"results": (*GOOD[:2], measured("b.z", Outcome.SKIPPED))}, "partial", "b.z was skipped"),
        ({"results": (*GOOD[:2], measured("b.z", calibrated=False))}, "partial", "without a bank"),
        ({"min_n": {"b.*": 11}}, "partial", "b.y measured n = 10 where 11 are needed"),
        ({"coverage": None}, "partial", "nothing proves that the whole artifact arrived"),
        ({"coverage": None, "row_coverage": "any"}, "met", "Evidence for it"),
        ({"status": Status.ERROR}, "partial", "the audit did not run to its end"),
        ({"results": (*GOOD, measured("a.x", Outcome.INCONCLUSIVE))}, "partial", "a.x was inconclusive"),
        ({"results": (*GOOD[:2], measured("b.z", Outcome.FAIL))}, "not_met", "against it: b.z failed"),
        ({"results": (measured("b.z", Outcome.FAIL),), "coverage": None}, "not_met", "b.z failed"),
        ({"results": (measured("b.z", Outcome.FAIL, False),)}, "not_assessed", "without a bank"),
        (
            {"results": (*GOOD[:2], measured("b.z", Outcome.FAIL)), "evidence_rule": "measured"},
            "met",
            "b.z failed,",
        ),
        ({"requires": ()}, "not_assessed", "No measurement on a model can answer it."),
        ({"kinds": ("checkpoint",)}, "not_applicable", "no meaning for what was audited: adapter."),
        (
            {"kinds": ("checkpoint",), "kind": "refused", "results": ()},
            "not_assessed",
            "not part of this audit",
        ),
    ],
)
def test_every_other_case_has_its_status_and_a_reason_of_one_sentence(changes, status, said):
    if "row_coverage" in changes:
        report = accept()[0]
        subject = report.subject.model_copy(update={"coverage": None})
        found = assess(
            report.model_copy(update={"results": GOOD, "subject": subject}), MAPPING, row(coverage="any")
        )
    else:
        found = control(**changes)
    assert found.status == status and said in found.reason
    assert found.reason.endswith(".") and "\n" not in found.reason


def test_a_planned_probe_that_ended_without_a_result_is_missing():
    report = accept()[0]
    found = assess(report.model_copy(update={"results": ()}), MAPPING, row(requires=("file.safety",)))
    assert found.reason == "Nothing that counts as evidence: file.safety ended without a result."


results = st.builds(
    measured,
    st.sampled_from(["a.x", "b.y", "b.z", "c.q"]),
    st.sampled_from(Outcome),
    st.booleans(),
    st.integers(0, 20),
)


@given(
    st.lists(results, max_size=6),
    st.sampled_from([FULL, None, Coverage(keys_total=2, keys_applied=1)]),
    st.sampled_from(Status),
    st.sampled_from(["passed", "measured"]),
)
def test_met_means_that_all_ran_with_n_coverage_and_a_bank(seen, coverage, status, rule):
    found = control(seen, coverage, status, evidence_rule=rule, min_n={"a.x": 10, "b.*": 10})
    asked = [result for result in seen if result.probe != "c.q"]
    if found.status == "met":
        assert status is Status.SUCCESS and coverage == FULL
        assert {"a.x"} <= {r.probe for r in asked} and any(r.probe.startswith("b.") for r in asked)
        assert all(r.outcome in SETTLED and r.calibrated and r.n >= 10 for r in asked)
        assert rule == "measured" or all(r.outcome is Outcome.PASS for r in asked)
    for probe in found.evidence:
        assert all(r.outcome in SETTLED and r.calibrated and r.n >= 10 for r in seen if r.probe == probe)


@given(st.lists(results, max_size=5), st.data())
def test_losing_evidence_never_makes_a_control_met(seen, data):
    index = data.draw(st.integers(0, max(0, len(seen) - 1)))
    lost = data.draw(st.sampled_from([Outcome.INCONCLUSIVE, Outcome.ERROR, Outcome.SKIPPED]))
    worse = [
        result.model_copy(update={"outcome": lost})
        if place == index and result.outcome is Outcome.PASS
        else result
        for place, result in enumerate(seen)
    ]
    if worse != seen and seen[index].probe != "c.q":
        assert control(worse).status != "met"


def test_the_stored_report_is_left_as_it_was_and_its_own_controls_are_kept():
    report, _ = SAMPLES["reject"]()
    before = report.model_dump_json()
    mapped = apply_mappings(report, shipped_mappings())
    assert report.model_dump_json() == before
    ids = [(each.scheme, each.id) for each in mapped.controls]
    assert len(set(ids)) == len(ids) > 40
    assert mapped.model_copy(update={"controls": report.controls}) == report


def test_mapping_twice_changes_nothing():
    report = apply_mappings(accept()[0], shipped_mappings())
    assert apply_mappings(report, shipped_mappings()) == report


@pytest.mark.parametrize("name", shipped_mappings())
def test_a_shipped_mapping_is_pinned_and_claims_nothing(name):
    mapping = load_mapping(name)
    scheme, _, edition = name.partition("@")
    assert edition == mapping.edition
    assert scheme == re.sub(r"\W+", "-", mapping.scheme.lower())
    told = [mapping.about, *(text for each in mapping.controls for text in (each.title, each.limits))]
    assert not any(re.search(r"complian|conform|certif", text, re.IGNORECASE) for text in told)
    assert all(
        each.limits.endswith((".", "seen.")) and not each.title.endswith(".") for each in mapping.controls
    )


def test_the_first_mappings_have_the_controls_that_matter_most():
    nist = {each.id for each in load_mapping("nist-ai-600-1@2024-07").controls}
    assert {"MS-2.7-001", "MS-2.7-005", "MS-2.7-008", "MG-3.2-002"} <= nist
    act = " ".join(each.id for each in load_mapping("eu-ai-act@2024-1689").controls)
    assert all(article in act for article in ("Art. 15", "Art. 50", "Art. 53"))
    assert any(each.id == "AML.T0018.000" for each in load_mapping("mitre-atlas@5.6.0").controls)


@pytest.mark.parametrize("name", ["nist", "../nist-ai-600-1@2024-07", "nist-ai-600-1@2023", ""])
def test_an_unknown_mapping_is_an_error(name):
    with pytest.raises(MappingError):
        load_mapping(name)


@pytest.mark.parametrize("changes", [{"min_n": {"c.q": 1}}, {"min_n": {"a.x": 0}}, {"evidence_rule": "any"}])
def test_a_row_that_contradicts_itself_is_refused(changes):
    with pytest.raises(ValueError):
        row(**changes)


def test_a_control_stands_once():
    with pytest.raises(ValueError, match="twice"):
        Mapping(scheme="S", edition="1", about="a", source="s", checked="c", controls=(row(), row()))
