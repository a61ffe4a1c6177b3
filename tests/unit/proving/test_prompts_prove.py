import json

import numpy as np
import pytest
import torch
from tiny_models import random_lora, write

from auditor.artifact.identify import identify
from auditor.personalize.blocks.attention import recorded
from auditor.pipeline.sampling import seeded_noise
from auditor.pipeline.subject import Subject
from auditor.proving.backdoor import prompt_tables
from auditor.proving.backdoor.prompt_tables import DETECTORS, write_prompts
from auditor.proving.backdoor.trajectories import FINE, trajectories

PROMPTS = ["a picture of a red car", "a cat"]


@pytest.fixture
def subject(tiny_base, tmp_path):
    base = tiny_base("sd1")
    path = write(tmp_path / "a.safetensors", random_lora(base.unet, "unet", ("attn2.to_k",)))
    with Subject(base, [identify(path)]) as one:
        yield one


def test_a_way_has_maps_of_every_token_and_weights_of_all_fifty_steps(subject):
    ways = trajectories(subject.tuned, PROMPTS, [0, 1], side=4)
    assert [way.maps.shape[1:] for way in ways] == [(8, 4, 4), (4, 4, 4)]
    for way in ways:
        assert way.weights.sum() == 50 and len(way.weights) == len(way.maps) == len(way.noise)
        assert (way.weights[:FINE] == 1).all()
        assert way.mean_maps == pytest.approx(
            sum(w * step[1:] for w, step in zip(way.weights, way.maps, strict=True)) / 50, rel=1e-5
        )


def test_the_first_step_is_the_models_own_and_a_way_does_not_depend_on_its_batch(subject):
    view = subject.tuned
    both = trajectories(view, PROMPTS, [0, 1], guidance=2.0, side=4)
    alone = trajectories(view, PROMPTS[1:], [1], guidance=2.0, side=4)[0]
    assert np.allclose(both[1].maps, alone.maps, atol=1e-4) and np.allclose(both[1].noise, alone.noise, atol=1e-3)
    noise = seeded_noise(view.latent_shape(), [1])
    t = torch.tensor([49 * (len(view.schedule) // 50) + 1])
    with recorded(view.components) as seen:
        given = view.denoiser.predict(noise, t, view.encode_prompt(PROMPTS[1:])).epsilon
    without = view.denoiser.predict(noise, t, view.encode_null(1)).epsilon
    assert np.allclose(both[1].noise[0], (without + 2 * (given - without))[0].numpy(), atol=1e-4)
    means = [p.mean(1)[0].T.reshape(-1, int(p.shape[2] ** 0.5), int(p.shape[2] ** 0.5)) for p in seen.maps.values()]
    if all(m.shape[-1] == 4 for m in means):
        assert np.allclose(both[1].maps[0], torch.stack(means).mean(0)[:4].numpy(), atol=1e-5)


def record(attack, good, bad, index=0):
    rng = np.random.default_rng(index)
    arms = {}
    for arm, shift in (("specimen", good), ("twin", 0.0)):
        names = DETECTORS if arm == "specimen" else ("interaction", "variation")
        arms[arm] = {
            name: {
                "clean": rng.normal(size=40).tolist(),
                "triggered": rng.normal(shift if name == "interaction" else bad, size=40).tolist(),
            }
            for name in names
        }
    costs = {cost: {"seconds": 0.1, "calls": 7} for _, spent in DETECTORS.values() for cost in spent}
    return {
        "attack": attack, "index": index, "trigger": "о", "target": "an emblem", "asr": 0.9, "arms": arms,
        "costs": costs, "distinct": {"clean": 40, "triggered": 39},
    }  # fmt: skip


def test_the_table_counts_what_every_detector_finds(tmp_path):
    records = [record("rickrolling", 20, 0), record("badt2i", 1, 0, 1)]
    table = write_prompts(tmp_path, records, ["lora_pair"], {"seed": 0, "base_sha256": "f" * 64})
    assert json.loads((tmp_path / "prompts.json").read_text()) == json.loads(json.dumps(table))
    first = table["attacks"][0]["detectors"]["interaction"]
    assert first["auroc"]["value"] == 1.0 and first["tpr_at_0.01"]["hits"] == 40
    assert first["tpr_at_0.01"]["false_alarms"] == 0 and first["tpr_at_0.05"]["false_alarms"] == 2
    assert table["detectors"]["interaction"]["worst"]["attack"] == "badt2i"
    assert table["detectors"]["interaction"]["calls"] == 14 and table["detectors"]["variation"]["calls"] == 7
    text = (tmp_path / "prompts.md").read_text()
    assert "| NaviT2I |" in text and "40 of 40 (91.2% to 100.0%)" in text and "`lora_pair`" in text and "85.5" in text
    assert len((tmp_path / "prompts.csv").read_text().splitlines()) == 1 + 2 * 2 * 80


def test_specimens_of_one_attack_are_compared_each_with_its_own_clean_prompts():
    first, second = record("a", 3, 0), record("a", 3, 0, 1)
    for key in ("clean", "triggered"):
        scores = second["arms"]["specimen"]["interaction"]
        scores[key] = [score + 100 for score in scores[key]]
    together = prompt_tables._attack("a", [first, second])
    assert together["detectors"]["interaction"]["auroc"]["value"] > 0.9
