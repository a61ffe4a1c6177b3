"""What recipes account for: the regression against scikit-learn's, and p-values that hold with it."""

import hashlib
import json
from collections import Counter

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from auditor.banks import (
    BankAdapter,
    BankData,
    Recipe,
    build_bank,
    fit_adjustment,
    load_bank,
    split_of_recipe,
    write_bank,
)
from auditor.banks.adjust import BORROWED, PENALTY
from auditor.contracts import Probe, Stage
from auditor.errors import UsageError

PROBE = Probe(
    id="backdoor.x", version=1, goal="g", null="n", needs=frozenset(), stage=Stage.STEP,
    function=lambda *_: iter(()), bank="x",
)  # fmt: skip
KINDS = ("low_rank", "kronecker", "full")


def digest(i):
    return hashlib.sha256(str(i).encode()).hexdigest()


def adapters(n=400, seed=0, slope=1.5):
    rng = np.random.default_rng(seed)
    made = []
    for i in range(n):
        kind = KINDS[int(rng.integers(3))]
        norm = float(rng.uniform(-3, -1))
        text = float(rng.uniform(-3, -1)) if rng.random() < 0.5 else -12.0
        score = float(np.exp(slope * norm + KINDS.index(kind) + 0.3 * rng.normal()))
        extra = {"norm": norm, "text": text, "kind": kind}
        recipe = Recipe(method="m", rank=4, steps=10, lr=1e-3, extra=extra)
        split = split_of_recipe(digest(i))
        made.append(BankAdapter(name=f"a{i:03d}", split=split, recipe=recipe, scores={"score": score}))
    return made


NUMBERS = {"norm": None, "text": -12.0}


def test_the_regression_is_ridge_on_standardised_columns_of_the_fit_split():
    made = adapters()
    ours = fit_adjustment(made, "score", NUMBERS, ("kind",))
    fit = [a for a in made if a.split == "fit"]
    y = np.log(np.array([a.scores["score"] for a in fit]) + ours.offset)
    x = np.array([[term.column(a.covariate(term.name)) for term in ours.terms] for a in fit])
    assert abs(x.mean(0)).max() < 1e-9
    reference = Ridge(alpha=PENALTY).fit(x, y)
    assert [t.weight for t in ours.terms] == pytest.approx(reference.coef_.tolist(), abs=1e-9)
    assert ours.intercept == pytest.approx(float(reference.intercept_))
    assert ours.r_squared == pytest.approx(reference.score(x, y))
    assert ours.r_squared > 0.8
    one = made[7]
    expected = np.log(one.scores["score"] + ours.offset) - reference.predict(
        np.array([[term.column(one.covariate(term.name)) for term in ours.terms]])
    )
    usual = ours.spreads[one.covariate("kind")]
    assert ours.rest(one.scores["score"], one.recipe.extra) == pytest.approx(float(expected[0]) / usual)


def test_deviations_are_in_units_of_what_is_usual_for_the_kind_drawn_toward_the_whole():
    made = adapters()
    ours = fit_adjustment(made, "score", NUMBERS, ("kind",))
    fit = [a for a in made if a.split == "fit"]
    left = np.array([ours.rest(a.scores["score"], a.recipe.extra) * ours.spreads[a.covariate("kind")] for a in fit])
    assert ours.spread == pytest.approx(left.std())
    for kind in KINDS:
        own = left[[a.covariate("kind") == kind for a in fit]]
        expected = ((np.square(own).sum() + BORROWED * ours.spread**2) / (len(own) + BORROWED)) ** 0.5
        assert ours.spreads[kind] == pytest.approx(expected)
    kindless = {"norm": -2.0, "text": -12.0, "kind": "never seen"}
    assert np.isfinite(ours.rest(0.5, kindless))


def test_nothing_to_measure_is_a_level_of_its_own_and_not_a_very_small_number():
    ours = fit_adjustment(adapters(), "score", NUMBERS, ("kind",))
    text = [term for term in ours.terms if term.name == "text"]
    assert [term.form for term in text] == ["present", "number"]
    assert text[1].column(-12.0) == 0.0
    assert text[0].column(-12.0) < 0 < text[0].column(-2.0)


def test_other_splits_are_not_looked_at():
    made = adapters()
    moved = [a if a.split == "fit" else a.model_copy(update={"scores": {"score": 1e6}}) for a in made]
    assert fit_adjustment(made, "score", NUMBERS) == fit_adjustment(moved, "score", NUMBERS)


def test_negative_scores_are_taken_as_they_are():
    made = [a.model_copy(update={"scores": {"score": -a.scores["score"]}}) for a in adapters()]
    ours = fit_adjustment(made, "score", NUMBERS)
    assert (ours.transform, ours.offset) == ("identity", 0.0)


def test_false_alarms_keep_the_level_in_every_class_where_a_plain_bank_puts_them_all_on_one():
    """Clean adapters whose scores differ by class, over eight zoos: what the adjustment is for."""
    plain, adjusted = Counter(), Counter()
    members = Counter()
    for seed in range(8):
        made = adapters(300, seed)
        given = {"id": "e.x@1", "probe": PROBE, "base_sha256": "b" * 64, "score": "score", "adapters": made}
        adjustment = fit_adjustment(made, "score", NUMBERS, ("kind",))
        for tally, more in ((plain, None), (adjusted, adjustment)):
            for kind, (alarms, n) in build_bank(**given, alpha=0.05, adjustment=more).alarms_by("kind").items():
                tally[kind] += alarms
                members[kind] += n * (more is None)
    assert plain["full"] / members["full"] > 0.1 and plain["low_rank"] == 0
    # Zoos are few, and one calibrate split moves the rate of all its certify split together.
    assert 0.03 < adjusted.total() / members.total() < 0.07
    for kind in KINDS:
        assert 0.02 < adjusted[kind] / members[kind] < 0.09


def test_a_bank_that_compares_by_covariates_wants_them_and_keeps_its_meaning_on_disk(tmp_path):
    made = adapters()
    bank = build_bank(
        id="e.x@1", probe=PROBE, base_sha256="b" * 64, score="score", adapters=made, alpha=0.05,
        adjustment=fit_adjustment(made, "score", NUMBERS, ("kind",)),
    )  # fmt: skip
    again = load_bank(write_bank(bank, tmp_path))
    told = {"norm": -2.0, "text": -12.0, "kind": "full"}
    assert again.p_value(0.5, told) == bank.p_value(0.5, told)
    assert again.p_value(0.5, told) < again.p_value(0.5, told | {"norm": -1.0})
    with pytest.raises(UsageError, match="compares by"):
        again.p_value(0.5)


def test_a_bank_of_the_first_format_keeps_its_hash():
    made = adapters(60)
    bank = build_bank(
        id="e.x@1", probe=PROBE, base_sha256="b" * 64, score="score", adapters=made, alpha=0.05
    )
    document = json.loads(bank.model_dump_json())
    del document["adjustment"]
    old = BankData.model_validate(document)
    assert old.digest() == bank.sha256


def test_too_few_to_fit_is_said():
    with pytest.raises(UsageError, match="10"):
        fit_adjustment(adapters(20), "score", NUMBERS)
