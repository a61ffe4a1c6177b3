"""Planted updates of every kind: the form is told from the tensors, and a confusion matrix says where it is not."""

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest

from auditor.artifact.dialects import Context, read_adapter
from auditor.artifact.recipe import KINDS, classify
from auditor.artifact.structure import hadamard_rank, kronecker_fit, numerical_rank, rearranged
from auditor.artifact.tensors import ArrayTensors
from auditor.probes.static.recipe import recipe
from auditor.registry import PROBES
from reports.model import Outcome, Result

PER_KIND = 20
STORED = (np.float16, np.float32)
LAYERS = [
    f"{block}.attentions.{i}.transformer_blocks.0.{attention}.{projection}"
    for block in ("down_blocks.1", "down_blocks.2", "up_blocks.1", "up_blocks.2")
    for i in (0, 1)
    for attention in ("attn1", "attn2")
    for projection in ("to_q", "to_k", "to_v")
]
SIDES = (24, 32, 40, 48, 60, 64, 80, 96)


def read(arrays, metadata=None):
    return read_adapter(ArrayTensors(arrays, metadata or {}), Context(stem="planted"))


def shapes(rng, count=None):
    chosen = rng.permutation(len(LAYERS))[: count or int(rng.integers(10, 25))]
    widths = {i: (int(rng.choice(SIDES)), int(rng.choice(SIDES))) for i in range(3)}
    return {LAYERS[i]: widths[int(rng.integers(3))] for i in chosen}


def trained(rng, out, within, rank, strength=1.0):
    """Factors as after training: a Gaussian start that moved, columns of unequal size, entries not independent."""
    mix = rng.normal(size=(rank, rank)) * 0.3 + np.eye(rank)
    down = rng.normal(size=(rank, within)) / rank + 0.05 * rng.normal(size=(rank, 2)) @ rng.normal(
        size=(2, within)
    )
    up = strength * 0.02 * rng.normal(size=(out, rank)) @ mix * np.exp(0.2 * rng.normal())
    return down, up


def diffusers_lora(pairs, stored):
    out = {}
    for path, (down, up) in pairs.items():
        out |= {
            f"unet.{path}.lora_A.weight": down.astype(stored),
            f"unet.{path}.lora_B.weight": up.astype(stored),
        }
    return out


def dense(deltas, stored):
    return {
        f"lora_unet_{path.replace('.', '_')}.diff": delta.astype(stored) for path, delta in deltas.items()
    }


def low_rank(rng):
    rank = int(rng.choice([1, 2, 4, 8, 16]))
    pairs = {path: trained(rng, *shape, rank) for path, shape in shapes(rng).items()}
    stored = rng.choice(STORED)
    if rng.random() < 0.3 and rank <= 8:
        return dense({path: up @ down for path, (down, up) in pairs.items()}, stored), None
    return diffusers_lora(pairs, stored), None


def orthogonal_rows(rng, rank, within):
    return np.linalg.qr(rng.normal(size=(within, rank)))[0].T


def frozen_input(rng):
    rank = int(rng.choice([2, 4, 8, 16]))
    coordinate = rng.random() < 0.3
    pairs = {}
    for path, (out, within) in shapes(rng).items():
        down = (
            np.eye(within)[rng.permutation(within)[:rank]]
            if coordinate
            else orthogonal_rows(rng, rank, within)
        )
        pairs[path] = down, trained(rng, out, within, rank)[1]
    return diffusers_lora(pairs, rng.choice(STORED)), None


def factor(rng, number):
    return int(rng.choice([d for d in range(2, number // 2 + 1) if number % d == 0]))


def kronecker(rng):
    deltas, shuffled = {}, rng.random() < 0.4
    for path, (out, within) in shapes(rng).items():
        a1, a2 = factor(rng, out), factor(rng, within)
        a, b = rng.normal(size=(a1, a2)) / a1, 0.1 * rng.normal(size=(out // a1, within // a2))
        delta = np.kron(a, b)
        if shuffled:
            delta = delta.reshape(a1, out // a1, within).transpose(1, 0, 2).reshape(out, within)
        deltas[path] = delta
    return dense(deltas, rng.choice(STORED)), None


def multiplicative(rng):
    weights, deltas = {}, {}
    for path, (out, within) in shapes(rng).items():
        weight = (rng.normal(size=(out, within)) / within**0.5).astype(np.float16).astype(np.float64)
        weight[rng.random(weight.shape) < 0.001] = 0
        offsets = np.outer(rng.normal(size=out), rng.normal(size=within)) * 0.1
        if rng.random() < 0.7:
            offsets = offsets + 0.05 * rng.normal(size=(out, 1)) + 0.05 * rng.normal(size=within)
        weights[path], deltas[path] = weight, weight * offsets
    if rng.random() < 0.3:
        changed = {f"{path}.weight": (weights[path] + deltas[path]).astype(np.float32) for path in deltas}
        return changed, weights
    return dense(deltas, rng.choice(STORED)), weights


def norms(rng):
    blocks = [
        f"{b}.resnets.{i}.norm{n}" for b in ("down_blocks.0", "up_blocks.1") for i in (0, 1) for n in (1, 2)
    ]
    chosen = rng.permutation(len(blocks))[: int(rng.integers(2, 9))]
    width = int(rng.choice([320, 640]))
    return {
        f"{blocks[i]}.{part}": rng.normal(size=width).astype(rng.choice(STORED))
        for i in chosen
        for part in ("weight", "bias")
    }, None


def embedding(rng):
    width, count = int(rng.choice([192, 768, 1024])), int(rng.choice([1, 1, 2, 6]))
    words = [
        f"<{name}>" for name in rng.permutation(["cat", "toy", "sks", "style"])[: int(rng.integers(1, 4))]
    ]
    start = rng.normal(size=width)
    rows = {
        word: (start + 0.5 * rng.normal(size=(count, width))).astype(rng.choice(STORED)) for word in words
    }
    return {word: v[0] if count == 1 else v for word, v in rows.items()}, None


def per_step_embedding(rng):
    width, steps = int(rng.choice([192, 768, 1024])), int(rng.choice([8, 10, 16]))
    walk = np.cumsum(rng.normal(size=(steps, width)), axis=0) / steps**0.5
    if rng.random() < 0.5:
        return {f"stage_{i}": row.astype(np.float32) for i, row in enumerate(walk)}, None
    return {"<walk>": walk.astype(rng.choice(STORED))}, None


def merged(rng):
    ranks = [int(rng.choice([2, 4, 8])) for _ in range(int(rng.choice([2, 2, 3])))]
    strengths = np.exp(rng.choice([-1, 1]) * rng.uniform(0.4, 1.2) * np.arange(len(ranks)))
    pairs = {}
    for path, (out, within) in shapes(rng, int(rng.integers(16, 25))).items():
        parts = [trained(rng, out, within, r, s) for r, s in zip(ranks, strengths, strict=True)]
        pairs[path] = np.concatenate([d for d, _ in parts]), np.concatenate([u for _, u in parts], axis=1)
    return diffusers_lora(pairs, rng.choice(STORED)), None


def unknown(rng):
    deltas = {path: 0.01 * rng.normal(size=shape) for path, shape in shapes(rng).items()}
    return dense(deltas, rng.choice(STORED)), None


def full(rng):
    weights, changed = {}, {}
    for path, (out, within) in shapes(rng).items():
        weights[path] = (rng.normal(size=(out, within)) / within**0.5).astype(np.float16)
        tuned = weights[path] + 10 ** rng.uniform(-4, -2) * rng.normal(size=(out, within))
        changed[f"{path}.weight"] = tuned.astype(rng.choice(STORED))
    return changed, weights


PLANTED = {
    function.__name__: function
    for function in (
        low_rank, frozen_input, kronecker, multiplicative, norms, embedding, per_step_embedding, merged, unknown, full,
    )
}  # fmt: skip


def guess(kind, seed):
    rng = np.random.default_rng((KINDS.index(kind), seed))
    arrays, weights = PLANTED[kind](rng)
    base = None if weights is None else lambda component, path: weights.get(path)
    return classify(read(arrays), base)


def test_at_least_nineteen_of_twenty_planted_updates_are_told():
    assert set(PLANTED) == set(KINDS)
    told = {kind: Counter(guess(kind, seed).kind for seed in range(PER_KIND)) for kind in KINDS}
    right = sum(told[kind][kind] for kind in KINDS)
    table = "\n".join(f"{kind:>20}: {dict(told[kind])}" for kind in KINDS)
    assert right >= 0.95 * PER_KIND * len(KINDS), f"{right} of {PER_KIND * len(KINDS)} right\n{table}"
    assert all(told[kind][kind] >= 0.9 * PER_KIND for kind in KINDS), table


def test_the_order_of_rows_is_part_of_what_is_told():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(8, 4)), rng.normal(size=(6, 10))
    plain = np.kron(a, b)
    shuffled = plain.reshape(8, 6, 40).transpose(1, 0, 2).reshape(48, 40)
    assert np.linalg.matrix_rank(rearranged(plain, 8, 4, "plain")) == 1
    assert np.linalg.matrix_rank(rearranged(shuffled, 8, 4, "shuffled")) == 1
    assert np.linalg.matrix_rank(rearranged(shuffled, 8, 4, "plain")) > 1
    for matrix, order in ((plain, "plain"), (shuffled, "shuffled")):
        found = kronecker_fit(matrix)
        assert (found.a1, found.a2, found.order, found.parameters) == (8, 4, order, 8 * 4 + 6 * 10)
        assert found.residual < 1e-6
    assert kronecker_fit(rng.normal(size=(48, 40))) is None
    assert kronecker_fit(np.outer(rng.normal(size=48), rng.normal(size=40))) is None


def test_a_released_checkpoint_of_the_shuffled_kind_is_named():
    rng = np.random.default_rng(1)
    deltas = {}
    for path in LAYERS[:12]:
        plain = np.kron(rng.normal(size=(8, 4)), rng.normal(size=(6, 10)))
        deltas[path] = plain.reshape(8, 6, 40).transpose(1, 0, 2).reshape(48, 40)
    found = classify(read(dense(deltas, np.float16)))
    assert found.kind == "kronecker"
    assert "rows shuffled" in found.evidence[0]


def test_ranks_are_counted_up_to_rounding():
    rng = np.random.default_rng(2)
    matrix = rng.normal(size=(40, 5)) @ rng.normal(size=(5, 60))
    assert numerical_rank(matrix) == 5
    assert numerical_rank(matrix.astype(np.float16).astype(float), 2.0**-11 * 0.6) == 5
    assert numerical_rank(np.zeros((3, 4))) == 0
    weight = rng.normal(size=(40, 60))
    weight[3, 4] = 0
    assert hadamard_rank(weight * matrix, weight) == 5
    assert hadamard_rank(weight * matrix + 0.1, weight) is None
    assert hadamard_rank(weight * matrix, np.where(rng.random(weight.shape) < 0.5, 0, weight)) is None


def test_extracted_singular_vectors_are_low_rank_and_said_so():
    rng = np.random.default_rng(3)
    pairs = {}
    for path in LAYERS[:12]:
        u, s, vt = np.linalg.svd(rng.normal(size=(48, 40)), full_matrices=False)
        pairs[path] = vt[:4], u[:, :4] * s[:4]
    found = classify(read(diffusers_lora(pairs, np.float16)))
    assert found.kind == "low_rank" and found.rank == 4
    assert "singular vectors" in found.evidence[-1]


def test_clipped_singular_vectors_are_not_taken_for_a_merge():
    """Extraction tools cut outliers off, which leaves components sorted and no longer quite orthogonal."""
    rng = np.random.default_rng(9)
    pairs = {}
    for path in LAYERS[:16]:
        u, s, vt = np.linalg.svd(rng.normal(size=(48, 40)) * np.exp(rng.normal(size=40)), full_matrices=False)
        limit = float(np.quantile(np.abs(vt[:4]), 0.99))
        pairs[path] = np.clip(vt[:4], -limit, limit), u[:, :4] * s[:4]
    found = classify(read(diffusers_lora(pairs, np.float16)))
    assert found.kind == "low_rank"
    assert "fall in strength" in found.evidence[-1]


def test_without_the_base_offsets_are_unknown_and_the_reason_is_given():
    arrays, weights = multiplicative(np.random.default_rng(4))
    blind, seeing = classify(read(arrays)), classify(read(arrays), lambda component, path: weights.get(path))
    assert blind.kind == "unknown" and "without the base" in blind.alternatives[0]
    assert seeing.kind == "multiplicative" and seeing.rank in (1, 2, 3)


def test_an_adapter_with_words_beside_it_says_so():
    rng = np.random.default_rng(5)
    arrays = diffusers_lora({path: trained(rng, 32, 24, 4) for path in LAYERS}, np.float16)
    arrays = {f"lora_unet_{k[5:-14].replace('.', '_')}.lora_{'down' if k.endswith('A.weight') else 'up'}.weight": v
              for k, v in arrays.items()}  # fmt: skip
    arrays["bundle_emb.<x>.emb_params"] = np.zeros((1, 768), np.float16)
    found = classify(read(arrays))
    assert found.kind == "low_rank" and "1 new words" in found.evidence[-1]


def run_probe(*adapters):
    subject = SimpleNamespace(artifacts=[SimpleNamespace(adapter=adapter) for adapter in adapters])
    return list(recipe(subject, PROBES.get("static.recipe").params(), None))


def test_the_probe_describes_and_never_accuses():
    known, odd = read(low_rank(np.random.default_rng(6))[0]), read(unknown(np.random.default_rng(7))[0])
    (result,) = run_probe(known)
    assert isinstance(result, Result) and result.outcome is Outcome.PASS
    assert result.details["adapters"][0]["kind"] == "low_rank"
    (result,) = run_probe(known, odd)
    assert result.outcome is Outcome.INCONCLUSIVE and (result.value, result.n) == (1.0, 2)
    (result,) = run_probe(None)
    assert result.outcome is Outcome.INCONCLUSIVE and result.n == 0
    assert "no adapter" in result.reason


def test_an_empty_or_damaged_change_is_no_known_form():
    zeros = read(dense({path: np.zeros((8, 8)) for path in LAYERS[:4]}, np.float32))
    assert classify(zeros).kind == "unknown"
    bad = read(dense({path: np.full((8, 8), np.nan) for path in LAYERS[:4]}, np.float32))
    assert classify(bad).kind == "unknown"


@pytest.mark.parametrize("width", [1, 7])
def test_narrow_matrices_are_no_kronecker_products(width):
    assert kronecker_fit(np.random.default_rng(8).normal(size=(11, width))) is None
