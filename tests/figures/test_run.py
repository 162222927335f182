"Pictures of one run: odd but possible input, and clear errors."

import numpy as np
import pandas as pd
import pytest
import torch

from npt.figures.run import (
    accuracy_by_shots,
    image_sheet,
    reliability,
    results_table,
    training_curves,
    transfer_bars,
)
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
    one = pd.DataFrame(dict(epoch=[1], loss=[0.5], accuracy=[50.0], term_ce=[0.5]))
    fig = training_curves({"own loss": one, "NPT": one})
    assert [trace.name for trace in fig.data] == ["total", "ce", "own loss", "NPT"]
    gaps = pd.DataFrame(dict(epoch=[1, 2, 3], loss=[3.0, np.nan, 1.0], accuracy=[50.0, 60.0, 70.0]))
    assert list(training_curves({"NPT": gaps}).data[0].x) == [1, 3]
    with pytest.raises(ValueError, match="history of NPT has no column .'accuracy'"):
        training_curves({"own loss": one, "NPT": one.drop(columns="accuracy")})


def test_a_caption_of_a_sheet_keeps_its_lines_and_breaks_long_ones():
    text = image_sheet(torch.rand(1, 3, 8, 8), ["true: a cat\nsaid: a very long name of a dog"]).layout.annotations[0].text
    assert text.split("<br>") == ["true: a cat", "said: a very", "long name of a", "dog"]


def test_accuracy_needs_one_number_a_class():
    assert len(accuracy_by_shots({"NPT": [50.0] * 1000}, [1] * 1000, LONG).layout.xaxis.tickvals) < 110
    with pytest.raises(ValueError, match="lengths"):
        accuracy_by_shots({"zero-shot": [50.0, 60.0], "NPT": [50.0]}, [1, 1], ["a", "b"])


def test_a_class_without_test_images_has_no_dot_and_does_not_count():
    fig = accuracy_by_shots({"zero-shot": [40.0, np.nan], "own loss": [60.0, np.nan], "NPT": [50.0, np.nan]}, [2, 1], ["a", "b"])
    assert [trace.name for trace in fig.data[1:4]] == ["zero-shot (mean 40.0 %)", "own loss (mean 60.0 %)", "NPT (mean 50.0 %)"]
    assert list(fig.data[0].y[:2]) == [40.0, 60.0] and np.isnan(fig.data[0].y[3])


def test_a_name_keeps_its_colour_whatever_stands_beside_it():
    three = accuracy_by_shots({"zero-shot": [1.0], "own loss": [2.0], "NPT": [3.0]}, [1], ["a"])
    two = accuracy_by_shots({"zero-shot": [1.0], "NPT": [3.0]}, [1], ["a"])
    color = {trace.name: trace.marker.color for trace in three.data[1:4]}
    assert len(set(color.values())) == 3 and color == color | {trace.name: trace.marker.color for trace in two.data[1:3]}


@pytest.mark.parametrize("names, differences", [
    (["zero-shot"], []),
    (["zero-shot", "NPT"], ["NPT − zero-shot"]),
    (["zero-shot", "own loss", "NPT"], ["NPT − zero-shot", "NPT − own loss"]),
])  # fmt: skip
def test_results_have_a_row_a_name_and_differences(names, differences):
    cells = results_table({name: dict(base=50.0 + i, novel=40.0, h=45.0) for i, name in enumerate(names)}).data[0].cells.values
    assert list(cells[0]) == names + differences
    assert list(cells[1][len(names):]) == [f"+{len(names) - 1}.0", "+1.0"][: len(differences)]


@pytest.mark.parametrize("nothing", [None, np.nan])
def test_results_that_are_not_a_number_are_a_dash(nothing):
    fig = results_table({"zero-shot": dict(base=50.0, novel=40.0, h=44.4), "NPT": dict(base=60.0, novel=nothing, h=nothing)})
    assert list(fig.data[0].cells.values[2]) == ["40.0", "–", "–"]
    with pytest.raises(KeyError, match="novel"):
        results_table({"NPT": dict(base=60.0, h=50.0)})


@pytest.mark.parametrize("draw", [
    training_curves,
    results_table,
    lambda named: accuracy_by_shots(named, [1], ["a"]),
])  # fmt: skip
def test_no_name_and_five_names_are_refused(draw):
    for named in {}, dict.fromkeys("abcde", [1.0]):
        with pytest.raises(ValueError, match="1 to 4 names"):
            draw(named)


def test_figures_of_odd_tables():
    one = reliability_bins(torch.tensor([[2.0, 1.0]]), torch.tensor([1]))
    assert len(reliability({"one": one}).data) == 4 and len(reliability({"a": one, "b": one, "c": one}).data) == 12
    assert reliability(dict.fromkeys("abcd", one)).layout.width <= 780
    row = pd.DataFrame(dict(kind=["source"], accuracy=[0.0], zero_shot=[100.0], difference=[-100.0]), index=["a/" + "long" * 20])
    assert len(transfer_bars(row).data) == 2
    for draw, nothing in (reliability, {}), (transfer_bars, row[:0]):
        with pytest.raises(ValueError, match="nothing to draw"):
            draw(nothing)
