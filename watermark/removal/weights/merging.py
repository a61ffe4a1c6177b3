"""Adapters merged into the base, with a weight."""

from __future__ import annotations

from contextlib import AbstractContextManager

from torch import Tensor, nn

from auditor.pipeline.subject import Subject
from watermark.removal.weights.swapping import swapped

__all__ = ["merged"]


def merged(subject: Subject, weight: float) -> AbstractContextManager[None]:
    """The subject's *base* view with its adapters merged in, ``base + weight * (tuned - base)``.

    New words are no part of a merge. Inside the block only the base view may be used.

    Args:
        subject: a base and the adapters on it.
        weight: 0 is the base, 1 what the adapters say, more than they say above.
    """
    components, values = subject.components, dict[nn.Parameter, Tensor]()
    with subject.active("base"):
        for (component, module, name), change in subject.changes.modules.items():
            parameter = getattr(components.modules[component].get_submodule(module), name)
            values[parameter] = parameter.data.lerp(change.tuned, weight)
    return swapped(values)
