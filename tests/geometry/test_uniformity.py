"Pair energies against loops, and their bounds against linear programming and Thomson's problem."

import math

import numpy as np
import pytest
import torch
from numpy.polynomial import polynomial

from npt.geometry.etf import pairwise_cosines, simplex_etf
from npt.geometry.uniformity import _energy_bounds, _pair_energies, _quadrature

THOMSON = {2: 0.5, 3: 1.732050808, 4: 3.674234614, 5: 6.474691495, 6: 9.985281374, 7: 14.452977414, 8: 19.675287861,
           9: 25.759986531, 10: 32.716949460, 12: 49.165253058, 20: 150.881568334}  # smallest known energies of K charges on a sphere


def energies_by_loops(vectors):
    "Both energies, pair by pair, from distances."
    unit = [np.asarray(v, dtype=np.float64) / np.linalg.norm(v) for v in vectors]
    gaps = [np.linalg.norm(unit[j] - unit[k]) for j in range(len(unit)) for k in range(len(unit)) if j != k]
    return {"log": np.mean(np.log(1 / np.array(gaps))), "riesz": np.mean(1 / np.array(gaps))}


@pytest.mark.parametrize("num_classes, dim", [(2, 1), (5, 3), (30, 8), (12, 64)])
def test_energies_are_those_of_the_distances(num_classes, dim):
    vectors = torch.randn(num_classes, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(num_classes))
    vectors = vectors if dim > 1 else torch.tensor([[1.0], [-2.0]]).double()
    ours = {name: value.item() for name, value in _pair_energies(pairwise_cosines(vectors)).items()}
    assert ours == pytest.approx(energies_by_loops(vectors.numpy()), rel=1e-12)


def test_vectors_in_one_place_have_an_infinite_energy_and_near_ones_a_large_one():
    same = torch.tensor([[3.0, 1], [6, 2], [0, -1]], dtype=torch.float64)
    assert all(value == math.inf for value in _pair_energies(pairwise_cosines(same)).values())
    same[0, 0] += 1e-4
    assert 1000 < _pair_energies(pairwise_cosines(same))["riesz"] < math.inf


@pytest.mark.parametrize("num_classes, dim", [(5, 4), (9, 8), (6, 3), (16, 8), (1024, 512), (2, 1)])
def test_simplex_and_cross_polytope_attain_the_bounds(num_classes, dim):
    axes = torch.eye(dim, dtype=torch.float64)
    vectors = simplex_etf(num_classes, dim).double() if num_classes <= dim + 1 else torch.cat([axes, -axes])
    found = {name: value.item() for name, value in _pair_energies(pairwise_cosines(vectors)).items()}
    assert found == pytest.approx(_energy_bounds(num_classes, dim), rel=1e-6)


@pytest.mark.parametrize("num_classes", THOMSON)
def test_no_bound_exceeds_the_energies_of_thomsons_problem(num_classes):
    known = THOMSON[num_classes] / (num_classes * (num_classes - 1) / 2)
    bound = _energy_bounds(num_classes, 3)["riesz"]
    assert bound < known * (1 + 1e-9)
    assert bound > 0.94 * known, "and it is near"
    assert num_classes not in (2, 3, 4, 6) or bound == pytest.approx(known, rel=1e-8)


def gegenbauer(degree, dim):
    "Coefficients of the polynomials of a dimension up to a degree, each one at 1, by their recursion."
    found = [np.array([1.0]), np.array([0.0, 1.0])]
    for i in range(1, degree):
        found.append(polynomial.polysub((2 * i + dim - 2) * polynomial.polymulx(found[i]), i * found[i - 1]) / (i + dim - 2))
    return found


@pytest.mark.parametrize("num_classes, dim", [(7, 8), (9, 8), (10, 8), (15, 8), (16, 8), (17, 8), (30, 8), (44, 8), (100, 8), (1000, 512), (1100, 512), (9, 3), (40, 3), (7, 2), (300000, 512)])
@pytest.mark.parametrize("kernel, slope", [(lambda t: -np.log(2 - 2 * t) / 2, lambda t: 1 / (2 - 2 * t)),
                                           (lambda t: (2 - 2 * t) ** -0.5, lambda t: (2 - 2 * t) ** -1.5)])
def test_a_polynomial_proves_each_bound(num_classes, dim, kernel, slope):
    "It touches the kernel at the nodes, lies below it, has no negative coefficient, and its own bound is ours."
    nodes, _ = _quadrature(num_classes, dim)
    touched = [t for t in nodes if t > -1 + 1e-12]
    rows = [np.vander([t], 2 * len(touched) + (len(nodes) > len(touched)), increasing=True)[0] for t in nodes]
    steep = [np.array([power * t ** max(power - 1, 0) for power in range(len(rows[0]))]) for t in touched]
    h = np.linalg.solve(np.array(rows + steep), [*map(kernel, nodes), *map(slope, touched)])
    grid = np.linspace(-1, 1 - 1e-6, 20001)
    assert (polynomial.polyval(grid, h) <= kernel(grid) + 1e-9).all()
    basis = np.zeros((len(h), len(h)))
    for i, coefficients in enumerate(gegenbauer(len(h) - 1, dim)[: len(h)]):
        basis[: len(coefficients), i] = coefficients
    h_of = np.linalg.solve(basis, h)
    assert (h_of[1:] >= -1e-12).all()
    proved = (num_classes**2 * h_of[0] - num_classes * h.sum()) / (num_classes * (num_classes - 1))
    name = "log" if kernel(0.0) < 0 else "riesz"
    assert _energy_bounds(num_classes, dim)[name] == pytest.approx(proved, rel=1e-9)


def test_bounds_never_fall_with_more_classes_or_rise_with_more_dimensions():
    by_class = [_energy_bounds(K, 6)["riesz"] for K in range(2, 60)]
    assert all(b >= a - 1e-12 for a, b in zip(by_class, by_class[1:]))
    by_dim = [_energy_bounds(20, d)["log"] for d in range(2, 40)]
    assert all(b <= a + 1e-12 for a, b in zip(by_dim, by_dim[1:]))
    assert _energy_bounds(3, 1)["log"] == math.inf, "two of three signs are one"
