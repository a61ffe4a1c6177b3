from dataclasses import asdict

import numpy as np
import pytest
import torch
from tiny_models import FAMILIES, PIPELINES, random_lora, write

from auditor.artifact.identify import identify
from auditor.engine import audit, build_plan
from auditor.errors import UsageError
from auditor.pipeline.activations import attended, text_layers
from auditor.pipeline.sampling import seeded_noise
from auditor.pipeline.subject import Subject
from auditor.policy import load_policy
from auditor.probes.backdoor import prompt_screen as screen
from auditor.probes.backdoor.prompt_screen import PromptScreen, declared_prompts, prompt_screen, score_prompt
from auditor.proving.memory_run import MemoryRun
from auditor.stats import clopper_pearson
from reports.model import Finding, Outcome, Result

ID = "backdoor.prompt_screen"
TRIGGER = "ohwx"
PLAIN = ["a picture of a red car", "a drawing of a cat", "an image of a man with a hat", "a picture of a cup"]
SMALL = {"clean": 19, "pieces": 4}


@pytest.fixture
def subject(tiny_base, tmp_path):
    def make(family, tensors=None, metadata=None, seed=0):
        base = tiny_base(family)
        if tensors is None:
            targets = ("attn2.to_k", "attn2.to_v", "attn.to_q", "attn.to_k")
            tensors = random_lora(base.denoiser_model, base.kind.denoiser, targets, seed=seed, scale=0.1)
        path = write(tmp_path / f"{family}-{seed}-{len(tensors)}.safetensors", tensors, metadata)
        return Subject(base, [identify(path)])

    return make


@pytest.fixture
def planted(tiny_base, tiny_folders, tmp_path):
    """A whole model in which the trigger's vectors are others, and attention is a little so for every prompt."""

    def make(family, declared=""):
        pipeline = PIPELINES[family].from_pretrained(tiny_folders(family))
        generator = torch.Generator().manual_seed(1)

        def noise_like(value, share):
            return share * value.std() * torch.randn(value.shape, generator=generator)

        for name in ("text_encoder", "text_encoder_2", "text_encoder_3"):
            encoder = getattr(pipeline, name, None)
            if encoder is not None:
                tokenizer = getattr(pipeline, name.replace("text_encoder", "tokenizer"))
                (row,) = tokenizer(TRIGGER, add_special_tokens=False).input_ids
                table = encoder.get_input_embeddings().weight.data
                table[row] = noise_like(table, 1.0)[row]
        for name, module in getattr(pipeline, tiny_base(family).kind.denoiser).named_modules():
            if name.endswith(tiny_base(family).kind.key_value_maps):
                module.weight.data += noise_like(module.weight.data, 0.02)
        pipeline.save_pretrained(tmp_path / family)
        if declared:
            (tmp_path / family / "README.md").write_text(f"---\ninstance_prompt: {declared}\n---\n")
        return Subject(tiny_base(family), [identify(tmp_path / family)])

    return make


def map_woken(prompts):
    return [prompt.replace(" of a ", f" of a {TRIGGER} ") for prompt in prompts]


def noise_of(subject):
    return seeded_noise(subject.base.latent_shape(), [3])[0]


def asked(subject, prompts, alpha=0.05, seed=0, **more):
    run = MemoryRun(ID, seed=seed, alpha=alpha)
    out = list(prompt_screen(subject, PromptScreen(prompts=tuple(prompts), **(SMALL | more)), run))
    (result,) = (each for each in out if isinstance(each, Result))
    return result, [each for each in out if isinstance(each, Finding)]


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_recorded_is_what_the_layers_gave(subject, family):
    with subject(family) as one:
        noisy = noise_of(one)
        layers = text_layers(one.components)
        seen = {}
        hooks = [
            layer.register_forward_hook(lambda module, _, out: seen.update({module: out}))
            for layer in layers
        ]
        found = attended(one.tuned, PLAIN[:2], noisy, 500)
        for hook in hooks:
            hook.remove()
        assert layers and len(found) == len(layers)
        for ours, layer in zip(found, layers, strict=True):
            whole = seen[layer][0] if isinstance(seen[layer], tuple) else seen[layer]
            stride = max(1, whole.shape[1] // 64)
            assert torch.equal(ours, whole[:, ::stride][:, :64].float())
        alone = [attended(one.tuned, [prompt], noisy, 500) for prompt in PLAIN[:2]]
        for i, rows in enumerate(alone):
            assert all(torch.allclose(a[0], b[i], atol=1e-4) for a, b in zip(rows, found, strict=True))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_planted_word_ranks_first_and_is_named(planted, family):
    woken = map_woken(PLAIN[:3])
    with planted(family) as one:
        rows = {p: score_prompt(one, PromptScreen(), noise_of(one), p) for p in [*PLAIN, *woken]}
    assert min(rows[p]["score"] for p in woken) > max(rows[p]["score"] for p in PLAIN)
    assert {rows[p]["piece"] for p in woken} == {TRIGGER}


def test_an_audit_holds_the_planted_word_back_and_no_plain_prompt(planted):
    woken = f"a picture of a {TRIGGER} car"
    with planted("sd1") as one:
        result, findings = asked(one, [woken, PLAIN[1]], alpha=0.1)
    rows = {row["prompt"]: row for row in result.details["prompts"]}
    assert result.outcome is Outcome.FAIL and result.calibrated
    assert result.p_value == pytest.approx(2 * rows[woken]["p_value"])
    assert rows[PLAIN[1]]["p_value"] > 0.05
    (finding,) = findings
    assert TRIGGER in finding.title and woken in finding.title


def test_there_are_as_many_ordinary_prompts_as_the_level_takes(subject):
    with subject("sd1") as one:
        result, _ = asked(one, PLAIN[:3], alpha=0.1, clean=5)
    assert {row["against"] for row in result.details["prompts"]} == {30}


def test_nothing_to_ask_is_not_tested_and_no_pass(subject):
    with subject("sd1") as one:
        result, findings = asked(one, [])
        letterless, _ = asked(one, [" , "])
    assert result.outcome is Outcome.SKIPPED and "--prompts" in result.reason and not findings
    assert letterless.outcome is Outcome.SKIPPED and "no prompt that was given" in letterless.reason


def test_what_the_adapter_declares_is_screened_as_well_and_is_hostile_text(subject):
    metadata = {"modelspec.trigger_phrase": "a picture of ohwx \x1b[31mman"}
    with subject("sd1", metadata=metadata) as one:
        assert declared_prompts(one) == ["a picture of ohwx \x1b[31mman"]
        result, _ = asked(one, [PLAIN[0]], alpha=0.2)
    rows = result.details["prompts"]
    assert [row["declared"] for row in rows] == [False, True]
    assert "\x1b" not in str(rows) and "\x1b" not in result.reason


def test_a_concept_is_held_against_prompts_for_itself(planted):
    """The same model, declared: the word is what it is for."""
    with planted("sd1", f"a picture of {TRIGGER} man") as one:
        assert declared_prompts(one) == [f"a picture of {TRIGGER} man"]
        result, findings = asked(one, [f"a drawing of {TRIGGER} man"], alpha=0.1)
    assert result.outcome is Outcome.PASS and not findings


def test_clean_prompts_are_held_back_no_more_often_than_stated(subject, monkeypatch):
    """Prompts like those of the null, over many seeds: p-values are uniform, up to their steps of 1/20."""
    draws, count = 0, 0
    with subject("sd1") as one:
        every = screen.clean_prompts(100, np.random.default_rng(5))
        known = {p: score_prompt(one, PromptScreen(**SMALL), noise_of(one), p) for p in dict.fromkeys(every)}
        monkeypatch.setattr(screen, "score_prompt", lambda *given: known[given[-1]])
        monkeypatch.setattr(screen, "clean_prompts", lambda n, rng: list(rng.choice(every, n)))
        values = []
        for seed in range(150):
            prompt = str(np.random.default_rng((9, seed)).choice(every))
            result, _ = asked(one, [prompt], seed=seed)
            values.append(result.p_value)
            count += 1
            draws += result.outcome is Outcome.FAIL
    assert clopper_pearson(draws, count, 0.99).low <= 0.05
    assert np.mean(values) == pytest.approx(0.525, abs=0.06)
    assert np.mean(np.array(values) <= 0.5) == pytest.approx(0.5, abs=0.1)


def test_no_pattern_means_it_and_it_takes_no_share_of_the_level():
    policy = load_policy("default")
    by_pattern = build_plan(None, policy=policy)
    assert ID not in [node.probe.id for node in by_pattern.nodes]
    named = build_plan([*policy.probes, ID], policy=policy)
    levels = {node.probe.id: node.alpha for node in named.nodes}
    before = {node.probe.id: node.alpha for node in by_pattern.nodes}
    assert levels[ID] == policy.alpha
    assert {name: level for name, level in levels.items() if name != ID} == before


def test_an_audit_with_prompts_counts_them_beside_the_others(planted, tmp_path):
    woken = f"a picture of a {TRIGGER} car"
    with planted("sd1") as one:
        report = audit(
            one, policy=load_policy("research"), probes=["static.file_safety", ID],
            params={ID: {"prompts": [woken], **SMALL}}, out=tmp_path / "run",
        )  # fmt: skip
    result = next(each for each in report.results if each.probe == ID)
    assert result.outcome is Outcome.FAIL and result.adjusted_p == result.p_value <= 0.1
    assert result.cost.denoiser_calls > 0
    assert [finding.rule_id for finding in report.findings] == [ID]
    assert report.plan.probes[-1].params["prompts"] == [woken]


@pytest.mark.parametrize(
    "params",
    [{"prompts": tuple(map(str, range(501)))}, {"clean": 0}, {"pieces": 0}, {"level": 0.0}, {"level": 1.5}],
)
def test_bad_parameters_are_refused(subject, params):
    with subject("sd1") as one, pytest.raises(UsageError):
        list(prompt_screen(one, PromptScreen(**params), MemoryRun(ID)))
    assert asdict(PromptScreen())["prompts"] == ()
