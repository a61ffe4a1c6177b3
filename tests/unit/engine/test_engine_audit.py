import json

import numpy as np
import pytest
from engine_world import (
    FULL,
    NONE_APPLIED,
    TOOL,
    FakeSubject,
    HandClock,
    finding,
    gives,
    make_probe,
    policy,
    registry,
    result,
)

from auditor.caps import Caps, capped
from auditor.contracts import Capability, Stage
from auditor.engine import audit, compare_reports, identical, resume
from auditor.errors import IncompatibleArtifact, TimeCap
from reports.model import Bank, Coverage, Decision, Outcome, Severity, Status

MODEL = {"needs": {Capability.DENOISER}, "stage": Stage.STEP}


def run(*probes, subject=None, rules=None, **rest):
    return audit(
        subject or FakeSubject(), policy=rules or policy(), registry=registry(*probes), tool=TOOL,
        banks=lambda *_: None, **rest,
    )  # fmt: skip


def calibrated(probe="b.x", p=0.5, n=200, outcome=Outcome.PASS):
    return result(probe, outcome, calibrated=True, p_value=p, bank=Bank(id="k@1", sha256="c" * 64, n=n))


def only(report):
    (found,) = report.results
    return found


def test_a_clean_adapter_whose_required_probes_pass_is_accepted():
    report = run(
        make_probe("static.a", gives(result("static.a"))),
        make_probe("b.x", gives(calibrated()), bank="k", **MODEL),
    )
    assert report.verdict.decision is Decision.ACCEPT
    assert report.status is Status.SUCCESS
    assert report.results[1].adjusted_p == pytest.approx(0.5)


def test_an_exception_is_an_error_with_one_sentence_and_never_a_pass(tmp_path):
    def broken(subject, params, run):
        yield result("t.a")
        raise ValueError("first line\nsecond line \x1b[31m")

    report = run(make_probe("t.a", broken), out=tmp_path / "run")
    assert [r.outcome for r in report.results] == [Outcome.INCONCLUSIVE, Outcome.ERROR]
    assert report.results[1].reason == "ValueError: first line"
    assert report.status is Status.ERROR
    assert "Traceback" in (tmp_path / "run" / "events.jsonl").read_text()


def test_an_error_of_our_own_keeps_its_sentence():
    def broken(subject, params, run):
        raise IncompatibleArtifact("the adapter has 8 input channels, the base 4")
        yield

    assert only(run(make_probe("t.a", broken))).reason == "the adapter has 8 input channels, the base 4"


@pytest.mark.parametrize(
    "items",
    [
        (),
        ("text",),
        (result("t.other"),),
    ],
)
def test_a_probe_that_breaks_the_contract_passes_nothing(items):
    assert only(run(make_probe("t.a", gives(*items)))).outcome in (Outcome.ERROR, Outcome.INCONCLUSIVE)


def test_a_need_that_is_not_met_skips_the_probe_with_the_subjects_reason():
    subject = FakeSubject(
        frozenset({Capability.FILE}), unavailable={Capability.DENOISER: "no base was given"}
    )
    report = run(make_probe("b.x", gives(calibrated()), **MODEL), subject=subject)
    assert only(report).outcome is Outcome.SKIPPED
    assert "denoiser (no base was given)" in only(report).reason
    assert report.verdict.decision is Decision.INCONCLUSIVE
    assert any("Not tested" in limit.text for limit in report.limitations)


@pytest.mark.parametrize(
    ("coverage", "said"),
    [
        (NONE_APPLIED, "0 of 8 keys"),
        (Coverage(keys_total=0, keys_applied=0, output_differs=True), "0 of 0 keys"),
    ],
)
def test_without_one_key_applied_behavioural_probes_are_not_run_and_nothing_passes(coverage, said):
    report = run(make_probe("b.x", gives(calibrated()), **MODEL), subject=FakeSubject(coverage=coverage))
    assert only(report).outcome is Outcome.SKIPPED
    assert said in only(report).reason
    assert report.verdict.decision is Decision.INCONCLUSIVE


@pytest.mark.parametrize(
    ("coverage", "said"),
    [
        (Coverage(keys_total=8, keys_applied=7, output_differs=True), "7 of 8 keys"),
        (Coverage(keys_total=8, keys_applied=8, output_differs=False), "answers differently"),
        (Coverage(keys_total=8, keys_applied=8), "answers differently"),
        (None, "nothing shows"),
    ],
)
def test_a_behavioural_pass_without_full_coverage_is_inconclusive(coverage, said):
    report = run(make_probe("b.x", gives(calibrated()), **MODEL), subject=FakeSubject(coverage=coverage))
    assert only(report).outcome is Outcome.INCONCLUSIVE
    assert said in only(report).reason
    assert report.verdict.decision is Decision.INCONCLUSIVE


def test_a_file_probe_may_pass_without_coverage_but_the_audit_may_not():
    report = run(make_probe("t.a", gives(result())), subject=FakeSubject(coverage=NONE_APPLIED))
    assert only(report).outcome is Outcome.PASS
    assert report.verdict.decision is Decision.INCONCLUSIVE


def test_a_pass_without_the_bank_it_needs_is_inconclusive_and_names_the_command():
    report = run(make_probe("b.x", gives(result("b.x")), bank="k", **MODEL))
    assert only(report).outcome is Outcome.INCONCLUSIVE
    assert any("auditor calibrate b.x --base fake" in limit.text for limit in report.limitations)


def test_a_bank_too_small_to_fail_at_the_level_passes_nothing():
    rules = policy(alpha=0.01)
    probe = make_probe("b.x", gives(calibrated(n=98)), bank="k", **MODEL)
    assert "it takes 99" in only(run(probe, rules=rules)).reason
    probe = make_probe("b.x", gives(calibrated(n=99)), bank="k", **MODEL)
    assert only(run(probe, rules=rules)).outcome is Outcome.PASS


def test_a_p_value_of_a_family_without_a_share_of_alpha_is_no_pass():
    rules = policy(split={"b": 0})
    report = run(make_probe("b.x", gives(calibrated(p=1e-9)), **MODEL), rules=rules)
    assert only(report).outcome is Outcome.INCONCLUSIVE
    assert "no share of alpha" in only(report).reason


def test_an_uncalibrated_failure_leads_to_review_and_is_labelled():
    report = run(
        make_probe("b.x", gives(result("b.x", Outcome.FAIL), finding(Severity.CRITICAL)), bank="k", **MODEL)
    )
    assert report.findings[0].calibrated is False
    assert report.verdict.decision is Decision.REVIEW
    assert "uncalibrated" in report.verdict.reasons[0]


def test_a_calibrated_failure_with_a_critical_finding_is_rejected():
    probe = make_probe(
        "b.x", gives(calibrated(p=0.005, outcome=Outcome.FAIL), finding(Severity.CRITICAL)), **MODEL
    )
    report = run(probe)
    assert report.verdict.decision is Decision.REJECT
    assert only(report).adjusted_p == pytest.approx(0.005)


def test_a_screen_decides_nothing_and_costs_the_others_nothing():
    p = calibrated("b.one", 0.015, outcome=Outcome.FAIL)
    screened = calibrated("b.screen", 0.001, outcome=Outcome.INCONCLUSIVE)
    rules = policy(alpha=0.02, required=("b.one",), optional_not_evaluated="inconclusive")
    one = make_probe("b.one", gives(p), **MODEL)
    screen = make_probe("b.screen", gives(screened), bank="screen", screen=True, **MODEL)
    alone, report = run(one, rules=rules), run(one, screen, rules=rules)
    found = {r.probe: r for r in report.results}
    assert found["b.screen"].p_value == 0.001 and found["b.screen"].adjusted_p is None
    assert found["b.one"].outcome is alone.results[0].outcome is Outcome.FAIL
    assert found["b.one"].adjusted_p == alone.results[0].adjusted_p
    assert report.verdict == alone.verdict

    def breaks(subject, params, run):
        raise RuntimeError("broken")
        yield

    broken = run(one, make_probe("b.screen", breaks, bank="screen", screen=True, **MODEL), rules=rules)
    assert any("b.screen" in reason for reason in broken.verdict.reasons)


def test_holm_is_applied_within_a_family_over_all_its_planned_probes():
    rules = policy(alpha=0.04)
    ps = {"b.one": 0.009, "b.two": 0.015, "b.three": 0.5, "c.one": 0.03}
    probes = [
        make_probe(id, gives(calibrated(id, p, outcome=Outcome.FAIL if p < 0.01 else Outcome.PASS)), **MODEL)
        for id, p in ps.items()
    ]
    silent = make_probe("b.silent", gives(result("b.silent", Outcome.INCONCLUSIVE)), **MODEL)
    found = {r.probe: r for r in run(*probes, silent, rules=rules).results}
    # Two families: shares of 0.02 each, so family-wise p-values are doubled; four planned probes in b.
    assert found["b.one"].adjusted_p == pytest.approx(0.009 * 4 * 2)
    assert found["b.two"].adjusted_p == pytest.approx(0.015 * 3 * 2)
    assert found["c.one"].adjusted_p == pytest.approx(0.06)
    assert found["b.one"].outcome is Outcome.INCONCLUSIVE
    assert found["b.silent"].adjusted_p is None


def test_what_a_probe_rejects_at_its_level_survives_the_correction():
    seen = {}

    def at_its_level(subject, params, run):
        seen["alpha"] = run.alpha
        yield calibrated("b.x", run.alpha, outcome=Outcome.FAIL)

    other = make_probe("b.y", gives(calibrated("b.y", 0.9)), **MODEL)
    report = run(make_probe("b.x", at_its_level, **MODEL), other, rules=policy(alpha=0.03))
    assert seen["alpha"] == pytest.approx(0.015)
    assert report.results[0].outcome is Outcome.FAIL


def test_a_hostile_file_is_rejected_though_nothing_else_ran():
    subject = FakeSubject(frozenset({Capability.FILE}), coverage=None)
    report = run(
        make_probe(
            "static.a", gives(result("static.a", Outcome.FAIL, calibrated=True), finding(Severity.CRITICAL))
        ),
        make_probe("b.x", gives(calibrated()), **MODEL),
        subject=subject,
    )
    assert report.verdict.decision is Decision.REJECT
    assert report.status is Status.SUCCESS


def test_a_settled_case_skips_dearer_stages_only():
    rules = policy(settle=Decision.QUARANTINE)
    report = run(
        make_probe("static.a", gives(result("static.a", Outcome.FAIL), finding(Severity.CRITICAL))),
        make_probe("static.b", gives(result("static.b"))),
        make_probe("b.x", gives(calibrated()), **MODEL),
        rules=rules,
    )
    assert [r.outcome for r in report.results] == [Outcome.FAIL, Outcome.PASS, Outcome.SKIPPED]
    assert "settled the case: reject" in report.results[2].reason


def test_results_reach_the_probes_that_consume_them_and_no_others():
    def consumer(subject, params, run):
        values = [r.value for r in run.results_of("t.a")] + [r.value for r in run.results_of("t.b")]
        yield result("t.c", value=sum(values))

    def nosy(subject, params, run):
        yield result("t.d", value=float(len(run.results_of("t.a"))))

    def broken(subject, params, run):
        raise RuntimeError("no")
        yield

    report = run(
        make_probe("t.a", gives(result("t.a", value=2.0))),
        make_probe("t.b", broken),
        make_probe("t.c", consumer, consumes=("t.a", "t.b")),
        make_probe("t.d", nosy),
    )
    assert report.results[2].value == 2.0
    assert "does not consume" in report.results[3].reason


def test_costs_are_split_over_results_and_do_not_change_identity():
    clock = HandClock()

    def costly(subject, params, run):
        run.unit("a", lambda: clock.sleep(2.0))
        run.count(30)
        yield result("t.a", value=1.0)
        clock.sleep(1.0)
        run.count(5)

    first = run(make_probe("t.a", costly), clock=clock)
    assert (only(first).cost.seconds, only(first).cost.denoiser_calls) == (3.0, 35)
    second = run(make_probe("t.a", gives(result("t.a", value=1.0))), operator="")
    assert identical(first, second)


def test_values_of_units_are_as_a_resumed_run_would_see_them():
    def unit(subject, params, run):
        value = run.unit("a", lambda: {"t": (1, np.float32(0.1)), 3: np.arange(2)})
        yield result(
            "t.a", details={"type": type(value["t"]).__name__, "keys": sorted(value), "v": value["t"][1]}
        )

    details = only(run(make_probe("t.a", unit))).details
    assert details == {"type": "list", "keys": ["3", "t"], "v": float(np.float32(0.1))}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object()])
def test_a_unit_that_cannot_be_recorded_is_an_error(value):
    def unit(subject, params, run):
        run.unit("a", lambda: value)
        yield result("t.a")

    assert only(run(make_probe("t.a", unit))).outcome is Outcome.ERROR


def test_two_units_of_one_name_are_an_error():
    def unit(subject, params, run):
        run.unit("a", lambda: 1)
        run.unit("a", lambda: 2)
        yield result("t.a")

    assert "two units called 'a'" in only(run(make_probe("t.a", unit))).reason


def test_the_report_is_the_same_for_the_same_seed_and_not_for_another():
    def drawing(subject, params, run):
        yield result("t.a", value=float(run.rng("x").random()))

    first, again, other = (run(make_probe("t.a", drawing), seed=seed) for seed in (1, 1, 2))
    assert first.id == again.id and identical(first, again)
    assert first.id != other.id
    assert "results[0].value" in {d.path for d in compare_reports(first, other)}
    assert compare_reports(first, again) == ()


def test_limits_of_probes_and_the_smallest_effects_are_in_the_limitations():
    seen = result("t.a", min_detectable_effect=0.25, unit="sd")
    report = run(make_probe("t.a", gives(seen), limits="Single words only."))
    texts = {limit.text for limit in report.limitations}
    assert "Single words only." in texts
    assert "The smallest effect it could have seen is 0.25 sd." in texts
    topics = {limit.topic for limit in report.limitations}
    assert {"behaviour that no probe looks for", "other bases and strengths"} <= topics


def test_repeated_findings_are_kept_once():
    report = run(
        make_probe("t.a", gives(result(outcome=Outcome.FAIL), finding(), finding(), finding(rule_id="R2")))
    )
    assert [f.rule_id for f in report.findings] == ["R1", "R2"]


def test_a_waiver_is_judged_by_the_day_on_which_the_run_began(tmp_path):
    waiver = {"rule": "R1", "owner": "Ada", "reason": "known", "expires": "2026-01-01"}
    rules = policy(waivers=[waiver], coverage="not_asked")
    probe = make_probe("t.a", gives(result("t.a", Outcome.FAIL, calibrated=True), finding()))
    report = run(probe, rules=rules, out=tmp_path / "run", clock=HandClock())
    assert report.verdict.decision is Decision.ACCEPT_WITH_CONDITIONS
    assert report.findings[0].waiver is not None

    class NextYear(HandClock):
        def now(self):
            return "2027-01-01T00:00:00Z"

    again = run(probe, rules=rules, out=tmp_path / "run", clock=NextYear())
    assert again == report
    late = run(probe, rules=rules, clock=NextYear())
    assert late.verdict.decision is Decision.QUARANTINE
    assert any("expired on 2026-01-01" in reason for reason in late.verdict.reasons)


def test_a_finding_that_two_probes_give_covers_the_failure_of_the_first_only():
    waiver = {"rule": "R1", "owner": "Ada", "reason": "known", "expires": "2026-12-31"}
    first, second = (
        make_probe(name, gives(result(name, Outcome.FAIL, calibrated=True), finding())) for name in ("t.a", "t.b")
    )
    report = run(first, second, rules=policy(waivers=[waiver], coverage="not_asked"), clock=HandClock())
    assert report.verdict.decision is Decision.REVIEW
    assert report.verdict.reasons[0].startswith("review: t.b failed")


def test_a_waived_finding_does_not_settle_the_case():
    waiver = {"rule": "R1", "owner": "Ada", "reason": "known", "expires": "2026-12-31"}
    early = make_probe("t.a", gives(result("t.a", Outcome.FAIL, calibrated=True), finding()))
    late = make_probe("b.x", gives(result("b.x")), **MODEL)
    outcomes = {
        bool(waivers): run(
            early, late, rules=policy(waivers=waivers, settle="quarantine"), clock=HandClock()
        )
        .results[1]
        .outcome
        for waivers in ([], [waiver])
    }
    assert outcomes == {False: Outcome.SKIPPED, True: Outcome.PASS}


def test_a_report_survives_json():
    report = run(
        make_probe("t.a", gives(result(), finding(Severity.LOW))), subject=FakeSubject(coverage=FULL)
    )
    assert type(report).model_validate_json(report.model_dump_json()).canonical() == report.canonical()
    assert json.loads(report.canonical())["verdict"]["decision"] == "accept_with_conditions"


def test_a_probe_that_hangs_stops_the_audit_at_the_time_cap_and_nothing_finished_is_lost(tmp_path):
    done = []

    def first(subject, params, run):
        run.unit("work", lambda: done.append("first") or 1)
        yield result("t.a")

    def hangs(subject, params, run):
        while not hurried:
            pass
        yield result("t.b")

    hurried = []
    probes = registry(make_probe("t.a", first), make_probe("t.b", hangs))
    with pytest.raises(TimeCap), capped(Caps(seconds=0.4)):
        audit(FakeSubject(), policy=policy(), registry=probes, tool=TOOL, banks=lambda *_: None, out=tmp_path / "run")
    assert not (tmp_path / "run" / "report.json").exists()
    hurried.append(True)
    report = resume(tmp_path / "run", FakeSubject(), policy=policy(), registry=probes, tool=TOOL, banks=lambda *_: None)
    assert [r.outcome for r in report.results] == [Outcome.PASS, Outcome.PASS]
    assert done == ["first"]
