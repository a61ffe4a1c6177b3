"""What training does not do twice, and that the result is the same as if it did."""

import pytest
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from auditor.personalize.blocks.attention import recorded
from auditor.personalize.blocks.beside import Beside, BesideLoss
from auditor.personalize.blocks.denoising import Drawn, denoising_error, draw, mean_square
from auditor.personalize.blocks.examples import Examples
from auditor.personalize.blocks.optimise import Group, Optimisation, optimise, step_of
from auditor.personalize.blocks.texts import distinct, encode_distinct
from auditor.personalize.blocks.words import Words, word_vectors
from auditor.pipeline.conditioning import Conditioning, encode_prompts
from auditor.pipeline.denoiser import Denoiser

PROMPTS = ["a cat", "a red ball", "a cat", "a cat", "a red ball"]


@pytest.fixture
def encoded(monkeypatch):
    """How many rows a text encoder was given, call by call."""
    counted = []

    def watch(base):
        encoder = base.modules["text_encoder"]
        handle = encoder.register_forward_pre_hook(lambda _, args: counted.append(len(args[0])))
        handles.append(handle)
        return counted

    handles = []
    yield watch
    for handle in handles:
        handle.remove()


def test_distinct_values_and_their_places():
    once, rows = distinct(PROMPTS)
    assert once == ["a cat", "a red ball"]
    assert rows.tolist() == [0, 1, 0, 0, 1]
    assert [once[i] for i in rows] == PROMPTS


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_prompts_that_say_the_same_are_encoded_once(tiny_base, family, encoded):
    base = tiny_base(family)
    counted = encoded(base)
    with torch.no_grad():
        ours, theirs = encode_distinct(base, PROMPTS), encode_prompts(base, base.tokenizers, PROMPTS)
    assert counted == [2, 5]
    assert torch.allclose(ours.states, theirs.states, atol=1e-6)
    assert (ours.pooled is None) == (family == "sd1")
    if ours.pooled is not None:
        assert torch.allclose(ours.pooled, theirs.pooled, atol=1e-6)


def test_a_words_vector_gets_the_gradient_of_all_its_rows(tiny_base, encoded):
    base = tiny_base("sd1")
    words = Words(base, {"<x>": word_vectors(base, "ball", 1)}, stages=2)
    prompts, stage = ["a <x>", "a red <x>", "a <x>", "a <x>"], torch.tensor([0, 1, 0, 1])
    weight = torch.randn(4, 1, 1, generator=torch.Generator().manual_seed(0))
    counted, vectors = encoded(base), words.vectors["text_encoder"]

    def gradient(states):
        vectors.grad = None
        torch.autograd.backward((weight * states.square()).sum())
        return vectors.grad.clone()

    together = words.encode(prompts, stage).states
    assert counted == [3]
    apart = torch.cat([words.encode([p], s[None]).states for p, s in zip(prompts, stage, strict=True)])
    assert torch.allclose(together, apart, atol=1e-6)
    assert torch.allclose(gradient(together), gradient(apart), atol=1e-3)


@pytest.mark.parametrize("weight", [0.0, 0.5])
@pytest.mark.parametrize("text", [False, True])
def test_two_sets_cost_what_was_drawn_and_lose_what_the_formula_says(tiny_base, encoded, weight, text):
    base = tiny_base("sd1")
    latents = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    examples = Examples(torch.zeros(3, 3, 16, 16), latents, ("a sks cat", "a ball", "a sks cat"))
    second = Beside(latents.flip(0), "a cat", weight)
    loss_of = BesideLoss(base, examples, second, 2, text_trained=text)
    counted = encoded(base)
    ours = loss_of(step_of(0, 3))
    generator = step_of(0, 3).generator
    own = draw(base, latents, 2, generator)
    said = [examples.prompts[i] for i in own.rows.tolist()]
    parts, conditions = [own], [encode_prompts(base, base.tokenizers, said)]
    assert counted[:-1] == ([len(set(said)) + (weight > 0)] if text else [])
    if weight:
        parts.append(draw(base, second.latents, 2, generator))
        conditions.append(encode_prompts(base, base.tokenizers, ["a cat"] * 2))
    each = mean_square(denoising_error(base, Drawn.join(parts), Conditioning.join(conditions)))
    wanted = each[:2].mean() + (weight * each[2:].mean() if weight else 0)
    assert float(ours) == pytest.approx(float(wanted), rel=1e-5)


def test_maps_alone_are_the_same_maps_and_nothing_after_them_is_evaluated(tiny_base):
    base = tiny_base("sd1")
    condition = encode_prompts(base, base.tokenizers, ["a red ball", "cat"])
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    ended = []
    handle = base.unet.conv_out.register_forward_pre_hook(lambda *_: ended.append(1))
    found = []
    for only in (False, True):
        with torch.no_grad(), recorded(base, only=only) as maps:
            Denoiser(base).native(latents, torch.tensor([10, 900]), condition)
        found.append(maps.maps)
    handle.remove()
    assert len(ended) == 1
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
    assert not any(m._forward_hooks for m in base.unet.modules())


def test_the_native_prediction_is_that_of_all_parameterisations(tiny_base):
    base = tiny_base("sd2")
    condition = encode_prompts(base, base.tokenizers, ["a cat"])
    denoiser, latents, t = Denoiser(base), torch.randn(1, 4, 8, 8), torch.tensor([500])
    with torch.no_grad():
        assert torch.equal(denoiser.native(latents, t, condition), denoiser.predict(latents, t, condition).native)
    assert denoiser.calls == 2


@pytest.mark.parametrize("scale", [1e-3, 1.0, 100.0], ids=["short", "near", "long"])
def test_gradients_are_clipped_as_the_library_clips_them(scale):
    def train(clip):
        torch.manual_seed(0)
        model = nn.Linear(6, 3)
        seen = []

        def loss_of(step):
            return scale * model(torch.randn(4, 6, generator=step.generator)).square().mean()

        def keep(_, args, kwargs):
            seen.append([p.grad.clone() for p in model.parameters()])

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("auditor.personalize.blocks.optimise._clip", clip)
            handle = register_optimizer_step_pre_hook(keep)
            optimise([Group("w", list(model.parameters()))], loss_of, Optimisation(3, 0.01), lambda *_: None)
            handle.remove()
        return [*seen, list(model.parameters())]

    from auditor.personalize.blocks.optimise import _clip

    for ours, theirs in zip(train(_clip), train(nn.utils.clip_grad_norm_), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
