"The same thing looks the same in every figure: ticks that do not overlap, axes over decades, names that stand in a legend once."

import json

import numpy as np
import plotly.graph_objects as go
import plotly.io as pio
import pytest
import torch

from npt.figures.geometry import cosine_matrices, feature_projection
from npt.figures.mistakes import confusion_matrix, wrongest_images
from npt.figures.run import accuracy_by_shots, image_sheet
from npt.figures.style import (
    _OBJECTIVE_COLORS,
    COLORS,
    PLOTLY_TEMPLATE,
    TERM_COLORS,
    _class_axis,
    _name_once,
    _place,
    _rows_for,
    _signed,
    _value_axis,
)


@pytest.mark.parametrize("classes", [1, 10, 47, 1000])
def test_class_names_do_not_overlap(classes):
    axis = _class_axis([f"class {number}" for number in range(classes)], 400)
    apart = 400 / classes * (np.diff(axis["tickvals"]).min() if classes > 1 else 1)
    assert apart >= 8 and 7 <= axis["tickfont_size"] <= 11
    assert axis["ticktext"] == [f"class {number}" for number in axis["tickvals"]]


@pytest.mark.parametrize("values, kind", [([1, 10], "linear"), ([1, 11], "log"), ([0, 1, 1000], "linear"), ([-1, 1000], "linear"),
                                          ([np.nan, 1, 1000, np.inf], "log"), ([], "linear"), ([np.nan], "linear")], ids=str)
def test_an_axis_is_logarithmic_over_decades_only(values, kind):
    assert _value_axis(np.array(values, dtype=float))["type"] == kind


def test_a_name_stands_in_the_legend_once_and_what_is_to_stay_out_does():
    fig = go.Figure([go.Bar(name="a"), go.Bar(name="a"), go.Bar(name="b"), go.Bar(name="c", showlegend=False)])
    _name_once(fig)
    assert [trace.showlegend for trace in fig.data] == [True, False, True, False]


def test_panels_stand_in_rows_of_four():
    assert [_rows_for(panels) for panels in (1, 4, 5, 9)] == [1, 1, 2, 3]
    assert [_place(number) for number in (0, 3, 4)] == [dict(row=1, col=1), dict(row=1, col=4), dict(row=2, col=1)]


def test_a_minus_is_a_minus():
    assert _signed(-1.25, "+.1f") == "−1.2" and _signed(1.25, "+.1f") == "+1.2"


def test_what_is_told_apart_by_colour_has_colours_of_its_own():
    for colours in COLORS.values(), TERM_COLORS, _OBJECTIVE_COLORS.values():
        assert len(set(colours)) == len(colours)
    assert all(part in pio.templates for part in PLOTLY_TEMPLATE.split("+"))


def test_class_names_are_only_ever_text():
    names = ["<b>bold</b>", "<a href='http://elsewhere'>here</a>", "salt & pepper", "%{x}"]
    vectors, labels, logits = torch.eye(4), torch.arange(4), torch.eye(4).roll(1, 0)
    figures = [accuracy_by_shots({"NPT": [50.0] * 4}, [1] * 4, names), image_sheet(torch.zeros(4, 3, 8, 8), names),
               wrongest_images(torch.zeros(4, 3, 8, 8), logits, labels, names), confusion_matrix({"NPT": logits}, labels, names),
               cosine_matrices({"NPT": vectors}, names), feature_projection({"NPT": (vectors, vectors)}, labels, names, show=4)]
    for figure in figures:
        said = json.dumps(figure.to_dict(), default=lambda array: array.tolist())
        assert "<b>bold" not in said and "<a href" not in said and "&lt;b&gt;" in said and "salt &amp;" in said, said[-2000:]
        assert "%{x}<extra>" not in said or figure.data[0].type == "heatmap"
