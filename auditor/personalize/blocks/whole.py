"""Whole components trained in a base's place: copies are swapped in for a while, the originals are never touched."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from auditor.errors import UsageError
from auditor.personalize.blocks.optimise import Group
from auditor.pipeline.components import Components

__all__ = ["groups_of", "trainable_copies", "whole_parts"]


def whole_parts(base: Components, text: bool) -> tuple[str, ...]:
    """The UNet, and with ``text`` every text encoder.

    Raises:
        UsageError: the base has no UNet, or is not loaded in float32.
    """
    if "unet" not in base.modules:
        raise UsageError(f"whole models are fine-tuned for UNet bases only, and '{base.family}' has none")
    if base.dtype != torch.float32:
        raise UsageError("whole models are fine-tuned in float32; load the base in it, and choose a lower --precision")
    return ("unet", *(base.text_encoders if text else ()))


@contextmanager
def trainable_copies(base: Components, names: Sequence[str]) -> Iterator[dict[str, nn.Module]]:
    """Puts trainable copies of components in the base's place for the length of the block.

    Args:
        base: has its own modules back afterwards, the same objects, also after an exception.
        names: keys of ``base.modules``.

    Yields:
        Name to copy; copies outlive the block, without gradients.
    """
    own = {name: base.modules[name] for name in names}
    copies = {name: copy.deepcopy(module).requires_grad_(True) for name, module in own.items()}
    base.modules.update(copies)
    try:
        yield copies
    finally:
        base.modules.update(own)
        for module in copies.values():
            module.requires_grad_(False)
            module.zero_grad(set_to_none=True)


def groups_of(copies: dict[str, nn.Module]) -> list[Group]:
    """One group of parameters a component, all at the recipe's learning rate."""
    return [Group(name, list(module.parameters())) for name, module in copies.items()]
