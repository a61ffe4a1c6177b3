"""Which vocabulary entry to try next: the gradient of what an insertion does, by the embedding of the inserted word.

The first step of greedy coordinate gradient (Zou et al., 2023, arXiv 2307.15043), with another objective: the mean
square of the effect of an insertion (:mod:`auditor.pipeline.insertion`), so that what is climbed is where tuned and
base part, not what the base says of a word.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from auditor.pipeline.conditioning import encode_prompts
from auditor.pipeline.denoiser import Denoiser
from auditor.pipeline.insertion import Insertions, insert
from auditor.pipeline.text_shift import Lexicon
from auditor.pipeline.view import View

__all__ = ["word_gradient"]

_LATENT_VALUES = 1 << 12


def word_gradient(insertions: Insertions, lexicon: Lexicon, word: str, effect: Tensor) -> Tensor:
    """First-order change of the effect's mean square for every entry in the place of ``word``.

    Args:
        insertions: carriers and noise.
        lexicon: whose vocabulary is searched; all of its encoders read the word.
        word: one entry, as text, in the slot now.
        effect: what it does, (C, D), less what is not to be found again.

    Returns:
        float32 (V,), on the CPU; larger is more promising.
    """
    (token,) = lexicon.tokenizer(word, add_special_tokens=False).input_ids
    prompts = [insert(carrier, word) for carrier in insertions.carriers]
    tables = _tables(insertions, lexicon)
    slopes = {name: torch.zeros(table.shape[1]) for name, table in tables.items()}
    step = max(1, _LATENT_VALUES // (insertions.noise.shape[-1] * insertions.noise.shape[-2]))
    for view, sign in ((insertions.subject.tuned, 1.0), (insertions.subject.base, -1.0)):
        for start in range(0, len(prompts), step):
            rows = slice(start, start + step)
            found = _slopes(insertions, view, list(tables), token, prompts[rows], effect[rows])
            for name, slope in found.items():
                slopes[name] += sign * slope
    gains = [(table - table[token]) @ slopes[name] for name, table in tables.items()]
    return torch.stack(gains).sum(0)


def _tables(insertions: Insertions, lexicon: Lexicon) -> dict[str, Tensor]:
    encoders = insertions.subject.components.text_encoders
    tables = {}
    with insertions.subject.active("base"):
        for name in lexicon.encoders:
            weight = encoders[name].get_input_embeddings().weight
            tables[name] = weight.detach().float().cpu()
    return tables


def _slopes(
    insertions: Insertions, view: View, encoders: Sequence[str], token: int, prompts: Sequence[str], effect: Tensor
) -> dict[str, Tensor]:
    """Gradients of ``<answer, effect>`` by a vector added to the embedding of ``token``, by encoder."""
    components = insertions.subject.components
    with insertions.subject.active(view.name), torch.enable_grad(), ExitStack() as stack:
        added = [stack.enter_context(_added(components.text_encoders[name], token)) for name in encoders]
        condition = encode_prompts(components, view.tokenizers, prompts)
        noise = insertions.noise.expand(len(prompts), -1, -1, -1)
        t = torch.full((len(prompts),), insertions.t, device=noise.device)
        # The view's own count, but not its predict, which takes no gradients.
        said = Denoiser.predict(view.denoiser, noise, t, condition).velocity.flatten(1)
        loss = (said * effect.to(said)).sum()
        # An encoder of which the denoiser gets nothing at this word has no slope.
        found = torch.autograd.grad(loss, added, allow_unused=True)
    return {
        name: torch.zeros(each.shape[0]) if slope is None else slope.float().cpu()
        for name, each, slope in zip(encoders, added, found, strict=True)
    }


@contextmanager
def _added(encoder: Any, token: int) -> Iterator[Tensor]:
    """A vector of zeros that is added to the embedding wherever ``token`` stands."""
    table = encoder.get_input_embeddings()
    vector = torch.zeros(
        table.weight.shape[1], dtype=table.weight.dtype, device=table.weight.device, requires_grad=True
    )

    def add(module: Any, arguments: tuple[Any, ...], out: Tensor) -> Tensor:
        moved: Tensor = out + (arguments[0] == token)[..., None].to(out) * vector
        return moved

    # T5 has its table under two names, and reads by the one that it does not tell of.
    same = [m for m in encoder.modules() if getattr(m, "weight", None) is table.weight]
    handles = [module.register_forward_hook(add) for module in same]
    try:
        yield vector
    finally:
        for handle in handles:
            handle.remove()
