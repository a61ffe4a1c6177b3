"""What was done to a picture is undone, and the search pays for every candidate."""

from functools import partial

import numpy as np
import pytest
import torch
from scipy import ndimage

from auditor.errors import UsageError
from watermark.keys import MasterKey
from watermark.registration import Change, cuts, mirrors, search, turns, undone, zooms
from watermark.removal.catalogue import SIGNAL
from watermark.schemes.hstr import Hstr
from watermark.schemes.tail_sign import TailSign

KEY = MasterKey(bytes(range(32)))
SHAPE = (4, 32, 32)


def smooth(side=48):
    planes = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(3, side, side)), (0, 2, 2))
    return planes / np.abs(planes).max()


def attacked(name, planes, strength, seed=0):
    return SIGNAL[name].apply(torch.from_numpy(planes)[None].float(), strength, [seed])[0].double().numpy()


@pytest.mark.parametrize("angle", [90, 17, -40])
def test_a_turn_of_the_attack_is_undone(angle):
    planes = smooth()
    back = undone(attacked("rotation", planes, angle), Change(angle=angle), 48, 48)
    middle = (slice(None), slice(14, 34), slice(14, 34))
    np.testing.assert_allclose(back[middle], planes[middle], atol=0.06)


def test_a_mirror_image_and_a_cut_are_undone_exactly():
    planes = smooth()
    np.testing.assert_allclose(
        undone(attacked("flip", planes, 1), Change(mirrored=True), 48, 48), planes, atol=1e-6
    )
    back = undone(planes[:, 5:40, 9:44], Change(top=5, left=9), 48, 48)
    assert (back[:, 5:40, 9:44] == planes[:, 5:40, 9:44]).all()
    assert not back[:, :5].any()
    assert not back[:, :, 44:].any()


def test_a_scaled_crop_is_undone():
    planes = smooth()
    cut = torch.from_numpy(planes[:, 6:42, 3:39])[None]
    scaled = torch.nn.functional.interpolate(cut, (48, 48), mode="bicubic")[0].numpy()
    back = undone(scaled, Change(top=6, left=3, zoom=36 / 48), 48, 48)
    np.testing.assert_allclose(back[:, 8:40, 5:37], planes[:, 8:40, 5:37], atol=0.03)
    assert Change(top=6, left=3).magnified(8) == Change(top=48, left=24)


@pytest.mark.parametrize("scheme", [TailSign(), Hstr()], ids=lambda scheme: scheme.id)
def test_a_turned_mark_is_found_again_and_candidates_are_paid_for(scheme):
    marked = scheme.embed(KEY, bytes(12), SHAPE).astype(np.float64)
    turned = undone(marked, Change(angle=-30), 32, 32)
    test = partial(scheme.detect, key=KEY)

    assert test(turned).p_value > 1e-6
    candidates = turns(15)
    found = search(turned, test, SHAPE, candidates)
    assert found.change == Change(angle=30)
    assert found.detection.p_value < 1e-9
    assert found.detection.looks == len(candidates) * test(found.latents).looks
    assert found.detection.p_value == pytest.approx(len(candidates) * test(found.latents).p_value)
    assert found.detection.details["registration"]["angle"] == 30


def test_a_mirrored_and_a_cut_mark_are_found_again():
    scheme = TailSign()
    marked = scheme.embed(KEY, bytes(12), SHAPE).astype(np.float64)
    test = partial(scheme.detect, key=KEY)

    assert search(marked[:, :, ::-1], test, SHAPE, mirrors()).change == Change(mirrored=True)
    part = marked[:, 2:31, 4:32]
    found = search(part, test, SHAPE, cuts(SHAPE, part.shape))
    assert found.change == Change(top=2, left=4)
    assert found.detection.p_value < 1e-9


def test_p_values_of_a_search_hold_over_keys():
    scheme, rng = Hstr(), np.random.default_rng(0)
    marked = scheme.embed(KEY, bytes(12), (4, 16, 16)).astype(np.float64)
    keys = [MasterKey(rng.bytes(32)) for _ in range(150)]
    found = [search(marked, partial(scheme.detect, key=key), (4, 16, 16), turns(45)) for key in keys]
    assert sum(each.detection.p_value <= 0.1 for each in found) <= 28


def test_candidates_are_all_that_they_should_be():
    assert len(turns(3)) == 120
    assert len(turns(3, mirrored=True)) == 240
    assert len(cuts((4, 16, 16), (4, 13, 14))) == 4 * 3
    assert {change.zoom for change in zooms((4, 16, 16), [0.25, 0.5])} == {0.5, 0.5**0.5}
    assert max(change.top for change in zooms((4, 16, 16), [0.25])) == 8
    with pytest.raises(UsageError, match="candidates"):
        search(np.zeros((4, 8, 8)), lambda z: None, SHAPE, [])
    with pytest.raises(UsageError, match="leaves anything"):
        search(np.zeros((4, 8, 8)), lambda z: None, SHAPE, [Change()])
