"""The search for a hidden phrase: its arithmetic against the models opened alone, and planted edits found again."""

import dataclasses

import pytest
import torch
from tiny_models import FAMILIES, HOMOGLYPH, listening, random_lora, write

from auditor.artifact.identify import identify
from auditor.errors import UsageError
from auditor.pipeline.insertion import Insertions, insert, mode_of, without
from auditor.pipeline.layer_groups import layer_groups
from auditor.pipeline.subject import Subject
from auditor.pipeline.text_shift import carrier_rows, lexicons, vocabulary
from auditor.pipeline.word_gradient import word_gradient
from auditor.probes.backdoor.adapter_inversion import (
    CARRIERS,
    AdapterInversion,
    adapter_inversion,
    measure_inversion,
)
from auditor.proving.memory_run import MemoryRun
from reports.model import Outcome

ID = "backdoor.adapter_inversion"
PARAMS = AdapterInversion(starts=(HOMOGLYPH, "old", "ball"), tried=24, kept=6, modes=1, pictures=0)
TARGETS = ("to_q", "to_k", "to_v", "add_v_proj")


def states_of(base, words=()):
    """States of words at their place in every carrier, (words, D), the mean; all states there are without words."""
    view = Subject(base, []).base
    lexicon = lexicons(view)[0]
    tokens = [lexicon.tokenizer(word, add_special_tokens=False).input_ids[0] for word in words]
    ids, slots, _ = carrier_rows(lexicon, CARRIERS, tokens or vocabulary(lexicon.tokenizer))
    states = view.text_states(ids).states.double()
    if not words:
        return states.flatten(0, 1)
    return states[torch.arange(len(ids)), slots].reshape(len(CARRIERS), len(words), -1).mean(0)


def planted(base, sizes, seed=0):
    """Values that answer given words, and hardly any other, with a direction of their own each."""
    every = states_of(base)
    moment = every.T @ every / len(every) + 1e-5 * torch.eye(every.shape[1])
    own = states_of(base, tuple(sizes))
    rows = torch.linalg.solve(moment, own.T).T
    rows /= (rows * own).sum(1, keepdim=True)
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, module in base.unet.named_modules():
        if name.endswith("attn2.to_v"):
            out = torch.randn(module.out_features, len(sizes), generator=generator)
            answer = out / out.norm(dim=0) * torch.tensor(list(sizes.values()))
            tensors |= {f"unet.{name}.lora_A.weight": rows.float(), f"unet.{name}.lora_B.weight": answer}
    return tensors


@pytest.fixture
def base(tiny_base):
    quiet = tiny_base("sd1")
    loud = listening(quiet)
    # A copied tokenizer no longer reads its own entries back.
    loud.tokenizers.update(quiet.tokenizers)
    return loud


@pytest.fixture
def on(tmp_path):
    """Opens tensors on a base."""
    count = iter(range(99))

    def opened(base, tensors):
        return Subject(base, [identify(write(tmp_path / f"{next(count)}.safetensors", tensors))])

    return opened


def any_lora(base, scale=0.2):
    return random_lora(base.denoiser_model, base.kind.denoiser, TARGETS, scale=scale)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_effect_is_the_second_difference_of_four_answers(tiny_base, on, family):
    base = tiny_base(family)
    with on(base, any_lora(base)) as subject:
        insertions = Insertions(subject, CARRIERS, 3)
        found = insertions.measure(["old", "dog"])
        said = []
        for view in (subject.base, subject.tuned):
            for word in ("old ", ""):
                prompts = [carrier.replace("{} ", word) for carrier in CARRIERS]
                noise = insertions.noise.expand(len(prompts), -1, -1, -1)
                t = torch.full((len(prompts),), len(base.schedule) - 1)
                said.append(view.denoiser.predict(noise, t, view.encode_prompt(prompts)).velocity.flatten(1))
    before, quiet, after, tuned = (each.double() for each in said)
    unit = quiet.var(0, correction=0).sum()
    effect = after - tuned - before + quiet
    assert torch.allclose(found.effect[0].double(), effect / unit.sqrt(), rtol=1e-3, atol=1e-4)
    usual = (before - quiet).square().sum(1) / unit
    assert torch.allclose(found.usual[0].double(), usual, rtol=1e-3)
    strength = (effect.square().sum(1) / unit).mean() / (usual.mean() + 0.1)
    assert float(found.strength(0.1)[0]) == pytest.approx(float(strength), rel=1e-3)


def test_a_glance_is_the_measurement_in_the_last_carrier(base, on):
    with on(base, any_lora(base)) as subject:
        insertions = Insertions(subject, CARRIERS, 3)
        found = insertions.measure(["old", "dog"])
        last = found.effect[:, -1].square().sum(1) / (found.usual[:, -1] + 0.1)
        assert torch.allclose(insertions.glance(["old", "dog"], 0.1), last, rtol=1e-3)


def test_the_gradient_is_that_of_finite_differences(base, on):
    with on(base, any_lora(base)) as subject:
        insertions = Insertions(subject, CARRIERS, 3)
        lexicon = lexicons(subject.base)[0]
        quiet = subject.tuned.denoiser.calls
        direction = torch.randn(len(CARRIERS), insertions.noise[0].numel(), generator=torch.Generator().manual_seed(0))
        slope = word_gradient(insertions, lexicon, "old", direction)
        assert subject.tuned.denoiser.calls == quiet + len(CARRIERS)
        table = base.text_encoders["text_encoder"].get_input_embeddings().weight
        old, dog = (lexicon.tokenizer(word, add_special_tokens=False).input_ids[0] for word in ("old", "dog"))
        kept, way = table.data[old].clone(), table.data[dog] - table.data[old]

        def value(step):
            table.data[old] = kept + step * way
            for view in (subject.base, subject.tuned):
                view.forget()
            answers = (insertions.answers(view, ["old"])[0].double() for view in (subject.tuned, subject.base))
            return float(((next(answers) - next(answers)) * direction).sum())

        try:
            numeric = (value(1e-2) - value(-1e-2)) / 2e-2
        finally:
            table.data[old] = kept
        assert float(slope[dog]) == pytest.approx(numeric, rel=0.02)
        assert float(slope[old]) == 0


def test_deflation_takes_out_what_is_known_and_nothing_else():
    generator = torch.Generator().manual_seed(0)
    effect = torch.randn(4, 40, generator=generator)
    known = mode_of(effect, share=1.0)
    assert known.shape == (4, 40) and torch.allclose(known @ known.T, torch.eye(4), atol=1e-5)
    assert float(without(effect[None], known).abs().max()) < 1e-4
    apart = torch.randn(1, 4, 40, generator=generator)
    apart = apart - apart @ known.T @ known
    assert torch.allclose(without(apart, known), apart, atol=1e-5)
    assert len(mode_of(torch.outer(torch.ones(4), effect[0]))) == 1


def test_the_slot_leaves_no_gap():
    assert insert("a {} car", "") == "a car" and insert("a {} car", "old") == "a old car"
    assert insert("a car {}", "") == "a car"


WORDS = (HOMOGLYPH, "old", "ball", "dog", "king", "sks", "ohwx")


def test_a_planted_word_is_first_of_what_is_tried(base, on):
    params = dataclasses.replace(PARAMS, starts=WORDS, rounds=0)
    with on(base, planted(base, {"ohwx": 30.0})) as subject:
        found = measure_inversion(subject, params, MemoryRun(ID))
    assert found["top"][0]["phrase"] == "ohwx" and found["n"] == len(WORDS)
    with on(base, any_lora(base, scale=0.02)) as subject:
        assert measure_inversion(subject, params, MemoryRun(ID))["score"] < found["score"]


def test_a_declared_phrase_is_taken_out_before_the_search(base, on):
    params = dataclasses.replace(PARAMS, starts=WORDS, rounds=0)
    with on(base, planted(base, {"ohwx": 30.0})) as subject:
        first = measure_inversion(subject, params, MemoryRun(ID))
        second = measure_inversion(subject, dataclasses.replace(params, declared=("ohwx",)), MemoryRun(ID))
        (result,) = adapter_inversion(subject, params, MemoryRun(ID))
    left = {row["phrase"]: row["strength"] for row in second["top"]}
    assert left.get("ohwx", 0.0) < 0.1 * first["top"][0]["strength"]
    assert second["top"][0]["phrase"] != "ohwx"
    # Without a bank nothing passes, and further modes are looked for.
    assert result.outcome is Outcome.INCONCLUSIVE and "no bank" in result.reason
    assert [mode["phrase"] for mode in result.details["modes"]] == [second["top"][0]["phrase"]]


def test_layers_that_carry_the_phrase_are_named_and_the_base_is_back(base, on):
    tensors = planted(base, {"ohwx": 100.0})
    carrying = {name: value for name, value in tensors.items() if name.startswith("unet.up_blocks")}
    before = {name: value.clone() for name, value in base.unet.state_dict().items()}
    with on(base, {**any_lora(base, scale=0.01), **carrying}) as subject:
        (result,) = adapter_inversion(subject, dataclasses.replace(PARAMS, starts=("ohwx",), rounds=0), MemoryRun(ID))
        with pytest.raises(RuntimeError, match="on purpose"), subject.leaving_out(list(subject.changes.modules)):
            said = [view.encode_prompt(["a dog"]).states for view in (subject.base, subject.tuned)]
            assert torch.equal(*said)
            raise RuntimeError("on purpose")
    layers = result.details["layers"]
    assert layers[0]["layers"].startswith("unet.up_blocks") and layers[0]["share"] > 0.5
    after = base.unet.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


@pytest.mark.parametrize("family", FAMILIES)
def test_the_search_runs_on_every_family_and_says_the_same_twice(tiny_base, on, family):
    base = tiny_base(family)
    params = dataclasses.replace(PARAMS, tried=4, kept=2, rounds=1)
    with on(base, any_lora(base)) as subject:
        runs = [measure_inversion(subject, params, MemoryRun(ID)) for _ in range(2)]
    assert runs[0] == runs[1]
    assert {row["by"] for row in runs[0]["top"]} == {"start", "gradient"}


def test_groups_are_blocks_or_kinds_of_block():
    few = [("unet", f"down_blocks.{i}.attentions.0.to_k", "weight") for i in range(3)]
    few += [("unet", "mid_block.attentions.0.to_k", "weight"), ("text_encoder", "layers.0.fc1", "weight")]
    assert list(layer_groups(few)) == [
        "text_encoder", "unet.down_blocks.0", "unet.down_blocks.1", "unet.down_blocks.2", "unet.mid_block",
    ]  # fmt: skip
    many = [("transformer", f"transformer_blocks.{i}.attn.to_k", "weight") for i in range(19)]
    assert [len(keys) for keys in layer_groups(many).values()] == [19]


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"starts": ()}, "starts"), ({"starts": (" ",)}, "starts"), ({"tried": 0}, "tried"), ({"kept": 0}, "kept"),
        ({"rounds": -1}, "rounds"), ({"floor": 0.0}, "floor"), ({"floor": float("inf")}, "floor"),
    ],
)  # fmt: skip
def test_parameters_out_of_range_are_told(base, on, changed, told):
    with on(base, any_lora(base)) as subject, pytest.raises(UsageError, match=told):
        measure_inversion(subject, dataclasses.replace(PARAMS, **changed), MemoryRun(ID))
