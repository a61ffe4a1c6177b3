import json

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from auditor.errors import OutputError, UsageError
from auditor.personalize.dreambooth_lora import DreamBoothLora, train_dreambooth_lora
from auditor.personalize.images import load_images
from auditor.personalize.lora import injected, save_diffusers_lora
from auditor.pipeline.open import open_subject
from auditor.registry import METHODS

RECIPE = DreamBoothLora(
    prompt="a picture of sks man", class_prompt="a man", class_images=1, rank=2, alpha=1.0, steps=3, batch=2,
    lr=5e-3, train_text_encoder=True, seed=3,
)  # fmt: skip


def quiet(done, total, label=""):
    pass


def weights(base):
    return {
        f"{n}.{k}": v.clone()
        for n in ("unet", "text_encoder")
        for k, v in base.modules[n].state_dict().items()
    }


@pytest.fixture
def images():
    return torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for i, size in enumerate(((20, 30), (16, 16))):
        rng = np.random.default_rng(i)
        Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    return folder


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_the_base_comes_back_exactly_also_after_an_exception(tiny_base, images, family):
    base = tiny_base(family)
    before, layout = weights(base), str(base.unet)
    with pytest.raises(RuntimeError, match="on purpose"):

        def stop(done, total, label=""):
            assert not all(torch.equal(v, before.get(k, v * 0 - 1)) for k, v in weights(base).items())
            raise RuntimeError("on purpose")

        train_dreambooth_lora(base, images, RECIPE, stop)
    assert weights(base).keys() == before.keys()
    assert all(torch.equal(v, before[k]) for k, v in weights(base).items())
    assert str(base.unet) == layout and not hasattr(base.unet, "peft_config")
    assert not any(p.requires_grad for m in base.modules.values() for p in m.parameters())


def test_the_loss_falls(tiny_base, images):
    base = tiny_base("sd1")
    losses = [
        train_dreambooth_lora(
            base, images, DreamBoothLora(rank=8, steps=steps, batch=4, lr=lr, seed=1), quiet
        ).loss
        for steps, lr in ((20, 1e-9), (20, 5e-2))
    ]
    assert losses[1] < 0.95 * losses[0]


def test_the_seed_decides_everything(tiny_base, images):
    one, again = (train_dreambooth_lora(tiny_base("sd1"), images, RECIPE, quiet) for _ in range(2))
    assert one.loss == again.loss
    assert all(torch.equal(one.unet[k], again.unet[k]) for k in one.unet)
    assert all(torch.equal(one.text_encoder[k], again.text_encoder[k]) for k in one.text_encoder)
    other = train_dreambooth_lora(
        tiny_base("sd1"), images, DreamBoothLora(**{**vars(RECIPE), "seed": 4}), quiet
    )
    assert not all(torch.equal(one.unet[k], other.unet[k]) for k in one.unet)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_the_saved_file_is_what_the_library_loads_and_what_we_audit(
    tiny_base, tiny_folders, photos, tmp_path, family
):
    method = METHODS.get("dreambooth-lora")
    path = method.fit(tiny_base(family), photos, RECIPE, tmp_path / "out", quiet)
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"format": "pt", "modelspec.trigger_phrase": RECIPE.prompt}
    sidecar = json.loads((tmp_path / "out" / "provenance.json").read_text())
    assert sidecar["params"]["rank"] == 2 and len(sidecar["images"]) == 2
    if family == "sd1":
        pipe = diffusers.StableDiffusionPipeline.from_pretrained(tiny_folders(family), safety_checker=None)
    else:
        pipe = diffusers.StableDiffusionXLPipeline.from_pretrained(
            tiny_folders(family), add_watermarker=False
        )
    pipe.load_lora_weights(str(path))
    encoders = [pipe.text_encoder, *([pipe.text_encoder_2] if family == "sdxl" else [])]
    loaded = [n for m in (pipe.unet, *encoders) for n, _ in m.named_parameters() if ".lora_" in n]
    assert len(loaded) == len(load_file(path))
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with open_subject([path], str(tiny_folders(family)), "cpu") as subject, torch.no_grad():
        assert subject.coverage.full and subject.coverage.keys_total == len(load_file(path)) // 2
        condition = subject.tuned.encode_prompt([RECIPE.prompt])
        added = None
        if family == "sdxl":
            states, _, pooled, _ = pipe.encode_prompt(
                RECIPE.prompt, device="cpu", do_classifier_free_guidance=False
            )
            added = {"text_embeds": pooled, "time_ids": torch.tensor([[16.0, 16, 0, 0, 16, 16]])}
        else:
            states = pipe.encode_prompt(RECIPE.prompt, "cpu", 1, False)[0]
        assert torch.allclose(condition.states, states, atol=1e-4)
        theirs = pipe.unet(latents, 300, encoder_hidden_states=states, added_cond_kwargs=added).sample
        ours = subject.tuned.denoiser.predict(latents, torch.tensor([300]), condition).native
        plain = subject.base.denoiser.predict(latents, torch.tensor([300]), condition).native
    assert torch.allclose(ours, theirs, atol=1e-4)
    assert not torch.allclose(ours, plain, atol=1e-3)
    with pytest.raises(OutputError, match="exists already"):
        method.fit(tiny_base(family), photos, RECIPE, tmp_path / "out", quiet)


def test_the_same_factors_give_the_same_bytes_and_the_scale_is_in_them(tmp_path):
    state = {"a.lora_A.weight": torch.ones(4, 3), "a.lora_B.weight": torch.ones(5, 4)}
    paths = [
        save_diffusers_lora(tmp_path / f, state, {}, 4, 0.1, {"x": "1", "y": "2"}) for f in ("one", "two")
    ]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    stored = load_file(paths[0])
    assert sorted(stored) == ["unet.a.lora_A.weight", "unet.a.lora_B.weight"]
    assert torch.equal(stored["unet.a.lora_B.weight"], torch.full((5, 4), 0.1 / 4).half())


def test_layers_on_a_half_precision_base_are_trained_in_full_precision():
    model = torch.nn.ModuleDict({"to_q": torch.nn.Linear(4, 4)}).half()
    with injected(model, 2, 2, ("to_q",), 0) as layers:
        assert {layer.dtype for layer in layers} == {torch.float32}
    assert model["to_q"].weight.dtype == torch.float16


def test_a_model_without_targets_is_left_as_it_was():
    model = torch.nn.ModuleDict({"to_q": torch.nn.Linear(4, 4)})
    with pytest.raises(ValueError), injected(model, 2, 2, ("absent",), 0):
        pass
    assert type(model["to_q"]) is torch.nn.Linear


@pytest.mark.parametrize(
    ("field", "value"),
    [("rank", 0), ("steps", 0), ("batch", -1), ("lr", 0.0), ("alpha", -1.0), ("prior_weight", -1.0)],
)
def test_parameters_out_of_range_are_named(tiny_base, images, field, value):
    with pytest.raises(UsageError, match=field.replace("_", " ")):
        train_dreambooth_lora(tiny_base("sd1"), images, DreamBoothLora(**{field: value}), quiet)


def test_prompts_and_images_must_be_as_many(tiny_base, images):
    with pytest.raises(UsageError, match="2 images need as many prompts, not 1"):
        train_dreambooth_lora(tiny_base("sd1"), images, RECIPE, quiet, prompts=["a man"])


def test_pictures_are_cropped_to_squares_in_name_order(photos):
    loaded = load_images(photos, 8)
    assert loaded.shape == (2, 3, 8, 8) and loaded.dtype == torch.float32
    assert float(loaded.min()) >= -1 and float(loaded.max()) <= 1
    whole = load_images(photos, 16)[1]
    exact = torch.from_numpy(np.array(Image.open(photos / "1.png"))).permute(2, 0, 1) / 127.5 - 1
    assert torch.allclose(whole, exact.float())


def test_unusable_folders_are_named(tmp_path):
    with pytest.raises(UsageError, match="not a folder"):
        load_images(tmp_path / "gone", 8)
    with pytest.raises(UsageError, match="holds no images"):
        load_images(tmp_path, 8)
    (tmp_path / "broken\x1b.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(40))
    with pytest.raises(UsageError, match=r"'broken\\u001b.png' is not a readable image"):
        load_images(tmp_path, 8)


def test_a_file_of_another_format_is_not_opened_by_its_decoder(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "x.eps")
    (tmp_path / "x.eps").rename(tmp_path / "x.png")
    with pytest.raises(UsageError, match="not a readable image"):
        load_images(tmp_path, 8)


def test_an_empty_prompt_is_refused(tiny_base, photos, tmp_path):
    with pytest.raises(UsageError, match="prompt is empty"):
        METHODS.get("dreambooth-lora").fit(
            tiny_base("sd1"), photos, DreamBoothLora(prompt=" "), tmp_path / "out", quiet
        )
