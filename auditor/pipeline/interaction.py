"""What two parts do together that neither does alone: the interaction residual of a 2x2 design, in velocity.

For parts S and P, each there or not, ``I = f(S, P) - f(S, 0) - f(0, P) + f(0, 0)``. It is zero where the parts leave
one another alone, however much each of them changes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from torch import Tensor

from auditor.pipeline.subject import Subject
from auditor.pipeline.view import View

__all__ = ["Corners", "Effects", "corners", "effects"]


@dataclass(frozen=True)
class Corners:
    """The four cells of the design."""

    neither: View
    first: View
    second: View
    both: View


@dataclass(frozen=True)
class Effects:
    """Mean squares of each row's velocity, float64 (B,): of the base, of either part alone, and of the interaction."""

    base: Tensor
    first: Tensor
    second: Tensor
    together: Tensor


@contextmanager
def corners(subject: Subject, first: int, second: int) -> Iterator[Corners]:
    """The cells for two of a subject's parts, by number, for the length of the block."""
    pair = [subject.artifacts[first], subject.artifacts[second]]
    with ExitStack() as stack:
        alone = [stack.enter_context(subject.only([part])).tuned for part in pair]
        both = subject if len(subject.artifacts) == len(pair) else stack.enter_context(subject.only(pair))
        yield Corners(subject.base, alone[0], alone[1], both.tuned)


def effects(cells: Corners, noisy: Tensor, t: Tensor, prompts: Sequence[str]) -> Effects:
    """Evaluates all four cells.

    Args:
        cells: from :func:`corners`.
        noisy: latents (B, C, h, w).
        t: int64 (B,).
        prompts: B prompts.
    """

    def velocity(view: View) -> Tensor:
        return view.denoiser.predict(noisy, t, view.encode_prompt(prompts)).velocity

    def size(change: Tensor) -> Tensor:
        return change.square().mean((1, 2, 3)).double().cpu()

    neither, first, second, both = map(velocity, (cells.neither, cells.first, cells.second, cells.both))
    return Effects(
        base=size(neither),
        first=size(first - neither),
        second=size(second - neither),
        together=size(both - first - second + neither),
    )
