"""Distances from clean adapters: what a recipe accounts for is out of them, and nobody is judged by itself."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from auditor.banks import BankAdapter, Recipe
from auditor.banks.distance import FARTHEST, distances_left_out, fit_distance, shrunken_correlation

NAMES = ("a.one", "a.two", "b.one")
MIX = np.array([[1.0, 0.8, 0.0], [0.0, 0.6, 0.0], [0.0, 0.0, 1.0]])


def adapters(count=160, seed=0, slope=3.0):
    rng = np.random.default_rng(seed)
    norms = rng.uniform(-3, -1, count)
    rows = slope * norms[:, None] + rng.standard_normal((count, 3)) @ MIX
    return [
        BankAdapter(
            name=f"{i:03d}", split="fit" if i % 2 else "certify",
            recipe=Recipe(method="m", rank=4, steps=0, lr=0, extra={"norm": float(norms[i]), "kind": "x"}),
            scores=dict(zip(NAMES, map(float, rows[i]), strict=True)),
        )
        for i in range(count)
    ]  # fmt: skip


def fitted(members):
    return fit_distance(members, NAMES, {"norm": None}, ("kind",))


def test_what_a_recipe_accounts_for_is_no_distance():
    distance = fitted(adapters())
    for norm in (-3.0, -2.0, -1.0):
        expected = {name: 3.0 * norm for name in NAMES}
        rests = distance.rests(expected, {"norm": norm, "kind": "x"})
        assert distance.of(rests) < 1
        assert distance.of(distance.rests(expected | {"b.one": 3 * norm + 5}, {"norm": norm, "kind": "x"})) > 4


def test_what_goes_against_how_features_go_together_is_further_out():
    distance = fitted(adapters())
    along, against = ({"a.one": 2.0, "a.two": 2.0 * sign, "b.one": 0.0} for sign in (1, -1))
    assert distance.of(against) > 1.3 * distance.of(along)
    table = np.array([[r[n] for n in NAMES] for r in (along, against)])
    for row, rests in zip(table, (along, against), strict=True):
        assert distance.of(rests) == pytest.approx(np.sqrt(row @ distance.precision @ row))


def test_other_splits_are_not_looked_at():
    members = adapters()
    shifted = [
        m.model_copy(update={"scores": {n: v + 99 for n, v in m.scores.items()}}) if m.split != "fit" else m
        for m in members
    ]
    one, other = fitted(members), fitted(shifted)
    assert one.adjustments == other.adjustments
    np.testing.assert_array_equal(one.precision, other.precision)


def test_features_that_are_rare_or_missing_do_not_count():
    members = [
        m.model_copy(update={"scores": m.scores | ({"c.rare": 1.0} if i < 12 else {})})
        for i, m in enumerate(adapters())
    ]
    distance = fit_distance(members, (*NAMES, "c.rare"), {"norm": None})
    assert set(distance.adjustments) == set(NAMES)
    rests = distance.rests({"a.one": 0.0, "c.rare": 7.0}, {"norm": -2.0})
    assert rests.keys() == {"a.one"}
    assert distance.of({}) == 0.0


@given(st.floats(allow_nan=False, allow_infinity=False, width=32))
def test_one_feature_alone_says_so_much_and_no_more(value):
    rests = fitted(adapters(60)).rests({"b.one": value}, {"norm": -2.0, "kind": "x"})
    assert abs(rests["b.one"]) <= FARTHEST


def test_an_adapter_of_the_fit_split_is_judged_by_the_others():
    members = adapters(60)
    found = distances_left_out(members, NAMES, {"norm": None}, ("kind",))
    whole = fitted(members)
    for member in members:
        by = whole if member.split != "fit" else fitted([m for m in members if m is not member])
        rests = by.rests(member.scores, {"norm": member.covariate("norm"), "kind": "x"})
        assert found[member.name] == by.of(rests)
    inside, outside = (
        np.mean([found[m.name] for m in members if (m.split == "fit") == fit]) for fit in (True, False)
    )
    assert inside == pytest.approx(outside, rel=0.35)


@settings(max_examples=30, deadline=None)
@given(n=st.integers(2, 40), d=st.integers(1, 12), seed=st.integers(0, 2**31))
def test_shrinkage_is_that_of_the_reference(n, d, seed):
    from sklearn.covariance import ledoit_wolf

    rows = np.random.default_rng(seed).standard_normal((n, d)) * np.arange(1, d + 1)
    expected, _ = ledoit_wolf(rows, assume_centered=True)
    found = shrunken_correlation(rows)
    np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-10)
    assert np.linalg.eigvalsh(found).min() > 0


def test_nothing_to_learn_from_is_the_identity():
    np.testing.assert_array_equal(shrunken_correlation(np.zeros((5, 3))), np.eye(3))
