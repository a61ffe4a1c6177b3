"""Self-attention queries of one sampling run, kept and given to another: layout from one picture, look from another.

The time-aware swap of SigStyle (arXiv 2502.13997): only the first k steps, which decide on the layout, are swapped.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from auditor.errors import UsageError
from auditor.pipeline.components import Components

__all__ = ["Queries", "queries_given", "queries_kept"]


class Queries:
    """Queries by step: ``steps[i]`` is path of the layer to (B, pixels, channels)."""

    def __init__(self) -> None:
        self.steps: list[dict[str, Tensor]] = []


@contextmanager
def queries_kept(base: Components, first: int) -> Iterator[Queries]:
    """Inside the block queries of the first ``first`` evaluations are kept, of all rows: sample without guidance."""
    found = Queries()

    def keep(path: str, step: int, out: Tensor) -> None:
        if step < first:
            while len(found.steps) <= step:
                found.steps.append({})
            found.steps[step][path] = out.detach()

    with _hooked(base, keep):
        yield found


@contextmanager
def queries_given(base: Components, queries: Queries, until: int) -> Iterator[None]:
    """Inside the block the last rows of the first ``until`` evaluations get kept queries, not their own.

    Guided sampling evaluates the empty prompt's rows and then the prompt's in one batch, so that these are the
    prompt's; a batch that is cut into several evaluations is not supported.

    Args:
        base: the model that samples.
        queries: kept from as many rows as one arm of the guided batch has.
        until: k; 0 changes nothing.

    Raises:
        UsageError: fewer steps were kept than are asked for, or of more rows than there are.
    """
    if until > len(queries.steps):
        raise UsageError(f"queries of {until} steps are asked for, but {len(queries.steps)} were kept")

    def give(path: str, step: int, out: Tensor) -> Tensor | None:
        if step >= until:
            return None
        given = queries.steps[step][path]
        if len(given) > len(out) or given.shape[1:] != out.shape[1:]:
            raise UsageError("the kept queries are of another size or of more pictures than are drawn")
        out = out.clone()
        out[-len(given) :] = given.to(out)
        return out

    with _hooked(base, give):
        yield


@contextmanager
def _hooked(base: Components, act: Any) -> Iterator[None]:
    unet, step = base.unet, -1

    def count(_: nn.Module, __: Any) -> None:
        nonlocal step
        step += 1

    def on_query(path: str) -> Any:
        def hook(_: nn.Module, __: Any, out: Tensor) -> Tensor | None:
            changed: Tensor | None = act(path, step, out)
            return changed

        return hook

    with ExitStack() as stack:
        stack.callback(unet.register_forward_pre_hook(count).remove)
        for path, module in unet.named_modules():
            if path.endswith("attn1"):
                stack.callback(module.to_q.register_forward_hook(on_query(path)).remove)
        yield
