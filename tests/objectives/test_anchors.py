"What stands still in a fit: clusters of classes, and one simplex ETF near the frozen text features."

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from steps import Case, unit

from npt.objectives.anchors import Anchors, _cluster_classes


def test_the_anchor_is_an_etf_and_no_rotation_of_it_is_nearer_to_the_frozen_features():
    case = Case(num_classes=6)
    anchor, draw = case.anchors.etf, torch.Generator().manual_seed(5)
    wanted = torch.full((6, 6), -1 / 5, dtype=torch.float64).fill_diagonal_(1)
    assert torch.allclose(anchor @ anchor.T, wanted)
    nearest = (anchor - case.template).norm()
    for size in 1e-3, 0.1, 10.0:
        skew = size * torch.randn(8, 8, generator=draw, dtype=torch.float64)
        assert (anchor @ torch.linalg.matrix_exp(skew - skew.T) - case.template).norm() > nearest


@pytest.mark.parametrize("num_classes, expected", [(1, 1), (16, 1), (17, 2), (33, 3)])
def test_clusters_hold_16_classes_in_the_mean(num_classes, expected):
    features = unit(torch.Generator().manual_seed(1), num_classes, 12)
    clusters = _cluster_classes(features)
    assert clusters.shape == (num_classes,) and clusters.unique().tolist() == list(range(expected))
    assert torch.equal(clusters, _cluster_classes(features)), "the same features have the same clusters"


def test_clusters_do_not_touch_the_global_random_state():
    np.random.seed(3), torch.manual_seed(3)
    before = np.random.get_state()[1].copy(), torch.get_rng_state()
    _cluster_classes(unit(torch.Generator().manual_seed(1), 40, 12))
    assert np.array_equal(before[0], np.random.get_state()[1]) and torch.equal(before[1], torch.get_rng_state())


def test_each_part_is_computed_when_asked_for_and_once():
    case = Case()
    assert case.asked == []
    for _ in range(2):
        assert case.anchors.etf.shape == case.anchors.text.shape and len(case.anchors.clusters) == 7
    assert case.asked == ["template"]


def test_room_for_all_names_gives_the_trained_classes_their_rows_of_one_etf():
    draw = torch.Generator().manual_seed(3)
    everything = F.normalize(torch.randn(9, 12, generator=draw, dtype=torch.float64), dim=1)
    anchors = Anchors(lambda: everything[[5, 2]], None, encode_all=lambda: everything, places=(5, 2))
    cosines = anchors.etf_open @ anchors.etf_open.T
    assert torch.allclose(cosines, torch.tensor([[1, -1 / 8], [-1 / 8, 1]], dtype=torch.float64))
    left, _, right = np.linalg.svd((np.eye(9) - 1 / 9) @ everything.numpy(), full_matrices=False)  # nearest frame, by hand
    nearest = np.sqrt(9 / 8) * left[:, :8] @ right[:8]
    assert np.abs(anchors.etf_open.numpy() - nearest[[5, 2]]).max() < 1e-7
    with pytest.raises(ValueError, match="etf_open needs all class names.*all_classnames"):
        Anchors(lambda: everything, None).etf_open
