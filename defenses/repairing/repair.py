"""What all repairs have in common: one adapter in, the same file mended and a certificate out, whole or not at all."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from auditor.artifact.adapter import Adapter
from auditor.banks import params_document
from auditor.contracts import JsonValue, Progress
from auditor.engine.files import whole_folder
from auditor.errors import IncompatibleArtifact, OutputError, UsageError
from auditor.pipeline.open import subject_on
from auditor.pipeline.subject import Subject
from auditor.text import inert
from defenses.repairing.adapter_file import AdapterFile, Factors, Layer, open_adapter_file
from defenses.repairing.candidates import Candidate, candidates_of, scanned
from defenses.repairing.certificate import Measured, drifted, fidelity, shift_told, success
from defenses.repairing.rows import neutral_prompts

__all__ = ["CERTIFICATE", "AdapterRepair", "Repaired", "declared_prompts"]

CERTIFICATE = "certificate.json"
_MOST_DECLARED = 4
_SETTINGS = ("{}", "{} with a hat", "{} on a plain ground", "{}, smiling")


@dataclass(frozen=True)
class Repaired:
    """What a technique made of an adapter.

    Attributes:
        changed: layers with other factors; the others stay.
        told: what the technique has to say, for the certificate.
    """

    changed: Mapping[Layer, Factors]
    told: Mapping[str, JsonValue] = field(default_factory=dict)


class AdapterRepair(ABC):
    """Repairs an adapter file; satisfies :class:`auditor.contracts.Repair`.

    A subclass gives other factors for some layers (:meth:`mend`); its parameters hold ``seed`` and a
    :class:`Measured` as ``measured``. The file, the trigger and the certificate are here.
    """

    id: ClassVar[str]
    goal: ClassVar[str]
    refs: ClassVar[tuple[str, ...]]
    params: ClassVar[type]
    limits: ClassVar[str]

    @abstractmethod
    def mend(
        self, subject: Subject, file: AdapterFile, candidates: Sequence[Candidate], params: Any, progress: Progress
    ) -> Repaired:
        """Other factors for the layers that carry the trigger.

        Args:
            subject: the adapter on its base; the base is active, and as before afterwards.
            file: the adapter's layers.
            candidates: what may wake it, the likeliest first.
            params: an instance of ``self.params``.
            progress: told of every step.

        Raises:
            UsageError: a parameter is out of range, or there is nothing that the technique could change.
        """

    def repair(self, subject: Subject, params: Any, out: Path, progress: Progress, trigger: str = "") -> Path:
        """See :class:`auditor.contracts.Repair`.

        Raises:
            OutputError: ``out`` exists already or cannot be written.
            UsageError: several parts, a parameter out of range, or a trigger that is no text of this base.
            IncompatibleArtifact: the part is no adapter file that can be written back, or does not fit the base.
        """
        if out.exists():
            raise OutputError(f"'{inert(str(out), 300)}' exists already; repairs write over nothing")
        file = _only_file(subject)
        scan, declared = scanned(subject), declared_prompts(file.adapter)
        candidates = candidates_of(subject, scan, trigger, declared)
        told: dict[str, JsonValue] = {
            "defense": self.id,
            "params": params_document(params),
            "base": {"ref": inert(subject.components.ref, 300), "sha256": subject.components.sha256},
            "trigger": {
                "source": "named" if trigger else "scan of the vocabulary",
                "candidates": [each.told() for each in candidates],
            },
        }
        mended = self.mend(subject, file, candidates, params, progress)
        with whole_folder(out) as part:
            note = {"defense": self.id, "of": file.sha256}
            path = file.write(part, mended.changed, note)
            told |= {
                "input": {"file": inert(file.path.name, 200), "sha256": file.sha256},
                "output": {"file": inert(path.name, 200), "sha256": _sha256(path)},
                "changed_layers": {"changed": len(mended.changed), "all": len(file.layers)},
                "repair": dict(mended.told),
                **_outcome(subject, path, scan, candidates, params, declared, progress),
            }
            text = json.dumps(told, indent=2, sort_keys=True, ensure_ascii=True) + "\n"
            (part / CERTIFICATE).write_text(text, "utf-8")
        return out / path.name


def declared_prompts(adapter: Adapter) -> list[str]:
    """The concept that header and card declare, in a few settings each; empty where they declare none."""
    found = []
    for trigger in adapter.claims.triggers[:_MOST_DECLARED]:
        text = " ".join(trigger.text.split())
        if text:
            found.append(text if " " in text else f"a picture of {text}")
    return [setting.format(text) for text in dict.fromkeys(found) for setting in _SETTINGS]


def _only_file(subject: Subject) -> AdapterFile:
    if len(subject.artifacts) != 1:
        raise UsageError(
            f"a repair takes one adapter and {len(subject.artifacts)} parts were given: repair each that the "
            "audit names by itself"
        )
    found = subject.artifacts[0]
    if found.kind != "adapter":
        raise IncompatibleArtifact(
            f"'{inert(str(found.path), 200)}' is a whole model; a repair writes adapter files back, and nothing else"
        )
    file = open_adapter_file(found)
    if subject.changes.unmatched:
        raise IncompatibleArtifact(
            f"{len(subject.changes.unmatched)} layers of the adapter are not in this base: is it the adapter's own?"
        )
    return file


def _outcome(
    subject: Subject, path: Path, scan: dict[str, Any], candidates: Sequence[Candidate], params: Any,
    declared: Sequence[str], progress: Progress,
) -> dict[str, JsonValue]:  # fmt: skip
    measured: Measured = params.measured
    neutral = neutral_prompts(measured.pictures, params.seed + 12)
    with subject_on(subject.components, [path]) as after:
        progress(0, 4, "measuring")
        shift = {"before": shift_told(scan), "after": shift_told(scanned(after))}
        progress(1, 4, "measuring")
        drift = {"before": drifted(subject), "after": drifted(after)}
        progress(2, 4, "measuring")
        kept: dict[str, JsonValue] = {
            "declared": fidelity(subject, after, declared, True, measured, params.seed)
            if declared
            else {"value": None, "reason": "header and card declare no concept"},
            "neutral": fidelity(subject, after, neutral, False, measured, params.seed + 1),
        }
        progress(3, 4, "measuring")
        hits = success(subject, after, candidates, measured, params.seed, progress)
    progress(4, 4, "measuring")
    return {"vocabulary_shift": shift, "drift": drift, "fidelity": kept, "asr": hits}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
