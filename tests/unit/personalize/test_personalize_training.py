"""Options of a run: the same for all methods, and without a trace in what is trained where they should leave none."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from auditor.errors import MissingExtra, OutOfMemory, UsageError
from auditor.personalize import prospect
from auditor.personalize.blocks import validation
from auditor.personalize.blocks.consent import person_words
from auditor.personalize.blocks.denoising import Drawn, denoising_error, draw, mean_square
from auditor.personalize.blocks.examples import Examples
from auditor.personalize.blocks.layers.adapted import adapted
from auditor.personalize.blocks.layers.low_rank import LowRankChange
from auditor.personalize.blocks.losses import denoising_loss
from auditor.personalize.blocks.methods import memory_told
from auditor.personalize.blocks.optimise import Group, Optimisation, optimise, step_of
from auditor.personalize.blocks.training import Training, evaluated_again
from auditor.personalize.blocks.validation import FOLDER, SHEET, plain_look
from auditor.personalize.classdiffusion import ClassDiffusion
from auditor.personalize.cross_initialization import CrossInitialization
from auditor.personalize.dreambooth import DreamBooth
from auditor.personalize.dreambooth_lora import DreamBoothLora, train_dreambooth_lora
from auditor.personalize.hifi import HiFi
from auditor.personalize.prospect import ProSpect
from auditor.personalize.sefi import SeFi
from auditor.personalize.textual_inversion import TextualInversion
from auditor.pipeline.conditioning import encode_prompts
from auditor.pipeline.open import open_subject
from auditor.registry import METHODS

LOOKING = Training(validate_every=2, validate_prompt="a picture of <x> man")


def quiet(done, total, label=""):
    pass


class Killed(Exception):
    pass


@pytest.fixture(autouse=True)
def _few_steps(monkeypatch):
    for module in (validation, prospect):
        monkeypatch.setattr(module, "STEPS", 4)


def pixels_of(path):
    with Image.open(path, formats=("PNG",)) as opened:
        return np.array(opened)


def layers_on(base, rank=2):
    def make(_, layer):
        generator = torch.Generator().manual_seed(7)
        change = LowRankChange(torch.randn(rank, layer.in_features, generator=generator), layer.out_features)
        nn.init.normal_(change.up, std=0.05, generator=generator)
        return change

    return adapted(base.denoiser_model, ("to_q", "to_v"), make)


def gradients_of(base, loss_of, training):
    """The gradient that the first step of a training sees, before it is clipped."""
    with layers_on(base) as changes, evaluated_again(base.denoiser_model, training.gradient_checkpointing):
        parameters = [p for change in changes.values() for p in change.parameters()]
        seen = {}
        for i, parameter in enumerate(parameters):
            parameter.register_post_accumulate_grad_hook(lambda p, i=i: seen.__setitem__(i, p.grad.clone()))
        optimise([Group("x", parameters)], loss_of, Optimisation(1, 1e-3, clip=0.0, seed=3), quiet, training=training)
    return seen


@pytest.fixture
def examples(tiny_base):
    def of(family):
        base = tiny_base(family)
        images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
        return Examples.of(base, images, ["a picture of sks man"] * 3)

    return of


# Gradients


@pytest.mark.parametrize("family", ["sd1", "flux"])
def test_micro_batches_have_the_gradient_of_their_joined_batch(tiny_base, examples, family):
    base, own = tiny_base(family), examples(family)
    told = encode_prompts(base, base.tokenizers, own.prompts)

    def joined(_):
        drawn = Drawn.join([draw(base, own.latents, 2, step_of(3, i).generator) for i in range(3)])
        return mean_square(denoising_error(base, drawn, told[drawn.rows])).mean()

    large = gradients_of(base, joined, Training())
    small = gradients_of(base, denoising_loss(base, own, 2), Training(accumulate=3))
    assert large.keys() == small.keys() and any(bool(g.abs().max() > 1e-5) for g in large.values())
    for i, gradient in large.items():
        torch.testing.assert_close(small[i], gradient, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("family", ["sd1", "sdxl", "sd3", "flux"])
def test_checkpointed_gradients_are_the_same_and_blocks_are_evaluated_again(tiny_base, examples, family):
    base, own = tiny_base(family), examples(family)
    loss = denoising_loss(base, own, 2)
    counts = []
    ends = ("up_blocks.0.resnets.0", "transformer_blocks.0")
    block = next(m for n, m in base.denoiser_model.named_modules() if n in ends)
    # Evaluations that begin: the second one ends as soon as it has what is needed.
    handle = block.register_forward_pre_hook(lambda *_: counts.append(1))
    kept = gradients_of(base, loss, Training())
    once = len(counts)
    again = gradients_of(base, loss, Training(gradient_checkpointing=True))
    handle.remove()
    assert len(counts) - once == 2 * once
    for i, gradient in kept.items():
        torch.testing.assert_close(again[i], gradient, rtol=1e-4, atol=1e-7)
    assert not any(getattr(m, "gradient_checkpointing", False) for m in base.denoiser_model.modules())


def test_bf16_trains_float32_weights_close_to_those_of_fp32(tiny_base):
    base = tiny_base("sd1")
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    recipe = DreamBoothLora(steps=3, batch=2, rank=2)
    full, half = (
        train_dreambooth_lora(base, images, recipe, quiet, training=Training(precision=kind))
        for kind in ("fp32", "bf16")
    )
    assert half.loss != full.loss and half.loss == pytest.approx(full.loss, rel=0.02)
    for name, value in half.unet.items():
        assert value.dtype == torch.float32
        assert not torch.equal(value, value.bfloat16().float())
        # Each of three AdamW steps moves a weight by the learning rate at most, whatever the rounding.
        assert float((value - full.unet[name]).abs().max()) <= 2 * 3 * recipe.lr


@pytest.mark.parametrize(
    "training",
    [Training(precision="bf16"), Training(precision="fp16"), Training(accumulate=2), Training(optimizer="adamw8bit")],
    ids=lambda t: f"{t.precision}-{t.optimizer}-{t.accumulate}",
)
def test_a_run_that_was_killed_goes_on_to_the_same_weights(tmp_path, training):
    if training.optimizer == "adamw8bit":
        pytest.importorskip("bitsandbytes")
    path, recipe = tmp_path / "checkpoint.safetensors", Optimisation(steps=9, lr=0.01, warmup=3, seed=4)

    def model(seed):
        torch.manual_seed(seed)
        # Moments are kept in eight bits from 4096 values on.
        return nn.Sequential(nn.Linear(16, 512), nn.Tanh(), nn.Linear(512, 1))

    def train(net, **more):
        def loss_of(step):
            x = torch.randn(4, 16, generator=step.generator)
            return (net(x) - x.sum(1, keepdim=True)).square().mean()

        groups = [Group(f"{i}", [p]) for i, p in enumerate(net.parameters())]
        return optimise(groups, loss_of, recipe, quiet, training=training, **more)

    def stop(done):
        if done == 6:
            raise Killed

    whole, parts = model(0), model(5)
    straight = train(whole)
    with pytest.raises(Killed):
        train(model(0), checkpoint=path, every=2, after_step=stop)
    log = train(parts, checkpoint=path, every=2)
    assert log.losses == straight.losses
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), parts.parameters(), strict=True))
    path.unlink()
    with pytest.raises(Killed):
        train(model(0), checkpoint=path, every=2, after_step=stop)
    with pytest.raises(UsageError, match="another recipe"):
        optimise([Group("0", [nn.Parameter(torch.zeros(2))])], lambda _: None, recipe, quiet, checkpoint=path)


def test_an_optimiser_that_is_not_installed_names_its_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "bitsandbytes.optim", None)
    with pytest.raises(MissingExtra, match=r"pip install 'personalized-model-auditor\[8bit\]'"):
        optimise(
            [Group("x", [nn.Parameter(torch.zeros(2))])], lambda _: None, Optimisation(1, 1.0), quiet,
            training=Training(optimizer="adamw8bit"),
        )  # fmt: skip


@pytest.mark.parametrize(
    ("training", "match"),
    [
        (Training(accumulate=0), "accumulate must be above zero"),
        (Training(validate_every=-1, validate_prompt="x"), "validate every must not be below zero"),
        (Training(validate_every=5), "both --validate-every and --validate-prompt"),
        (Training(validate_prompt="x"), "both --validate-every and --validate-prompt"),
    ],
)
def test_options_out_of_range_are_named(tiny_base, folder_of, tmp_path, training, match):
    with pytest.raises(UsageError, match=match):
        METHODS.get("textual-inversion").fit(
            tiny_base("sd1"), folder_of("photos"), TextualInversion(), tmp_path / "out", quiet, training
        )


def test_attention_that_is_read_cannot_be_given_up(tiny_base, folder_of, tmp_path):
    with pytest.raises(UsageError, match="--gradient-checkpointing does not keep"):
        METHODS.get("sefi").fit(
            tiny_base("sd1"), folder_of("photos"), SeFi(word="<x>", init="man", reference="man", steps=1),
            tmp_path / "out", quiet, Training(gradient_checkpointing=True),
        )  # fmt: skip


# Pictures


RECIPES = {
    "dreambooth-lora": DreamBoothLora(prompt="a picture of sks man", steps=3, batch=1, rank=2, lr=0.05),
    "textual-inversion": TextualInversion(word="<x>", init="ball", steps=3, batch=1, lr=0.2),
    "prospect": ProSpect(word="<x>", init="ball", stages=2, steps=3, batch=1),
    "hifi": HiFi(prompt="a picture of a man", vectors=2, steps=3, sampler_steps=2, refine=1, batch=1),
    "dreambooth": DreamBooth(prompt="a picture of sks man", steps=3, batch=1),
}


@pytest.mark.parametrize("name", RECIPES)
def test_pictures_leave_what_is_trained_bit_for_bit_as_it_was(tiny_base, folder_of, tmp_path, unchanged, name):
    base, photos, method = tiny_base("sd1"), folder_of("photos"), METHODS.get(name)
    check = unchanged(base)
    files = []
    for out, training in ((tmp_path / "without", Training()), (tmp_path / "with", LOOKING)):
        method.fit(base, photos, RECIPES[name], out, quiet, training)
        files.append({p.relative_to(out): p.read_bytes() for p in sorted(out.rglob("*.safetensors"))})
    assert files[0] == files[1] and files[0]
    check()
    drawn = {path.name: pixels_of(path) for path in (tmp_path / "with" / FOLDER).iterdir()}
    assert sorted(drawn) == ["step-00000.png", "step-00002.png"]
    assert drawn["step-00000.png"].shape == (16, 32, 3)
    assert not np.array_equal(drawn["step-00000.png"], drawn["step-00002.png"])
    assert pixels_of(tmp_path / "with" / SHEET).shape[0] > 2 * 128
    assert not (tmp_path / "without" / FOLDER).exists()


@pytest.mark.parametrize("name", ["dreambooth-lora", "textual-inversion"])
def test_a_picture_is_what_the_saved_adapter_draws(tiny_base, tiny_folders, folder_of, tmp_path, name):
    recipe = RECIPES[name].__class__(**{**vars(RECIPES[name]), "steps": 2})
    path = METHODS.get(name).fit(tiny_base("sd1"), folder_of("photos"), recipe, tmp_path / "out", quiet, LOOKING)
    with open_subject([path], str(tiny_folders("sd1")), "cpu") as subject:
        wanted = subject.tuned.sample([LOOKING.validate_prompt] * 2, [0, 1], steps=4, guidance=3.0)
        before = subject.base.sample([LOOKING.validate_prompt] * 2, [0, 1], steps=4, guidance=3.0)
    seen = pixels_of(tmp_path / "out" / FOLDER / "step-00002.png")
    shown = torch.from_numpy(np.stack(np.split(seen, 2, axis=1))).permute(0, 3, 1, 2) / 127.5 - 1
    # Rounded to 8 bits here, and to float16 in the file.
    assert float((shown - wanted).abs().max()) < 0.02 < float((before - wanted).abs().max())


@pytest.mark.parametrize("family", ["sdxl", "sd3", "flux"])
def test_every_family_can_be_looked_at(tiny_base, family):
    base = tiny_base(family)
    images = plain_look(base)("a picture of a man")
    assert images.shape == (2, 3, 16, 16) and bool(images.isfinite().all())
    assert torch.equal(images, plain_look(base)("a picture of a man"))


def test_the_sheet_of_a_run_that_goes_on_holds_what_was_drawn_before(tmp_path):
    path, training = tmp_path / "checkpoint.safetensors", Training(validate_every=2, validate_prompt="x")

    def train(stop_at=None):
        weight = nn.Parameter(torch.zeros(1))

        def look(prompt):
            assert prompt == "x"
            return weight.detach().clamp(-1, 1).expand(2, 3, 8, 8)

        def stop(done):
            if done == stop_at:
                raise Killed

        optimise([Group("w", [weight])], lambda _: (weight - 1).square().sum(), Optimisation(6, 0.1, warmup=0), quiet,
                 checkpoint=path, every=3, after_step=stop, training=training, look=look)  # fmt: skip

    with pytest.raises(Killed):
        train(stop_at=5)
    part = pixels_of(tmp_path / SHEET).shape
    train()
    assert sorted(p.name for p in (tmp_path / FOLDER).iterdir()) == [f"step-0000{n}.png" for n in (0, 2, 4, 6)]
    assert pixels_of(tmp_path / SHEET).shape[0] > part[0]
    assert sorted(p.name for p in tmp_path.iterdir()) == [path.name, FOLDER, SHEET]


# Memory


@pytest.mark.parametrize(
    ("batch", "training", "said"),
    [
        (4, Training(), "lower --batch from 4 to 1 with --accumulate 4, then add --gradient-checkpointing, then take"),
        (1, Training(), "out of memory: add --gradient-checkpointing, then take --precision bf16; the first"),
        (1, Training(gradient_checkpointing=True), "out of memory: take --precision bf16$"),
        (1, Training(gradient_checkpointing=True, precision="bf16"), "nothing is left to lower"),
    ],
)
@pytest.mark.parametrize("real", [True, False], ids=["cpu", "accelerator"])
def test_short_memory_says_what_to_lower(batch, training, said, real):
    with pytest.raises(OutOfMemory, match=said), memory_told(DreamBoothLora(batch=batch), training):
        if real:
            torch.empty(10**14)
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")


def test_other_errors_are_not_called_short_memory():
    with pytest.raises(RuntimeError, match="shapes"), memory_told(DreamBoothLora(), Training()):
        torch.ones(2, 3) @ torch.ones(2, 3)


# Notes


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        (DreamBoothLora(prompt="a picture of sks dog"), []),
        (DreamBoothLora(prompt="Portrait of sks, a MAN."), ["man", "portrait"]),
        (DreamBoothLora(prompt="manual of a salesmanship"), []),
        (DreamBoothLora(prompt="sks", class_prompt="a woman"), ["woman"]),
        (ClassDiffusion(class_word="person"), ["person"]),
        (CrossInitialization(), ["man", "person", "woman"]),
    ],
)
def test_a_recipe_that_teaches_a_person_is_seen(recipe, words):
    assert person_words(recipe) == words


@pytest.mark.parametrize(("given", "noted"), [("", "none given"), ("  Ann, by letter", "Ann, by letter")])
def test_notes_are_in_the_provenance(tiny_base, folder_of, tmp_path, given, noted):
    METHODS.get("textual-inversion").fit(
        tiny_base("sd1"), folder_of("photos"), TextualInversion(word="<x>", init="man", steps=1, batch=1),
        tmp_path / "out", quiet, Training(consent=given, licence=given, accumulate=2),
    )  # fmt: skip
    told = json.loads((tmp_path / "out" / "provenance.json").read_text())
    assert told["consent"] == told["licence"] == noted
    assert told["person_words"] == ["man"]
    assert told["training"]["accumulate"] == 2 and told["processes"] == 1
    assert load_file(tmp_path / "out" / "learned_embeds.safetensors")
