"Targets turned onto vectors: the nearest rotation, the classes that share an axis, and what they were before codes came."

import itertools
import warnings

import pytest
import torch
import torch.nn.functional as F

from npt.geometry.align import _opposites, _turned_onto, align_etf
from npt.geometry.etf import simplex_etf
from npt.geometry.margin import one_vs_rest_margin
from npt.geometry.softmax_code import softmax_code


def drawn(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_an_aligned_etf_keeps_dtype_and_gives_back_what_is_one():
    turned = simplex_etf(6, 9, seed=3).double()
    assert torch.allclose(align_etf(turned), turned, atol=1e-6)
    assert align_etf(turned.half()).dtype == torch.half


@pytest.mark.parametrize("num_classes, dim", [(2, 3), (9, 8), (10, 64)])
def test_where_an_etf_exists_it_is_procrustes_bit_for_bit(num_classes, dim):
    vectors = drawn(num_classes, dim).float() + 1
    unit = F.normalize(vectors.double(), dim=1)
    frame = simplex_etf(num_classes, dim).to(unit)
    left, _, right = torch.linalg.svd(frame.T @ unit)
    assert torch.equal(align_etf(vectors), (frame @ left @ right).to(vectors))


@pytest.mark.parametrize("num_classes, dim", [(6, 4), (8, 4), (9, 4), (30, 20)])
def test_elsewhere_it_is_a_softmax_code_and_nobody_is_warned(num_classes, dim):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        aligned = align_etf(drawn(num_classes, dim) + 1)
    assert torch.allclose(aligned.norm(dim=1), torch.ones(num_classes).double(), atol=1e-6)
    assert one_vs_rest_margin(aligned) == pytest.approx(one_vs_rest_margin(softmax_code(num_classes, dim)), abs=1e-5)


@pytest.mark.parametrize("num_classes, dim, seed", [(6, 3, 0), (6, 4, 1), (5, 3, 2), (6, 3, 3)])
def test_handing_out_is_nearer_than_three_orders_in_four(num_classes, dim, seed):
    "Against all orders of the code: nearer than three in four of them, and than the order as built."
    unit, code = F.normalize(drawn(num_classes, dim, seed=seed), dim=1), softmax_code(num_classes, dim).double()
    ours = (align_etf(unit) - unit).norm()
    others = torch.stack([(_turned_onto(code[list(order)], unit) - unit).norm() for order in itertools.permutations(range(num_classes))])
    assert (others < ours - 1e-9).double().mean() < 0.25 and ours <= (_turned_onto(code, unit) - unit).norm() + 1e-9


def test_pairs_are_those_of_the_greedy_list():
    unit = F.normalize(drawn(11, 6, seed=4), dim=1)
    cosines = {(j, k): (unit[j] @ unit[k]).item() for j in range(11) for k in range(j + 1, 11)}
    wanted = []
    for j, k in sorted(cosines, key=cosines.get):
        if not {j, k} & {place for pair in wanted for place in pair}:
            wanted.append((j, k))
    for number in 1, 3, 5:
        assert list(zip(*_opposites(unit, number).tolist())) == wanted[:number]


def test_a_code_that_is_there_is_given_back():
    code = softmax_code(10, 6, seed=5).double()[torch.randperm(10, generator=torch.Generator().manual_seed(0))]
    assert torch.allclose(align_etf(3 * code), code, atol=1e-6)


def test_one_class_has_no_target():
    with pytest.raises(ValueError, match="at least 2 classes"):
        align_etf(torch.ones(1, 4))


def test_what_points_nowhere_is_refused_and_rows_that_are_alike_come_to_an_end():
    broken = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    broken[1] = torch.nan
    with pytest.raises(ValueError, match="not finite"):
        align_etf(broken)
    for num_classes, dim in (4, 2), (33, 31), (17, 15):
        alike = F.normalize(torch.ones(num_classes, dim) + 1e-8 * torch.randn(num_classes, dim, generator=torch.Generator().manual_seed(dim)), dim=1)
        code = align_etf(alike)
        assert torch.allclose(code.norm(dim=1), torch.ones(num_classes), atol=1e-5) and (code @ code.T - 2 * torch.eye(num_classes)).max() < 1e-5
