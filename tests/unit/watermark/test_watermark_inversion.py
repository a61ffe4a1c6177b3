"""The ladder: shares, early exit, batches, and a model that is the same afterwards."""

import hashlib

import numpy as np
import pytest
import torch
from PIL import Image

from auditor.errors import MalformedArtifact, UsageError
from auditor.pipeline.sampling import seeded_noise
from auditor.pipeline.subject import Subject
from watermark.detection import Detection, Method
from watermark.inversion import LADDER, Encoding, Rung, climb, invert
from watermark.pictures import read_picture, write_picture

SHORT = (Rung(0, 0, 4), Rung(1, 1, 4), Rung(3, 2, 2))


@pytest.fixture(params=["sd1", "sd2", "sdxl", "sd3", "flux"])
def view(request, tiny_base):
    return Subject(tiny_base(request.param), ()).base


@pytest.fixture
def plain(tiny_base):
    return Subject(tiny_base("sd1"), ()).base


def pictures(count, size=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 3, size, size, generator=generator) * 2 - 1


def state(view):
    digest = hashlib.sha256()
    for module in view.components.modules.values():
        for tensor in module.state_dict().values():
            digest.update(tensor.numpy().tobytes() + str(tensor.dtype).encode())
    return digest.hexdigest()


def detection(p):
    return Detection("x", p, Method.EXACT, 0.0, 10, 2.0**-60)


def test_shares_of_the_ladder_add_up_to_the_level():
    for ladder in (LADDER, SHORT):
        assert sum(1 / rung.looks for rung in ladder) == 1
    assert [rung.steps for rung in LADDER] == [0, 2, 5, 20]


def test_15_every_family_is_inverted_and_left_as_it_was(view):
    before, scheduler, config = state(view), view.components.scheduler, dict(view.components.scheduler.config)
    noise = invert(view, pictures(2), steps=2, rounds=1)
    assert noise.shape == (2, *view.latent_shape())
    assert noise.dtype == np.float32
    assert np.isfinite(noise).all()
    assert state(view) == before
    assert view.components.scheduler is scheduler
    assert dict(scheduler.config) == config


def test_inversion_finds_the_noise_that_was_drawn_from(view):
    noise = seeded_noise(view.latent_shape(), [1, 2])
    clean = view.denoiser
    from auditor.pipeline.samplers import draw_latents

    condition, null, weight = view._guided(["", ""], 1.0, 1.0)
    with torch.no_grad():
        latents = draw_latents(clean, noise, condition, null, 20, weight)
    found = view.invert_latents(latents, ["", ""], steps=20)
    assert torch.nn.functional.cosine_similarity(found.flatten(), noise.flatten(), dim=0) > 0.9


def test_10_a_batch_says_what_single_pictures_say(plain):
    images = pictures(5)
    together = invert(plain, images, steps=2, rounds=2, batch=3)
    alone = np.concatenate([invert(plain, image[None], steps=2, rounds=2) for image in images])
    assert np.abs(together - alone).max() < 1e-3


def test_rounds_bring_the_picture_nearer_and_never_lose_it(plain):
    images = pictures(3)

    def error(latents):
        return (
            (plain.encode_image(plain.decode(latents)) - plain.encode_image(images)).square().sum((1, 2, 3))
        )

    encoding = Encoding(plain, images)
    first = error(encoding.refined(0))
    encoding.refined(6)
    assert bool((encoding._error.flatten() <= first + 1e-6).all())


def test_a_picture_leaves_the_ladder_where_it_is_found_and_pays_for_the_rung(plain):
    seen = []

    def test(latents):
        seen.append(latents.shape)
        return detection(1e-9 if len(seen) in (2, 4) else 0.3)

    first, second, third = climb(plain, pictures(3), test, 1e-6, SHORT)
    # Rung 0 sees three and finds the second, rung 1 sees two and finds the first, and one is left.
    assert len(seen) == 6
    assert (second.rung, first.rung) == (SHORT[0], SHORT[1])
    assert second.detection.p_value == pytest.approx(4e-9)
    assert second.detection.looks == 4
    assert third.detection.p_value == pytest.approx(0.6)
    assert third.detection.details == {"steps": 3, "rounds": 2}


def test_the_best_of_all_rungs_keeps_the_level():
    rng = np.random.default_rng(0)
    best = (rng.uniform(size=(100_000, len(LADDER))) * [rung.looks for rung in LADDER]).min(axis=1)
    for alpha in (0.1, 0.01):
        assert (best <= alpha).mean() <= alpha + 4 * (alpha / 1e5) ** 0.5


def test_a_picture_comes_back_but_for_rounding_and_its_rest_is_left_out(tmp_path):
    path, image = tmp_path / "a.png", pictures(1, 20)[0]
    write_picture(path, image)
    assert (read_picture(path, 4) - image).abs().max() < 1 / 127
    assert read_picture(path, 8).shape == (3, 16, 16)
    assert torch.equal(read_picture(path, 8), read_picture(path, 4)[:, :16, :16])


def test_what_is_no_picture_is_an_error(tmp_path):
    (tmp_path / "a.png").write_bytes(b"not a picture")
    with pytest.raises(MalformedArtifact, match="not a readable picture"):
        read_picture(tmp_path / "a.png", 4)
    with pytest.raises(UsageError, match="no picture"):
        read_picture(tmp_path / "b.png", 4)
    with pytest.raises(UsageError, match="not a file"):
        read_picture(tmp_path, 4)
    Image.new("RGB", (3, 3)).save(tmp_path / "c.png")
    with pytest.raises(MalformedArtifact, match="smaller than"):
        read_picture(tmp_path / "c.png", 4)
    data = tmp_path / "d.png"
    Image.effect_noise((64, 64), 50).save(data)
    data.write_bytes(data.read_bytes()[:-500])
    with pytest.raises(MalformedArtifact, match="not a readable picture"):
        read_picture(data, 4)
