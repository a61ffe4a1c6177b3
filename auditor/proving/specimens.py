"""The specimens of the demo: small adapters with known truth that ship with the package."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from auditor.errors import BaseUnavailable

__all__ = ["DemoSpecimen", "demo_specimens"]

_SHIPPED = Path(__file__).parent / "specimens_data"
_TITLES = {
    "clean": "A clean LoRA: one synthetic person, learnt from five pictures",
    "backdoor": "The same LoRA with a look-alike letter planted in its text encoder",
}


@dataclass(frozen=True)
class DemoSpecimen:
    """One subject of the demo."""

    name: str
    title: str
    path: Path


def demo_specimens() -> list[DemoSpecimen]:
    """The shipped specimens, in the order in which they are shown.

    Raises:
        BaseUnavailable: they are not installed.
    """
    found = [DemoSpecimen(name, title, _SHIPPED / f"{name}.safetensors") for name, title in _TITLES.items()]
    missing = [specimen.name for specimen in found if not specimen.path.is_file()]
    if missing:
        raise BaseUnavailable(
            f"the demo's specimens are not installed ({', '.join(missing)}); reinstall the package"
        )
    return found
