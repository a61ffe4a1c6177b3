"""The table of marks: units done once, figures counted right, and another toolkit at its own threshold."""

import json
import stat
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from auditor.cli.main import run
from auditor.cli.prove import prove
from auditor.errors import AuditorError, MalformedArtifact, UsageError
from auditor.world.embedded import embedded_folder
from watermark.proving import prove as proving
from watermark.proving.bench import CHUNK, Bench, as_images, as_pixels
from watermark.proving.marks import attack_unit, clean_unit, forgery_unit, members_of, telling_unit
from watermark.proving.nulls import KINDS, null_unit
from watermark.proving.reading import BLIND, LOGGED, read_marks, readings_of
from watermark.proving.rival import LADDERS, Peer, find_rival, rival_clean_unit, rivals_at
from watermark.proving.tables import mean_interval, threshold_of, write_watermark
from watermark.proving.units import Amounts, Unit, strength_of, units_at
from watermark.removal.catalogue import SIGNAL
from watermark.schemes.gaussian_shading import GaussianShading
from watermark.schemes.ring_id import RingId
from watermark.schemes.tail_sign import TailSign
from watermark.schemes.tree_ring import TreeRing

embedded = pytest.mark.skipif(
    not (embedded_folder() / "pipeline" / "model_index.json").is_file(),
    reason="the embedded base is not installed",
)


class Glass:
    """A model whose pictures are their own noise, three channels of it."""

    class components:
        sha256 = "0" * 64

        class kind:
            @staticmethod
            def patch(base):
                return 1

        class vae:
            class config:
                block_out_channels = (1,)

    def __init__(self):
        self.drawn = 0

    def latent_shape(self, size):
        return (3, size, size)

    def sample(self, prompts, seeds, *, steps, guidance, size=None, noise=None):
        self.drawn += len(prompts)
        if noise is None:
            made = [torch.Generator().manual_seed(seed) for seed in seeds]
            noise = torch.stack([torch.randn(3, size, size, generator=one) for one in made])
        return noise / 4

    def encode_image(self, images):
        return images * 4

    def decode(self, latents):
        return latents / 4

    def invert_latents(self, clean, prompts, steps):
        return clean


@pytest.fixture
def bench(tmp_path):
    return Bench(Glass(), tmp_path, 32, 0)


def test_pictures_are_drawn_once_and_are_the_same_in_any_process(bench, tmp_path):
    scheme = TailSign()
    first, clean = bench.marked(scheme, 0), bench.clean(1)
    again = Bench(Glass(), tmp_path, 32, 0)
    np.testing.assert_array_equal(again.marked(scheme, 0).pixels, first.pixels)
    np.testing.assert_array_equal(again.clean(1), clean)
    assert again.view.drawn == 0
    assert again.marked(scheme, 0).nonces == first.nonces
    assert len(set(first.nonces) | set(again.marked(scheme, 1).nonces)) == 2 * CHUNK
    fresh = Bench(Glass(), tmp_path / "other", 32, 1)
    assert not np.array_equal(fresh.clean(1), clean)
    assert fresh.key(scheme) != bench.key(scheme)


def test_pixels_are_what_a_file_keeps():
    pixels = np.random.default_rng(0).integers(0, 256, (2, 5, 4, 3), dtype=np.uint8)
    np.testing.assert_array_equal(as_pixels(as_images(pixels)), pixels)
    np.testing.assert_array_equal(as_pixels(torch.full((1, 3, 1, 1), 7.0)), np.full((1, 1, 1, 3), 255))


@pytest.mark.parametrize("scheme", [TailSign(), GaussianShading(), TreeRing(), RingId()], ids=lambda s: s.id)
def test_marks_payloads_and_users_are_read_from_pictures_as_drawn(bench, scheme):
    found = clean_unit(bench, scheme, 0)
    readings = readings_of(scheme.capacity(bench.shape))
    assert set(found) == {"seconds", *readings}
    for reading in readings:
        assert [one["p"] <= 1e-4 for one in found[reading]] == [True] * CHUNK
        assert {one["wrong"] for one in found[reading]} <= {0.0, None}
        assert {one["user"] for one in found[reading]} <= {True, None}
    assert (found[readings[0]][0]["user"] is None) == (scheme.id in ("tree_ring", "ring_id"))
    json.dumps(found)


def test_a_key_that_is_not_theirs_finds_nothing_in_marked_pictures(bench):
    batch = bench.marked(TailSign(), 0)
    other = replace(batch, key=bench.key(TreeRing()))
    found = read_marks(bench, TailSign(), other, identify=True)
    assert all(one["p"] > 1e-4 for reading in (BLIND, LOGGED) for one in found[reading])
    assert sum(one["user"] for one in found[BLIND]) <= 1


def test_attacked_pictures_are_read_whatever_their_size(bench):
    mild = attack_unit(bench, TailSign(), 0, SIGNAL["noise"], 0.001)
    assert all(one["p"] <= 1e-6 for one in mild[LOGGED])
    cut = attack_unit(bench, TailSign(), 0, SIGNAL["crop"], 0.5)
    assert len(cut[BLIND]) == CHUNK and all(one["user"] is None for one in cut[BLIND])


@pytest.mark.parametrize("scheme", [TailSign(), TreeRing()], ids=lambda s: s.id)
def test_nulls_are_valid_for_every_kind_of_picture_and_no_part_repeats_another(bench, scheme, monkeypatch):
    monkeypatch.setattr("watermark.proving.nulls.PART", 25)
    one = null_unit(bench, scheme, 0)
    assert set(one) == set(KINDS) and all(len(p) == 25 for p in one.values())
    pooled = np.concatenate(list(one.values()))
    assert scipy_stats.kstest(pooled, "uniform", alternative="greater").pvalue > 1e-3
    assert null_unit(bench, scheme, 0) == one
    assert null_unit(bench, scheme, 1) != one


def test_classifiers_tell_a_fixed_pattern_and_not_a_fresh_one(bench, monkeypatch):
    monkeypatch.setattr("watermark.proving.marks._TOLD", 300)
    assert set(telling_unit(bench, TailSign())["right"]) == {
        "linear on values", "network on values", "linear on spectrum", "linear on neighbours"
    }  # fmt: skip
    told = telling_unit(bench, TreeRing())
    assert max(told["right"].values()) / told["n"] > 0.7


def units_of(bench, amounts, schemes, members):
    attacks = [SIGNAL["jpeg"], SIGNAL["crop"]]
    return units_at(bench, list(schemes), attacks, list(members), [], amounts)


def test_a_run_that_is_stopped_has_some_of_each(bench):
    amounts = Amounts(pictures=17, nulls=1600, attacked=9, members=1)
    assert (amounts.chunks, amounts.parts, amounts.attacked_chunks) == (3, 3, 2)
    units = units_of(bench, amounts, (TreeRing(), TailSign()), [Path("m")])
    assert len({unit.path for unit in units}) == len(units)
    first = [unit for unit in units if unit.turn == 0]
    assert {unit.kind for unit in first} == {unit.kind for unit in units}
    assert [unit.turn for unit in units] == sorted(unit.turn for unit in units)
    assert next(unit.scheme for unit in units if unit.kind == "clean") == "tail_sign"
    assert sum(unit.kind == "attack" for unit in units) == 2 * 2 * 2
    grown = units_of(bench, replace(amounts, pictures=40, nulls=3000), (TreeRing(), TailSign()), [Path("m")])
    assert {unit.path for unit in units} < {unit.path for unit in grown}


def reads(*p, floor=1e-30, wrong=0.0, user=None):
    return [{"p": one, "floor": floor, "steps": 2, "wrong": wrong, "user": user} for one in p]


def unit(bench, kind, scheme, label="", turn=0):
    return Unit(kind, bench.size, scheme, label, turn, Path("none"), 1.0, dict)


def figures(record, group):
    return {one["measure"]: one for one in record["rows"] if one["group"] == f"32 px, {group}"}


def test_figures_are_those_of_the_records(bench, tmp_path):
    attacks = [SIGNAL["jpeg"], SIGNAL["crop"]]
    records = [
        (unit(bench, "clean", "tail_sign"), {
            "seconds": {BLIND: 8.0, LOGGED: 4.0},
            BLIND: reads(1e-9, 1e-3, 0.5, 1e-7, user=True), LOGGED: reads(1e-9, 1e-9, 1e-3, 1e-9),
        }),
        (unit(bench, "attack", "tail_sign", "jpeg"), {BLIND: reads(1e-9, 0.5), LOGGED: reads(1e-9, 1e-3)}),
        (unit(bench, "attack", "tail_sign", "crop"), {BLIND: reads(0.5, 0.5), LOGGED: reads(0.5, 1e-3)}),
        (unit(bench, "null", "tail_sign"), {kind: [0.005] * 30 + [0.5] * 70 for kind in KINDS}),
        (unit(bench, "telling", "tail_sign"), {"right": {"a": 40, "b": 52}, "n": 100}),
        (unit(bench, "forgery", "tail_sign", "reprompt"), {
            BLIND: reads(1e-9, 1e-9), LOGGED: reads(1e-9, 0.5), "bound": [False, True], "genuine": [True, True],
        }),
        (unit(bench, "rival", "GS"), {
            "marked": [0.9, 0.2],
            "unmarked": {"natural": {"scores": [0.5] * 50, "others": [[0.1]] * 50}},
            "speed": {
                kind: {
                    "theirs": [8.0, 9.0],
                    **{name: {"found": [True, False], "seconds": [2.0, 9.0]} for name in LADDERS},
                }
                for kind in ("marked", "unmarked")
            },
        }),
        (unit(bench, "rival attack", "GS", "jpeg"), {"marked": [0.4, 0.2]}),
    ]  # fmt: skip
    record = write_watermark(tmp_path, records, attacks, {"seed": 0})
    blind, log = figures(record, "tail_sign, blind"), figures(record, "tail_sign, log")
    assert (blind["found as drawn, at 1e-06"]["value"], blind["found as drawn, at 0.01"]["value"]) == (0.5, 0.75)
    assert log["found as drawn, at 1e-06"]["value"] == 0.75
    exact = scipy_stats.binomtest(2, 4).proportion_ci(0.95)
    assert blind["found as drawn, at 1e-06"]["low"] == pytest.approx(exact.low)
    assert blind["right user of 2,048"]["value"] == 1
    assert blind["processor seconds of detection, marked pictures as drawn"]["value"] == 2
    assert log["average over 1 attacks in place, at 0.01"]["value"] == 1
    assert log["average over 2 attacks, at 0.01"]["value"] == 0.75
    assert blind["forged by reprompt and taken for marked, at 1e-06"]["value"] == 1
    assert blind["forged by reprompt, taken and bound to its prompt, at 1e-06"]["value"] == 0.5
    other = figures(record, "tail_sign")
    exceeded = other["false alarms at 0.01, all: 90 of 300"]
    assert (exceeded["value"], exceeded["met"]) == (0.3, False)
    assert other["false alarms at 0.1, natural: 30 of 100"]["met"] is False
    assert other["false alarms at 0.001, all: 0 of 300"]["met"] is True
    # So few pictures do not tell on which side of the limit it lies.
    assert other["marked noise told from plain, best classifier"]["met"] is None
    rival = figures(record, "MarkDiffusion GS")
    assert rival["found as drawn, at 0.01"]["value"] == 0.5
    assert rival["tail_sign, log, less it: average over 1 attacks in place, at 0.01"]["value"] == 1
    assert rival["its processor seconds by ours, ladder, marked"]["value"] == 4
    assert rival["pictures a processor second, ours, ladder, marked"]["value"] == 1
    sheet = (tmp_path / "watermark.md").read_text("utf-8")
    assert "| as drawn | 3/4 | 4/4 | 1/2 |" in sheet and "| crop | 0/2 | 1/2 |  |" in sheet


def test_no_rate_is_told_for_a_level_out_of_reach(bench, tmp_path):
    records = [
        (unit(bench, "clean", "ring_id"), {"seconds": {LOGGED: 1.0}, LOGGED: reads(1e-3, 1e-3, floor=1e-4)}),
        (unit(bench, "attack", "ring_id", "jpeg"), {LOGGED: reads(1e-3, 0.4, floor=1e-4)}),
    ]
    found = figures(write_watermark(tmp_path, records, [SIGNAL["jpeg"]], {}), "ring_id")
    assert "found as drawn, at 0.01" in found and "average over 1 attacks in place, at 0.01" in found
    assert not [name for name in found if name.endswith("1e-06")]


@given(st.lists(st.integers(-5, 5).map(float), min_size=1, max_size=300), st.sampled_from([0.01, 0.1, 0.5]))
def test_a_threshold_lets_no_more_nulls_pass_than_it_may_and_no_fewer_than_it_must(scores, fpr):
    limit = threshold_of(scores, fpr)
    assert np.mean(np.array(scores) > limit) <= fpr
    lower = [score for score in scores if score < limit]
    assert not lower or np.mean(np.array(scores) > max(lower)) > fpr


def test_means_have_intervals_also_where_all_values_are_the_same():
    same = mean_interval([1.0] * 50)
    assert same.method == "Hoeffding" and same.high == 1 and 0.7 < same.low < 1
    drawn = np.random.default_rng(0).random(200)
    assert mean_interval(drawn).contains(drawn.mean())
    by_model = mean_interval(np.repeat([0.0, 1.0, 1.0, 0.0], 10), clusters=np.repeat(range(4), 10))
    assert by_model.n == 4 and by_model.width > 0.5
    assert mean_interval([-0.2] * 4, bounded=False).low >= -1


def test_members_take_methods_in_turn(tmp_path):
    home = tmp_path / Glass.components.sha256[:16]
    for name, method in (("a", "x"), ("b", "x"), ("c", "y")):
        (home / name).mkdir(parents=True)
        (home / name / "member.json").write_text(json.dumps({"method": method}))
    assert [path.name for path in members_of(Glass.components, tmp_path, 5)] == ["a", "c", "b"]
    assert len(members_of(Glass.components, tmp_path, 2)) == 2
    assert members_of(Glass.components, tmp_path / "none", 2) == []


@pytest.mark.parametrize("side", [16, 32, 64])
def test_the_other_toolkit_is_configured_for_the_size(side):
    by_id = {rival.id: rival for rival in rivals_at(side)}
    assert side % by_id["GS"].config["hw_copy"] == 0
    assert max(by_id["TR"].config["w_radius"], by_id["RI"].config["radius"]) < side / 2
    assert by_id["RI"].config["ring_value_range"] == side
    slots = by_id["RI"].config["radius"] - by_id["RI"].config["radius_cutoff"]
    assert 2**slots >= by_id["RI"].config["assigned_keys"]


def test_an_interpreter_without_the_other_toolkit_is_no_error_and_one_that_does_not_run_is(tmp_path):
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\nexec {sys.executable} -S -E \"$@\"\n")
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    assert find_rival(python) is None
    with pytest.raises(AuditorError, match="does not run"):
        find_rival(tmp_path / "nothing")


_PACKAGE = {
    "__init__.py": "",
    "utils/__init__.py": "",
    "utils/diffusion_config.py": "from types import SimpleNamespace as DiffusionConfig\n",
    "watermark/__init__.py": "",
    "watermark/auto_watermark.py": """
import json, types, torch
from PIL import Image
class AutoWatermark:
    @staticmethod
    def load(name, algorithm_config, diffusion_config, **key):
        config = json.load(open(algorithm_config))
        assert config["algorithm_name"] == name
        if name == "RI":
            raise ValueError("no rings here")
        return Mark(diffusion_config, key.get("w_seed", config.get("w_seed", 0)))
class Mark:
    def __init__(self, given, seed):
        self.given, self.seed = given, seed
        self.config = types.SimpleNamespace(init_latents=torch.zeros(1, 4, 32, 32), gen_seed=0)
        self.utils, self.detector = types.SimpleNamespace(), self
    def generate_watermarked_media(self, prompt):
        shade = int(self.config.init_latents.std() * 100)
        print("told aloud")
        return Image.new("RGB", self.given.image_size, (shade, self.config.gen_seed % 256, 0))
    def detect_watermark_in_media(self, image, num_inference_steps, guidance_scale):
        return self.detector.eval_watermark(torch.tensor(float(image.getpixel((0, 0))[0])))
    def eval_watermark(self, latents):
        return {"is_watermarked": True, "l1_distance": float(latents) + self.seed}
""",
}  # fmt: skip


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory):
    """An interpreter that has a package of the other toolkit's name."""
    home = tmp_path_factory.mktemp("rival")
    for name, text in _PACKAGE.items():
        path = home / "lib" / "markdiffusion" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    about = home / "lib" / "markdiffusion-9.9.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: markdiffusion\nVersion: 9.9\n")
    python = home / "python"
    python.write_text(f"#!/bin/sh\nPYTHONPATH={home / 'lib'} exec {sys.executable} \"$@\"\n")
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    return python


@pytest.mark.slow
@embedded
def test_the_other_toolkit_draws_and_scores_in_a_process_of_its_own(stand_in, tmp_path):
    assert find_rival(stand_in) == "9.9"
    bench = Bench(Glass(), tmp_path, 32, 0)
    rings = next(rival for rival in rivals_at(32) if rival.id == "TR")
    with Peer(bench, replace(rings, keys=({"w_seed": 5}, {"w_seed": 7})), stand_in) as peer:
        drawn = peer.marked(0)
        # Each picture has noise and seed of its own.
        assert drawn.shape == (CHUNK, 32, 32, 3) and len(np.unique(drawn[:, 0, 0, 1])) > 1
        record = rival_clean_unit(peer, TreeRing(), 0)
        assert record["marked"] == [-(float(one) + 999999) for one in drawn[:, 0, 0, 0]]
        others = record["unmarked"]["natural"]["others"]
        assert [b - a for a, b in others] == [-2.0] * CHUNK
        timed = record["speed"]
        assert all(timed["marked"]["ladder"]["found"]) and timed["unmarked"]["theirs"][0] > 0
    ring_id = next(rival for rival in rivals_at(32) if rival.id == "RI")
    with Peer(bench, ring_id, stand_in) as peer, pytest.raises(AuditorError, match="no rings here"):
        peer.marked(0)


def test_a_forgery_is_held_against_what_its_nonce_is_bound_to(bench, monkeypatch):
    from watermark.forgery.forged import Forged

    monkeypatch.setattr(
        "watermark.proving.marks.reprompted",
        lambda view, marked, prompts, *, steps, guidance: Forged(marked, 320, len(marked)),
    )
    found = forgery_unit(bench, TailSign(), 0, "reprompt")
    assert (found["calls"], found["marked"]) == (320, CHUNK)
    assert all(one["p"] <= 1e-6 for one in found[BLIND])
    # The stand-in gives the marked pictures themselves back.
    assert found["bound"] == found["genuine"]
    assert "bound" not in forgery_unit(bench, TreeRing(), 0, "copy")


@embedded
def test_a_unit_is_done_once_and_a_broken_record_is_told(tmp_path, monkeypatch):
    made = []

    def units_here(bench, schemes, attacks, members, peers, amounts):
        path = bench.path("tail_sign", "null", "0")

        def make():
            made.append(bench.size)
            return {kind: [0.5] * 4 for kind in KINDS}

        return [Unit("null", bench.size, "tail_sign", "", 0, path, 1.0, make)]

    monkeypatch.setattr(proving, "units_at", units_here)
    monkeypatch.setattr(proving, "find_rival", lambda python: None)
    given = ["prove", "watermark", "-o", str(tmp_path), "--size", "64", "--zoo", str(tmp_path / "zoo")]
    assert run([*given, "--tables-only"]) == 0 and made == []
    assert run(given) == 0 and run(given) == 0
    assert made == [64]
    record = json.loads((tmp_path / "watermark.json").read_text("utf-8"))
    assert record["units"] == "1 of 1 done" and record["seed"] == 0
    with pytest.raises(UsageError, match="another seed"):
        proving.prove_watermark(tmp_path, lambda *told: None, seed=1, sizes=[64], zoo=tmp_path)
    path = next((tmp_path / "units").rglob("*.json"))
    path.write_text("{")
    with pytest.raises(MalformedArtifact, match="broken"):
        proving.prove_watermark(tmp_path, lambda *told: None, sizes=[64], zoo=tmp_path)


def test_an_unknown_scheme_is_told_with_the_closest_name(tmp_path, capsys):
    assert run(["prove", "watermark", "-o", str(tmp_path), "--schemes", "tail_sing"]) == 64
    assert "tail_sign" in capsys.readouterr().err


def test_the_command_stands_beside_those_of_the_frame():
    shown = CliRunner().invoke(prove, ["--help"]).output
    assert "watermark" in shown and "personalize-speed" in shown


def test_strengths_are_the_middle_of_their_grids():
    assert all(strength_of(attack) in attack.grid for attack in SIGNAL.values())
