"""Rings, fields and QR codes in the noise: found where they are, and at their level where they are not."""

import math

import numpy as np
import pytest
import torch
import zxingcpp
from scipy import stats
from scipy.special import chndtr

from auditor.errors import UsageError
from watermark.certification import null_p_values, rows_of
from watermark.detection import Decision
from watermark.keys import MasterKey
from watermark.schemes.hsqr import Hsqr
from watermark.schemes.hstr import Hstr
from watermark.schemes.ring_id import RingId
from watermark.schemes.tree_ring import TreeRing

SCHEMES = [TreeRing(), RingId(), Hstr(), Hsqr()]
SHAPES = [(4, 16, 16), (4, 32, 32), (4, 64, 64), (16, 17, 23)]
KEY = MasterKey(bytes(range(32)))
each = pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme.id)


def nonce(i):
    return i.to_bytes(12, "big")


def payload_of(scheme, shape):
    return b"\xa5\x01\x02\x03\x04\x05\x06"[: scheme.capacity(shape).payload_bits // 8]


def noisy(latents, rho, seed):
    return rho * latents + math.sqrt(1 - rho**2) * np.random.default_rng(seed).normal(size=latents.shape)


@each
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_it_is_found_where_half_of_it_survives_and_not_by_another_key(scheme, shape):
    word = payload_of(scheme, shape)
    marked = noisy(scheme.embed(KEY, nonce(1), shape, word), 0.6, seed=2)
    found = scheme.detect(marked, KEY)
    assert found.p_value < 1e-6
    assert found.decide(1e-6) is Decision.MARKED
    assert scheme.detect(marked, MasterKey(bytes(32))).p_value > 1e-3
    assert scheme.detect(-marked, KEY, payload=word).p_value > 0.1


@each
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_payload_is_read(scheme, shape):
    word = payload_of(scheme, shape)
    found = scheme.detect(scheme.embed(KEY, nonce(1), shape, word), KEY)
    assert found.payload == word
    assert len(found.bits) == scheme.capacity(shape).payload_bits


@each
def test_noise_has_unit_variance_and_is_new_for_every_nonce(scheme):
    shape = (4, 32, 32)
    drawn = np.stack([scheme.embed(KEY, nonce(i), shape) for i in range(60)]).astype(np.float64)
    assert np.square(drawn).mean() == pytest.approx(1, abs=0.03)
    assert (scheme.embed(KEY, nonce(3), shape) == drawn[3].astype(np.float32)).all()
    flat = drawn.reshape(len(drawn), -1)
    alike = (flat @ flat.T / flat.shape[1])[np.triu_indices(len(flat), 1)].mean()
    assert alike == pytest.approx(scheme.fixed_share(shape), abs=0.02)


@each
def test_signs_and_rings_leave_each_value_standard_normal_over_keys(scheme):
    rng = np.random.default_rng(0)
    drawn = np.stack([scheme.embed(MasterKey(rng.bytes(32)), nonce(0), (4, 16, 16)) for _ in range(60)])
    assert stats.kstest(drawn[:, ::2, ::5, ::5].ravel(), "norm").pvalue > 1e-3


@each
def test_p_values_hold_over_keys_on_noise_on_pictures_and_on_marked_latents(scheme):
    count = 60 if scheme.id == "hsqr" else 1000
    p = null_p_values(scheme, (3, 16, 16), count, seed=5)
    assert all(row.holds for row in rows_of(p))
    assert stats.kstest(p, "uniform").pvalue > 1e-3 or scheme.id == "hsqr"


@pytest.mark.slow
@each
def test_p_values_hold_over_many_keys(scheme):
    p = null_p_values(scheme, (4, 16, 16), 1000 if scheme.id == "hsqr" else 20000, seed=6)
    assert all(row.holds for row in rows_of(p))


def test_the_published_ring_test_says_nothing_for_zeros_and_misses_its_level_for_others():
    # Y. Wen et al. compare sum |F - k|^2 / s^2 with a non-central chi-square, s estimated from the same values.
    rng = np.random.default_rng(0)
    radius = np.hypot(*np.meshgrid(np.arange(-32, 32), np.arange(-32, 32)))
    inside = radius <= 10

    def published(latents, pattern):
        found = np.fft.fftshift(np.fft.fft2(latents))[inside]
        both = np.concatenate([found.real, found.imag])
        wanted = np.concatenate([pattern.real, pattern.imag])
        scale = both.std()
        statistic = np.square((both - wanted) / scale).sum()
        return chndtr(statistic, both.size, np.square(wanted / scale).sum())

    zeros = np.zeros(inside.sum(), dtype=complex)
    noise = rng.normal(size=(64, 64))
    spectrum = np.fft.fftshift(np.fft.fft2(noise))
    spectrum[inside] = 0
    marked = np.fft.ifft2(np.fft.ifftshift(spectrum)).real + 0.3 * rng.normal(size=(64, 64))
    assert all(0.5 < published(latents, zeros) < 0.65 for latents in (noise, marked))

    ring = np.rint(radius[inside]).astype(int)
    theirs, ours = [], []
    for _ in range(2000):
        latents = rng.normal(size=(64, 64))
        theirs.append(published(latents, (64 * rng.normal(size=11))[ring] + 0j) <= 0.01)
        ours.append(TreeRing().detect(latents[None], MasterKey(rng.bytes(32))).p_value <= 0.01)
    assert stats.binomtest(sum(theirs), 2000, 0.01).pvalue < 0.01
    assert stats.binomtest(sum(ours), 2000, 0.01).pvalue > 0.01


def test_rings_are_found_in_turned_and_mirrored_latents():
    scheme = TreeRing()
    marked = scheme.embed(KEY, nonce(1), (4, 32, 32))
    for turned in (np.rot90(marked, axes=(1, 2)), marked[:, ::-1], marked[:, :, ::-1]):
        assert scheme.detect(turned, KEY).p_value < 1e-4


@pytest.mark.parametrize("scheme", [Hstr(), Hsqr()], ids=lambda scheme: scheme.id)
def test_the_margin_of_large_latents_does_not_matter(scheme):
    marked = scheme.embed(KEY, nonce(1), (4, 64, 64), payload_of(scheme, (4, 64, 64)))
    cut = np.zeros_like(marked)
    cut[:, 10:54, 10:54] = marked[:, 10:54, 10:54]
    assert scheme.detect(cut, KEY).p_value < 1e-12


def test_a_known_payload_makes_the_test_stronger_and_a_wrong_one_does_not_pass():
    for scheme, shape, rho in ((RingId(), (4, 16, 16), 0.5), (Hsqr(), (2, 16, 16), 0.5)):
        word = payload_of(scheme, shape)
        marked = noisy(scheme.embed(KEY, nonce(1), shape, word), rho, seed=3)
        assert scheme.detect(marked, KEY, payload=word).p_value < scheme.detect(marked, KEY).p_value
    other = bytes(255 - byte for byte in word)
    assert Hsqr().detect(marked, KEY, payload=other).p_value > 1e-3


def test_noise_turned_over_does_not_hide_a_code():
    marked = noisy(Hsqr().embed(KEY, nonce(1), (4, 32, 32), b"mark 42"), 0.6, seed=1)
    assert Hsqr().detect(-marked, KEY).p_value < 1e-6


def test_any_reader_reads_the_code_that_the_detector_draws():
    word = b"mark 42"
    marked = noisy(Hsqr().embed(KEY, nonce(1), (4, 32, 32), word), 0.9, seed=1)
    details = Hsqr().detect(marked, KEY).details
    assert details["qr_readable"]
    code = np.array([[letter == "#" for letter in row] for row in details["qr"]])
    picture = np.where(np.kron(np.pad(code, 4), np.ones((6, 6), dtype=bool)), 0, 255).astype(np.uint8)
    assert [bytes(found.bytes) for found in zxingcpp.read_barcodes(picture)] == [word]


@pytest.mark.parametrize("scheme", [RingId(), Hsqr()], ids=lambda scheme: scheme.id)
def test_a_payload_agrees_with_its_own_fingerprint(scheme):
    shape = (4, 32, 32)
    word = payload_of(scheme, shape)
    latents = scheme.embed(KEY, nonce(1), shape, word).astype(np.float64)
    rng = np.random.default_rng(0)
    rows = scheme.fingerprints(latents, KEY, b"", [word, *(rng.bytes(len(word)) for _ in range(5))])
    assert rows.shape == (6, scheme.capacity(shape).payload_bits)
    assert rows[0].sum() > rows[1:].sum(axis=1).max()
    assert (rows[0] > 0).all()


@each
def test_any_kind_of_array_in_any_scale_says_the_same(scheme):
    shape = (4, 16, 16)
    marked = scheme.embed(KEY, nonce(1), shape)
    p = scheme.detect(marked, KEY).p_value
    assert scheme.detect(torch.from_numpy(7 * marked), KEY).p_value == pytest.approx(p, rel=1e-3)
    assert scheme.detect(torch.from_numpy(marked).bfloat16(), KEY).p_value < 1e-6
    assert scheme.detect(marked.astype(np.float16), KEY).p_value < 1e-6


@each
def test_what_cannot_be_done_is_said(scheme):
    with pytest.raises(UsageError, match=r"needs"):
        scheme.capacity((1, 4, 4))
    with pytest.raises(UsageError, match="12 bytes"):
        scheme.embed(KEY, b"short", (4, 16, 16))
    held = scheme.capacity((4, 16, 16)).payload_bits // 8
    with pytest.raises(UsageError, match="does not fit"):
        scheme.embed(KEY, nonce(0), (4, 16, 16), bytes(held + 1))
    with pytest.raises(UsageError, match="not finite"):
        scheme.detect(np.full((4, 16, 16), np.nan), KEY)


def test_hsqr_needs_two_channels_of_sixteen():
    assert Hsqr().capacity((2, 16, 16)).payload_bits == 56
    with pytest.raises(UsageError, match="two of 16x16"):
        Hsqr().capacity((1, 16, 16))


def test_no_p_value_lies_below_what_the_keys_allow():
    for scheme in SCHEMES:
        for shape in SHAPES:
            word = payload_of(scheme, shape)
            found = scheme.detect(scheme.embed(KEY, nonce(1), shape, word), KEY, payload=word)
            assert found.floor == scheme.capacity(shape).floor >= 2.0**-256
            assert found.p_value >= found.floor
