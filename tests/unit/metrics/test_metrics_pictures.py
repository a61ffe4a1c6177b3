"""Picture measures against independent references, and bad input."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import sqrtm

from auditor.errors import UsageError
from auditor.metrics.identity import cosine, impostor_scores, tar_at, threshold_at
from auditor.metrics.pixels import batched, to_network
from auditor.metrics.quality import dual_distance, psnr, ssim


def _pictures(count: int, seed: int = 0, side: int = 64) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def test_psnr_of_a_known_error() -> None:
    one = np.full((2, 8, 8, 3), 100, np.uint8)
    other = one.copy()
    other[1] += 5
    assert psnr(one, other)[0] == np.inf
    assert psnr(one, other)[1] == pytest.approx(20 * np.log10(255 / 5))


def test_ssim_is_one_for_equal_pictures_and_falls_with_noise() -> None:
    one, other = _pictures(2), _pictures(2, seed=1)
    assert ssim(one, one) == pytest.approx([1.0, 1.0])
    assert (ssim(one, other) < 0.2).all()


def test_ssim_against_a_plain_loop() -> None:
    one, other = (_pictures(1, seed, 12) for seed in (2, 3))
    grays = [(pixels[0] * [0.299, 0.587, 0.114]).sum(-1) for pixels in (one, other)]
    values = []
    for y in range(5):
        for x in range(5):
            a, b = (gray[y : y + 8, x : x + 8].ravel() for gray in grays)
            cov = np.cov(a, b, bias=True)
            top = (2 * a.mean() * b.mean() + 6.5025) * (2 * cov[0, 1] + 58.5225)
            values.append(
                top / ((a.mean() ** 2 + b.mean() ** 2 + 6.5025) * (cov[0, 0] + cov[1, 1] + 58.5225))
            )
    assert ssim(one, other)[0] == pytest.approx(np.mean(values))


def test_dual_distance_is_the_frechet_distance() -> None:
    rng = np.random.default_rng(4)
    one, other = rng.normal(size=(200, 5)), rng.normal(1, 2, size=(150, 5))
    a, b = np.cov(one, rowvar=False), np.cov(other, rowvar=False)
    expected = np.square(one.mean(0) - other.mean(0)).sum() + np.trace(a + b - 2 * np.real(sqrtm(a @ b)))
    assert dual_distance(one, other) == pytest.approx(expected)
    assert dual_distance(one, one) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("measure", [psnr, ssim])
def test_pictures_of_another_shape_or_type_are_refused(measure: object) -> None:
    with pytest.raises(UsageError):
        measure(_pictures(2), _pictures(3))  # type: ignore[operator]
    with pytest.raises(UsageError):
        measure(_pictures(2).astype(float), _pictures(2))  # type: ignore[operator]


def test_dual_distance_needs_two_rows_of_one_width() -> None:
    with pytest.raises(UsageError):
        dual_distance(np.zeros((1, 3)), np.zeros((4, 3)))
    with pytest.raises(UsageError):
        dual_distance(np.zeros((4, 2)), np.zeros((4, 3)))


def test_pictures_reach_the_network_in_range_and_resized() -> None:
    small = to_network(_pictures(2))
    assert small.shape == (2, 3, 64, 64)
    assert small.min() >= -1
    assert small.max() <= 1
    assert to_network(_pictures(2, side=128)).shape == (2, 3, 64, 64)


@pytest.mark.parametrize(
    "bad", [np.zeros((2, 64, 64), np.uint8), np.zeros((2, 64, 64, 3)), np.zeros((2, 64, 64, 4), np.uint8)]
)
def test_what_is_no_batch_of_pictures_is_refused(bad: np.ndarray) -> None:
    with pytest.raises(UsageError, match="uint8"):
        to_network(bad)


def test_no_pictures_are_an_error_and_not_an_empty_answer() -> None:
    with pytest.raises(UsageError, match="no pictures"):
        batched(_pictures(0), lambda images: images.mean((1, 2, 3)))


def test_batches_are_put_together_in_order() -> None:
    pictures = _pictures(7)
    whole = batched(pictures, lambda images: images.mean((1, 2, 3)), batch=100)
    assert np.allclose(whole, batched(pictures, lambda images: images.mean((1, 2, 3)), batch=2))


def test_the_threshold_lets_exactly_the_allowed_share_through() -> None:
    scores = np.random.default_rng(5).permutation(np.linspace(-1, 1, 10_000))
    for far in (1e-3, 1e-2, 0.25):
        assert (scores > threshold_at(scores, far)).sum() == int(10_000 * far)


def test_a_rate_that_the_pairs_cannot_show_is_refused() -> None:
    with pytest.raises(UsageError, match="1000"):
        threshold_at(np.zeros(999), 1e-3)
    with pytest.raises(UsageError, match="between 0 and 1"):
        threshold_at(np.zeros(999), 0.0)


def test_genuine_and_impostor_pairs_are_told_apart_by_row() -> None:
    rng = np.random.default_rng(6)
    vectors = rng.normal(size=(50, 16))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    assert cosine(vectors, vectors) == pytest.approx(np.ones(50))
    impostors = impostor_scores(vectors, vectors)
    assert impostors.shape == (50 * 49,)
    assert tar_at(cosine(vectors, vectors), threshold_at(impostors, 1e-2)) == 1.0
