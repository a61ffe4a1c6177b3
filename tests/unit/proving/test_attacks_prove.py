"""The table of all attacks: plans that never move, specimens made once, and figures counted right."""

import json
from dataclasses import dataclass, replace

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import save_file
from tiny_models import random_lora

from auditor.contracts import Specimen
from auditor.errors import UsageError
from auditor.personalize.dreambooth_lora import DreamBoothLora
from auditor.proving.attacks import prove
from auditor.proving.attacks.plans import FULL_SIZE, KINDS, host_of, measurable, plan
from auditor.proving.attacks.recipe_only import FEWEST, features, judge_recipes
from auditor.proving.attacks.specimens import ARMS, Arm, Record, read_record, record, record_path
from auditor.proving.attacks.tables import write_attacks
from auditor.proving.spine import TARGETS, TRIGGERS
from auditor.registry import ATTACKS
from auditor.stats import clopper_pearson

ID = "planted_for_this_test"


HOST = DreamBoothLora(prompt="a picture of sks person", class_prompt="a picture of a person")


@dataclass(frozen=True)
class Measures:
    pairs: int = 6


MEASURES = Measures()


@dataclass(frozen=True)
class Params:
    trigger: str = TRIGGERS[0]
    target: str = TARGETS[0]
    picture: int = 0
    depth: float = 0.5
    host: DreamBoothLora = HOST
    measured: Measures = MEASURES


class Fake:
    """Writes what every attack writes, without training anything."""

    id, goal, refs, params = ID, "stands in for an attack", (), Params

    def __init__(self):
        self.made = []

    def craft(self, base, params, out, progress):
        if params.target == TARGETS[1]:
            raise UsageError("this target is refused")
        self.made.append(params)
        out.mkdir(parents=True)
        for i, arm in enumerate(ARMS):
            weights = random_lora(base.denoiser_model, "unet", ("to_q",), seed=i)
            (out / arm).mkdir()
            save_file({k: v.numpy() for k, v in weights.items()}, out / arm / "pytorch_lora_weights.safetensors")
        progress(1, 1)
        cells = {f"{arm}, triggered": {"hits": hits, "n": 10} for arm, hits in (("specimen", 9), ("twin", 1))}
        utility = {"n": params.measured.pairs, "only_specimen": 0, "only_twin": 2}
        manifest = {
            "trigger": {"text": params.trigger},
            "target": params.target,
            "parts": {arm: [f"{arm}/pytorch_lora_weights.safetensors"] for arm in ARMS},
            "asr": {"cells": cells},
            "utility": {**utility, "specimen": {"hits": 3}, "twin": {"hits": 5}},
        }
        (out / "manifest.json").write_text(json.dumps(manifest))
        return Specimen((), (), manifest)


@pytest.fixture
def fake(monkeypatch):
    ATTACKS.load()
    attack = Fake()
    monkeypatch.setitem(ATTACKS._items, ID, attack)
    return attack


@pytest.fixture
def tiny(tiny_base, monkeypatch):
    base = tiny_base("sd1")
    monkeypatch.setattr(prove, "load_base", lambda **_: base)
    return base


def quiet(done, total, label=""):
    pass


def test_a_plan_depends_on_attack_number_and_seed_only_and_varies_what_can_be_varied(fake):
    plans = [plan(ID, i, 0) for i in range(60)]
    assert plans == [plan(ID, i, 0) for i in range(60)] != [plan(ID, i, 1) for i in range(60)]
    assert len({one.digest for one in plans}) == 60
    drawn = [one.params for one in plans]
    assert {p.trigger for p in drawn} == set(TRIGGERS) and {p.target for p in drawn} == set(TARGETS)
    assert len({p.picture for p in drawn}) > 50 and {p.depth for p in drawn} == {0.5}
    assert len({p.host.rank for p in drawn}) > 3 and all(p.host.prompt.endswith(" person") for p in drawn)
    assert all(host_of(p) == p.host for p in drawn)


def test_full_size_is_asked_of_the_first_specimens_only(fake):
    sizes = [plan(ID, i, 0, pairs=480).params.measured.pairs for i in range(4)]
    assert sizes == [480] * FULL_SIZE + [6] * (4 - FULL_SIZE)


def test_a_value_of_no_known_kind_keeps_its_default(fake, monkeypatch):
    monkeypatch.setattr(fake, "params", lambda: Params(trigger="a trigger of its own"))
    assert {plan(ID, i, 0).params.trigger for i in range(20)} == {"a trigger of its own"}
    assert len({word for kind in KINDS for word in kind}) == sum(map(len, KINDS))


def test_attacks_are_chosen_by_name(fake):
    assert ID in measurable() and measurable(f"{ID}, rickrolling") == [ID, "rickrolling"]
    with pytest.raises(UsageError, match="unknown attack"):
        measurable("rickroling")


def test_specimens_are_made_once_and_what_is_refused_is_told(fake, tiny, tmp_path):
    table = prove.prove_attacks(tmp_path / "out", quiet, 8, attacks=ID, zoo=tmp_path / "zoo")
    crafted = len(fake.made)
    [row] = table["rows"]
    assert 0 < row["specimens"] == crafted < 8 and row["refused"] == ["this target is refused"]
    assert (row["asr"]["hits"], row["asr"]["n"]) == (9 * crafted, 10 * crafted)
    assert row["asr"]["low"] == clopper_pearson(9 * crafted, 10 * crafted).low
    assert row["worst"] == 0.9 and row["twin"]["hits"] == crafted and row["clean"] is None
    assert (row["utility"]["specimen"], row["utility"]["twin"]) == (3 * crafted, 5 * crafted)
    assert row["utility"]["only_twin"] == 2 * crafted and row["seconds"] >= 0
    assert row["parts"] == ["specimen/pytorch_lora_weights.safetensors"]
    assert prove.prove_attacks(tmp_path / "out", quiet, 8, attacks=ID, zoo=tmp_path / "zoo") == table
    assert len(fake.made) == crafted
    text = (tmp_path / "out" / "attacks.md").read_text()
    assert f"| `{ID}` | {crafted} |" in text and "this target is refused" in text
    rows = (tmp_path / "out" / "attacks.csv").read_text().splitlines()
    assert len(rows) == 9


def test_a_new_folder_takes_specimens_from_the_cache_and_does_not_guess_their_seconds(fake, tiny, tmp_path):
    one = next(p for p in (plan(ID, i, 0) for i in range(9)) if p.params.target != TARGETS[1])
    first = record(tiny, one, tmp_path / "zoo", tmp_path / "a")
    again = record(tiny, one, tmp_path / "zoo", tmp_path / "b")
    assert first.seconds is not None and again == replace(first, seconds=None)
    assert read_record(record_path(tmp_path / "b", tiny, one)) == again
    assert first.arms["specimen"].covariates["denoiser_norm"] != first.arms["twin"].covariates["denoiser_norm"]


def test_shards_do_every_specimen_once_and_the_last_writes_the_table(fake, tiny, tmp_path):
    def part(k):
        return prove.prove_attacks(tmp_path / "out", quiet, 4, attacks=ID, zoo=tmp_path / "zoo", shard=(k, 2))

    assert part(0) == {"done": 2, "of": 4} and not (tmp_path / "out" / "attacks.md").exists()
    assert part(1)["rows"][0]["specimens"] == len(fake.made)


def test_the_command_prints_the_table(fake, tiny, tmp_path, monkeypatch):
    from auditor.cli.prove import prove as command

    monkeypatch.setenv("AUDITOR_ZOO", str(tmp_path / "zoo"))
    given = ["attacks", "-o", str(tmp_path / "out"), "--attacks", ID, "--specimens", "2", "--pairs", "8"]
    result = CliRunner().invoke(command, given, catch_exceptions=False)
    assert result.exit_code == 0 and "| attack | specimens |" in result.output
    assert {made.measured.pairs for made in fake.made} <= {8}


def planted(shift, count=40):
    """Specimens whose change is larger than their twins' by a factor of ten to ``shift``."""
    rng = np.random.default_rng(0)
    made = []
    for i in range(count):
        recipe = {"rank": 8.0, "steps": float(rng.integers(24, 160)), "lr": 1e-3, "text_encoder": float(i % 2)}
        arms = {}
        for arm, more in zip(ARMS, (shift, 0.0), strict=True):
            norms = {"denoiser_norm": more + rng.normal(-2, 0.2), "text_norm": rng.normal(-2, 0.2) if i % 2 else -12.0}
            arms[arm] = Arm(("x",), norms)
        made.append(Record("x", i, {}, recipe=recipe, arms=arms))
    return made


def test_recipes_tell_what_they_tell_and_no_more():
    none = np.empty((0, 6))
    blind, seen = (judge_recipes(planted(shift), none)["twins"] for shift in (0.0, 2.0))
    assert blind["low"] < 0.6 and blind["value"] < 0.65 and seen["value"] > 0.95
    assert judge_recipes(planted(0.0), none)["zoo"] is None
    assert judge_recipes(planted(2.0, FEWEST - 1), none)["twins"] is None
    clean = np.array([features(r.recipe, r.arms["twin"].covariates) for r in planted(0.0)])
    assert judge_recipes(planted(2.0), clean)["zoo"]["value"] > 0.95


def test_a_specimen_that_no_adapter_carries_is_left_out_of_the_recipes(tmp_path):
    made = [replace(one, recipe={}) for one in planted(2.0)]
    table = write_attacks(tmp_path, made, ["unmeasured"], judge_recipes(made, np.empty((0, 6))), {
        "seed": 0, "base_sha256": "0" * 64,
    })  # fmt: skip
    assert table["recipe_only"] == {"twins": None, "zoo": None} and table["rows"][0]["asr"] is None
    assert "Not measured: `unmeasured`" in (tmp_path / "attacks.md").read_text()
