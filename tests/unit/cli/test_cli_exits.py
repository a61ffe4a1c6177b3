"""Decisions and exit codes agree with the typed report and with the policy."""

import itertools

import pytest

from auditor import errors
from auditor.cli.exits import DECISIONS, FAIL_ON, TABLE, exit_of
from auditor.policy import combine_exit_codes
from reports.model import Decision


def test_decisions_are_those_of_the_report_in_order():
    assert tuple(decision.value for decision in Decision) == DECISIONS
    assert set(FAIL_ON) < set(DECISIONS)


@pytest.mark.parametrize(
    ("decision", "fail_on", "code"),
    [
        ("accept", "review", 0),
        ("accept_with_conditions", "review", 0),
        ("accept_with_conditions", "accept_with_conditions", 1),
        ("inconclusive", "review", 3),
        ("inconclusive", "inconclusive", 1),
        ("review", "review", 1),
        ("review", "quarantine", 0),
        ("reject", "reject", 1),
    ],
)
def test_exit_code_of_a_decision(decision, fail_on, code):
    assert exit_of(decision, fail_on) == code


def test_a_failed_audit_is_never_a_pass():
    assert exit_of("accept", "review", status="error") == 2


def test_precedence_is_that_of_the_policy():
    for codes in itertools.product(sorted(TABLE), repeat=2):
        assert errors.combine_exit_codes(codes) == combine_exit_codes(codes)
    assert combine_exit_codes([4, 0, 3, 1, 2]) == 2
    assert combine_exit_codes([4, 0, 3, 1]) == 1
    assert combine_exit_codes([4, 0, 3]) == 3
    assert combine_exit_codes([4, 0]) == 4
    assert combine_exit_codes([]) == 0
