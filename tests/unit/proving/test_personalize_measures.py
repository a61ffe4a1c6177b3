"""What pictures say of a training, against plain loops."""

import numpy as np
import pytest
import torch

from auditor.errors import UsageError
from auditor.metrics.attributes import Judged
from auditor.proving.personalize.concepts import composition, generalisation, windows
from auditor.proving.personalize.measures import distance, followed, likeness, spread
from auditor.proving.personalize.training import counted
from auditor.world.labels import HEADS


def directions(rng, *shape):
    values = rng.normal(size=shape)
    return values / np.linalg.norm(values, axis=-1, keepdims=True)


@pytest.mark.parametrize("seed", range(3))
def test_cosines_are_those_of_plain_loops(seed):
    rng = np.random.default_rng(seed)
    one, other, more = directions(rng, 5, 8), directions(rng, 5, 8), directions(rng, 3, 8)
    assert likeness(one, more) == pytest.approx(np.mean([[a @ b for b in more] for a in one]))
    assert distance(one, other) == pytest.approx(
        np.mean([1 - a @ b for a, b in zip(one, other, strict=True)])
    )
    apart = [1 - one[i] @ one[j] for i in range(5) for j in range(5) if i != j]
    assert spread(one) == pytest.approx(np.mean(apart))
    assert distance(one, one) == pytest.approx(0, abs=1e-12)


def test_sets_that_cannot_be_compared_are_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(UsageError, match="one size"):
        distance(directions(rng, 3, 4), directions(rng, 2, 4))
    with pytest.raises(UsageError, match="two of them"):
        spread(directions(rng, 1, 4))


def judged(*pictures):
    """Pictures that the judge reads with certainty: head to class each."""
    out = {}
    for head, classes in HEADS.items():
        table = np.zeros((len(pictures), len(classes)), np.float32)
        for i, picture in enumerate(pictures):
            table[i, classes.index(picture.get(head, classes[0]))] = 1
        out[head] = table
    return Judged(out)


def test_attributes_count_only_in_pictures_of_what_was_asked_for():
    read = judged(
        {"scene": "person", "glasses": "yes", "hat": "no"},
        {"scene": "object", "glasses": "yes", "hat": "yes"},
        {"object": "fish", "ground": "striped"},
        {"object": "boat"},
    )
    person = {"scene": "person", "glasses": "yes", "hat": "yes"}
    wanted = [person, person, {"object": "fish", "ground": "striped"}, {"object": "fish"}]
    # glasses of the first and the striped ground, of six wishes
    assert followed(read, wanted) == pytest.approx(2 / 6)
    with pytest.raises(UsageError, match="as many wishes"):
        followed(read, wanted[:2])


@pytest.mark.parametrize("seed", range(4))
def test_composition_takes_the_best_window_of_each_concept(seed):
    rng = np.random.default_rng(seed)
    names = rng.choice(["fish", "cup", "tree"], size=(7, 5))
    features = directions(rng, 7, 5, 6)
    wanted = [("fish", directions(rng, 3, 6)), ("cup", directions(rng, 4, 6))]
    scores, whole = [], []
    for i in range(7):
        found = []
        for name, references in wanted:
            alike = [
                np.mean([features[i, k] @ r for r in references]) for k in range(5) if names[i, k] == name
            ]
            found.append(bool(alike))
            scores.append(max(0.0, max(alike)) if alike else 0.0)
        whole.append(all(found))
    cp, both = composition(names, features, wanted)
    assert cp == pytest.approx(np.mean(scores))
    assert both == pytest.approx(np.mean(whole))


def test_dropping_one_of_two_concepts_halves_the_composition():
    same = np.eye(2)[None].repeat(2, axis=0)  # (2 pictures, 2 windows, 2 numbers)
    wanted = [("fish", np.eye(2)[:1]), ("cup", np.eye(2)[1:])]
    assert composition(np.array([["fish", "cup"]] * 2), same, wanted) == (1.0, 1.0)
    assert composition(np.array([["fish", "tree"]] * 2), same, wanted) == (0.5, 0.0)


def test_generalisation_is_likeness_to_the_prompt_and_its_lead():
    scores = np.array([[0.9, 0.1, 0.2], [0.3, 0.5, 0.1]])
    own, gap = generalisation(scores, np.array([0, 1]))
    assert own == pytest.approx(0.7)
    assert gap == pytest.approx(((0.9 - 0.15) + (0.5 - 0.2)) / 2)
    assert generalisation(np.full((4, 3), 0.6), np.array([0, 1, 2, 0]))[1] == pytest.approx(0)


def test_windows_hold_what_stands_in_each_half():
    pixels = np.zeros((1, 64, 64, 3), np.uint8)
    pixels[0, 32, 18], pixels[0, 17, 32] = 255, 128
    whole, left, right, above, below = windows(pixels)
    assert whole.shape == (1, 64, 64, 3)
    assert left.shape == (1, 36, 36, 3)
    assert left.max() == 255
    assert right.max() == 128  # the upper one is near enough to the middle to be in both halves
    assert above.max() == 255
    assert not below.any() or below.max() == 255


@pytest.mark.parametrize("sizes", [[3], [1, 5, 2]])
def test_numbers_that_an_optimiser_holds_are_counted(sizes):
    parameters = [torch.nn.Parameter(torch.ones(size)) for size in sizes]
    with counted() as numbers:
        optimizer = torch.optim.AdamW(parameters)
        for _ in range(2):
            sum((p**2).sum() for p in parameters).backward()
            optimizer.step()
    assert numbers == [sum(sizes)]
    optimizer.step()
    assert numbers == [sum(sizes)]
