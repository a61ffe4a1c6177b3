"""What methods are taught: what is asked for was never shown, and every method has its recipe."""

from dataclasses import fields, replace

import pytest

from auditor.errors import UsageError
from auditor.proving.personalize.recipes import RECIPES, chosen, params_of, prompt_of
from auditor.proving.personalize.targets import KINDS, masks_of, shows, targets
from auditor.proving.personalize.unit import shots_of
from auditor.registry import METHODS
from auditor.world.labels import HEADS
from auditor.world.render import render_batch

ALL = [target for kind in KINDS for target in targets(kind)]


@pytest.mark.parametrize("target", ALL, ids=lambda target: target.name)
def test_compositions_are_new_and_held_out_pictures_were_not_trained_on(target):
    assert not any(shows(scene, ask.wanted) for ask in target.asks for scene in target.train)
    assert not set(target.train) & set(target.held)
    assert len(target.asks) >= 4
    assert all(name in HEADS[head] for ask in target.asks for head, name in ask.wanted.items())


@pytest.mark.parametrize("target", ALL, ids=lambda target: target.name)
def test_targets_are_the_same_every_time(target):
    assert target in targets(target.kind)


def test_a_person_keeps_face_and_looks():
    for target in targets("subject")[:2]:
        scenes = (*target.train, *target.held)
        assert len({(s.identity, s.hair_style, s.hair_colour, s.age) for s in scenes}) == 1


def test_masks_are_white_where_the_subject_is():
    scenes = targets("subject")[2].train
    truth = (render_batch(scenes) != render_batch([replace(s, things=()) for s in scenes])).any(-1)
    masks = masks_of(scenes)[..., 0] == 255
    assert not (masks & ~truth).any()
    assert masks.sum() / truth.sum() > 0.8  # soft edges are half ground


def test_every_method_has_a_recipe_of_parameters_that_it_knows():
    assert sorted(RECIPES) == METHODS.names()
    for method, recipe in RECIPES.items():
        known = {each.name for each in fields(METHODS.get(method).params())}
        assert set(recipe.changes) | set(recipe.keeps) <= known, method
        assert recipe.changes["steps"] > 0


@pytest.mark.parametrize("method", RECIPES)
def test_what_is_trained_on_is_what_is_drawn(method):
    recipe = RECIPES[method]
    for target in targets(recipe.kind):
        params = params_of(method, target, 2, {})
        assert params.seed == 2
        own = prompt_of(recipe, target)
        said = shots_of(recipe, target, 2, trained=True)
        plain = shots_of(recipe, target, 2, trained=False)
        if recipe.kind != "size":
            word = getattr(params, "word", "")
            assert own == getattr(params, "prompt", None) or word in own
            assert all(prompt == own for prompt, _ in said.own)
            assert {word} & set(" ".join(prompt for prompt, _ in plain.own).split()) <= {""}
        seeds = [[seed for _, seed in shots.own + shots.asked + shots.plain] for shots in (said, plain)]
        assert seeds[0] == seeds[1]
        assert said.plain == plain.plain
        assert not any(target.identifier and target.identifier in prompt.split() for prompt, _ in said.plain)
        assert "{" not in "".join(prompt for prompt, _ in said.own + said.asked)


def test_methods_are_chosen_by_name_in_the_order_of_the_table():
    assert chosen("") == list(RECIPES)
    assert chosen(" sefi, dreambooth ,") == ["dreambooth", "sefi"]
    with pytest.raises(UsageError, match="did you mean 'dreambooth-lora'"):
        chosen("dreambooth-lra")
