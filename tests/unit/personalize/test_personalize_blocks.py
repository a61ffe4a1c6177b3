"""Building blocks of fine-tuning, each against an independent reference."""

import dataclasses
import json

import diffusers
import numpy as np
import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from torch import nn

from auditor.errors import MalformedArtifact, UsageError
from auditor.personalize.blocks.attention import cross_attention, recorded, values_from
from auditor.personalize.blocks.denoising import denoising_error, draw, mean_square, native_target
from auditor.personalize.blocks.layers.adapted import adapted, linear_layers
from auditor.personalize.blocks.layers.kronecker import KroneckerChange, parameter_count
from auditor.personalize.blocks.layers.low_rank import LowRankChange
from auditor.personalize.blocks.layers.multiplicative import MultiplicativeChange
from auditor.personalize.blocks.optimise import Group, Optimisation, optimise
from auditor.personalize.blocks.words import Words, stage_of, word_vectors
from auditor.pipeline.conditioning import encode_prompts
from auditor.pipeline.denoiser import Denoiser

FAMILIES = ["sd1", "sd2", "sdxl"]
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")


def quiet(done, total, label=""):
    pass


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# The loop


def regression(model):
    def loss_of(step):
        x = torch.randn(8, 4, generator=step.generator)
        noise = torch.from_numpy(step.rng.normal(size=(8, 1)).astype(np.float32))
        return (model(x) - x.sum(1, keepdim=True) - 0.1 * noise).square().mean()

    return loss_of


def small(seed=0):
    torch.manual_seed(seed)
    return nn.Linear(4, 1)


class Killed(Exception):
    pass


@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_run_that_was_killed_goes_on_to_the_same_weights(tmp_path, accumulate):
    recipe = Optimisation(steps=9, lr=0.05, accumulate=accumulate, warmup=3, seed=4)
    whole, parts = small(), small(seed=1)
    straight = optimise([Group("w", list(whole.parameters()))], regression(whole), recipe, quiet)
    path = tmp_path / "checkpoint.safetensors"

    def stop(done):
        if done == 5:
            raise Killed

    first = small()
    with pytest.raises(Killed):
        optimise([Group("w", list(first.parameters()))], regression(first), recipe, quiet,
                 checkpoint=path, every=2, after_step=stop)  # fmt: skip
    assert path.exists()
    log = optimise([Group("w", list(parts.parameters()))], regression(parts), recipe, quiet, checkpoint=path, every=2)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), parts.parameters(), strict=True))
    assert log.losses == straight.losses
    again = small(seed=2)
    loaded = optimise([Group("w", list(again.parameters()))], regression(again), recipe, quiet, checkpoint=path)
    assert loaded.losses == straight.losses  # what was trained outlives a save that fails
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))
    with pytest.raises(UsageError, match="ended after 9 steps"):
        longer = dataclasses.replace(recipe, steps=12)
        optimise([Group("w", list(again.parameters()))], regression(again), longer, quiet, checkpoint=path)


def test_a_checkpoint_of_another_run_or_a_damaged_one_is_refused(tmp_path):
    path = tmp_path / "checkpoint.safetensors"

    def run(identity, stop_at=None):
        model = small()

        def stop(done):
            if done == stop_at:
                raise Killed

        return optimise([Group("w", list(model.parameters()))], regression(model), Optimisation(steps=4, lr=0.1), quiet,
                        checkpoint=path, every=1, identity=identity, after_step=stop)  # fmt: skip

    with pytest.raises(Killed):
        run({"base": "a"}, stop_at=2)
    with pytest.raises(UsageError, match="another recipe, base or data"):
        run({"base": "b"})
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(MalformedArtifact, match="damaged"):
        run({"base": "a"})


def test_accumulated_gradients_are_those_of_the_larger_batch():
    one, many = small(), small()
    batches = [torch.randn(4, 4, generator=generator(i)) for i in range(3)]

    def loss(model, x):
        return (model(x) - 1).square().mean()

    optimise([Group("w", list(one.parameters()))], lambda step: loss(one, torch.cat(batches)),
             Optimisation(steps=1, lr=0.1, clip=0.0), quiet)  # fmt: skip
    optimise([Group("w", list(many.parameters()))], lambda step: loss(many, batches[step.index]),
             Optimisation(steps=1, lr=0.1, accumulate=3, clip=0.0), quiet)  # fmt: skip
    for a, b in zip(one.parameters(), many.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)


@pytest.mark.parametrize("name", ["steps", "lr", "accumulate"])
def test_a_recipe_out_of_range_is_refused(name):
    model = small()
    recipe = Optimisation(**{"steps": 1, "lr": 0.1, name: 0})
    with pytest.raises(UsageError, match=f"{name} must be above zero"):
        optimise([Group("w", list(model.parameters()))], regression(model), recipe, quiet)


# A step


@pytest.mark.parametrize("family", FAMILIES)
def test_the_target_is_what_a_perfect_model_says(tiny_base, family):
    base = tiny_base(family)
    latents = torch.randn(3, *draw_shape(base), generator=generator())
    drawn = draw(base, latents, 5, generator(1))
    scheduler = base.new_scheduler()
    assert torch.allclose(scheduler.add_noise(drawn.clean, drawn.noise, drawn.t), drawn.noisy, atol=1e-5)
    target = native_target(base, drawn)
    wanted = scheduler.get_velocity(drawn.clean, drawn.noise, drawn.t) if family == "sd2" else drawn.noise
    assert torch.allclose(target, wanted, atol=1e-5)
    assert torch.equal(latents[drawn.rows], drawn.clean)


def draw_shape(base):
    return int(base.unet.config.in_channels), 8, 8


def test_timesteps_keep_to_their_share_of_the_schedule(tiny_base):
    base = tiny_base("sd1")
    latents = torch.zeros(1, *draw_shape(base))
    low = draw(base, latents, 200, generator(), high=0.1).t
    high = draw(base, latents, 200, generator(), low=0.9).t
    assert low.max() < 100
    assert high.min() >= 900


def test_a_masked_error_counts_only_what_the_mask_keeps():
    error = torch.ones(2, 4, 2, 2)
    error[:, :, 0] = 3
    mask = torch.zeros(2, 1, 2, 2)
    mask[:, :, 0] = 1
    assert torch.allclose(mean_square(error, mask), torch.full((2,), 9.0))
    assert torch.allclose(mean_square(error), torch.full((2,), 5.0))


# Layers


CHANGES = {
    "low rank": lambda layer: LowRankChange(
        torch.randn(3, layer.in_features, generator=generator(1)), layer.out_features, 0.7
    ),
    "kronecker": lambda layer: KroneckerChange(layer.out_features, layer.in_features, 4, 2, generator(2)),
    "multiplicative": lambda layer: MultiplicativeChange(layer, generator(3)),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_adds_its_delta_and_starts_at_zero(name):
    torch.manual_seed(0)
    layer = nn.Linear(6, 8)
    change = CHANGES[name](layer)
    x = torch.randn(2, 5, 6)
    assert torch.equal(change(x), torch.zeros(2, 5, 8))
    with torch.no_grad():
        for parameter in change.parameters():
            parameter.normal_()
    assert torch.allclose(change(x), x @ change.delta().T, atol=1e-5)


def test_kronecker_counts_its_parameters_and_has_the_products_of_singular_values():
    change = KroneckerChange(12, 10, 4, 5, generator())
    with torch.no_grad():
        change.right.normal_()
    assert sum(p.numel() for p in change.parameters()) == parameter_count(12, 10, 4, 5) == 4 * 5 + 12 * 10 // 20
    left, right = (torch.linalg.svdvals(p) for p in (change.left, change.right))
    wanted = torch.outer(left, right).flatten().sort(descending=True).values
    assert torch.allclose(torch.linalg.svdvals(change.delta())[: len(wanted)], wanted, atol=1e-5)
    assert np.allclose(change.delta().detach(), np.kron(change.left.detach(), change.right.detach()), atol=1e-6)
    with pytest.raises(UsageError, match="do not divide"):
        KroneckerChange(12, 10, 5, 5, generator())


def test_a_multiplicative_change_has_a_ratio_of_rank_three_and_leaves_zeros():
    layer = nn.Linear(9, 7)
    layer.weight.data[2, 3] = 0
    change = MultiplicativeChange(layer, generator())
    with torch.no_grad():
        for parameter in change.parameters():
            parameter.normal_()
    assert torch.linalg.matrix_rank(change.offsets()) <= 3
    assert change.delta()[2, 3] == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_layers_go_in_and_come_out_without_a_trace(tiny_base, family):
    unet = tiny_base(family).unet
    before, layout = {k: v.clone() for k, v in unet.state_dict().items()}, str(unet)

    def make(name, layer):
        return LowRankChange(torch.ones(2, layer.in_features), layer.out_features, frozen_down=True)

    with pytest.raises(RuntimeError, match="on purpose"), adapted(unet, ATTENTION, make) as changes:
        assert set(changes) == set(linear_layers_of(before, unet))
        assert [n for n, p in next(iter(changes.values())).named_parameters()] == ["up"]
        assert str(unet) != layout
        raise RuntimeError("on purpose")
    assert str(unet) == layout
    assert all(torch.equal(v, before[k]) for k, v in unet.state_dict().items())
    assert list(linear_layers(unet, ("to_q",)))


def linear_layers_of(state, model):
    return [n for n, m in model.named_modules() if n.endswith(ATTENTION) and f"{n}.weight" in state]


def test_a_model_without_such_layers_is_a_clear_error():
    model = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(UsageError, match="no layer called to_q"), adapted(model, ("to_q",), None):
        pass


# Words


@pytest.mark.parametrize("family", FAMILIES)
def test_a_word_with_an_ordinary_words_vectors_means_that_word(tiny_base, family):
    base = tiny_base(family)
    tables = [e.get_input_embeddings().weight.clone() for e in base.text_encoders.values()]
    words = Words(base, {"<x>": word_vectors(base, "ball", 1)})
    # Pooling by the largest id, as SDXL's second encoder is configured, does not look at the end of the text there.
    ours, plain = words.encode(["a red <x> above"]), encode_prompts(base, base.tokenizers, ["a red ball above"])
    assert torch.allclose(ours.states, plain.states, atol=1e-6)
    for table, encoder in zip(tables, base.text_encoders.values(), strict=True):
        assert torch.equal(table, encoder.get_input_embeddings().weight)
        assert not encoder.get_input_embeddings()._forward_hooks


def test_each_stage_and_each_of_several_vectors_has_its_own_row(tiny_base):
    base = tiny_base("sd1")
    words = Words(base, {"<x>": word_vectors(base, "ball", 2), "<y>": word_vectors(base, "cat", 2)}, stages=3)
    vectors = words.vectors["text_encoder"]
    assert vectors.shape == (2, 3, 2, 64)
    with torch.no_grad():
        vectors += torch.arange(12.0).reshape(2, 3, 2, 1)
    stage = torch.tensor([0, 1, 2])
    states = words.encode(["a <y> on <x>"] * 3, stage).states
    assert not torch.allclose(states[0], states[1])
    torch.autograd.backward(states[1].sum())
    touched = vectors.grad.abs().sum((2, 3)) > 0
    assert touched.tolist() == [[False, True, False], [False, True, False]]


def test_stages_cut_the_schedule_into_equal_parts():
    t = torch.tensor([0, 99, 100, 555, 999])
    assert stage_of(t, 1000, 10).tolist() == [0, 0, 1, 5, 9]


@pytest.mark.parametrize(("word", "match"), [("ball", "in the vocabulary"), ("two words", "no word"), ("", "no word")])
def test_a_word_that_cannot_be_learned_is_refused(tiny_base, word, match):
    base = tiny_base("sd1")
    with pytest.raises(UsageError, match=match):
        Words(base, {word: word_vectors(base, "ball", 1)})


# Attention


@pytest.mark.parametrize("family", FAMILIES)
def test_recorded_maps_are_those_that_the_model_uses(tiny_base, family):
    base = tiny_base(family)
    condition = encode_prompts(base, base.tokenizers, ["a red ball", "cat"])
    latents, t = torch.randn(2, *draw_shape(base), generator=generator()), torch.tensor([10, 900])
    held = {}
    layers = cross_attention(base)
    for name, layer in layers:
        layer.set_processor(Spy(name, held))
    with torch.no_grad():
        Denoiser(base).predict(latents, t, condition)
    for _, layer in layers:
        layer.set_processor(AttnProcessor2_0())
    with torch.no_grad(), recorded(base) as maps:
        Denoiser(base).predict(latents, t, condition)
    assert maps.maps.keys() == held.keys()
    for name, ours in maps.maps.items():
        assert torch.allclose(ours.flatten(0, 1), held[name], atol=1e-5)
        assert torch.allclose(ours.sum(-1), torch.ones(()), atol=1e-5)
    assert maps.of_token(torch.tensor([2, 1]), 8).shape == (2, 8, 8)


class Spy(AttnProcessor):
    """The library's own plain processor, with its probabilities kept."""

    def __init__(self, name, held):
        super().__init__()
        self.name, self.held = name, held

    def __call__(self, attn, *args, **kwargs):
        kept = attn.get_attention_scores

        def scores(*inner):
            self.held[self.name] = kept(*inner)
            return self.held[self.name]

        attn.get_attention_scores = scores
        try:
            return super().__call__(attn, *args, **kwargs)
        finally:
            del attn.get_attention_scores


def test_values_may_come_from_another_text_than_keys(tiny_base):
    base = tiny_base("sd1")
    one, other = (encode_prompts(base, base.tokenizers, [text]) for text in ("a red ball", "old man"))
    latents, t = torch.randn(1, *draw_shape(base), generator=generator()), torch.tensor([500])

    def predict(condition):
        with torch.no_grad():
            return Denoiser(base).predict(latents, t, condition).native

    plain = predict(one)
    with values_from(base, one.states):
        assert torch.equal(predict(one), plain)
    with values_from(base, other.states):
        mixed = predict(one)
    assert not torch.allclose(mixed, plain)
    assert not torch.allclose(mixed, predict(other))
    assert torch.equal(predict(one), plain)


def test_a_training_error_has_gradients_for_the_word_only(tiny_base):
    base = tiny_base("sd1")
    words = Words(base, {"<x>": word_vectors(base, "ball", 1)})
    drawn = draw(base, torch.randn(2, *draw_shape(base), generator=generator()), 2, generator(1))
    error = denoising_error(base, drawn, words.encode(["a <x>"] * 2))
    torch.autograd.backward(mean_square(error).mean())
    assert words.vectors["text_encoder"].grad.abs().sum() > 0
    assert all(p.grad is None for p in base.unet.parameters())


# Files


def test_textual_inversion_is_loaded_by_diffusers_and_means_the_same(tiny_base, tiny_folders, tmp_path):
    from PIL import Image

    from auditor.registry import METHODS

    photos = tmp_path / "photos"
    photos.mkdir()
    for i in range(2):
        pixels = np.random.default_rng(i).integers(0, 255, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(photos / f"{i}.png")
    base, method = tiny_base("sd1"), METHODS.get("textual-inversion")
    recipe = method.params(word="<x>", init="ball", vectors=2, steps=3, batch=2)
    path = method.fit(base, photos, recipe, tmp_path / "out", quiet)
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(tiny_folders("sd1"), safety_checker=None)
    pipe.load_textual_inversion(str(path.parent), weight_name=path.name, token="<x>")
    spelled = pipe.maybe_convert_prompt("a <x> cat", pipe.tokenizer)
    ids = pipe.tokenizer(
        spelled, padding="max_length", max_length=pipe.tokenizer.model_max_length, return_tensors="pt"
    ).input_ids
    with torch.no_grad():
        theirs = pipe.text_encoder(ids).last_hidden_state
    from safetensors.torch import load_file

    words = Words(base, {"<x>": {"text_encoder": load_file(path)["<x>"]}})
    assert torch.allclose(words.encode(["a <x> cat"]).states, theirs, atol=1e-5)
    told = json.loads((tmp_path / "out" / "provenance.json").read_text())
    assert told["method"] == "textual-inversion"
    assert told["base"]["sha256"] == base.sha256
    assert len(told["images"]) == 2
    assert list(told["files"]) == ["learned_embeds.safetensors"]
