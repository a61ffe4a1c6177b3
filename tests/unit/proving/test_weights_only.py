"""The published weight detectors against brute force, and the comparison of them with the screen."""

import json
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from tiny_models import random_lora, write

from auditor.artifact.identify import identify
from auditor.banks import BankAdapter, Recipe, build_bank, fit_adjustment
from auditor.contracts import Probe, Stage
from auditor.pipeline.subject import Subject
from auditor.proving.backdoor.baselines import (
    canonical_spectral_of,
    leave_one_attack_out,
    projections_of,
    weight_statistics_of,
)
from auditor.proving.backdoor.baselines.canonical_spectral import NUMBERS
from auditor.proving.backdoor.weights_only import DETECTORS, Planted, Weights, compare, weights_of
from auditor.proving.zoo.spectra import SPECTRAL, as_learned


def changes(seed=0, rank=3):
    rng = np.random.default_rng(seed)
    return {
        name: [rng.standard_normal((8, rank)) @ rng.standard_normal((rank, 6)) for _ in range(2)]
        for name in ("query", "key", "value", "output")
    }


def test_weight_statistics_are_five_of_each_projection_averaged_over_layers():
    given_ = changes()
    expected = []
    for matrices in given_.values():
        rows = []
        for m in matrices:
            s = np.linalg.svd(m)[1]
            rows.append([
                s[0], np.sqrt((m**2).sum()), s[0] / s.sum(), stats.entropy(s / s.sum()),
                stats.kurtosis(m.ravel(), fisher=False),
            ])  # fmt: skip
        expected += list(np.mean(rows, axis=0))
    np.testing.assert_allclose(weight_statistics_of(given_), expected, rtol=1e-9)


def test_canonical_numbers_are_what_they_are_called():
    matrix = np.diag([4.0, 2.0, 1.0, 0.0])
    found = dict(zip(NUMBERS, canonical_spectral_of({"query": [matrix]}), strict=False))
    energy, share = np.array([16, 4, 1]) / 21, np.array([4, 2, 1]) / 7
    every = np.array([4, 2, 1, 0.0])
    expected = {
        "log_frobenius": np.log10(21) / 2, "log_spectral": np.log10(4), "log_nuclear": np.log10(7),
        "stable_rank": 21 / 16, "effective_rank": np.exp(stats.entropy(share)), "participation": 1 / (energy**2).sum(),
        "entropy": stats.entropy(energy) / np.log(3), "median_share": 0.5,
        "evenness": 4 * (1 - np.abs(every[:, None] - every).sum() / (2 * 4 * 7)),
        "energy_1": 16 / 21, "energy_2": 20 / 21, "energy_4": 1, "energy_8": 1,
        "gap_1": np.log(2), "gap_2": np.log(2),
        "slope": stats.linregress(np.log([1, 2, 3]), np.log([4, 2, 1])).slope,
    }  # fmt: skip
    assert found == pytest.approx(expected)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_no_rotation_changes_canonical_numbers_and_a_scale_only_norms(seed):
    rng = np.random.default_rng(seed)
    matrix = changes(seed)["query"][0]
    left, right = (np.linalg.qr(rng.standard_normal((n, n)))[0] for n in matrix.shape)
    before, rotated, scaled = (
        canonical_spectral_of({"key": [m]}) for m in (matrix, left @ matrix @ right, 10 * matrix)
    )
    np.testing.assert_allclose(rotated, before, rtol=1e-6, atol=1e-8)
    wanted = before.copy()
    wanted[16:19] += 1
    np.testing.assert_allclose(scaled, wanted, rtol=1e-6, atol=1e-8)


def test_what_does_not_change_is_zeros_and_does_not_count():
    one = {"query": [changes()["query"][0], np.zeros((8, 6))]}
    for detector in (weight_statistics_of, canonical_spectral_of):
        np.testing.assert_array_equal(detector(one), detector({"query": one["query"][:1]}))
        assert not detector({}).any()


def test_projections_are_found_in_denoiser_and_text_encoder_and_parts_add_up(tiny_base, tmp_path):
    base = tiny_base("sd1")
    paths = []
    for i, (component, leaf) in enumerate((("unet", "to_q"), ("unet", "to_q"), ("text_encoder", "out_proj"))):
        model = base.modules[component]
        paths.append(write(tmp_path / f"{i}.safetensors", random_lora(model, component, (leaf,), seed=i)))

    def read(*chosen):
        with Subject(base, [identify(path) for path in chosen]) as subject:
            return projections_of(subject)

    apart, together = [read(path) for path in paths], read(*paths)
    assert len(together["query"]) == len(apart[0]["query"]) and len(together["output"]) == len(apart[2]["output"]) > 0
    for first, second, both in zip(apart[0]["query"], apart[1]["query"], together["query"], strict=True):
        np.testing.assert_allclose(both, first + second, atol=1e-6)
    assert not together["key"]


def test_an_attack_is_judged_by_what_was_learned_from_others():
    rng = np.random.default_rng(0)
    clean, judged = rng.standard_normal((40, 2)), rng.standard_normal((20, 2))
    attacks = ["a"] * 6 + ["b"] * 6
    twins = rng.standard_normal((12, 2))
    # The first attack shows in one direction, the other in the other: neither teaches anything of the other.
    specimens = twins + np.repeat([[9.0, 0.0], [0.0, 9.0]], 6, axis=0)
    found = leave_one_attack_out(specimens, twins, attacks, clean, judged)
    assert set(found) == {"a", "b"}
    assert abs(found["a"][0] - found["a"][1]).max() < abs(found["a"][1]).max() + 3
    alike = twins + 9.0
    for planted, benign, others in leave_one_attack_out(alike, twins, attacks, clean, judged).values():
        assert planted.min() > max(benign.max(), others.max()) and len(others) == 20
    with pytest.raises(ValueError, match="two"):
        leave_one_attack_out(specimens[:6], twins[:6], attacks[:6], clean, judged)


EXTRA = {"kind": "low_rank", "denoiser_norm": -1.5, "text_norm": -2.0, "vectors": 0.0, "touched": "unet"}
COVARIATES = EXTRA | {"rank": 4.0}


def weights(rng, shift=0.0, read=True):
    spectrum = {"text.size": float(rng.standard_normal() + shift), "prompt.left": float(rng.standard_normal())}
    row = tuple(rng.standard_normal(20) + shift)
    return Weights(COVARIATES, spectrum if read else {}, row, (*row, 1.0))


@pytest.fixture(scope="module")
def bank():
    rng = np.random.default_rng(9)
    members = [
        BankAdapter(
            name=f"{i:03d}", split=("fit", "calibrate", "certify")[i % 3],
            recipe=Recipe(method="m", rank=4, steps=0, lr=0, extra=EXTRA),
            scores=weights(rng).spectrum,
        )
        for i in range(360)
    ]  # fmt: skip
    probe = Probe("backdoor.x", 1, "g", "n", frozenset(), Stage.WEIGHTS, print)
    learned = as_learned(members)
    return build_bank(
        id="x@1", probe=probe, base_sha256="f" * 64, score=SPECTRAL, adapters=learned, alpha=0.05,
        adjustment=fit_adjustment(learned, SPECTRAL, {"denoiser_norm": -12.0}, ("kind", "touched")),
    )  # fmt: skip


def test_the_comparison_finds_what_was_planted_and_says_how_many(bank):
    rng = np.random.default_rng(1)
    planted = [
        Planted(name, weights(rng, shift), weights(rng))
        for name, shift in (("loud", 9.0), ("quiet", 0.0))
        for _ in range(6)
    ]
    planted += [Planted("words", weights(rng, read=False), weights(rng, read=False))]
    clean = {split: [weights(rng) for _ in range(30)] for split in ("fit", "calibrate", "certify")}
    table = json.loads(json.dumps(compare(planted, clean, bank)))
    loud, quiet = table["attacks"]
    assert (loud["n"], quiet["n"], table["all"]["n"]) == (6, 6, 12)
    assert table["clean"] == {"learned": 60, "judged": 30} and table["no_weights"] == {"words": 1}
    assert loud["spectral_screen"]["twins"]["value"] == loud["spectral_screen"]["zoo"]["value"] == 1
    area = quiet["spectral_screen"]["zoo"]
    assert area["low"] < 0.5 < area["high"]
    for detector in DETECTORS:
        assert table["all"][detector]["zoo"]["low"] <= table["all"][detector]["zoo"]["value"]


def test_one_specimen_has_an_area_and_no_interval(bank):
    rng = np.random.default_rng(2)
    planted = [Planted(name, weights(rng, 9.0), weights(rng)) for name in ("a", "b")]
    clean = {split: [weights(rng) for _ in range(12)] for split in ("fit", "calibrate", "certify")}
    row = compare(planted, clean, bank)["attacks"][0]
    assert row["spectral_screen"] == {"twins": {"value": 1.0}, "zoo": {"value": 1.0}}


def test_what_was_read_of_a_subject_comes_back_from_json(tiny_base, tmp_path):
    base = tiny_base("sd1")
    path = write(tmp_path / "a.safetensors", random_lora(base.modules["unet"], "unet", ("to_v",), seed=3))
    found = weights_of(base, [path])
    assert len(found.statistics) == 20 and len(found.canonical) == 64
    assert {name.partition(".")[0] for name in found.spectrum} == {"prompt", "attention"}
    assert Weights.read(json.loads(json.dumps(asdict(found)))) == found
