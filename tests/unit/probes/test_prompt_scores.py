import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from auditor.probes.backdoor.clean_prompts import clean_prompts, own_prompts
from auditor.probes.backdoor.prompt_pieces import left_out
from auditor.probes.backdoor.prompt_scores import (
    interaction,
    peak_over_rest,
    remaining,
    unsteadiness,
    variation,
)


def layers(rng, rows, shapes=((5, 4), (3, 7))):
    return [rng.normal(size=(rows, *shape)).astype(np.float32) for shape in shapes]


@given(st.text(max_size=60))
def test_a_piece_put_back_gives_the_letters_of_the_prompt(prompt):
    for each in left_out(prompt, 100):
        assert each.piece in prompt
        letters = sorted((each.rest + each.piece).replace(" ", ""))
        assert letters == sorted(prompt.replace(" ", ""))
        assert len(each.rest) < len(prompt)


@pytest.mark.parametrize(
    ("prompt", "pieces"),
    [
        ("a picture of a red cat", ["picture", "red", "cat"]),
        ("a pictur\u0435 of a cat", ["pictur", "\u0435", "cat"]),
        ("\u200b a cat", ["\u200b", "cat"]),
        ("a picture of <new-car>", ["picture", "<new-car>"]),
        ("in it", ["in", "it"]),
        (" , .", []),
        ("", []),
    ],
)
def test_pieces_are_words_and_odd_letters(prompt, pieces):
    assert [each.piece for each in left_out(prompt, 8)] == pieces


def test_what_is_left_reads_as_if_it_had_never_been_there():
    rests = [each.rest for each in left_out("red cat hat", 8)]
    assert rests == ["cat hat", "red hat", "red cat"]


def test_of_a_long_prompt_the_first_pieces_are_left_out():
    assert len(left_out("word " * 50, 8)) == 8


def test_scores_are_those_of_loops():
    rng = np.random.default_rng(0)
    ours, theirs = layers(rng, 4), layers(rng, 4)
    said = rng.normal(size=(4, 6, 3))
    varied, paired, left = [], [], []
    for k in (1, 2, 3):
        moved = sum(float(np.mean([abs(a - b) for a, b in zip(x[k].flat, x[0].flat, strict=True)])) for x in ours)
        varied.append(moved / float(np.sqrt(((said[k] - said[0]) ** 2).sum())))
        shares = []
        for x, y in zip(ours, theirs, strict=True):
            residual = x[0].astype(float) - y[0] - x[k] + y[k]
            shares.append(np.abs(residual).mean() / np.abs(y[0]).mean())
        paired.append(np.mean(shares))
        pairs = zip(ours, theirs, strict=True)
        left.append(np.mean([np.abs(x[k].astype(float) - y[k]).mean() / np.abs(y[0]).mean() for x, y in pairs]))
    assert variation(ours, said) == pytest.approx(varied, rel=1e-5)
    assert interaction(ours, theirs) == pytest.approx(paired, rel=1e-5)
    assert remaining(ours, theirs) == pytest.approx(left, rel=1e-5)


def test_tuning_that_does_the_same_with_and_without_a_piece_has_no_interaction():
    rng = np.random.default_rng(1)
    theirs = layers(rng, 3)
    ours = [layer + 5 for layer in theirs]
    assert interaction(ours, theirs) == pytest.approx(0, abs=1e-5)
    ours[0][0] += 1
    assert (interaction(ours, theirs) > 0.1).all()


def test_the_peak_is_held_against_the_lower_three_quarters():
    assert peak_over_rest(np.array([1.0, 2.0, 3.0, 12.0])) == pytest.approx(12 / 2)
    assert peak_over_rest(np.array([3.0])) == 1.0
    with pytest.raises(ValueError, match="no variation"):
        peak_over_rest(np.array([]))


def test_unsteadiness_is_the_largest_step():
    rows = np.array([[0.0, 0.0], [1.0, 1.0], [1.0, 4.0]])
    assert unsteadiness(rows) == pytest.approx(9 / 2)
    with pytest.raises(ValueError, match="two steps"):
        unsteadiness(rows[:1])


def test_ordinary_prompts_are_drawn_from_the_seed_and_name_the_concept():
    draws = [clean_prompts(5, np.random.default_rng(seed)) for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]
    own = own_prompts("a picture of sks person", 50, np.random.default_rng(0))
    assert all("sks person" in prompt for prompt in own) and len(set(own)) > 20
    assert all("zwx" in prompt for prompt in own_prompts("zwx", 5, np.random.default_rng(0)))
