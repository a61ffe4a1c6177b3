"""The trained marks as they ship: networks, injection, triggers, attacks with a gradient, and weights that learn."""

import io
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from auditor.errors import BaseUnavailable, UsageError
from auditor.pipeline.open import load_base
from auditor.pipeline.subject import Subject
from auditor.registry import WATERMARKS
from auditor.world.embedded import embedded_pipeline
from watermark.keys import MasterKey
from watermark.marking.sampling import draw_injected
from watermark.marking.scenes import captioned_scenes
from watermark.marking.steps import injected_steps
from watermark.marking.trigger import fit_trigger, with_trigger
from watermark.networks import shipped
from watermark.networks.reading import injected, mark_latents
from watermark.training.attack_layer import attacked, jpeg_like

KEY, OTHER = MasterKey(bytes(range(32))), MasterKey(bytes(range(1, 33)))
SAFE_SD = WATERMARKS.get("safe_sd")
PAYLOAD = b"seven b"


@pytest.fixture(scope="module")
def view():
    with Subject(load_base(), ()) as subject:
        yield subject.base


@pytest.fixture(scope="module")
def images():
    return captioned_scenes(6, 5)[0]


@pytest.fixture(scope="module")
def marked(view, images):
    """Pictures with the mark, and the same ones decoded without it."""
    latents = view.encode_image(images)
    mark = mark_latents(view.components, SAFE_SD.modules(KEY, PAYLOAD), 16, 16)
    hidden = injected(view.components, latents, mark, 1.5, "safe_sd")
    return view.decode(hidden), view.decode(latents)


def psnr(one, two):
    return float(-10 * torch.log10(((one - two) / 2).square().mean()))


def test_a_mark_is_found_after_decoding_and_encoding_and_with_its_own_key_only(view, marked):
    found = [SAFE_SD.detect(reading, KEY) for reading in SAFE_SD.read(view, marked[0])]
    assert all(each.p_value < 1e-12 for each in found)
    assert sum(each.payload == PAYLOAD for each in found) >= 4
    wrong = [SAFE_SD.detect(reading, OTHER).p_value for reading in SAFE_SD.read(view, marked[0])]
    clean = [SAFE_SD.detect(reading, KEY).p_value for reading in SAFE_SD.read(view, marked[1])]
    assert min(wrong + clean) > 1e-4
    assert psnr(*marked) > 25


def test_10_and_15_a_batch_reads_as_single_pictures_do_and_leaves_the_model_alone(view, marked):
    vae = view.components.vae
    before, dtype = shipped.encoder_digest(vae), vae.dtype
    together = SAFE_SD.read(view, marked[0])
    alone = np.concatenate([SAFE_SD.read(view, image[None]) for image in marked[0]])
    assert np.allclose(together, alone, atol=1e-4)
    assert (shipped.encoder_digest(vae), vae.dtype) == (before, dtype)


def test_no_strength_changes_nothing(view, images):
    latents = view.encode_image(images)
    mark = mark_latents(view.components, SAFE_SD.modules(KEY), 16, 16)
    assert torch.allclose(injected(view.components, latents, mark, 0.0, "safe_sd"), latents, atol=1e-5)


def test_pictures_are_marked_while_they_are_drawn_each_with_its_own_payload(view):
    prompts, words = ["a picture of a red ball", "a blue cube"], [b"aaaaaaa", b"bbbbbbb"]
    drawn = draw_injected(view, SAFE_SD, KEY, prompts, [1, 2], payloads=words, steps=6, strength=2.0)
    found = [SAFE_SD.detect(reading, KEY) for reading in SAFE_SD.read(view, drawn)]
    assert [each.payload for each in found] == words
    assert max(each.p_value for each in found) < 1e-9
    wrong = [SAFE_SD.detect(r, KEY, payload=b"ccccccc") for r in SAFE_SD.read(view, drawn)]
    assert all(w.statistic < f.statistic for w, f in zip(wrong, found, strict=True))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"injections": 0}, "lambda must lie between 1 and"),
        ({"injections": 6}, "lambda must lie between 1 and"),
        ({"strength": 0.0}, "above zero"),
        ({"payloads": [b"", b""]}, "as many payloads"),
        ({"payloads": [bytes(8)]}, "payload"),
        ({"size": 32}, "safe_sd needs"),
    ],
)
def test_what_cannot_be_drawn_is_refused_before_anything_is(view, given, said):
    with pytest.raises(UsageError, match=said):
        draw_injected(view, SAFE_SD, KEY, ["a cat"], [0], steps=6, **given)


def test_the_key_chooses_the_steps_and_the_last_is_always_among_them():
    chosen = [injected_steps(MasterKey(bytes([i]) * 32), 25, 5) for i in range(40)]
    assert all(len(each) == 5 and 24 in each and min(each) >= 10 for each in chosen)
    assert len(set(chosen)) > 30
    assert injected_steps(KEY, 25, 5) == injected_steps(KEY, 25, 5)
    assert injected_steps(KEY, 1, 1) == {0}


def test_another_autoencoder_is_refused_by_name(view, images, monkeypatch):
    monkeypatch.setattr(shipped, "encoder_digest", lambda vae: "other")
    monkeypatch.setattr(view.components, "_remembered", {})
    for name in ("safe_sd", "decoder", "lora"):
        with pytest.raises(UsageError, match=f"{name} reads and writes through the autoencoder"):
            WATERMARKS.get(name).read(view, images)


@pytest.mark.parametrize("name", ["decoder", "lora"])
def test_weights_mark_the_size_they_were_taught_and_no_other(view, name):
    with pytest.raises(UsageError, match="needs pictures of 64x64"):
        WATERMARKS.get(name).read(view, torch.zeros(1, 3, 128, 128))


def test_changed_weights_are_not_used(tmp_path):
    folder = tmp_path / "safe_sd"
    shutil.copytree(shipped.shipped_folder() / "safe_sd", folder)
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(BaseUnavailable, match="changed"):
        shipped._opened(folder)
    (folder / "config.json").write_text(json.dumps({}))
    with pytest.raises(BaseUnavailable, match="cannot be read"):
        shipped._opened(tmp_path / "safe_sd" / ".." / "safe_sd")


def test_the_shipped_weights_are_small_and_of_the_embedded_autoencoder():
    files = list(shipped.shipped_folder().rglob("*.safetensors"))
    assert 0 < sum(path.stat().st_size for path in files) < 4_000_000
    config = json.loads((shipped.shipped_folder() / "safe_sd" / "config.json").read_text())
    assert config["encoder"] == shipped.encoder_digest(embedded_pipeline().vae)


@pytest.mark.parametrize("quality", [30, 50, 75, 90])
def test_the_cosine_transform_loses_what_jpeg_loses(images, quality):
    ours = jpeg_like(images, quality)
    theirs = []
    for image in images:
        pixels = ((image + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=quality)
        back = np.asarray(Image.open(file), dtype=np.float32)
        theirs.append(torch.from_numpy(back / 127.5 - 1).permute(2, 0, 1))
    reference = torch.stack(theirs)
    # The rounding is a soft one, so that ours loses a little less.
    assert psnr(ours, reference) > psnr(images, reference) - 1
    assert psnr(images, reference) - 1 < psnr(images, ours) < psnr(images, reference) + 8


def test_every_attack_keeps_the_shape_and_passes_a_gradient(images):
    pictures = images.repeat(8, 1, 1, 1).requires_grad_(True)
    out = attacked(pictures, torch.Generator().manual_seed(0))
    assert out.shape == pictures.shape
    assert float(out.detach().abs().max()) <= 1
    torch.autograd.backward(out.square().mean())
    assert bool(pictures.grad.isfinite().all())
    assert int((pictures.grad.abs().sum((1, 2, 3)) > 0).sum()) == len(pictures)
    again = attacked(pictures, torch.Generator().manual_seed(0))
    assert torch.equal(out, again)


def test_prompts_pick_marks_by_their_triggers(view):
    trigger = fit_trigger(view, ["zx7 seal"], captioned_scenes(120, 1)[1])
    captions, rng = captioned_scenes(60, 2)[1], np.random.default_rng(0)
    assert np.mean([pick == 0 for pick in trigger.picks(view, captions)]) > 0.8
    called = [with_trigger(text, "zx7 seal", rng) for text in captions]
    assert np.mean([pick == 1 for pick in trigger.picks(view, called)]) > 0.8
    assert trigger.probabilities(view, captions).sum(dim=1).allclose(torch.ones(60))


@pytest.mark.parametrize(
    ("phrases", "captions", "said"),
    [
        ([], ["a", "b"], "needs triggers"),
        (["x", "x "], ["a", "b"], "each of them once"),
        ([" "], ["a", "b"], "none of them empty"),
        (["x"], ["a"], "two captions"),
        (["red"], ["a red ball", "a cat"], "choose a rarer one"),
    ],
)
def test_a_vocabulary_that_cannot_work_is_refused(view, phrases, captions, said):
    with pytest.raises(UsageError, match=said):
        fit_trigger(view, phrases, captions)


@pytest.mark.parametrize("name", ["decoder", "lora"])
def test_teaching_moves_weights_towards_the_mark_and_leaves_the_model_as_it_was(view, name, tmp_path):
    scheme, base = WATERMARKS.get(name), view.components
    before = {part: {k: v.clone() for k, v in base.modules[part].state_dict().items()} for part in ("vae", "unet")}
    seen = []
    params = scheme.params(steps=3, batch=2, pictures=4)
    path = scheme.teach(base, KEY, params, tmp_path / "out", lambda done, total, label="": seen.append(done))
    assert seen == [1, 2, 3]
    for part, state in before.items():
        now = base.modules[part].state_dict()
        assert now.keys() == state.keys()
        assert all(torch.equal(now[k], v) for k, v in state.items())
    told = json.loads((tmp_path / "out" / "provenance.json").read_text())
    assert told["key"] == KEY.id
    assert KEY.secret.hex() not in json.dumps(told)
    if name == "decoder":
        from diffusers import AutoencoderKL

        taught = AutoencoderKL.from_pretrained(path)
        assert shipped.encoder_digest(taught) == shipped.encoder_digest(base.vae)
        assert not torch.equal(taught.decoder.conv_out.weight, base.vae.decoder.conv_out.weight)
    else:
        pipeline = embedded_pipeline()
        pipeline.load_lora_weights(str(path.parent), weight_name=path.name)


@pytest.mark.parametrize("name", ["decoder", "lora"])
@pytest.mark.parametrize("given", [{"steps": 1}, {"strength": 0.0}, {"pictures": -1}])
def test_a_recipe_that_teaches_nothing_is_refused(view, name, given, tmp_path):
    scheme = WATERMARKS.get(name)
    with pytest.raises(UsageError):
        scheme.teach(view.components, KEY, scheme.params(**given), tmp_path / "out", lambda *_: None)
    assert not (tmp_path / "out").exists()
