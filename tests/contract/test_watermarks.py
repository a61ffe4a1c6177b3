"""Every watermarking scheme, held to one contract; the numbered tests are bugs that published code has."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from auditor.errors import AuditorError, UsageError
from auditor.registry import WATERMARKS
from watermark.certification import null_p_values, rows_of
from watermark.detection import Decision, Detection, Method
from watermark.keys import NONCE_BYTES, MasterKey
from watermark.scheme import LatentScheme
from watermark.tracing import trace, user_payload

SCHEMES = [scheme for scheme in WATERMARKS if isinstance(scheme, LatentScheme)]
NOISE = [scheme for scheme in SCHEMES if scheme.embed_point == "latents"]
SMALL, USUAL = (4, 16, 16), (4, 32, 32)
KEY = MasterKey(bytes(range(32)))
OTHER = MasterKey(bytes(range(1, 33)))
NULLS = 160

every_scheme = pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme.id)


def nonce(i):
    return np.random.default_rng(i).bytes(NONCE_BYTES)


def payload(scheme, shape, i=1):
    return np.random.default_rng(i).bytes(scheme.capacity(shape).payload_bits // 8)


def seen(latents, correlation, i=0):
    """Latents as an inversion finds them."""
    noise = np.random.default_rng(10_000 + i).normal(size=latents.shape)
    return correlation * latents + math.sqrt(1 - correlation**2) * noise


def known(scheme, shape, i):
    """What a detector needs beside the key."""
    return {} if scheme.capacity(shape).nonce_bits else {"nonces": (nonce(i),)}


def fixed_share(scheme, shape):
    """Part of the noise's variance that a scheme without nonces has in common between pictures."""
    return scheme.fixed_share(shape) if hasattr(scheme, "fixed_share") else 0.0


def uniform(p_values):
    return stats.kstest(p_values, "uniform").pvalue


@every_scheme
def test_01_and_05_p_is_uniform_whatever_the_picture_and_also_on_pictures_marked_with_another_key(scheme):
    p = null_p_values(scheme, SMALL, NULLS, seed=1)
    assert all(row.holds for row in rows_of(p)), rows_of(p)
    assert uniform(p) > 1e-3
    assert uniform(p[3::4]) > 1e-3


def test_02_a_p_value_at_the_level_is_marked_and_one_above_is_not():
    def decision(p):
        return Detection("x", p, Method.EXACT, 0.0, 10, floor=2.0**-40).decide(1e-6)

    assert decision(1e-6) is Decision.MARKED
    assert decision(math.nextafter(1e-6, 1)) is Decision.NOT_MARKED


@every_scheme
def test_03_a_payload_of_zeros_is_not_found_more_often_than_others(scheme):
    rng = np.random.default_rng(3)
    held = scheme.capacity(SMALL)
    p = []
    for i in range(NULLS // 2):
        key, latents = MasterKey(rng.bytes(32)), rng.normal(size=SMALL)
        given = bytes(held.payload_bits // 8) if held.payload_bits else None
        p.append(scheme.detect(latents, key, payload=given, seed=i, **known(scheme, SMALL, i)).p_value)
    assert all(row.holds for row in rows_of(np.array(p)))
    assert uniform(p) > 1e-3


@every_scheme
def test_04_two_pictures_of_one_key_have_nothing_in_common(scheme):
    first, second = (scheme.embed(KEY, nonce(i), USUAL, payload(scheme, USUAL)).ravel() for i in (1, 2))
    n = len(first)
    if share := fixed_share(scheme, USUAL):
        # A pattern of the key alone has this weakness by design, and says so.
        assert np.corrcoef(first, second)[0, 1] == pytest.approx(share, abs=4 / math.sqrt(n))
        assert "same pattern" in scheme.limits
        return
    agreeing = int((np.sign(first) == np.sign(second)).sum())
    assert abs(agreeing - n / 2) < 4 * math.sqrt(n) / 2
    assert abs(np.corrcoef(np.abs(first), np.abs(second))[0, 1]) < 4 / math.sqrt(n)


@every_scheme
def test_06_a_mark_is_told_from_none(scheme):
    latents = scheme.embed(KEY, nonce(1), USUAL, payload(scheme, USUAL))
    marked = scheme.detect(seen(latents, 0.8), KEY, **known(scheme, USUAL, 1))
    clean = scheme.detect(
        seen(np.random.default_rng(6).normal(size=USUAL), 0.8), KEY, **known(scheme, USUAL, 1)
    )
    wrong = scheme.detect(seen(latents, 0.8), OTHER, **known(scheme, USUAL, 1))
    level = max(1e-6, scheme.capacity(USUAL).floor)
    assert marked.p_value <= level
    assert min(clean.p_value, wrong.p_value) > 1e-3
    assert marked.payload == payload(scheme, USUAL)


@every_scheme
def test_07_every_scheme_answers_in_the_same_fields_as_json(scheme):
    latents = scheme.embed(KEY, nonce(1), USUAL)
    told = scheme.detect(latents, KEY, **known(scheme, USUAL, 1)).document()
    assert list(told) == list(Detection("x", 1.0, Method.EXACT, 0.0, 1, 0.5).document())
    assert json.loads(json.dumps(told)) == told
    assert 0 < told["p_value"] <= 1
    assert told["floor"] >= 0
    assert KEY.secret.hex() not in json.dumps(told)


@every_scheme
@pytest.mark.parametrize("user", ["0", "37", "199"])
def test_08_any_user_is_traced_not_only_the_first(scheme, user):
    bits = scheme.capacity(USUAL).payload_bits
    if 200 * 2.0**-bits > 1e-9:
        pytest.skip("carries too short a payload to accuse anybody by")
    latents = seen(scheme.embed(KEY, nonce(1), USUAL, user_payload(KEY, user, bits)), 0.8)
    found = scheme.detect(latents, KEY, **known(scheme, USUAL, 1))
    users = [str(i) for i in range(200)]
    told = trace(scheme, latents, KEY, found, users, alpha=1e-6, accuse=1e-9)
    assert told.accused == told.best == user
    innocent = [name for name in users if name != user]
    assert trace(scheme, latents, KEY, found, innocent, alpha=1e-6, accuse=1e-9).accused is None


@every_scheme
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_09_half_precision_keeps_every_sign(scheme, dtype):
    latents = scheme.embed(KEY, nonce(1), USUAL, payload(scheme, USUAL))
    assert latents.dtype == np.float32
    halved = torch.from_numpy(latents).to(dtype)
    assert bool((halved.float().sign().numpy() == np.sign(latents)).all())
    assert (latents != 0).all()
    assert scheme.detect(halved, KEY, **known(scheme, USUAL, 1)).payload == payload(scheme, USUAL)


@every_scheme
@pytest.mark.parametrize("shape", [(4, 33, 31), (16, 8, 20), (16, 17, 13), (4, 64, 24)])
def test_11_any_shape_is_marked_and_read_or_refused(scheme, shape):
    try:
        scheme.capacity(shape)
    except UsageError as refusal:
        assert "needs" in str(refusal)
        return
    latents = scheme.embed(KEY, nonce(1), shape, payload(scheme, shape))
    assert latents.shape == shape
    found = scheme.detect(seen(latents, 0.9), KEY, **known(scheme, shape, 1))
    assert found.p_value <= max(1e-6, scheme.capacity(shape).floor)
    assert found.payload == payload(scheme, shape)


@every_scheme
@pytest.mark.parametrize(
    "latents",
    [
        np.full(USUAL, np.nan),
        np.zeros(USUAL),
        np.ones((2, *USUAL)),
        np.ones((4, 2, 2)),
        np.full(USUAL, np.inf),
    ],
    ids=["nan", "zero", "four axes", "tiny", "inf"],
)
def test_12_what_cannot_be_judged_is_an_error_and_never_unmarked(scheme, latents):
    with pytest.raises(AuditorError) as refusal:
        scheme.detect(latents, KEY, nonces=(nonce(1),))
    assert str(refusal.value).count("\n") == 0


@every_scheme
def test_13_nothing_is_written_to_the_working_folder(scheme, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scheme.detect(scheme.embed(KEY, nonce(1), SMALL), KEY, nonces=(nonce(1),))
    assert list(Path(tmp_path).iterdir()) == []


@every_scheme
def test_14_looking_for_many_nonces_raises_no_more_alarms(scheme):
    rng, p = np.random.default_rng(14), []
    for i in range(NULLS // 4):
        nonces = tuple(rng.bytes(NONCE_BYTES) for _ in range(8))
        found = scheme.detect(rng.normal(size=SMALL), MasterKey(rng.bytes(32)), nonces=nonces, seed=i)
        assert found.looks >= 1
        p.append(found.p_value)
    assert all(row.holds for row in rows_of(np.array(p)))


@pytest.mark.parametrize("scheme", NOISE, ids=lambda scheme: scheme.id)
def test_marked_noise_is_standard_normal(scheme):
    values = np.stack(
        [scheme.embed(KEY, nonce(i), SMALL, payload(scheme, SMALL)).ravel() for i in range(150)]
    )
    assert abs(values.mean()) < 5 / math.sqrt(values.size)
    assert stats.kstest(values.ravel()[::7], "norm").pvalue > 1e-4
    if fixed_share(scheme, SMALL):
        return
    # Coordinate by coordinate too: a key that fixes where large values go shows here.
    spread = (values**2).sum(axis=0)
    assert stats.kstest(spread, stats.chi2(len(values)).cdf).pvalue > 1e-4


@every_scheme
def test_marking_is_deterministic_and_hangs_on_key_nonce_and_payload(scheme):
    first = scheme.embed(KEY, nonce(1), USUAL, payload(scheme, USUAL))
    assert np.array_equal(first, scheme.embed(KEY, nonce(1), USUAL, payload(scheme, USUAL)))
    assert not np.array_equal(first, scheme.embed(KEY, nonce(2), USUAL, payload(scheme, USUAL)))
    assert not np.array_equal(first, scheme.embed(OTHER, nonce(1), USUAL, payload(scheme, USUAL)))


@every_scheme
def test_what_does_not_fit_is_refused(scheme):
    held = scheme.capacity(USUAL)
    with pytest.raises(UsageError, match="payload"):
        scheme.embed(KEY, nonce(1), USUAL, bytes(held.payload_bits // 8 + 1))
    with pytest.raises(UsageError, match="nonce"):
        scheme.embed(KEY, b"short", USUAL)
    with pytest.raises(UsageError, match="nonce"):
        scheme.detect(scheme.embed(KEY, nonce(1), USUAL), KEY, nonces=(b"short",), payload=b"")
    assert held.key_bits > 0
    assert scheme.limits
