"""Training: exact resumption, the text tower under both names, the tokenizer, disturbed pictures."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from auditor.world.captions import caption
from auditor.world.factors import draw_scene
from auditor.world.nets import IdentityNet, Judge
from auditor.world.train.augment import disturb
from auditor.world.train.config import MAX_TOKENS, VOCAB_SIZE, Recipe
from auditor.world.train.dual import build_dual, text_model_of
from auditor.world.train.identity import draw_views
from auditor.world.train.loop import fit, load_ema

CPU = torch.device("cpu")


def _model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.GELU(), nn.Linear(8, 2))


class _Killed(Exception):
    pass


def _train(folder: Path, stop_before: int | None = None) -> nn.Module:
    model = _model()
    recipe = Recipe(steps=6, batch=4, lr=0.05, warmup=2, ema=0.9, seed=5)

    def step(i: int, rng: np.random.Generator, generator: torch.Generator) -> Tensor:
        if i == stop_before:
            raise _Killed
        inputs = torch.from_numpy(rng.normal(size=(4, 5)).astype(np.float32))
        return (model(inputs) - torch.randn(4, 2, generator=generator)).square().mean()

    return fit("toy", model, step, recipe, folder, CPU)


def test_a_killed_and_resumed_run_ends_with_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("auditor.world.train.loop._SAVE_EVERY_SECONDS", -1.0)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    straight = _train(whole)
    with pytest.raises(_Killed):
        _train(parts, stop_before=3)
    assert torch.load(parts / "toy.pt", weights_only=True)["step"] == 3
    resumed = _train(parts)
    for one, other in zip(straight.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)
    for one, other in zip(straight.parameters(), load_ema("toy", _model(), parts).parameters(), strict=True):
        assert torch.equal(one, other)


def test_the_text_model_computes_what_the_open_clip_tower_computes() -> None:
    torch.manual_seed(3)
    clip = build_dual().eval()
    text = text_model_of(clip)
    ids = torch.randint(0, VOCAB_SIZE - 2, (3, MAX_TOKENS))
    ids[:, 0] = VOCAB_SIZE - 2
    for row, length in enumerate((4, 9, 20)):
        ids[row, length:] = VOCAB_SIZE - 1
    with torch.no_grad():
        pooled = text(input_ids=ids).pooler_output @ clip.text_projection
        assert torch.allclose(pooled, clip.encode_text(ids), atol=1e-5)


def test_every_word_of_every_caption_is_one_token(world_tokenizer: object) -> None:
    rng = np.random.default_rng(9)
    words = {
        word for _ in range(3000) for word in re.findall(r"[a-z]+|[^\sa-z]", caption(draw_scene(rng), rng))
    }
    assert len(words) > 60
    for word in sorted(words):
        assert len(world_tokenizer(word).input_ids) == 3, word  # type: ignore[operator]


def test_captions_fit_the_text_encoder(world_tokenizer: object) -> None:
    rng = np.random.default_rng(10)
    captions = [caption(draw_scene(rng), rng) for _ in range(500)]
    lengths = [len(ids) for ids in world_tokenizer(captions).input_ids]  # type: ignore[operator]
    # Two people can take more words than there is room for; they are cut, not refused.
    assert np.mean([length <= MAX_TOKENS for length in lengths]) > 0.97


def test_disturbed_pictures_stay_near_and_depend_on_the_seed_alone() -> None:
    images = torch.rand(8, 3, 64, 64) * 2 - 1
    one, again = (disturb(images, torch.Generator().manual_seed(4)) for _ in range(2))
    other = disturb(images, torch.Generator().manual_seed(5))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    flat = torch.zeros(8, 3, 64, 64)
    assert disturb(flat, torch.Generator().manual_seed(4)).abs().mean() < 0.15


def test_networks_read_a_picture_alike_in_any_batch() -> None:
    images = torch.rand(6, 3, 64, 64) * 2 - 1
    judge = Judge(widths=(8, 8, 16, 16), features=24).eval()
    embedder = IdentityNet(widths=(8, 8, 16, 16), features=24, embed_dim=8).eval()
    with torch.no_grad():
        whole, single = judge(images), judge(images[2:3])
        assert all(torch.allclose(whole[head][2:3], single[head], atol=1e-5) for head in whole)
        assert torch.allclose(embedder(images).norm(dim=1), torch.ones(6), atol=1e-5)


def test_views_keep_the_person_and_change_the_rest() -> None:
    identities, pixels = draw_views(3, 2, seed=1)
    assert len(identities) == 3
    assert pixels.shape == (3, 2, 64, 64, 3)
    assert not np.array_equal(pixels[0, 0], pixels[0, 1])
    assert np.array_equal(pixels, draw_views(3, 2, seed=1)[1])
