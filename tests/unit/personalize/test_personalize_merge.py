"""Low-rank files of any naming become one ordinary LoRA that is their weighted sum."""

import json

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from tiny_models import random_lora, write

from auditor.artifact.identify import identify
from auditor.cli.main import run
from auditor.errors import IncompatibleArtifact, UsageError
from auditor.personalize.blocks.merged_files import merged, overlap, read_low_rank, save_merged
from auditor.personalize.orthogonal_adaptation import OrthogonalAdaptation
from auditor.registry import METHODS


def quiet(done, total, label=""):
    pass


def deltas_of(path):
    with identify(path) as found:
        return {(component, module): delta.delta() for component, module, delta in found.adapter.modules()}


@pytest.mark.filterwarnings("ignore")
def test_the_sum_is_exact_and_is_what_the_library_loads(tiny_base, tiny_folders, tmp_path, capsys):
    unet = tiny_base("sd1").unet
    one = write(tmp_path / "one.safetensors", random_lora(unet, "unet", ("attn2.to_q", "attn2.to_v"), 2, 1))
    two = write(tmp_path / "two.safetensors", random_lora(unet, "unet", ("attn2.to_v", "to_out.0"), 3, 2))
    out = tmp_path / "both"
    assert run(["personalize", "merge", str(one), str(two), "--weights", "0.5,-2", "-o", str(out)]) == 0
    said = capsys.readouterr()
    assert said.out.strip() == str(out / "pytorch_lora_weights.safetensors")
    assert "the adapters meet with a cosine of" in said.err
    wanted = {}
    for path, weight in ((one, 0.5), (two, -2.0)):
        for where, delta in deltas_of(path).items():
            wanted[where] = wanted.get(where, 0) + weight * delta.astype(np.float64)
    found = deltas_of(out / "pytorch_lora_weights.safetensors")
    assert found.keys() == wanted.keys()
    for where, delta in found.items():
        np.testing.assert_allclose(delta, wanted[where], atol=1e-6)
    pipe = StableDiffusionPipeline.from_pretrained(tiny_folders("sd1"), safety_checker=None)
    before = {n: p.clone() for n, p in pipe.unet.named_parameters()}
    pipe.load_lora_weights(str(out / "pytorch_lora_weights.safetensors"))
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    for (_, module), delta in wanted.items():
        moved = (dict(pipe.unet.named_parameters())[f"{module}.weight"] - before[f"{module}.weight"]).detach().numpy()
        np.testing.assert_allclose(moved, delta, atol=1e-5)
    told = json.loads((out / "provenance.json").read_text())
    assert [source["weight"] for source in told["sources"]] == [0.5, -2.0]
    assert 0 < told["worst_cosine"] <= 1


def test_orthogonal_adapters_of_two_slots_do_not_meet_and_stay_so(tiny_base, folder_of, tmp_path, capsys):
    paths = []
    for slot in range(2):
        recipe = OrthogonalAdaptation(rank=2, slot=slot, steps=2, batch=1, lr=0.05, seed=slot)
        paths.append(
            METHODS.get("orthogonal-adaptation").fit(
                tiny_base("sd1"), folder_of(f"photos{slot}", seed=slot), recipe, tmp_path / f"a{slot}", quiet
            )
        )
    out = tmp_path / "both"
    assert run(["personalize", "merge", *map(str, paths), "-o", str(out)]) == 0
    told = json.loads((out / "provenance.json").read_text())
    assert told["worst_cosine"] < 1e-6 and [s["weight"] for s in told["sources"]] == [1.0, 1.0]
    one, two, both = (deltas_of(p) for p in (*paths, out / "pytorch_lora_weights.safetensors"))
    for where, delta in both.items():
        np.testing.assert_allclose(delta, one[where] + two[where], atol=1e-6)
    assert not read_low_rank(out / "pytorch_lora_weights.safetensors").half


def test_scales_are_in_the_factors_and_half_files_stay_half(tmp_path):
    down, up = torch.ones(4, 8), torch.ones(6, 4)
    name = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
    kohya = {
        f"{name}.lora_down.weight": down.half(),
        f"{name}.lora_up.weight": up.half(),
        f"{name}.alpha": torch.tensor(2.0).half(),
    }
    file = read_low_rank(write(tmp_path / "k.safetensors", kohya))
    (_, scaled) = file.components["unet"]["mid_block.attentions.0.transformer_blocks.0.attn1.to_q"]
    assert torch.equal(scaled, up * 0.5) and file.half
    whole = merged([file, file], [1.0, 1.0])
    path = save_merged(tmp_path / "m", whole, file.half)
    [delta] = deltas_of(path).values()
    np.testing.assert_allclose(delta, np.full((6, 8), 2 * 4 * 0.5))
    assert overlap([file, file]).worst == pytest.approx(1.0)


def bad(tmp_path, what):
    stem = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    lora = {f"{stem}.lora_A.weight": torch.ones(2, 8), f"{stem}.lora_B.weight": torch.ones(6, 2)}
    flat = f"lora_{stem.replace('.', '_')}"
    contents = {
        "lora": lora,
        "other": {f"{stem}.lora_A.weight": torch.ones(2, 9), f"{stem}.lora_B.weight": torch.ones(6, 2)},
        "dora": {**lora, f"{stem}.lora_magnitude_vector": torch.ones(6)},
        "lokr": {f"{flat}.lokr_w1": torch.ones(2, 2), f"{flat}.lokr_w2": torch.ones(3, 4)},
        "words": {"<x>": torch.ones(1, 768)},
        "left": {**lora, f"{stem}.surprise": torch.ones(2)},
    }
    return write(tmp_path / f"{what}.safetensors", contents[what])


@pytest.mark.parametrize(
    ("what", "code", "said"),
    [
        ("dora", 2, "is DoRA, no plain low-rank change; only LoRA is merged exactly"),
        ("lokr", 2, "is Kronecker, no plain low-rank change"),
        ("words", 2, "holds learned words, which cannot be added to others"),
        ("left", 2, "1 keys that are not understood"),
        ("other", 64, "in other shapes, not of one base"),
    ],
)
def test_what_cannot_be_merged_is_named(tmp_path, capsys, what, code, said):
    out = tmp_path / "out"
    paths = [str(bad(tmp_path, name)) for name in ("lora", what)]
    assert run(["personalize", "merge", *paths, "-o", str(out)]) == code
    assert said in capsys.readouterr().err and not out.exists()


@pytest.mark.parametrize(
    ("weights", "said"),
    [("1", "2 adapters need as many weights, not 1"), ("1,a", "are no weights"), ("1,inf", "are no weights")],
)
def test_weights_are_numbers_one_an_adapter(tmp_path, capsys, weights, said):
    path = str(bad(tmp_path, "lora"))
    assert run(["personalize", "merge", path, path, "--weights", weights, "-o", str(tmp_path / "out")]) == 64
    assert said in capsys.readouterr().err


def test_a_single_adapter_or_one_that_is_not_there_is_refused(tmp_path):
    file = read_low_rank(bad(tmp_path, "lora"))
    with pytest.raises(UsageError, match="at least two adapters"):
        merged([file], [1.0])
    with pytest.raises(UsageError, match="gone"):
        read_low_rank(tmp_path / "gone.safetensors")
    (tmp_path / "x.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(64))
    with pytest.raises(IncompatibleArtifact, match="an image, not a model"):
        read_low_rank(tmp_path / "x.png")
