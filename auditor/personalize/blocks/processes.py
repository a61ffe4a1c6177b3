"""Several processes that train together: each takes its share of a step's losses, and gradients are added up.

Loss ``i`` of a run draws the same in whichever process it is evaluated, so that ``P`` processes train as one does
that accumulates ``P`` times as many micro-batches. Only the main process writes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from auditor.errors import MissingExtra

__all__ = ["NotMain", "Team", "device_here", "joined", "only_main"]

_BUCKET = 1 << 24
"""Gradient values that are sent in one piece."""


class NotMain(Exception):
    """Training is done, and this process is not the one that writes."""


@dataclass(frozen=True)
class Team:
    """This process among those that train together.

    Attributes:
        rank: its number, from 0.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    @classmethod
    def current(cls) -> Team:
        """The team that this process has joined; alone if none."""
        from torch import distributed

        if not (distributed.is_available() and distributed.is_initialized()):
            return cls()
        return cls(distributed.get_rank(), distributed.get_world_size())

    @property
    def main(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0

    def wait(self) -> None:
        """Returns when all have come here."""
        if self.size > 1:
            from torch import distributed

            distributed.barrier()

    def add_up(self, parameters: Sequence[nn.Parameter], loss: float) -> float:
        """Replaces gradients by their sums over all processes, and returns the sum of the losses.

        A parameter that no process has a gradient for is left without one.
        """
        if self.size == 1:
            return loss
        from torch import distributed

        device = parameters[0].device
        told = torch.tensor([*(p.grad is not None for p in parameters), loss], dtype=torch.float64, device=device)
        distributed.all_reduce(told)
        *there, total = told.tolist()
        reached = [p for p, count in zip(parameters, there, strict=True) if count]
        for parameter in reached:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        for bucket in _buckets([p.grad for p in reached if p.grad is not None]):
            flat = torch.cat([gradient.reshape(-1) for gradient in bucket])
            distributed.all_reduce(flat)
            for gradient, part in zip(bucket, torch.split(flat, [g.numel() for g in bucket]), strict=True):
                gradient.copy_(part.view_as(gradient))
        return float(total)


@contextmanager
def joined(cpu: bool) -> Iterator[Team]:
    """Joins the processes that ``accelerate launch`` or ``torchrun`` started, for the length of the block.

    Args:
        cpu: whether they train on the CPU, whatever else there is.

    Raises:
        MissingExtra: there are several processes, and accelerate is not installed.
    """
    if int(os.environ.get("WORLD_SIZE") or 1) < 2:
        yield Team()
        return
    try:
        from accelerate import PartialState
    except ImportError as error:
        raise MissingExtra("training in several processes needs accelerate: pip install accelerate") from error
    state = PartialState(cpu=cpu)
    try:
        yield Team.current()
    finally:
        state.destroy_process_group()


def device_here(name: str) -> str:
    """The device of this process: each of several on a machine has an accelerator of its own.

    Args:
        name: ``auto``, ``cpu``, ``cuda``; a device with a number is taken as it is.
    """
    if int(os.environ.get("WORLD_SIZE") or 1) < 2 or name not in ("auto", "cuda"):
        return name
    cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes") and name == "auto"
    if cpu or not torch.cuda.is_available():
        return "cpu" if name == "auto" else name
    return f"cuda:{os.environ.get('LOCAL_RANK') or 0}"


def only_main() -> None:
    """Comes before whatever is written. Raises ``NotMain`` in a process that must not write."""
    if not Team.current().main:
        raise NotMain


def _buckets(gradients: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    bucket: list[Tensor] = []
    for gradient in gradients:
        bucket.append(gradient)
        if sum(each.numel() for each in bucket) >= _BUCKET:
            yield bucket
            bucket = []
    if bucket:
        yield bucket
