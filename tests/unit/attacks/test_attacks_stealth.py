import pytest
import torch
from torch import nn

from attacks.crafting.stealth import Elastic, Stealth


@pytest.fixture
def layer():
    torch.manual_seed(0)
    return nn.Parameter(torch.tensor([1.0, 2.0, 3.0]))


def elastic(layer, strength=2.0, rounds=4000):
    # Answers depend on the first weight strongly, on the second a little, on the third not at all.
    rows = torch.tensor([[3.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    return Elastic([layer], lambda index: rows @ layer, Stealth(strength, tolerance=0.1, rounds=rounds))


def term(found, clean=1.0, backdoor=1.0, turned=True):
    said = torch.tensor([[1.0, 0.0]])
    wanted = torch.tensor([[0.0, 1.0]]) if turned else said
    return found.penalty(torch.tensor(clean), torch.tensor(backdoor), said, wanted)


def test_the_penalty_is_the_fisher_weighted_change_in_units_of_the_weights_size(layer):
    found = elastic(layer)
    with torch.no_grad():
        layer += torch.tensor([0.5, 0.5, 50.0])
    # F = diag(9, 1, 0): (9/4 + 1/4) / (9 * 1 + 1 * 4), times strength 2 and the clean share of one half.
    held = term(found)
    (gradient,) = torch.autograd.grad(held, [layer])
    assert held.item() == pytest.approx(2.5 / 13, rel=0.15)
    assert (gradient[0] / gradient[1]).item() == pytest.approx(9, rel=0.2) and gradient[2] == 0


def test_nothing_is_held_before_clean_answers_drift_or_while_the_backdoor_has_all_to_learn(layer):
    found = elastic(layer)
    with torch.no_grad():
        layer += 1
    assert term(found, turned=False).item() == 0
    assert term(found, clean=0.0).item() == 0
    losses = [found.beta(torch.tensor(c), torch.tensor(1.0), torch.tensor(d)) for c, d in ((0.1, 1), (1, 1), (1, 0.05))]
    assert losses[0] < losses[1] == pytest.approx(1.0) and losses[2] == pytest.approx(0.5)


def test_the_drift_is_capped_by_its_tolerance(layer):
    found = elastic(layer, rounds=2)
    one = torch.tensor(1.0)
    assert found.beta(one, one, torch.tensor(0.1)) == found.beta(one, one, torch.tensor(1.9)) == 1.0
