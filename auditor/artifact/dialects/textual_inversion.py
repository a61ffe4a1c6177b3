"""Textual inversion (arXiv:2208.01618): vectors for new tokens, in the layouts that are in circulation.

A1111 ``.pt`` (``string_to_param``, converted from pickle by the guard, nested keys joined with ``/``), A1111
safetensors (``emb_params``), pairs for SDXL (``clip_l`` and ``clip_g``) and Flux (``clip_l`` and ``t5``), and
diffusers (``{token: vector}``).
"""

from __future__ import annotations

from auditor.artifact.dialects.collect import Collected, Collector, Context
from auditor.artifact.family import SIGNATURES
from auditor.artifact.tensors import TensorSource

NAME = "textual_inversion"

__all__ = ["NAME", "collect", "recognises"]

_A1111 = "string_to_param/"
_IGNORED = ("string_to_token/",)
_ENCODERS = {
    "emb_params": "text_encoder",
    "clip_l": "text_encoder",
    "clip_g": "text_encoder_2",
    "t5": "text_encoder_2",
}
# Token vectors as wide as these are for CLIP-G, or for the T5 of Flux.
_SECOND_WIDTHS = frozenset(s.text[1].hidden for s in SIGNATURES if len(s.text) > 1)
_MOST_TOKENS = 256
_MOST_VECTORS = 256
_LEAST_WIDTH = 32


def recognises(source: TensorSource) -> bool:
    """Whether the file has a known embedding key, or nothing but a few slim tensors of one width."""
    names = list(source.specs)
    if any(name in _ENCODERS or name.startswith(_A1111) for name in names):
        return True
    shapes = [spec.shape for spec in source.specs.values()]
    return (
        0 < len(shapes) <= _MOST_TOKENS
        and all(
            len(s) in (1, 2) and s[-1] >= _LEAST_WIDTH and (len(s) == 1 or s[0] <= _MOST_VECTORS)
            for s in shapes
        )
        and len({s[-1] for s in shapes}) == 1
        and not any("." in name for name in names)
    )


def collect(source: TensorSource, context: Context) -> Collected:
    """Reads token vectors; a token that neither layout nor metadata name has the name of the file."""
    collector = Collector(source)
    fallback = source.metadata.get("name") or context.stem
    named = any(name in _ENCODERS or name.startswith(_A1111) for name in source.specs)
    for key in source.specs:
        if key in _ENCODERS:
            collector.add_vectors(fallback, _ENCODERS[key], key)
        elif key.startswith(_A1111):
            inner = key[len(_A1111) :]
            collector.add_vectors(fallback if inner == "*" else inner, _encoder(source, key), key)
        elif named:
            if not key.startswith(_IGNORED):
                collector.left.append(key)
        else:
            collector.add_vectors(key, _encoder(source, key), key)
    return collector.finish()


def _encoder(source: TensorSource, key: str) -> str:
    return "text_encoder_2" if (source.specs[key].shape or (0,))[-1] in _SECOND_WIDTHS else "text_encoder"
