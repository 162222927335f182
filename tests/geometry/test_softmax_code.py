"Softmax codes: exact where they are known, and no worse than the bound says and random vectors have where they are searched."

import math
import warnings

import pytest
import torch

from npt.geometry.etf import simplex_etf
from npt.geometry.margin import _margin_bound, one_vs_rest_margin
from npt.geometry.softmax_code import _smooth_shortfall, softmax_code


@pytest.mark.parametrize("num_classes, dim, seed", [(2, 1, 0), (5, 4, 3), (6, 30, 1)])
def test_up_to_d_plus_one_it_is_the_etf(num_classes, dim, seed):
    assert torch.equal(softmax_code(num_classes, dim, seed), simplex_etf(num_classes, dim, seed))


@pytest.mark.parametrize("num_classes, dim", [(4, 2), (6, 4), (7, 4), (8, 4), (1000, 512)])
def test_up_to_2d_it_is_part_of_a_cross_polytope(num_classes, dim):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        code = softmax_code(num_classes, dim, seed=1).double()
    gram = (code @ code.T).round(decimals=5)
    assert torch.equal(gram.diagonal(), torch.ones(num_classes).double())
    assert set((gram + 0.0).unique().tolist()) == {-1.0, 0.0, 1.0}
    assert (gram == -1).sum() == 2 * (num_classes - dim)
    assert num_classes > 100 or one_vs_rest_margin(code) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("num_classes, dim, known", [
    (5, 2, 1 - math.cos(2 * math.pi / 5)), (11, 2, 1 - math.cos(2 * math.pi / 11)), (12, 3, 1 - 5**-0.5), (24, 4, 0.5)])
def test_known_codes_are_found(num_classes, dim, known):
    "Polygons, the icosahedron, and the 24-cell, whose corners are half a unit above the eight nearest others."
    code = softmax_code(num_classes, dim)
    assert torch.allclose(code.norm(dim=1), torch.ones(num_classes), atol=1e-6)
    assert known - 2e-3 < one_vs_rest_margin(code) <= _margin_bound(num_classes, dim) + 2e-6


@pytest.mark.filterwarnings("ignore:No simplex ETF")
@pytest.mark.parametrize("num_classes, dim", [(10, 4), (20, 6), (70, 12)])
def test_a_searched_code_has_a_larger_margin_than_the_tight_frame(num_classes, dim):
    assert one_vs_rest_margin(softmax_code(num_classes, dim)) > one_vs_rest_margin(simplex_etf(num_classes, dim)) + 0.01


def test_the_seed_fixes_it_and_gradients_may_be_off():
    with torch.no_grad():
        one = softmax_code(9, 3, seed=2)
    assert torch.equal(one, softmax_code(9, 3, seed=2)) and not one.requires_grad
    assert not torch.allclose(one, softmax_code(9, 3, seed=3), atol=0.1)


def test_the_smooth_shortfall_goes_to_the_largest_gap():
    draw = torch.Generator().manual_seed(0)
    vectors, features = torch.nn.functional.normalize(torch.randn(2, 6, 4, generator=draw, dtype=torch.float64), dim=2)
    gaps = [(vectors[j] - vectors[k]) @ features[k] for k in range(6) for j in range(6) if j != k]
    by_hand = math.log(sum(math.exp(3 * gap) for gap in gaps)) / 3
    assert _smooth_shortfall(5 * vectors, 2 * features, 3.0).item() == pytest.approx(by_hand)
    assert _smooth_shortfall(vectors, features, 1e4).item() == pytest.approx(max(gaps).item(), abs=1e-3)


@pytest.mark.parametrize("num_classes, dim, message", [
    (1, 4, "at least 2 classes"), (4, 0, "at least 1 dimension"), (3, 1, "Found no 3 vectors in 1 dimensions")])
def test_what_does_not_exist_is_refused(num_classes, dim, message):
    with pytest.raises(ValueError, match=message):
        softmax_code(num_classes, dim)
