"Curves over a setting, maps of weights and charts of terms from tables of runs; and the two grids that make such runs."

import math
from itertools import product

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT

from npt.study.comparison import _chance_rate, bootstrap_mean, comparisons, gains
from npt.figures.curves import effects_chart, setting_curves, weight_map
from npt.study.weights import _term_weights, runs_of, weight_table
from npt.study.grid import expand, read_grid
from npt.study.plan import make_plan
from npt.objectives.objective import build_objective
from npt.learners.recipes import recipe

GRIDS = ROOT / "workflow" / "grids"


def table(objectives, h, **axes) -> pd.DataFrame:
    "Runs over three seeds and the axes, whose H is what a function of a row says."
    names = ["seed", "objective", *axes]
    rows = [dict(zip(names, values)) for values in product((1, 2, 3), objectives, *axes.values())]
    common = dict(dataset="world/shapes", learner="coop", classes="base", measured_on="test", zero_shot_h=50.0)
    return pd.DataFrame([common | row | dict(minimised=row["objective"], h=h(row)) for row in rows])


def weighed(weights=(0.1, 1, 10), measured_on="val") -> pd.DataFrame:
    sums = {f"ce + {lc}*lc + {mi}*mi": 10 * lc + mi for lc in weights for mi in weights}
    return table(["ce", *sums], lambda row: sums.get(row["objective"], 0) + row["seed"]).assign(measured_on=measured_on)


def lines(figure) -> dict:
    "The means of a figure of curves by (name, axis); bands and levels are left out."
    return {(trace.name, trace.xaxis): trace for trace in figure.data if trace.mode == "lines+markers"}


def test_curve_holds_means_band_and_zero_shot():
    runs = table(["own", "npt"], lambda row: 10 * math.log2(row["shots"]) + row["seed"], shots=[16, 1, 4])
    figure = setting_curves(runs)
    own = lines(figure)["own", "x"]
    assert list(own.x) == [1, 4, 16] and np.allclose(own.y, [2, 22, 42]) and np.allclose(own.customdata, 1)
    band = next(trace for trace in figure.data if trace.name == "own" and trace.fill == "toself")
    assert np.allclose(band.y, [3, 23, 43, 41, 21, 1]) and list(band.x) == [1, 4, 16, 16, 4, 1]
    level = next(trace for trace in figure.data if trace.name == "zero-shot")
    assert list(level.y) == [50, 50] and list(level.x) == [1, 16]
    assert figure.layout.xaxis.type == "log" and list(figure.layout.xaxis.ticktext) == ["1", "4", "16"]


def test_curve_panels_and_one_seed():
    runs = table(["cpt"], lambda row: row["tau"], num_clusters=[1.0, 2.0], tau=[0.0625, 1.0])
    figure = setting_curves(runs[runs.seed == 1], "num_clusters", panels="tau")
    assert [head.text for head in figure.layout.annotations] == ["tau 1", "tau 0.0625"]
    assert list(lines(figure)["cpt", "x"].y) == [1, 1] and list(lines(figure)["cpt", "x2"].y) == [0.0625, 0.0625]
    assert np.isfinite([trace.y for trace in figure.data if trace.fill == "toself"]).all()


def test_curve_leaves_out_what_a_panel_lacks():
    runs = table(["own", "npt"], lambda row: 1.0, shots=[1, 2], learner=["coop", "maple"])
    runs = runs[(runs.learner == "coop") | (runs.objective == "own")]
    assert set(lines(setting_curves(runs))) == {("own", "x"), ("npt", "x"), ("own", "x2")}


def test_curve_refuses_mixed_runs():
    runs = table(["own"], lambda row: 1.0, shots=[1, 2], tau=[1.0, 0.25])
    with pytest.raises(ValueError, match="tau: 0.25, 1.0"):
        setting_curves(runs)


def test_runs_that_are_not_there_are_told_with_the_command():
    runs = table(["own"], lambda row: 1.0, shots=[1])
    assert len(runs_of(runs, "few_shot", classes="base", shots=1)) == 3
    for asked in dict(metric="accuracy", classes="all"), dict(metric="accuracy"), dict(no_such_setting=1):
        with pytest.raises(ValueError, match="--configfile workflow/grids/few_shot.yaml") as told:
            runs_of(runs, "few_shot", **asked)
        assert all(str(value) in str(told.value) for value in asked.values())
    with pytest.raises(ValueError, match="None of 0 runs"):
        runs_of(pd.DataFrame(), "few_shot")


def test_runs_without_the_metric_are_left_out():
    runs = table(["own"], lambda row: math.nan if row["seed"] == 2 else 1.0, shots=[1])
    assert list(runs_of(runs, "few_shot").seed) == [1, 3]


def test_weights_are_read_from_the_sum():
    weights = _term_weights(pd.Series(["ce", "ce + 0.3*lc + mi", "1e1*mi + ce"], index=[5, 7, 9]))
    assert list(weights.index) == [5, 7, 9]
    assert weights.loc[7].to_dict() == {"ce": 1, "lc": 0.3, "mi": 1} and weights.mi[9] == 10 and weights.lc[5] == 0
    with pytest.raises(ValueError, match="lcc"):
        _term_weights(pd.Series(["ce + lcc"]))


def test_weight_table_takes_only_the_two_terms():
    runs = weighed()
    more = table(["ce + lc + mi + etf", "ce + lc", "2*ce + lc + mi"], lambda row: 1e6).assign(measured_on="val")
    found = weight_table(pd.concat([runs, more, weighed(measured_on="test").assign(h=1e6)], ignore_index=True))
    assert list(found.index) == list(found.columns) == [0.1, 1, 10]
    assert np.allclose(found, [[10 * lc + mi + 2 for mi in (0.1, 1, 10)] for lc in (0.1, 1, 10)])
    assert found.index.name == "weight of lc" and found.columns.name == "weight of mi"


def test_weights_are_not_chosen_on_test_images():
    with pytest.raises(ValueError, match="measured_on='val'.*ablation.yaml"):
        weight_table(weighed(measured_on="test"))
    with pytest.raises(ValueError, match="etf"):
        weight_table(weighed(), terms=("lc", "etf"))
    with pytest.raises(ValueError, match=r"ce \+ lc \+ mi.*ablation.yaml"):
        weight_table(table(["ce + lc", "ce + mi"], lambda row: 1.0).assign(measured_on="val"))


def test_weight_map_marks_the_recipe_and_the_best():
    figure = weight_map(weight_table(weighed()), alone=2.0, recipe=(1, 0.1))
    heat, recipes, best = figure.data
    assert np.allclose((recipes.y[0], recipes.x[0]), (0, -1)) and np.allclose((best.y[0], best.x[0]), (1, 1))
    assert heat.zmax - 2 == 2 - heat.zmin == pytest.approx(110), "white is cross-entropy alone"
    assert list(figure.layout.xaxis.ticktext) == ["0.1", "1", "10"]
    with pytest.raises(ValueError, match="nothing to draw"):
        weight_map(pd.DataFrame(), 1.0, (1, 1))


def test_effects_are_filled_where_the_interval_is_off_zero():
    h = {"ce": (0, 0, 0), "ce + lc": (1, 2, 3), "ce + mi": (-1, 0, 2), "ce + etf": (-3, -2, -1)}
    runs = table(h, lambda row: 50 + h[row["objective"]][row["seed"] - 1], tau=[0.0625, 1.0])
    effects = gains(runs, baseline="ce", by=["tau"])
    labels = {"ce + etf": "anchored", "ce + lc": "lc", "ce + mi": "mi", "ce + kl": "not there"}
    figure = effects_chart(effects, labels)
    first, second = figure.data
    assert list(first.y) == ["anchored", "lc", "mi"] and np.allclose(first.x, [-2, 2, 1 / 3])
    assert np.allclose(first.error_x.array, [1, 1, 5 / 3]) and np.allclose(first.error_x.arrayminus, [1, 1, 4 / 3])
    assert [color == "white" for color in first.marker.color] == [False, False, True]
    assert first.marker.color[0] != first.marker.color[1], "better and worse have a colour each"
    assert list(figure.layout.yaxis.categoryarray) == ["mi", "lc", "anchored"], "the first is on top"
    assert figure.layout.annotations[0].text == "tau 1"
    with pytest.raises(ValueError, match=r"ce \+ kl"):
        effects_chart(effects, {"ce + kl": "not there"})
    assert comparisons(effects).startswith("6 comparisons: 2 intervals lie above zero, 2 below")


def test_chance_is_what_it_is_for_the_intervals_in_use():
    random = np.random.default_rng(5)
    for pairs in 3, 6:
        intervals = [bootstrap_mean(random.standard_normal(pairs))[1:] for _ in range(400)]
        off_zero = np.mean([low > 0 or high < 0 for low, high in intervals])
        assert abs(off_zero - _chance_rate(pairs)) < 4 * math.sqrt(0.25 * 0.75 / 400)
    assert abs(_chance_rate(3) - 0.25) < 0.03, "three differences have one sign in one case of four"


def settings_of(grid: str, name: str) -> list:
    "The settings of one experiment of a grid."
    whole = read_grid(GRIDS / f"{grid}.yaml")
    return [task.settings for task in expand(whole.model_copy(update=dict(experiments={name: whole.experiments[name]})))]


def test_few_shot_grid_is_what_it_claims():
    base, all_classes = settings_of("few_shot", "base_to_novel"), settings_of("few_shot", "all_classes")
    for settings, classes, learners in (base, "base", {"coop", "kgcoop", "maple"}), (all_classes, "all", {"coop"}):
        cells = {(run.learner, run.objective, run.shots, run.seed) for run in settings}
        assert cells == set(product(learners, ("own", "npt"), (1, 2, 4, 8, 16), (1, 2, 3))) and len(settings) == len(cells)
        assert {(run.classes, run.tau, run.measured_on) for run in settings} == {(classes, 1, "test")}
    assert len(make_plan(read_grid(GRIDS / "few_shot.yaml")).tasks) == len(base) + len(all_classes)


def test_each_term_is_tried_alone_and_at_the_weight_of_the_recipe():
    terms = settings_of("ablation", "terms")
    sums = {build_objective(run.objective) for run in terms}
    assert {(str(build_objective(run.objective)), run.tau, run.seed) for run in terms} == set(
        product(map(str, sums), (1, 0.0625), (1, 2, 3))), "every sum has a pair with every other"
    assert {(run.learner, run.measured_on) for run in terms} == {("coop", "test")}
    assert build_objective("ce") in sums
    whole = [recipe("coop", "world").objective_for(name) for name in ("npt", "npt_anchored", "cpt")]
    assert sums.issuperset(whole)
    for name, weight in {pair for one in whole for pair in one.weights} - {("ce", 1)}:
        assert build_objective(f"ce + {weight}*{name}") in sums, f"{name} is not tried alone"
    weights = dict(whole[0].weights)
    lc = f"ce + {weights['lc']}*lc"
    swapped = f"{lc}_centered + mi", f"{lc}_centered", f"{lc} + mi_dot", "ce + mi_dot", f"{lc} + mi + etf"
    assert sums.issuperset(map(build_objective, swapped))


def test_every_number_of_clusters_has_runs_of_its_own():
    clusters = settings_of("ablation", "clusters")
    assert {run.num_clusters for run in clusters} == {1, 2, 4, 8} and {run.objective for run in clusters} == {"cpt"}
    assert len({run.folder for run in clusters}) == len(clusters) == 4 * 2 * 3


def test_weights_grid_never_sees_a_test_image_or_a_seed_of_the_tests():
    weights, terms = settings_of("ablation", "weights"), settings_of("ablation", "terms")
    assert {run.measured_on for run in weights} == {"val"} and {run.tau for run in weights} == {0.0625}
    assert {run.seed for run in weights} == {101, 102, 103} and not {run.seed for run in terms} & {101, 102, 103}
    sums = {build_objective(run.objective) for run in weights} - {build_objective("ce")}
    axis = 0.1, 0.3, 1, 3
    assert sums == {build_objective(f"ce + {lc}*lc + {mi}*mi") for lc, mi in product(axis, axis)}
    assert len(weights) == 3 * (1 + 16)
    in_use = dict(recipe("coop", "world").objective_for("npt").weights)
    assert {in_use["lc"], in_use["mi"]} <= set(axis), "the recipe's weights can be marked on the map"


def test_ablation_is_under_two_hundred_runs_of_one_folder_each():
    plan = make_plan(read_grid(GRIDS / "ablation.yaml"))
    assert len({task.folder.path for task in plan.tasks}) == len(plan.tasks) < 200
