"""Noise prints: found in clean latents without a denoiser, at their level where they are not."""

import math

import numpy as np
import pytest
from scipy import stats

from auditor.errors import UsageError
from watermark.engine.prints import best_print, whitened
from watermark.first_rung import print_test
from watermark.issued import Issued
from watermark.keys import MasterKey
from watermark.schemes.gaussian_shading import GaussianShading
from watermark.schemes.hstr import Hstr
from watermark.schemes.noise_print import NoisePrint
from watermark.schemes.prc import PRC
from watermark.schemes.tail_sign import TailSign

KEY = MasterKey(bytes(range(32)))
SHAPE = (4, 32, 32)
SCHEMES = [NoisePrint(), GaussianShading(), TailSign(), PRC()]
each = pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme.id)


def nonce(i):
    return i.to_bytes(12, "big")


def shading(shape, seed=0):
    drawn = np.cumsum(np.cumsum(np.random.default_rng(seed).normal(size=shape), axis=1), axis=2)
    return drawn / drawn.std()


def asked(latents):
    return "asked"


def refused(latents):
    raise AssertionError("the print was not looked for")


def log(scheme, count, word=b""):
    return [Issued(nonce(i).hex(), KEY.id, scheme.id, word.hex(), SHAPE, f"{i}.png") for i in range(count)]


@each
def test_over_keys_the_cosine_of_the_noise_with_any_picture_is_that_of_a_uniform_direction(scheme):
    assert scheme.isotropic
    rng, shape, p = np.random.default_rng(1), (4, 16, 16), []
    pictures = [shading(shape), np.abs(shading(shape, 1)), np.eye(16)[None].repeat(4, 0), rng.normal(size=shape)]
    for i in range(400):
        noise = scheme.embed(MasterKey(rng.bytes(32)), nonce(1), shape).astype(float)
        p.append(best_print("s", pictures[i % 4], [(nonce(1), b"", noise)], 1e-70).p_value)
    assert stats.kstest(p, "uniform").pvalue > 1e-3


@each
def test_the_log_finds_the_noise_that_a_faint_print_is_of(scheme):
    word = bytes([5]) * (scheme.capacity(SHAPE).payload_bits // 8)
    test = print_test(scheme, KEY, log(scheme, 20, word), refused)
    noise = scheme.embed(KEY, nonce(7), SHAPE, word)
    found = test((0.25 * noise + shading(SHAPE)).astype(np.float32))
    assert found.p_value < 1e-6
    assert (found.nonce, found.payload, found.looks) == (nonce(7), word, 20)
    assert found.details["noise_print"] is True
    assert test(shading(SHAPE, 3)).p_value > 1e-3
    if word:
        # With a payload that was never issued there is nothing to look for.
        other = bytes([6]) * len(word)
        assert print_test(scheme, KEY, log(scheme, 3, word), asked, other)(noise) == "asked"


def test_only_noise_that_can_be_made_again_is_looked_for():
    scheme, bare = TailSign(), Issued(nonce(1).hex(), "", "", "", (0, 0, 0), "")
    for entries, other in ((log(Hstr(), 3), Hstr()), (log(NoisePrint(), 3), scheme), ([bare], scheme)):
        assert print_test(other, KEY, entries, asked)(shading(SHAPE)) == "asked"
    assert print_test(scheme, KEY, log(scheme, 3, b"\1" * 8), asked)(shading((4, 16, 16))) == "asked"
    with pytest.raises(ValueError, match="no noise to compare"):
        best_print("s", shading(SHAPE), [], 1e-70)


def test_whitening_makes_a_print_stronger_and_turns_nothing_around():
    noise = np.random.default_rng(0).normal(size=SHAPE)
    picture = shading(SHAPE) + 0.2 * noise
    plain = np.corrcoef(noise.ravel(), picture.ravel())[0, 1]
    assert np.corrcoef(noise.ravel(), whitened(picture).ravel())[0, 1] > 2 * plain
    assert np.allclose(whitened(-3 * picture), -whitened(picture))
    assert np.isfinite(whitened(np.ones(SHAPE))).all()


def test_the_p_value_is_the_tail_of_students_t_times_the_looks():
    rng = np.random.default_rng(2)
    picture, noise = rng.normal(size=SHAPE), rng.normal(size=(3, *SHAPE))
    found = best_print("s", picture, [(nonce(i), b"", each) for i, each in enumerate(noise)], 1e-70)
    r, n = found.details["cosine"], picture.size
    expected = stats.t.sf(r * math.sqrt((n - 1) / (1 - r * r)), n - 1)
    assert found.p_value == pytest.approx(min(1, 3 * expected))


def test_it_says_what_it_needs():
    with pytest.raises(UsageError, match="issued nonces"):
        NoisePrint().detect(shading(SHAPE), KEY)
    with pytest.raises(UsageError, match="needs 256"):
        NoisePrint().capacity((4, 4, 4))
