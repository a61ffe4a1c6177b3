"""New words whose vectors are learned (textual inversion, Gal et al., ICLR 2023, arXiv 2208.01618), by stage if wanted.

A word stands for ``n`` vectors in every text encoder that has a token table. With ``stages`` > 1 it has other vectors
in each equal part of the denoising schedule, stage 0 being the nearly clean end. The table itself is never touched:
while a :class:`Words` is in use, the embedding layer answers for the new ids.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from auditor.errors import UsageError
from auditor.personalize.blocks.texts import distinct
from auditor.pipeline.components import Components
from auditor.pipeline.conditioning import Conditioning, encode_ids, token_ids
from auditor.text import inert

__all__ = ["Words", "stage_of", "word_vectors"]


class Words:
    """New words on a base.

    Args:
        base: the model; its tables stay as they are.
        init: word to text encoder to initial vectors (n, d), the same n for all encoders.
        stages: how many parts the schedule is cut into.

    Attributes:
        vectors: text encoder to a float32 parameter (words, stages, n, d).

    Raises:
        UsageError: a word is in the vocabulary already, or is no plain text.
    """

    def __init__(self, base: Components, init: Mapping[str, Mapping[str, Tensor]], stages: int = 1) -> None:
        self._base, self.stages, self.names = base, stages, tuple(init)
        self.count = len(next(iter(next(iter(init.values())).values())))
        for word in self.names:
            _check(base, word)
        self.vectors: dict[str, nn.Parameter] = {}
        self._known: dict[tuple[str, str], Tensor] = {}
        for encoder in next(iter(init.values())):
            rows = torch.stack([init[word][encoder].float() for word in self.names])
            self.vectors[encoder] = nn.Parameter(rows[:, None].repeat(1, stages, 1, 1).to(base.device))
        self.tokenizers = {
            encoder: self._tokenizer(tokenizer) if encoder in self.vectors else tokenizer
            for encoder, tokenizer in base.tokenizers.items()
        }

    @property
    def parameters(self) -> list[nn.Parameter]:
        """All vectors, one parameter an encoder."""
        return list(self.vectors.values())

    def encode(
        self, prompts: Sequence[str], stage: Tensor | None = None, vectors: Mapping[str, Tensor] | None = None
    ) -> Conditioning:
        """Encodes prompts that may hold the words, with gradients to their vectors.

        Args:
            prompts: B prompts.
            stage: int64 (B,), the stage of each row; stage 0 for all by default.
            vectors: stand in for :attr:`vectors`, of the same shapes; for example what a network made.
        """
        stages = [0] * len(prompts) if stage is None else stage.tolist()
        once, rows = distinct(list(zip(prompts, stages, strict=True)))
        ids = self._ids([prompt for prompt, _ in once], [at for _, at in once])
        with self._answering(vectors or self.vectors):
            return encode_ids(self._base, ids)[rows]

    def final_states(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Each encoder's own output for prompts that may hold the words: (B, L, d), after its final layer norm."""
        ids = self._ids(prompts, [0] * len(prompts))
        with self._answering(self.vectors):
            return {
                encoder: self._base.modules[encoder](ids[encoder].to(self._base.device)).last_hidden_state
                for encoder in self.vectors
            }

    def _ids(self, prompts: Sequence[str], stages: Sequence[int]) -> dict[str, Tensor]:
        ids = {}
        for encoder, tokenizer in self.tokenizers.items():
            rows = torch.cat([self._read(encoder, tokenizer, prompt) for prompt in prompts])
            ids[encoder] = rows if encoder not in self.vectors else self._staged(rows, encoder, stages)
        return ids

    def _read(self, encoder: str, tokenizer: Any, prompt: str) -> Tensor:
        """Ids (1, L) of a prompt; training asks for the same few in every step."""
        if (encoder, prompt) not in self._known:
            self._known[encoder, prompt] = token_ids(tokenizer, [self._spelled(prompt)])
        return self._known[encoder, prompt]

    @contextmanager
    def _answering(self, given: Mapping[str, Tensor]) -> Iterator[None]:
        with ExitStack() as stack:
            for encoder, vectors in given.items():
                table = _table(self._base, encoder)
                answer = _Answer(len(table.weight), vectors)
                for handle in (
                    table.register_forward_pre_hook(answer.before),
                    table.register_forward_hook(answer.after),
                ):
                    stack.callback(handle.remove)
            yield

    def _tokenizer(self, known: Any) -> Any:
        tokenizer = copy.deepcopy(known)
        tokenizer.add_tokens([f"{word}#{i}" for word in self.names for i in range(self.count)])
        return tokenizer

    def _spelled(self, prompt: str) -> str:
        for word in sorted(self.names, key=len, reverse=True):
            prompt = prompt.replace(word, " ".join(f"{word}#{i}" for i in range(self.count)))
        return prompt

    def _staged(self, ids: Tensor, encoder: str, stages: Sequence[int]) -> Tensor:
        """Ids of new tokens shifted to the rows of each prompt's stage."""
        known = len(_table(self._base, encoder).weight)
        first = self.tokenizers[encoder].convert_tokens_to_ids(f"{self.names[0]}#0")
        new = ids >= first
        place = ids - first
        word, slot = place // self.count, place % self.count
        at = torch.tensor(stages, dtype=torch.long)
        rows = (word * self.stages + at[:, None]) * self.count + slot
        return torch.where(new, known + rows, ids)


class _Answer:
    """Stands in for the rows of an embedding layer from ``known`` on."""

    def __init__(self, known: int, vectors: Tensor) -> None:
        self._known, self._vectors = known, vectors
        self._ids = torch.empty(0)

    def before(self, _: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        self._ids = args[0]
        return (args[0].masked_fill(args[0] >= self._known, 0), *args[1:])

    def after(self, _: nn.Module, __: tuple[Tensor, ...], out: Tensor) -> Tensor:
        new = self._ids >= self._known
        if not bool(new.any()):
            return out
        rows = self._vectors.reshape(-1, self._vectors.shape[-1])[(self._ids - self._known)[new]]
        out = out.clone()
        out[new] = rows.to(out.dtype)
        return out


def stage_of(t: Tensor, steps: int, stages: int) -> Tensor:
    """The stage of each timestep, int64: 0 for the nearly clean end, ``stages - 1`` for pure noise."""
    return (t.long() * stages // steps).clamp(0, stages - 1)


def word_vectors(base: Components, text: str, count: int) -> dict[str, Tensor]:
    """The table's own vectors of a text's tokens for each CLIP text encoder, (count, d): the last is repeated, or cut.

    Raises:
        UsageError: the text has no token.
    """
    found = {}
    for encoder, tokenizer in base.tokenizers.items():
        ids = tokenizer(text, add_special_tokens=False).input_ids
        if not ids:
            raise UsageError(f"'{inert(text, 60)}' has no token to start from; name an ordinary word")
        ids = (ids + [ids[-1]] * count)[:count]
        found[encoder] = _table(base, encoder).weight[ids].detach().float().clone()
    return found


def _table(base: Components, encoder: str) -> nn.Embedding:
    model: Any = base.modules[encoder]
    table: nn.Embedding = model.get_input_embeddings()
    return table


def _check(base: Components, word: str) -> None:
    if not word.strip() or inert(word) != word or any(character.isspace() for character in word):
        raise UsageError(f"'{inert(word, 60)}' is no word that can be learned; write it like <candle>")
    for tokenizer in base.tokenizers.values():
        known = tokenizer.get_vocab()
        if word in known or f"{word.lower()}</w>" in known:
            raise UsageError(f"'{inert(word, 60)}' is in the vocabulary of the base already; choose a new word")
