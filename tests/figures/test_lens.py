"Pictures of the collapse lens: a mark for each run, a line for each kind of run, an angle for each pair of halves."

import numpy as np
import pandas as pd
import pytest
from invented import METRICS, noise, on_the_world

from npt.figures.lens import _ANGLES, _angle_curves, _angle_table, _training_lens, scatter_grid


@pytest.mark.parametrize("learners", [3, 5, 14])
def test_every_learner_and_objective_has_its_mark(learners):
    runs = noise(learners=[f"learner {number}" for number in range(learners)])
    runs.index = 0 * runs.index  # as of tables put together
    fig = scatter_grid(runs, "novel")
    marks = {(trace.marker.color, trace.marker.symbol) for trace in fig.data if trace.meta}
    assert marks == {(trace.marker.color, trace.marker.symbol) for trace in fig.data if trace.text is not None}
    assert len(marks) == learners * 3
    names = [trace.name for trace in fig.data if trace.name]
    assert len(names) == learners + 3 + 2
    drawn = sum(len(trace.x) for trace in fig.data if trace.text is not None)
    assert drawn == len(runs) * len(METRICS)


def test_marks_of_several_units_are_within_them():
    one = noise()
    runs = on_the_world(one, clips=(None, "world-2"), splits=("half",), step=1000.0)
    runs["after_nc3"] = runs.after_nc3 + 50 * (runs.pretrained == "world-2")
    runs.loc[0, "after_nc1"] = np.inf
    for some, words, within in (runs, ", within units", True), (runs.assign(backbone="another"), " runs", False):
        fig = scatter_grid(some, "novel")
        drawn = [trace for trace in fig.data if trace.text is not None]
        means = [trace.x[0] for trace in fig.data if trace.meta and trace.xaxis == "x"]
        assert np.isfinite(means).all(), "what is infinite is left out of a mean"
        x, y = (np.concatenate([trace[axis] for trace in drawn if trace.xaxis == "x2"]) for axis in "xy")  # nc3
        assert fig.layout.title.text.endswith(f"{words}</sup>") and len(x) == len(runs)
        assert [np.ptp(y) < 300, np.ptp(x) < 10] == [within] * 2, "a thousand points between CLIPs are taken off"
        assert np.isclose(y.mean(), runs.novel.mean()) and np.isclose(x.mean(), runs.after_nc3.mean())
        assert sum(np.isfinite(trace.x).sum() for trace in drawn if trace.xaxis == "x") == len(runs) - 1
    assert {mark.split(", ")[1] for trace in drawn for mark in trace.text} == {"seed 1", "seed 2"}


def test_an_axis_is_logarithmic_over_decades_only():
    runs = noise().assign(after_nc1=np.inf, after_nc3=0.0)
    for high, kind in (30, "log"), (0.05, None):
        runs["after_nc4"] = np.linspace(1 - 0.01, 1 - high, len(runs))
        axes = scatter_grid(runs).layout
        assert [axes.xaxis.type, axes.xaxis2.type, axes.xaxis3.type] == [None, None, kind]


def test_a_line_along_training_is_a_mean_over_seeds():
    rows = [dict(epoch=epoch, learner="coop", objective=objective, tau=tau, seed=seed, test_nc1=seed * (1 + epoch))
            for epoch in (0, 5) for objective in ("own", "npt") for tau in (1.0, 0.25) for seed in (1, 2, 3)]
    fig = _training_lens(pd.DataFrame(rows), "coop")
    assert len(fig.data) == 4 and all(np.allclose(trace.y, [2, 12]) for trace in fig.data)
    assert len({(trace.line.color, trace.line.dash) for trace in fig.data}) == 4
    for histories in pd.DataFrame(rows), pd.DataFrame():
        with pytest.raises(ValueError, match="maple.*measure_every"):
            _training_lens(histories, "maple")


def with_angles(before: bool) -> pd.DataFrame:
    runs = noise()
    for number, name in enumerate(_ANGLES):
        runs[f"after_{name}"] = 80 + number + runs.seed
        if before:
            runs[f"before_{name}"] = 95.0
    return runs


@pytest.mark.parametrize("before", [True, False])
def test_angles_beside_those_before_training_and_of_the_etf(before):
    angles = _angle_table(with_angles(before))
    assert angles.loc["coop", "npt", 0.25].tolist() == [81.5, 82.5, 83.5]
    assert ("zero_shot" in angles.index.unique("learner")) == before and angles.index.is_unique
    fig = _angle_curves(angles, 21)
    assert len(fig.data) == 3 * 2 * len(_ANGLES) * (2 if before else 1)
    keys = [trace.name for trace in fig.data if trace.showlegend]
    assert keys == list(_ANGLES.values())
    assert all(shape.y0 == pytest.approx(np.degrees(np.arccos(-1 / 20))) for shape in fig.layout.shapes)


def test_a_run_of_the_learner_zero_shot_is_clip_before_training():
    runs = with_angles(True)
    assert _angle_table(pd.concat([runs, runs[runs.learner == "coop"].assign(learner="zero_shot")])).index.is_unique
