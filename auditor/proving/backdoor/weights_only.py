"""How well weights alone tell planted adapters from clean ones: the screen, and two published detectors beside it.

The screen has seen no attack. The others are supervised, and are asked about each attack after learning from all others
(:func:`auditor.proving.backdoor.baselines.leave_one_attack_out`). Negatives are the specimens' own twins, which differ
by the poison only, and clean low-rank members of the zoo's certify split, on which nothing was fitted.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from auditor.artifact.spectral import group_features
from auditor.artifact.together import identify_parts
from auditor.banks import BankData
from auditor.contracts import Progress
from auditor.pipeline.components import Components
from auditor.pipeline.subject import Subject
from auditor.probes.backdoor.spectral_screen import SpectralScreen, comparable, measure_spectra, screen_of
from auditor.proving.backdoor.baselines import (
    canonical_spectral_of,
    leave_one_attack_out,
    projections_of,
    weight_statistics_of,
)
from auditor.proving.counts import write_json
from auditor.proving.memory_run import MemoryRun
from auditor.proving.zoo.build import home_of
from auditor.proving.zoo.members import Member
from auditor.stats import auroc_interval, bootstrap

__all__ = ["CARRIERS", "DETECTORS", "Planted", "Weights", "clean_weights", "compare", "weights_of"]

DETECTORS = ("spectral_screen", "weight_statistics", "canonical_spectral")
CARRIERS = ("dreambooth-lora", "merge")
"""Methods of the clean members that planted adapters are carried by."""

Rows = NDArray[np.float64]


@dataclass(frozen=True)
class Weights:
    """What the three detectors read of one subject.

    Attributes:
        covariates: see :func:`auditor.artifact.covariates.covariates_of`.
        spectrum: see :func:`auditor.artifact.spectral.group_features`; empty where no weight changes.
        statistics: see :mod:`auditor.proving.backdoor.baselines.weight_statistics`.
        canonical: see :mod:`auditor.proving.backdoor.baselines.canonical_spectral`.
    """

    covariates: dict[str, float | str]
    spectrum: dict[str, float]
    statistics: tuple[float, ...]
    canonical: tuple[float, ...]

    @classmethod
    def read(cls, stored: Mapping[str, Any]) -> Weights:
        """What ``dataclasses.asdict`` gave, through JSON."""
        return cls(**{**stored, **{name: tuple(stored[name]) for name in ("statistics", "canonical")}})


@dataclass(frozen=True)
class Planted:
    """A specimen and its twin."""

    attack: str
    specimen: Weights
    twin: Weights


def weights_of(base: Components, paths: Sequence[Path]) -> Weights:
    """Reads parts that are put on together; several are one change."""
    with Subject(base, [part for path in paths for part in identify_parts(path)]) as subject:
        changes = projections_of(subject)
        layers = measure_spectra(subject, SpectralScreen(), MemoryRun("backdoor.spectral_screen"))
        return Weights(
            covariates=dict(subject.covariates),
            spectrum=group_features(layers),
            statistics=tuple(float(v) for v in weight_statistics_of(changes)),
            canonical=tuple(float(v) for v in canonical_spectral_of(changes)),
        )


def clean_weights(
    base: Components, members: Sequence[Member], zoo: Path, out: Path, progress: Progress
) -> dict[str, list[Weights]]:
    """Split to what was read of the zoo's members by :data:`CARRIERS` that are there; kept in ``out``.

    Args:
        base: that they were trained on.
        members: of the zoo.
        zoo: where they are kept.
        out: folder for one file a member.
        progress: told of every member.
    """
    wanted = [m for m in members if m.method in CARRIERS and home_of(m, base, zoo).exists()]
    out.mkdir(parents=True, exist_ok=True)
    found: dict[str, list[Weights]] = {}
    for done, member in enumerate(wanted):
        progress(done, len(wanted), member.method)
        path = out / f"{member.digest[:24]}-{base.sha256[:8]}.json"
        if not path.exists():
            write_json(path, asdict(weights_of(base, [home_of(member, base, zoo)])))
        found.setdefault(member.split, []).append(Weights.read(json.loads(path.read_text("utf-8"))))
    progress(len(wanted), len(wanted), "clean adapters")
    return found


def compare(planted: Sequence[Planted], clean: Mapping[str, Sequence[Weights]], bank: BankData) -> dict[str, Any]:
    """AUROC of each detector on each attack, specimens against twins and against clean certify members.

    Args:
        planted: of two attacks or more; those that change no weight are counted and left out.
        clean: by split, see :func:`clean_weights`; what supervised detectors learn from is fit and calibrate.
        bank: of the screen.

    Returns:
        ``attacks``, rows of ``attack``, ``n`` and each detector's ``twins`` and ``zoo`` (``value``, and where there are
        two specimens or more ``low`` and ``high``, bootstrap 95 %); ``all``, the same averaged over specimens and
        drawn over them; ``clean``, how many learned from and judged; ``no_weights``, attack to how many of its
        specimens change no weight.
    """
    read = [one for one in planted if one.specimen.spectrum and one.twin.spectrum]
    certify = list(clean.get("certify", ()))
    learned = [*clean.get("fit", ()), *clean.get("calibrate", ())]
    scores = {
        "spectral_screen": _screened(read, certify, bank),
        "weight_statistics": _learned(read, learned, certify, "statistics"),
        "canonical_spectral": _learned(read, learned, certify, "canonical"),
    }
    names = list(dict.fromkeys(one.attack for one in read))
    return {
        "attacks": [
            {"attack": name, "n": sum(one.attack == name for one in read)}
            | {detector: _areas(*scores[detector][name]) for detector in DETECTORS}
            for name in names
        ],
        "all": {"n": len(read)} | {d: _over_all([scores[d][name] for name in names]) for d in DETECTORS},
        "clean": {"learned": len(learned), "judged": len(certify)},
        "no_weights": {
            name: count
            for name in dict.fromkeys(one.attack for one in planted)
            if (count := sum(one.attack == name and one not in read for one in planted))
        },
    }


Scored = tuple[Rows, Rows, Rows]


def _screened(planted: Sequence[Planted], certify: Sequence[Weights], bank: BankData) -> dict[str, Scored]:
    """Attack to the rests of specimens, twins and clean members, as an audit would judge them."""
    screen = screen_of(bank)

    def rest(weights: Weights) -> float:
        rests = screen.rests(weights.spectrum, comparable(weights.covariates))
        return bank.judged(screen.of(rests), weights.covariates)

    clean = np.array([rest(weights) for weights in certify])
    found = {}
    for name in dict.fromkeys(one.attack for one in planted):
        mine = [one for one in planted if one.attack == name]
        found[name] = (np.array([rest(o.specimen) for o in mine]), np.array([rest(o.twin) for o in mine]), clean)
    return found


def _learned(
    planted: Sequence[Planted], learned: Sequence[Weights], certify: Sequence[Weights], field: str
) -> dict[str, Scored]:
    def rows(weights: Sequence[Weights]) -> Rows:
        wide = len(getattr(planted[0].specimen, field))
        return np.array([getattr(each, field) for each in weights], np.float64).reshape(-1, wide)

    return leave_one_attack_out(
        rows([one.specimen for one in planted]), rows([one.twin for one in planted]), [one.attack for one in planted],
        rows(learned), rows(certify),
    )  # fmt: skip


def _areas(specimens: Rows, twins: Rows, clean: Rows) -> dict[str, Any]:
    return {"twins": _area(twins, specimens), "zoo": _area(clean, specimens)}


def _area(negatives: Rows, positives: Rows) -> dict[str, float] | None:
    if not len(negatives):
        return None
    if min(len(negatives), len(positives)) < 2:
        return {"value": float(_wins(negatives, positives).mean())}
    area = auroc_interval(negatives, positives, method="bootstrap", rng=np.random.default_rng(0))
    return {"value": area.estimate, "low": area.low, "high": area.high}


def _over_all(scored: Sequence[Scored]) -> dict[str, Any]:
    """Mean over specimens of the share of its own attack's negatives that a specimen is above."""
    found: dict[str, Any] = {}
    for name, which in (("twins", 1), ("zoo", 2)):
        wins = [_wins(each[which], each[0]) for each in scored if len(each[which])]
        found[name] = _mean(np.concatenate(wins)) if wins else None
    return found


def _mean(wins: Rows) -> dict[str, float]:
    # Where every specimen wins alike there is nothing to resample.
    if len(wins) < 2 or not np.ptp(wins):
        return {"value": float(wins.mean())}
    interval = bootstrap(wins, lambda batch: batch.mean(axis=1), rng=np.random.default_rng(0))
    return {"value": float(wins.mean()), "low": interval.low, "high": interval.high}


def _wins(negatives: Rows, positives: Rows) -> Rows:
    """Of each positive, the share of negatives below it, ties counting half."""
    above = positives[:, None] > negatives
    return np.asarray((above + 0.5 * (positives[:, None] == negatives)).mean(axis=1))
