"""Families from shapes alone."""

import pytest

from auditor.artifact.family import SIGNATURES, expected_modules, match_family, title_of


@pytest.mark.parametrize("signature", SIGNATURES, ids=lambda s: s.called)
def test_every_base_recognises_its_own_modules(signature):
    match = match_family({c: dict(expected_modules(signature, c)) for c in signature.plans})
    assert match.family == signature.family
    assert match.alternatives == ()
    assert match.misfits == ()
    # All modules of schnell are in dev as well.
    assert match.sizes == (
        ("Flux dev", "Flux schnell") if signature.size == " schnell" else (signature.called,)
    )


def test_only_the_kind_of_projection_separates_sd1_from_sd2():
    path = "down_blocks.0.attentions.0.proj_in"
    assert match_family({"unet": {path: (320, 320, 1, 1)}}).family == "sd1"
    assert match_family({"unet": {path: (320, 320)}}).family == "sd2"


def test_a_clip_l_adapter_fits_every_family_that_has_one():
    match = match_family({"text_encoder": {"text_model.encoder.layers.11.mlp.fc1": (3072, 768)}})
    assert (match.family, match.alternatives) == ("sd1", ("sdxl", "sd3", "flux"))


@pytest.mark.parametrize(
    ("widths", "family"),
    [
        ({"text_encoder": (768,)}, "sd1"),
        ({"text_encoder": (4, 1024)}, "sd2"),
        ({"text_encoder": (2, 768), "text_encoder_2": (2, 1280)}, "sdxl"),
        ({"text_encoder": (192,)}, "embedded"),
        ({"text_encoder": (512,)}, "other"),
    ],
)
def test_vectors_alone_name_a_family(widths, family):
    match = match_family({}, {"<cat>": widths})
    assert match.family == family
    assert match.evidence


def test_a_few_misfits_are_reported_and_many_mean_another_model():
    modules = dict(expected_modules(SIGNATURES[0], "unet"))
    modules["conv_in"] = (320, 9, 3, 3)
    match = match_family({"unet": modules})
    assert (match.family, match.misfits) == ("sd1", ("unet: conv_in",))
    assert any("do not fit SD1" in sentence for sentence in match.evidence)
    foreign = {path: (7, *shape[1:]) for path, shape in modules.items()}
    assert match_family({"unet": foreign}).family == "other"


def test_a_given_base_is_matched_where_no_family_fits():
    given = {"unet": {"a.b": (3, 4)}}
    assert match_family({"unet": {"a.b": (3, 4)}}, given=given).family == "given"
    assert match_family({"unet": {"a.b": (3, 5)}}, given=given).family == "other"
    assert match_family({"unet": {"conv_in": (320, 4, 3, 3)}}, given=given).family == "sd1"


def test_nothing_to_match_is_other():
    assert match_family({}).family == "other"
    assert (title_of("sd1"), title_of("elsewhere")) == ("SD1", "elsewhere")
