"""Several parts on one base, and tokens with vectors in both encoders of SDXL, against diffusers and PEFT."""

import diffusers
import pytest
import torch
from tiny_models import WIDTH, random_lora, write

from auditor.artifact.identify import identify
from auditor.pipeline.open import open_subject

PROMPTS = ["a picture of a red ball", "a drawing of a cat"]
PIPELINES = {"sd1": diffusers.StableDiffusionPipeline, "sdxl": diffusers.StableDiffusionXLPipeline}


def loaded(family, folder):
    more = {"safety_checker": None} if family == "sd1" else {"add_watermarker": False}
    return PIPELINES[family].from_pretrained(folder, **more)


def library_states(pipe, prompts):
    if "XL" in type(pipe).__name__:
        return pipe.encode_prompt(prompts, device="cpu", do_classifier_free_guidance=False)[::2]
    return pipe.encode_prompt(prompts, "cpu", 1, False)[0], None


def library_prediction(pipe, prompts=PROMPTS):
    latents = torch.randn(len(prompts), 4, 8, 8, generator=torch.Generator().manual_seed(0))
    added = None
    with torch.no_grad():
        states, pooled = library_states(pipe, prompts)
        if pooled is not None:
            ids = torch.tensor([[16.0, 16, 0, 0, 16, 16]] * len(prompts))
            added = {"text_embeds": pooled, "time_ids": ids}
        return pipe.unet(latents, 500, encoder_hidden_states=states, added_cond_kwargs=added).sample


def predicted(view, prompts=PROMPTS):
    latents = torch.randn(len(prompts), 4, 8, 8, generator=torch.Generator().manual_seed(0))
    t = torch.full((len(prompts),), 500)
    return view.denoiser.predict(latents, t, view.encode_prompt(prompts)).native


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_stacked_adapters_are_what_the_library_runs_with_both_active(
    family, tiny_base, tiny_folders, tmp_path
):
    unet = tiny_base(family).unet
    sets = (
        random_lora(unet, "unet", ("to_q", "to_k"), rank=2, seed=1),
        random_lora(unet, "unet", ("to_k", "to_v"), rank=3, seed=2),  # to_k in both
    )
    paths = [write(tmp_path / f"{i}.safetensors", tensors) for i, tensors in enumerate(sets)]
    pipe = loaded(family, tiny_folders(family))
    for i, path in enumerate(paths):
        pipe.load_lora_weights(str(path), adapter_name=f"part{i}")
    pipe.set_adapters(["part0", "part1"], [1.0, 1.0])
    with open_subject(paths, str(tiny_folders(family)), "cpu") as subject:
        assert subject.coverage.full
        assert subject.coverage.keys_total == sum(map(len, sets)) // 2
        both, theirs = predicted(subject.tuned), library_prediction(pipe)
        assert torch.allclose(both, theirs, atol=1e-4)
    for i, path in enumerate(paths):
        pipe.set_adapters([f"part{i}"], [1.0])
        with open_subject([path], str(tiny_folders(family)), "cpu") as subject:
            one = predicted(subject.tuned)
            assert torch.allclose(one, library_prediction(pipe), atol=1e-4)
            assert not torch.allclose(one, both, atol=1e-3)


def test_a_decomposed_adapter_stacks_on_what_the_earlier_part_left(tiny_base, tiny_folders, tmp_path):
    """Order matters for changes that depend on the base: each sees the weight as the parts before it left it."""
    path = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"
    weight = tiny_base("sd1").unet.get_submodule(path).weight.detach()
    name = "lora_unet_" + path.replace(".", "_")
    add, scale = 0.1 * torch.randn(weight.shape), 0.5 * torch.randn(len(weight))
    paths = [
        write(tmp_path / "add.safetensors", {f"{name}.diff": add}),
        write(tmp_path / "ia3.safetensors", {f"{name}.weight": scale, f"{name}.on_input": torch.tensor(0)}),
    ]
    factor = 1 + scale[:, None]
    for order, wanted in ((paths, (weight + add) * factor), (paths[::-1], weight * factor + add)):
        with open_subject(order, str(tiny_folders("sd1")), "cpu") as subject:
            assert subject.coverage.full
            assert torch.allclose(subject.changes.modules["unet", path, "weight"].tuned, wanted, atol=1e-6)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.filterwarnings("ignore")
def test_a_token_of_sdxl_gets_its_vectors_in_both_encoders(count, tiny_folders, tmp_path):
    draw = torch.Generator().manual_seed(5)
    vectors = {
        "clip_l": 0.05 * torch.randn(count, WIDTH, generator=draw),
        "clip_g": 0.05 * torch.randn(count, 48, generator=draw),
    }
    path = write(tmp_path / "kat9.safetensors", vectors)
    pipe = loaded("sdxl", tiny_folders("sdxl"))
    for key, encoder, tokenizer in (
        ("clip_l", pipe.text_encoder, pipe.tokenizer),
        ("clip_g", pipe.text_encoder_2, pipe.tokenizer_2),
    ):
        pipe.load_textual_inversion(vectors[key], token="kat9", text_encoder=encoder, tokenizer=tokenizer)
    prompts = ["a picture of kat9", "a cat"]
    with open_subject([path], str(tiny_folders("sdxl")), "cpu") as subject:
        assert subject.coverage.full and subject.coverage.keys_total == 2
        assert subject.vectors_per_token == {"kat9": count}
        assert {name: len(rows) for name, rows in subject.changes.embeddings["kat9"].items()} == {
            "text_encoder": count, "text_encoder_2": count,
        }  # fmt: skip
        states, pooled = library_states(pipe, prompts)
        ours = subject.tuned.encode_prompt(prompts)
        assert torch.allclose(ours.states, states, atol=1e-4)
        assert torch.allclose(ours.pooled, pooled, atol=1e-4)
        assert torch.allclose(predicted(subject.tuned, prompts), library_prediction(pipe, prompts), atol=1e-4)
        assert not torch.allclose(subject.base.encode_prompt(prompts).pooled[0], pooled[0], atol=1e-3)
        assert torch.equal(subject.base.encode_prompt(prompts).states[1], ours.states[1])


def test_a_pair_of_vectors_is_named_sdxl(tmp_path):
    pair = {"clip_l": torch.zeros(2, 768), "clip_g": torch.zeros(2, 1280)}
    with identify(write(tmp_path / "style.safetensors", pair)) as found:
        assert found.family.family == "sdxl"
        assert {e: v.shape for e, v in found.adapter.embeddings["style"].items()} == {
            "text_encoder": (2, 768), "text_encoder_2": (2, 1280),
        }  # fmt: skip
    with identify(write(tmp_path / "half.safetensors", {"clip_l": torch.zeros(2, 768)})) as found:
        assert found.family.family == "sd1"
