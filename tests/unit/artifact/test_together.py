"""Files of a folder are one subject only where no loader would take one of them alone."""

import json
import pickle

import numpy as np
import pytest

from auditor.artifact.safetensors_write import write_arrays
from auditor.artifact.together import identify_parts
from auditor.errors import UnsupportedArtifact, UsageError

BLOCK = "down_blocks.1.attentions.0.transformer_blocks.0"
LORA = "pytorch_lora_weights.safetensors"


def lora(layer="attn1.to_q", seed=0):
    rng = np.random.default_rng(seed)
    return {
        f"unet.{BLOCK}.{layer}.lora_A.weight": rng.standard_normal((2, 640)).astype(np.float32),
        f"unet.{BLOCK}.{layer}.lora_B.weight": rng.standard_normal((640, 2)).astype(np.float32),
    }


WORD = {"<kim>": np.ones((1, 768), np.float32)}
NORM = {"down_blocks.0.resnets.0.norm1.weight": np.ones(320, np.float32)}


@pytest.fixture
def folder(tmp_path):
    def make(**files):
        for name, arrays in files.items():
            write_arrays(tmp_path / f"{name}.safetensors", arrays)
        return tmp_path

    return make


def named(folder):
    parts = identify_parts(folder)
    for part in parts:
        part.close()
    return [part.path.name for part in parts], parts


@pytest.mark.parametrize(
    "files",
    [
        {"offsets": lora(), "learned_embeds": WORD},
        {"pytorch_lora_weights": lora(), "learned_embeds": WORD},
        {"resolution_lora": lora(), "resolution_norm": NORM},
    ],
    ids=["offsets and word", "adapter and word", "two kinds of weights"],
)
def test_files_that_are_used_together_are_parts(folder, files):
    names, parts = named(folder(**files))
    assert sorted(names) == sorted(f"{name}.safetensors" for name in files)
    assert parts[0].adapter.module_count
    for part in parts:
        (told,) = [p for p in part.problems if p.code == "folder.together"]
        assert told.severity == "info" and all(
            f"'{name}'" in told.detail for name in names if name != part.path.name
        )


def test_weights_that_a_loader_takes_alone_are_read_alone(folder):
    names, (part,) = named(folder(pytorch_lora_weights=lora(), other=lora("attn1.to_k")))
    assert part.files[0].name == LORA and {p.code for p in part.problems} == {"folder.other_weights"}
    assert names != [LORA]


@pytest.mark.parametrize(
    "second", [lora(seed=1), WORD | lora(seed=1)], ids=["same module", "word and same module"]
)
def test_two_changes_of_one_module_are_a_choice_for_the_user(folder, second):
    with pytest.raises(UsageError, match="2 weight files; name the one to read"):
        identify_parts(folder(step_100=lora(), step_200=second))


def test_a_word_given_twice_is_a_choice_too(folder):
    with pytest.raises(UsageError, match="2 weight files"):
        identify_parts(folder(one=WORD, two=WORD))


def test_a_pickle_with_a_loaders_name_keeps_files_apart(folder, tmp_path):
    folder(offsets=lora(), words=WORD)
    (tmp_path / "learned_embeds.bin").write_bytes(pickle.dumps({"<kim>": [1.0]}))
    names, _ = named(tmp_path)
    assert len(names) == 1


def test_what_else_is_in_the_folder_is_told_with_the_first_part(folder, tmp_path):
    folder(offsets=lora(), learned_embeds=WORD)
    (tmp_path / "optimizer.bin").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    (tmp_path / "train.py").write_text("print(1)")
    _, (first, second) = named(tmp_path)
    assert {p.code for p in first.problems} >= {"folder.refused_file", "model.code"}
    assert {p.code for p in second.problems} == {"folder.together"}
    assert [record.name for record in first.files] == ["offsets.safetensors", "optimizer.bin"]


def test_a_file_that_is_no_adapter_keeps_files_apart(folder):
    with pytest.raises(UsageError, match="2 weight files"):
        identify_parts(folder(offsets=lora(), other={"of.no.known.name": np.ones(3, np.float32)}))


def test_a_folder_with_nothing_but_a_model_stands_for_it(tmp_path):
    model = tmp_path / "pipeline"
    model.mkdir()
    (model / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
    (tmp_path / "run.py").write_text("print(1)")
    ((name,), (part,)) = named(tmp_path)
    assert (name, part.kind) == ("pipeline", "model_folder")
    assert "model.code" in {p.code for p in part.problems}
    (tmp_path / "second").mkdir()
    (tmp_path / "second" / "model_index.json").write_text("{}")
    with pytest.raises(UnsupportedArtifact, match="holds no model"):
        identify_parts(tmp_path)
