"""The codes that carry bits, against exhaustive search and linear algebra."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from watermark.engine.normals import signed_normals, tail_normals, tail_positions
from watermark.engine.parity import ParityCode
from watermark.engine.trellis import MOST_SIGNS, Trellis
from watermark.keys import MasterKey
from watermark.schemes.tail_sign import layout_of

KEY = MasterKey(bytes(32))


def words(bits):
    return [np.array(word, dtype=np.uint8) for word in itertools.product([0, 1], repeat=bits)]


@given(st.integers(9, 40), st.integers(1, 12), st.integers(0, 2**32))
@settings(max_examples=25, deadline=None)
def test_a_clean_word_is_read_back(bits, signs, seed):
    code = Trellis.keyed(bits, 8 + signs, KEY.stream(f"code {seed}"))
    word = np.random.default_rng(seed).integers(0, 2, bits).astype(np.uint8)
    assert np.array_equal(code.decode(code.encode(word)), word)


def test_decoding_finds_what_exhaustive_search_finds():
    rng, code = np.random.default_rng(0), Trellis.keyed(10, 6, KEY.stream("code"))
    book = np.stack([code.encode(word) for word in words(10)])
    agreed = 0
    for _ in range(40):
        soft = book[rng.integers(len(book))] * 0.5 + rng.normal(size=60)
        scores = book @ soft
        agreed += bool(np.isclose(code.encode(code.decode(soft)) @ soft, scores.max()))
    assert agreed == 40


@pytest.mark.parametrize(("bits", "signs"), [(17, 40), (96, MOST_SIGNS)])
def test_any_two_signs_are_independent_over_words(bits, signs):
    """A sign is a sum of bits; two sums that are not empty and not the same are independent over random words."""
    code = Trellis.keyed(bits, signs, KEY.stream("code"))
    assert (code.encode(np.zeros(bits, dtype=np.uint8)) == 1).all()
    summed = np.stack([code.encode(row) < 0 for row in np.eye(bits, dtype=np.uint8)], axis=1)
    assert summed.any(axis=1).all()
    assert len(np.unique(summed, axis=0)) == bits * signs


def test_sizes_out_of_range_are_refused():
    for bits, signs in ((8, 4), (16, 0), (16, MOST_SIGNS + 1)):
        with pytest.raises(ValueError, match="no code"):
            Trellis.keyed(bits, signs, KEY.stream("code"))
    with pytest.raises(ValueError, match="no checks"):
        ParityCode.keyed(20, 10, 10, KEY.stream("code"))


def test_checks_hold_for_every_word_and_are_independent():
    code = ParityCode.keyed(200, 20, 10, KEY.stream("parity"))
    rng = np.random.default_rng(1)
    for _ in range(20):
        word = code.encode(rng.integers(0, 2, 20).astype(np.uint8))
        assert not (word[code.checks].sum(axis=1) % 2).any()
    rows = np.zeros((len(code.checks), 200), dtype=np.uint8)
    np.put_along_axis(rows, code.checks, 1, axis=1)
    assert (rows.sum(axis=1) == 3).all()
    assert rank(rows) == len(rows)


def test_solving_inverts_encoding_and_refuses_what_is_not_determined():
    code = ParityCode.keyed(120, 24, 8, KEY.stream("parity"))
    for seed in range(5):
        information = np.random.default_rng(seed).integers(0, 2, 24).astype(np.uint8)
        log_odds = 1 - 2.0 * code.encode(information)
        assert np.array_equal(code.solve(log_odds), information)
    flat = ParityCode(np.ones((120, 24), dtype=np.uint8), code.checks)
    assert flat.solve(np.ones(120)) is None


def test_propagation_is_exact_where_the_checks_are_a_tree():
    """One check: the log-odds of a bit are its own and what the other two say together."""
    code = ParityCode(np.eye(3, dtype=np.uint8), np.array([[0, 1, 2]]))
    means = np.array([0.3, -0.5, 0.8])
    joint = np.zeros(2)
    for a, b, c in itertools.product([0, 1], repeat=3):
        if (a + b + c) % 2 == 0:
            joint[a] += np.prod(
                [(1 + (1 - 2 * bit) * mean) / 2 for bit, mean in zip((a, b, c), means, strict=True)]
            )
    assert code.propagate(means, 3)[0] == pytest.approx(np.log(joint[0] / joint[1]))


def test_large_values_go_where_they_should_and_keep_their_signs():
    positions = tail_positions(401, KEY.stream("places"))
    signs = KEY.stream("signs").signs(200)
    values = tail_normals(401, positions, signs, KEY.stream("values"))
    rest = np.setdiff1d(np.arange(401), positions)
    assert np.array_equal(np.sign(values[positions]), signs)
    assert np.abs(values[positions]).min() >= np.abs(values[rest]).max()
    assert np.array_equal(np.sign(signed_normals(signs, KEY.stream("values"))), signs)


@given(
    st.tuples(st.integers(1, 20), st.integers(1, 150), st.integers(1, 150)).filter(
        lambda s: np.prod(s) >= 1024
    )
)
@settings(max_examples=60, deadline=None)
def test_a_layout_uses_every_tail_and_no_value_twice(shape):
    layout = layout_of(shape)
    assert layout.header + layout.body == np.prod(shape)
    assert layout.known + layout.payload + layout.fingerprint == layout.body // 2
    assert min(layout.nonce_signs, layout.payload_signs, layout.known, layout.fingerprint) >= 1
    assert layout.known >= 40


def rank(rows):
    found = []
    for row in (int("".join(map(str, row)), 2) for row in rows):
        for pivot in found:
            row = min(row, row ^ pivot)
        if row:
            found.append(row)
    return len(found)
