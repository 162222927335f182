"No features are better than the floors, and those that should attain them do."

import pytest
import torch

from npt.geometry.collapse import COLLAPSE_METRICS, collapse_metrics
from npt.geometry.etf import simplex_etf
from npt.geometry.floors import collapse_floors
from npt.geometry.softmax_code import softmax_code

MORE_IS_BETTER = {"nc4", "nc3_cosine", "gnc2_text_margin", "gnc2_image_margin"}
pytestmark = pytest.mark.filterwarnings("ignore:No simplex ETF")


def worse_by(vectors, labels=None, image=None):
    "By how much each metric of these class vectors, and of images on them, is worse than its floor; negative: better."
    labels = torch.arange(len(vectors)) if labels is None else labels
    metrics, floors = collapse_metrics(vectors, vectors[labels] if image is None else image, labels), collapse_floors(*vectors.shape)
    assert list(floors) == list(COLLAPSE_METRICS)
    return {name: (metrics[name] - floors[name]) * (-1 if name in MORE_IS_BETTER else 1) for name in metrics}


@pytest.mark.parametrize("num_classes, dim", [(2, 1), (3, 2), (9, 8), (10, 64)])
def test_an_etf_attains_them_all(num_classes, dim):
    worse = worse_by(simplex_etf(num_classes, dim).double())
    assert worse == pytest.approx(dict.fromkeys(worse, 0.0), abs=3e-6)


@pytest.mark.parametrize("num_classes, dim", [(6, 3), (16, 8), (128, 64)])
def test_a_cross_polytope_attains_all_but_that_of_the_angles(num_classes, dim):
    worse = worse_by(softmax_code(num_classes, dim).double())
    assert all(worse.pop(f"nc2_{modality}_equiangularity") > 1e-3 for modality in ("text", "image"))
    assert worse == pytest.approx(dict.fromkeys(worse, 0.0), abs=1e-5)


@pytest.mark.parametrize("num_classes, dim", [(4, 2), (9, 2), (5, 3), (7, 3), (9, 3), (12, 8), (20, 8), (40, 8)])
def test_nothing_is_better(num_classes, dim):
    "Neither random vectors nor frames nor codes nor several copies of a smaller simplex, which come near to the floor of the angles."
    draw = torch.Generator().manual_seed(0)
    tried = [torch.randn(num_classes, dim, generator=draw, dtype=torch.float64) for _ in range(5)]
    tried += [simplex_etf(num_classes, dim).double() for _ in range(1) if num_classes % 2 == 0]
    tried += [softmax_code(num_classes, dim).double() for _ in range(1) if num_classes < 40]
    tried.append(simplex_etf(dim + 1, dim).double()[torch.arange(num_classes) % (dim + 1)] + 1e-9 * tried[0])
    for vectors in tried:
        labels = torch.arange(num_classes).repeat(3)
        image = vectors[labels] + 0.1 * torch.randn(len(labels), dim, generator=draw, dtype=torch.float64)
        assert min(worse_by(vectors, labels, image).values()) > -3e-6
        assert min(value for value in worse_by(vectors).values() if value == value) > -3e-6


def test_copies_of_a_simplex_come_near_the_floor_of_the_angles():
    "Twice the same simplex: cosines are one or -1/d. It is the shape for which the bound is nearly attained."
    twice = simplex_etf(9, 8).double().repeat(2, 1)
    floor = collapse_floors(18, 8)["nc2_text_equiangularity"]
    measured = worse_by(twice + 0)["nc2_text_equiangularity"]
    assert 0 < measured < 1.2 * floor


@pytest.mark.parametrize("num_classes, dim", [(1, 4), (4, 0)])
def test_sizes_that_cannot_be_meant_are_refused(num_classes, dim):
    with pytest.raises(ValueError, match=f"num_classes={num_classes} and dim={dim}"):
        collapse_floors(num_classes, dim)
