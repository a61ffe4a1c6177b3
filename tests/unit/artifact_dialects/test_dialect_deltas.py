"""Changes against a layer-by-layer computation of what the adapted layer does to an input."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from auditor.artifact.adapter import Dense, LowRank, Overwrite
from auditor.artifact.tensors import ArrayTensors, tensor_of
from auditor.errors import IncompatibleArtifact, RefusedArtifact


def tensors(**arrays):
    source = ArrayTensors({k: np.asarray(v, dtype=np.float32) for k, v in arrays.items()})
    return {name: tensor_of(source, name) for name in arrays}


def test_linear_change_is_what_the_two_layers_compute(rng):
    down, up, x = rng.standard_normal((3, 7)), rng.standard_normal((5, 3)), rng.standard_normal((4, 7))
    delta = LowRank(**tensors(down=down, up=up), alpha=6.0)
    assert (delta.rank, delta.scale, delta.shape) == (3, 2.0, (5, 7))
    np.testing.assert_allclose(x @ delta.delta().T, 2.0 * (x @ down.T) @ up.T, rtol=1e-4, atol=1e-5)
    assert delta.delta().dtype == np.float32


def test_without_alpha_the_scale_is_one_and_rank_stabilisation_divides_by_the_root(rng):
    parts = tensors(down=rng.standard_normal((4, 7)), up=rng.standard_normal((5, 4)))
    assert LowRank(**parts).scale == 1.0
    assert LowRank(**parts, alpha=8.0, rank_stabilised=True).scale == 4.0


def test_convolution_change_is_what_the_two_convolutions_compute(rng):
    down, up = rng.standard_normal((3, 6, 3, 3)), rng.standard_normal((5, 3, 1, 1))
    x = torch.from_numpy(rng.standard_normal((2, 6, 8, 8))).float()
    delta = LowRank(**tensors(down=down, up=up), alpha=1.5)
    layers = functional.conv2d(
        functional.conv2d(x, torch.tensor(down).float(), padding=1), torch.tensor(up).float()
    )
    merged = functional.conv2d(x, torch.from_numpy(delta.delta()), padding=1)
    torch.testing.assert_close(merged, 0.5 * layers, rtol=1e-4, atol=1e-4)


def test_tucker_core_change_is_what_the_three_convolutions_compute(rng):
    down, mid, up = (rng.standard_normal(s) for s in ((3, 6, 1, 1), (4, 3, 3, 3), (5, 4, 1, 1)))
    x = torch.from_numpy(rng.standard_normal((2, 6, 8, 8))).float()
    delta = LowRank(**tensors(down=down, up=up, mid=mid))
    assert delta.shape == (5, 6, 3, 3)
    layers = functional.conv2d(x, torch.tensor(down).float())
    layers = functional.conv2d(layers, torch.tensor(mid).float(), padding=1)
    layers = functional.conv2d(layers, torch.tensor(up).float())
    merged = functional.conv2d(x, torch.from_numpy(delta.delta()), padding=1)
    torch.testing.assert_close(merged, layers, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("axis", ["out", "in"])
@pytest.mark.parametrize("kernel", [(), (3, 3)])
def test_dora_gives_every_row_or_column_the_stored_norm(axis, kernel, rng):
    down, up = rng.standard_normal((2, 6, *kernel)), rng.standard_normal((5, 2, *(1 for _ in kernel)))
    base = rng.standard_normal((5, 6, *kernel))
    wanted = rng.uniform(1, 3, 5 if axis == "out" else 6)
    delta = LowRank(**tensors(down=down, up=up, magnitude=wanted), magnitude_axis=axis)
    adapted = base + delta.delta(base)
    directions = base + delta.product()
    for index, norm in enumerate(wanted):
        row = adapted[index] if axis == "out" else adapted[:, index]
        plain = directions[index] if axis == "out" else directions[:, index]
        assert np.linalg.norm(row) == pytest.approx(norm, rel=1e-4)
        np.testing.assert_allclose(row / np.linalg.norm(row), plain / np.linalg.norm(plain), atol=1e-5)


def test_dora_and_overwrites_ask_for_the_base(rng):
    parts = tensors(down=np.ones((1, 3)), up=np.ones((2, 1)), magnitude=np.ones(2))
    with pytest.raises(IncompatibleArtifact, match="give the base"):
        LowRank(**parts).delta()
    with pytest.raises(IncompatibleArtifact, match=r"shape \(2, 3\) but the base has \(2, 4\)"):
        LowRank(**parts).delta(np.ones((2, 4)))
    value = tensors(value=[2.0, 3.0])["value"]
    with pytest.raises(IncompatibleArtifact):
        Overwrite(value).delta()
    np.testing.assert_array_equal(Overwrite(value).delta(np.array([1.0, 1.0])), [1.0, 2.0])


def test_dense_change_is_itself(rng):
    value = rng.standard_normal((4, 3, 3, 3)).astype(np.float32)
    delta = Dense(tensors(value=value)["value"])
    np.testing.assert_array_equal(delta.delta(), value)
    assert (delta.shape, delta.scale, delta.rank) == ((4, 3, 3, 3), 1.0, None)


def test_a_product_larger_than_any_layer_is_not_multiplied_out():
    wide = LowRank(**tensors(down=np.zeros((1, 40_000)), up=np.zeros((40_000, 1))))
    with pytest.raises(RefusedArtifact, match="larger than any real layer"):
        wide.delta()


def test_values_beyond_float32_become_infinite_without_a_warning():
    source = ArrayTensors({"x": np.array([1e300])})
    assert np.isinf(tensor_of(source, "x").array()).all()
