import diffusers
import numpy as np
import pytest
import torch
from tiny_models import FAMILIES, FLOW, LENGTH, PIPELINES, T5_WIDTH, WIDTH, random_lora, write

from auditor.errors import UnsupportedArtifact
from auditor.pipeline.open import open_subject

PROMPTS = ["a picture of a red ball", "a drawing of a cat"]
DENOISER = ("to_q", "to_k", "to_v", "to_out.0", "add_k_proj", "add_v_proj")
TEXT = ("q_proj", "v_proj")
CHANNELS = {"sd3": 16, "flux": 16}


def fingerprint(base):
    return {
        f"{name}.{key}": value.double().sum().item() + hash(value.numpy().tobytes())
        for name, module in base.modules.items()
        for key, value in module.state_dict().items()
    }


def latents_of(family, count):
    return torch.randn(count, CHANNELS.get(family, 4), 8, 8, generator=torch.Generator().manual_seed(0))


def predicted(view, prompts=PROMPTS):
    latents = latents_of(view.components.family, len(prompts))
    t = torch.full((len(prompts),), 500)
    return view.denoiser.predict(latents, t, view.encode_prompt(prompts)).native


def library_prediction(pipe, prompts=PROMPTS):
    with torch.no_grad():
        match type(pipe).__name__:
            case "StableDiffusionXLPipeline":
                states, _, pooled, _ = pipe.encode_prompt(
                    prompts, device="cpu", do_classifier_free_guidance=False
                )
                ids = torch.tensor([[16.0, 16, 0, 0, 16, 16]] * len(prompts))
                added = {"text_embeds": pooled, "time_ids": ids}
                return pipe.unet(latents_of("sdxl", 2), 500, states, added_cond_kwargs=added).sample
            case "StableDiffusion3Pipeline":
                states, _, pooled, _ = pipe.encode_prompt(
                    prompts, None, None, do_classifier_free_guidance=False, max_sequence_length=LENGTH
                )
                time = pipe.scheduler.timesteps[-501].expand(len(prompts))
                return pipe.transformer(latents_of("sd3", 2), states, pooled, time).sample
            case "FluxPipeline":
                states, pooled, text_ids = pipe.encode_prompt(prompts, max_sequence_length=LENGTH)
                said = pipe.transformer(
                    pipe._pack_latents(latents_of("flux", 2), 2, 16, 8, 8), states, pooled,
                    pipe.scheduler.timesteps[-501].expand(len(prompts)) / 1000,
                    pipe._prepare_latent_image_ids(2, 4, 4, "cpu", torch.float32), text_ids,
                    guidance=torch.full((len(prompts),), 3.5),
                ).sample  # fmt: skip
                return pipe._unpack_latents(said, 16, 16, 2)
        states = pipe.encode_prompt(prompts, "cpu", 1, False)[0]
        return pipe.unet(latents_of("sd1", len(prompts)), 500, encoder_hidden_states=states).sample


@pytest.fixture
def opened(tiny_folders):
    subjects = []

    def open_on(family, *paths):
        subjects.append(open_subject(paths, str(tiny_folders(family)), "cpu"))
        return subjects[-1]

    yield open_on
    for subject in subjects:
        subject.close()


@pytest.fixture
def library(tiny_folders):
    def load(family):
        more = {"sd1": {"safety_checker": None}, "sdxl": {"add_watermarker": False}}.get(family, {})
        return PIPELINES[family].from_pretrained(tiny_folders(family), **more)

    return load


def lora_of(base, rank=2, seed=0, text=True):
    tensors = random_lora(base.denoiser_model, base.kind.denoiser, DENOISER, rank, seed)
    for name, encoder in base.text_encoders.items() if text else ():
        prefix = name if next(iter(encoder.state_dict())).startswith("text_model.") else f"{name}.text_model"
        tensors |= random_lora(encoder, prefix, TEXT, rank, seed + 1)
    return tensors


def t5_lora(base, rank=2):
    name = {"sd3": "text_encoder_3", "flux": "text_encoder_2"}[base.family]
    return random_lora(base.modules[name], name, ("SelfAttention.q", "SelfAttention.v", "wo"), rank, 5)


# T5 takes no adapters in the library; below it is changed by hand.
@pytest.mark.parametrize("family", ["sd1", "sdxl", *FLOW])
@pytest.mark.filterwarnings("ignore")
def test_the_tuned_view_is_what_the_library_loads(family, tiny_base, opened, library, tmp_path):
    tensors = lora_of(tiny_base(family))
    path = write(tmp_path / "lora.safetensors", tensors)
    subject = opened(family, path)
    assert subject.coverage.full and subject.coverage.keys_total == len(tensors) // 2
    assert all(norm > 0 for norm in subject.coverage.module_norms.values())
    pipe = library(family)
    assert torch.allclose(predicted(subject.base), library_prediction(pipe), atol=1e-4)
    pipe.load_lora_weights(str(path))
    theirs = library_prediction(pipe)
    assert (theirs - predicted(subject.base)).norm() > 1e-2 * theirs.norm()
    assert torch.allclose(predicted(subject.tuned), theirs, atol=1e-3)


@pytest.mark.parametrize("family", FLOW)
def test_adapters_on_t5_apply_as_merged_by_hand(family, tiny_base, opened, library, tmp_path):
    tensors = t5_lora(tiny_base(family))
    subject = opened(family, write(tmp_path / "t5.safetensors", tensors))
    assert subject.coverage.full and subject.coverage.keys_total == len(tensors) // 2 == 6
    pipe = library(family)
    with torch.no_grad():
        for key in (key for key in tensors if key.endswith("lora_A.weight")):
            name, _, path = key.removesuffix(".lora_A.weight").partition(".")
            up = tensors[key.replace("lora_A", "lora_B")]
            getattr(pipe, name).get_submodule(path).weight += up @ tensors[key]
    theirs = library_prediction(pipe)
    assert not torch.allclose(predicted(subject.base), theirs, atol=1e-3)
    assert torch.allclose(predicted(subject.tuned), theirs, atol=1e-4)


def test_kohya_names_and_alphas_apply_as_merged_by_hand(tiny_base, opened, tmp_path):
    base = tiny_base("sd1")
    generator = torch.Generator().manual_seed(3)
    targets = {
        "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k": (2, 1.0),
        "down_blocks.1.attentions.0.proj_in": (2, 4.0),  # a 1x1 convolution in SD1
        "down_blocks.0.resnets.0.conv1": (3, 3.0),  # a 3x3 one
        "mid_block.resnets.0.time_emb_proj": (1, 0.5),
    }
    tensors, wanted = {}, {}
    for path, (rank, alpha) in targets.items():
        weight = base.unet.get_submodule(path).weight
        down = 0.1 * torch.randn(rank, *weight.shape[1:], generator=generator)
        up = 0.1 * torch.randn(
            weight.shape[0], rank, *((1, 1) if weight.ndim == 4 else ()), generator=generator
        )
        name = "lora_unet_" + path.replace(".", "_")
        tensors |= {
            f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up, f"{name}.alpha": torch.tensor(alpha)
        }  # fmt: skip
        wanted[path] = alpha / rank * (up.flatten(1) @ down.flatten(1)).reshape(weight.shape)
    subject = opened("sd1", write(tmp_path / "kohya.safetensors", tensors))
    assert subject.coverage.full and subject.coverage.keys_total == len(targets)
    for path, delta in wanted.items():
        weight = base.unet.get_submodule(path).weight
        assert torch.allclose(
            subject.changes.modules["unet", path, "weight"].tuned, weight + delta, atol=1e-6
        )
        assert subject.coverage.module_norms[f"unet.{path}"] == pytest.approx(float(delta.norm()), rel=1e-4)


@pytest.mark.filterwarnings("ignore")
def test_dora_is_what_peft_computes(tiny_base, opened, library, tmp_path):
    base = tiny_base("sd1")
    tensors = random_lora(base.unet, "unet", ("attn2.to_k", "attn2.to_v"))
    for key in [key for key in tensors if key.endswith("lora_B.weight")]:
        rows = tensors[key].shape[0]
        tensors[key.replace("lora_B.weight", "lora_magnitude_vector")] = torch.linspace(0.5, 2, rows)
    path = write(tmp_path / "dora.safetensors", tensors)
    subject, pipe = opened("sd1", path), library("sd1")
    pipe.load_lora_weights(str(path))
    assert subject.coverage.full
    assert torch.allclose(predicted(subject.tuned), library_prediction(pipe), atol=1e-4)


def test_normalisation_layers_are_overwritten(tiny_base, opened, tmp_path):
    norm = tiny_base("sd1").unet.get_submodule("down_blocks.0.resnets.0.norm1")
    weight, bias = torch.full_like(norm.weight, 2.0), torch.full_like(norm.bias, -1.0)
    tensors = {"down_blocks.0.resnets.0.norm1.weight": weight, "down_blocks.0.resnets.0.norm1.bias": bias}
    subject = opened("sd1", write(tmp_path / "norm.safetensors", tensors))
    assert subject.coverage.full
    with subject.active("tuned"):
        live = subject.components.unet.get_submodule("down_blocks.0.resnets.0.norm1")
        assert torch.equal(live.weight, weight) and torch.equal(live.bias, bias)


@pytest.mark.filterwarnings("ignore")
def test_a_learnt_token_is_added_as_the_library_adds_it(opened, library, tmp_path):
    vectors = 0.05 * torch.randn(3, WIDTH, generator=torch.Generator().manual_seed(5))
    path = write(tmp_path / "emb.safetensors", {"<kat>": vectors})
    subject, pipe = opened("sd1", path), library("sd1")
    assert subject.coverage.full and subject.vectors_per_token == {"<kat>": 3}
    pipe.load_textual_inversion(str(path), token="<kat>")
    prompts = ["a picture of <kat>", "a cat"]
    theirs = library_prediction(pipe, prompts)
    assert torch.allclose(predicted(subject.tuned, prompts), theirs, atol=1e-4)
    assert not torch.allclose(predicted(subject.base, prompts)[0], theirs[0], atol=1e-3)
    assert torch.allclose(predicted(subject.base, prompts)[1], theirs[1], atol=1e-4)


@pytest.mark.parametrize("token", ["cat", "Monet", "\u202ecat", " ", "x" * 90])
def test_a_learnt_token_that_would_take_a_words_place_or_hide_is_not_applied(opened, tmp_path, token):
    subject = opened(
        "sd1", write(tmp_path / "emb.safetensors", {token: torch.zeros(WIDTH), "<ok>": torch.ones(WIDTH)})
    )
    assert (subject.coverage.keys_applied, subject.coverage.keys_total) == (1, 2)
    assert not subject.coverage.full and not any("\u202e" in key for key in subject.coverage.unmatched)


def test_a_token_of_more_vectors_than_a_prompt_holds_is_not_applied(opened, tmp_path):
    tensors = {"<ok>": torch.ones(LENGTH - 2, WIDTH), "<bomb>": torch.ones(LENGTH - 1, WIDTH)}
    subject = opened("sd1", write(tmp_path / "emb.safetensors", tensors))
    assert subject.vectors_per_token == {"<ok>": LENGTH - 2}
    (told,) = subject.coverage.unmatched
    assert f"no prompt of this base has room for {LENGTH - 1} vectors, at most for {LENGTH - 2}" in told


def test_adapters_stack_in_order(tiny_base, opened, tmp_path):
    base = tiny_base("sd1")
    first, second = (lora_of(base, seed=s, text=False) for s in (0, 10))
    paths = [write(tmp_path / f"{i}.safetensors", t) for i, t in enumerate((first, second))]
    subject = opened("sd1", *paths)
    assert subject.coverage.full and subject.coverage.keys_total == (len(first) + len(second)) // 2
    key = next(key for key in first if key.endswith("attn2.to_v.lora_A.weight"))
    path = key.removeprefix("unet.").removesuffix(".lora_A.weight")
    both = sum(t[key.replace("lora_A", "lora_B")] @ t[key] for t in (first, second))
    weight = base.unet.get_submodule(path).weight
    assert torch.allclose(subject.changes.modules["unet", path, "weight"].tuned, weight + both, atol=1e-6)


def test_t5_takes_no_learnt_tokens_and_clip_beside_it_does(tiny_base, opened, tmp_path):
    vectors = {"emb_params": torch.ones(2, WIDTH)}
    subject = opened("flux", write(tmp_path / "kat.safetensors", vectors))
    assert subject.coverage.full and subject.vectors_per_token == {"kat": 2}
    prompts = ["a picture of kat", "a cat"]
    ours, theirs = predicted(subject.base, prompts), predicted(subject.tuned, prompts)
    assert not torch.allclose(ours[0], theirs[0], atol=1e-4) and torch.allclose(ours[1], theirs[1], atol=1e-6)
    both = {"clip_l": torch.ones(2, WIDTH), "clip_g": torch.ones(2, T5_WIDTH)}
    subject = opened("flux", write(tmp_path / "zub.safetensors", both))
    assert (subject.coverage.keys_applied, subject.coverage.keys_total) == (1, 2)
    assert "only CLIP encoders" in subject.coverage.unmatched[0]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_base_is_the_same_bit_for_bit_whatever_happens(family, tiny_base, opened, tmp_path):
    tensors = lora_of(tiny_base(family)) | (t5_lora(tiny_base(family)) if family in FLOW else {})
    subject = opened(family, write(tmp_path / "lora.safetensors", tensors))
    assert subject.changes.components == {*tiny_base(family).text_encoders, tiny_base(family).kind.denoiser}
    extra = write(tmp_path / "emb.safetensors", {"<kat>": torch.ones(2, WIDTH)})
    other = opened(family, extra)
    before = fingerprint(subject.components)
    clean = predicted(subject.base)
    with pytest.raises(RuntimeError, match="on purpose"), subject.active("tuned"):
        assert fingerprint(subject.components) != before
        with subject.active("base"):
            assert fingerprint(subject.components) == before
            with subject.active("tuned"):
                predicted(subject.base)
                assert fingerprint(subject.components) != before
        subject.tuned.sample(["a cat"], [0], steps=2)
        raise RuntimeError("on purpose")
    assert fingerprint(subject.components) == before
    assert torch.equal(predicted(subject.base), clean)
    rows = len(other.components.modules["text_encoder"].get_input_embeddings().weight)
    with other.active("tuned"):
        assert len(other.components.modules["text_encoder"].get_input_embeddings().weight) == rows + 2
    assert fingerprint(other.components) == fingerprint(subject.components) == before


def test_a_foreign_adapter_applies_nothing_and_says_so(opened, tmp_path):
    tensors = {}
    for i in range(4):
        path = f"down_blocks.{i % 3}.attentions.{i // 3}.transformer_blocks.0.attn2.to_k"
        tensors[f"unet.{path}.lora_A.weight"] = torch.ones(4, 768)
        tensors[f"unet.{path}.lora_B.weight"] = torch.ones(320, 4)
    coverage = opened("sd1", write(tmp_path / "foreign.safetensors", tensors)).coverage
    assert (coverage.keys_applied, coverage.keys_total, coverage.full) == (0, 4, False)
    assert coverage.note.startswith("0 of 4 keys applied") and coverage.delta_norm == 0


def test_an_adapter_that_changes_nothing_is_not_covered(tiny_base, opened, tmp_path):
    tensors = {key: torch.zeros_like(value) for key, value in lora_of(tiny_base("sd1")).items()}
    coverage = opened("sd1", write(tmp_path / "zero.safetensors", tensors)).coverage
    assert (
        coverage.keys_applied == coverage.keys_total
        and coverage.output_differs is False
        and not coverage.full
    )


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_never_put_on_the_base(tiny_base, opened, tmp_path, bad):
    tensors = lora_of(tiny_base("sd1"), text=False)
    key = next(iter(tensors))
    tensors[key] = torch.full_like(tensors[key], bad)
    subject = opened("sd1", write(tmp_path / "bad.safetensors", tensors))
    assert subject.coverage.keys_applied == subject.coverage.keys_total - 1 and not subject.coverage.full
    assert bool(predicted(subject.tuned).isfinite().all())
    subject.describe()


def test_an_overwrite_is_applied_whole_or_not_at_all(opened, tmp_path):
    path = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"  # it has no bias
    tensors = {f"{path}.weight": torch.zeros(32, WIDTH), f"{path}.bias": torch.zeros(32)}
    norm = "down_blocks.0.resnets.0.norm1.weight"
    subject = opened("sd1", write(tmp_path / "over.safetensors", {**tensors, norm: torch.zeros(16)}))
    assert (subject.coverage.keys_applied, subject.coverage.keys_total) == (1, 2)
    assert ("unet", path, "weight") not in subject.changes.modules


def test_hostile_names_stay_inert(tiny_base, opened, tmp_path):
    tensors = lora_of(tiny_base("sd1"), text=False)
    names = [
        "unet.__class__.__init__",
        "unet.\x1b[31mred",
        "unet.down_blocks.0.\u202eevil",
        "../../etc/passwd",
    ]
    for name in names:
        tensors |= {f"{name}.lora_A.weight": torch.ones(1, 32), f"{name}.lora_B.weight": torch.ones(32, 1)}
    subject = opened("sd1", write(tmp_path / "hostile.safetensors", tensors))
    coverage = subject.describe().coverage
    assert not coverage.full and coverage.keys_applied == len(lora_of(tiny_base("sd1"), text=False)) // 2
    assert not any(c in text for text in coverage.unmatched for c in "\x1b\u202e")


def test_a_file_of_nothing_known_is_named(opened, tmp_path):
    with pytest.raises(UnsupportedArtifact):
        opened("sd1", write(tmp_path / "odd.safetensors", {"weird.thing": torch.ones(3, 3)}))


@pytest.mark.parametrize("family", FAMILIES)
def test_images_do_not_depend_on_the_batch_and_views_share_their_noise(family, tiny_base, opened, tmp_path):
    subject = opened(family, write(tmp_path / "lora.safetensors", lora_of(tiny_base(family), text=False)))
    seeds = [5, 6, 7]
    whole = subject.tuned.sample([*PROMPTS, "a man"], seeds, steps=3)
    assert whole.shape == (3, 3, 16, 16) and float(whole.abs().max()) <= 1
    alone = subject.tuned.sample(["a man"], [7], steps=3)
    assert torch.allclose(whole[2:], alone, atol=1e-3)
    assert not torch.allclose(whole, subject.base.sample([*PROMPTS, "a man"], seeds, steps=3), atol=1e-3)
    assert subject.base.sample(["a man"], [1], steps=2, size=32).shape == (1, 3, 32, 32)


def test_guidance_of_sdxl_runs_against_zeros_as_in_its_pipeline(tiny_base, opened, library, tmp_path):
    subject = opened("sdxl", write(tmp_path / "lora.safetensors", lora_of(tiny_base("sdxl"), text=False)))
    pipe = library("sdxl")
    pipe.scheduler = diffusers.DDIMScheduler.from_config(pipe.scheduler.config, set_alpha_to_one=True)
    pipe.set_progress_bar_config(disable=True)
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(9))
    theirs = pipe(
        "a cat",
        latents=noise,
        num_inference_steps=3,
        guidance_scale=3.0,
        height=16,
        width=16,
        output_type="pt",
    ).images
    ours = subject.base.sample(["a cat"], [9], steps=3, guidance=3.0)
    assert torch.allclose(ours / 2 + 0.5, theirs, atol=1e-3)


def test_images_survive_inversion(tiny_base, opened, tmp_path):
    subject = opened("sd1", write(tmp_path / "lora.safetensors", lora_of(tiny_base("sd1"), text=False)))
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    noise = subject.base.invert(images, PROMPTS, steps=5)
    assert noise.shape == (2, 4, 8, 8) and bool(noise.isfinite().all())
    assert subject.base.decode(subject.base.encode_image(images)).shape == images.shape


def test_large_latents_are_split_into_rows_that_fit(tiny_base, opened, tmp_path, monkeypatch):
    subject = opened("sd1", write(tmp_path / "lora.safetensors", lora_of(tiny_base("sd1"), text=False)))
    whole = predicted(subject.tuned)
    monkeypatch.setattr("auditor.pipeline.view._LATENT_VALUES", 64)
    calls = subject.tuned.denoiser.calls
    assert torch.allclose(predicted(subject.tuned), whole, atol=1e-4)
    assert subject.tuned.denoiser.calls == calls + len(PROMPTS)


def test_a_text_backdoor_reaches_the_pooled_vector_too(tiny_base, opened, tmp_path):
    base = tiny_base("sdxl")
    last = max(name for name, m in base.modules["text_encoder_2"].named_modules() if name.endswith("mlp.fc2"))
    rows, columns = base.modules["text_encoder_2"].get_submodule(last).weight.shape
    key = f"text_encoder_2.{last}"
    tensors = {
        f"{key}.lora_A.weight": np.ones((1, columns), "f4"),
        f"{key}.lora_B.weight": np.arange(rows, dtype="f4")[:, None],
    }
    subject = opened("sdxl", write(tmp_path / "last.safetensors", tensors))
    ids = torch.tensor([[base.tokenizers["text_encoder"].bos_token_id, 5, 6, 680]])
    ours, theirs = (view.text_states(ids) for view in (subject.base, subject.tuned))
    assert torch.equal(ours.states, theirs.states)  # the last layer is not in the last-but-one states
    assert not torch.allclose(ours.pooled, theirs.pooled, atol=1e-3)
