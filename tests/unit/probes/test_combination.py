import numpy as np
import pytest
import torch
from tiny_models import FAMILIES, HOMOGLYPH, random_lora, write

from auditor.artifact.identify import identify
from auditor.contracts import Capability
from auditor.engine import audit, build_plan
from auditor.pipeline.interaction import corners, effects
from auditor.pipeline.sampling import seeded_noise
from auditor.pipeline.subject import Subject
from auditor.policy import load_policy
from auditor.probes.backdoor.combination import Combination, measure_combination, possible_words
from auditor.proving.memory_run import MemoryRun
from reports.model import Outcome

ID = "backdoor.combination"
PARAMS = Combination(levels=(0.5, 0.9), steps=2, pictures=0)
TARGETS = {"a": ("to_q", "to_k"), "b": ("to_v", "to_out.0", "add_v_proj")}


def part(base, path, name, scale=0.2, seed=0):
    tensors = random_lora(base.denoiser_model, base.kind.denoiser, TARGETS[name], seed=seed, scale=scale)
    return write(path / f"{name}.safetensors", tensors)


@pytest.fixture
def parts(tiny_base, tmp_path):
    def make(family, **more):
        base = tiny_base(family)
        return base, [part(base, tmp_path, name, seed=i, **more) for i, name in enumerate(("a", "b"))]

    return make


def opened(base, paths):
    return Subject(base, [identify(path) for path in paths])


@pytest.mark.parametrize("family", FAMILIES)
def test_effects_are_those_of_four_models_opened_one_by_one(parts, family):
    base, paths = parts(family)
    prompts = ["a picture of a red car", "a picture of a dog"]
    noise = seeded_noise(Subject(base, []).base.latent_shape(), [0, 1])
    t = torch.tensor([len(base.schedule) // 2] * 2)
    said = []
    for chosen in ([], paths[:1], paths[1:], paths):
        with opened(base, chosen) as alone:
            view = alone.tuned
            said.append(view.denoiser.predict(noise, t, view.encode_prompt(prompts)).velocity)
    neither, first, second, both = said
    with opened(base, paths) as subject, corners(subject, 0, 1) as cells:
        found = effects(cells, noise, t, prompts)
    for ours, theirs in (
        (found.base, neither), (found.first, first - neither), (found.second, second - neither),
        (found.together, both - first - second + neither),
    ):  # fmt: skip
        assert torch.allclose(ours, theirs.square().mean((1, 2, 3)).double(), rtol=1e-3, atol=1e-9)


def test_the_base_is_back_afterwards_also_after_an_error(parts):
    base, paths = parts("sd1")
    before = {name: value.clone() for name, value in base.denoiser_model.state_dict().items()}
    with opened(base, paths) as subject:
        with pytest.raises(RuntimeError, match="on purpose"), corners(subject, 0, 1) as cells:
            cells.both.encode_prompt(["a dog"])
            raise RuntimeError("on purpose")
        assert subject.tuned.encode_prompt(["a dog"]).states.isfinite().all()
    after = base.denoiser_model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_a_part_that_changes_nothing_has_no_interaction(parts, tmp_path):
    base, paths = parts("sd1")
    nothing = part(base, tmp_path / "nothing", "b", scale=0.0)
    with opened(base, [paths[0], nothing]) as subject:
        found = measure_combination(subject, PARAMS, MemoryRun(ID), [])
    assert found["worst"]["together"] < 1e-9
    assert found["score"] < -5


def test_what_parts_do_together_grows_faster_than_what_they_do_alone(parts):
    scores = []
    for scale in (0.1, 0.4):
        base, paths = parts("sd1", scale=scale)
        with opened(base, paths) as subject:
            scores.append(measure_combination(subject, PARAMS, MemoryRun(ID), [])["score"])
    assert scores[1] > scores[0] + 0.5


def test_three_parts_are_three_pairs_and_those_beyond_the_most_are_told(parts, tmp_path):
    base, paths = parts("sd1")
    third = part(base, tmp_path / "third", "a", seed=5)
    with opened(base, [*paths, third]) as subject:
        every = measure_combination(subject, PARAMS, MemoryRun(ID), ["dog"])
        some = measure_combination(subject, Combination(levels=(0.5,), steps=2, most=1), MemoryRun(ID), [])
    assert {tuple(row["parts"]) for row in every["pairs"]} == {(0, 1), (0, 2), (1, 2)}
    # Two files have one name: their folders tell them apart.
    assert {tuple(row["names"]) for row in every["pairs"] if row["parts"] == [0, 2]} == {
        (f"{tmp_path.name}/a.safetensors", "third/a.safetensors")
    }
    assert {row["word"] for row in every["pairs"]} == {"", "dog"}
    assert (len(some["pairs"]), some["pairs_left"]) == (1, 2)


def test_words_are_those_that_read_back_as_themselves(tiny_base):
    tokenizer = tiny_base("sd1").tokenizers["text_encoder"]
    (letter,) = tokenizer(HOMOGLYPH, add_special_tokens=False).input_ids
    half = tokenizer.convert_tokens_to_ids("Ð")
    assert possible_words(tokenizer, [letter, half, tokenizer.eos_token_id]) == [HOMOGLYPH]


def test_one_part_is_not_asked_by_a_pattern_and_skipped_by_name():
    one = frozenset(Capability) - {Capability.PARTS}
    policy = load_policy("default")
    assert ID not in [p.id for p in build_plan(["backdoor.*"], policy=policy, capabilities=one).document.probes]
    named = build_plan([ID], policy=policy, capabilities=one)
    assert {node.probe.id: node.alpha > 0 for node in named.nodes} == {ID: False, "backdoor.vocabulary_shift": True}
    several = build_plan(["backdoor.*"], policy=policy)
    alphas = {node.probe.id: node.alpha for node in several.nodes}
    assert alphas[ID] == pytest.approx(0.005)  # half of the level, which is all one family's here


def test_an_audit_of_two_parts_measures_them_together_and_never_passes_without_a_bank(parts):
    base, paths = parts("sd1")
    with opened(base, paths) as subject:
        report = audit(subject, policy=load_policy("combination"), params={ID: {"steps": 2}})
    result = next(r for r in report.results if r.probe == ID)
    assert result.outcome is Outcome.INCONCLUSIVE and "no bank" in result.reason
    assert result.value is not None and np.isfinite(result.value)
    assert result.details["pairs"][0]["names"] == ["a.safetensors", "b.safetensors"]
    assert report.verdict.decision == "inconclusive"
    # Eight carriers at two levels, four cells of which the last is put together from the parts; words come on top.
    cells = len(result.details["pairs"]) * 8 * 2 * 4
    assert cells <= result.cost.denoiser_calls <= cells + 2 * 8 * 2
