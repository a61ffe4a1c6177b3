"""Features depend on the change, not on how it was factored, padded or stored."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from auditor.artifact.adapter import Dense, Hadamard, Kronecker, LowRank, Overwrite, Rotation, Scaled
from auditor.artifact.features import adapter_features, delta_features
from auditor.artifact.tensors import ArrayTensors, tensor_of
from auditor.errors import MalformedArtifact


def low_rank(down, up, **rest):
    arrays = {"down": down, "up": up} | {k: v for k, v in rest.items() if isinstance(v, np.ndarray)}
    source = ArrayTensors(arrays)
    parts = {name: tensor_of(source, name) for name in arrays}
    return LowRank(**parts, **{k: v for k, v in rest.items() if not isinstance(v, np.ndarray)})


def same(first, second, rtol=1e-5):
    np.testing.assert_allclose(first.singular_values, second.singular_values, rtol=rtol, atol=1e-7)
    assert abs(first.top_left @ second.top_left) == pytest.approx(1.0, abs=1e-4)
    for name in ("frobenius", "spectral_norm", "stable_rank", "effective_rank", "top_energy"):
        assert getattr(first, name) == pytest.approx(getattr(second, name), rel=1e-4)


sizes = st.integers(2, 9)


def spread(rng, out, width, rank):
    """Factors of a product whose singular values are apart, so that its vectors are well determined."""
    u, _ = np.linalg.qr(rng.standard_normal((out, rank)))
    v, _ = np.linalg.qr(rng.standard_normal((width, rank)))
    return (v * 2.0 ** -np.arange(rank)).T, u


@settings(max_examples=60, deadline=None)
@given(out=sizes, width=sizes, rank=sizes, seed=st.integers(0, 2**31))
def test_refactoring_by_any_invertible_matrix_changes_nothing(out, width, rank, seed):
    rng = np.random.default_rng(seed)
    rank = min(rank, out, width)
    down, up = spread(rng, out, width, rank)
    change = rng.standard_normal((rank, rank)) + 3 * np.eye(rank)
    before = delta_features(low_rank(down, up, alpha=2.0))
    after = delta_features(low_rank(np.linalg.solve(change, down), up @ change, alpha=2.0))
    same(before, after, rtol=1e-3)


@settings(max_examples=40, deadline=None)
@given(out=sizes, width=sizes, rank=sizes, extra=st.integers(1, 12), seed=st.integers(0, 2**31))
def test_padding_with_zero_directions_changes_nothing(out, width, rank, extra, seed):
    rng = np.random.default_rng(seed)
    rank = min(rank, out, width)
    down, up = spread(rng, out, width, rank)
    padded_down = np.concatenate([down, rng.standard_normal((extra, width))])
    padded_up = np.concatenate([up, np.zeros((out, extra))], axis=1)
    before = delta_features(low_rank(down, up))
    after = delta_features(low_rank(padded_down, padded_up))
    same(before, after)
    assert before.rank == after.rank == rank
    assert (before.stored_rank, after.stored_rank) == (rank, rank + extra)


@pytest.mark.parametrize("kernel", [(), (3, 3)])
def test_features_are_those_of_the_dense_product(kernel, rng):
    down = rng.standard_normal((4, 6, *kernel))
    up = rng.standard_normal((9, 4, *(1 for _ in kernel)))
    delta = low_rank(down, up, alpha=3.0)
    dense = delta.delta().reshape(9, -1).astype(np.float64)
    found = delta_features(delta)
    u, s, vt = np.linalg.svd(dense)
    np.testing.assert_allclose(found.singular_values, s[:4], rtol=1e-4)
    assert abs(found.top_left @ u[:, 0]) == pytest.approx(1.0, abs=1e-5)
    assert abs(found.top_right @ vt[0]) == pytest.approx(1.0, abs=1e-5)
    assert found.frobenius == pytest.approx(np.linalg.norm(dense), rel=1e-5)
    np.testing.assert_allclose(found.top_left @ dense @ found.top_right, s[0], rtol=1e-5)
    source = ArrayTensors({"value": delta.delta()})
    same(found, delta_features(Dense(tensor_of(source, "value"))), rtol=1e-4)


def test_known_spectrum_gives_known_summaries():
    down = np.diag([2.0, 1.0, 0.0, 0.0])[:2]
    found = delta_features(low_rank(down, np.eye(5)[:, :2]))
    np.testing.assert_allclose(found.singular_values, [2.0, 1.0])
    assert found.stable_rank == pytest.approx(1.25)
    assert found.top_energy == pytest.approx(0.8)
    assert found.effective_rank == pytest.approx(np.exp(-(2 / 3 * np.log(2 / 3) + 1 / 3 * np.log(1 / 3))))
    np.testing.assert_allclose(found.top_left, [1, 0, 0, 0, 0])


def test_no_change_has_no_rank_and_zero_norms():
    found = delta_features(low_rank(np.ones((2, 4)), np.zeros((5, 2))))
    assert (found.rank, found.frobenius, found.stable_rank, found.effective_rank, found.top_energy) == (
        0,
        0,
        0,
        0,
        0,
    )


def test_tucker_core_is_folded_in(rng):
    down, mid, up = (rng.standard_normal(s) for s in ((3, 6, 1, 1), (3, 3, 3, 3), (5, 3, 1, 1)))
    delta = low_rank(down, up, mid=mid)
    expected = np.linalg.svd(delta.delta().reshape(5, -1).astype(np.float64), compute_uv=False)
    np.testing.assert_allclose(delta_features(delta).singular_values, expected[:3], rtol=1e-4)


def test_dora_is_partial_without_the_base_and_whole_with_it(rng):
    base = rng.standard_normal((5, 4))
    delta = low_rank(rng.standard_normal((2, 4)), rng.standard_normal((5, 2)), magnitude=np.full(5, 2.0))
    assert delta_features(delta).partial
    whole = delta_features(delta, base)
    assert not whole.partial
    assert whole.frobenius == pytest.approx(np.linalg.norm(delta.delta(base)), rel=1e-5)


def test_overwrites_are_measured_against_the_base_only(rng):
    delta = Overwrite(tensor_of(ArrayTensors({"v": np.array([3.0, 4.0])}), "v"))
    assert delta_features(delta) is None
    assert delta_features(delta, np.zeros(2)).frobenius == pytest.approx(5.0)


def test_values_that_are_no_numbers_cannot_be_measured():
    with pytest.raises(MalformedArtifact, match="NaN or infinite"):
        delta_features(low_rank(np.full((1, 3), np.nan), np.ones((2, 1))), path="x")


def test_an_adapter_is_walked_in_a_fixed_order(rng, read):
    arrays = {}
    for path in ("mid_block.attentions.0.proj_in", "conv_in"):
        arrays[f"unet.{path}.lora_A.weight"] = rng.standard_normal((2, 4, 1, 1))
        arrays[f"unet.{path}.lora_B.weight"] = rng.standard_normal((3, 2, 1, 1))
    assert [f.path for f in adapter_features(read(arrays))] == ["conv_in", "mid_block.attentions.0.proj_in"]


def _tensors(rng, **shapes):
    source = ArrayTensors({name: rng.standard_normal(shape) for name, shape in shapes.items()})
    return {name: tensor_of(source, name) for name in shapes}


@pytest.mark.parametrize("columns", [40, 7])  # more and fewer columns than the squared rank
@pytest.mark.parametrize("alpha", [3.0, -1.0])
def test_features_of_a_hadamard_product_are_those_of_its_matrix(rng, columns, alpha):
    shapes = {"w1_a": (30, 3), "w1_b": (3, columns), "w2_a": (30, 3), "w2_b": (3, columns)}
    delta = Hadamard(**_tensors(rng, **shapes), alpha=alpha)
    _like_its_matrix(delta_features(delta), delta)


@pytest.mark.parametrize("alpha", [3.0, -1.0])
@pytest.mark.parametrize(
    "shapes",
    [
        {"w1": (2, 3), "w2": (8, 5)},
        {"w1": (3, 2), "w2_a": (8, 2), "w2_b": (2, 9)},
        {"w1": (2, 2), "w2_a": (2, 8), "w2_b": (2, 5), "t2": (2, 2, 3, 3)},
    ],
)
def test_features_of_a_kronecker_product_are_those_of_its_matrix(rng, shapes, alpha):
    delta = Kronecker(**_tensors(rng, **shapes), alpha=alpha)
    _like_its_matrix(delta_features(delta), delta)


def _like_its_matrix(found, delta):
    matrix = delta.delta().astype(np.float64).reshape(delta.shape[0], -1)
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    np.testing.assert_allclose(found.singular_values, values[: found.rank], rtol=1e-5, atol=1e-6)
    assert np.all(values[found.rank :] < 1e-5 * values[0])
    largest = values[0] * np.outer(left[:, 0], right[0])
    np.testing.assert_allclose(
        found.spectral_norm * np.outer(found.top_left, found.top_right), largest, atol=1e-4
    )
    assert found.stored_rank == delta.rank and not found.partial


def test_changes_that_are_nothing_without_a_base_are_measured_with_one(rng):
    rotated = Rotation(_tensors(rng, blocks=(2, 4, 4))["blocks"])
    scaled = Scaled(_tensors(rng, vector=(8,))["vector"], on_input=False)
    base = rng.standard_normal((8, 5))
    for delta in (rotated, scaled):
        assert delta_features(delta) is None
        found = delta_features(delta, base)
        assert found.shape == (8, 5)
        np.testing.assert_allclose(found.frobenius, np.linalg.norm(delta.delta(base)), rtol=1e-5)


def test_a_decomposed_kronecker_product_is_partial_without_a_base(rng):
    parts = _tensors(rng, w1=(2, 2), w2=(4, 3), magnitude=(8, 1))
    delta = Kronecker(**parts)
    assert delta_features(delta).partial
    base = rng.standard_normal((8, 6))
    found = delta_features(delta, base)
    assert not found.partial
    np.testing.assert_allclose(found.frobenius, np.linalg.norm(delta.delta(base)), rtol=1e-5)
