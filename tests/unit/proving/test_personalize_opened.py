"""Files of learned words draw what the words mean: vectors of an ordinary word draw the ordinary word's pictures."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from auditor.errors import CoverageError
from auditor.personalize.blocks.adapter_files import save_tensors
from auditor.personalize.blocks.ruled import null_condition
from auditor.personalize.blocks.saving import save_provenance, save_word_vectors
from auditor.personalize.blocks.staged import StagedWord, save_staged_word
from auditor.personalize.blocks.stepwise import LearnedSteps, save_steps
from auditor.personalize.blocks.words import word_vectors
from auditor.pipeline.open import load_base
from auditor.proving.personalize import opened
from auditor.world.embedded import embedded_folder

pytestmark = pytest.mark.skipif(
    not (embedded_folder() / "pipeline" / "model_index.json").is_file(),
    reason="the embedded base is not installed",
)
PROMPTS = ("a picture of {} above a moon", "a picture of {}", "a picture of {} above a moon")
SEEDS = (3, 4, 5)
STEPS = 3


@dataclass(frozen=True)
class Recipe:
    prompt: str = "a picture of <subject>"


@pytest.fixture(scope="module")
def base():
    return load_base(device="cpu", dtype=torch.float32)


@pytest.fixture(autouse=True)
def _few_steps(monkeypatch):
    monkeypatch.setattr(opened, "SAMPLER_STEPS", STEPS)


@pytest.fixture(scope="module")
def ordinary(base):
    with pytest.MonkeyPatch.context() as patch, opened.on_base(base) as draw:
        patch.setattr(opened, "SAMPLER_STEPS", STEPS)
        return draw([prompt.format("fish") for prompt in PROMPTS], SEEDS, None)


def saved(base, folder, path):
    save_provenance(folder, method="test", params=Recipe(), base=base, images=[], files=[path], loss=0.0)
    return folder


def drawn(base, folder, word="<subject>"):
    with opened.opened(base, folder) as draw:
        return draw([prompt.format(word) for prompt in PROMPTS], SEEDS, None)


def near(one, other):
    return (
        int(np.abs(one.astype(int) - other.astype(int)).max()) <= 1
    )  # batches of another size round otherwise


def test_a_learned_word_goes_through_the_ordinary_loader(base, tmp_path, ordinary):
    path = save_word_vectors(tmp_path, "<subject>", word_vectors(base, "fish", 1))
    assert near(drawn(base, saved(base, tmp_path, path)), ordinary)


@pytest.mark.parametrize("roles", [("",), ("key", "value")])
def test_a_word_by_stage_is_drawn_from_its_file(base, tmp_path, ordinary, roles):
    rows = {encoder: each[None].repeat(5, 1, 1) for encoder, each in word_vectors(base, "fish", 1).items()}
    path = save_staged_word(tmp_path, StagedWord("<subject>", dict.fromkeys(roles, rows)))
    assert near(drawn(base, saved(base, tmp_path, path)), ordinary)


def test_vectors_by_step_are_drawn_from_their_file(base, tmp_path):
    states = null_condition(base, 1).states[0, -2:]
    path = save_steps(
        tmp_path, LearnedSteps("a picture of a fish", states.repeat(STEPS, 1, 1), states.clone())
    )
    pictures = drawn(base, saved(base, tmp_path, path), "fish")
    assert pictures.shape == (3, 64, 64, 3)
    assert pictures.dtype == np.uint8
    assert not near(pictures[0], pictures[2])  # one prompt, two seeds: each picture has its own noise


def test_an_adapter_whose_keys_do_not_arrive_draws_nothing(base, tmp_path):
    here = {"mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight": torch.zeros(128, 128)}
    there = {"mid_block.attentions.9.transformer_blocks.0.attn1.to_q.weight": torch.zeros(128, 128)}
    shape = base.unet.get_submodule("mid_block.attentions.0.transformer_blocks.0.attn1.to_q").weight.shape
    tensors = {name: torch.zeros(shape) for name in (*here, *there)}
    folder = saved(base, tmp_path, save_tensors(tmp_path, "kv.safetensors", tensors, half=False))
    with pytest.raises(CoverageError, match="1 of 2 keys"):
        drawn(base, folder)
