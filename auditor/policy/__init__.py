"""From results, findings and coverage to a decision, by a policy that people can read.

``load_policy("default")`` or a YAML file; ``policy.decide(...)`` gives the verdict and ``exit_code(report,
fail_on)`` the exit code of the command.
"""

from __future__ import annotations

from auditor.policy.check import Notice, check_policy
from auditor.policy.exits import combine_exit_codes, exit_code
from auditor.policy.ladder import DECISIONS, worst
from auditor.policy.load import (
    load_policy,
    load_waivers,
    policy_from_document,
    policy_path,
    shipped_policies,
)
from auditor.policy.model import Gates, Policy, WaiverRule

__all__ = [
    "DECISIONS",
    "Gates",
    "Notice",
    "Policy",
    "WaiverRule",
    "check_policy",
    "combine_exit_codes",
    "exit_code",
    "load_policy",
    "load_waivers",
    "policy_from_document",
    "policy_path",
    "shipped_policies",
    "worst",
]
