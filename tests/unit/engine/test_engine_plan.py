from dataclasses import dataclass

import pytest
from engine_world import gives, make_probe, policy, registry
from hypothesis import given
from hypothesis import strategies as st

from auditor.banks import BankData
from auditor.contracts import Stage
from auditor.engine import build_plan, derive_seed
from auditor.errors import UsageError


@dataclass(frozen=True)
class Tuned:
    levels: tuple[float, ...] = (0.1, 0.2)
    steps: int = 12


def probe(id, consumes=(), stage=Stage.FILE, **rest):
    return make_probe(id, gives(), consumes=tuple(consumes), stage=stage, **rest)


def ids(plan):
    return [node.probe.id for node in plan.nodes]


def test_probes_run_by_stage_and_after_what_they_consume():
    known = registry(
        probe("z.file"),
        probe("a.step", stage=Stage.STEP),
        probe("b.weights", consumes=["a.step"], stage=Stage.WEIGHTS),
        probe("c.file", consumes=["z.file"]),
    )
    assert ids(build_plan(None, policy=policy(), registry=known)) == [
        "z.file",
        "c.file",
        "a.step",
        "b.weights",
    ]


@given(st.permutations(["a.1", "a.2", "a.3", "a.4"]), st.data())
def test_order_does_not_depend_on_the_selection_and_holds_every_edge(names, data):
    edges = {n: data.draw(st.sets(st.sampled_from(sorted(names)[:i] or ["a.1"]))) - {n} if i else set()
             for i, n in enumerate(sorted(names))}  # fmt: skip
    known = registry(*(probe(n, sorted(edges[n]), data.draw(st.sampled_from(Stage))) for n in sorted(names)))
    order = ids(build_plan(names, policy=policy(), registry=known))
    assert order == ids(build_plan(sorted(names), policy=policy(), registry=known))
    assert all(order.index(before) < order.index(after) for after in names for before in edges[after])


def test_consumed_probes_are_added():
    known = registry(probe("a.one"), probe("b.two", ["a.one"]))
    assert ids(build_plan(["b.two"], policy=policy(), registry=known)) == ["a.one", "b.two"]


def test_required_probes_are_added_to_the_policys_own_list():
    known = registry(probe("a.one"), probe("b.two"), probe("c.three"))
    plan = build_plan(None, policy=policy(["b.two"], probes=("a.*",)), registry=known)
    assert ids(plan) == ["a.one", "b.two"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["backdoor.vocabulary_shfit"], "did you mean 'backdoor.vocabulary_shift'"),
        (["watermark.*"], "unknown probe 'watermark.\\*'"),
        ([], "plan is empty"),
    ],
)
def test_unknown_probes_are_named_with_the_closest_one(names, message):
    with pytest.raises(UsageError, match=message):
        build_plan(names, policy=policy(), registry=registry(probe("backdoor.vocabulary_shift")))


def test_a_policy_that_requires_an_unknown_probe_is_refused_before_anything_runs():
    with pytest.raises(
        UsageError, match=r"policy 'test' asks for an unknown probe 'a\.onne'; did you mean 'a\.one'"
    ):
        build_plan(["a.one"], policy=policy(["a.onne"]), registry=registry(probe("a.one")))


def test_cycles_are_refused_by_name():
    known = registry(probe("a.one", ["b.two"]), probe("b.two", ["a.one"]), probe("c.free"))
    with pytest.raises(UsageError, match=r"circle: a\.one, b\.two"):
        build_plan(None, policy=policy(), registry=known)


def test_parameters_are_overridden_checked_and_recorded():
    known = registry(probe("a.one", params=Tuned))
    plan = build_plan(
        None, policy=policy(), params={"a.one": {"levels": [0.5], "steps": "3"}}, registry=known
    )
    assert plan.nodes[0].params == Tuned(levels=(0.5,), steps=3)
    assert plan.document.probes[0].params == {"levels": [0.5], "steps": 3}


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"a.one": {"stepps": 3}}, "no parameter 'stepps'; did you mean 'steps'"),
        ({"a.one": {"steps": "many"}}, "parameter 'steps' of probe a.one"),
        ({"a.onn": {}}, "not planned; did you mean 'a.one'"),
    ],
)
def test_wrong_parameters_are_named(params, message):
    with pytest.raises(UsageError, match=message):
        build_plan(None, policy=policy(), params=params, registry=registry(probe("a.one", params=Tuned)))


@pytest.mark.parametrize(
    "wrong", [{"alpha": 0.0}, {"alpha": 1.0}, {"seed": -1}, {"seed": 2**63}, {"budget": 0.0}]
)
def test_values_out_of_range_are_usage_errors(wrong):
    with pytest.raises(UsageError):
        build_plan(None, policy=policy(), registry=registry(probe("a.one")), **wrong)


def test_alpha_is_split_over_planned_families_and_then_over_probes():
    step = {"stage": Stage.STEP}
    known = registry(
        probe("backdoor.a", **step), probe("backdoor.b", **step), probe("x.c", **step), probe("static.d")
    )
    rules = policy(alpha=0.04, split={"backdoor": 3, "other": 1, "absent": 5, "static": 0})
    plan = build_plan(None, policy=rules, registry=known)
    levels = {node.probe.id: node.alpha for node in plan.nodes}
    assert levels == pytest.approx({"backdoor.a": 0.015, "backdoor.b": 0.015, "x.c": 0.01, "static.d": 0.0})
    assert sum(plan.shares.values()) <= 0.04 + 1e-15


def test_a_family_of_file_rules_takes_no_alpha_unless_it_is_named():
    plan = build_plan(
        None, policy=policy(), registry=registry(probe("static.d"), probe("a.b", stage=Stage.STEP))
    )
    assert set(plan.shares) == {"a"}


def test_banks_are_looked_up_for_probes_that_name_one_and_recorded():
    asked = []

    def banks(probe, base, params) -> BankData | None:
        asked.append((probe.id, base))
        return None

    known = registry(probe("a.one", bank="one"), probe("a.two"))
    build_plan(None, policy=policy(), registry=known, base_sha256="b" * 64, banks=banks)
    assert asked == [("a.one", "b" * 64)]


def test_seeds_depend_on_every_name_and_its_type():
    seeds = [
        derive_seed(0, "p", "a", "b"), derive_seed(0, "p", "ab"), derive_seed(0, "p", 1),
        derive_seed(0, "p", "1"), derive_seed(1, "p", 1), derive_seed(0, "q", 1), derive_seed(0, "p"),
    ]  # fmt: skip
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derive_seed(0, "p", "a") == derive_seed(0, "p", "a")
