"""From a path to what it is: files, pickles and folders."""

import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from auditor.artifact.identify import identify
from auditor.artifact.safetensors_write import write_arrays
from auditor.errors import MalformedArtifact, RefusedArtifact, UnsupportedArtifact, UsageError

NAME = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"


def factors(rank=2):
    rng = np.random.default_rng(5)
    return {
        f"{NAME}.lora_down.weight": rng.standard_normal((rank, 768)).astype(np.float32),
        f"{NAME}.lora_up.weight": rng.standard_normal((320, rank)).astype(np.float32),
        f"{NAME}.alpha": np.float32(1),
    }


class Inert:
    """Reduces to a call that loaders must not make; it is only ever parsed here."""

    def __reduce__(self):
        return print, ("loaded",)


def test_a_safetensors_file_under_any_name_is_an_adapter(tmp_path):
    path = write_arrays(tmp_path / "x.png", factors())
    with identify(path) as found:
        assert (found.kind, found.adapter.family, found.adapter.rank) == ("adapter", "sd1", 2)
        assert found.require_adapter() is found.adapter
        assert len(found.sha256) == 64
        assert found.size == path.stat().st_size
        assert found.nonfinite == 0
        delta = found.adapter.components["unet"]["down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"]
        expected = 0.5 * factors()[f"{NAME}.lora_up.weight"] @ factors()[f"{NAME}.lora_down.weight"]
        np.testing.assert_allclose(delta.delta(), expected, rtol=1e-5, atol=1e-6)


def test_relabelled_copies_share_the_tensor_hash(tmp_path):
    first = write_arrays(tmp_path / "a.safetensors", factors(), {"a": "b"})
    second = write_arrays(tmp_path / "b.safetensors", factors(), {"c": "d"})
    with identify(first) as one, identify(second) as two:
        assert one.sha256 != two.sha256
        assert one.tensor_hash == two.tensor_hash


def test_non_finite_values_are_counted(tmp_path):
    arrays = factors()
    arrays[f"{NAME}.lora_up.weight"][0, 0] = np.nan
    with identify(write_arrays(tmp_path / "a.safetensors", arrays)) as found:
        assert found.nonfinite == 1


def test_an_allowed_pickle_is_converted_and_read_and_its_copy_removed(tmp_path):
    path = tmp_path / "cat.pt"
    vector = torch.arange(1536, dtype=torch.float32).reshape(2, 768)
    torch.save(
        {"string_to_token": {"*": 265}, "string_to_param": {"*": vector}, "name": "cat", "step": 100}, path
    )
    with identify(path) as found:
        assert (found.kind, found.adapter.dialect, found.adapter.family) == (
            "adapter",
            "textual_inversion",
            "sd1",
        )
        assert found.files[0].pickle.verdict == "allowed"
        tensor = found.adapter.embeddings["cat"]["text_encoder"]
        np.testing.assert_array_equal(tensor.array(), vector.numpy())
        assert found.adapter.unmatched == ()
        copy = tensor.source.file.path
        assert copy.exists()
    assert not copy.exists()


def test_a_state_dict_pickle_is_read_like_its_safetensors(tmp_path):
    path = tmp_path / "lora.bin"
    torch.save({key: torch.from_numpy(np.asarray(value)) for key, value in factors().items()}, path)
    with identify(path) as found:
        assert (found.adapter.dialect, found.adapter.rank) == ("kohya", 2)


def test_a_disallowed_pickle_is_refused_with_its_report_and_never_loaded(tmp_path, capsys):
    path = tmp_path / "x.safetensors"
    path.write_bytes(pickle.dumps({"w": Inert()}))
    with identify(path) as found:
        assert (found.kind, found.adapter) == ("refused", None)
        report = found.files[0].pickle
        assert report.verdict == "disallowed"
        assert ("builtins", "print") in {(ref.module, ref.name) for ref in report.globals}
        with pytest.raises(RefusedArtifact, match="must not be opened"):
            found.require_adapter()
    assert "loaded" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"GGUF" + bytes(64), "GGUF"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "HTML"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n", "Git LFS"),
        (b"", "empty"),
    ],
)
def test_other_kinds_are_named(content, told, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with identify(path) as found:
        assert found.kind == "unsupported"
        assert told in found.unsupported
        with pytest.raises(UnsupportedArtifact, match=told):
            found.require_adapter()


def test_unsupported_tensors_keep_their_file_record(tmp_path):
    path = write_arrays(tmp_path / "x.safetensors", {f"{NAME}.hada_w1_a": np.zeros((3, 3), np.float32)})
    with identify(path) as found:
        assert found.kind == "unsupported"
        assert "LoHa" in found.unsupported
        assert found.tensor_hash


def test_embeddings_that_do_not_name_themselves_take_the_file_name(tmp_path):
    with identify(
        write_arrays(tmp_path / "my-cat.safetensors", {"emb_params": np.zeros((3, 768), np.float32)})
    ) as found:
        assert {t: list(e) for t, e in found.adapter.embeddings.items()} == {"my-cat": ["text_encoder"]}
    arrays = {"clip_l": np.zeros((2, 768), np.float32), "clip_g": np.zeros((2, 1280), np.float32)}
    with identify(write_arrays(tmp_path / "xl.safetensors", arrays)) as found:
        assert found.adapter.family == "sdxl"
        assert sorted(found.adapter.embeddings["xl"]) == ["text_encoder", "text_encoder_2"]
    arrays = {"<cat>": np.zeros(768, np.float32), "<dog>": np.zeros((1, 768), np.float32)}
    with identify(write_arrays(tmp_path / "learned_embeds.safetensors", arrays)) as found:
        assert sorted(found.adapter.embeddings) == ["<cat>", "<dog>"]


def test_missing_and_malformed_paths_are_one_clear_error(tmp_path):
    with pytest.raises(UsageError):
        identify(tmp_path / "absent")
    path = write_arrays(tmp_path / "x.safetensors", factors())
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(MalformedArtifact):
        identify(path)
    with pytest.raises(UnsupportedArtifact, match="holds no model"):
        identify(_folder(tmp_path / "empty"))


def test_a_folder_with_one_weight_file_is_that_file(tmp_path):
    folder = _folder(tmp_path / "repo", {"README.md": "# hi", "train.py": "print(1)"})
    write_arrays(folder / "weights.safetensors", factors())
    with identify(folder) as found:
        assert found.adapter.rank == 2
        assert {p.code for p in found.problems} == {"model.code"}
    write_arrays(folder / "other.safetensors", factors(3))
    with pytest.raises(UsageError, match="2 weight files"):
        identify(folder)
    write_arrays(folder / "pytorch_lora_weights.safetensors", factors(4))
    with identify(folder) as found:
        assert found.adapter.rank == 4
        assert len(found.files) == 3
        (told,) = [p for p in found.problems if p.code == "folder.other_weights"]
        assert told.severity == "medium"
        assert "'other.safetensors' and 1 more beside it was not read" in told.detail


def test_a_hostile_pickle_beside_the_weights_is_reported(tmp_path):
    folder = _folder(tmp_path / "repo")
    write_arrays(folder / "pytorch_lora_weights.safetensors", factors())
    (folder / "training_args.bin").write_bytes(pickle.dumps(Inert()))
    with identify(folder) as found:
        assert found.kind == "adapter"
        assert "folder.refused_file" in {p.code for p in found.problems}
        assert found.files[1].refused


def test_other_peft_methods_are_named(tmp_path):
    folder = _folder(tmp_path / "repo", {"adapter_config.json": json.dumps({"peft_type": "VERA"})})
    write_arrays(folder / "adapter_model.safetensors", factors())
    with pytest.raises(UnsupportedArtifact, match=r"VERA.*LORA, LOHA, LOKR and IA3 are read"):
        identify(folder)


def _folder(path, files=None):
    path.mkdir()
    for name, text in (files or {}).items():
        target = path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
    return path


INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "unet": ["diffusers", "UNet2DConditionModel"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "safety_checker": [None, None],
}


def model_folder(path, index=None, **files):
    texts = {
        "model_index.json": json.dumps(INDEX | (index or {})),
        "unet/config.json": '{"cross_attention_dim": 768}',
    }
    folder = _folder(path, texts | files)
    key = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight"
    write_arrays(
        folder / "unet" / "diffusion_pytorch_model.safetensors", {key: np.zeros((320, 768), np.float32)}
    )
    return folder


def test_a_model_folder_is_listed_with_its_family(tmp_path):
    with identify(model_folder(tmp_path / "m")) as found:
        assert (found.kind, found.family.family) == ("model_folder", "sd1")
        assert found.directory.pipeline == "StableDiffusionPipeline"
        assert found.directory.components["unet"] == ("diffusers", "UNet2DConditionModel")
        assert found.directory.components["safety_checker"] is None
        assert [p.code for p in found.problems] == ["model.no_safety_checker"]
        assert [record.name for record in found.files] == ["unet/diffusion_pytorch_model.safetensors"]


@pytest.mark.parametrize(
    ("index", "files", "code"),
    [
        ({"unet": ["my_unet", "MyUNet"]}, {"unet/my_unet.py": "raise SystemExit"}, "model.custom_component"),
        ({"_class_name": ["pipeline", "Mine"]}, {}, "model.custom_pipeline"),
        ({"vae": ["evil_library", "X"]}, {}, "model.custom_component"),
        ({"vae": ["diffusers"]}, {}, "model.component"),
        ({}, {"pipeline.py": "import os"}, "model.code"),
        ({}, {"text_encoder/config.json": '{"auto_map": {"AutoModel": "x.Y"}}'}, "model.remote_code"),
        ({}, {"vae/config.json": "{"}, "model.config"),
    ],
)
def test_what_could_run_code_is_a_problem(index, files, code, tmp_path):
    with identify(model_folder(tmp_path / "m", index, **files)) as found:
        assert code in {p.code for p in found.problems}


def test_a_config_that_its_weights_contradict_is_a_problem(tmp_path):
    with identify(
        model_folder(tmp_path / "m", **{"unet/config.json": '{"cross_attention_dim": 2048}'})
    ) as found:
        assert found.family.family == "sd1"
        assert "model.family" in {p.code for p in found.problems}


def test_pickles_in_a_model_folder_are_examined(tmp_path):
    folder = model_folder(tmp_path / "m")
    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps(Inert()))
    with identify(folder) as found:
        assert found.kind == "refused"
        assert "model.pickle_weights" in {p.code for p in found.problems}


def test_links_that_lead_out_are_reported_and_folders_not_followed(tmp_path):
    folder = model_folder(tmp_path / "m")
    outside = _folder(tmp_path / "out", {"secret.txt": "x"})
    (folder / "vae").symlink_to(outside)
    with identify(folder) as found:
        assert "model.link" in {p.code for p in found.problems}
        assert not any("secret" in record.name for record in found.files)


def test_identifying_a_file_imports_nothing_heavy(tmp_path):
    path = write_arrays(tmp_path / "x.safetensors", factors())
    code = (
        "import sys; from auditor.artifact.identify import identify; import auditor.artifact.features;"
        f"identify({str(path)!r}).close();"
        "heavy = ('torch', 'scipy', 'pydantic', 'yaml', 'safetensors', 'transformers');"
        "print([m for m in heavy if m in sys.modules])"
    )
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert done.stdout.strip() == "[]"
