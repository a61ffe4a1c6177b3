"""Attacks on pictures, against other libraries that do the same."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from torchvision.transforms import functional as reference

from auditor.errors import UsageError
from auditor.pipeline.subject import Subject
from watermark.removal.adversarial import against_encoder, against_surrogate, descend, train_surrogate
from watermark.removal.averaging import averaging, common_pattern
from watermark.removal.catalogue import SIGNAL, removal, removals
from watermark.removal.regeneration import regenerated

SEEDS = [3, 4, 5]


def pictures(count=3, height=24, width=32):
    smooth = torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(0))
    return torch.from_numpy(ndimage.gaussian_filter(smooth.numpy(), (0, 0, 1.5, 1.5)) * 3).clamp(-1, 1)


def unit(images):
    return (images + 1) / 2


def check(name, strength, expected, atol=2e-6):
    found = unit(SIGNAL[name].apply(pictures(), strength, SEEDS))
    np.testing.assert_allclose(found, expected, atol=atol)


def test_jpeg_is_that_of_the_library():
    whole = (unit(pictures()) * 255).round().byte()
    expected = []
    for image in whole:
        file = io.BytesIO()
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, "JPEG", quality=40)
        expected.append(np.asarray(Image.open(file)).transpose(2, 0, 1))
    assert (SIGNAL["jpeg"].apply(whole, 40, SEEDS).numpy() == np.stack(expected)).all()


def test_resizing_is_bicubic_with_antialiasing():
    small = reference.resize(unit(pictures()), [12, 16], reference.InterpolationMode.BICUBIC, antialias=True)
    back = reference.resize(small.clamp(0, 1), [24, 32], reference.InterpolationMode.BICUBIC, antialias=True)
    check("resize", 0.5, back.clamp(0, 1))


@pytest.mark.parametrize("sigma", [0.5, 2, 8])
def test_blur_is_gaussian(sigma):
    check(
        "blur", sigma, ndimage.gaussian_filter(unit(pictures()), (0, 0, sigma, sigma), mode="nearest"), 1e-5
    )


def test_median_is_over_a_square():
    expected = [
        [ndimage.median_filter(plane, 5, mode="nearest") for plane in image] for image in unit(pictures())
    ]
    check("median", 5, np.array(expected))
    with pytest.raises(UsageError, match="odd"):
        SIGNAL["median"].apply(pictures(), 4, SEEDS)


def test_brightness_and_contrast_are_those_of_the_library():
    check("brightness", 1.7, reference.adjust_brightness(unit(pictures()), 1.7))
    check("contrast", 0.4, reference.adjust_contrast(unit(pictures()), 0.4), 1e-5)


@pytest.mark.parametrize("degrees", [5, 90, -30])
def test_rotation_is_that_of_the_library(degrees):
    bilinear = reference.InterpolationMode.BILINEAR
    check("rotation", degrees, reference.rotate(unit(pictures()), degrees, bilinear), 1e-4)


def test_a_quarter_turn_of_a_square_is_exact():
    square = pictures(height=16, width=16)
    turned = SIGNAL["rotation"].apply(square, 90, SEEDS)
    np.testing.assert_allclose(turned, torch.rot90(square, 1, (2, 3)), atol=1e-5)


def test_crops_are_windows_of_the_asked_area_and_scaled_back_to_the_size():
    images = pictures(height=32, width=40)
    cut = SIGNAL["crop"].apply(images, 0.25, SEEDS)
    assert cut.shape == (3, 3, 16, 20)
    for image, part in zip(images, cut, strict=True):
        windows = image.unfold(1, 16, 1).unfold(2, 20, 1)
        assert ((windows - part[:, None, None]).abs().amax(dim=(0, 3, 4)) < 1e-6).sum() == 1
    scaled = SIGNAL["crop_and_scale"].apply(images, 0.25, SEEDS)
    bicubic = reference.InterpolationMode.BICUBIC
    expected = reference.resize(unit(cut), [32, 40], bicubic, antialias=True).clamp(0, 1)
    np.testing.assert_allclose(unit(scaled), expected, atol=2e-6)


def test_noise_has_the_size_that_is_asked_for():
    grey = torch.zeros(3, 3, 64, 64)
    change = unit(SIGNAL["noise"].apply(grey, 0.05, SEEDS)) - 0.5
    assert change.std().item() == pytest.approx(0.05, rel=0.03)
    assert change[0].flatten().dot(change[1].flatten()).abs() / change[0].square().sum() < 0.05


@pytest.mark.parametrize("name", sorted(SIGNAL))
def test_an_attack_is_deterministic_keeps_the_type_and_does_not_mix_rows(name):
    attack = SIGNAL[name]
    strength = attack.grid[-1]
    for images in (pictures(), (unit(pictures()) * 255).byte(), pictures().half()):
        before = images.clone()
        together = attack.apply(images, strength, SEEDS)
        assert together.dtype == images.dtype
        assert (images == before).all()
        alone = torch.cat([attack.apply(images[i : i + 1], strength, SEEDS[i : i + 1]) for i in (2, 0)])
        np.testing.assert_allclose(alone.float(), together[[2, 0]].float(), atol=1e-3)


@pytest.mark.parametrize("name", sorted(SIGNAL))
def test_bad_input_is_named(name):
    attack = SIGNAL[name]
    with pytest.raises(UsageError, match="B, 3, H, W"):
        attack.apply(pictures()[:, :1], attack.grid[0], SEEDS)
    with pytest.raises(UsageError, match="one seed a picture"):
        attack.apply(pictures(), attack.grid[0], [1])
    with pytest.raises(UsageError, match="out of range"):
        attack.apply(pictures(), attack.most + 1, SEEDS)
    with pytest.raises(UsageError, match="bytes or of floats"):
        attack.apply(pictures().int(), attack.grid[0], SEEDS)
    assert all(attack.least <= strength <= attack.most for strength in attack.grid)
    assert attack.refs
    assert len(attack.goal) > 10


def test_averaging_finds_and_takes_off_a_common_pattern():
    generator = torch.Generator().manual_seed(0)
    pattern = 0.1 * torch.randn(3, 16, 16, generator=generator)
    scenes = 0.2 * torch.randn(800, 3, 16, 16, generator=generator)
    marked, clean = scenes[:400] + pattern, scenes[400:]
    found = common_pattern(marked, clean)
    assert torch.corrcoef(torch.stack([found.flatten(), pattern.flatten()]))[0, 1] > 0.95
    target = 0.2 * torch.randn(1, 3, 16, 16, generator=generator)
    attack = averaging(marked, clean)
    np.testing.assert_allclose(attack.apply(target + pattern, 1, [0]), target + pattern - found, atol=1e-6)
    with pytest.raises(UsageError, match="16x16"):
        attack.apply(pictures(), 1, SEEDS)
    with pytest.raises(UsageError, match="one size"):
        common_pattern(marked[:0], clean)


def test_descent_stays_within_its_radius_and_lowers_the_loss_of_every_row():
    images = unit(pictures())
    aim = images.roll(1, 0)

    def loss_to(aim):
        return lambda now: (now - aim).square().sum(dim=(1, 2, 3))

    found = descend(images, loss_to(aim), 4 / 255, 10, SEEDS)
    assert (found - images).abs().max() <= 4 / 255 + 1e-6
    assert (loss_to(aim)(found) < loss_to(aim)(images)).all()
    alone = descend(images[1:2], loss_to(aim[1:2]), 4 / 255, 10, SEEDS[1:2])
    np.testing.assert_allclose(alone, found[1:2], atol=1e-6)


def test_a_surrogate_learns_a_pattern_and_is_fooled_within_the_radius():
    generator = torch.Generator().manual_seed(1)
    scenes = 0.3 * torch.randn(96, 3, 16, 16, generator=generator)
    pattern = 0.15 * torch.randn(3, 16, 16, generator=generator)
    net = train_surrogate(scenes[:48] + pattern, scenes[48:], seed=0, steps=60, batch=16)
    marked = (0.3 * torch.randn(16, 3, 16, 16, generator=generator) + pattern).clamp(-1, 1)
    assert (net(marked) > 0).float().mean() > 0.9
    attacked = against_surrogate(net, steps=5).apply(marked, 16, list(range(16)))
    assert (net(attacked) > 0).float().mean() < 0.2
    assert ((attacked - marked) * 127.5).abs().max() <= 16.01


@pytest.fixture(scope="module")
def view(tiny_base):
    return Subject(tiny_base("sd1"), []).base


def test_a_model_s_attacks_are_deterministic_and_do_not_mix_rows(view):
    images = pictures(height=16, width=16)
    for name in ("vae", "regeneration", "adversarial_encoder"):
        attack = removal(name, view)
        together = attack.apply(images, attack.grid[0], SEEDS)
        assert together.shape == images.shape
        assert (together != images).any()
        alone = attack.apply(images[1:2], attack.grid[0], SEEDS[1:2])
        assert (alone - together[1:2]).abs().mean() < 1e-3
    assert set(removals(view)) == {*SIGNAL, "vae", "regeneration", "adversarial_encoder"}
    with pytest.raises(UsageError, match=r"unknown attack.*median"):
        removal("medain", view)


def test_round_trips_are_those_of_the_autoencoder(view):
    images = pictures(height=16, width=16)
    expected = view.decode(view.encode_image(view.decode(view.encode_image(images))))
    np.testing.assert_allclose(removal("vae", view).apply(images, 2, SEEDS), expected, atol=1e-5)


def test_the_encoder_is_driven_further_than_by_noise_of_the_same_size(view):
    images = pictures(height=16, width=16)
    attacked = against_encoder(view.components, steps=5).apply(images, 8, SEEDS)
    random = (images + (attacked - images)[:, :, torch.randperm(16), :]).clamp(-1, 1)
    before = view.encode_image(images)
    moved = [(view.encode_image(each) - before).square().mean().item() for each in (attacked, random)]
    assert moved[0] > 2 * moved[1]


@pytest.mark.parametrize("family", ["sd1", "sd2", "sd3", "flux"])
def test_regeneration_of_almost_nothing_is_almost_nothing_on_every_schedule(tiny_base, family):
    view = Subject(tiny_base(family), []).base
    clean = view.encode_image(pictures(height=16, width=16))
    little, much = (regenerated(view, clean, strength, SEEDS) for strength in (0.002, 0.9))
    assert (little - clean).abs().mean() < 0.2 * (much - clean).abs().mean()
