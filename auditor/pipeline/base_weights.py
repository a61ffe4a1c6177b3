"""A loaded base as arrays, by the names that adapters use: what the torch-free part of the house measures against."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from auditor.pipeline.components import Components
from auditor.pipeline.parts import find_module

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["BaseWeights"]


class BaseWeights:
    """Reads the weights that are in place: the base's, while no view of a subject is active.

    Args:
        components: a loaded base.
    """

    def __init__(self, components: Components) -> None:
        self._components = components

    def weight(self, component: str, path: str) -> NDArray[Any] | None:
        """The weight of a module, or None where the base has none; see :meth:`parameter`."""
        return self.parameter(component, path, "weight")

    def parameter(self, component: str, path: str, name: str) -> NDArray[Any] | None:
        """``weight`` or ``bias`` of a module as float32, or None where the base has no such parameter."""
        model = self._components.modules.get(component)
        found = find_module(model, path) if model is not None else None
        value = None if found is None else getattr(found[1], name, None)
        if not isinstance(value, torch.Tensor):
            return None
        array: NDArray[Any] = value.detach().float().cpu().numpy()
        return array

    def norm(self, component: str) -> float:
        """Frobenius norm over all parameters of a component; 0 where the base has no such component."""
        return self._components.remember(("norm", component), lambda: self._norm(component))

    def _norm(self, component: str) -> float:
        model = self._components.modules.get(component)
        if model is None:
            return 0.0
        total = torch.stack([p.detach().double().square().sum().cpu() for p in model.parameters()]).sum()
        return float(total.sqrt())
