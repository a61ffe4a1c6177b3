"""Other values in place of a model's, and back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn

__all__ = ["matrices", "swapped"]


@contextmanager
def swapped(values: Mapping[nn.Parameter, Tensor]) -> Iterator[None]:
    """Puts values in place of parameters' for the length of the block.

    Parameters get their own storage back, so that they are the same bit for bit, also after an exception. Blocks nest;
    no view of a subject may be switched inside that shares the parameters and was active before.

    Args:
        values: parameter to its value, of its shape.
    """
    before = {parameter: parameter.data for parameter in values}
    try:
        for parameter, value in values.items():
            parameter.data = value.to(parameter)
        yield
    finally:
        for parameter, value in before.items():
            parameter.data = value


def matrices(model: nn.Module) -> list[nn.Parameter]:
    """The weights of linear and convolutional layers, which is where nearly all of a model is."""
    return [parameter for parameter in model.parameters() if parameter.ndim > 1]
