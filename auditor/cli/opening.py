"""From paths to something that can be audited: adapters on their base, or files that must not be loaded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from auditor.artifact.identify import Identified
from auditor.artifact.together import identify_parts
from auditor.cli.describe import artifact_record, claim_records
from auditor.contracts import Capability
from auditor.errors import RefusedArtifact, UnsupportedArtifact
from auditor.probes.static.observe import SEVERITIES, safety_observations, worst
from reports.model import Artifact, Claim, Subject

if TYPE_CHECKING:
    from auditor.engine import AuditSubject

__all__ = ["BaseChoice", "FileSubject", "device_of", "opened"]


@dataclass(frozen=True)
class BaseChoice:
    """Which base, and where it runs.

    Attributes:
        ref: folder or hub id; the embedded base if None.
        revision: commit hash of a hub id.
        device: as on the command line.
        allow_download: whether a hub id may be fetched.
    """

    ref: str | None = None
    revision: str = ""
    device: str = "auto"
    allow_download: bool = False


class FileSubject:
    """Artifacts that are not put on a base: their files are judged, and nothing else can be.

    Args:
        artifacts: identified; whoever made them closes them.
    """

    def __init__(self, artifacts: Sequence[Identified]) -> None:
        self.artifacts = tuple(artifacts)
        refused = any(artifact.kind == "refused" for artifact in artifacts)
        why = (
            "the file must not be opened, so no model was loaded"
            if refused
            else "it is no adapter that can be put on a base"
        )
        self.unavailable: Mapping[Capability, str] = {
            each: why for each in Capability if each is not Capability.FILE
        }

    @property
    def capabilities(self) -> frozenset[Capability]:
        """The files."""
        return frozenset({Capability.FILE})

    def describe(self) -> Subject:
        """The files as the report records them, without base and coverage."""
        return Subject(
            artifacts=tuple(Artifact.model_validate(artifact_record(each)) for each in self.artifacts),
            claims=tuple(
                Claim.model_validate(claim) for each in self.artifacts for claim in claim_records(each)
            ),
        )


@contextmanager
def opened(parts: Sequence[Path], base: BaseChoice) -> Iterator[AuditSubject]:
    """Opens what can be audited of the parts.

    A refused pickle, a whole model, or an unsupported file with something wrong about it is judged by its
    bytes alone; it is never loaded.

    Raises:
        UnsupportedArtifact: nothing about the parts can be audited.
        AuditorError: whatever else opening the parts or the base raises.
    """
    from auditor.pipeline.open import open_subject

    with ExitStack() as stack:
        subject: Any
        try:
            subject = stack.enter_context(
                open_subject(
                    parts, base.ref, base.device, allow_download=base.allow_download, revision=base.revision
                )
            )
        except (RefusedArtifact, UnsupportedArtifact):
            artifacts = [stack.enter_context(part) for path in parts for part in identify_parts(path)]
            if not any(_worth_judging(each) for each in artifacts):
                raise
            subject = FileSubject(artifacts)
        yield subject


def device_of(subject: AuditSubject) -> str:
    """The device a subject's model is on; ``none`` where none was loaded."""
    components = getattr(subject, "components", None)
    return str(components.device) if components is not None else "none"


def _worth_judging(artifact: Identified) -> bool:
    if artifact.kind != "unsupported":
        return artifact.kind != "adapter"
    return SEVERITIES.index(worst(safety_observations(artifact))) >= SEVERITIES.index("medium")
