"""Several probes judged as one: brute force, a level that holds, and what one probe alone would have said."""

from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from auditor.banks import BankAdapter, Pool, Recipe, build_bank, fit_adjustment, pools_of, split_of
from auditor.contracts import Probe, Stage
from auditor.engine import build_plan
from auditor.policy import Policy
from auditor.registry import Registry

BASE = "b" * 64
NORM = {"norm": None}


def probe(name):
    return Probe(
        id=f"backdoor.{name}", version=1, goal="g", null="n", needs=frozenset(), stage=Stage.STEP,
        function=lambda *_: iter(()), bank=name,
    )  # fmt: skip


def bank(name, scores, norms, left_out=(), adjusted=True, prefix="clean"):
    members = [
        BankAdapter(
            name=f"{prefix}-{i:04d}", split=split_of(i), scores={"score": float(score)},
            recipe=Recipe(method="m", rank=4, steps=1, lr=1.0, extra={"norm": float(norm)}),
        )
        for i, (score, norm) in enumerate(zip(scores, norms, strict=True))
        if i not in left_out
    ]  # fmt: skip
    return build_bank(
        id=f"{name}@1", probe=probe(name), base_sha256=BASE, score="score", adapters=members, alpha=0.05,
        adjustment=fit_adjustment(members, "score", NORM) if adjusted else None,
    )  # fmt: skip


def drawn(rng, n, probes=3):
    """Correlated scores of clean adapters, on scales of their own, each with a share of the norm in it."""
    norms = rng.normal(size=n)
    common = rng.normal(size=n)
    scores = [10.0**k * (norms + 0.5 * common + rng.normal(size=n)) for k in range(probes)]
    return scores, norms


def calibrate(bank):
    return [a for a in bank.adapters if a.split == "calibrate"]


def test_p_values_are_those_of_the_worst_probe_counted_by_hand():
    scores, norms = drawn(np.random.default_rng(0), 400)
    named = enumerate(zip("abc", scores, strict=True))
    made = [bank(name, s, norms, left_out=range(k, 400, 97)) for k, (name, s) in named]
    pool = Pool(made)
    names = {a.name for each in made for a in calibrate(each)}
    worst = [
        max(b.judged(a.scores["score"], a.recipe.extra) for b in made for a in calibrate(b) if a.name == name)
        for name in names
    ]
    assert pool.size == len(names)
    for rest in (-1.0, 0.5, 2.0, 9.0):
        assert pool.p_value(rest) == pytest.approx((1 + sum(w >= rest for w in worst)) / (1 + len(names)))
    assert pool.p_value(9.0) == pool.p_floor == 1 / (pool.size + 1)


def test_the_level_holds_for_all_probes_together_and_is_not_split():
    alarms, split, trials, alpha = 0, 0, 100, 0.1
    rng = np.random.default_rng(5)
    for _ in range(trials):
        scores, norms = drawn(rng, 101)
        made = [bank(name, s[:100], norms[:100]) for name, s in zip("abc", scores, strict=True)]
        pool = Pool(made)
        covariates = {"norm": norms[100]}
        rests = [b.judged(s[100], covariates) for b, s in zip(made, scores, strict=True)]
        alarms += any(pool.p_value(rest) <= alpha for rest in rests)
        split += any(b.p_value(s[100], covariates) <= alpha / 3 for b, s in zip(made, scores, strict=True))
    # One-sided: more alarms than this happen with probability 1e-3 if the rate is alpha.
    assert alarms <= binom.ppf(1 - 1e-3, trials, alpha)
    assert alarms >= split


@cache
def three():
    scores, norms = drawn(np.random.default_rng(1), 200)
    made = [bank(name, s, norms) for name, s in zip("abc", scores, strict=True)]
    return made, Pool(made)


@given(st.floats(-5, 5))
def test_a_pooled_p_value_is_never_below_the_probes_own(rest):
    made, pool = three()
    own = min((1 + sum(r >= rest for r in b.judged_by_name("calibrate").values())) / (1 + b.size) for b in made)
    assert pool.p_value(rest) >= own


def test_banks_of_other_adapters_or_of_scores_with_a_unit_are_not_pooled():
    scores, norms = drawn(np.random.default_rng(2), 200, probes=2)
    a, b = (bank(name, s, norms) for name, s in zip("ab", scores, strict=True))
    other = bank("c", scores[0], norms, prefix="other")
    plain = bank("d", scores[1], norms, adjusted=False)
    pools = pools_of({"backdoor.a": a, "backdoor.c": other, "backdoor.b": b, "backdoor.d": plain})
    assert set(pools) == {"backdoor.a", "backdoor.b"}
    assert pools["backdoor.a"] is pools["backdoor.b"]


def test_probes_judged_as_one_share_a_part_of_the_level_and_others_have_their_own():
    scores, norms = drawn(np.random.default_rng(3), 200, probes=2)
    found = {f"backdoor.{name}": bank(name, s, norms) for name, s in zip("ab", scores, strict=True)}
    known = Registry("probe")
    known._loaded = True
    for name in "abc":
        known.add(f"backdoor.{name}", probe(name))
    policy = Policy(name="p", required=("backdoor.*",), alpha=0.02, split={"backdoor": 1})
    plan = build_plan(
        ["backdoor.*"], policy=policy, base_sha256=BASE, registry=known, banks=lambda p, *_: found.get(p.id)
    )
    assert {node.probe.id: node.alpha for node in plan.nodes} == dict.fromkeys(known.names(), 0.01)
    assert set(plan.pools) == {"backdoor.a", "backdoor.b"}
    assert [node.probe.id for node in plan.alone("backdoor")] == ["backdoor.c"]


def test_alarms_of_the_certify_split_are_of_any_probe():
    scores, norms = drawn(np.random.default_rng(4), 400)
    made = [bank(name, s, norms) for name, s in zip("abc", scores, strict=True)]
    pool = Pool(made)
    alarms = pool.alarms(0.05)
    assert set(alarms) == {a.name for a in made[0].adapters if a.split == "certify"}
    for name, alarm in alarms.items():
        rests = [b.judged_by_name("certify")[name] for b in made]
        assert alarm == any(pool.p_value(rest) <= 0.05 for rest in rests)
