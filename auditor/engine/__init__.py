"""Plan, execute, record, resume, compare.

The two calls that a command makes::

    report = audit(subject, policy=load_policy("default"), probes=None, seed=0, budget=600.0, out=Path("run"),
                   arguments={"parts": ["a.safetensors"], "base": "embedded"}, display=choose_display())
    report = resume(Path("run"), subject, policy=policy_from_document(read_plan(Path("run")).policy_document))

``read_plan(run)`` has ``.arguments`` (as given to :func:`audit`, to build the subject again),
``.policy_document`` and ``.seed``; ``open_run(run)`` has ``.report`` and ``.evidence(sha256) -> bytes``.

The engine stands below the policy: it sees one through :class:`DecisionPolicy`, which
``auditor.policy.Policy`` satisfies.
"""

from __future__ import annotations

from auditor.engine.audit import audit, resume, this_tool
from auditor.engine.cache import cached_arrays, cached_bytes, cached_json
from auditor.engine.compare import Difference, compare_reports, identical
from auditor.engine.display import Display, PlainDisplay, QuietDisplay, RichDisplay, choose_display
from auditor.engine.plan import AuditPlan, PlanNode, build_plan
from auditor.engine.ports import SYSTEM_CLOCK, AuditSubject, Clock, DecisionPolicy, Waived
from auditor.engine.rundir import FinishedRun, FrozenPlan, RunDir, open_run, read_plan, write_atomic
from auditor.engine.seeds import derive_seed

__all__ = [
    "SYSTEM_CLOCK",
    "AuditPlan",
    "AuditSubject",
    "Clock",
    "DecisionPolicy",
    "Difference",
    "Display",
    "FinishedRun",
    "FrozenPlan",
    "PlainDisplay",
    "PlanNode",
    "QuietDisplay",
    "RichDisplay",
    "RunDir",
    "Waived",
    "audit",
    "build_plan",
    "cached_arrays",
    "cached_bytes",
    "cached_json",
    "choose_display",
    "compare_reports",
    "derive_seed",
    "identical",
    "open_run",
    "read_plan",
    "resume",
    "this_tool",
    "write_atomic",
]
