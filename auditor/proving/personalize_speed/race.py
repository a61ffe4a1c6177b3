"""One training timed step by step against other arms, in turns, so that a busy machine is busy for all of them."""

from __future__ import annotations

import gc
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from auditor.errors import AuditorError
from auditor.pipeline.components import Components
from auditor.proving.personalize_speed.arithmetic import flops_of
from auditor.proving.personalize_speed.arms import Arm, Step, step_of
from auditor.proving.personalize_speed.clock import Lap, now
from auditor.proving.personalize_speed.memory import Peak, peak_memory
from auditor.proving.personalize_speed.observe import observed

__all__ = ["OURS", "Race", "Timed"]

OURS = "ours"


@dataclass
class Timed:
    """What one training cost.

    Attributes:
        step: what a step was seen to do.
        steps: in each lap.
        laps: arm to its laps, as many for each.
        memory: arm to the memory of one step, once everything that lasts is there.
        flops: operations of one step of the first of the other arms.
    """

    step: Step
    steps: int
    laps: dict[str, list[Lap]] = field(default_factory=dict)
    memory: dict[str, Peak] = field(default_factory=dict)
    flops: int = 0


class Race:
    """Times a training that reports its steps here as to any :class:`auditor.contracts.Progress`.

    What happens between two reports is the training's own time. While a report is being made the training stands still
    with its weights in place: the other arms run then.

    Args:
        base: what is trained on.
        arms: the other arms, made of a step that was seen.
        rounds: laps of each arm.
        steps: in each lap.
        tell: called after each round.
    """

    def __init__(
        self, base: Components, arms: Callable[[Step], Mapping[str, Arm]], rounds: int, steps: int,
        tell: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        self._base, self._arms, self._rounds, self._steps, self._tell = base, arms, rounds, steps, tell
        self._optimizer: torch.optim.Optimizer | None = None
        self._stepped = False
        self._course: Generator[None, None, Timed] = self._run()

    def time(self, train: Callable[[Race], Any]) -> Timed:
        """Runs a training until enough is known of it.

        Raises:
            AuditorError: it ended before, or moves nothing through the denoiser.
        """
        handle = register_optimizer_step_post_hook(self._seen)
        try:
            next(self._course)
            train(self)
        except _EnoughError as enough:
            return enough.timed
        finally:
            handle.remove()
            self._course.close()
        raise AuditorError("the training ended before it was timed; it has fewer steps than that takes")

    def __call__(self, done: int, total: int, label: str = "") -> None:
        """A report; one after which no optimiser has stepped says nothing about a step."""
        if not self._stepped:
            return
        self._stepped = False
        try:
            next(self._course)
        except StopIteration as end:
            raise _EnoughError(end.value) from None

    def _seen(self, optimizer: torch.optim.Optimizer, _: Any, __: Any) -> None:
        self._optimizer, self._stepped = optimizer, True

    def _run(self) -> Generator[None, None, Timed]:
        device = self._base.device
        for _ in range(2):
            yield
        gc.collect()  # what an earlier training left behind is not this one's memory
        with peak_memory(device) as ours:
            yield
        with observed(self._base) as calls:
            yield
        assert self._optimizer is not None
        timed = Timed(step_of(self._base, list(calls), self._optimizer), self._steps, memory={OURS: ours})
        if not timed.step.denoised:
            raise AuditorError("this training sends no gradients through the denoiser")
        arms = self._arms(timed.step)
        for name, arm in arms.items():
            arm()
            with peak_memory(device) as peak:
                arm()
            timed.memory[name] = peak
        timed.flops = flops_of(next(iter(arms.values())))
        yield
        for number in range(self._rounds):
            start = now(device)
            for _ in range(self._steps):
                yield
            timed.laps.setdefault(OURS, []).append(now(device) - start)
            turned = list(arms) if number % 2 == 0 else list(arms)[::-1]
            for name in turned:
                start = now(device)
                for _ in range(self._steps):
                    arms[name]()
                timed.laps.setdefault(name, []).append(now(device) - start)
            self._tell()
        return timed


class _EnoughError(Exception):
    """Ends a training that has been timed; its blocks put everything back on the way out."""

    def __init__(self, timed: Timed) -> None:
        super().__init__("timed")
        self.timed = timed
