"The one-vs-rest margin against nonnegative least squares, class by class, and against hand-made cases."

import math

import numpy as np
import pytest
import torch
from scipy.optimize import nnls

from npt.geometry.etf import simplex_etf
from npt.geometry.margin import _margin_bound, _margin_ends, _onto_simplex, one_vs_rest_margin


def margin_by_least_squares(vectors):
    "The smallest distance of a unit vector from the hull of the others, by a least-squares problem for each."
    unit = np.asarray(vectors, dtype=np.float64)
    unit, found = unit / np.linalg.norm(unit, axis=1, keepdims=True), []
    for k in range(len(unit)):
        toward = np.delete(unit, k, axis=0) - unit[k]
        weights, _ = nnls(np.vstack([toward.T, np.ones(len(toward))]), np.append(np.zeros(unit.shape[1]), 1.0))
        found.append(np.linalg.norm(weights @ toward / weights.sum()))
    return min(found)


def drawn(num_classes, dim, common=0.0, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(num_classes, dim, generator=draw) + common * torch.randn(dim, generator=draw)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("num_classes, dim, common", [(2, 3, 0), (3, 8, 2), (10, 64, 0), (10, 64, 5), (20, 16, 1), (50, 20, 0), (50, 20, 2), (40, 4, 0)])
def test_it_is_the_distance_that_least_squares_finds(num_classes, dim, common, seed):
    vectors = drawn(num_classes, dim, common, seed)
    ours, exact = one_vs_rest_margin(vectors), margin_by_least_squares(vectors)
    assert exact - 1e-8 <= ours <= exact + 2e-6


@pytest.mark.parametrize("vectors, margin", [
    ([[1.0, 0], [-5, 0]], 2), ([[1.0, 0], [2, 0]], 0), ([[1.0, 0], [0, 1]], 2**0.5),
    ([[1.0, 0], [0, 1], [1, 1]], 1 - 0.5**0.5), ([[1.0, 0], [0, 1], [-1, 0], [0, -1]], 1),
    ([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]], 1.5**0.5), ([[1.0], [1.0], [-1.0]], 0),
])  # fmt: skip
def test_cases_for_pencil_and_paper(vectors, margin):
    assert one_vs_rest_margin(torch.tensor(vectors)) == pytest.approx(margin, abs=2e-6)


@pytest.mark.parametrize("num_classes, dim", [(2, 1), (3, 2), (6, 9), (100, 128)])
def test_an_etf_attains_the_bound(num_classes, dim):
    assert one_vs_rest_margin(simplex_etf(num_classes, dim)) == pytest.approx(num_classes / (num_classes - 1), abs=2e-6)
    assert _margin_bound(num_classes, dim) == num_classes / (num_classes - 1)


@pytest.mark.parametrize("num_classes, dim", [(4, 1), (3, 2), (9, 2), (6, 4), (8, 4), (9, 4), (30, 3)])
def test_no_vectors_exceed_the_bound(num_classes, dim):
    margins = [one_vs_rest_margin(drawn(num_classes, dim, seed=seed)) for seed in range(8)]
    assert max(margins) <= _margin_bound(num_classes, dim) + 2e-6
    assert _margin_bound(num_classes, dim) <= _margin_bound(num_classes - 1, dim)


@pytest.mark.filterwarnings("ignore:The one-vs-rest margin is only known")
def test_where_classes_run_together_the_ends_hold_the_truth():
    for seed in range(3):
        vectors = drawn(40, 12, seed=seed).double()
        vectors[20:] = 0.01 * vectors[20:] + drawn(1, 12, seed=seed + 50)
        unit = torch.nn.functional.normalize(vectors, dim=1)
        centered = unit - unit.mean(0)
        low, high = _margin_ends((centered @ centered.T).numpy())
        assert low - 1e-8 <= margin_by_least_squares(vectors) <= high + 1e-8
        assert one_vs_rest_margin(vectors) == high


def test_an_uncertain_margin_is_said_to_be_one(monkeypatch):
    monkeypatch.setattr("npt.geometry.margin._MOST_CHECKS", 1)
    with pytest.warns(UserWarning, match=r"only known to lie from 0\.\d+ to \d\.\d+") as caught:
        one_vs_rest_margin(drawn(40, 6))
    assert caught[0].filename == __file__


def test_lengths_rotations_and_orders_do_not_matter():
    vectors = drawn(12, 8, common=1).double()
    turn = torch.linalg.qr(drawn(8, 8).double()).Q
    other = ((torch.arange(1, 13)[:, None] * vectors) @ turn).flip(0)
    assert one_vs_rest_margin(other) == pytest.approx(one_vs_rest_margin(vectors), abs=2e-6)


def test_weights_come_back_to_the_nearest_ones_that_are_allowed():
    draw = np.random.default_rng(0)
    values = draw.normal(size=(6, 9))
    values[:, 2] = -np.inf
    ours, grid = _onto_simplex(values), draw.dirichlet(np.full(8, 0.5), size=20000)
    assert (ours >= 0).all() and np.allclose(ours.sum(1), 1) and (ours[:, 2] == 0).all()
    open_ = np.delete(values, 2, axis=1)
    nearest = ((grid[None] - open_[:, None]) ** 2).sum(2).min(1)
    assert (((np.delete(ours, 2, axis=1) - open_) ** 2).sum(1) <= nearest).all()


@pytest.mark.parametrize("shape", [(1, 3), (3,), (0, 3)])
def test_one_vector_alone_is_refused(shape):
    with pytest.raises(ValueError, match="at least 2 vectors"):
        one_vs_rest_margin(torch.ones(shape))
    assert math.isclose(one_vs_rest_margin(torch.eye(2)), 2**0.5)
