"Curves over a setting, maps of weights and charts of terms: what is drawn is what the runs say."

import math

import numpy as np
import pandas as pd
import pytest
from ruled import runs_of_rule, weighed

from npt.figures.curves import effects_chart, session_curves, setting_curves, weight_map
from npt.study.comparison import comparisons, gains
from npt.study.weights import weight_table


def lines(figure) -> dict:
    "The means of a figure of curves by (name, axis); bands and levels are left out."
    return {(trace.name, trace.xaxis): trace for trace in figure.data if trace.mode == "lines+markers"}


def test_curve_holds_means_band_and_zero_shot():
    runs = runs_of_rule(["own", "npt"], lambda row: 10 * math.log2(row["shots"]) + row["seed"], shots=[16, 1, 4])
    figure = setting_curves(runs)
    own = lines(figure)["own", "x"]
    assert list(own.x) == [1, 4, 16] and np.allclose(own.y, [2, 22, 42]) and np.allclose(own.customdata, 1)
    band = next(trace for trace in figure.data if trace.name == "own" and trace.fill == "toself")
    assert np.allclose(band.y, [3, 23, 43, 41, 21, 1]) and list(band.x) == [1, 4, 16, 16, 4, 1]
    level = next(trace for trace in figure.data if trace.name == "zero-shot")
    assert list(level.y) == [50, 50] and list(level.x) == [1, 16]
    assert figure.layout.xaxis.type == "log" and list(figure.layout.xaxis.ticktext) == ["1", "4", "16"]


def test_curve_is_over_units_and_each_counts_once_in_zero_shot():
    runs = runs_of_rule(["own", "npt"], lambda row: 1.0, shots=[1, 4])
    runs = pd.concat([runs.assign(backbone="world", pretrained=name, h=h, zero_shot_h=h - 10) for name, h in ((None, 60.0), ("world-2", 64.0))])
    figure = setting_curves(runs[runs.pretrained.isna() | (runs.objective == "own")])
    assert np.allclose(lines(figure)["own", "x"].y, 62) and np.allclose(lines(figure)["npt", "x"].y, 60)
    assert np.allclose(next(trace for trace in figure.data if trace.name == "zero-shot").y, 52), "not 51.33, the mean over runs"


def test_curve_panels_and_one_seed():
    runs = runs_of_rule(["cpt"], lambda row: row["tau"], num_clusters=[1.0, 2.0], tau=[0.0625, 1.0])
    figure = setting_curves(runs[runs.seed == 1], "num_clusters", panels="tau")
    assert [head.text for head in figure.layout.annotations] == ["tau 1", "tau 0.0625"]
    assert list(lines(figure)["cpt", "x"].y) == [1, 1] and list(lines(figure)["cpt", "x2"].y) == [0.0625, 0.0625]
    assert np.isfinite([trace.y for trace in figure.data if trace.fill == "toself"]).all()


def test_curve_leaves_out_what_a_panel_lacks():
    runs = runs_of_rule(["own", "npt"], lambda row: 1.0, shots=[1, 2], learner=["coop", "maple"])
    runs = runs[(runs.learner == "coop") | (runs.objective == "own")]
    assert set(lines(setting_curves(runs))) == {("own", "x"), ("npt", "x"), ("own", "x2")}


def test_curve_refuses_mixed_runs():
    runs = runs_of_rule(["own"], lambda row: 1.0, shots=[1, 2], tau=[1.0, 0.25])
    with pytest.raises(ValueError, match="tau: 0.25, 1.0"):
        setting_curves(runs)


def test_weight_map_marks_the_recipe_and_the_best():
    figure = weight_map(weight_table(weighed()), alone=2.0, recipe=(1, 0.1))
    heat, recipes, best = figure.data
    assert np.allclose((recipes.y[0], recipes.x[0]), (0, -1)) and np.allclose((best.y[0], best.x[0]), (1, 1))
    assert heat.zmax - 2 == 2 - heat.zmin == pytest.approx(110), "white is cross-entropy alone"
    assert list(figure.layout.xaxis.ticktext) == ["0.1", "1", "10"]
    with pytest.raises(ValueError, match="nothing to draw"):
        weight_map(pd.DataFrame(), 1.0, (1, 1))


def test_effects_are_filled_where_the_interval_is_off_zero():
    h = {"ce": (0, 0, 0), "ce + lc": (1.5, 2, 2.5), "ce + mi": (-1, 0, 2), "ce + etf": (-2.5, -2, -1.5)}
    runs = runs_of_rule(h, lambda row: 50 + h[row["objective"]][row["seed"] - 1], tau=[0.0625, 1.0])
    effects = gains(runs, baseline="ce", by=["tau"])
    labels = {"ce + etf": "anchored", "ce + lc": "lc", "ce + mi": "mi", "ce + kl": "not there"}
    figure = effects_chart(effects, labels)
    first, second = figure.data
    assert list(first.y) == ["anchored", "lc", "mi"] and np.allclose(first.x, [-2, 2, 1 / 3])
    far = 4.30265 / 3**0.5 * np.array([0.5, 0.5, 1.52753])  # t of three values
    assert np.allclose(first.error_x.array, far, atol=1e-3) and np.allclose(first.error_x.arrayminus, far, atol=1e-3)
    assert [color == "white" for color in first.marker.color] == [False, False, True]
    assert first.marker.color[0] != first.marker.color[1], "better and worse have a colour each"
    assert list(figure.layout.yaxis.categoryarray) == ["mi", "lc", "anchored"], "the first is on top"
    assert figure.layout.annotations[0].text == "tau 1"
    with pytest.raises(ValueError, match=r"ce \+ kl"):
        effects_chart(effects, {"ce + kl": "not there"})
    assert comparisons(effects).startswith("6 comparisons: 2 intervals lie above zero, 2 below")


def test_curve_over_sessions_has_the_means_of_each_and_zero_shot_falls_too():
    runs = runs_of_rule(["own", "npt"], lambda row: 10.0 * (row["objective"] == "npt") + row["seed"], learner=["coop", "maple"])
    runs = runs.assign(**{f"{name}session_{number}": runs[f"{name}h"] - 7 * number for name in ("", "zero_shot_") for number in range(11)})
    runs.loc[runs.learner == "maple", "session_10"] = np.nan
    figure = session_curves(runs)
    own, npt = lines(figure)["own", "x"], lines(figure)["npt", "x"]
    assert list(own.x) == list(range(11)) and np.allclose(np.diff(own.y), -7) and np.allclose(np.subtract(npt.y, own.y), 10)
    assert np.allclose(own.y[0], 2) and np.allclose(own.customdata, 1)
    falls = {trace.xaxis: trace for trace in figure.data if trace.name == "zero-shot"}
    assert np.allclose(falls["x"].y, 50 - 7 * np.arange(11)) and len(falls["x2"].y) == len(lines(figure)["own", "x2"].y) == 10
    with pytest.raises(ValueError, match="no run has sessions: make some with classes='sessions'"):
        session_curves(runs_of_rule(["own"], lambda row: 1.0))
    with pytest.raises(ValueError, match="shots: 1, 2"):
        session_curves(pd.concat([runs.assign(shots=shots) for shots in (1, 2)]))
