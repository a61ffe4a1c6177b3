"""Export and loading: what is written is what is read, and what is missing is named."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from auditor.errors import BaseUnavailable
from auditor.metrics.pixels import to_network
from auditor.world.embedded import (
    embedded_folder,
    embedded_pipeline,
    guidance_of,
    load_dual,
    load_identity,
    load_judge,
    load_manifest,
)
from auditor.world.factors import draw_scene
from auditor.world.nets import IdentityNet, Judge
from auditor.world.render import render_batch
from auditor.world.sampling import regenerate, round_trip, sample
from auditor.world.sheet import compose_sheet, sheet_scenes
from auditor.world.train.export import LIMIT_BYTES, byte_table, write_network

JUDGE = {"widths": (8, 8, 16, 16), "features": 24}
IDENTITY = {"widths": (8, 8, 16, 16), "features": 24, "embed_dim": 8}
shipped = pytest.mark.skipif(
    not (embedded_folder() / "manifest.json").exists(), reason="no weights in this tree"
)


def _renders(count: int) -> np.ndarray:
    rng = np.random.default_rng(6)
    return render_batch([draw_scene(rng) for _ in range(count)])


def test_written_networks_are_read_back_at_half_precision(tmp_path: Path) -> None:
    torch.manual_seed(0)
    judge, embedder = Judge(**JUDGE).eval(), IdentityNet(**IDENTITY).eval()  # type: ignore[arg-type]
    write_network(judge, JUDGE, tmp_path / "judge")
    write_network(embedder, IDENTITY, tmp_path / "identity")
    images = to_network(_renders(4))
    with torch.no_grad():
        for head, logits in load_judge(folder=tmp_path)(images).items():
            assert torch.allclose(logits, judge(images)[head], atol=5e-3)
        assert torch.allclose(load_identity(folder=tmp_path)(images), embedder(images), atol=5e-3)


def test_loaded_networks_do_not_learn_and_are_cached(tmp_path: Path) -> None:
    write_network(Judge(**JUDGE), JUDGE, tmp_path / "judge")  # type: ignore[arg-type]
    judge = load_judge(folder=tmp_path)
    assert judge is load_judge(folder=tmp_path)
    assert not judge.training
    assert not any(parameter.requires_grad for parameter in judge.parameters())


@pytest.mark.parametrize("load", [load_judge, load_identity, load_dual, load_manifest, embedded_pipeline])
def test_missing_weights_are_named(load: object, tmp_path: Path) -> None:
    with pytest.raises(BaseUnavailable, match="embedded world has no"):
        load(folder=tmp_path)  # type: ignore[operator]


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    write_network(Judge(**JUDGE), JUDGE | {"features": 25}, tmp_path / "judge")  # type: ignore[arg-type]
    with pytest.raises(BaseUnavailable, match="do not fit"):
        load_judge(folder=tmp_path)


def test_a_broken_manifest_is_named(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("[1, 2", "utf-8")
    with pytest.raises(BaseUnavailable, match=r"manifest\.json"):
        guidance_of(tmp_path)


def test_the_byte_table_sums_and_judges() -> None:
    files = {"a": {"bytes": LIMIT_BYTES, "sha256": ""}, "b": {"bytes": 2000, "sha256": ""}}
    assert "ABOVE" in byte_table({"files": files})
    assert "within" in byte_table({"files": {"b": files["b"]}})


def test_the_sheet_pairs_render_and_sample() -> None:
    renders = _renders(7)
    sheet = compose_sheet(renders, renders, ["a red ball on a plain ground"] * 7)
    assert isinstance(sheet, Image.Image)
    assert sheet.width > 6 * 2 * 64
    assert len(sheet_scenes(0)) == 36
    assert sheet_scenes(0) == sheet_scenes(0)


@shipped
def test_the_manifest_lists_the_shipped_files_within_the_limit() -> None:
    root, files = embedded_folder(), load_manifest()["files"]
    assert sum(entry["bytes"] for entry in files.values()) <= LIMIT_BYTES
    for name, entry in files.items():
        assert hashlib.sha256((root / name).read_bytes()).hexdigest() == entry["sha256"], name


@shipped
def test_the_shipped_pipeline_samples_alike_in_any_batch() -> None:
    pipeline = embedded_pipeline()
    captions = ["a red ball on a plain ground", "a woman with glasses", "a blue house on a striped ground"]
    pictures = sample(pipeline, captions, seed=5, steps=3)
    assert pictures.shape == (3, 64, 64, 3)
    one_by_one = sample(pipeline, captions, seed=5, steps=3, batch=1)
    assert np.abs(pictures.astype(int) - one_by_one).max() <= 2


@shipped
def test_round_trips_and_regeneration_keep_the_picture() -> None:
    pipeline, renders = embedded_pipeline(), _renders(6)
    tripped = round_trip(pipeline, renders, batch=4)
    redone = regenerate(pipeline, renders, [""] * 6, seed=1, timestep=50)
    for made in (tripped, redone):
        assert made.shape == renders.shape
        assert np.abs(made.astype(int) - renders).mean() < 30


@shipped
def test_a_tampered_pipeline_folder_is_an_error(tmp_path: Path) -> None:
    shutil.copytree(embedded_folder() / "pipeline", tmp_path / "pipeline")
    (tmp_path / "pipeline" / "model_index.json").write_text(json.dumps({"_class_name": 3}), "utf-8")
    with pytest.raises(BaseUnavailable):
        embedded_pipeline(folder=tmp_path)
