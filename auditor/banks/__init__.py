"""Banks of clean score vectors: what adapters without a backdoor score on a probe, on one base.

A bank is one JSON file. :func:`bank_for` finds the one that fits a probe, its parameters and a base;
``BankData.p_value`` judges a score by it.
"""

from __future__ import annotations

from auditor.banks.adjust import Adjustment, fit_adjustment
from auditor.banks.build import build_bank, write_bank
from auditor.banks.find import bank_directories, bank_for, load_bank
from auditor.banks.model import BankAdapter, BankData, RealisedFpr, Recipe
from auditor.banks.params import params_document, params_sha256
from auditor.banks.pool import Pool, pools_of
from auditor.banks.split import SPLIT_PERIOD, SPLITS, Split, adapters_needed, split_of, split_of_recipe

__all__ = [
    "SPLITS",
    "SPLIT_PERIOD",
    "Adjustment",
    "BankAdapter",
    "BankData",
    "RealisedFpr",
    "Pool",
    "Recipe",
    "Split",
    "adapters_needed",
    "bank_directories",
    "bank_for",
    "build_bank",
    "fit_adjustment",
    "load_bank",
    "params_document",
    "params_sha256",
    "pools_of",
    "split_of",
    "split_of_recipe",
    "write_bank",
]
