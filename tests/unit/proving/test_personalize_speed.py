"""Timing of fine-tuning: what is seen of a step, what is replayed, and what becomes of the base."""

import json
import sys
from dataclasses import replace

import pytest
import torch
from click.testing import CliRunner

from auditor.errors import AuditorError, UsageError
from auditor.proving.personalize_speed import prove as proving
from auditor.proving.personalize_speed.arithmetic import flops_of, matmul_peak
from auditor.proving.personalize_speed.arms import ceiling, networks, plain
from auditor.proving.personalize_speed.bases import _SHAPES, Shape, networks_of, shaped
from auditor.proving.personalize_speed.cases import cases, noise_pictures, recipe_of
from auditor.proving.personalize_speed.memory import peak_memory
from auditor.proving.personalize_speed.race import OURS, Race
from auditor.proving.personalize_speed.record import Record, rows_of
from auditor.proving.personalize_speed.together import time_together
from auditor.proving.pictures import write_pictures
from auditor.registry import METHODS

KNOWN = {"textual-inversion": {"init": "ball"}, "classdiffusion": {"init": "ball", "class_word": "cat"}}


def quiet(done, total, label=""):
    pass


def raced(base, method, tmp_path, rounds=2, steps=1, batch=2, **changed):
    case = cases([method])[0]
    folder = write_pictures(noise_pictures(case.pictures, base.image_size), tmp_path / "pictures")
    case = replace(case, changed={**case.changed, **KNOWN.get(method, {}), **changed})
    recipe = recipe_of(case, batch, folder)
    seen = []

    def arms(step):
        seen.append([p.detach().clone() for p in step.trained])
        made = {"ceiling": ceiling(step), "networks": networks(step), "plain": plain(step, "a cat")}
        for arm in made.values():
            arm()
        seen.append([p.detach().clone() for p in step.trained])
        return made

    timed = Race(base, arms, rounds, steps).time(
        lambda race: METHODS.get(method).fit(base, folder, recipe, tmp_path / "out", race)
    )
    assert all(torch.equal(a, b) for a, b in zip(*seen, strict=True))
    return timed


def state(base):
    return {f"{n}.{k}": v.clone() for n, m in base.modules.items() for k, v in m.state_dict().items()}


@pytest.mark.parametrize(
    ("method", "family", "texts"),
    [("textual-inversion", "sdxl", 2), ("dreambooth", "sd1", 0)],
)
def test_a_step_is_seen_replayed_without_a_change_and_the_base_comes_back(tiny_base, tmp_path, method, family, texts):
    base = tiny_base(family)
    before, modules = state(base), dict(base.modules)
    timed = raced(base, method, tmp_path)
    step = timed.step
    assert step.rows == 2
    assert [call.component for call in step.denoised] == ["unet"]
    assert sum(call.component.startswith("text_encoder") and call.graded for call in step.calls) == texts
    assert not step.compared
    assert {arm: len(laps) for arm, laps in timed.laps.items()} == dict.fromkeys(
        (OURS, "ceiling", "networks", "plain"), 2
    )
    assert timed.flops > 0
    assert base.modules == modules
    after = state(base)
    assert after.keys() == before.keys()
    assert all(torch.equal(after[key], before[key]) for key in before)
    tables = [encoder.get_input_embeddings() for encoder in base.text_encoders.values()]
    assert not any(m._forward_hooks for m in [*base.unet.modules(), *tables])
    # Nothing of a training that was stopped is left to go on from, or taken for a result.
    assert not [path for path in (tmp_path / "out").glob("*")] if (tmp_path / "out").exists() else True


def test_what_a_method_compares_with_is_seen_as_that(tiny_base, tmp_path):
    timed = raced(tiny_base("sd1"), "sefi", tmp_path, init="ball", reference="cat")
    assert len(timed.step.denoised) == len(timed.step.compared) == 1


def test_a_plain_loop_works_out_all_that_the_ceiling_does(tiny_base, tmp_path):
    """Also where gradients end at the prompt's own states, which no text encoder made."""
    step = raced(tiny_base("sd1"), "hifi", tmp_path).step
    assert step.denoised[0].graded
    assert flops_of(plain(step, "a cat")) > flops_of(ceiling(step)) > 0


def test_a_training_that_ends_too_soon_is_said_so(tiny_base):
    race = Race(tiny_base("sd1"), lambda step: {}, 2, 1)
    with pytest.raises(AuditorError, match="ended before it was timed"):
        race.time(lambda race: race(1, 1))


def test_every_method_has_a_case_and_a_recipe(tmp_path):
    found = cases()
    assert {case.method for case in found} == set(METHODS.names())
    assert len({case.name for case in found}) == len(found)
    for case in found:
        recipe = recipe_of(case, 3, tmp_path)
        assert recipe.steps > 10_000
        assert recipe.batch == 3
        assert all(getattr(recipe, name) == tmp_path for name in case.folders)
    with pytest.raises(UsageError, match="did you mean 'sine'"):
        cases(["sin"])


def test_figures_are_ratios_within_a_round():
    laps = {"ours": [(2.0, 1.0), (20.0, 1.1)], "ceiling": [(1.0, 0.96), (10.0, 1.1)]}
    laps |= {"networks": laps["ours"], "plain": [(4.0, 2.0), (40.0, 2.2)]}
    record = Record("sine", {}, 2, 10, 2, laps, {}, 5)
    found = {row.measure: row for row in rows_of(record, "processor")}
    share = found["share of the ceiling's speed"]
    assert share.value == pytest.approx((0.96 + 1.0) / 2)
    assert (share.low, share.high, share.met) == (pytest.approx(0.96), pytest.approx(1.0), True)
    assert found["share of the ceiling's speed, by the clock"].value == 0.5
    assert found["speed by a plain loop's"].value == pytest.approx(2.0)
    assert found["steps a second of one processor"].high == 2.0
    assert not [row for row in rows_of(record, "clock") if "by the clock" in row.measure and row.unit != "/s"]


def prove(out, base, *methods):
    few = {"batch": 1, "rounds": 2, "steps": 1, "together": 0}
    return proving.prove_personalize_speed(out, quiet, methods=methods, base=str(base), **few)


def test_a_table_is_written_and_what_is_there_is_not_timed_again(tiny_folders, tmp_path, monkeypatch):
    record = prove(tmp_path, tiny_folders("sd1"), "hifi")
    assert [line["name"] for line in record["methods"]] == ["hifi"]
    assert record["not timed"] == "none"
    assert json.loads((tmp_path / "personalize_speed.json").read_text()) == record
    table = (tmp_path / "personalize_speed.md").read_text()
    assert table.startswith("| method | rows |")
    assert "| hifi | 1 |" in table
    monkeypatch.setattr(proving, "Race", None)
    again = prove(tmp_path, tiny_folders("sd1"), "hifi")
    assert again["rows"] == record["rows"]


def test_what_does_not_fit_the_base_is_told_and_has_no_figure(tiny_folders, tmp_path):
    record = prove(tmp_path, tiny_folders("sd3"), "sine")
    assert record["not timed"].startswith("sine: ")
    assert record["rows"] == record["methods"] == []
    assert "not timed: sine: " in (tmp_path / "personalize_speed.md").read_text()


@pytest.mark.parametrize("changed", [{"rounds": 1}, {"steps": 0}, {"dtype": "fp8"}, {"batch": 0}])
def test_numbers_out_of_range_are_refused(tmp_path, changed):
    with pytest.raises(UsageError, match="two or more"):
        proving.prove_personalize_speed(tmp_path, quiet, **changed)


def test_adapters_in_one_pass_are_timed_beside_the_same_alone(tiny_base):
    found = time_together(tiny_base("sd1"), 2, 2, 2, 1, lambda: None)
    assert len(found.ratios("processor")) == 2
    assert min(found.ratios("clock")) > 0
    assert found.difference < 1e-2
    assert found.an_hour("clock", 120) > 0


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("sd15-shaped", {"unet": 859_520_964, "vae": 83_653_863, "text_encoder": 123_060_480}),
        ("sdxl-shaped", {"unet": 2_567_463_684, "text_encoder_2": 694_659_840}),
    ],
)
def test_shapes_have_as_many_parameters_as_the_published_models(name, published):
    with torch.device("meta"):
        modules = networks_of(_SHAPES[name])
    counted = {key: sum(p.numel() for p in modules[key].parameters()) for key in published}
    assert counted == published


def test_a_shaped_base_is_one_that_methods_train_on(tmp_path):
    small = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    unet = {**_SHAPES["sdxl-shaped"].unet, "sample_size": 8, "block_out_channels": (32, 32, 32), "layers_per_block": 1}
    unet |= {"cross_attention_dim": 64, "attention_head_dim": 2, "transformer_layers_per_block": 1}
    unet |= {"addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 6 * 8 + 32}
    vae = {**_SHAPES["sdxl-shaped"].vae, "block_out_channels": (32,) * 4, "layers_per_block": 1}
    shape = Shape("StableDiffusionXLPipeline", unet, (small, small), vae)
    base = shaped(shape, "small", torch.device("cpu"), torch.float32)
    assert base.image_size == 64
    assert raced(base, "dreambooth-lora", tmp_path).step.rows == 2


def test_operations_are_counted_and_a_peak_is_measured():
    square = torch.ones(64, 64)
    assert flops_of(lambda: square @ square) == 2 * 64**3
    assert matmul_peak(torch.device("cpu"), torch.float32, repeats=2) > 1e8


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells")
def test_memory_is_what_the_work_had_at_once_not_what_was_freed_before():
    big = torch.ones(30_000_000)
    del big
    with peak_memory(torch.device("cpu")) as peak:
        small = torch.ones(10_000_000)
        del small
    assert peak.added is not None
    assert 35e6 < peak.added < 80e6
    assert peak.most > peak.added


def test_the_command_says_what_it_takes():
    from auditor.cli.prove import prove

    shown = CliRunner().invoke(prove, ["personalize-speed", "--help"])
    assert shown.exit_code == 0
    assert "sdxl-shaped" in shown.output
