"""Changed modules by the part of the model that they are in, to ask which part carries what was found."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["layer_groups"]

Key = tuple[str, str, str]
_MOST = 12


def layer_groups(keys: Iterable[Key]) -> dict[str, list[Key]]:
    """Name to its modules: a text encoder as a whole, a denoiser block by block, or by kind of block where it has many.

    Args:
        keys: (component, module, parameter).
    """
    every = sorted(keys)
    fine = _grouped(every, 2)
    return fine if len(fine) <= _MOST else _grouped(every, 1)


def _grouped(keys: Iterable[Key], depth: int) -> dict[str, list[Key]]:
    groups: dict[str, list[Key]] = {}
    for key in keys:
        component, module, _ = key
        parts = [] if component.startswith("text_encoder") else module.split(".")[:depth]
        if len(parts) > 1 and not parts[1].isdigit():
            parts = parts[:1]
        groups.setdefault(".".join([component, *parts]), []).append(key)
    return groups
