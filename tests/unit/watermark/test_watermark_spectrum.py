"""Coordinates of a spectrum, rings and directions, against transforms and tails written out."""

import numpy as np
import pytest
from scipy import stats

from watermark.engine.rings import Rings
from watermark.engine.spectrum import Spectrum
from watermark.engine.sphere import cosine, cosine_p
from watermark.engine.window import Window

SIZES = [(16, 16), (8, 9), (17, 23), (12, 20)]


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_what_is_written_is_read_back_and_nothing_else_changes(height, width):
    rng = np.random.default_rng(0)
    spectrum = Spectrum(height, width)
    planes, values = rng.normal(size=(3, height, width)), rng.normal(size=(3, 2, height, spectrum.columns))
    written = spectrum.write(planes, values)
    np.testing.assert_allclose(spectrum.read(written), values, atol=1e-12)
    np.testing.assert_allclose(spectrum.write(written, spectrum.read(planes)), planes, atol=1e-12)
    other = [0, *([width // 2] if width % 2 == 0 else [])]
    np.testing.assert_allclose(
        np.fft.rfft2(written)[..., other], np.fft.rfft2(planes)[..., other], atol=1e-10
    )


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_coordinates_are_cosines_and_sines_about_the_middle(height, width):
    plane = np.random.default_rng(1).normal(size=(height, width))
    found = Spectrum(height, width).read(plane)
    y, x = np.mgrid[:height, :width]
    y, x = y - (height - 1) / 2, x - (width - 1) / 2
    for row, column in ((0, 1), (3, 2), (height - 1, 1)):
        down = np.fft.fftfreq(height)[row]
        phase = 2 * np.pi * (down * y + column / width * x)
        norm = np.sqrt(2 / (height * width))
        assert found[0, row, column - 1] == pytest.approx(norm * (np.cos(phase) * plane).sum())
        assert found[1, row, column - 1] == pytest.approx(-norm * (np.sin(phase) * plane).sum())


def test_a_pattern_without_the_symmetry_is_halved_by_taking_the_real_part():
    # What the published embedding does: a complex height on whole rings, and the real part of what comes back.
    height = 1 + 2j
    radius = np.hypot(*np.meshgrid(np.fft.fftfreq(16, 1 / 16), np.fft.fftfreq(16, 1 / 16)))
    ring = np.rint(radius) == 4
    back = np.fft.fft2(np.fft.ifft2(np.where(ring, height, 0)).real)[ring]
    np.testing.assert_allclose(back, height.real, atol=1e-12)


def test_rings_hold_their_heights_when_the_picture_is_turned_or_mirrored():
    rng = np.random.default_rng(2)
    rings = Rings(Spectrum(16, 16), 2, 6)
    plane = rng.normal(size=(16, 16))
    sums = rings.sums(rings.spectrum.read(plane)[0])
    for same in (plane[::-1], plane[:, ::-1], plane[::-1, ::-1]):
        np.testing.assert_allclose(rings.sums(rings.spectrum.read(same)[0]), sums, atol=1e-10)
    values = rings.spectrum.read(plane)
    heights = np.array([2.0, -1, 0.5, -2, 1])
    values[0] = rings.spread(heights, values[0])
    marked = rings.spectrum.write(plane, values)
    turned = rings.sums(rings.spectrum.read(np.rot90(marked))[0]) / rings.sizes
    assert cosine(turned, heights) > 0.9


def test_sums_and_sizes_of_rings_by_brute_force():
    rings = Rings(Spectrum(17, 23), 1, 5)
    cells = np.random.default_rng(3).normal(size=(2, 17, 11))
    for ring in range(5):
        down, across = np.fft.fftfreq(17, 1 / 17), np.arange(1, 12) * 17 / 23
        on = np.abs(np.hypot(down[:, None], across) - (ring + 1)) <= 0.5
        assert rings.sizes[ring] == on.sum()
        np.testing.assert_allclose(rings.sums(cells)[:, ring], cells[:, on].sum(axis=1))


@pytest.mark.parametrize("dimensions", [2, 3, 20, 348])
def test_the_tail_of_a_cosine_is_that_of_the_beta_law(dimensions):
    for value in (-0.9, -0.1, 0.0, 0.3, 0.99):
        beta = stats.beta(*[(dimensions - 1) / 2] * 2).sf((1 + value) / 2)
        assert cosine_p(value, dimensions) == pytest.approx(beta, rel=1e-9)
    assert cosine_p(0.5, 2) == pytest.approx(np.arccos(0.5) / np.pi)
    assert cosine_p(0.5, 3) == pytest.approx(0.25)


def test_the_tail_of_a_cosine_by_simulation_and_at_its_ends():
    rng = np.random.default_rng(4)
    keys, found = rng.normal(size=(20000, 20)), rng.exponential(size=20)
    p = [cosine_p(cosine(key, found), 20) for key in keys]
    assert stats.kstest(p, "uniform").pvalue > 0.01
    assert cosine_p(-1.0, 20) == 1
    assert 0 < cosine_p(1.0, 348) < 1e-300
    assert cosine(np.ones(3), np.zeros(3)) == 0
    with pytest.raises(ValueError, match="two dimensions"):
        cosine_p(0.5, 1)


def test_levelling_brings_every_band_to_one_size():
    spectrum = Spectrum(32, 32)
    values = spectrum.read(np.random.default_rng(5).normal(size=(2, 32, 32))) * (
        1 + 100 * (spectrum.radii < 3)
    )
    levelled = spectrum.levelled(values)
    for radius in (2, 7, 12):
        band = np.rint(spectrum.radii) == radius
        assert 0.8 < np.square(levelled[..., band]).mean() < 1.01


def test_the_window_is_the_published_one_and_all_of_small_latents():
    assert Window.of(64, 64) == Window(10, 10, 44, 44)
    assert Window.of(128, 64) == Window(20, 10, 88, 44)
    assert Window.of(32, 96) == Window(0, 0, 32, 96)
