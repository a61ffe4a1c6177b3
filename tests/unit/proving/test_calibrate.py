"""A user's own bank: from a folder of adapters to p-values, and every folder that cannot make one."""

from dataclasses import dataclass

import pytest
from tiny_models import random_lora, write

from auditor.banks import adapters_needed
from auditor.contracts import Probe, Stage
from auditor.errors import UsageError
from auditor.proving.calibrate import calibrate
from auditor.stats import bank_size_for
from reports.model import Outcome, Result

COUNT = 15


@dataclass(frozen=True)
class Loud:
    """Parameters."""

    times: float = 2.0


def loudness(subject, params, run):
    yield Result(
        probe="behaviour.loud", version=1, outcome=Outcome.INCONCLUSIVE, null="n", statistic="s",
        value=params.times * subject.coverage.delta_norm,
    )  # fmt: skip


def silent(subject, params, run):
    yield Result(probe="behaviour.silent", version=1, outcome=Outcome.INCONCLUSIVE, null="n", statistic="s")


def probe_of(function, name):
    return Probe(
        id=f"behaviour.{name}", version=1, goal="g", null="n", needs=frozenset(), stage=Stage.STEP, function=function,
        params=Loud, bank=name,
    )  # fmt: skip


LOUD = probe_of(loudness, "loud")


def quiet(done, total, label=""):
    pass


@pytest.fixture
def adapters(tiny_base, tmp_path):
    unet = tiny_base("sd1").unet
    return [
        write(tmp_path / f"{i:02d}.safetensors", random_lora(unet, "unet", ("to_v",), seed=i, scale=0.01 * (i + 1)))
        for i in range(COUNT)
    ]


def test_a_bank_is_made_of_what_the_probe_measures_on_each_adapter(tiny_base, adapters):
    base = tiny_base("sd1")
    (bank,) = calibrate([LOUD], base, adapters, quiet, alpha=0.1)
    assert (bank.probe, bank.base_sha256, len(bank.adapters)) == ("behaviour.loud", base.sha256, COUNT)
    assert bank.size == 9 == bank_size_for(0.1)
    assert sorted(a.scores["score"] for a in bank.adapters)[0] > 0
    assert all(a.recipe.extra["kind"] == "low_rank" and a.recipe.rank == 2 for a in bank.adapters)
    assert bank.p_value(1e9) == bank.p_floor <= 0.1
    assert bank.p_value(0.0) == 1.0
    again = calibrate([LOUD], base, adapters[::-1], quiet, alpha=0.1)[0]
    assert again.sha256 == bank.sha256


def test_several_probes_are_calibrated_in_one_go(tiny_base, adapters):
    other = probe_of(loudness, "louder")
    made = calibrate([LOUD, other], tiny_base("sd1"), adapters, quiet, alpha=0.1)
    assert [bank.probe for bank in made] == ["behaviour.loud", "behaviour.louder"]
    assert len({bank.id for bank in made}) == 2


def test_how_many_it_takes_is_said(tiny_base, adapters):
    assert adapters_needed(0.1) == COUNT
    with pytest.raises(UsageError, match=rf"14 clean adapters .* it takes {COUNT} or more"):
        calibrate([LOUD], tiny_base("sd1"), adapters[1:], quiet, alpha=0.1)


def test_an_adapter_of_another_base_and_a_word_alone_are_left_out_by_name(tiny_base, adapters, tmp_path):
    base = tiny_base("sd1")
    foreign = write(tmp_path / "x" / "foreign.safetensors", random_lora(tiny_base("sdxl").unet, "unet", ("to_v",)))
    with pytest.raises(UsageError, match=r"'foreign\.safetensors' does not fully apply"):
        calibrate([LOUD], base, [*adapters[1:], foreign], quiet, alpha=0.1)
    width = base.modules["text_encoder"].config.hidden_size
    import torch

    word = write(tmp_path / "y" / "word.safetensors", {"<x>": torch.randn(1, width)})
    with pytest.raises(UsageError, match=r"'word\.safetensors' changes no weight"):
        calibrate([LOUD], base, [*adapters[1:], word], quiet, alpha=0.1)


def test_a_probe_without_a_score_cannot_be_calibrated(tiny_base, adapters):
    with pytest.raises(UsageError, match="gives no score"):
        calibrate([probe_of(silent, "silent")], tiny_base("sd1"), adapters, quiet, alpha=0.1)
