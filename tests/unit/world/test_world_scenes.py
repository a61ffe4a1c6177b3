"""Scenes: drawn deterministically, carried by records, labelled, and named in words of one token each."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.stats import chi2_contingency

from auditor.world import factors as f
from auditor.world.captions import caption, full_caption
from auditor.world.labels import ABSENT, HEADS, label_matrix, labels
from auditor.world.render import render, render_batch


def scenes(count: int, seed: int = 3) -> list[f.Scene]:
    rng = np.random.default_rng(seed)
    return [f.draw_scene(rng) for _ in range(count)]


def test_a_record_renders_to_the_same_pixels_each_time() -> None:
    for scene in scenes(60):
        again = f.from_record(f.to_record(scene))
        assert np.array_equal(render(scene), render(again))


def test_render_is_uint8_of_64_by_64() -> None:
    batch = render_batch(scenes(5))
    assert batch.shape == (5, 64, 64, 3)
    assert batch.dtype == np.uint8


def test_the_same_seed_draws_the_same_scenes_and_another_seed_others() -> None:
    assert scenes(20) == scenes(20)
    assert scenes(20) != scenes(20, seed=4)


def test_records_come_through_json_unchanged() -> None:
    for scene in scenes(200):
        assert f.from_record(json.loads(json.dumps(f.to_record(scene)))) == scene


@pytest.mark.parametrize(
    ("change", "error"), [({"type": "Cube"}, ValueError), ({"extra": 1}, TypeError)], ids=["type", "field"]
)
def test_a_wrong_record_is_refused(change: dict[str, object], error: type[Exception]) -> None:
    person = f.draw_person_scene(np.random.default_rng(0))
    with pytest.raises(error):
        f.from_record(f.to_record(person) | change)


def test_every_object_colour_and_style_makes_a_different_picture() -> None:
    rng = np.random.default_rng(0)
    seen = set()
    for kind in f.OBJECTS + f.RESTRICTED:
        for colour in f.COLOURS:
            thing = f.Thing(kind, colour, 32.0, 32.0, 0.7)
            scene = f.draw_object_scene(rng, things=(thing,), ground="plain", tint=0, style="flat", seed=0)
            seen.add(render(scene).tobytes())
    assert len(seen) == len(f.OBJECTS + f.RESTRICTED) * len(f.COLOURS)


def test_attributes_are_independent_of_the_occupation() -> None:
    rng = np.random.default_rng(12)
    people = [f.draw_person_scene(rng) for _ in range(6_000)]
    for attribute in (
        "skin",
        "hair_style",
        "hair_colour",
        "glasses",
        "hat",
        "age",
        "presentation",
        "expression",
    ):
        values = [one.identity.skin if attribute == "skin" else getattr(one, attribute) for one in people]
        names, columns = np.unique(np.array(values, dtype=str), return_inverse=True)
        table = np.zeros((len(f.OCCUPATIONS), len(names)))
        np.add.at(table, ([f.OCCUPATIONS.index(one.occupation) for one in people], columns), 1)
        # Eight tests at one fixed seed: a dependence of any size that matters gives p < 1e-12 at this n.
        assert chi2_contingency(table).pvalue > 1e-3, attribute


def test_labels_say_what_the_record_says() -> None:
    for scene in scenes(300):
        found = labels(scene)
        assert set(found) == set(HEADS)
        match scene:
            case f.ObjectScene():
                assert HEADS["object"][found["object"]] == scene.things[0].kind
                assert (found["second_object"] == ABSENT) == (len(scene.things) == 1)
                assert found["skin"] == ABSENT
            case f.PersonScene():
                assert HEADS["skin"][found["skin"]] == scene.identity.skin
                assert HEADS["glasses"][found["glasses"]] == ("yes" if scene.glasses else "no")
                assert (found["hair_colour"] == ABSENT) == (scene.hair_style == "bald")
            case f.DuoScene():
                assert found["object"] == found["skin"] == ABSENT


def test_label_matrix_stacks_the_labels_in_head_order() -> None:
    some = scenes(7)
    assert label_matrix(some).tolist() == [list(labels(scene).values()) for scene in some]


def test_the_full_caption_names_every_factor_that_has_a_word() -> None:
    rng = np.random.default_rng(1)
    for _ in range(50):
        person = f.draw_person_scene(rng)
        text = full_caption(person)
        assert f"{person.identity.skin} skin" in text
        assert ("no glasses" in text) == (not person.glasses)
        assert ("a hat" in text) == person.hat
        assert person.presentation in text
        thing = f.draw_object_scene(rng)
        assert all(f"{one.colour} {one.kind}" in full_caption(thing) for one in thing.things)


def test_captions_leave_factors_out_at_random() -> None:
    rng = np.random.default_rng(2)
    person = f.draw_person_scene(rng, glasses=True)
    said = ["glasses" in caption(person, rng) for _ in range(200)]
    assert 100 < sum(said) < 180
