"""Features of weights depend on the change, not on how it is written, and are what their formulas say."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from auditor.artifact.adapter import Dense, Kronecker, LowRank, Overwrite
from auditor.artifact.features import delta_features, summed_features
from auditor.artifact.spectral import GROUPS, evenness, group_features, group_of, kurtosis, layer_of
from auditor.artifact.tensors import ArrayTensors, tensor_of

MAPS = ("attn2.to_k", "attn2.to_v")
SHAPE = (9, 12)


def tensors(**arrays):
    source = ArrayTensors(arrays)
    return {name: tensor_of(source, name) for name in arrays}


def low_rank(up, down, dtype=np.float32, **more):
    return LowRank(**tensors(up=up.astype(dtype), down=down.astype(dtype)), **more)


def dense(change):
    return Dense(**tensors(value=change.astype(np.float32)))


def factors(rng, rank=3):
    """Of a product whose directions are well apart."""
    u, _ = np.linalg.qr(rng.standard_normal((SHAPE[0], rank)))
    v, _ = np.linalg.qr(rng.standard_normal((SHAPE[1], rank)))
    return u * 2.0 ** -np.arange(rank), v.T


def read(*deltas, seed=0, states=True):
    rng = np.random.default_rng(seed)
    weight, seen = rng.standard_normal(SHAPE).astype(np.float32), rng.standard_normal((40, SHAPE[1]))
    found = summed_features(deltas, weight)
    return layer_of(found, weight, "prompt", "unet.x", seen if states else None).features


def same(first, second, tolerance=1e-4):
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert second[name] == pytest.approx(value, abs=tolerance), name


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), rank=st.integers(2, 5), extra=st.integers(1, 4))
def test_however_an_update_is_written_it_has_the_same_features(seed, rank, extra):
    rng = np.random.default_rng(seed)
    up, down = factors(rng, rank)
    plain = read(low_rank(up, down))
    change = rng.standard_normal((rank, rank)) + 4 * np.eye(rank)
    same(plain, read(low_rank(np.linalg.solve(change.T, up.T).T, change @ down)))
    padded = np.concatenate([up, np.zeros((SHAPE[0], extra))], 1)
    same(plain, read(low_rank(padded, np.concatenate([down, rng.standard_normal((extra, SHAPE[1]))]))))
    order = rng.permutation(rank)
    same(plain, read(low_rank(up[:, order], down[order])))
    same(plain, read(dense(up @ down)))
    same(plain, read(low_rank(up, down, np.float16)), 2e-2)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), share=st.floats(-3, 3))
def test_an_update_cut_in_two_files_is_the_update(seed, share):
    rng = np.random.default_rng(seed)
    up, down = factors(rng)
    whole = read(low_rank(up, down))
    same(whole, read(low_rank(share * up, down), low_rank((1 - share) * up, down)), 1e-3)
    same(whole, read(low_rank(up[:, :1], down[:1]), low_rank(up[:, 1:], down[1:])), 1e-3)
    same(whole, read(low_rank(up[:, :1], down[:1]), dense(up[:, 1:] @ down[1:])), 1e-3)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), scale=st.floats(0.01, 100))
def test_a_stronger_update_is_larger_and_otherwise_the_same(seed, scale):
    up, down = factors(np.random.default_rng(seed))
    plain, scaled = (read(low_rank(up * by, down)) for by in (1.0, scale))
    assert scaled.pop("size") - plain.pop("size") == pytest.approx(np.log10(scale), abs=1e-4)
    same(plain, scaled)


def test_changes_of_every_form_add_up_as_matrices(rng):
    weight = rng.standard_normal((8, 12)).astype(np.float32)
    parts = [
        Kronecker(**tensors(w1=rng.standard_normal((2, 3)).astype("f4"), w2=rng.standard_normal((4, 4)).astype("f4"))),
        low_rank(rng.standard_normal((8, 2)), rng.standard_normal((2, 12)), alpha=3.0),
        Overwrite(**tensors(value=rng.standard_normal((8, 12)).astype("f4"))),
    ]
    found = summed_features(parts, weight)
    total = sum(part.delta(weight).astype(np.float64) for part in parts)
    u, values, vt = np.linalg.svd(total)
    np.testing.assert_allclose(found.singular_values, values, rtol=1e-5)
    assert abs(found.top_left @ u[:, 0]) == pytest.approx(1) and abs(found.top_right @ vt[0]) == pytest.approx(1)
    assert summed_features(parts, None) is None


@pytest.mark.parametrize("shape", [(30, 7), (7, 30), (11, 11), (1, 9), (9, 1)])
def test_dense_spectra_are_those_of_a_decomposition(shape, rng):
    change = rng.standard_normal(shape) * 1e-5
    found = delta_features(dense(change))
    u, values, vt = np.linalg.svd(change.astype(np.float32).astype(np.float64), full_matrices=False)
    np.testing.assert_allclose(found.singular_values, values, rtol=1e-6)
    assert abs(found.top_left @ u[:, 0]) == pytest.approx(1) and abs(found.top_right @ vt[0]) == pytest.approx(1)


def test_features_are_what_their_formulas_say(rng):
    up, down = factors(rng)
    weight, states = rng.standard_normal(SHAPE).astype(np.float32), rng.standard_normal((40, SHAPE[1]))
    features = layer_of(summed_features([low_rank(up, down)]), weight, "prompt", "n", states).features
    u, s, vt = np.linalg.svd(up @ down)
    s = s[s > 1e-12]
    assert features["size"] == pytest.approx(np.log10(np.linalg.norm(s) / np.linalg.norm(weight)), abs=1e-6)
    assert np.exp(features["stable_rank"]) == pytest.approx((s**2).sum() / s[0] ** 2, rel=1e-5)
    p = s / s.sum()
    assert features["effective_rank"] == pytest.approx(-(p * np.log(p)).sum(), rel=1e-5)
    whole = np.linalg.norm(weight)
    assert np.exp(features["left"]) == pytest.approx(np.linalg.norm(u[:, 0] @ weight) * 3 / whole, rel=1e-4)
    assert np.exp(features["right"]) == pytest.approx(np.linalg.norm(weight @ vt[0]) * 12**0.5 / whole, rel=1e-4)
    x = states @ vt[0]
    x = x - x.mean()
    assert np.exp(features["tokens"]) == pytest.approx(np.mean(x**4) / np.mean(x**2) ** 2, rel=1e-3)


@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=8), st.integers(0, 9))
def test_evenness_is_one_less_gini_times_how_many_zeros_or_not(values, zeros):
    s = np.array(sorted(values, reverse=True))
    every = np.concatenate([s, np.zeros(zeros)])
    gini = np.abs(every[:, None] - every).sum() / (2 * len(every) * every.sum())
    assert evenness(s) == pytest.approx(len(every) * (1 - gini), rel=1e-6)
    assert evenness(every) == pytest.approx(evenness(s))


def test_kurtosis_is_scipys(rng):
    from scipy import stats

    x = rng.standard_t(5, 300)
    assert kurtosis(x) == pytest.approx(stats.kurtosis(x, fisher=False))
    assert kurtosis(np.ones(4)) == 1.0


def test_one_direction_has_no_ranks_and_no_change_is_no_layer(rng):
    up, down = factors(rng, 1)
    features = read(low_rank(up, down), states=False)
    assert features.keys() == {"size", "left", "right"}
    weight = np.ones(SHAPE, np.float32)
    assert layer_of(summed_features([low_rank(0 * up, down)]), weight, "rest", "n") is None
    assert layer_of(summed_features([low_rank(up, down)]), 0 * weight, "rest", "n") is None


def test_groups_are_averages_and_what_does_not_change_has_none(rng):
    layers = []
    for group in ("text", "text", "rest"):
        up, down = factors(rng, 2)
        found = summed_features([low_rank(3 * up if len(layers) else up, down)])
        layers.append(layer_of(found, np.ones(SHAPE, np.float32), group, "n"))
    grouped = group_features(layers)
    assert {name.partition(".")[0] for name in grouped} == {"text", "rest"}
    sizes = [layer.features["size"] for layer in layers[:2]]
    assert grouped["text.size"] == pytest.approx(np.mean(sizes))
    assert grouped["text.unevenness"] == pytest.approx(np.std(sizes)) and grouped["rest.unevenness"] == 0
    assert group_features([]) == {}
    assert group_features(layers[::-1]).keys() == grouped.keys()


@pytest.mark.parametrize(
    ("component", "path", "group"),
    [
        ("text_encoder", "text_model.encoder.layers.0.mlp.fc1", "text"),
        ("text_encoder_2", "text_model.encoder.layers.0.self_attn.q_proj", "text"),
        ("unet", "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k", "prompt"),
        ("unet", "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_q", "attention"),
        ("unet", "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_k", "attention"),
        ("unet", "mid_block.attentions.0.transformer_blocks.0.ff.net.0.proj", "feed_forward"),
        ("unet", "mid_block.attentions.0.proj_in", "rest"),
        ("unet", "up_blocks.0.resnets.0.conv1", "rest"),
        ("transformer", "transformer_blocks.0.attn.to_q", "attention"),
        ("transformer", "transformer_blocks.0.ff_context.net.2", "feed_forward"),
    ],
)
def test_layers_are_grouped_by_what_they_are(component, path, group):
    assert group_of(component, path, MAPS) == group
    assert group in GROUPS
