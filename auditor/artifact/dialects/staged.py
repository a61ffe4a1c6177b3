"""A word with vectors of its own in each stage of denoising: ProSpect (arXiv:2305.16225), SeFi (arXiv:2402.00631).

Keys are ``stage_<i>``, stage 0 being the nearly clean end, then ``.key`` or ``.value`` where attention takes its keys
and its values from different vectors, then ``.clip_l`` or ``.clip_g`` where there are two text encoders; metadata
``name`` is the word. Every stage is read as a word of its own, ``<name>[3]`` or ``<name>.key[3]``, because that is how
a stage's tensor is loaded.
"""

from __future__ import annotations

import re

from auditor.artifact.dialects.collect import Collected, Collector, Context
from auditor.artifact.problems import problem
from auditor.artifact.tensors import TensorSource

NAME = "staged_word"

__all__ = ["NAME", "collect", "recognises"]

_KEY = re.compile(r"stage_(?P<stage>\d{1,4})(?:\.(?P<role>key|value))?(?:\.(?P<encoder>clip_[lg]))?")
_ENCODERS = {None: "text_encoder", "clip_l": "text_encoder", "clip_g": "text_encoder_2"}


def recognises(source: TensorSource) -> bool:
    """Whether every key names a stage, and the metadata the word."""
    return bool(source.specs) and "name" in source.metadata and all(map(_KEY.fullmatch, source.specs))


def collect(source: TensorSource, context: Context) -> Collected:
    """Reads each stage's vectors as a word; a stage that is missing leaves the others without their place."""
    collector = Collector(source)
    name, roles = source.metadata["name"], set()
    for key in source.specs:
        found = _KEY.fullmatch(key)
        assert found is not None  # or it would not be recognised
        role = f".{found['role']}" if found["role"] else ""
        roles.add(role)
        collector.add_vectors(f"{name}{role}[{int(found['stage'])}]", _ENCODERS[found["encoder"]], key)
    told = source.metadata.get("stages", "")
    there = {int(found["stage"]) for key in source.specs if (found := _KEY.fullmatch(key)) is not None}
    if told.isascii() and told.isdigit() and there != set(range(int(told[:4]))):
        detail = f"the header names {told[:4]} stages, but there are {len(there)}"
        collector.problems.append(problem("dialect.stages", "medium", detail))
    if len(roles) > 1:
        collector.note(
            "dialect.roles", "keys and values have vectors of their own: each is read as a word by itself"
        )
    return collector.finish()
