"""One identified file or folder as the report's ``subject`` has it, as plain JSON values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from auditor.text import inert

if TYPE_CHECKING:
    from auditor.artifact.identify import Identified

__all__ = ["artifact_record", "claim_records"]

_NOTES = 40


def artifact_record(artifact: Identified) -> dict[str, Any]:
    """The fields of :class:`reports.model.Artifact`; notes hold tokens, triggers and every oddity."""
    adapter, family = artifact.adapter, artifact.family
    ranks = adapter.ranks if adapter else {}
    notes = [
        f"embedded token {inert(token)}: {_widths(vectors)}"
        for token, vectors in sorted(_tokens(artifact).items())
    ]
    if adapter and adapter.endings is not None:
        notes.append("{} steps of {} states at the end of prompts".format(*adapter.endings.shape))
    if adapter:
        for trigger in adapter.claims.triggers:
            odd = f" ({'; '.join(trigger.oddities)})" if trigger.oddities else ""
            notes.append(inert(f"declared trigger '{trigger.text}' ({trigger.source}){odd}", 300))
        if adapter.unmatched:
            shown = ", ".join(inert(key, 60) for key in adapter.unmatched[:3])
            notes.append(f"{len(adapter.unmatched)} keys not understood: {shown}")
    if artifact.unsupported:
        notes.append(artifact.unsupported)
    notes += [f"{problem.severity} {problem.code}: {problem.detail}" for problem in artifact.all_problems]
    return {
        "path": inert(str(artifact.path), 300),
        "sha256": artifact.sha256,
        "size": artifact.size,
        "kind": str(artifact.kind),
        "tensor_hash": artifact.tensor_hash or "",
        "dialect": adapter.dialect if adapter else "",
        "family": family.family if family else "",
        "family_evidence": list(family.evidence) if family else [],
        "rank": ", ".join(f"{rank} ({count} modules)" for rank, count in ranks.items()),
        "modules": adapter.module_count if adapter else 0,
        "dtype": ", ".join(adapter.dtypes) if adapter else "",
        "notes": notes[:_NOTES],
    }


def claim_records(artifact: Identified) -> list[dict[str, Any]]:
    """The fields of :class:`reports.model.Claim`, one for each claim of header, card and config."""
    return [
        {
            "name": inert(check.claim),
            "claimed": check.claimed,
            "measured": inert(check.measured, 200),
            "agrees": check.agrees,
            "note": inert(check.note, 300),
        }
        for check in artifact.checks
    ]


def _tokens(artifact: Identified) -> dict[str, dict[str, tuple[int, ...]]]:
    if artifact.adapter is None:
        return {}
    return {
        t: {e: v.shape for e, v in encoders.items()} for t, encoders in artifact.adapter.embeddings.items()
    }


def _widths(shapes: dict[str, tuple[int, ...]]) -> str:
    return ", ".join(
        f"{' x '.join(map(str, shape))} values in {encoder}" for encoder, shape in sorted(shapes.items())
    )
