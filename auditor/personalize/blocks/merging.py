"""Adding adapters: merged exactly, and how far they get in each other's way, from the files and on the model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from auditor.errors import UsageError
from auditor.personalize.blocks.denoising import Drawn
from auditor.pipeline.components import Components
from auditor.pipeline.conditioning import Conditioning
from auditor.pipeline.denoiser import Denoiser

__all__ = ["MERGE_WEIGHT", "Factors", "GramCertificate", "crosstalk", "gram_certificate", "inputs_seen", "merge"]

MERGE_WEIGHT = 0.6
"""What Orthogonal Adaptation (arXiv 2312.02432) multiplies every adapter by when it adds them."""

# Path of the layer to (down, up), (r, in) and (out, r); the change of its weight is up @ down.
Factors = Mapping[str, tuple[Tensor, Tensor]]


def merge(adapters: Sequence[Factors], weight: float = MERGE_WEIGHT) -> dict[str, tuple[Tensor, Tensor]]:
    """``weight * sum_i up_i down_i`` as one adapter, exact, whose ranks add up; nothing is cut off.

    Raises:
        UsageError: no adapter to merge.
    """
    if not adapters:
        raise UsageError("there is no adapter to merge")
    out = {}
    for path in dict.fromkeys(path for factors in adapters for path in factors):
        pairs = [factors[path] for factors in adapters if path in factors]
        out[path] = torch.cat([down for down, _ in pairs]), torch.cat([weight * up for _, up in pairs], dim=1)
    return out


@dataclass(frozen=True)
class GramCertificate:
    """Inner products of K adapters over the layers that both of a pair change.

    Attributes:
        gram: (K, K) float64, ``sum_layers <delta_i, delta_j>_F``.
        cosines: (K, K), the same over the norms; ones on the diagonal.
        worst: largest absolute cosine of any pair in any single layer, in [0, 1].
        where: path of that layer; empty without a pair.
    """

    gram: Tensor
    cosines: Tensor
    worst: float
    where: str

    def holds(self, tolerance: float = 1e-6) -> bool:
        """Whether no pair meets in any layer, to ``tolerance``."""
        return self.worst <= tolerance


def gram_certificate(adapters: Sequence[Factors]) -> GramCertificate:
    """Certifies from factors alone that adapters add up without overlap, ``tr(B_i^T B_j A_j^T A_i) = 0``.

    Raises:
        UsageError: no adapter.
    """
    if not adapters:
        raise UsageError("there is no adapter to certify")
    count = len(adapters)
    gram, worst, where = torch.zeros(count, count, dtype=torch.float64), 0.0, ""
    for path in dict.fromkeys(path for factors in adapters for path in factors):
        here = torch.tensor(
            [[_inner(one.get(path), other.get(path)) for other in adapters] for one in adapters], dtype=torch.float64
        )
        gram += here
        cosines = _cosines(here).fill_diagonal_(0).abs()
        if count > 1 and float(cosines.max()) >= worst:
            worst, where = float(cosines.max()), path
    return GramCertificate(gram, _cosines(gram), worst, where)


def _inner(one: tuple[Tensor, Tensor] | None, other: tuple[Tensor, Tensor] | None) -> float:
    if one is None or other is None:
        return 0.0
    (down, up), (other_down, other_up) = one, other
    ups, downs = up.double().T @ other_up.double(), down.double() @ other_down.double().T
    return float((ups * downs).sum())


def _cosines(gram: Tensor) -> Tensor:
    norms = gram.diagonal().clamp_min(0).sqrt()
    return torch.where(norms > 0, gram / (norms * norms[:, None]).clamp_min(1e-300), torch.eye(len(gram)).double())


@contextmanager
def inputs_seen(base: Components, paths: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Inside the block the inputs of layers are kept: path to (rows, in), of the latest evaluation."""
    seen: dict[str, Tensor] = {}

    def keep(path: str) -> Any:
        def hook(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            seen[path] = args[0].detach().float().reshape(-1, args[0].shape[-1])

        return hook

    with ExitStack() as stack:
        for path in paths:
            stack.callback(base.unet.get_submodule(path).register_forward_pre_hook(keep(path)).remove)
        yield seen


def crosstalk(
    base: Components, own: Factors, other: Factors, drawn: Drawn, condition: Conditioning
) -> dict[str, float]:
    """``||delta_other X|| / ||delta_own X||`` a layer, X the layer's inputs on own examples under their prompt.

    The base's activations stand for the tuned model's: both adapters are compared on one X.
    """
    paths = [path for path in own if path in other]
    with torch.no_grad(), inputs_seen(base, paths) as seen:
        Denoiser(base).predict(drawn.noisy, drawn.t, condition)
    return {path: _size(other[path], seen[path]) / max(_size(own[path], seen[path]), 1e-30) for path in paths}


def _size(factors: tuple[Tensor, Tensor], x: Tensor) -> float:
    down, up = (part.to(x.device) for part in factors)
    return float((x @ down.T @ up.T).norm())
