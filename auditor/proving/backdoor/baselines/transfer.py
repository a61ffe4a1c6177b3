"""A supervised detector asked about an attack that it has not seen."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["leave_one_attack_out"]

Rows = NDArray[np.float64]


def leave_one_attack_out(
    specimens: Rows, twins: Rows, attacks: Sequence[str], clean: Rows, judged: Rows
) -> dict[str, tuple[Rows, Rows, Rows]]:
    """Scores by a logistic regression that was fitted without the attack that it judges.

    It learns specimens of all other attacks against their twins and clean adapters, standardised, both classes weighing
    the same.

    Args:
        specimens: features (N, d).
        twins: of the same, row by row.
        attacks: id of each row's attack, N of them, two kinds or more.
        clean: adapters to learn from, (M, d); none of those that are judged.
        judged: clean adapters to compare with, (K, d).

    Returns:
        Attack to the scores of its specimens, of its twins and of ``judged``; larger is more suspicious.

    Raises:
        ValueError: there is one attack only, so that nothing is left to learn from.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    names = np.array(attacks)
    if len(set(attacks)) < 2:
        raise ValueError("to leave one attack out there have to be two")
    found = {}
    for attack in dict.fromkeys(attacks):
        others, mine = names != attack, names == attack
        rows = np.concatenate([specimens[others], twins[others], clean])
        truth = np.repeat([1, 0], [others.sum(), others.sum() + len(clean)])
        model = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=2000))
        model.fit(rows, truth)
        found[attack] = (
            model.decision_function(specimens[mine]),
            model.decision_function(twins[mine]),
            model.decision_function(judged) if len(judged) else np.zeros(0),
        )
    return found
