"""``static.claims``: does the label tell the truth about the tensors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from auditor.contracts import Capability, NoParams, Run, Stage
from auditor.probes.static import rules
from auditor.probes.static.findings import references, tell
from auditor.probes.static.observe import claim_observations
from auditor.registry import probe
from reports.model import Finding, Result

if TYPE_CHECKING:
    from auditor.pipeline.subject import Subject

__all__ = ["claims"]

_ID, _VERSION = "static.claims", 1
_NULL = "Every claim of header, card and config that tensors can settle agrees with the tensors."


@probe(
    id=_ID,
    version=_VERSION,
    goal=(
        "Compare rank, alpha, family, type, modules and hash as claimed with what the tensors are, and "
        "name odd letters in triggers."
    ),
    null=_NULL,
    needs={Capability.FILE},
    stage=Stage.FILE,
    refs=(
        "MITRE ATLAS 5.6.0: Masquerading (AML.T0074)",
        "CWE-345 Insufficient Verification of Data Authenticity",
        "Unicode Technical Standard 39: confusable characters",
    ),
    taxonomy=references(rules.CONTRADICTED, rules.HASH_CONTRADICTED, rules.TRIGGER_TEXT),
    remediation="Go by what was measured; ask whoever published the file why the label differs.",
    limits=(
        "A file without claims passes: it says nothing that could be false. Whether a declared trigger "
        "works is for the behavioural probes."
    ),
)
def claims(subject: Subject, params: NoParams, run: Run) -> Iterator[Result | Finding]:
    """Compares every claim with what was measured.

    Args:
        subject: needs ``artifacts``, the identified files and folders.
        params: none.
        run: not used; the outcome depends on the bytes only.

    Yields:
        One result (``value``: contradictions at severity medium or above; ``n``: adapters
        read), then the findings.
    """
    observed = [each for artifact in subject.artifacts for each in claim_observations(artifact)]
    checks = [check for artifact in subject.artifacts for check in artifact.checks]
    seen: dict[str, object] = {
        "agree": sum(check.agrees is True for check in checks),
        "contradict": sum(check.agrees is False for check in checks),
        "not_checkable": sum(check.agrees is None for check in checks),
    }
    read = sum(artifact.kind == "adapter" for artifact in subject.artifacts)
    yield from tell(_ID, _VERSION, _NULL, read, observed, seen)
