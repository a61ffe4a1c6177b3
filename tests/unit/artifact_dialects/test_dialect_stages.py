"""Words by stage and states by step: every key is read or left over, whatever is missing."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from auditor.artifact.claims import parse_claims
from auditor.artifact.dialects import Context, read_adapter
from auditor.artifact.recipe import classify
from auditor.artifact.tensors import ArrayTensors
from auditor.errors import UnsupportedArtifact

NAME = {"name": "<kim>"}


def staged(stages, roles=("",), widths=(("", 768),), count=1):
    rng = np.random.default_rng(0)
    return {
        ".".join(filter(None, (f"stage_{i}", role, short))): rng.standard_normal((count, width)).astype(
            np.float32
        )
        for i in range(stages)
        for role in roles
        for short, width in widths
    }


def read(arrays, metadata=None):
    source = ArrayTensors(arrays, metadata or {})
    return read_adapter(source, Context(stem="file"), parse_claims(source.metadata, None))


def test_every_stage_is_a_word_of_its_own():
    found = read(staged(10), NAME | {"stages": "10"})
    assert (found.dialect, found.family, found.unmatched, found.problems) == ("staged_word", "sd1", (), ())
    assert list(found.embeddings) == [f"<kim>[{i}]" for i in range(10)]
    assert classify(found).kind == "per_step_embedding"


def test_keys_and_values_of_two_encoders_make_pairs():
    found = read(staged(5, ("key", "value"), (("clip_l", 768), ("clip_g", 1280))), NAME | {"stages": "5"})
    assert (found.family, found.unmatched) == ("sdxl", ())
    assert set(found.embeddings) == {f"<kim>.{role}[{i}]" for role in ("key", "value") for i in range(5)}
    for encoders in found.embeddings.values():
        assert {e: t.shape for e, t in encoders.items()} == {
            "text_encoder": (1, 768),
            "text_encoder_2": (1, 1280),
        }
    guess = classify(found)
    assert (
        guess.kind == "per_step_embedding" and "'<kim>.key' 0 to 4, '<kim>.value' 0 to 4" in guess.evidence[0]
    )
    assert [(p.code, p.severity) for p in found.problems] == [("dialect.roles", "info")]


def test_a_missing_stage_is_said():
    arrays = staged(4)
    del arrays["stage_2"]
    (told,) = read(arrays, NAME | {"stages": "4"}).problems
    assert told.severity == "medium" and "names 4 stages, but there are 3" in told.detail


def test_states_by_step_stand_for_the_end_of_prompts():
    rng = np.random.default_rng(1)
    arrays = {
        "steps": rng.standard_normal((6, 5, 2048)).astype(np.float32),
        "null": np.zeros((5, 2048), np.float32),
    }
    found = read(arrays, {"prompt": "a picture"})
    assert (found.dialect, found.family, found.unmatched) == ("stepwise_states", "sdxl", ())
    assert found.endings.shape == (6, 5, 2048) and found.module_count == 0 and found.dtypes == ("F32",)
    assert found.family_evidence == ("states at the end of prompts have 2048 values: SDXL text width",)
    assert classify(found).kind == "per_step_embedding"
    arrays["null"] = np.zeros((4, 2048), np.float32)
    assert read(arrays).unmatched == ("null",)


@pytest.mark.parametrize("shape", [(0, 5, 768), (2, 3, 4, 768)])
def test_other_steps_are_no_states(shape):
    with pytest.raises(UnsupportedArtifact):
        read({"steps": np.zeros(shape, np.float32)})


@settings(max_examples=60, deadline=None)
@given(
    keys=st.sets(
        st.from_regex(r"stage_[0-9]{1,3}(\.key|\.value)?(\.clip_[lg])?", fullmatch=True),
        min_size=1,
        max_size=8,
    ),
    shapes=st.lists(
        st.sampled_from([(192,), (1, 192), (3, 192), (), (0, 192), (1, 1, 192)]), min_size=8, max_size=8
    ),
    told=st.text(max_size=6),
)
def test_every_key_is_read_or_left_over(keys, shapes, told):
    arrays = {key: np.zeros(shape, np.float32) for key, shape in zip(sorted(keys), shapes, strict=False)}
    try:
        found = read(arrays, NAME | {"stages": told})
    except UnsupportedArtifact:
        return
    read_keys = [t.name for encoders in found.embeddings.values() for t in encoders.values()]
    assert sorted([*read_keys, *found.unmatched]) == sorted(arrays)
