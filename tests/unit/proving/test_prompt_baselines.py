import numpy as np
import pytest
from scipy.integrate import solve_ivp

from auditor.proving.backdoor.baselines.daa import dissipation, laplacian, unrest
from auditor.proving.backdoor.baselines.t2ishield import assimilation
from auditor.proving.backdoor.baselines.ufid import density, perturbed


@pytest.fixture
def maps():
    return np.random.default_rng(0).uniform(0.01, 1, (10, 5, 4, 6))


def test_assimilation_is_that_of_loops(maps):
    tokens = maps[0]
    scaled = [token / token.max() for token in tokens]
    mean = sum(scaled) / len(scaled)
    loops = np.mean([np.sqrt(sum((mean - one).flat[i] ** 2 for i in range(one.size))) for one in scaled])
    assert assimilation(tokens) == pytest.approx(-loops)


def test_maps_that_are_alike_are_most_suspicious(maps):
    one = maps[0, :1]
    assert assimilation(np.concatenate([one, 3 * one, 0.5 * one])) == pytest.approx(0)
    assert assimilation(maps[0]) < 0


def test_unrest_is_that_of_loops(maps):
    total = 0.0
    for step in (3, 4):
        change = maps[step] - maps[step - 1]
        norms = [np.linalg.norm(change[token], "fro") for token in range(5)]
        total += norms[-1] - np.mean(norms[1:-1])
    assert unrest(maps) == pytest.approx(-total)


def test_the_laplacian_takes_from_a_node_what_it_gives_to_others(maps):
    found = laplacian(maps[0])
    apart = np.array([[np.linalg.norm(a - b) for b in maps[0]] for a in maps[0]])
    near = (apart.max() - apart) / apart.max()
    for i in range(5):
        for j in range(5):
            wanted = near[j, i] if i != j else -sum(near[k, i] for k in range(5) if k != i)
            assert found[i, j] == pytest.approx(wanted)
    assert found.sum(axis=0) == pytest.approx(0)
    alike = laplacian(np.ones((3, 2, 2)))
    assert alike == pytest.approx(np.ones((3, 3)) - 3 * np.eye(3))


def test_dissipation_is_what_an_integrator_finds(maps):
    nodes = maps[:, 1:]
    decay = np.diag([-1.0, -1.0, -1.0, -10.0])
    state = np.array([np.linalg.norm(node) for node in nodes[0]])
    start = state.copy()
    for step in range(7):
        field = decay + laplacian(nodes[step])
        solved = solve_ivp(lambda _, x, field=field: field @ x, (0, 1), state, rtol=1e-9, atol=1e-12)
        state = solved.y[:, -1]
    change = state - start
    assert dissipation(maps) == pytest.approx(change[-1] - change[:-1].mean(), rel=1e-5)


def test_density_is_the_mean_over_pairs():
    rows = np.random.default_rng(1).normal(size=(5, 8))
    pairs = [
        rows[i] @ rows[j] / np.linalg.norm(rows[i]) / np.linalg.norm(rows[j]) for i in range(5) for j in range(i)
    ]
    assert density(rows) == pytest.approx(np.mean(pairs))
    assert density(np.ones((3, 4))) == pytest.approx(1)


def test_a_prompt_is_put_behind_others():
    assert perturbed("a cat", ["a hat", "a car"]) == ["a cat", "a hat a cat", "a car a cat"]


@pytest.mark.parametrize(
    ("detector", "bad"),
    [
        (assimilation, np.zeros((2, 3, 3))),
        (assimilation, np.zeros((0, 3, 3))),
        (unrest, np.ones((4, 5, 2, 2))),
        (unrest, np.ones((9, 2, 2, 2))),
        (dissipation, np.ones((7, 5, 2, 2))),
        (density, np.ones((1, 4))),
        (density, np.zeros((3, 4))),
    ],
)
def test_what_cannot_be_scored_is_an_error_and_no_score(detector, bad):
    with pytest.raises(ValueError, match=r"needed|scaled"):
        detector(bad)
