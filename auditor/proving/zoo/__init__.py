"""The zoo of clean adapters on the embedded base, over all methods: what every probe is calibrated and certified on."""

from __future__ import annotations

from auditor.proving.zoo.build import batches, home_of, make, zoo_folder
from auditor.proving.zoo.members import IDENTIFIERS, SHARES, Member, clean_lora, draw_member
from auditor.proving.zoo.subjects import Kind, Pictures, images_of, prompts_of, scenes_of

__all__ = [
    "IDENTIFIERS", "SHARES", "Kind", "Member", "Pictures", "batches", "clean_lora", "draw_member", "home_of",
    "images_of", "make", "prompts_of", "scenes_of", "zoo_folder",
]  # fmt: skip
