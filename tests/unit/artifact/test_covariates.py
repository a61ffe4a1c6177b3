"""Covariates are those of the dense change, whatever it was written as, and cost no dense product where factors do."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from auditor.artifact.adapter import Dense, Hadamard, Kronecker, LowRank, Overwrite, Rotation, Scaled
from auditor.artifact.covariates import NO_CHANGE, change_norm, covariates_of
from auditor.artifact.dialects import Context, read_adapter
from auditor.artifact.tensors import ArrayTensors, tensor_of
from auditor.errors import IncompatibleArtifact, MalformedArtifact

QUERY = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
KEY = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_k"
TEXT = "text_model.encoder.layers.0.self_attn.q_proj"


def parts(**arrays):
    source = ArrayTensors({name: np.asarray(value, np.float32) for name, value in arrays.items()})
    return {name: tensor_of(source, name) for name in arrays}


def changes(rng, out, width, rank):
    """One change of every kind that has slim factors, a dense one, and those that need the base."""
    n = rng.standard_normal
    yield LowRank(**parts(down=n((rank, width)), up=n((out, rank))), alpha=3.0)
    yield LowRank(
        **parts(down=n((rank, width, 3, 3)), up=n((out, rank, 1, 1))), alpha=1.0, rank_stabilised=True
    )
    yield LowRank(**parts(down=n((rank, width, 1, 1)), up=n((out, rank, 1, 1)), mid=n((rank, rank, 3, 3))))
    halves = dict(w1_a=n((out, rank)), w1_b=n((rank, width)), w2_a=n((out, rank)), w2_b=n((rank, width)))
    yield Hadamard(**parts(**halves), alpha=2.0)
    yield Kronecker(**parts(w1=n((2, 2)), w2_a=n((out // 2, rank)), w2_b=n((rank, width // 2))), alpha=-2.0)
    yield Dense(**parts(value=n((out, width)), bias_delta=n(out)))
    yield Overwrite(**parts(value=n((out, width)), new_bias=n(out)))
    yield Scaled(**parts(vector=n(out)), on_input=False, with_bias=True)
    yield Rotation(**parts(blocks=n((out // 2, 2, 2))))
    yield LowRank(**parts(down=n((rank, width)), up=n((out, rank)), magnitude=n(out) ** 2))


def by_hand(change, weight, bias):
    added = change.bias(bias) if not isinstance(change, Overwrite) else change.new_bias.array() - bias
    return math.hypot(np.linalg.norm(change.delta(weight)), 0.0 if added is None else np.linalg.norm(added))


@settings(max_examples=30, deadline=None)
@given(out=st.integers(1, 5), width=st.integers(1, 5), rank=st.integers(1, 4), seed=st.integers(0, 2**31))
def test_norms_are_those_of_the_dense_change(out, width, rank, seed):
    rng = np.random.default_rng(seed)
    for change in changes(rng, 2 * out, 2 * width, rank):
        weight = rng.standard_normal((2 * out, 2 * width, *change.shape[2:])).astype(np.float32)
        bias = rng.standard_normal(2 * out).astype(np.float32)
        assert change_norm(change, weight, bias) == pytest.approx(by_hand(change, weight, bias), rel=1e-5)


def test_factors_too_large_to_multiply_out_are_measured():
    wide = LowRank(**parts(down=np.ones((1, 40_000)), up=np.ones((40_000, 1))))
    assert change_norm(wide) == pytest.approx(40_000)


def test_what_cannot_be_measured_is_said():
    with pytest.raises(MalformedArtifact, match="NaN"):
        change_norm(LowRank(**parts(down=[[np.nan]], up=[[1.0]])))
    with pytest.raises(IncompatibleArtifact, match="depends on the base"):
        change_norm(Overwrite(**parts(value=np.ones((2, 2)))))
    with pytest.raises(IncompatibleArtifact, match="overwritten bias"):
        change_norm(Overwrite(**parts(new_bias=np.ones(2))), None, np.ones(3))
    with pytest.raises(IncompatibleArtifact, match="does not fit"):
        change_norm(LowRank(**parts(down=np.ones((1, 3)), up=np.ones((4, 1)))), np.ones((4, 4)))


class Base:
    """Weights by place; every component has norm 10."""

    def __init__(self, weights):
        self.weights = weights

    def parameter(self, component, path, name):
        return self.weights.get((component, path)) if name == "weight" else None

    def norm(self, component):
        return 10.0 if component in ("unet", "text_encoder") else 0.0


BASE = Base(
    {
        ("unet", QUERY): np.ones((8, 8)),
        ("unet", KEY): np.ones((8, 8)),
        ("text_encoder", TEXT): np.ones((6, 6)),
    }
)


def adapter(*places, scale=1.0, words=None, seed=0):
    rng, arrays = np.random.default_rng(seed), {}
    for component, path in places:
        size = 6 if component == "text_encoder" else 8
        arrays[f"{component}.{path}.lora_A.weight"] = rng.standard_normal((2, size)).astype(np.float32)
        arrays[f"{component}.{path}.lora_B.weight"] = scale * rng.standard_normal((size, 2)).astype(
            np.float32
        )
    found = read_adapter(ArrayTensors(arrays), Context(stem="planted"))
    return found if words is None else replace(found, embeddings={"<new>": {"text_encoder": words}})


def test_a_subject_is_described():
    both = adapter(
        ("unet", QUERY), ("unet", KEY), ("text_encoder", TEXT), words=parts(v=np.ones((3, 6)))["v"]
    )
    found = covariates_of([both], BASE)
    assert found["kind"] == "low_rank" and found["rank"] == 2.0 and found["vectors"] == 3.0
    assert found["touched"] == "text_encoder+unet"
    for name, component in (("denoiser_norm", "unet"), ("text_norm", "text_encoder")):
        squares = [np.linalg.norm(d.delta()) ** 2 for c, _, d in both.modules() if c == component]
        assert found[name] == pytest.approx(math.log10(math.sqrt(sum(squares)) / 10), abs=1e-6)


def test_nothing_counts_as_nothing():
    silent = covariates_of([adapter(("unet", QUERY), scale=0.0)], BASE)
    assert (silent["denoiser_norm"], silent["text_norm"], silent["touched"]) == (NO_CHANGE, NO_CHANGE, "")
    foreign = covariates_of([adapter(("unet", QUERY))], Base({}))
    assert foreign["denoiser_norm"] == NO_CHANGE
    assert covariates_of([], BASE) == {
        "kind": "", "rank": 0.0, "denoiser_norm": NO_CHANGE, "text_norm": NO_CHANGE, "vectors": 0.0, "touched": "",
    }  # fmt: skip


def test_several_adapters_are_described_together():
    one, two = adapter(("unet", QUERY), seed=1), adapter(("text_encoder", TEXT), seed=2)
    joined, apart = covariates_of([one, two], BASE), [covariates_of([each], BASE) for each in (one, two)]
    assert (
        joined["denoiser_norm"] == apart[0]["denoiser_norm"] and joined["text_norm"] == apart[1]["text_norm"]
    )
    assert joined["touched"] == "text_encoder+unet" and joined["kind"] == "low_rank"


def test_the_subject_measures_what_its_coverage_says(tiny_base, tmp_path):
    from safetensors.numpy import save_file

    from auditor.artifact.identify import identify
    from auditor.pipeline.subject import Subject

    base = tiny_base("sd1")
    path, layer = next((p, m) for p, m in base.unet.named_modules() if p.endswith("attn2.to_k"))
    out, width = layer.weight.shape
    rng = np.random.default_rng(3)
    file = tmp_path / "a.safetensors"
    save_file(
        {
            f"unet.{path}.lora_A.weight": rng.standard_normal((2, width)).astype(np.float32),
            f"unet.{path}.lora_B.weight": rng.standard_normal((out, 2)).astype(np.float32),
        },
        file,
    )
    total = math.sqrt(sum(float(p.double().square().sum()) for p in base.unet.parameters()))
    with Subject(base, [identify(file)]) as subject:
        with subject.active("tuned"):
            found = subject.covariates
        assert found["denoiser_norm"] == pytest.approx(
            math.log10(subject.coverage.delta_norm / total), abs=1e-4
        )
        assert found["touched"] == "unet" and found["text_norm"] == NO_CHANGE
    assert found["kind"] == "low_rank"
