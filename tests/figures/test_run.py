"Pictures of one run: odd but possible input, and clear errors."

import numpy as np
import pandas as pd
import pytest
import torch

from npt.figures.run import (
    accuracy_by_shots,
    collapse_curves,
    cosine_matrices,
    feature_projection,
    image_sheet,
    reliability,
    training_curves,
    transfer_bars,
)
from npt.geometry.etf import simplex_etf
from npt.training.calibration import reliability_bins

LONG = [f"a very long class name with the number {i}" for i in range(1000)]


@pytest.mark.parametrize("shape", [(3, 3, 32, 32), (9, 3, 300, 200), (1, 3, 1, 1), (2, 3, 128, 7)])
def test_sheets_of_any_image_size(shape):
    fig = image_sheet(torch.rand(shape), LONG[: shape[0]])
    assert len(fig.layout.annotations) == shape[0] and len(fig.to_json()) < 500_000


@pytest.mark.parametrize("images, fault", [
    (torch.rand(2, 1, 8, 8), "shape"),
    (torch.rand(3, 3, 8, 8), "captions"),
    (torch.rand(2, 3, 8, 8) - 2, "normalisation"),
])  # fmt: skip
def test_sheet_names_what_is_wrong(images, fault):
    with pytest.raises(ValueError, match=fault):
        image_sheet(images, ["one", "two"])


def test_curves_of_one_epoch_and_of_epochs_that_were_not_measured():
    one = pd.DataFrame(dict(epoch=[1], loss=[0.5], accuracy=[50.0], term_ce=[0.5], train_nc1=[1.0], test_nc1=[2.0]))
    assert len(training_curves(one).data) == 3 and len(collapse_curves(one).data) == 2
    gaps = pd.DataFrame(dict(epoch=[1, 2, 3], train_nc1=[3.0, np.nan, 1.0]))
    assert list(collapse_curves(gaps).data[0].x) == [1, 3]
    with pytest.raises(ValueError, match="accuracy"):
        training_curves(one.drop(columns="accuracy"))
    with pytest.raises(ValueError, match="test_nc1"):
        collapse_curves(one[["epoch", "loss"]])


def test_cosines_of_a_thousand_classes_stay_small_and_their_mean_counts_all():
    features = torch.nn.functional.normalize(torch.randn(1000, 64) + 1, dim=1).half()
    fig = cosine_matrices(features, features, LONG)
    assert fig.data[0].z.shape == (200, 200) and len(fig.to_json()) < 1_000_000
    cosines = (features.float() @ features.float().T)[~torch.eye(1000, dtype=torch.bool)]
    assert f"{cosines.mean():.3f}" in fig.layout.annotations[0].text


def test_equal_cosines_have_equal_colours_whatever_the_range():
    "0 is white and a colour belongs to a value: the cropped scale agrees with the full one."
    fig = cosine_matrices(simplex_etf(3, 8), simplex_etf(3, 8), ["a", "b", "c"])
    axis = fig.layout.coloraxis
    zero = min(axis.colorscale, key=lambda shade: abs(axis.cmin + shade[0] * (axis.cmax - axis.cmin)))
    red, green, blue = (int(float(part)) for part in zero[1][4:-1].split(","))
    assert min(red, green, blue) > 235


def test_projection_needs_images_of_what_it_shows():
    etf, names = simplex_etf(4, 8), ["a", "b", "c", "d"]
    assert "all 4 classes" in feature_projection(etf, etf, torch.arange(4), names, etf).layout.title.text
    with pytest.raises(ValueError, match="'d'"):
        feature_projection(etf, etf[:3], torch.arange(3), names, etf)
    with pytest.raises(ValueError, match="show=9"):
        feature_projection(etf, etf, torch.arange(4), names, etf, show=9)


def test_accuracy_needs_one_number_a_class():
    assert len(accuracy_by_shots([50.0] * 1000, [1] * 1000, LONG).layout.xaxis.tickvals) < 110
    with pytest.raises(ValueError, match="lengths"):
        accuracy_by_shots([50.0, 60.0], [1], ["a", "b"])


def test_figures_of_odd_tables():
    one = reliability_bins(torch.tensor([[2.0, 1.0]]), torch.tensor([1]))
    assert len(reliability({"one": one}).data) == 4 and len(reliability({"a": one, "b": one, "c": one}).data) == 12
    row = pd.DataFrame(dict(kind=["source"], accuracy=[0.0], zero_shot=[100.0], difference=[-100.0]), index=["a/" + "long" * 20])
    assert len(transfer_bars(row).data) == 2
    for draw, nothing in (reliability, {}), (transfer_bars, row[:0]):
        with pytest.raises(ValueError, match="nothing to draw"):
            draw(nothing)
