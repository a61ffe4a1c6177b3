"""The judge's readings, calibration cards, and the table of figures."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from auditor.errors import BaseUnavailable, OutputError, UsageError
from auditor.metrics.attributes import Judged, judge_images
from auditor.metrics.cards import CONDITIONS, corrected, load_card, measure_card, write_card
from auditor.metrics.concept import caption_scores, similarity
from auditor.proving.table import row, write_table
from auditor.proving.world import prompt_accuracy
from auditor.stats import wilson
from auditor.world.captions import full_caption
from auditor.world.embedded import embedded_folder
from auditor.world.factors import Scene, draw_object_scene, draw_person_scene, draw_scene
from auditor.world.labels import ABSENT, HEADS, label_matrix
from auditor.world.nets import Judge
from auditor.world.render import render_batch
from auditor.world.train.export import write_network

shipped = pytest.mark.skipif(
    not (embedded_folder() / "manifest.json").exists(), reason="no weights in this tree"
)
judged_here = pytest.mark.skipif(not (embedded_folder() / "judge").exists(), reason="no judge in this tree")


def _scenes(count: int, seed: int = 0) -> list[Scene]:
    rng = np.random.default_rng(seed)
    return [draw_scene(rng) for _ in range(count)]


def _oracle(scenes: list[Scene], wrong: int = 0) -> Judged:
    """A judge that is right but for the first ``wrong`` scenes, whose classes it moves on by one."""
    truth = np.where(label_matrix(scenes) == ABSENT, 0, label_matrix(scenes))
    probabilities = {}
    for head, classes, column in zip(HEADS, HEADS.values(), truth.T, strict=True):
        column = column.copy()
        column[:wrong] = (column[:wrong] + 1) % len(classes)
        probabilities[head] = np.eye(len(classes))[column]
    return Judged(probabilities)


def test_readings_in_words_counts_and_probabilities() -> None:
    judged = _oracle(_scenes(40))
    assert len(judged) == 40
    assert judged.counts("scene").sum() == 40
    index = HEADS["object"].index(judged.names("object")[3])
    assert judged.classes("object")[3] == index
    assert judged.probability("object", HEADS["object"][index])[3] == 1.0


def test_an_unknown_head_or_class_is_refused() -> None:
    judged = _oracle(_scenes(2))
    with pytest.raises(UsageError, match="no head"):
        judged.classes("shoe")
    with pytest.raises(UsageError, match="no class"):
        judged.probability("skin", "green")


def test_the_judge_is_batched_without_changing_its_reading(tmp_path: Path) -> None:
    config = {"widths": (8, 8, 16, 16), "features": 24}
    write_network(Judge(**config), config, tmp_path / "judge")  # type: ignore[arg-type]
    pictures = render_batch(_scenes(9))
    whole, parts = (judge_images(pictures, batch=batch, folder=tmp_path) for batch in (100, 4))
    for head in HEADS:
        assert np.allclose(whole.probabilities[head], parts.probabilities[head], atol=1e-5)
        assert whole.probabilities[head].sum(axis=1) == pytest.approx(np.ones(9), abs=1e-5)


def test_a_card_counts_true_by_row_and_judged_by_column() -> None:
    scenes = _scenes(300)
    card = measure_card(_oracle(scenes, wrong=30), scenes, "render", seed=0)
    right, all_of_them = card.accuracy("scene")
    assert (right, all_of_them) == (270, 300)
    with_object = int((label_matrix(scenes)[:, list(HEADS).index("object")] != ABSENT).sum())
    assert card.accuracy("object")[1] == with_object


def test_a_card_comes_back_from_disk_unchanged(tmp_path: Path) -> None:
    scenes = _scenes(120)
    for condition in CONDITIONS:
        card = measure_card(_oracle(scenes, wrong=9), scenes, condition, seed=7)
        write_card(card, tmp_path)
        again = load_card(condition, tmp_path)
        assert (again.n, again.seed, again.condition) == (120, 7, condition)
        assert all(np.array_equal(again.confusion[head], card.confusion[head]) for head in HEADS)


def test_a_missing_or_foreign_card_is_named(tmp_path: Path) -> None:
    with pytest.raises(BaseUnavailable, match="prove world"):
        load_card("render", tmp_path)
    heads = {"skin": {"classes": ["green"], "confusion": [[3]]}}
    (tmp_path / "render.json").write_text(json.dumps({"n": 3, "seed": 0, "heads": heads}), "utf-8")
    with pytest.raises(BaseUnavailable):
        load_card("render", tmp_path)


def test_a_card_of_another_number_of_scenes_is_refused() -> None:
    with pytest.raises(UsageError):
        measure_card(_oracle(_scenes(4)), _scenes(5), "render", seed=0)


def test_corrected_rates_undo_the_judges_bias(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    people: list[Scene] = [draw_person_scene(rng, style="flat") for _ in range(600)]
    judged = _oracle(people, wrong=60)
    monkeypatch.setattr("auditor.metrics.cards.cards_folder", lambda: tmp_path)
    write_card(measure_card(judged, people, "regenerated", seed=0), tmp_path)
    wearing: list[Scene] = [draw_person_scene(rng, style="flat", glasses=True) for _ in range(300)]
    seen = _oracle(wearing, wrong=30)
    assert seen.counts("glasses")[1] == 270
    rates = corrected(seen, "glasses", rng=np.random.default_rng(0))
    assert rates.rates[1] > 0.93


def test_hair_is_right_without_a_colour_only_on_a_bald_head() -> None:
    rng = np.random.default_rng(4)
    bald = draw_person_scene(rng, style="flat", hair_style="bald", hair_colour="gray")
    long = draw_person_scene(rng, style="flat", hair_style="long", hair_colour="gray")
    judged = _oracle([bald, long])
    black = np.eye(len(HEADS["hair_colour"]))[[0, 0]]
    judged.probabilities["hair_colour"] = black
    assert prompt_accuracy(judged, [bald, long])["hair"].tolist() == [True, False]


def test_factors_are_counted_over_the_scenes_that_have_them() -> None:
    rng = np.random.default_rng(5)
    scenes: list[Scene] = [draw_object_scene(rng) for _ in range(6)]
    scenes += [draw_person_scene(rng, style="flat") for _ in range(4)]
    right = prompt_accuracy(_oracle(scenes, wrong=2), scenes)
    assert {name: len(hits) for name, hits in right.items()} == {
        "object": 6, "colour": 6, "ground": 6, "skin": 4, "hair": 4, "glasses": 4,
    }  # fmt: skip
    assert right["object"].tolist() == [False] * 2 + [True] * 4
    assert right["skin"].all()


def test_a_table_says_met_or_short_and_is_written_three_ways(tmp_path: Path) -> None:
    rows = [
        row("prompts", "object", wilson(96, 100), target=0.95),
        row("prompts", "skin", wilson(90, 100), target=0.93),
    ]
    rows.append(row("judge, render", "hat", wilson(5, 10)))
    record = write_table(tmp_path, "world", "A title", rows, {"seed": 3})
    assert [one["met"] for one in record["rows"]] == [True, False, None]
    assert json.loads((tmp_path / "world.json").read_text()) == record
    assert [
        line["measure"] for line in csv.DictReader((tmp_path / "world.csv").read_text().splitlines())
    ] == [
        "object",
        "skin",
        "hat",
    ]
    text = (tmp_path / "world.md").read_text()
    assert "| met |" in text
    assert "| short |" in text


def test_a_table_that_cannot_be_written_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        write_table(tmp_path / "file", "world", "A title", [], {})


@judged_here
def test_the_shipped_judge_reads_renders_far_better_than_chance() -> None:
    scenes = _scenes(200, seed=8)
    card = measure_card(judge_images(render_batch(scenes)), scenes, "render", seed=8)
    for head in ("scene", "object", "colour", "ground", "skin", "glasses"):
        right, all_of_them = card.accuracy(head)
        assert right / all_of_them > 0.8, head


@shipped
def test_a_picture_is_nearest_to_its_own_words() -> None:
    rng = np.random.default_rng(9)
    scenes = [draw_object_scene(rng, ground="plain", style="flat"), draw_person_scene(rng, style="flat")]
    words = [full_caption(scene) for scene in scenes]
    scores = similarity(render_batch(scenes), words)
    assert scores[0, 0] > scores[0, 1]
    assert scores[1, 1] > scores[1, 0]
    assert np.allclose(np.diag(scores), caption_scores(render_batch(scenes), words))
