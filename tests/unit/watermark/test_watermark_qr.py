"""The QR code, against another writer and another reader."""

import numpy as np
import pytest
import segno
import zxingcpp
from hypothesis import given, settings
from hypothesis import strategies as st

from watermark.engine import qr

TEXTS = st.binary(min_size=qr.CAPACITY, max_size=qr.CAPACITY)


def as_picture(code):
    return np.where(np.kron(np.pad(code, 4), np.ones((6, 6), dtype=bool)), 0, 255).astype(np.uint8)


@settings(max_examples=30, deadline=None)
@given(TEXTS)
def test_it_is_the_code_that_another_writer_draws(text):
    other = segno.make(text, error="h", version=1, mask=0, mode="byte", boost_error=False, micro=False)
    assert (qr.draw(qr.modules_of(text)) == np.array([list(row) for row in other.matrix], dtype=bool)).all()


def test_another_reader_reads_it_with_eight_bytes_wrong_and_not_with_more():
    modules = qr.modules_of(b"marked!")
    for wrong, readable in ((8, True), (9, False)):
        seen = modules.copy()
        seen[: 8 * wrong : 8] ^= True
        found = zxingcpp.read_barcodes(as_picture(qr.draw(seen)))
        assert [bytes(each.bytes) for each in found] == ([b"marked!"] if readable else [])
        assert qr.readable(seen, b"marked!") is readable


@settings(max_examples=20, deadline=None)
@given(TEXTS, st.integers(0, 2**32 - 1))
def test_soft_reading_finds_what_is_written_under_noise(text, seed):
    noise = np.random.default_rng(seed).normal(size=qr.MODULES)
    assert qr.read_soft(np.where(qr.modules_of(text), 1.0, -1.0) + 0.5 * noise) == text


def test_soft_reading_is_never_worse_than_the_best_of_many_codes():
    rng = np.random.default_rng(0)
    texts = [rng.bytes(qr.CAPACITY) for _ in range(300)]
    codes = np.stack([np.where(qr.modules_of(text), 1.0, -1.0) for text in texts])
    soft = 0.3 * codes[7] + rng.normal(size=qr.MODULES)
    read = np.where(qr.modules_of(qr.read_soft(soft)), 1.0, -1.0)
    assert read @ soft >= (codes @ soft).max()


def test_a_text_of_another_length_is_refused():
    with pytest.raises(ValueError, match="7 bytes"):
        qr.modules_of(b"short")
