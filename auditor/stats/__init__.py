"""Intervals, exact and resampling tests, calibration, multiplicity, sequential tests and power.

Needs numpy only to be imported; scipy is imported by the functions that need it, on their first call.
"""

from __future__ import annotations

from auditor.stats._common import (
    SignificanceResult,
    StatisticsError,
)
from auditor.stats.bootstrap import (
    bootstrap,
    paired_bootstrap,
)
from auditor.stats.conformal import (
    MondrianP,
    Support,
    bank_size_for,
    conformal_p,
    fpr_given_bank,
    in_support,
    mondrian_p,
    p_floor,
    split_conformal_threshold,
)
from auditor.stats.confusion import (
    CorrectedRates,
    correct_rates,
    corrected_difference,
    project_to_simplex,
    rogan_gladen,
    rogan_gladen_interval,
)
from auditor.stats.detection import (
    OperatingPoint,
    auroc,
    auroc_difference,
    auroc_interval,
    rates_at,
    tpr_at_fpr,
)
from auditor.stats.intervals import (
    Interval,
    clopper_pearson,
    wilson,
)
from auditor.stats.median import (
    median_interval,
)
from auditor.stats.multiplicity import (
    FamilyDecision,
    alpha_split,
    benjamini_hochberg,
    bonferroni,
    decide_families,
    holm,
)
from auditor.stats.paired import (
    mcnemar_exact,
    mcnemar_outcomes,
    paired_mean_difference,
    sign_flip_test,
    wilcoxon_signed_rank,
)
from auditor.stats.permutation import (
    max_t_adjusted,
    max_t_sign_flip,
    max_t_two_sample,
    permutation_test,
)
from auditor.stats.power import (
    BinomialPower,
    binomial_mde,
    binomial_power,
    binomial_sample_size,
    certify_allowed,
    certify_probability,
    certify_sample_size,
    paired_mean_mde,
    paired_mean_power,
    zero_event_upper,
)
from auditor.stats.robust import (
    median_and_deviation,
    robust_z,
)
from auditor.stats.sequential import (
    ConfidenceSequence,
    EProcess,
    anytime_p,
    betting_confidence_sequence,
    betting_e_process,
)

__all__ = [
    "BinomialPower",
    "ConfidenceSequence",
    "CorrectedRates",
    "EProcess",
    "FamilyDecision",
    "Interval",
    "MondrianP",
    "OperatingPoint",
    "SignificanceResult",
    "StatisticsError",
    "Support",
    "alpha_split",
    "anytime_p",
    "auroc",
    "auroc_difference",
    "auroc_interval",
    "bank_size_for",
    "benjamini_hochberg",
    "betting_confidence_sequence",
    "betting_e_process",
    "binomial_mde",
    "binomial_power",
    "binomial_sample_size",
    "bonferroni",
    "bootstrap",
    "certify_allowed",
    "certify_probability",
    "certify_sample_size",
    "clopper_pearson",
    "conformal_p",
    "correct_rates",
    "corrected_difference",
    "decide_families",
    "fpr_given_bank",
    "holm",
    "in_support",
    "max_t_adjusted",
    "max_t_sign_flip",
    "max_t_two_sample",
    "mcnemar_exact",
    "mcnemar_outcomes",
    "median_and_deviation",
    "median_interval",
    "mondrian_p",
    "p_floor",
    "paired_bootstrap",
    "paired_mean_difference",
    "paired_mean_mde",
    "paired_mean_power",
    "permutation_test",
    "project_to_simplex",
    "rates_at",
    "robust_z",
    "rogan_gladen",
    "rogan_gladen_interval",
    "sign_flip_test",
    "split_conformal_threshold",
    "tpr_at_fpr",
    "wilcoxon_signed_rank",
    "wilson",
    "zero_event_upper",
]
