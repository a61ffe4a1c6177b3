"""What a report says in words of controls: by framework, each with a status that promises nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from reports.model import AuditReport, Control

__all__ = ["CONTROLS", "CONTROLS_LEAD", "ControlGroup", "ControlWords", "controls_by_scheme"]


@dataclass(frozen=True)
class ControlWords:
    """A control's status for people: its name, and what it means."""

    title: str
    meaning: str


CONTROLS: Mapping[str, ControlWords] = MappingProxyType(
    {
        "met": ControlWords(
            "Evidence for", "every probe that the control needs ran with enough n and coverage, as it has to"
        ),
        "not_met": ControlWords("Evidence against", "a probe that the control needs failed"),
        "partial": ControlWords("Some evidence", "some of the probes that the control needs gave an answer"),
        "not_assessed": ControlWords("Not assessed", "this audit has nothing to say about the control"),
        "not_applicable": ControlWords("Not applicable", "it has no meaning for what was audited"),
    }
)
"""By status of a control, in the order in which they are counted."""

CONTROLS_LEAD = (
    "What this audit can be evidence for in each framework. It is no statement that anything or anybody complies "
    "with it: whether a control applies, and whether it is fulfilled, is for people to judge."
)


@dataclass(frozen=True)
class ControlGroup:
    """The controls of one framework in one edition, in its own order."""

    scheme: str
    edition: str
    controls: tuple[Control, ...]

    @property
    def counts(self) -> list[tuple[str, str, int]]:
        """Status, its name, and how many controls have it, where there are any."""
        found: Counter[str] = Counter(control.status for control in self.controls)
        return [(status, CONTROLS[status].title, found[status]) for status in CONTROLS if found[status]]

    @property
    def counted(self) -> str:
        """As in ``evidence for 2, not assessed 5``."""
        return ", ".join(f"{title.lower()} {count}" for _, title, count in self.counts)


def controls_by_scheme(report: AuditReport) -> list[ControlGroup]:
    """The report's controls by framework and edition, in the order in which these first occur."""
    groups: dict[tuple[str, str], list[Control]] = {}
    for control in report.controls:
        groups.setdefault((control.scheme, control.edition), []).append(control)
    return [ControlGroup(scheme, edition, tuple(controls)) for (scheme, edition), controls in groups.items()]
