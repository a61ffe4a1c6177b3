"""What plugs in: types only, torch-free.

A probe is a function that tests one hypothesis on a subject::

    @probe(id="backdoor.vocabulary_shift", version=1, needs={Capability.TEXT_ENCODER}, null="...", goal="...")
    def vocabulary_shift(subject: Subject, params: VocabularyShift, run: Run) -> Iterator[Result | Finding]: ...

Parameters are a frozen dataclass whose defaults are the recommended values; it is found from the annotation.
A probe never prints, never writes outside ``run.evidence``, never reads the clock or global random state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from reports.model import Evidence, Finding, Reference, Result

__all__ = [
    "Attack", "Capability", "Defense", "Guard", "JsonValue", "Method", "NoParams", "Params", "Plugin", "Probe",
    "ProbeFunction", "Progress", "Repair", "Run", "Specimen", "Stage", "Watermark", "Writer",
]  # fmt: skip

JsonValue = Any  # JSON as Python sees it: None, bool, int, float, str, list, dict with str keys
Params = Any  # a frozen dataclass of the plugin's own


class Capability(StrEnum):
    """What a probe needs of a subject; a probe whose needs are not met is skipped with the reason."""

    FILE = "file"
    WEIGHTS = "weights"
    TOKENIZER = "tokenizer"
    TEXT_ENCODER = "text_encoder"
    DENOISER = "denoiser"
    VAE = "vae"
    SAMPLER = "sampler"
    PARTS = "parts"
    """Two or more parts, put on together."""


class Stage(StrEnum):
    """Cheap before dear: probes run in this order, as far as what they consume allows."""

    FILE = "file"
    WEIGHTS = "weights"
    STEP = "step"
    INVERSION = "inversion"
    GENERATION = "generation"


class Progress(Protocol):
    """Told how far a long task is; shows it wherever the user looks (never stdout)."""

    def __call__(self, done: int, total: int, label: str = "") -> None:
        """``done`` of ``total`` steps of what ``label`` names."""
        ...


class Run(Protocol):
    """What the engine gives a probe."""

    alpha: float
    """The level this probe may spend, after the declared split over probe families."""

    pool: Any
    """An :class:`auditor.banks.Pool` where the probe is judged together with others, else None."""

    def seed(self, *names: str | int) -> int:
        """A seed in [0, 2**63) that depends on the run's seed, the probe and ``names`` only."""
        ...

    def rng(self, *names: str | int) -> np.random.Generator:
        """A generator seeded by :meth:`seed`."""
        ...

    def unit(self, name: str, work: Callable[[], JsonValue]) -> JsonValue:
        """Does one unit of work once: a resumed run gets the stored value instead. ``name`` is unique in the probe.

        Values are JSON (floats kept exactly); arrays travel as nested lists. A unit is of fixed size, a few
        seconds at most, so that batch size and budget change nothing in the results. Raises the engine's
        budget stop when the budget is spent before a unit that was not done yet.
        """
        ...

    def evidence(
        self, name: str, data: bytes, media_type: str, caption: str = "", sensitive: bool = False
    ) -> Evidence:
        """Stores bytes in the run's evidence folder by content, and returns the reference to put into a result."""
        ...

    def results_of(self, probe_id: str) -> Sequence[Result]:
        """Results of a probe named in ``consumes``; empty when it was skipped or failed."""
        ...

    def progress(self, done: int, total: int, label: str = "") -> None:
        """Reports progress within this probe."""
        ...


ProbeFunction = Callable[[Any, Any, Run], Iterator[Result | Finding]]


@dataclass(frozen=True)
class NoParams:
    """For plugins without parameters."""


@dataclass(frozen=True)
class Probe:
    """A registered probe: its function and everything that can be said about it without running it.

    A probe ``on_request`` asks another question than whether the adapter is clean: it is planned only where it is
    named, no pattern means it, and it is judged at the audit's level by itself, of which it takes no share.
    """

    id: str
    version: int
    goal: str
    null: str
    needs: frozenset[Capability]
    stage: Stage
    function: ProbeFunction
    params: type = NoParams
    consumes: tuple[str, ...] = ()
    bank: str = ""
    screen: bool = False
    """Says how unusual something is, and settles nothing: it spends no alpha, and neither passes nor fails an audit."""
    refs: tuple[str, ...] = ()
    taxonomy: tuple[Reference, ...] = ()
    remediation: str = ""
    limits: str = ""
    on_request: bool = False

    @property
    def family(self) -> str:
        """The part of the id before the first dot."""
        return self.id.partition(".")[0]


@dataclass(frozen=True)
class Specimen:
    """A subject with known ground truth, as files in an ordinary hub format, with its benign twin beside it.

    Attributes:
        parts: the files that together are the specimen, in the order in which they are put on.
        twin: the same of the twin.
        manifest: the ground truth, and what was measured of both.
    """

    parts: tuple[Path, ...]
    twin: tuple[Path, ...]
    manifest: dict[str, JsonValue] = field(default_factory=dict)


class Plugin(Protocol):
    """What every attack, method, defense and watermark says of itself; class attributes will do."""

    @property
    def id(self) -> str:
        """The name on the command line."""
        ...

    @property
    def goal(self) -> str:
        """What it does, in one line."""
        ...

    @property
    def refs(self) -> tuple[str, ...]:
        """The papers or sources it follows."""
        ...


class Attack(Plugin, Protocol):
    """Makes a known-bad specimen (and its twin) or stresses a safeguard."""

    @property
    def params(self) -> type:
        """A frozen dataclass whose defaults are the recommended recipe."""
        ...

    def craft(self, base: Any, params: Params, out: Path, progress: Progress) -> Specimen:
        """Writes specimen, twin and manifest under ``out``, which must not exist yet."""
        ...


class Method(Plugin, Protocol):
    """A way to personalize a model: images (or preference pairs) in, an adapter out."""

    @property
    def params(self) -> type:
        """A frozen dataclass whose defaults are the recommended recipe."""
        ...

    def fit(
        self, base: Any, data: Any, params: Params, out: Path, progress: Progress, training: Any = ...
    ) -> Path:
        """Trains and saves in the format the ecosystem expects, with a provenance sidecar; returns the path.

        ``training`` says how it is run (:class:`auditor.personalize.blocks.training.Training`); nothing but the recipe
        by default.
        """
        ...


class Defense(Plugin, Protocol):
    """Repairs, erases, protects or guards; verified by running the probes again."""

    @property
    def params(self) -> type:
        """A frozen dataclass whose defaults are the recommended settings."""
        ...


class Repair(Defense, Protocol):
    """A defense that takes something out of an adapter and leaves the rest."""

    def repair(self, subject: Any, params: Params, out: Path, progress: Progress, trigger: str = "") -> Path:
        """Writes the repaired adapter, in the format it came in, and ``certificate.json`` into a new folder ``out``.

        Args:
            subject: one adapter on its base (:class:`auditor.pipeline.subject.Subject`); as before afterwards.
            params: an instance of ``self.params``.
            out: a new folder; it appears when everything is in it.
            progress: told of every step.
            trigger: what wakes the adapter, where it is known; found from the adapter itself if empty.

        Returns:
            The path of the repaired file.
        """
        ...


class Guard(Defense, Protocol):
    """A defense that makes prompts safe to give to a model."""

    def guard(self, prompt: str, params: Params) -> Any:
        """The prompt as ``text``, and a sequence of ``changes``; nothing was changed where they are empty."""
        ...


class Watermark(Plugin, Protocol):
    """Embeds at ``latents``, ``step`` or ``weights``; one exact detection whatever the embed point.

    Keys, capacities and detections are types of the wing (``watermark.keys``, ``watermark.scheme``,
    ``watermark.detection``); latents are NumPy arrays, so that a scheme needs no torch.
    """

    @property
    def embed_point(self) -> str:
        """``latents``, ``step`` or ``weights``."""
        ...

    def capacity(self, shape: tuple[int, int, int]) -> Any:
        """What latents (C, h, w) hold: a ``Capacity``. Raises ``UsageError`` where the scheme cannot run."""
        ...

    def embed(self, key: Any, nonce: bytes, shape: tuple[int, int, int], payload: bytes = b"") -> Any:
        """What the embed point takes, made from the key, a fresh nonce and a payload alone.

        For ``latents``: the noise to sample from, float32 (C, h, w). For a trained scheme: the picture of the mark,
        float32 (3, H, W).
        """
        ...

    def detect(
        self, latents: Any, /, key: Any, *, nonces: tuple[bytes, ...] = (), payload: bytes | None = None, seed: int = 0
    ) -> Any:
        """A ``Detection`` from inverted latents (C, h, w), for issued nonces and a payload where they are known.

        A trained scheme judges what its network read from a picture in their place.
        """
        ...


class Writer(Protocol):
    """A module with a name, a media type, a file suffix and one pure function."""

    NAME: str
    MEDIA_TYPE: str
    SUFFIX: str

    def write(self, report: Any, evidence: Callable[[str], bytes]) -> bytes:
        """The report in this format; ``evidence`` gives the bytes of a stored file by its sha256."""
        ...
