"""Views of rows against slices of the array itself."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from auditor.artifact.adapter import Dense, Hadamard, Kronecker, LowRank, Overwrite, Rotation
from auditor.artifact.dialects.fused import spread_over
from auditor.artifact.original_names import Spread, original_module
from auditor.artifact.tensors import ArrayTensors, tensor_of
from auditor.errors import IncompatibleArtifact

QKV = Spread(("q", "k", "v"), "thirds")


class Counting(ArrayTensors):
    """Counts how often a tensor is read."""

    def read(self, name):
        reads.append(name)
        return super().read(name)


reads: list[str] = []


@given(st.integers(1, 9), st.data())
def test_views_of_views_read_what_slices_of_slices_hold(count, data):
    array = np.arange(count * 2, dtype=np.float32).reshape(count, 2)
    tensor = tensor_of(ArrayTensors({"x": array}), "x")
    expected = array
    for _ in range(data.draw(st.integers(1, 3))):
        rows = len(expected)
        span = st.integers(0, rows - 1).flatmap(
            lambda a, rows=rows: st.tuples(st.just(a), st.integers(a + 1, rows))
        )
        spans = tuple(data.draw(st.lists(span, min_size=1, max_size=3)))
        tensor = tensor.arranged(spans)
        expected = np.concatenate([expected[a:b] for a, b in spans])
    assert tensor.shape == expected.shape
    np.testing.assert_array_equal(tensor.array(), expected)


def test_a_view_reads_nothing_until_it_is_asked_and_refuses_rows_that_are_not_there():
    reads.clear()
    tensor = tensor_of(Counting({"x": np.eye(4, dtype=np.float32)}), "x")
    view = tensor.rows(1, 3)
    assert (view.shape, view.name, reads) == ((2, 4), "x", [])
    np.testing.assert_array_equal(view.array(), np.eye(4)[1:3])
    assert reads == ["x"]
    for start, stop in ((0, 5), (2, 2), (-1, 2)):
        with pytest.raises(ValueError, match="rows"):
            tensor.rows(start, stop)


def stored(**arrays):
    source = ArrayTensors({name: np.asarray(value, np.float32) for name, value in arrays.items()})
    return {name: tensor_of(source, name) for name in arrays}


KINDS = ["low_rank", "dora", "dense", "overwrite", "hadamard", "kronecker", "tucker"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_parts_stacked_are_the_whole(kind, rng):
    base = rng.standard_normal((12, 5)).astype(np.float32)
    down, up = rng.standard_normal((2, 5)), rng.standard_normal((12, 2))
    whole = {
        "low_rank": lambda: LowRank(**stored(down=down, up=up), alpha=3.0),
        "dora": lambda: LowRank(**stored(down=down, up=up, magnitude=rng.uniform(1, 2, (12, 1)))),
        "dense": lambda: Dense(**stored(value=base)),
        "overwrite": lambda: Overwrite(**stored(value=down[:1] + base, new_bias=np.ones(12))),
        "hadamard": lambda: Hadamard(
            **stored(w1_a=up, w1_b=down, w2_a=up + 1, w2_b=down - 1, bias_delta=np.arange(12)), alpha=3.0
        ),
        "kronecker": lambda: Kronecker(**stored(w1=up[:4, :1], w2=base[:3], bias_delta=np.arange(12))),
        "tucker": lambda: Hadamard(
            **stored(
                w1_a=up.T, w1_b=down, w2_a=up.T, w2_b=down, t1=np.ones((2, 2, 1, 1)), t2=np.ones((2, 2, 1, 1))
            )
        ),
    }[kind]()
    parts = spread_over(whole, QKV)
    assert list(parts) == ["q", "k", "v"]
    assert all(part.tensors for part in parts.values())
    stacked = [part.delta(rows) for part, rows in zip(parts.values(), np.split(base, 3), strict=True)]
    if whole.bias_delta is not None:
        biases = [part.bias() for part in parts.values()]
        np.testing.assert_array_equal(np.concatenate(biases), whole.bias())
    np.testing.assert_allclose(np.concatenate(stacked), whole.delta(base), rtol=1e-5, atol=1e-6)
    halves = spread_over(whole, Spread(("x",), "swapped"))["x"]
    swapped = np.concatenate([base[6:], base[:6]])
    expected = whole.delta(base)
    np.testing.assert_allclose(
        halves.delta(swapped), np.concatenate([expected[6:], expected[:6]]), rtol=1e-5, atol=1e-6
    )


def test_what_does_not_come_apart_is_refused(rng):
    parts = stored(down=np.ones((2, 5)), up=np.ones((11, 2)))
    with pytest.raises(IncompatibleArtifact, match="does not come apart into 3"):
        spread_over(LowRank(**parts), QKV)
    with pytest.raises(IncompatibleArtifact, match="does not come apart into 4"):
        spread_over(LowRank(**parts), Spread(("q", "k", "v", "mlp"), "gated"))
    bound = stored(down=np.ones((2, 5)), up=np.ones((12, 2)), magnitude=np.ones((1, 5)))
    with pytest.raises(IncompatibleArtifact, match="binds the fused projections"):
        spread_over(LowRank(**bound, magnitude_axis="in"), QKV)
    with pytest.raises(IncompatibleArtifact, match="does not come apart"):
        spread_over(Rotation(**stored(blocks=np.zeros((3, 4, 4)))), QKV)


def test_names_of_the_original_code_are_matched_exactly():
    assert original_module("double_blocks.7.img_attn.qkv").targets[2] == "transformer_blocks.7.attn.to_v"
    assert original_module("double_blocks_7_img_attn_qkv", flat=True).rows == "thirds"
    # HunyuanVideo writes an underscore where Flux has a dot.
    for name in ("double_blocks.7.img_attn_qkv", "double_blocks_7_img_attn_qkv", "single_blocks.x.linear1"):
        assert original_module(name) is None
    # A loader takes neither of these for block 7.
    for name in ("single_blocks.07.linear1", "single_blocks.\u0667.linear1", "single_blocks.+7.linear1"):
        assert original_module(name) is None
    assert original_module("joint_blocks.0.img_attn.qkv") is None
