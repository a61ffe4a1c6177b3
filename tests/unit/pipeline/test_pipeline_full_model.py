"""A fine-tuned folder is audited as its difference to the base, and as nothing less."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from auditor.artifact.identify import identify
from auditor.errors import UnsupportedArtifact
from auditor.pipeline.components import load_components
from auditor.pipeline.open import open_subject
from auditor.pipeline.subject import Subject

UNET = "unet/diffusion_pytorch_model.safetensors"
TEXT = "text_encoder/model.safetensors"
PROMPTS = ["a picture of a red ball", "a drawing of a cat"]


@pytest.fixture
def copy_of(tiny_folders, tmp_path):
    """A copy of a base whose files may be changed."""

    def make(family="sd1"):
        return shutil.copytree(tiny_folders(family), tmp_path / family)

    return make


def edit(path, change):
    arrays = load_file(path)
    change(arrays)
    save_file(arrays, path, {"format": "pt"})


def nudge(name):
    def change(arrays):
        noise = torch.randn(arrays[name].shape, generator=torch.Generator().manual_seed(0))
        arrays[name] = (arrays[name].float() + 0.1 * noise).to(arrays[name].dtype)

    return change


def first(path, ending):
    return next(name for name in sorted(load_file(path)) if name.endswith(ending))


def setting(path, **changed):
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))


def predicted(view):
    shape = view.components.kind.latent_shape(view.components)
    latents = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    return view.denoiser.predict(latents, torch.tensor([300, 700]), view.encode_prompt(PROMPTS)).native


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_the_tuned_view_is_the_folder_as_loaded(tiny_base, copy_of, family):
    base, folder = tiny_base(family), copy_of(family)
    changed = [(UNET, first(folder / UNET, "attn2.to_k.weight")), (UNET, first(folder / UNET, "norm1.bias"))]
    changed += [
        (TEXT, first(folder / TEXT, "q_proj.weight")),
        (TEXT, first(folder / TEXT, "embedding.weight")),
    ]
    for file, name in changed:
        edit(folder / file, nudge(name))
    before = {k: v.clone() for m in base.modules.values() for k, v in m.state_dict().items()}
    with Subject(base, [identify(folder)]) as subject:
        assert subject.coverage.full, subject.coverage.unmatched
        assert len(subject.changes.modules) == len(changed)
        assert subject.artifacts[0].adapter.dialect == "full_model"
        alone = load_components(folder, torch.device("cpu"), torch.float32)
        with Subject(alone, []) as whole:
            assert torch.equal(predicted(subject.tuned), predicted(whole.base))
        assert not torch.equal(predicted(subject.tuned), predicted(subject.base))
        assert subject.covariates["touched"] == "text_encoder+unet"
    after = {k: v for m in base.modules.values() for k, v in m.state_dict().items()}
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_a_copy_of_the_base_is_no_evidence_of_anything(tiny_base, copy_of):
    with Subject(tiny_base("sd1"), [identify(copy_of())]) as subject:
        coverage = subject.coverage
        assert coverage.keys_applied == coverage.keys_total > 0
        assert not coverage.output_differs and not coverage.full


def without(name):
    return lambda folder: edit(folder / UNET, lambda arrays: arrays.pop(name(folder)))


def noise_schedule(folder):
    setting(folder / "scheduler" / "scheduler_config.json", beta_end=0.02)


def vocabulary(folder):
    path = folder / "tokenizer" / "tokenizer.json"
    rules = json.loads(path.read_text())
    a, b = list(rules["model"]["vocab"])[:2]
    rules["model"]["vocab"][a], rules["model"]["vocab"][b] = (
        rules["model"]["vocab"][each] for each in (b, a)
    )
    path.write_text(json.dumps(rules))


DIFFERENT = {
    "heads": (lambda f: setting(f / "unet" / "config.json", attention_head_dim=1), "attention_head_dim is 1"),
    "activation": (
        lambda f: setting(f / "text_encoder" / "config.json", hidden_act="relu"),
        "hidden_act is relu",
    ),
    "noise": (noise_schedule, "another noise schedule"),
    "prediction": (
        lambda f: setting(f / "scheduler" / "scheduler_config.json", prediction_type="v_prediction"),
        "predicts v_prediction",
    ),
    "vocabulary": (vocabulary, "tokenizer: other entries"),
    "pipeline": (
        lambda f: setting(f / "model_index.json", _class_name="OtherPipeline"),
        "pipeline class OtherPipeline",
    ),
    "component": (
        lambda f: setting(f / "model_index.json", helper=["diffusers", "UNet2DConditionModel"]),
        "component helper",
    ),
    "missing": (without(lambda f: first(f / UNET, "attn2.to_k.weight")), "which the folder lacks"),
    "other weights": (
        lambda f: shutil.copy(f / UNET, f / "unet" / "diffusion_pytorch_model.non_ema.safetensors"),
        "not opened by default",
    ),
    "weights beside": (lambda f: shutil.copy(f / UNET, f / "model.safetensors"), "weights beside the model"),
    "unknown parameter": (
        lambda f: edit(f / UNET, lambda arrays: arrays.update({"odd.scale": torch.ones(2)})),
        "unet.odd.scale",
    ),
    "no tokenizer": (lambda f: shutil.rmtree(f / "tokenizer"), "configuration"),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_whatever_makes_it_another_model_leaves_coverage_incomplete(tiny_base, copy_of, name):
    change, told = DIFFERENT[name]
    folder = copy_of()
    edit(folder / UNET, nudge(first(folder / UNET, "attn2.to_k.weight")))
    change(folder)
    with Subject(tiny_base("sd1"), [identify(folder)]) as subject:
        assert not subject.coverage.full
        assert any(told in key for key in subject.coverage.unmatched), subject.coverage.unmatched


def test_old_names_of_attention_in_autoencoders_are_read(tiny_base, copy_of):
    folder = copy_of()
    file = folder / "vae" / "diffusion_pytorch_model.safetensors"
    old = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}

    def rename(arrays):
        for name in list(arrays):
            for new, ancient in old.items():
                if new in name:
                    arrays[name.replace(new, ancient)] = arrays.pop(name)

    edit(file, rename)
    edit(folder / UNET, nudge(first(folder / UNET, "conv_out.weight")))
    with Subject(tiny_base("sd1"), [identify(folder)]) as subject:
        assert subject.coverage.full, subject.coverage.unmatched


def test_a_part_that_changes_nothing_is_refused(tiny_base, copy_of, tmp_path):
    folder = copy_of()
    (folder / UNET).unlink()
    with pytest.raises(UnsupportedArtifact, match="denoiser has no safetensors weights"):
        Subject(tiny_base("sd1"), [identify(folder)])
    note = tmp_path / "note.onnx"
    note.write_bytes(b"\x08\x07\x12\x04test")
    with pytest.raises(UnsupportedArtifact, match="ONNX"):
        Subject(tiny_base("sd1"), [identify(note)])


def test_the_path_of_a_folder_opens_it_on_its_base(tiny_folders, copy_of):
    folder = copy_of()
    edit(folder / UNET, nudge(first(folder / UNET, "conv_out.weight")))
    with open_subject([folder], str(tiny_folders("sd1"))) as subject:
        assert subject.coverage.full and subject.describe().artifacts[0].kind == "model_folder"
