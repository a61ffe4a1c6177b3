"""The zoo of hostile files: every bypass on record, generated, with what each stands for."""

from __future__ import annotations

from auditor.proving.scan.hostile_archives import ARCHIVES
from auditor.proving.scan.hostile_bombs import BOMBS
from auditor.proving.scan.hostile_folders import FOLDERS
from auditor.proving.scan.hostile_imports import IMPORTS
from auditor.proving.scan.hostile_pickles import PICKLES
from auditor.proving.scan.hostile_tensors import TENSOR_FILES
from auditor.proving.scan.specimen import Specimen

__all__ = ["HOSTILE"]

HOSTILE: tuple[Specimen, ...] = (*PICKLES, *IMPORTS, *ARCHIVES, *TENSOR_FILES, *FOLDERS, *BOMBS)
"""All hostile specimens, by theme."""
