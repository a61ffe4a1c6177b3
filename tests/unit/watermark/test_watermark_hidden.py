"""Marks made of modules: drawn, read back, hidden by a key, and tested."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from auditor.errors import UsageError
from watermark.detection import Method
from watermark.engine import qr
from watermark.engine.graphic import coarse, drawn, modules_in, random_modules, squares
from watermark.engine.hidden import fixed_modules, judged_code, judged_signs, modules_at
from watermark.keys import MasterKey
from watermark.schemes.safe_sd import SafeSd

KEY = MasterKey(bytes(range(32)))


def signs(modules):
    return np.where(modules, 1.0, -1.0)


@given(seed=st.integers(0, 2**32 - 1), tiles=st.sampled_from([(64, 64), (128, 64), (100, 72), (64, 190)]))
@settings(max_examples=20, deadline=None)
def test_what_is_drawn_is_read_at_any_size(seed, tiles):
    modules = random_modules(np.random.default_rng(seed), 1)
    picture = drawn(modules, *tiles)
    assert picture.shape == (3, *tiles)
    assert np.array_equal(modules_in(picture.astype(float)), signs(modules))


def test_modules_that_a_picture_does_not_show_say_nothing():
    found = modules_in(drawn(np.ones((21, 21), dtype=bool), 32, 64).astype(float))
    assert (found[:10] == 1).all()
    assert (found[11:] == 0).all()


def test_squares_are_read_back_coarsely():
    dark = np.random.default_rng(0).random(49) < 0.5
    assert np.array_equal(coarse(signs(squares(dark))), signs(dark))
    assert squares(dark).shape == (21, 21)


def test_a_code_is_its_208_modules_and_233_that_all_codes_share():
    first, second = (qr.draw(qr.modules_of(text)) for text in (b"abcdefg", b"0123456"))
    assert len(modules_at(first)) == 208
    assert np.array_equal(modules_at(first), qr.modules_of(b"abcdefg"))
    assert len(fixed_modules(first)) == 233
    assert np.array_equal(fixed_modules(first), fixed_modules(second))


@pytest.mark.parametrize("wrong", [0, 5, 15])
def test_the_bound_of_equal_signs_is_never_below_the_binomial_tail(wrong):
    agreeing = np.ones(49)
    agreeing[:wrong] = -1
    exact = stats.binom.sf(49 - wrong - 1, 49, 0.5)
    assert judged_signs(agreeing, seed=0).bound >= exact * (1 - 1e-9)
    assert judged_signs(agreeing, seed=0).bound <= 60 * exact


def test_a_code_is_found_by_what_all_codes_share_and_read():
    rng = np.random.default_rng(3)
    grid = 0.75 * signs(qr.draw(qr.modules_of(b"payload"))) + 0.66 * rng.normal(size=(21, 21))
    found = judged_code(grid, None, seed=0)
    assert found.word == b"payload"
    assert found.method is Method.CERTIFIED
    # Knowing the payload helps: all modules speak.
    assert judged_code(grid, b"payload", seed=0).p_value < found.p_value < 1e-9
    assert judged_code(grid, b"another", seed=0).p_value > judged_code(grid, b"payload", seed=0).p_value


def test_the_arm_that_reads_the_code_finds_what_the_shared_modules_do_not_show():
    grid = signs(qr.draw(qr.modules_of(b"payload"))).astype(float)
    rest = np.ones((21, 21), dtype=bool)
    rest[qr.places()] = False
    grid[rest] *= 0.01 * np.random.default_rng(1).choice([-1, 1], size=233)
    found = judged_code(grid, None, seed=0)
    assert found.word == b"payload"
    assert found.p_value < 1e-6
    assert found.p_value >= 2.0**56 * 2.0**-208


def test_drawings_are_looked_for_and_each_is_a_look():
    scheme, rng = SafeSd(), np.random.default_rng(4)
    drawings = [random_modules(rng, 3) for _ in range(5)]
    grid = 0.5 * signs(scheme.masked(KEY, drawings[3])) + rng.normal(size=(21, 21))
    found = scheme.find(grid, KEY, drawings)
    assert found.details["drawing"] == 3
    assert found.looks == 5
    assert found.p_value < 1e-6
    agreeing = sum(
        (char == "#") == dark
        for row, want in zip(found.details["shown"], drawings[3], strict=True)
        for char, dark in zip(row, want, strict=True)
    )
    assert agreeing > 0.6 * 441
    assert scheme.find(grid, MasterKey(bytes(32)), drawings).p_value > 1e-3
    with pytest.raises(UsageError, match="drawing"):
        scheme.find(grid, KEY, [])
    with pytest.raises(UsageError, match="21 by 21"):
        scheme.masked(KEY, np.ones((20, 20), dtype=bool))
