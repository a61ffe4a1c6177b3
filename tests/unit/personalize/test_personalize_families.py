"""Every method on every family: it trains, or one sentence names the methods that do."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_models import FAMILIES, FLOW, PIPELINES

from auditor.errors import UsageError
from auditor.personalize.blocks.training import PLAIN, Training
from auditor.pipeline.open import open_subject
from auditor.registry import METHODS

EVERYWHERE = ("diffusekrona", "dreambooth-lora", "orthogonal-adaptation")
# What small models have no room for, or what one step does not need.
SMALL = {
    "classdiffusion": {"word": "<x>", "class_word": "man", "init": "ball"},
    "cross-initialization": {"word": "<x>", "init": ("man", "ball")},
    "diffusekrona": {"a1": 8, "a2": 8, "lr": 0.05},
    "dreambooth": {"class_prompt": "a man", "class_images": 2},
    "dreambooth-lora": {"train_text_encoder": True, "class_prompt": "a man", "class_images": 2, "lr": 0.05},
    "hifi": {"vectors": 2, "sampler_steps": 2, "refine": 1},
    "orthogonal-adaptation": {"rank": 2, "lr": 0.05},
    "prospect": {"word": "<x>", "stages": 2},
    "sefi": {"word": "<x>", "init": "man", "reference": "man", "stages": 2},
    "sigstyle": {"word": "<x>", "init": "ball"},
    "styleforge": {"aux_weight": 0.0},
    "textual-inversion": {"word": "<x>", "init": "ball"},
}
pytestmark = pytest.mark.filterwarnings("ignore:.*`torch_dtype` is deprecated")


def quiet(done, total, label=""):
    pass


@pytest.fixture
def train(tiny_base, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(photos / "0.png")

    def on(name, family, training=PLAIN):
        method = METHODS.get(name)
        recipe = method.params(**{"steps": 2, "batch": 1, **SMALL.get(name, {})})
        return method.fit(tiny_base(family), photos, recipe, tmp_path / "out", quiet, training)

    return on


@pytest.mark.parametrize("family", FLOW)
@pytest.mark.parametrize("name", sorted({*METHODS.names()} - {*EVERYWHERE}))
def test_a_method_for_other_bases_names_those_that_fit(train, tmp_path, name, family):
    with pytest.raises(UsageError, match=f"{name} trains bases with a unet, and {family} has a transformer") as error:
        train(name, family)
    assert str(error.value).endswith(f"for it there are {', '.join(EVERYWHERE)}")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", EVERYWHERE)
def test_adapters_are_trained_on_every_family_and_arrive_whole(train, tiny_folders, tmp_path, name, family):
    path = train(name, family)
    assert json.loads((tmp_path / "out" / "provenance.json").read_text())["method"] == name
    with open_subject([path], str(tiny_folders(family)), "cpu") as subject:
        assert subject.coverage.full and subject.coverage.keys_total > 12
        noise = torch.randn(1, *subject.tuned.latent_shape(), generator=torch.Generator().manual_seed(0))
        told = subject.base.encode_prompt(["a picture of sks"])
        views = (subject.tuned, subject.base)
        tuned, base = (view.denoiser.predict(noise, torch.tensor([500]), told).native for view in views)
        assert float((tuned - base).abs().max()) > 1e-4


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", FLOW)
@pytest.mark.parametrize("name", ["dreambooth-lora", "orthogonal-adaptation"])
def test_the_library_loads_what_was_trained_on_a_transformer(train, tiny_folders, name, family):
    path = train(name, family)
    pipe = PIPELINES[family].from_pretrained(tiny_folders(family))
    plain = {n: p.clone() for n, p in pipe.transformer.named_parameters()}
    encoders = ("text_encoder", *(["text_encoder_2"] if family == "sd3" else []))
    text = {e: {n: p.clone() for n, p in getattr(pipe, e).named_parameters()} for e in encoders}
    pipe.load_lora_weights(str(path))
    pipe.fuse_lora(components=["transformer", *(encoders if name == "dreambooth-lora" else [])])
    pipe.unload_lora_weights()
    with open_subject([path], str(tiny_folders(family)), "cpu") as subject, subject.active("tuned"):
        ours = dict(subject.components.denoiser_model.named_parameters())
        moved = [n for n, p in pipe.transformer.named_parameters() if not torch.equal(p, plain[n])]
        assert len(moved) > 4
        for key, value in pipe.transformer.named_parameters():
            torch.testing.assert_close(ours[key], value, atol=1e-6, rtol=1e-5)
        for encoder, before in text.items():
            both = (subject.components.modules[encoder], getattr(pipe, encoder))
            read, theirs = (dict(module.named_parameters()) for module in both)
            for key, value in theirs.items():
                torch.testing.assert_close(read[key], value, atol=1e-6, rtol=1e-5)
            touched = any(not torch.equal(value, before[key]) for key, value in theirs.items())
            assert touched == (name == "dreambooth-lora")


@pytest.mark.slow
@pytest.mark.parametrize("family", [family for family in FAMILIES if family not in FLOW])
@pytest.mark.parametrize("name", METHODS.names())
def test_every_method_trains_on_every_unet_with_every_option(train, tmp_path, name, family):
    training = Training(
        accumulate=2, precision="bf16", gradient_checkpointing=name != "sefi", validate_every=2, validate_prompt="a man"
    )
    assert train(name, family, training).exists()
    assert len(list((tmp_path / "out" / "validation").iterdir())) == 2
    assert json.loads((tmp_path / "out" / "provenance.json").read_text())["training"]["precision"] == "bf16"


def test_the_methods_that_say_so_are_those():
    able = [m.id for m in METHODS if "transformer" in m.denoisers]
    assert tuple(able) == EVERYWHERE
