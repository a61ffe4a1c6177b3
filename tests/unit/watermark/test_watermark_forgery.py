"""Forgeries and their price, and what stands against them."""

from functools import partial

import numpy as np
import pytest
import torch
from scipy import ndimage

from auditor.errors import UsageError
from auditor.pipeline.denoiser import Denoiser
from auditor.pipeline.sampling import ddim_invert
from auditor.pipeline.subject import Subject
from watermark.detection import Detection, Method
from watermark.forgery.averaging import averaged
from watermark.forgery.binding import binding_of, bound_nonce, fresh_bytes, nearest_anchors
from watermark.forgery.copying import copied
from watermark.forgery.forged import Forged, forgery_rate
from watermark.forgery.imprint import approached, imprinted, lifted
from watermark.forgery.replay import Standing, distance, perceptual_hash, standing
from watermark.forgery.reprompt import reprompted
from watermark.forgery.two_sided import two_sided
from watermark.keys import MasterKey
from watermark.removal.catalogue import SIGNAL
from watermark.schemes.tree_ring import TreeRing

KEY = MasterKey(bytes(range(32)))


def pictures(count, side=16, seed=0):
    drawn = torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(seed))
    return torch.from_numpy(ndimage.gaussian_filter(drawn.numpy(), (0, 0, 1.5, 1.5)) * 3).clamp(-1, 1)


def detection(p, floor=1e-12):
    return Detection(scheme="s", p_value=p, method=Method.EXACT, statistic=0.0, n=1, floor=floor)


@pytest.fixture(scope="module")
def view(tiny_base):
    return Subject(tiny_base("sd1"), []).base


def test_the_rate_counts_what_is_accepted_and_not_refused():
    forged = Forged(torch.zeros(4, 3, 8, 8), calls=80, marked=4)
    found = [detection(p) for p in (1e-9, 1e-6, 1e-3, 1e-8)]
    rate = forgery_rate(forged, found, 1e-6)
    assert (rate.accepted, rate.n, rate.calls, rate.marked) == (3, 4, 20, 4)
    assert rate.low < 0.75 < rate.high
    assert forgery_rate(forged, found, 1e-6, refused=[True, False, False, True]).accepted == 1
    with pytest.raises(UsageError, match="out of reach"):
        forgery_rate(forged, [detection(0.5, floor=1e-4)] * 4, 1e-6)
    with pytest.raises(UsageError, match="as many detections"):
        forgery_rate(forged, found[:2], 1e-6)


@pytest.mark.parametrize("family", ["sd1", "sd2"])
def test_lifting_is_the_inversion_of_the_sampler(tiny_base, family):
    view = Subject(tiny_base(family), []).base
    clean, condition = view.encode_image(pictures(2)), view.encode_prompt(["", ""])
    with torch.no_grad():
        found = lifted(Denoiser(view.components), clean, condition, 5)
    expected = ddim_invert(view.denoiser, clean, condition, condition, 5)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_an_imprint_moves_inverted_noise_towards_its_aim_and_rows_do_not_mix(view):
    denoiser, condition = Denoiser(view.components), view.encode_prompt(["", ""])
    cover, marked = view.encode_image(pictures(2)), view.encode_image(pictures(2, seed=1))
    given = {"rounds": 10, "rate": 0.01, "inversion_steps": 2}
    for sign, other in ((1.0, marked), (-1.0, cover)):
        with torch.no_grad():
            aim = sign * lifted(denoiser, other, condition, 2)
        found = approached(denoiser, cover, aim, condition, **given)
        with torch.no_grad():
            near, far = (
                (lifted(denoiser, z, condition, 2) - aim).square().mean(dim=(1, 2, 3)) for z in (found, cover)
            )
        assert (near < 0.9 * far).all()
        alone = approached(denoiser, cover[1:], aim[1:], condition[1:], **given)
        np.testing.assert_allclose(alone[0], found[1], atol=2e-3)


def test_an_imprint_counts_its_calls(view):
    forged = imprinted(view, pictures(2), pictures(2, seed=1), rounds=3, inversion_steps=2)
    assert forged.images.shape == (2, 3, 16, 16)
    assert (forged.calls, forged.marked) == (3 * 3 * 2 * 2 + 2 * 2, 2)
    with pytest.raises(UsageError, match="same size"):
        imprinted(view, pictures(1), pictures(2))


def test_a_reprompt_draws_from_the_inverted_noise(view):
    marked = pictures(2)
    forged = reprompted(view, marked, ["a red ball", "a cat"], steps=3, guidance=1.0)
    noise = view.invert(marked, ["", ""], steps=3)
    noise = noise / noise.square().mean((1, 2, 3), keepdim=True).sqrt()
    drawn = view.sample(["a red ball", "a cat"], [0, 0], steps=3, guidance=1.0, noise=noise)
    np.testing.assert_allclose(forged.images, drawn, atol=1e-5)
    assert (forged.calls, forged.marked) == (12, 2)
    again = reprompted(view, marked, ["a red ball", "a cat"], seeds=[1, 2], steps=3, guidance=1.0)
    assert (again.images != forged.images).any()
    with pytest.raises(UsageError, match="one prompt"):
        reprompted(view, marked, ["a cat"])


def test_copies_and_averages_carry_the_structure_over_and_the_picture_stays():
    pattern = 0.2 * torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(3))
    cover = pictures(1, seed=9) / 2
    scenes = [pictures(150, seed=seed) / 2 for seed in (4, 5)]
    for forged in (
        copied(cover, cover.roll(5, 2) + pattern, sigma=2.0),
        averaged(cover, scenes[0] + pattern, scenes[1]),
    ):
        change = (forged.images - cover).flatten()
        assert torch.corrcoef(torch.stack([change, pattern.flatten()]))[0, 1] > 0.6
        assert forged.calls == 0
    assert averaged(cover, scenes[0], scenes[1]).marked == 150
    with pytest.raises(UsageError, match="same size"):
        copied(cover, pictures(2))
    with pytest.raises(UsageError, match="size of the marked"):
        averaged(pictures(1, side=8), scenes[0], scenes[1])


def test_turned_over_noise_is_found_on_the_other_side_at_two_looks():
    scheme = TreeRing()
    marked = scheme.embed(KEY, bytes(12), (4, 32, 32))
    plain = scheme.detect(marked, KEY).p_value
    for latents, turned in ((marked, False), (-marked, True)):
        found = two_sided(latents, partial(scheme.detect, key=KEY))
        assert found.p_value == pytest.approx(2 * plain)
        assert found.looks == 2
        assert found.details["turned_over"] is turned
    rng = np.random.default_rng(0)
    keys = [MasterKey(rng.bytes(32)) for _ in range(400)]
    nulls = [two_sided(marked, partial(scheme.detect, key=key)).p_value for key in keys]
    assert sum(p <= 0.1 for p in nulls) < 65


def test_anchors_are_the_nearest_by_cosine():
    rng = np.random.default_rng(0)
    anchors, one = rng.normal(size=(20, 8)), rng.normal(size=8)
    cosines = [anchor @ one / np.linalg.norm(anchor) / np.linalg.norm(one) for anchor in anchors]
    assert nearest_anchors(one, anchors, 3) == sorted(range(20), key=lambda i: -cosines[i])[:3]
    with pytest.raises(UsageError, match="do not go together"):
        nearest_anchors(one, anchors, 21)


@pytest.mark.parametrize("length", [12, 4])
def test_a_nonce_is_bound_to_its_anchor_and_key_and_to_no_other(length):
    rng = np.random.default_rng(0)
    fresh = rng.bytes(fresh_bytes(length))
    nonce = bound_nonce(KEY, 7, fresh, length)
    assert len(nonce) == 12
    assert nonce.startswith(fresh)
    # As much of it as the header carried is enough.
    assert binding_of(KEY, nonce[:length], [3, 7], length).anchor == 7
    assert binding_of(KEY, nonce, [3, 5, 11], length).anchor is None
    assert binding_of(MasterKey(bytes(32)), nonce, [3, 7], length).anchor is None
    flipped = bytes([nonce[0] ^ 1]) + nonce[1:]
    assert binding_of(KEY, flipped, [7], length).anchor is None
    with pytest.raises(UsageError, match="fresh ones"):
        bound_nonce(KEY, 7, fresh + b"x", length)
    with pytest.raises(UsageError, match="one anchor or more"):
        binding_of(KEY, nonce, [], length)


def test_a_witness_says_what_speaks_against_a_mark():
    from watermark.forgery.anchors import CAPTIONS, prompt_anchor
    from watermark.forgery.witness import Witness, witness
    from watermark.issued import Issued

    assert CAPTIONS[prompt_anchor("a red car on a plain ground")] == "a picture of a car"
    assert len(set(CAPTIONS)) == len(CAPTIONS)
    image, nonce = pictures(1, side=64)[0], bytes(range(12))
    looks = [f"{perceptual_hash(each):016x}" for each in (image, pictures(1, side=64, seed=5)[0])]
    log = [Issued(nonce.hex(), KEY.id, "s", "", (4, 16, 16), "a.png", look) for look in looks]
    for entries, expected in (
        (log, Standing.GENUINE),
        (log[::-1], Standing.GENUINE),
        (log[1:], Standing.OTHER_PICTURE),
        ([], Standing.NEVER_ISSUED),
        ([Issued(nonce.hex(), "", "", "", (0, 0, 0), "")], Standing.ISSUED),
    ):
        # A header carries the beginning of a nonce only.
        found = witness(KEY, nonce[:4], image, 4, entries, bind=False)
        assert found.standing is expected
        assert bool(found.against) == (expected in (Standing.OTHER_PICTURE, Standing.NEVER_ISSUED))
    assert witness(KEY, nonce, image, 12, None, bind=True).against == "its nonce is not bound to what the picture shows"
    assert Witness().document() == {}


def test_a_tag_of_random_bits_fits_as_rarely_as_is_said():
    rng = np.random.default_rng(1)
    anchors = list(range(64))
    told = binding_of(KEY, rng.bytes(12), anchors, 4).chance
    hits = sum(binding_of(KEY, rng.bytes(12), anchors, 4).anchor is not None for _ in range(300))
    assert told == pytest.approx(64 / 65536)
    assert hits <= 5
    with pytest.raises(UsageError, match="4 to 12 bytes"):
        fresh_bytes(3)


def test_the_log_tells_a_copy_from_another_picture_and_from_a_nonce_that_was_never_issued():
    images = pictures(12, side=64)
    issued = {bytes([i]) * 12: perceptual_hash(image) for i, image in enumerate(images)}
    for name, strength in (("jpeg", 50), ("resize", 0.5), ("brightness", 0.8), ("noise", 0.02)):
        copies = SIGNAL[name].apply(images, strength, list(range(12)))
        assert all(standing(bytes([i]) * 12, copies[i], issued) is Standing.GENUINE for i in range(12))
    assert all(standing(bytes([i]) * 12, images[i - 1], issued) is Standing.OTHER_PICTURE for i in range(12))
    assert standing(bytes(11) + b"x", images[0], issued) is Standing.NEVER_ISSUED
    assert distance(0b1011, 0b0010) == 2
