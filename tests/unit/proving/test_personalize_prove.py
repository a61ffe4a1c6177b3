"""Units are done once whatever happens in between, and the table says what the records say."""

import io
import json

import click
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import stats as scipy_stats

from auditor.cli.main import run
from auditor.cli.options import Shard
from auditor.errors import MalformedArtifact
from auditor.proving.counts import write_whole
from auditor.proving.personalize import prove, unit
from auditor.proving.personalize.recipes import RECIPES
from auditor.proving.personalize.sheet import Line, compose, line_of
from auditor.proving.personalize.shelf import kept_pictures, kept_record
from auditor.proving.personalize.tables import interval_of, rows_of, write_tables
from auditor.world.embedded import embedded_folder

embedded = pytest.mark.skipif(
    not (embedded_folder() / "pipeline" / "model_index.json").is_file(),
    reason="the embedded base is not installed",
)


def quiet(done, total, label=""):
    pass


def strip():
    data = io.BytesIO()
    Image.fromarray(np.full((128, 640, 3), 90, np.uint8)).save(data, "PNG")
    return data.getvalue()


def record(method="dreambooth-lora", target="person-1", seed=0, trained=0.5, untrained=0.1, **more):
    return {
        "method": method, "target": target, "kind": RECIPES[method].kind, "seed": seed,
        "trained": {"identity": trained, "image": 0.8, "prompt": 0.9, "drift": 0.2 + trained / 100},
        "untrained": {"identity": untrained, "image": 0.3, "prompt": 1.0, "drift": 0.5},
        "real": {"identity": 0.95, "image": 0.9},
        "cost": {"parameters": 1000, "bytes": 2000, "seconds": 10.0 + seed, "steps": 120, "share": 1.0},
        "recipe": {name: 1 for name in RECIPES[method].changes}, "base_sha256": "0" * 64,
        "captions": ["a picture of sks person", "one", "two"],
    } | more  # fmt: skip


# The folder


def test_what_is_there_is_not_made_again_and_what_failed_is_not_there(tmp_path):
    path, calls = tmp_path / "units" / "a.json", []

    def make():
        calls.append(1)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return {"value": len(calls)}

    with pytest.raises(KeyboardInterrupt):
        kept_record(path, make)
    assert not path.exists()
    assert [kept_record(path, make) for _ in range(3)] == [{"value": 2}] * 3
    assert [each.name for each in path.parent.iterdir()] == ["a.json"]


def test_pictures_are_kept_to_the_bit(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8)
    first = kept_pictures(tmp_path / "a.npy", lambda: pixels)
    again = kept_pictures(tmp_path / "a.npy", lambda: pixels[:0])
    assert np.array_equal(first, pixels)
    assert np.array_equal(again, pixels)


@pytest.mark.parametrize("content", [b"", b"[1]", b"\xff\xfe", b"{"])
def test_a_damaged_record_is_named(tmp_path, content):
    path = write_whole(tmp_path / "bad.json", content)
    with pytest.raises(MalformedArtifact, match=r"'bad\.json' is no record"):
        kept_record(path, dict)
    with pytest.raises(MalformedArtifact, match="holds no pictures"):
        kept_pictures(write_whole(tmp_path / "bad.npy", content), lambda: np.zeros(1))


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 9), st.integers(0, 40))
def test_shards_share_out_every_job_once(count, jobs):
    parts = [range(jobs)[Shard().convert(f"{k}/{count}", None, None)[0] :: count] for k in range(1, count + 1)]
    assert sorted(job for part in parts for job in part) == list(range(jobs))


@pytest.mark.parametrize("text", ["", "1", "0/2", "3/2", "1/0", "a/b", "-1/2", "1/2/3", "1.0/2"])
def test_a_shard_that_is_none_is_refused(text):
    with pytest.raises(click.UsageError, match="is no shard"):
        Shard().convert(text, None, None)


@embedded
def test_two_processes_and_a_third_run_do_every_unit_once(tmp_path, monkeypatch):
    done = []

    def fake(bench, one, progress, path):
        done.append(one.name)
        progress(1, 2, "training")
        write_whole(path, strip())
        return record(one.method, one.target.name, one.seed, 0.5 + 0.1 * one.seed)

    base = prove.load_base(device="cpu")
    monkeypatch.setattr(prove, "load_base", lambda **_: base)
    monkeypatch.setattr(unit, "measured", fake)
    monkeypatch.setattr(prove, "pairs", lambda seeds: [])
    told = []
    methods = "dreambooth-lora,textual-inversion"
    for part in ((0, 2), (1, 2), (0, 1)):
        table = prove.prove_personalize(
            tmp_path, lambda d, t, label="": told.append((d, t)), methods, 2, part
        )
    assert len(done) == len(set(done)) == 2 * 3 * 2
    assert all(0 <= d <= t for d, t in told)
    assert table == json.loads((tmp_path / "personalize.json").read_text())
    assert table["units"] == f"12 of {14 * 3 * 2} done"
    assert {row["group"] for row in table["rows"]} == {"dreambooth-lora", "textual-inversion"}
    assert {row["n"] for row in table["rows"]} == {6}
    for name in ("personalize.png", "sheets/dreambooth-lora.png", "sheets/textual-inversion.png"):
        with Image.open(tmp_path / name) as sheet:
            assert sheet.width == 898
    # Another recipe is another unit: nothing of the old one is taken for it.
    before = len(done)
    monkeypatch.setitem(RECIPES, "dreambooth-lora", RECIPES["sefi"])
    prove.prove_personalize(tmp_path, quiet, "textual-inversion", 1)
    assert len(done) == before


# The table


def test_intervals_are_those_of_an_independent_bootstrap():
    values = np.random.default_rng(3).gamma(2.0, 1.0, 12)
    ours = interval_of(values)
    theirs = scipy_stats.bootstrap((values,), np.mean, n_resamples=4000, random_state=1, method="BCa")
    assert ours.estimate == pytest.approx(values.mean())
    assert ours.n == 12
    width = theirs.confidence_interval.high - theirs.confidence_interval.low
    assert abs(ours.low - theirs.confidence_interval.low) < 0.1 * width
    assert abs(ours.high - theirs.confidence_interval.high) < 0.1 * width


@pytest.mark.parametrize(("values", "said"), [([0.4], "one unit"), ([0.0, 0.0, 0.0], "all units equal")])
def test_units_without_a_spread_have_no_interval(values, said):
    found = interval_of(values)
    assert found.method == f"none: {said}"
    assert found.n == len(values)


def test_rows_are_means_over_units_and_gains_are_paired():
    units = [record(seed=0, trained=0.5, untrained=0.1), record(seed=1, trained=0.7, untrained=0.4)]
    found = {(row.group, row.measure): row for row in rows_of(units)}
    assert found["dreambooth-lora", "identity, trained"].value == pytest.approx(0.6)
    assert found["dreambooth-lora", "identity, untrained"].value == pytest.approx(0.25)
    assert found["dreambooth-lora", "identity, gain"].value == pytest.approx((0.4 + 0.3) / 2)
    assert found["dreambooth-lora", "identity, real"].value == pytest.approx(0.95)
    assert found["dreambooth-lora", "seconds"].value == pytest.approx(10.5)
    assert ("dreambooth-lora", "drift, gain") not in found
    assert ("dreambooth-lora", "style, trained") not in found
    assert {row.n for row in found.values()} == {2}


def test_the_table_shows_what_was_measured_and_no_more(tmp_path):
    units = [record(seed=i, trained=0.5 + 0.1 * i, untrained=0.1) for i in range(3)]
    object_unit = record(target="object-1", seed=9)
    del (
        object_unit["trained"]["identity"],
        object_unit["untrained"]["identity"],
        object_unit["real"]["identity"],
    )
    write_tables(tmp_path, [*units, object_unit], [], {"units": "4 of 126 done"})
    text = (tmp_path / "personalize.md").read_text()
    [line] = [line for line in text.splitlines() if line.startswith("| `dreambooth-lora`")]
    cells = [cell.strip() for cell in line.strip("| ").split("|")]
    assert cells[1].startswith("0.10, **0.60 (")  # identity: people only, gained in every unit
    assert cells[2] == "0.30, 0.80"  # equal in all units: no interval, and nothing said of significance
    assert cells[-4:] == ["1,000", "2.0 kB", "11", "4"] or cells[-4:-1] == ["1,000", "2.0 kB", "13"]
    assert "Styles" not in text
    assert "- units: 4 of 126 done" in text
    assert (tmp_path / "personalize.csv").read_text().count("\n") == 1 + len(rows_of([*units, object_unit]))


def test_two_concepts_have_a_table_of_their_own(tmp_path):
    arms = prove_arms()
    units = [{arm: {"cp": 0.1 * i, "both": 1.0, "ti": 0.5, "gap": 0.2} for arm in arms} for i in range(3)]
    write_tables(tmp_path, [record()], units, {})
    text = (tmp_path / "personalize.md").read_text()
    assert "Two concepts in one picture" in text
    assert all(f"| {arm} | 0.10" in text for arm in arms)


def prove_arms():
    from auditor.proving.personalize.concepts import ARMS

    return ARMS


# The sheet


def test_a_sheet_shows_the_pictures_it_was_given():
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, (2, 5, 3), np.uint8)
    tiles = [tuple(np.broadcast_to(colour, (128, 128, 3)) for colour in row) for row in colours]
    sheet = Image.open(
        io.BytesIO(compose([Line(f"method-{i}", "s", t, ("a", "b", "c")) for i, t in enumerate(tiles)]))
    )
    pixels = np.asarray(sheet.convert("RGB")).astype(int)
    for row in range(2):
        for column in range(5):
            middle = pixels[26 + 178 * row + 64, 210 + 136 * column + 64]
            assert np.abs(middle - colours[row, column].astype(int)).max() <= 12


def test_a_line_is_cut_from_its_strip(tmp_path):
    path = write_whole(tmp_path / "a.png", strip())
    line = line_of(record(), path)
    assert [tile.shape for tile in line.tiles] == [(128, 128, 3)] * 5
    for name, content in (("none.png", None), ("bad.png", b"no picture")):
        bad = tmp_path / name
        if content:
            bad.write_bytes(content)
        with pytest.raises(MalformedArtifact, match="no strip of pictures"):
            line_of(record(), bad)


def test_letters_that_no_font_has_do_not_break_a_sheet():
    tile = np.zeros((128, 128, 3), np.uint8)
    assert compose([Line("\u202e模\x00", "x", (tile,) * 5, ("\u0430" * 500,) * 3)]).startswith(b"\x89PNG")


# The command


@pytest.mark.parametrize("words", [["--methods", "dreambooth-lra"], ["--shard", "2/1"], ["--seeds", "0"]])
def test_a_wrong_word_is_a_usage_error(tmp_path, words, capsys):
    assert run(["prove", "personalize", "-o", str(tmp_path / "out"), *words]) == 64
    assert capsys.readouterr().err.strip()
    assert not (tmp_path / "out").exists()


@embedded
@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("method", RECIPES)
def test_every_method_is_trained_saved_opened_and_measured(tmp_path, monkeypatch, method):
    from dataclasses import replace

    recipe = RECIPES[method]
    few = {"steps": 3} | ({"refine": 1} if "refine" in recipe.changes else {})
    monkeypatch.setitem(RECIPES, method, replace(recipe, changes={**recipe.changes, **few}))
    monkeypatch.setattr(prove, "pairs", lambda seeds: [])
    monkeypatch.setattr(prove, "units_of", lambda methods, seeds, of=prove.units_of: of([method], 1)[:1])
    table = prove.prove_personalize(tmp_path, quiet, method, 1)
    found = {row["measure"]: row["value"] for row in table["rows"]}
    assert {"prompt, trained", "prompt, untrained", "image, trained", "drift, trained"} <= set(found)
    assert found["parameters"] > 0
    assert found["bytes"] > 0
    assert -1 <= found["image, trained"] <= 1
    assert 0 <= found["prompt, trained"] <= 1
    words_only = method in ("textual-inversion", "cross-initialization", "prospect", "sefi", "hifi")
    if words_only and method != "hifi":
        assert found["drift, trained"] < 0.01  # the base's weights are as they were
    with Image.open(tmp_path / "personalize.png") as sheet:
        assert sheet.height == 26 + 178
    assert not list((tmp_path / "work").iterdir())


@embedded
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_concepts_are_merged_from_files_and_measured(tmp_path, monkeypatch):
    from dataclasses import replace

    from auditor.proving.personalize.concepts import ARMS, CONCEPT_MEASURES

    recipe = RECIPES["orthogonal-adaptation"]
    monkeypatch.setitem(
        RECIPES, "orthogonal-adaptation", replace(recipe, changes={**recipe.changes, "steps": 2})
    )
    monkeypatch.setattr(prove, "units_of", lambda methods, seeds: [])
    monkeypatch.setattr(prove, "pairs", lambda seeds, of=prove.pairs: of(seeds)[:1])
    table = prove.prove_personalize(tmp_path, quiet, "orthogonal-adaptation", 1)
    assert {(row["group"], row["measure"]) for row in table["concepts"]} == {
        (arm, measure) for arm in ARMS for measure in CONCEPT_MEASURES
    }
    assert len(list((tmp_path / "adapters").rglob("*.safetensors"))) == 4
