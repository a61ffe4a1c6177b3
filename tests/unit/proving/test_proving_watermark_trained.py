"""The table of trained marks: its rows add up, whatever the figures are."""

import numpy as np
import pytest
import torch

from auditor.pipeline.open import load_base
from auditor.pipeline.subject import Subject
from auditor.registry import WATERMARKS
from watermark.proving import trained
from watermark.removal.catalogue import SIGNAL


@pytest.fixture(scope="module")
def view():
    with Subject(load_base(), ()) as subject:
        yield subject.base


def test_settings_are_counted_on_the_same_pictures_and_more_strength_costs_more(view):
    arms = (trained.Arm(0.5), trained.Arm(2.0))
    rows = trained.safe_sd_rows(view, WATERMARKS.get("safe_sd"), 2, arms=arms, steps=4)
    attacks = 1 + sum(len(attack.grid) for attack in SIGNAL.values())
    assert [row.attack for row in rows].count("none") == 2
    assert len(rows) == attacks + 1
    weak, strong = (row for row in rows if row.attack == "none")
    assert weak.carrier_psnr > strong.carrier_psnr
    assert strong.modules > weak.modules > 0.5
    assert all(row.n == 2 and 0 <= row.low <= row.found / 2 <= row.high <= 1 for row in rows)


def test_pictures_without_a_mark_are_not_counted_as_found(view):
    images = torch.from_numpy(np.random.default_rng(0).uniform(-1, 1, (3, 3, 64, 64))).float()
    [row] = trained.rows_of_marked(
        view, WATERMARKS.get("decoder"), trained.measured_key(0), images, images, "none", attacked=False
    )
    assert row.found == 0
    assert row.payloads is None
