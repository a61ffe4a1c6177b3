"""What ``auditor doctor`` looks at; each check is one function that says what it saw."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from auditor.caps import available_memory
from auditor.text import inert

__all__ = ["Check", "run_checks"]

_PACKAGES = (
    "torch",
    "diffusers",
    "transformers",
    "peft",
    "safetensors",
    "numpy",
    "scipy",
    "pydantic",
    "click",
)
_OURS = ("attacks", "auditor", "defenses", "reports", "watermark")
_GIB = 1 << 30
_LEAST_MEMORY = 3 * _GIB
_LEAST_DISK = 1 * _GIB


@dataclass(frozen=True)
class Check:
    """One check.

    Attributes:
        name: short.
        ok: whether all is well.
        told: what was seen, one printable sentence.
        remedy: what to do if it is not well.
    """

    name: str
    ok: bool
    told: str
    remedy: str = ""

    def document(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def run_checks() -> list[Check]:
    """All checks in a fixed order; none raises."""
    return [check for make in _CHECKS for check in make()]


def _versions() -> list[Check]:
    ours = _version("personalized-model-auditor")
    python = platform.python_version()
    found = [Check("auditor", bool(ours), ours or "not installed as a package", "install it with pip")]
    found.append(Check("python", sys.version_info >= (3, 11), python, "Python 3.11 or newer is needed"))
    for name in _PACKAGES:
        version = _version(name)
        found.append(
            Check(name, bool(version), version or "not installed", f"install it: pip install {name}")
        )
    return found


def _device() -> list[Check]:
    try:
        import torch
    except ImportError as error:
        return [
            Check(
                "device", False, f"torch cannot be imported: {inert(str(error), 200)}", "install torch again"
            )
        ]
    if torch.cuda.is_available():
        total = torch.cuda.get_device_properties(0).total_memory / _GIB
        return [Check("device", True, f"cuda: {torch.cuda.get_device_name(0)}, {total:.0f} GiB")]
    return [
        Check(
            "device",
            True,
            f"cpu with {torch.get_num_threads()} threads; no accelerator, so expect minutes rather than "
            "seconds",
        )
    ]


def _memory() -> list[Check]:
    free = available_memory()
    if free is None:
        return [Check("memory", True, "cannot be told on this system")]
    told = f"{free / _GIB:.1f} GiB available"
    return [
        Check(
            "memory",
            free >= _LEAST_MEMORY,
            told,
            "close other programs: an audit of the embedded base takes up to 3 GiB",
        )
    ]


def _base() -> list[Check]:
    from auditor.errors import AuditorError
    from auditor.world.embedded import embedded_folder, load_manifest

    remedy = "install the package again with its weights, or name another base with --base"
    try:
        manifest = load_manifest()
    except AuditorError as error:
        return [Check("base", False, str(error), remedy)]
    files = manifest.get("files", {})
    entries = files.items() if isinstance(files, dict) else ((each.get("path", ""), each) for each in files)
    wrong = [name for name, entry in entries if not _as_recorded(embedded_folder() / name, entry)]
    if not (embedded_folder() / "pipeline" / "model_index.json").is_file():
        wrong.append("pipeline/model_index.json")
    told = (
        "embedded base is complete"
        if not wrong
        else f"embedded base: {len(wrong)} files are missing or changed, {inert(wrong[0])} first"
    )
    return [Check("base", not wrong, told, remedy)]


def _as_recorded(path: Path, entry: Any) -> bool:
    if not path.is_file():
        return False
    size, sha256 = (
        (entry.get("bytes", entry.get("size")), entry.get("sha256"))
        if isinstance(entry, dict)
        else (None, None)
    )
    if size is not None and path.stat().st_size != size:
        return False
    if sha256 is None:
        return True
    import hashlib

    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == str(sha256)


def _clashes() -> list[Check]:
    import auditor

    home = Path(auditor.__path__[0]).resolve().parent
    return [_clash(name, home) for name in _OURS]


def _clash(name: str, home: Path) -> Check:
    """Whether the top-level package of this name is ours: other distributions install some of them too."""
    spec = importlib.util.find_spec(name)
    if spec is None:
        return Check(f"folder {name}", False, "not installed", "install the package again")
    places = [Path(place).resolve() for place in spec.submodule_search_locations or []]
    if home / name in places[:1]:
        return Check(f"folder {name}", True, "is ours")
    where = inert(str(places[0] if places else spec.origin), 200)
    return Check(
        f"folder {name}",
        False,
        f"belongs to another package: {where}",
        "uninstall that package, or use a virtual environment",
    )


def _places() -> list[Check]:
    from auditor.cli.places import state_dir
    from auditor.engine.cache import cache_directory

    return [_writable("runs", state_dir()), _writable("cache", cache_directory())]


def _writable(name: str, folder: Path) -> Check:
    shown = inert(str(folder), 200)
    # Looked at through the nearest folder that exists: a check leaves nothing behind.
    nearest = next((place for place in (folder, *folder.parents) if place.exists()), Path(os.sep))
    try:
        with tempfile.TemporaryFile(dir=nearest):
            free = shutil.disk_usage(nearest).free
    except OSError as error:
        reason = error.strerror or type(error).__name__
        return Check(
            name,
            False,
            f"{shown} cannot be written: {reason.lower()}",
            "set XDG_STATE_HOME and XDG_CACHE_HOME to folders of yours",
        )
    return Check(
        name,
        free >= _LEAST_DISK,
        f"{shown} can be written, {free / _GIB:.1f} GiB free",
        "free some space on that disk",
    )


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


_CHECKS: tuple[Callable[[], list[Check]], ...] = (_versions, _device, _memory, _base, _clashes, _places)
