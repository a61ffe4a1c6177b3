"""From results, findings and coverage to a decision, by a policy that people can read.

``load_policy("default")`` or a YAML file; ``policy.decide(...)`` gives the verdict and ``exit_code(report,
fail_on)`` the exit code of the command.
"""

from __future__ import annotations

from auditor.policy.decide import DECISIONS, decide, status, worst
from auditor.policy.exits import combine_exit_codes, exit_code
from auditor.policy.load import load_policy, policy_from_document, shipped_policies
from auditor.policy.model import Gates, Policy

__all__ = [
    "DECISIONS",
    "Gates",
    "Policy",
    "combine_exit_codes",
    "decide",
    "exit_code",
    "load_policy",
    "policy_from_document",
    "shipped_policies",
    "status",
    "worst",
]
