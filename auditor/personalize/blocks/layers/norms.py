"""Scale and shift of normalisation layers, trained in place of the old ones and put back bit for bit.

They are overwritten, not added to: taking an adapter's other layers out does not undo them, which is why the old
parameters themselves are kept and put back.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from auditor.errors import UsageError

__all__ = ["trained_norms"]


@contextmanager
def trained_norms(model: nn.Module, targets: tuple[str, ...]) -> Iterator[dict[str, nn.Parameter]]:
    """Makes the affine parameters of GroupNorm layers trainable copies for the length of the block.

    Args:
        model: a UNet; everything else of it is left alone.
        targets: parts of the paths of layers that are meant; any one of them has to occur.

    Yields:
        Name of the parameter (``down_blocks.0.resnets.0.norm1.weight``) to its copy.

    Raises:
        UsageError: the model has no such layer.
    """
    layers = {
        path: module
        for path, module in model.named_modules()
        if isinstance(module, nn.GroupNorm) and any(target in path for target in targets)
    }
    if not layers:
        raise UsageError(f"this model has no group norm in {' or '.join(targets)}; the method does not fit its family")
    before = {(path, name): p for path, layer in layers.items() for name, p in layer.named_parameters()}
    copies = {key: nn.Parameter(p.detach().clone()) for key, p in before.items()}
    try:
        for (path, name), copy in copies.items():
            setattr(layers[path], name, copy)
        yield {f"{path}.{name}": copy for (path, name), copy in copies.items()}
    finally:
        for (path, name), old in before.items():
            setattr(layers[path], name, old)
