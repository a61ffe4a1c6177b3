"""Families of text-to-image models, one module each: how prompts, latents and noise levels reach the denoiser."""

from __future__ import annotations

from auditor.pipeline.families.family import Conditioning, Encoded, Family
from auditor.pipeline.families.flux import FLUX
from auditor.pipeline.families.sd import SD
from auditor.pipeline.families.sd3 import SD3
from auditor.pipeline.families.sdxl import SDXL

__all__ = ["FAMILIES", "Conditioning", "Encoded", "Family"]

FAMILIES: dict[str, Family] = {family.pipeline: family for family in (SD, SDXL, SD3, FLUX)}
"""Family by the pipeline class that ``model_index.json`` names."""
