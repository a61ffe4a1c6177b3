"""``static.file_safety``: is there anything in the file that acts on whoever opens it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from auditor.contracts import Capability, NoParams, Run, Stage
from auditor.probes.static import rules
from auditor.probes.static.findings import references, tell
from auditor.probes.static.observe import safety_observations
from auditor.registry import probe
from reports.model import Finding, Result

if TYPE_CHECKING:
    from auditor.pipeline.subject import Subject

__all__ = ["file_safety"]

_ID, _VERSION = "static.file_safety", 1
_NULL = (
    "The file holds tensors and plain metadata only: opening it with any common loader runs nothing and "
    "hides nothing."
)


@probe(
    id=_ID,
    version=_VERSION,
    goal=(
        "Find code, hidden pickles, contradicting containers, hostile text and values that are not numbers "
        "before anything is loaded."
    ),
    null=_NULL,
    needs={Capability.FILE},
    stage=Stage.FILE,
    refs=(
        "MITRE ATLAS 5.6.0: Unsafe AI Artifacts (AML.T0011.000), Corrupt AI Model (AML.T0076)",
        "CWE-502 Deserialization of Untrusted Data",
        "CVE-2025-32434, CVE-2026-24747: torch.load(weights_only=True) is no boundary",
    ),
    taxonomy=references(rules.PICKLE_GLOBALS, rules.CONTAINER, rules.CODE),
    remediation="Refuse the file and ask for safetensors; the findings name the exact references.",
    limits=(
        "Pickles are judged by an allow-list of references, so an unusual benign one is refused too. What "
        "tensors do to images is not looked at."
    ),
)
def file_safety(subject: Subject, params: NoParams, run: Run) -> Iterator[Result | Finding]:
    """Judges every received file by its bytes alone.

    Args:
        subject: needs ``artifacts``, the identified files and folders.
        params: none.
        run: not used; the outcome depends on the bytes only.

    Yields:
        One result (``value``: rules broken at severity medium or above; ``n``: files), then the findings.
    """
    observed = [each for artifact in subject.artifacts for each in safety_observations(artifact)]
    files = sum(len(artifact.files) for artifact in subject.artifacts)
    pickles = sum(record.pickle is not None for artifact in subject.artifacts for record in artifact.files)
    yield from tell(_ID, _VERSION, _NULL, files, observed, {"pickles": pickles})
