"""Claims beside tensors, and what declared triggers are written with."""

import hashlib
import json

import numpy as np
import pytest

from auditor.artifact.card import parse_front_matter
from auditor.artifact.claim_checks import check_claims
from auditor.artifact.claims import claimed_family, parse_claims
from auditor.artifact.identify import identify
from auditor.artifact.safetensors_write import write_arrays
from auditor.artifact.triggers import odd_characters, trigger_problems

NAME = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"


@pytest.fixture
def arrays(rng):
    return {
        f"{NAME}.lora_down.weight": rng.standard_normal((4, 768)).astype(np.float16),
        f"{NAME}.lora_up.weight": rng.standard_normal((320, 4)).astype(np.float16),
        f"{NAME}.alpha": np.float16(2),
    }


def verdicts(read, arrays, metadata):
    return {check.claim: check for check in check_claims(read(arrays, metadata))}


def test_true_claims_agree(read, arrays):
    found = verdicts(
        read,
        arrays,
        {
            "ss_network_dim": "4",
            "ss_network_alpha": "2.0",
            "ss_base_model_version": "sd_v1",
            "modelspec.architecture": "stable-diffusion-v1/lora",
            "ss_save_precision": "fp16",
        },
    )
    assert {claim: check.agrees for claim, check in found.items()} == {
        "ss_network_dim": True,
        "ss_network_alpha": True,
        "ss_base_model_version": True,
        "modelspec.architecture": True,
        "ss_save_precision": True,
    }


def test_false_claims_are_contradicted_with_what_was_measured(read, arrays):
    found = verdicts(
        read,
        arrays,
        {
            "ss_network_dim": "32",
            "ss_network_alpha": "16",
            "ss_base_model_version": "sdxl_base_v1-0",
            "ss_save_precision": "float",
            "modelspec.architecture": "stable-diffusion-v1/textual-inversion",
        },
    )
    assert all(check.agrees is False for check in found.values())
    assert (found["ss_network_dim"].claimed, found["ss_network_dim"].measured) == ("32", "4")
    assert found["ss_network_alpha"].measured == "2"
    assert found["ss_base_model_version"].measured == "SD1"
    assert found["ss_save_precision"].measured == "F16"


def test_claims_that_tensors_cannot_settle_are_left_open(read, arrays):
    found = verdicts(
        read,
        arrays,
        {
            "ss_network_dim": "Dynamic",
            "ss_mixed_precision": "bf16",
            "ss_sd_model_hash": "abcdef12",
            "sshs_legacy_hash": "12345678",
            "ss_sd_model_name": "my_merge.safetensors",
            "modelspec.hash_sha256": "0x" + "0" * 64,
        },
    )
    assert {check.agrees for check in found.values()} == {None}


def test_convolution_ranks_are_claimed_apart(read, arrays, rng):
    conv = "lora_unet_down_blocks_0_resnets_0_conv1"
    both = arrays | {
        f"{conv}.lora_down.weight": np.zeros((8, 320, 3, 3), np.float16),
        f"{conv}.lora_up.weight": np.zeros((320, 8, 1, 1), np.float16),
        f"{conv}.alpha": np.float16(1),
    }
    meta = {
        "ss_network_dim": "4",
        "ss_network_alpha": "2",
        "ss_network_args": json.dumps({"conv_dim": "8", "conv_alpha": "1"}),
    }
    assert {check.agrees for check in verdicts(read, both, meta).values()} == {True}
    lied = meta | {"ss_network_args": json.dumps({"conv_dim": "2", "conv_alpha": "1"})}
    assert verdicts(read, both, lied)["ss_network_args.conv_dim"].agrees is False


def test_hashes_are_those_of_the_data_section(tmp_path, arrays):
    plain = write_arrays(tmp_path / "plain.safetensors", arrays).read_bytes()
    start = 8 + int.from_bytes(plain[:8], "little")
    digest = hashlib.sha256(plain[start:]).hexdigest()
    meta = {"modelspec.hash_sha256": f"0x{digest}", "sshs_model_hash": digest}
    path = write_arrays(tmp_path / "labelled.safetensors", arrays, meta)
    with identify(path) as found:
        assert [check.agrees for check in found.checks] == [True, True]
    arrays[f"{NAME}.alpha"] = np.float16(3)
    with identify(write_arrays(tmp_path / "changed.safetensors", arrays, meta)) as found:
        assert [check.agrees for check in found.checks] == [False, False]


@pytest.mark.parametrize(
    ("text", "family"),
    [
        ("sd_v1", "sd1"),
        ("sd_v2_768_v", "sd2"),
        ("sdxl_base_v1-0", "sdxl"),
        ("stable-diffusion-v1/lora", "sd1"),
        ("stable-diffusion-xl-v1-base/lora", "sdxl"),
        ("stable-diffusion-v2-768-v/lora", "sd2"),
        ("runwayml/stable-diffusion-v1-5", "sd1"),
        ("stabilityai/stable-diffusion-2-1", "sd2"),
        ("stabilityai/stable-diffusion-xl-base-1.0", "sdxl"),
        ("black-forest-labs/FLUX.1-dev", "flux"),
        ("black-forest-labs/FLUX.1-Kontext-dev", "flux"),
        ("flux-1-schnell/lora", "flux"),
        ("flux1", "flux"),
        ("stabilityai/stable-diffusion-3-medium", "sd3"),
        ("stabilityai/stable-diffusion-3.5-large", "sd3"),
        ("stable-diffusion-3-medium/lora", "sd3"),
        ("sd3m", "sd3"),
        ("sd3-5-large", "sd3"),
        ("black-forest-labs/FLUX.2-dev", "other"),
        ("flux-2-klein", "other"),
        ("lodestones/Chroma1-HD", "other"),
        ("Tongyi-MAI/Z-Image-Turbo", "other"),
        ("Qwen/Qwen-Image", "other"),
        ("monochrome_v2", None),
        ("my lovely merge", None),
    ],
)
def test_family_names_in_circulation_are_read(text, family):
    assert claimed_family(text) == family


def test_triggers_come_from_tags_phrases_and_card():
    tags = {"10_sks dog": {"sks dog": 20, "outdoors": 3, "a photo": 19}, "1_reg": {"dog": 5}}
    claims = parse_claims(
        {"ss_tag_frequency": json.dumps(tags), "modelspec.trigger_phrase": "mypetcat"},
        card={"instance_prompt": "a photo of sks dog", "base_model": "runwayml/stable-diffusion-v1-5"},
    )
    found = {(t.text, t.source): t.share for t in claims.triggers}
    assert found["mypetcat", "modelspec.trigger_phrase"] is None
    assert found["a photo of sks dog", "card.instance_prompt"] is None
    assert found["a photo", "ss_tag_frequency"] == 0.95
    assert ("outdoors", "ss_tag_frequency") not in found
    assert ("reg", "ss_tag_frequency") in found
    assert [c.source for c in claims.items] == ["card.base_model"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("d\u043eg", "U+043E CYRILLIC SMALL LETTER O looks like 'o'"),
        ("dog\u200b", "U+200B ZERO WIDTH SPACE is invisible"),
        ("do\u200dg", "U+200D ZERO WIDTH JOINER is invisible"),
        ("\u202edog", "U+202E RIGHT-TO-LEFT OVERRIDE reorders the text around it"),
        ("a\u00a0dog", "U+00A0 NO-BREAK SPACE looks like a plain space"),
        ("dog\ufe0f", "U+FE0F VARIATION SELECTOR-16 is invisible"),
        ("dog\U000e0041", "U+E0041 TAG LATIN CAPITAL LETTER A is invisible"),
        ("dог", "one word mixes Cyrillic and Latin letters"),
    ],
)
def test_hidden_and_lookalike_characters_are_named(text, told):
    assert told in odd_characters(text)


@pytest.mark.parametrize("text", ["a photo of sks dog", "собака", "犬の写真", "Ελλάδα", "<s1>", "café"])
def test_ordinary_text_in_any_script_is_not_odd(text):
    assert odd_characters(text) == ()


def test_odd_triggers_become_problems():
    claims = parse_claims({"modelspec.trigger_phrase": "d\u043eg"})
    (found,) = trigger_problems(claims.triggers)
    assert found.code == "claims.trigger_text"
    assert "U+043E" in found.detail


@pytest.mark.parametrize("text", ["[1, 2]", "{", "[" * 100_000, '{"a": 1' + "0" * 5000])
def test_malformed_metadata_is_a_problem_not_an_error(text):
    claims = parse_claims({"ss_tag_frequency": text, "lora_adapter_metadata": text})
    assert {p.code for p in claims.problems} == {"claims.json"}


def test_front_matter_is_parsed_and_hostile_yaml_refused():
    card, problems = parse_front_matter("---\nbase_model: x\ntags: [a, b]\n---\n# Title")
    assert (card, problems) == ({"base_model": "x", "tags": ["a", "b"]}, ())
    assert parse_front_matter("# no front matter") == ({}, ())
    for text in (
        "a: &x [1]\nb: *x",
        "a: !!python/object/apply:os.system ['id']",
        "[" * 3000,
        "- a list",
        "a: [",
        "a: \x00",
    ):
        parsed, problems = parse_front_matter(f"---\n{text}\n---\n")
        assert (parsed, [p.code for p in problems]) == ({}, ["card.front_matter"])
    assert parse_front_matter("---\na: 1\n")[1]


def test_the_card_beside_the_file_is_checked(tmp_path, arrays):
    (tmp_path / "README.md").write_text("---\nbase_model: stabilityai/stable-diffusion-xl-base-1.0\n---\n")
    with identify(write_arrays(tmp_path / "x.safetensors", arrays)) as found:
        (check,) = found.checks
    assert (check.claim, check.agrees, check.measured) == ("card.base_model", False, "SD1")


@pytest.mark.parametrize("key", ["modelspec.merged_from", "ss_merged_from", "sd_merge_recipe"])
def test_a_merge_is_a_claim_that_the_factors_can_neither_show_nor_deny(read, key):
    stem = "unet.down_blocks.0.resnets.0.conv1"
    arrays = {
        f"{stem}.lora_A.weight": np.ones((2, 320, 3, 3)),
        f"{stem}.lora_B.weight": np.ones((320, 2, 1, 1)),
    }
    adapter = read(arrays, {key: "style_a, \u202eperson_b"})
    [check] = [c for c in check_claims(adapter) if c.claim == key]
    assert check.agrees is None and "merge" in check.note
    [note] = [p for p in adapter.claims.problems if p.code == "adapter.merged"]
    assert note.severity == "info" and "style_a" in note.detail and "\u202e" not in note.detail


def test_ranks_of_lycoris_changes_are_compared_with_their_claim(read):
    stem = "lora_unet_down_blocks_0_resnets_0"
    shapes = {"w1_a": (320, 4), "w1_b": (4, 2880), "w2_a": (320, 4), "w2_b": (4, 2880)}
    arrays = {f"{stem}_conv1.hada_{name}": np.ones(shape) for name, shape in shapes.items()}
    arrays |= {f"{stem}_conv1.alpha": np.float32(2), f"{stem}_conv2.alpha": np.float32(9)}
    # Both halves are whole: there is no rank, and alpha means nothing.
    arrays |= {f"{stem}_conv2.lokr_w1": np.ones((4, 4)), f"{stem}_conv2.lokr_w2": np.ones((80, 80, 3, 3))}
    claims = {"ss_network_dim": "16", "ss_network_alpha": "8"}
    claims["ss_network_args"] = '{"conv_dim": "4", "conv_alpha": "2"}'
    checks = {c.claim: c for c in check_claims(read(arrays, claims))}
    # The kernel is stored flattened: it is still the convolution's claim that is compared.
    assert checks["ss_network_args.conv_dim"].agrees and checks["ss_network_args.conv_alpha"].agrees
    assert checks["ss_network_dim"].agrees is None and checks["ss_network_alpha"].agrees is None


@pytest.mark.parametrize(
    ("algorithm", "agrees"), [("LoHa", True), ("lokr", False), ("lora", False), ("odd\u202e", None)]
)
def test_the_algorithm_that_lycoris_names_is_compared(read, algorithm, agrees):
    shapes = {"w1_a": (320, 4), "w1_b": (4, 2880), "w2_a": (320, 4), "w2_b": (4, 2880)}
    stem = "lora_unet_down_blocks_0_resnets_0_conv1"
    arrays = {f"{stem}.hada_{name}": np.ones(shape) for name, shape in shapes.items()}
    [check] = check_claims(read(arrays, {"ss_network_args": json.dumps({"algo": algorithm})}))
    assert (check.claim, check.measured, check.agrees) == (
        "ss_network_args.algo",
        "Hadamard (1 modules)",
        agrees,
    )
    assert "\u202e" not in check.claimed
