"""Marks that are written while a picture is drawn: there on every family, found without or with little inversion."""

import diffusers
import numpy as np
import pytest
import torch
from scipy import fft

from auditor.cli.main import run
from auditor.errors import UsageError
from auditor.pipeline.open import load_base
from auditor.pipeline.schedule import FlowMatching
from auditor.pipeline.subject import Subject
from watermark.drawing import draw, plain_scheduler, starting_noise
from watermark.engine.cosines import Band
from watermark.inversion import LADDER, climb, invert, ladder_of, noise_at
from watermark.keys import MasterKey
from watermark.scheduler_proxy import Moment, SchedulerProxy
from watermark.schemes.grow import Grow
from watermark.schemes.shallow import Shallow

pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")
KEY = MasterKey(bytes(range(32)))
NONCES = [bytes([i]) * 12 for i in range(2)]
PROMPTS = ["a picture of a red ball", "an old man with glasses"]


@pytest.fixture(params=["sd1", "sd2", "sdxl", "sd3", "flux"])
def view(request, tiny_base):
    return Subject(tiny_base(request.param), ()).base


@pytest.fixture(scope="module")
def world():
    with Subject(load_base(None, "cpu", False, ""), ()) as subject:
        yield subject.base


def latents_of(view, scheme, scheduler=None, size=32, steps=6):
    """Clean latents with the mark in them, and those that would have been."""
    from auditor.pipeline.sampling import scheduler_sample

    shape = view.latent_shape(size)
    marks = torch.from_numpy(np.stack([scheme.embed(KEY, nonce, shape) for nonce in NONCES]))
    start = torch.from_numpy(starting_noise(scheme, KEY, NONCES, shape))
    condition, null, weight = view._guided(PROMPTS, 1.0, 1.0)

    def drawn(wrapped):
        made = plain_scheduler(view) if scheduler is None else view.denoiser.new_scheduler(scheduler)
        chosen = SchedulerProxy(made, scheme.writer(marks)) if wrapped else made
        return scheduler_sample(view.denoiser, chosen, start, condition, null, steps, weight)

    return drawn(True), drawn(False)


def test_coefficients_are_the_librarys_and_come_back():
    band, planes = Band(9, 14, 0.25, 0.75), np.random.default_rng(0).normal(size=(2, 9, 14))
    expected = fft.dctn(planes, axes=(1, 2), norm="ortho")[:, band.inside]
    np.testing.assert_allclose(band.read(planes), expected, atol=1e-12)
    np.testing.assert_allclose(band.read(band.planes(expected)), expected, atol=1e-12)
    down, across = np.nonzero(band.inside)
    frequency = np.hypot(down / 9, across / 14)
    assert 0.25 <= frequency.min() <= frequency.max() <= 0.75


def test_grow_stands_in_the_latents_of_every_family(view):
    marked, plain = latents_of(view, Grow())
    for row, nonce in enumerate(NONCES):
        assert Grow().detect(marked[row], KEY, nonces=(nonce,)).p_value < 1e-6
        assert Grow().detect(plain[row], KEY, nonces=(nonce,)).p_value > 1e-3


@pytest.mark.parametrize("name", ["DDIM", "EulerDiscrete", "DPMSolverMultistep", "UniPCMultistep", "HeunDiscrete"])
def test_grow_is_written_through_any_scheduler(tiny_base, name):
    view = Subject(tiny_base("sd1"), ()).base
    marked, _ = latents_of(view, Grow(), getattr(diffusers, f"{name}Scheduler"), steps=10)
    assert all(Grow().detect(z, KEY, nonces=(n,)).p_value < 1e-4 for z, n in zip(marked, NONCES, strict=True))


def test_shallow_is_written_once_and_into_the_noise_alone():
    scheme, shape = Shallow(), (4, 32, 32)
    mark = torch.from_numpy(scheme.embed(KEY, NONCES[0], shape))[None]
    write = scheme.writer(mark)
    clean, noise = (torch.randn(1, *shape, generator=torch.Generator().manual_seed(i)) for i in range(2))
    for share, before in ((0.9, 1.0), (0.31, 0.36), (0.26, 0.3), (0.1, 0.2)):
        assert write(clean, noise, Moment(share, before, 0.8, 0.6))[1] is noise
    left, written = write(clean, noise, Moment(0.3, 0.35, 0.8, 0.6))
    assert left is clean
    assert scheme.detect(written[0], KEY).p_value < 1e-12
    assert scheme.detect(written[0], MasterKey(bytes(32))).p_value > 1e-3
    for last in ((0.3, 0.4), (0.5, 0.9)):
        with pytest.raises(UsageError, match="more sampler steps"):
            write(clean, noise, Moment(*last, 0.8, 0.6, last=True))
    # What is no ring is as it was.
    assert torch.corrcoef(torch.stack([written.flatten(), noise.flatten()]))[0, 1] > 0.2


def test_noise_at_a_share_is_what_stands_there_if_the_model_is_right(view):
    class Knowing:
        """Predicts one noise, whatever it is shown."""

        schedule, components, encode_prompt = view.schedule, view.components, view.encode_prompt

        class denoiser:
            @staticmethod
            def predict(latents, t, condition):
                alpha, sigma = view.schedule.alpha(t), view.schedule.sigma(t)
                x0 = (latents - sigma * noise) / alpha
                return type("Said", (), {"x0": x0, "epsilon": noise})

    clean, noise = (torch.randn(2, *view.latent_shape(), generator=torch.Generator().manual_seed(i)) for i in (0, 1))
    for steps in (1, 4):
        assert (noise_at(Knowing(), clean, 0.3, steps) - noise).abs().max() < 1e-3


def test_every_ladder_spends_the_level_and_no_more():
    assert ladder_of(1.0) is LADDER
    for share in (0.0, 0.3, 1.0):
        assert sum(1 / rung.looks for rung in ladder_of(share)) == 1
    assert all(rung.steps == 0 for rung in ladder_of(0.0))


@pytest.mark.parametrize("scheme", [Grow(), Shallow()], ids=lambda scheme: scheme.id)
def test_a_picture_of_the_embedded_base_is_found_and_an_unmarked_one_is_not(world, scheme):
    shape = world.latent_shape(64)
    given = {"steps": 10, "guidance": 1.0}
    marked = draw(world, scheme, KEY, NONCES, PROMPTS, shape, **given)
    start = torch.from_numpy(starting_noise(scheme, KEY, NONCES, shape))
    plain = world.sample(PROMPTS, [0, 0], noise=start, **given)
    calls = world.denoiser.calls

    def test(latents):
        return scheme.detect(latents, KEY, nonces=tuple(NONCES))

    found = climb(world, torch.cat([marked, plain]), test, 1e-3, share=scheme.share)
    assert [reached.detection.p_value <= 1e-3 for reached in found] == [True, True, False, False]
    assert (world.denoiser.calls == calls) == (scheme.share == 0)
    psnr = -10 * ((marked - plain) / 2).square().mean().log10()
    assert psnr > 18


def test_the_command_marks_and_finds(tiny_folders, tmp_path, capsys):
    key, out, base = tmp_path / "k", tmp_path / "out", ["--model", str(tiny_folders("sd3"))]
    run(["watermark", "keygen", "-o", str(key)])
    given = ["--key", str(key), "--scheme", "grow", *base]
    drawing = ["--prompt", "a cat", "--size", "32", "--steps", "3", "--payload", "a5"]
    assert run(["watermark", "embed", *given, *drawing, "-o", str(out)]) == 0
    asked = ["watermark", "detect", str(out / "0000.png"), *given]
    assert run([*asked, "--nonces", str(out / "issued.jsonl")]) in (0, 1)
    assert run(asked) == 64
    assert "cannot be read blindly" in capsys.readouterr().err


def test_latents_without_room_are_refused():
    for scheme in (Grow(), Shallow()):
        with pytest.raises(UsageError, match="needs"):
            scheme.capacity((4, 6, 6))


def test_the_plain_scheduler_draws_what_the_models_sampler_draws(view):
    shape = view.latent_shape()
    noise = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    given = {"steps": 4, "guidance": 1.0, "noise": noise}
    plain = view.sample(PROMPTS, [0, 0], scheduler=plain_scheduler(view), **given)
    usual = view.sample(PROMPTS, [0, 0], **given)
    assert (plain - usual).abs().max() < (1e-3 if isinstance(view.schedule, FlowMatching) else 0.05)


def test_batches_are_drawn_as_single_pictures_are(tiny_base):
    view = Subject(tiny_base("sd1"), ()).base
    shape, given = view.latent_shape(32), {"steps": 5, "guidance": 1.0}
    for scheme in (Grow(), Shallow()):
        both = draw(view, scheme, KEY, NONCES, PROMPTS, shape, **given)
        alone = draw(view, scheme, KEY, NONCES[1:], PROMPTS[1:], shape, **given)
        assert (both[1] - alone[0]).abs().max() < 1e-3
        assert invert(view, both, steps=1, share=scheme.share).shape == (2, *shape)
