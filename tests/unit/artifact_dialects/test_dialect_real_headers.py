"""The five published files whose headers are kept as fixtures."""

import pytest

from auditor.artifact.claim_checks import check_claims
from auditor.artifact.claims import parse_claims
from auditor.artifact.dialects import Context, read_adapter

EXPECTED = {
    "analog_svd_rank4": ("ordinal", "sd1", {4: 192}, {"unet": 144, "text_encoder": 48}, ("F16",)),
    "lora_disney": ("ordinal", "sd1", {1: 192}, {"unet": 144, "text_encoder": 48}, ("F32",)),
    "resadapter_v1_sd15_lora": ("kohya", "sd1", {16: 6}, {"unet": 6}, ("F16",)),
    "resadapter_v1_sd15_norm": ("overwrite", "sd1", {}, {"unet": 44}, ("F32",)),
    "resadapter_v2_sdxl_lora": ("kohya", "sdxl", {16: 4}, {"unet": 4}, ("F16",)),
}


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_real_file_is_named_in_full(name, real_header):
    dialect, family, ranks, counts, dtypes = EXPECTED[name]
    source = real_header(name)
    adapter = read_adapter(source, Context(stem=name), parse_claims(source.metadata))
    assert (adapter.dialect, adapter.family) == (dialect, family)
    assert adapter.ranks == ranks
    assert {component: len(paths) for component, paths in adapter.components.items()} == counts
    assert adapter.dtypes == dtypes
    assert adapter.unmatched == ()
    assert adapter.family_evidence


@pytest.mark.parametrize(("name", "rank"), [("analog_svd_rank4", "4"), ("lora_disney", "1")])
def test_ranks_in_the_header_are_claims_that_agree(name, rank, real_header):
    source = real_header(name)
    checks = check_claims(read_adapter(source, None, parse_claims(source.metadata)))
    assert [(c.claim, c.claimed, c.measured, c.agrees) for c in checks] == [
        ("unet:*:rank", rank, rank, True),
        ("text_encoder:*:rank", rank, rank, True),
    ]


def test_embedded_token_vectors_are_found_and_declared(real_header):
    source = real_header("lora_disney")
    adapter = read_adapter(source, None, parse_claims(source.metadata))
    assert {t: {e: v.shape for e, v in encoders.items()} for t, encoders in adapter.embeddings.items()} == {
        "<s1>": {"text_encoder": (768,)},
        "<s2>": {"text_encoder": (768,)},
    }
    assert [t.text for t in adapter.claims.triggers] == ["<s1>", "<s2>"]


def test_files_that_fit_two_families_say_so(real_header):
    for name in ("resadapter_v1_sd15_lora", "resadapter_v1_sd15_norm"):
        match = read_adapter(real_header(name)).family_match
        assert match.alternatives == ("sd2",)
        assert any("nothing in the file separates" in sentence for sentence in match.evidence)
    assert read_adapter(real_header("lora_disney")).family_match.alternatives == ()


def test_text_width_is_named_as_evidence(real_header):
    evidence = read_adapter(real_header("analog_svd_rank4")).family_evidence
    assert evidence[0] == "attn2.to_k takes 768 columns: SD1 text width"


def test_stored_alpha_scales_real_convolutions(real_header):
    adapter = read_adapter(real_header("resadapter_v1_sd15_lora"))
    assert {(delta.alpha, delta.scale) for _, _, delta in adapter.modules()} == {(8.0, 0.5)}
    delta = adapter.components["unet"]["down_blocks.0.downsamplers.0.conv"]
    assert delta.shape == (320, 320, 3, 3)
    assert delta.delta().shape == (320, 320, 3, 3)
