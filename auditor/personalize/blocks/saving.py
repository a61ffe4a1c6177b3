"""What a method leaves behind: a file that the ecosystem loads, and a sidecar that says where it comes from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from torch import Tensor

from auditor.artifact.safetensors_write import write_arrays
from auditor.errors import OutputError
from auditor.personalize import CHECKPOINT
from auditor.personalize.blocks.consent import person_words
from auditor.personalize.blocks.processes import Team, only_main
from auditor.personalize.blocks.training import NONE_GIVEN, PLAIN, Training
from auditor.pipeline.components import Components
from auditor.text import inert

__all__ = ["PROVENANCE", "make_folder", "save_provenance", "save_word_vectors", "sha256_of", "write_sidecar"]

PROVENANCE = "provenance.json"
_PACKAGES = ("torch", "diffusers", "transformers", "peft", "safetensors")
_EIGHT_BIT = {"adamw": (), "adamw8bit": ("bitsandbytes",)}
_FILE_NAMES = {"text_encoder": "clip_l", "text_encoder_2": "clip_g"}


def save_word_vectors(folder: Path, word: str, vectors: Mapping[str, Tensor]) -> Path:
    """Writes ``learned_embeds.safetensors`` as ``load_textual_inversion`` reads it, float32.

    One text encoder: the word is the key. Two, as in SDXL: ``clip_l`` and ``clip_g``, and the word is in the metadata.

    Args:
        folder: made if it is not there.
        word: the learned word.
        vectors: text encoder to (n, d).

    Raises:
        OutputError: the file is there already, or cannot be written.
    """
    arrays = {
        (word if len(vectors) == 1 else _FILE_NAMES[encoder]): rows.detach().float().cpu().numpy()
        for encoder, rows in vectors.items()
    }
    make_folder(folder)
    return write_arrays(folder / "learned_embeds.safetensors", arrays, {"format": "pt", "name": word})


def save_provenance(
    folder: Path,
    *,
    method: str,
    params: Any,
    base: Components,
    images: Sequence[str],
    files: Sequence[Path],
    loss: float,
    training: Training = PLAIN,
    extra: Mapping[str, Any] | None = None,
) -> Path:
    """Writes ``provenance.json``: base, data, consent, recipe, versions and the hash of what was made.

    Args:
        folder: where the files are.
        method: id of the method.
        params: the recipe, a dataclass.
        base: the base it was trained on.
        images: SHA-256 of each picture.
        files: what was written, hashed here.
        loss: mean loss of the last tenth of the steps.
        training: how it was run, with the notes on consent and licence.
        extra: what else the method wants to say, JSON values.

    Raises:
        OutputError: it cannot be written.
    """
    assert is_dataclass(params) and not isinstance(params, type)
    told = {
        "method": method,
        "params": asdict(params),
        "training": {**training.arithmetic, "gradient_checkpointing": training.gradient_checkpointing},
        "processes": Team.current().size,
        "person_words": person_words(params),
        "consent": training.consent.strip() or NONE_GIVEN,
        "licence": training.licence.strip() or NONE_GIVEN,
        "base": {"ref": base.ref, "revision": base.revision, "sha256": base.sha256, "family": base.family},
        "images": list(images),
        "loss": loss,
        "files": {path.relative_to(folder).as_posix(): sha256_of(path) for path in files},
        "packages": {name: metadata.version(name) for name in (*_PACKAGES, *_EIGHT_BIT[training.optimizer])},
        **(extra or {}),
    }
    return write_sidecar(folder, told)


def write_sidecar(folder: Path, told: Mapping[str, Any]) -> Path:
    """Writes ``provenance.json``, whole or not at all, and removes the checkpoint, which is no longer needed.

    Raises:
        OutputError: it cannot be written; the checkpoint stays.
    """
    only_main()
    target = folder / PROVENANCE
    part = target.with_suffix(".part")
    try:
        part.write_text(json.dumps(told, indent=2, sort_keys=True, default=str) + "\n", "utf-8")
        part.replace(target)
        (folder / CHECKPOINT).unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"cannot write '{inert(str(target), 200)}': {error.strerror}") from error
    return target


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def make_folder(folder: Path) -> None:
    """Makes a folder where there is none, in the process that writes. Raises ``OutputError`` where that fails."""
    only_main()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot write in '{inert(str(folder), 200)}': {error.strerror}") from error
