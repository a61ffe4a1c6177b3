"""The one way from paths to a subject: identify, load the base, put the parts on."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from auditor.artifact.identify import Identified, identify
from auditor.artifact.together import identify_parts
from auditor.errors import BaseUnavailable, UsageError
from auditor.pipeline.components import Components, load_components
from auditor.pipeline.subject import Subject
from auditor.text import inert

__all__ = ["EMBEDDED", "choose_device", "load_base", "open_subject", "subject_on"]

EMBEDDED = "embedded"
"""Name of the base that ships with the toolkit."""
_TEXT_PREFIX = "text_model."


def open_subject(
    parts: Sequence[Path],
    base: str | None = None,
    device: str = "auto",
    allow_download: bool = False,
    revision: str = "",
) -> Subject:
    """Opens adapters on a base.

    Args:
        parts: adapter files or folders, in the order in which they are put on.
        base: :data:`EMBEDDED` (default), a diffusers folder, or a hub id with ``revision``.
        device: ``auto``, ``cpu``, ``cuda``...
        allow_download: whether a hub id may be fetched; otherwise only what is already on the machine is used.
        revision: commit hash for a hub id.

    Raises:
        UsageError: no parts, or a path that does not exist.
        UnsupportedArtifact: a part is no adapter; the message says what it is.
        RefusedArtifact: a part must not be opened.
        BaseUnavailable: see :func:`load_base`.
    """
    if not parts:
        raise UsageError("nothing to audit: name at least one adapter")
    found: list[Identified] = []
    try:
        for path in parts:
            for part in identify_parts(path):
                found.append(part)
                if base in (None, EMBEDDED) or part.kind != "unsupported":
                    _require_adapter(part)
        return _put_on(load_base(base, device, allow_download, revision), found)
    except BaseException:
        for part in found:
            part.close()
        raise


def subject_on(components: Components, parts: Sequence[Path]) -> Subject:
    """Opens adapters on a base that is loaded already; see :func:`open_subject` for what is raised."""
    found: list[Identified] = []
    try:
        for path in parts:
            found.extend(identify_parts(path))
        return _put_on(components, found)
    except BaseException:
        for part in found:
            part.close()
        raise


def load_base(
    base: str | None = None,
    device: str = "auto",
    allow_download: bool = False,
    revision: str = "",
    dtype: torch.dtype | None = None,
) -> Components:
    """Loads a base model.

    Raises:
        BaseUnavailable: it is not on this machine, or not a supported model.
    """
    chosen = choose_device(device)
    kind = dtype or (torch.float16 if chosen.type == "cuda" else torch.float32)
    if base in (None, EMBEDDED):
        # The embedded base sits above this folder in the house; its weights are found as package data.
        folder = Path(__file__).parent.parent / "world" / "weights" / "pipeline"
        if not folder.is_dir():
            raise BaseUnavailable(
                "the embedded base is not installed; reinstall the package or name a base with --base"
            )
        return load_components(folder, chosen, torch.float32 if dtype is None else dtype, ref=EMBEDDED)
    assert base is not None
    folder = Path(base)
    if folder.exists() or base.startswith((".", "/", "~")):
        return load_components(folder.expanduser(), chosen, kind, ref=base)
    return load_components(
        _from_hub(base, revision, allow_download), chosen, kind, ref=base, revision=revision
    )


def choose_device(name: str) -> torch.device:
    """``auto`` takes an accelerator if there is one. Raises ``UsageError`` for a device that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.ones(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UsageError(f"device '{inert(name)}' is not available on this machine") from error
    return device


def _put_on(components: Components, found: list[Identified]) -> Subject:
    for i, part in enumerate(found):
        if part.kind != "model_folder" and (components.family == "other" or _unknown(part)):
            # Names that no known family has are looked up in the base itself.
            part.close()
            found[i] = identify(part.path, base=components.remember("shapes", partial(_module_shapes, components)))
    for part in found:
        _require_adapter(part)
    return Subject(components, found)


def _require_adapter(part: Identified) -> None:
    # A whole model is put on its base later, and is an adapter from then on.
    if part.kind != "model_folder":
        part.require_adapter()


def _unknown(part: Identified) -> bool:
    return part.family is None or part.family.family == "other"


def _module_shapes(components: Components) -> dict[str, dict[str, tuple[int, ...]]]:
    """Component to module path, as adapters name it, to the shape of its weight."""
    shapes: dict[str, dict[str, tuple[int, ...]]] = {}
    for component, model in components.modules.items():
        text = component.startswith("text_encoder")
        for path, module in model.named_modules():
            weight = getattr(module, "weight", None)
            if path and isinstance(weight, torch.Tensor):
                known = shapes.setdefault(component, {})
                known[path] = tuple(weight.shape)
                if text and not path.startswith((_TEXT_PREFIX, "text_projection")):
                    known[_TEXT_PREFIX + path] = known[path]
    return shapes


def _from_hub(ref: str, revision: str, allow_download: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    if not re.fullmatch("[0-9a-f]{40}", revision):
        raise UsageError(
            f"base '{inert(ref)}' is a hub id and needs a pinned --revision (a 40-digit commit hash)"
        )
    offline = not allow_download or os.environ.get("HF_HUB_OFFLINE") == "1"
    try:
        return Path(
            snapshot_download(
                ref,
                revision=revision,
                local_files_only=offline,
                # Weights of components only: the same model in one file often lies beside them.
                allow_patterns=["*.json", "*.txt", "*/*.safetensors"],
            )
        )
    except HFValidationError as error:
        raise UsageError(f"base '{inert(ref)}' is neither a folder here nor a hub id") from error
    except LocalEntryNotFoundError as error:
        hint = "it is offline" if allow_download else "downloads are off; allow them with --allow-download"
        raise BaseUnavailable(
            f"base '{inert(ref)}' at {revision[:12]} is not on this machine and {hint}"
        ) from error
    except (HfHubHTTPError, OSError) as error:
        raise BaseUnavailable(
            f"base '{inert(ref)}' could not be fetched: {inert(type(error).__name__)}"
        ) from error
