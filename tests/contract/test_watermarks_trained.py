"""Every trained scheme, held to the contract of the others: what a network read is fixed, and keys are random."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from auditor.errors import AuditorError, UsageError
from auditor.registry import WATERMARKS
from watermark.certification import rows_of
from watermark.detection import Detection, Method
from watermark.keys import NONCE_BYTES, MasterKey
from watermark.picture_scheme import PictureScheme

SCHEMES = [scheme for scheme in WATERMARKS if isinstance(scheme, PictureScheme)]
SHAPE, GRID = (4, 16, 16), (21, 21)
KEY, OTHER = MasterKey(bytes(range(32))), MasterKey(bytes(range(1, 33)))
NONCE = bytes(NONCE_BYTES)
NULLS = 240

every_scheme = pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme.id)


def payload(scheme, i=1):
    return np.random.default_rng(i).bytes(scheme.capacity(SHAPE).payload_bits // 8)


def seen(modules, correlation, i=0):
    """Modules as a network finds them."""
    noise = np.random.default_rng(10_000 + i).normal(size=GRID)
    return correlation * np.where(modules, 1.0, -1.0) + math.sqrt(1 - correlation**2) * noise


def hard_readings(scheme, rng):
    """Noise, smooth shading, all of one sign, a bare code, and a picture marked with another key."""
    while True:
        yield rng.normal(size=GRID)
        yield np.cumsum(np.cumsum(rng.normal(size=GRID), axis=0), axis=1)
        yield np.abs(rng.normal(size=GRID))
        yield seen(scheme.modules(OTHER, payload(scheme)), 0.9, int(rng.integers(1000)))


def uniform(p_values):
    return stats.kstest(p_values, "uniform").pvalue


def test_the_three_trained_schemes_are_registered():
    assert {scheme.id for scheme in SCHEMES} == {"decoder", "lora", "safe_sd"}


@every_scheme
@pytest.mark.parametrize("known", [False, True])
def test_01_03_and_05_p_is_uniform_over_keys_whatever_was_read_and_whatever_the_payload(scheme, known):
    rng, p = np.random.default_rng(1), []
    readings = hard_readings(scheme, rng)
    given = bytes(scheme.capacity(SHAPE).payload_bits // 8) if known else None
    for i in range(NULLS):
        p.append(scheme.detect(next(readings), MasterKey(rng.bytes(32)), payload=given, seed=i).p_value)
    assert all(row.holds for row in rows_of(np.array(p))), rows_of(np.array(p))
    assert uniform(p) > 1e-3
    assert uniform(p[3::4]) > 1e-3


@every_scheme
def test_06_a_mark_is_told_from_none(scheme):
    modules = scheme.modules(KEY, payload(scheme))
    marked = scheme.detect(seen(modules, 0.8), KEY)
    clean = scheme.detect(np.random.default_rng(6).normal(size=GRID), KEY)
    wrong = scheme.detect(seen(modules, 0.8), OTHER)
    assert marked.p_value <= 1e-6
    assert min(clean.p_value, wrong.p_value) > 1e-3
    assert marked.payload == payload(scheme)


@every_scheme
def test_07_every_scheme_answers_in_the_same_fields_as_json(scheme):
    told = scheme.detect(seen(scheme.modules(KEY), 1.0), KEY).document()
    assert list(told) == list(Detection("x", 1.0, Method.EXACT, 0.0, 1, 0.5).document())
    assert json.loads(json.dumps(told)) == told
    assert 0 < told["floor"] <= told["p_value"] <= 1
    assert KEY.secret.hex() not in json.dumps(told)


@every_scheme
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_09_half_precision_reads_the_same(scheme, dtype):
    reading = torch.from_numpy(seen(scheme.modules(KEY, payload(scheme)), 0.8)).to(dtype)
    assert scheme.detect(reading, KEY).payload == payload(scheme)


@every_scheme
@pytest.mark.parametrize("shape", [(16, 16, 16), (4, 15, 16), (4, 16, 8), (3, 64, 64)])
def test_11_a_shape_that_does_not_fit_is_refused(scheme, shape):
    with pytest.raises(UsageError, match=f"{scheme.id} needs"):
        scheme.capacity(shape)
    with pytest.raises(UsageError, match="needs"):
        scheme.embed(KEY, NONCE, shape)


@every_scheme
@pytest.mark.parametrize(
    "reading",
    [np.full(GRID, np.nan), np.zeros(GRID), np.ones((3, 21, 21)), np.ones((20, 21)), np.full(GRID, np.inf)],
    ids=["nan", "zero", "three axes", "small", "inf"],
)
def test_12_what_cannot_be_judged_is_an_error_and_never_unmarked(scheme, reading):
    with pytest.raises(AuditorError) as refusal:
        scheme.detect(reading, KEY)
    assert str(refusal.value).count("\n") == 0


@every_scheme
def test_13_nothing_is_written_to_the_working_folder(scheme, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scheme.detect(seen(scheme.modules(KEY), 1.0), KEY)
    assert list(Path(tmp_path).iterdir()) == []


@every_scheme
def test_the_scale_of_what_was_read_does_not_matter(scheme):
    reading = seen(scheme.modules(KEY), 0.3)
    assert scheme.detect(reading, KEY).p_value == pytest.approx(scheme.detect(1e-3 * reading, KEY).p_value)


@every_scheme
def test_the_mark_hangs_on_the_key_and_the_payload_alone(scheme):
    first = scheme.embed(KEY, NONCE, SHAPE, payload(scheme))
    assert (first.shape, first.dtype) == ((3, 64, 64), np.float32)
    assert set(np.unique(first)) == {-1.0, 1.0}
    assert np.array_equal(first, scheme.embed(KEY, bytes([1]) * NONCE_BYTES, SHAPE, payload(scheme)))
    assert not np.array_equal(first, scheme.embed(OTHER, NONCE, SHAPE, payload(scheme)))
    if payload(scheme):
        assert not np.array_equal(first, scheme.embed(KEY, NONCE, SHAPE, payload(scheme, 2)))
    # Over keys every module is a fair coin, so that nothing about the mark is known without one.
    rng = np.random.default_rng(8)
    dark = np.mean([scheme.modules(MasterKey(rng.bytes(32))) for _ in range(400)], axis=0)
    assert np.abs(dark - 0.5).max() < 5 * 0.5 / math.sqrt(400)


@every_scheme
def test_what_does_not_fit_is_refused(scheme):
    held = scheme.capacity(SHAPE)
    with pytest.raises(UsageError, match="payload"):
        scheme.embed(KEY, NONCE, SHAPE, bytes(held.payload_bits // 8 + 1))
    with pytest.raises(UsageError, match="nonce"):
        scheme.embed(KEY, b"short", SHAPE)
    with pytest.raises(UsageError, match="nonce"):
        scheme.detect(seen(scheme.modules(KEY), 1.0), KEY, nonces=(b"short",))
    assert held.key_bits > 0
    assert "same pattern" in scheme.limits
