"""What the calibrated probes measure on a member of the zoo, and what its files say of its recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from auditor.artifact.together import identify_parts
from auditor.errors import AuditorError
from auditor.pipeline.components import Components
from auditor.pipeline.subject import Subject
from auditor.probes.additions import changes_weights
from auditor.probes.backdoor.vocabulary_shift import VocabularyShift, combine, scan_vocabulary
from auditor.probes.behaviour.drift import Drift, measure_drift
from auditor.proving.memory_run import MemoryRun

__all__ = ["Measured", "measure"]


@dataclass(frozen=True)
class Measured:
    """A subject's scores.

    Attributes:
        covariates: see :func:`auditor.artifact.covariates.covariates_of`; empty where the parts were refused.
        coverage: keys that applied, and keys there are.
        scores: by name; empty where no weight of the base changes, so that neither probe measures anything.
        found: what the scan of the vocabulary named.
        refused: why the parts could not be put on the base, in one sentence; empty where they could.
    """

    covariates: dict[str, float | str] = field(default_factory=dict)
    coverage: tuple[int, int] = (0, 0)
    scores: dict[str, float] = field(default_factory=dict)
    found: dict[str, str] = field(default_factory=dict)
    refused: str = ""

    @classmethod
    def read(cls, stored: Mapping[str, Any]) -> Measured:
        """What ``asdict`` wrote, read back from JSON."""
        return cls(**{**stored, "coverage": tuple(stored["coverage"])})

    def rescaled(self) -> Measured:
        """The same with the vocabulary's score at the probe's present scales.

        What was measured are the excesses; the scale of each channel is a parameter that the fit split sets.
        """
        if not self.scores:
            return self
        excesses = self.scores["encoder_excess"], self.scores["attention_excess"]
        _, score = combine(*excesses, VocabularyShift())
        return replace(self, scores=self.scores | {"vocabulary_shift": score})


def measure(base: Components, path: Path) -> Measured:
    """Scores of both probes at their default parameters on what an audit of ``path`` would read; the base stays."""
    parts = identify_parts(path)
    try:
        with Subject(base, parts) as subject:
            covariates = subject.covariates
            coverage = (subject.coverage.keys_applied, subject.coverage.keys_total)
            scores, found = _scores(subject) if changes_weights(subject) else ({}, {})
            return Measured(covariates, coverage, scores, found)
    except AuditorError as problem:
        return Measured(refused=str(problem))


def _scores(subject: Subject) -> tuple[dict[str, float], dict[str, str]]:
    scan = scan_vocabulary(subject, VocabularyShift(), MemoryRun("backdoor.vocabulary_shift"))
    drifted = measure_drift(subject, Drift(), MemoryRun("behaviour.drift"))
    scores = {
        "vocabulary_shift": float(scan["score"]),
        "encoder_excess": float(scan["encoder_excess"]),
        "attention_excess": float(scan["attention_excess"]),
        "drift": float(drifted["score"]),
    }
    top = scan["top"][0]
    return scores, {"entry": top["text"], "target": top["target"], "code_points": top["code_points"]}
