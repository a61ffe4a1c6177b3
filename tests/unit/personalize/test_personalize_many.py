"""Adapters trained in one pass are those trained one at a time."""

from dataclasses import replace

import pytest
import torch
from weight_cases import all_weights, quiet, same_weights

from auditor.errors import UsageError
from auditor.personalize.blocks.layers.batched import FactorBank
from auditor.personalize.blocks.layers.low_rank import LowRankChange
from auditor.personalize.dreambooth_lora import DreamBoothLora, train_dreambooth_lora
from auditor.personalize.many import Job, shape_of, train_many

PLAIN = DreamBoothLora(prompt="a picture of sks cat", rank=2, steps=4, batch=2, lr=5e-3, seed=3)
PRIOR = replace(PLAIN, class_prompt="a cat", class_images=2, alpha=1.0, prior_weight=0.5)
TEXT = replace(PRIOR, train_text_encoder=True)


def images(seed, count=2):
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def jobs_of(recipe):
    """Other pictures, seeds, learning rates, alphas and numbers of steps."""
    return [
        Job(images(0), recipe),
        Job(
            images(1, 3),
            replace(recipe, seed=9, lr=2e-2, alpha=4.0),
            ("a red cat", "a ball", "sks cat on ground"),
        ),
        Job(images(2), replace(recipe, seed=5, steps=2, prompt="a picture of ohwx dog")),
    ]


@pytest.mark.parametrize(
    ("family", "recipe"),
    [("sd1", PLAIN), ("sd1", PRIOR), ("sd1", TEXT), ("sdxl", TEXT)],
    ids=["sd1-plain", "sd1-prior", "sd1-text", "sdxl-text"],
)
def test_each_adapter_is_the_one_that_is_trained_alone(tiny_base, family, recipe):
    base, jobs = tiny_base(family), jobs_of(recipe)
    before, layout = all_weights(base), str(base.unet)
    together = train_many(base, jobs, quiet)
    assert same_weights(base, before)
    assert str(base.unet) == layout
    for job, trained in zip(jobs, together, strict=True):
        alone = train_dreambooth_lora(base, job.images, job.params, quiet, list(job.prompts) or None)
        assert trained.loss == pytest.approx(alone.loss, rel=1e-4)
        parts = ("unet", "text_encoder", "text_encoder_2")
        assert bool(alone.text_encoder_2) == (family == "sdxl")
        for ours, theirs in ((getattr(trained, part), getattr(alone, part)) for part in parts):
            assert ours.keys() == theirs.keys()
            if theirs:
                # Adam turns the rounding of a gradient near zero into a step: entries may differ, the whole may not.
                ends = [
                    torch.cat([state[k].flatten() for k in sorted(theirs) if "lora_B" in k])
                    for state in (ours, theirs)
                ]
                assert (ends[0] - ends[1]).norm() < 1e-3 * ends[1].norm()
                assert all(
                    torch.allclose(ours[k], v, atol=1e-2 * job.params.lr * job.params.steps)
                    for k, v in theirs.items()
                )


def test_the_base_comes_back_also_after_an_exception(tiny_base):
    base = tiny_base("sd1")
    before = all_weights(base)

    def stop(done, total, label=""):
        raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        train_many(base, jobs_of(TEXT), stop)
    assert same_weights(base, before)


def test_rows_go_through_their_own_factors():
    generator = torch.Generator().manual_seed(0)
    starts = [{p: torch.randn(3, 6, generator=generator) for p in ("a", "b")} for _ in range(4)]
    scales = [0.5, 1.0, 2.0, 1.0]
    bank = FactorBank(starts, {"a": 5, "b": 7}, scales)
    assert all(torch.equal(bank.factors(k)[p][0], starts[k][p]) for k in range(4) for p in ("a", "b"))
    assert all(not bank.factors(k)[p][1].any() for k in range(4) for p in ("a", "b"))
    with torch.no_grad():
        for flat in bank.parameters:
            flat.normal_(generator=generator)
    x = torch.randn(6, 7, 6, generator=generator)
    active = [0, 2, 3]
    bank.lay_out(active)
    for path, out in (("a", 5), ("b", 7)):
        layer = bank.layers[path]
        for place, k in enumerate(active):
            down, up = bank.factors(k)[path]
            single = LowRankChange(down, out, scales[k])
            single.up.data = up
            rows = slice(2 * place, 2 * place + 2)
            assert torch.allclose(layer(x)[rows], single(x[rows]), atol=1e-5)
            assert torch.allclose(layer.delta()[place], single.delta(), atol=1e-5)


@pytest.mark.parametrize(
    ("jobs", "match"),
    [
        ([], "no adapter"),
        ([Job(images(0), PLAIN), Job(images(0), replace(PLAIN, rank=4))], "share rank"),
        ([Job(images(0), PLAIN), Job(images(0), PRIOR)], "share rank"),
        ([Job(images(0), PLAIN, ("a cat",))], "2 images need as many prompts, not 1"),
        ([Job(images(0), replace(PLAIN, lr=0.0))], "lr must be above zero"),
    ],
)
def test_what_cannot_be_trained_together_is_refused(tiny_base, jobs, match):
    with pytest.raises(UsageError, match=match):
        train_many(tiny_base("sd1"), jobs, quiet)
    assert shape_of(PLAIN) != shape_of(TEXT)
