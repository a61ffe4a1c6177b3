"""Framework mappings on the command line: by name and edition, with the closest name where there is none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from auditor.errors import UsageError
from auditor.text import did_you_mean, inert

if TYPE_CHECKING:
    from reports.model import AuditReport

__all__ = ["mapping_rows", "mapping_shown", "with_controls"]


def with_controls(report: AuditReport, named: Sequence[str]) -> AuditReport:
    """The report with the controls of the mappings that are named, several to a text if joined by commas.

    Raises:
        UsageError: no such mapping or edition.
    """
    if not named:
        return report
    from auditor.registry import PROBES
    from reports.mapping import apply_mappings

    names = list(dict.fromkeys(name.strip() for text in named for name in text.split(",") if name.strip()))
    if not names:
        raise UsageError("--map names no mapping (auditor list mappings)")
    for name in names:
        _check(name)
    return apply_mappings(report, names, installed=PROBES.names())


def mapping_rows() -> list[dict[str, Any]]:
    """Every shipped mapping as plain JSON values, with what it is about."""
    from reports.mapping import load_mapping, shipped_mappings

    found = []
    for name in shipped_mappings():
        mapping = load_mapping(name)
        found.append(
            {
                "id": name,
                "kind": "mapping",
                "goal": f"{mapping.scheme}, edition {mapping.edition}: what is evidence for "
                f"{len(mapping.controls)} controls",
                "why": mapping.about,
                "refs": [mapping.source],
                "limits": f"{mapping.checked} The controls are evidence, never a statement of compliance.",
                "controls": [row.model_dump(mode="json") for row in mapping.controls],
            }
        )
    return found


def mapping_shown(name: str) -> dict[str, Any]:
    """One mapping as plain JSON values.

    Raises:
        UsageError: no such mapping or edition.
    """
    _check(name)
    return next(row for row in mapping_rows() if row["id"] == name)


def _check(name: str) -> None:
    from reports.mapping import shipped_mappings

    known = shipped_mappings()
    if name in known:
        return
    scheme, _, edition = name.partition("@")
    editions = [each for each in known if each.partition("@")[0] == scheme]
    if editions and not edition:
        raise UsageError(f"a mapping is named with its edition: {', '.join(editions)}")
    if editions:
        shown = inert(edition, 60)
        raise UsageError(f"there is no edition '{shown}' of {scheme}; there is {', '.join(editions)}")
    near = [each for each in known if scheme and scheme in each] or list(known)
    hint = f"; did you mean '{near[0]}'?" if len(near) == 1 else did_you_mean(name, near)
    raise UsageError(f"there is no mapping '{inert(name)}'{hint} (auditor list mappings)")
