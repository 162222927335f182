"The geometry of classes in pictures: any number of names and classes, values that are not finite, and clear errors."

import numpy as np
import pytest
import torch

from npt.figures.geometry import collapse_dots, cosine_matrices, feature_projection
from npt.geometry.collapse import COLLAPSE_METRICS
from npt.geometry.etf import simplex_etf

LONG = [f"a very long class name with the number {i}" for i in range(1000)]
NAMES = ["zero-shot", "own loss", "NPT", "NPT anchored"]


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_a_figure_of_any_number_of_names_fits_the_page(count):
    names, etf, labels = NAMES[:count], simplex_etf(40, 64), torch.arange(40)
    collapse = {name: {part: dict.fromkeys(COLLAPSE_METRICS, 0.5) for part in ("base", "novel")} for name in names}
    for fig in (collapse_dots(collapse), cosine_matrices(dict.fromkeys(names, etf), LONG[:40]),
                feature_projection(dict.fromkeys(names, (etf, etf)), labels, LONG[:40])):
        assert fig.layout.width <= 780 and 300 < fig.layout.height <= 720
    assert [list(trace.x) for trace in collapse_dots(collapse).data] == [names] * 16


def test_a_metric_that_nobody_has_has_no_panel_and_one_that_is_not_finite_no_dot():
    collapse = {"zero-shot": {"base": dict(nc1=np.inf, nc3=0.5, nc4=np.nan)}, "NPT": {"base": dict(nc1=0.5, nc3=None, angle=8)}}
    fig = collapse_dots(collapse)
    assert [tuple(trace.text) for trace in fig.data] == [("", "0.5"), ("0.5", "")]
    with pytest.raises(ValueError, match="None of zero-shot has a metric"):
        collapse_dots({"zero-shot": {"base": dict(nc4=np.nan)}})
    with pytest.raises(ValueError, match="1 to 4 names"):
        collapse_dots({})


def test_a_name_without_novel_classes_stands_beside_one_that_has_them():
    fig = collapse_dots({"zero-shot": {"base": dict(nc1=1.0), "novel": dict(nc1=2.0)}, "NPT": {"base": dict(nc1=0.5)}})
    assert [(trace.name, tuple(trace.text)) for trace in fig.data] == [("base classes", ("1", "0.5")), ("novel classes", ("2", ""))]


def test_the_axis_of_a_metric_that_hardly_moves_begins_at_its_ideal():
    axis = collapse_dots({name: {"base": dict(nc3=value)} for name, value in dict(a=0.81, b=0.80).items()}).layout.yaxis
    assert axis.range[0] <= 0 < 0.81 < axis.range[1] and axis.type == "linear"


def test_cosines_of_a_thousand_classes_stay_small_and_their_mean_counts_all():
    features = torch.nn.functional.normalize(torch.randn(1000, 64) + 1, dim=1).half()
    fig = cosine_matrices({"zero-shot": features, "NPT": features}, LONG)
    assert fig.data[0].z.shape == (200, 200) and len(fig.to_json()) < 1_000_000
    cosines = (features.float() @ features.float().T)[~torch.eye(1000, dtype=torch.bool)]
    assert f"{cosines.mean():.3f}" in fig.layout.annotations[0].text


def test_equal_cosines_have_equal_colours_whatever_the_range():
    "0 is white and a colour belongs to a value: the cropped scale agrees with the full one."
    fig = cosine_matrices({"NPT": simplex_etf(3, 8)}, ["a", "b", "c"])
    axis = fig.layout.coloraxis
    zero = min(axis.colorscale, key=lambda shade: abs(axis.cmin + shade[0] * (axis.cmax - axis.cmin)))
    red, green, blue = (int(float(part)) for part in zero[1][4:-1].split(","))
    assert min(red, green, blue) > 235


@pytest.mark.parametrize("features", [{"NPT": torch.eye(3)}, {"zero-shot": torch.eye(2), "NPT": torch.eye(3)}])
def test_features_of_other_classes_are_refused(features):
    with pytest.raises(ValueError, match="do not go with 2 class names"):
        cosine_matrices(features, ["a", "b"])


def test_projection_needs_images_of_what_it_shows():
    etf, names = simplex_etf(4, 8), ["a", "b", "c", "d"]
    assert "all 4 classes" in feature_projection({"NPT": (etf, etf)}, torch.arange(4), names).layout.title.text
    with pytest.raises(ValueError, match="'d'"):
        feature_projection({"NPT": (etf, etf[:3])}, torch.arange(3), names)
    with pytest.raises(ValueError, match="show=9"):
        feature_projection({"NPT": (etf, etf)}, torch.arange(4), names, show=9)


def test_planes_are_turned_so_that_a_class_is_found_at_the_same_place():
    etf = simplex_etf(3, 8)
    turned = etf @ torch.linalg.qr(torch.randn(8, 8))[0]
    fig = feature_projection({"zero-shot": (etf, etf), "NPT": (turned, turned)}, torch.arange(3), ["a", "b", "c"])
    stars = [(trace.x[0], trace.y[0]) for trace in fig.data if trace.marker.symbol == "star" and trace.x[0] is not None]
    assert np.allclose(stars[:3], stars[3:6], atol=1e-4)


def test_two_classes_are_enough():
    two = torch.tensor([[1.0, 0, 0.5], [0, 1, 0.5]])
    assert "mean cosine 0.2" in cosine_matrices({"NPT": two}, ["a", "b"]).layout.annotations[0].text
    assert len(feature_projection({"NPT": (two, two)}, torch.arange(2), ["a", "b"]).data) == 2 * 4 + 3
