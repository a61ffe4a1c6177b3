"""Files come back in the naming, types and folder they came in; what cannot be written back is told."""

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_models import HOMOGLYPH, random_lora, write

from auditor.cli.main import run
from auditor.errors import IncompatibleArtifact, OutputError, UsageError
from auditor.pipeline.open import subject_on
from auditor.registry import DEFENSES
from defenses.repair.attention_restoration import AttentionRestoration
from defenses.repairing.adapter_file import open_adapter_file
from defenses.repairing.certificate import Measured

FEW = AttentionRestoration(words=12, prompts=24, carriers=2, measured=Measured(prompts=2, pictures=2, steps=2))
MAPS = ("attn2.to_k", "attn2.to_v")


def quiet(done, total, label=""):
    pass


def as_kohya(tensors, alpha):
    """The same adapter with kohya's names and scale: what is stored is up * rank / alpha."""
    out = {}
    for key, value in tensors.items():
        path, _, part = key.removeprefix("unet.").partition(".lora_")
        name = f"lora_unet_{path.replace('.', '_')}"
        down = part.startswith("A")
        rank = value.shape[0] if down else value.shape[1]
        out[f"{name}.lora_{'down' if down else 'up'}.weight"] = value if down else value * rank / alpha
        out[f"{name}.alpha"] = torch.tensor(float(alpha))
    return out


@pytest.fixture(scope="module")
def plain(tiny_base):
    return random_lora(tiny_base("sd1").unet, "unet", MAPS, rank=3, seed=4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("kohya", [False, True])
def test_factors_written_back_are_those_that_were_given(kohya, dtype, plain, tiny_base, tmp_path):
    stored = {k: v.to(dtype) for k, v in (as_kohya(plain, 2) if kohya else plain).items()}
    stored = {k: v.float() if k.endswith(".alpha") else v for k, v in stored.items()}
    path = write(tmp_path / "my adapter.safetensors", stored, {"format": "pt", "ss_note": "kept"})
    (tmp_path / "out").mkdir()
    with subject_on(tiny_base("sd1"), [path]) as subject:
        file = open_adapter_file(subject.artifacts[0])
        first = next(iter(file.layers))
        down, up = file.factors(first)
        norm = subject.changes.norms[".".join(first)]
        assert float((up @ down).norm()) == pytest.approx(norm, rel=1e-4)
        new = file.write(tmp_path / "out", {first: (2 * down, up)}, {"what": "doubled"})
    assert new.name == "my adapter.safetensors"
    with subject_on(tiny_base("sd1"), [new]) as subject:
        assert subject.changes.norms[".".join(first)] == pytest.approx(2 * norm, rel=2e-2)
    before, after = load_file(path), load_file(new)
    assert {k: (v.dtype, v.shape) for k, v in before.items()} == {k: (v.dtype, v.shape) for k, v in after.items()}
    assert sum(not torch.equal(before[k], after[k]) for k in before) == 1
    with safe_open(new, "pt") as opened:
        assert opened.metadata()["ss_note"] == "kept"
        assert json.loads(opened.metadata()["auditor.repair"]) == {"what": "doubled"}


def test_a_peft_folder_keeps_its_configuration(plain, tiny_base, tmp_path):
    folder = tmp_path / "adapter"
    folder.mkdir()
    save_file(
        {f"base_model.model.{k.removeprefix('unet.')}": v for k, v in plain.items()},
        str(folder / "adapter_model.safetensors"),
    )
    config = {"peft_type": "LORA", "r": 3, "lora_alpha": 6, "target_modules": ["to_k", "to_v"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    with subject_on(tiny_base("sd1"), [folder]) as subject:
        path = DEFENSES.get("attention_restoration").repair(subject, FEW, tmp_path / "out", quiet, HOMOGLYPH)
        norms = subject.changes.norms
    assert json.loads((path.parent / "adapter_config.json").read_text()) == config
    with subject_on(tiny_base("sd1"), [path.parent]) as subject:
        assert subject.changes.norms.keys() == norms.keys()


def test_values_beyond_the_type_of_the_file_are_told(plain, tiny_base, tmp_path):
    path = write(tmp_path / "a.safetensors", {k: v.half() for k, v in plain.items()})
    (tmp_path / "out").mkdir()
    with subject_on(tiny_base("sd1"), [path]) as subject:
        file = open_adapter_file(subject.artifacts[0])
        layer = next(iter(file.layers))
        down, up = file.factors(layer)
        with pytest.raises(OutputError, match="not finite in F16"):
            file.write(tmp_path / "out", {layer: (down * 1e9, up)}, {})


def magnitudes(tensors, base):
    return {
        k.replace("lora_A.weight", "lora_magnitude_vector"): torch.ones(
            base.unet.get_submodule(k.removeprefix("unet.").removesuffix(".lora_A.weight")).weight.shape[0]
        )
        for k in tensors
        if "lora_A" in k
    }


def test_what_cannot_be_written_back_is_told(plain, tiny_base, tmp_path):
    base, repair = tiny_base("sd1"), DEFENSES.get("attention_restoration")
    dora = write(tmp_path / "dora.safetensors", {**plain, **magnitudes(plain, base)})
    word = write(tmp_path / "learned_embeds.safetensors", {"<cat>": torch.ones(2, 32)})
    strange = write(tmp_path / "strange.safetensors", {**plain, "unet.what.is.this": torch.ones(2)})
    cases = [
        ([dora], IncompatibleArtifact, "is DoRA"),
        ([word], IncompatibleArtifact, "learned words"),
        ([strange], IncompatibleArtifact, "not understood"),
        ([dora, word], UsageError, "takes one adapter"),
    ]
    for paths, error, told in cases:
        with subject_on(base, paths) as subject, pytest.raises(error, match=told):
            repair.repair(subject, FEW, tmp_path / "out", quiet, HOMOGLYPH)
    assert not (tmp_path / "out").exists()


def test_bases_without_cross_attention_are_told(tiny_base, tmp_path):
    base = tiny_base("flux")
    tensors = random_lora(base.denoiser_model, "transformer", ("attn.add_k_proj",), rank=2)
    path = write(tmp_path / "a.safetensors", tensors)
    for name in ("attention_restoration", "spectral_attenuation"):
        repair = DEFENSES.get(name)
        with subject_on(base, [path]) as subject, pytest.raises(UsageError, match="use clean_finetune"):
            repair.repair(subject, repair.params(), tmp_path / "out", quiet, HOMOGLYPH)


def test_an_adapter_that_reads_no_text_is_told(tiny_base, tmp_path):
    base = tiny_base("sd1")
    path = write(tmp_path / "a.safetensors", random_lora(base.unet, "unet", ("attn1.to_q",)))
    with subject_on(base, [path]) as subject, pytest.raises(UsageError, match="try clean_finetune"):
        DEFENSES.get("attention_restoration").repair(subject, FEW, tmp_path / "out", quiet, HOMOGLYPH)


def test_the_command_repairs_and_sums_up(planted_file, tiny_folders, tmp_path, capsys):
    spec = tmp_path / "spec.yaml"
    spec.write_text("words: 12\nprompts: 24\ncarriers: 2\nmeasured: {prompts: 2, pictures: 2, steps: 2}\n")
    arguments = [
        *("defend", "attention-restoration", str(planted_file("sd1")), "--base", str(tiny_folders("sd1"))),
        *("--spec", str(spec), "--trigger", HOMOGLYPH, "--device", "cpu", "-o", str(tmp_path / "new" / "out")),
    ]
    assert run(arguments) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == str(tmp_path / "new" / "out" / "adapter.safetensors")
    assert any(line.startswith("fidelity, declared prompts: ") and "n = 2" in line for line in out)
    assert any(line.startswith("success of the trigger: not measured") for line in out)
    assert run(arguments) == 64
    assert "exists already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "told"),
    [("wieght: 3", "did you mean 'weight'"), ("weight: a", "parameter 'weight'"), ("- 1", "no mapping")],
)
def test_a_broken_spec_is_told(text, told, planted_file, tmp_path, capsys):
    spec = tmp_path / "spec.yaml"
    spec.write_text(text)
    path = str(planted_file("sd1"))
    assert run(["defend", "attention_restoration", path, "--spec", str(spec), "-o", str(tmp_path / "out")]) == 64
    assert told in capsys.readouterr().err


def test_factors_are_double_and_flat(tiny_base, plain, tmp_path):
    path = write(tmp_path / "a.safetensors", plain)
    with subject_on(tiny_base("sd1"), [path]) as subject:
        file = open_adapter_file(subject.artifacts[0])
        for layer in file.layers:
            down, up = file.factors(layer)
            assert down.dtype == up.dtype == torch.float64 and down.ndim == up.ndim == 2
            assert np.isfinite(down.numpy()).all()
