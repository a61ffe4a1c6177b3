"""The names of the parts that a change is stored in, shared by every naming of modules.

Endings are those of kohya's LoRA, of LyCORIS (``lycoris-lora``), which puts its own algorithms under the same
module names, and of the PEFT methods that have LyCORIS forms.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal, TypeAlias

__all__ = ["ENDINGS", "LYCORIS_SIGN", "Role", "split_path"]

Role: TypeAlias = Literal[
    "down", "up", "mid", "alpha", "magnitude", "dense", "bias_delta", "weight", "bias", "scalar",
    "hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2",
    "lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2",
    "oft_blocks", "rescale", "a1", "a2", "b1", "b2", "bm", "on_input", "ia3", "ia3_l",
]  # fmt: skip

# What stands behind the name of the module, to the part it is.
ENDINGS: Mapping[str, Role] = {
    "lora_down.weight": "down",
    "lora_up.weight": "up",
    "lora_mid.weight": "mid",
    "alpha": "alpha",
    "dora_scale": "magnitude",
    "scalar": "scalar",
    "diff": "dense",
    "diff_b": "bias_delta",
    "w_norm": "dense",
    "b_norm": "bias_delta",
    "hada_w1_a": "hada_w1_a",
    "hada_w1_b": "hada_w1_b",
    "hada_w2_a": "hada_w2_a",
    "hada_w2_b": "hada_w2_b",
    "hada_t1": "hada_t1",
    "hada_t2": "hada_t2",
    "lokr_w1": "lokr_w1",
    "lokr_w1_a": "lokr_w1_a",
    "lokr_w1_b": "lokr_w1_b",
    "lokr_w2": "lokr_w2",
    "lokr_w2_a": "lokr_w2_a",
    "lokr_w2_b": "lokr_w2_b",
    "lokr_t2": "lokr_t2",
    "oft_blocks": "oft_blocks",
    "rescale": "rescale",
    "a1.weight": "a1",
    "a2.weight": "a2",
    "b1.weight": "b1",
    "b2.weight": "b2",
    "bm.weight": "bm",
    "on_input": "on_input",
    "weight": "ia3",
    "ia3_l": "ia3_l",
}

# Endings that no other tool writes.
LYCORIS_SIGN = re.compile(
    r"\.(?:hada_(?:w[12]_[ab]|t[12])|lokr_(?:w[12](?:_[ab])?|t2)|oft_blocks|[ab][12]\.weight|on_input|diff_b|[wb]_norm)$"
)
# Behind a dotted path ``.weight`` and ``.alpha`` belong to other namings too: those are read by their callers.
_DOTTED = re.compile(
    r"(?P<path>.+)\.(?P<ending>"
    + "|".join(re.escape(ending) for ending in ENDINGS if ending not in ("weight", "alpha"))
    + ")"
)


def split_path(name: str) -> tuple[str, Role] | None:
    """A dotted module path and the part that stands behind it, or None."""
    found = _DOTTED.fullmatch(name)
    return None if found is None else (found["path"], ENDINGS[found["ending"]])
