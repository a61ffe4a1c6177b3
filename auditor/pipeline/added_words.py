"""What vectors that an adapter adds look like beside the base's own: nearest words, norms, spread over stages.

An added word is nobody's vocabulary: nothing moved when it came, so it is described and not compared with a bank.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor

from auditor.text import inert

if TYPE_CHECKING:
    from auditor.contracts import JsonValue
    from auditor.pipeline.subject import Subject

__all__ = ["added_endings", "added_words", "stages_of"]

Row: TypeAlias = "dict[str, JsonValue]"
_STAGE = re.compile(r"(?P<stem>.+)\[(?P<stage>\d+)\]", re.S)
_LISTED = 64
_NEAREST = 8


def stages_of(tokens: list[str]) -> dict[str, list[str]]:
    """Word to the tokens that stand for it, by stage: one token for an ordinary word."""
    found: dict[str, dict[int, str]] = {}
    for token in tokens:
        staged = _STAGE.fullmatch(token)
        stem, stage = (staged["stem"], int(staged["stage"])) if staged else (token, 0)
        found.setdefault(stem, {})[stage] = token
    return {stem: [each[stage] for stage in sorted(each)] for stem, each in found.items()}


def added_words(subject: Subject) -> list[Row]:
    """One row a word and text encoder, 64 at most, JSON-ready.

    Returns:
        ``word`` and ``encoder``; ``vectors``, how many in a stage; ``stages``; ``nearest``, of the eight first
        vectors the entry of the base's vocabulary at the smallest angle, and its ``cosine``; ``norm``, the mean norm in
        units of the vocabulary's median; ``norm_rank``, the share of the vocabulary that is shorter than the longest
        vector; ``spread`` over stages, the RMS distance from their mean in units of the mean norm.
    """
    rows = []
    for stem, tokens in stages_of(list(subject.changes.embeddings)).items():
        encoders = sorted({e for token in tokens for e in subject.changes.embeddings[token]})
        for encoder in encoders:
            given = [subject.changes.embeddings[token].get(encoder) for token in tokens]
            rows.append(_row(subject, stem, encoder, [each for each in given if each is not None]))
            if len(rows) == _LISTED:
                return rows
    return rows


def added_endings(subject: Subject) -> Row | None:
    """What is put at the end of encoded prompts, or None.

    Returns:
        ``steps`` and ``vectors`` of each; ``spread`` over steps as for words; ``distance``, RMS, from the ends of the
        empty prompt in units of their norm.
    """
    endings = subject.changes.endings
    if endings is None:
        return None
    own = subject.base.encode_prompt([""]).states[0, -endings.shape[1] :].float().cpu()
    distance = (endings - own).square().sum((1, 2)).mean().sqrt() / own.norm().clamp_min(1e-12)
    return {
        "steps": len(endings),
        "vectors": endings.shape[1],
        "spread": _spread(list(endings)),
        "distance": float(distance),
    }


def _row(subject: Subject, stem: str, encoder: str, stages: list[Tensor]) -> Row:
    with subject.active("base"):
        table = subject.components.modules[encoder].get_input_embeddings().weight  # type: ignore[operator]
        known = table.detach().float().cpu()
    tokenizer = subject.components.tokenizers[encoder]
    every = torch.cat(stages)
    lengths = known.norm(dim=1)
    unit = torch.nn.functional.normalize(known, dim=1)
    cosines = torch.nn.functional.normalize(every[:_NEAREST], dim=1) @ unit.T
    best, at = cosines.max(1)
    return {
        "word": inert(stem, 64),
        "encoder": encoder,
        "vectors": len(stages[0]),
        "stages": len(stages),
        "nearest": [inert(str(tokenizer.decode([i])).strip(), 40) for i in at.tolist()],
        "cosine": [float(value) for value in best],
        "norm": float(every.norm(dim=1).mean() / lengths.median().clamp_min(1e-12)),
        "norm_rank": float((lengths < every.norm(dim=1).max()).float().mean()),
        "spread": _spread(stages),
    }


def _spread(stages: list[Tensor]) -> float:
    if len({each.shape for each in stages}) != 1:
        return 0.0
    stacked = torch.stack(stages).double()
    size = stacked.square().sum((1, 2)).mean().sqrt()
    return float((stacked - stacked.mean(0)).square().sum((1, 2)).mean().sqrt() / size.clamp_min(1e-12))
