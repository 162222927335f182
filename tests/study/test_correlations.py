"Correlations of collapse and accuracy: the estimates, the intervals' truthfulness, and what has no correlation."

import warnings

import numpy as np
import pandas as pd
import pytest
from invented import METRICS, noise, on_the_world, table
from scipy import stats

from npt.figures.lens import correlation_chart
from npt.study import correlations as room
from npt.study.correlations import (
    _POOLED,
    _cell_weights,
    _correlation,
    _correlation_of,
    _correlations_of_pairs,
    _correlations_said,
    _deviations_under,
    _weighted_ranks,
    correlations,
    distances,
)


@pytest.mark.parametrize("number", [3, 20, 101])
@pytest.mark.parametrize("ties", [False, True])
def test_correlations_are_those_of_scipy(number, ties):
    draw = np.random.default_rng(number)
    x, y = draw.normal(size=(2, number))
    if ties:
        x, y = (np.append([0, 1], draw.integers(0, 3, number - 2)) for _ in range(2))
    told = _correlation(x, y, np.arange(number))
    assert told["pearson"] == pytest.approx(stats.pearsonr(x, y).statistic)
    assert told["spearman"] == pytest.approx(stats.spearmanr(x, y).statistic)
    for name in "pearson", "spearman":
        assert -1 <= told[f"{name}_low"] <= told[f"{name}_high"] <= 1


def test_within_groups_is_scipy_on_what_is_left():
    draw = np.random.default_rng(1)
    groups = np.repeat(["a", "b", "c"], 8)
    x, y = draw.normal(size=(2, 24)) + 9 * draw.normal(size=(2, 3)).repeat(8, axis=1)
    told = _correlation(x, y, np.arange(24), groups=groups)
    rest = [pd.Series(values) - pd.Series(values).groupby(groups).transform("mean") for values in (x, y)]
    assert told["pearson"] == pytest.approx(stats.pearsonr(*rest).statistic)
    assert told["spearman"] == pytest.approx(stats.spearmanr(*rest).statistic)


def test_a_weight_is_a_number_of_copies():
    draw = np.random.default_rng(2)
    x, y = draw.integers(0, 4, 12).astype(float), draw.normal(size=12)
    weights = _cell_weights(np.repeat(np.arange(4), 3), seed=3)
    ranks = [_weighted_ranks(values, weights) for values in (x, y)]
    raw, ranked = (_correlation_of(*(_deviations_under(values, weights) for values in pair)) for pair in ((x, y), ranks))
    for place in range(25):
        copies = [np.repeat(values, weights[place].astype(int)) for values in (x, y)]
        for values, rank in zip(copies, ranks):
            ours = np.repeat(rank[place], weights[place].astype(int))
            assert np.ptp(ours - stats.rankdata(values)) == 0, "mean ranks, up to a constant"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", stats.ConstantInputWarning)
            assert raw[place] == pytest.approx(stats.pearsonr(*copies).statistic, nan_ok=True)
            assert ranked[place] == pytest.approx(stats.spearmanr(*copies).statistic, nan_ok=True)


@pytest.mark.parametrize("groups", [None, np.repeat([0, 1, 2], 8)])
def test_pairs_of_a_table_are_those_of_each_alone(groups, fewer_resamples):
    "What is remembered of a variable is that of the same runs: two leave out some, in an order in which much is forgotten."
    variables = dict(zip("abcdef", np.random.default_rng(7).normal(size=(6, 24))))
    variables["b"][3], variables["d"][[5, 9]] = np.inf, np.nan
    cells, pairs = np.repeat(np.arange(8), 3), [(x, y) for x in "abc" for y in "def"] + [("a", "d"), ("f", "b"), ("b", "d")]
    told = _correlations_of_pairs(variables, pairs, cells, 1, groups)
    assert told == [_correlation(variables[x], variables[y], cells, 1, groups) for x, y in pairs]
    assert {row["runs"] for row in told} == {24, 23, 22, 21} and len({row["spearman"] for row in told}) == len(told) - 3, "three pairs are there twice"


def test_cells_are_drawn_whole_and_as_many_as_there_are():
    cells = np.array([2, 0, 1, 0, 2, 2])
    weights = _cell_weights(cells, seed=0)
    assert all((weights[:, cells == cell] == weights[:, [np.argmax(cells == cell)]]).all() for cell in range(3))
    one_of_each = weights[:, [np.argmax(cells == cell) for cell in range(3)]]
    assert (one_of_each.sum(1) == 3).all() and one_of_each.mean() == pytest.approx(1) and one_of_each.max() == 3


def coverage(truth: float, sample) -> dict[str, float]:
    "How many of 200 intervals hold the truth, for each correlation."
    draw, held = np.random.default_rng(4), dict(pearson=0, spearman=0)
    for trial in range(200):
        x, y, cells, groups = sample(draw)
        told = _correlation(x, y, cells, trial, groups)
        for name in held:
            held[name] += told[f"{name}_low"] <= truth <= told[f"{name}_high"]
    return {name: number / 200 for name, number in held.items()}


@pytest.fixture
def fewer_resamples(monkeypatch):
    monkeypatch.setattr(room, "_RESAMPLES", 400)


def test_intervals_hold_a_known_correlation(fewer_resamples):
    def sample(draw):
        both = draw.multivariate_normal([0, 0], [[1, 0.6], [0.6, 1]], 60)
        return *both.T, np.arange(60), None

    assert 0.88 < coverage(0.6, sample)["pearson"] < 0.99


@pytest.mark.parametrize("taus", [1, 3])
def test_intervals_hold_no_correlation_in_the_design_of_the_grid(taus, fewer_resamples):
    "Five learners, four objectives whose effect lasts over the ratios, three seeds; learners differ widely in both variables."
    learner, objective, tau = (axis.ravel() for axis in np.indices((5, 4, taus, 3))[:3])
    method = learner * 4 + objective

    def sample(draw, cells=method, groups=learner):
        effects = 3 * draw.normal(size=(2, 5))[:, learner] + draw.normal(size=(2, 20))[:, method]
        effects += 0.4 * draw.normal(size=(2, 20 * taus))[:, method * taus + tau]
        return *(effects + 0.3 * draw.normal(size=effects.shape)), cells, groups

    assert min(coverage(0, sample).values()) > 0.9, "as far from 0.95 as 200 trials may be, or on the safe side of it"
    assert max(coverage(0, lambda draw: sample(draw, groups=None)).values()) < 0.8, "over all runs learners pass for a relation"
    if taus == 3:
        cells = method * taus + tau
        assert max(coverage(0, lambda draw: sample(draw, cells)).values()) < 0.85, "ratios are no witnesses of their own"


def test_intervals_hold_no_correlation_with_many_units(fewer_resamples):
    "Five learners, four objectives, six units that differ widely, and of which each suits some learners more than others."
    learner, objective, unit = (axis.ravel() for axis in np.indices((5, 4, 6)))
    method, suits = learner * 4 + objective, learner * 6 + unit

    def sample(draw, groups=suits):
        effects = draw.normal(size=(2, 20))[:, method] + 3 * draw.normal(size=(2, 30))[:, suits] + 6 * draw.normal(size=(2, 6))[:, unit]
        return *(effects + 0.3 * draw.normal(size=effects.shape)), method, groups

    assert min(coverage(0, sample).values()) > 0.9, "as far from 0.95 as 200 trials may be, or on the safe side of it"
    assert max(coverage(0, lambda draw: sample(draw, groups=learner)).values()) < 0.7, "within learners units pass for a relation"


def test_a_difference_of_units_does_not_pass_for_a_correlation():
    one = on_the_world(pd.concat([simpson(), simpson(0.25)]), clips=(None,), splits=("half",))
    several = on_the_world(pd.concat([simpson(), simpson(0.25)]))
    several["after_nc3"] += 5 * several.groupby(["pretrained", "class_split"], dropna=False, sort=False).ngroup()  # far, and better
    keys, numbers = ["pool", "kind", "metric"], ["pearson", "spearman"]
    told, alone = (correlations(runs, targets=["novel"]).set_index(keys)[numbers] for runs in (several, one))
    assert np.allclose(told, alone), "each unit has the same runs but for a constant"
    ignored = correlations(several.assign(backbone="another"), targets=["novel"]).set_index(keys)[numbers]
    within = ignored.index.get_level_values("kind") != "all"
    assert (told[within] < -0.7).all(axis=None) and (ignored > 0.7).all(axis=None)


def test_units_may_have_other_runs_and_runs_without_a_number():
    several = on_the_world(simpson(), clips=(None, "world-2"), splits=("half",), step=100.0)
    fewer = several[several.pretrained.isna() | several.objective.isin(["w", "x"])]
    infinite = several.assign(after_nc3=several.after_nc3.where(several.index != 0, np.inf))
    for runs, number in (fewer, 36), (infinite, 47):
        told = correlations(runs, targets=["novel"]).set_index("kind")
        assert told.pearson["within learner"] < -0.9 and told.pearson["all"] > 0.7 and (told.runs == number).all()


def test_a_learner_whose_images_stay_says_nothing_though_units_differ():
    runs = on_the_world(noise(), splits=("half",))
    first = runs.pretrained.map({"world-2": 1.7, "world-3": 2.9}).fillna(1.0)
    frozen = correlations(runs.assign(after_nc1=runs.after_nc1.where(runs.learner != "coop", first))).set_index(["metric", "kind"])
    assert (frozen.learners["nc1"] == 2).all() and (frozen.learners["nc4"] == 3).all()
    alone = correlations(runs.assign(after_nc1=first)).set_index(["metric", "kind"]).loc["nc1"]
    assert (alone.learners == 0).all() and alone.spearman.isna().all(), "what only tells units apart has no correlation"


def test_a_table_needs_no_seed_where_it_has_no_units():
    runs = noise()
    pd.testing.assert_frame_equal(correlations(runs.drop(columns="seed")), correlations(runs))


def test_learners_that_say_something_are_counted():
    runs = noise()
    runs.loc[runs.learner == "coop", "after_nc1"] = 41.20186631197685
    runs.loc[runs.learner == "maple", "after_nc3"] = np.inf
    told = correlations(runs).groupby("metric").learners.unique()
    assert {metric: list(numbers) for metric, numbers in told.items()} == dict(nc1=[2], nc3=[2], nc4=[3])


def test_a_table_resamples_learners_with_objectives():
    told = correlations(noise())
    assert (told.cells == 9).all()
    assert set(told.runs[told.pool == _POOLED]) == {36} and set(told.runs[told.pool != _POOLED]) == {18}
    assert set(told.part) == {"base"}, "of what was measured"
    assert len(told) == len(METRICS) * 2 * (2 * 2 + 3)


def test_the_intervals_are_the_same_again_and_in_any_order_of_targets():
    runs = noise()
    first, again = correlations(runs), correlations(runs)
    pd.testing.assert_frame_equal(first, again)
    keys = ["target", "metric", "pool", "kind"]
    turned = correlations(runs, targets=["h", "novel"]).set_index(keys).loc[pd.MultiIndex.from_frame(first[keys])]
    pd.testing.assert_frame_equal(turned.reset_index()[first.columns], first)


def simpson(tau: float = 1.0) -> pd.DataFrame:
    "Learners further from collapse are better, and the runs of each learner that are further from it are worse."
    rows = [dict(learner=learner, objective=objective, tau=tau, seed=seed, after_nc3=level + step + seed / 100,
                 novel=50 + 5 * level - 3 * step + seed / 100, h=0.0)
            for learner, level in (("a", 0), ("b", 10), ("c", 20)) for step, objective in enumerate("wxyz") for seed in (1, 2)]
    return pd.DataFrame(rows)


def test_a_difference_of_learners_does_not_pass_for_a_correlation():
    told = correlations(pd.concat([simpson(), simpson(0.25).assign(novel=lambda runs: runs.novel - 20)]), targets=["novel"])
    told = told.set_index(["pool", "kind"])
    for of in "pearson", "spearman":
        assert told[f"{of}_low"]["τ = 1", "all"] > 0.3 and told[of]["τ = 1", "all"] > 0.75
        assert told[f"{of}_high"]["τ = 1", "within learner"] < -0.7
        assert told[of][_POOLED, "within learner and τ"] < -0.9, "the ratio changes accuracy for all runs"
        assert told[of][_POOLED, "within learner"] > told[of][_POOLED, "within learner and τ"]


@pytest.mark.parametrize("constant", [0.0, 0.1, 1e9, 0.050472376431296824])
def test_what_is_constant_has_no_correlation(constant):
    runs = noise()
    by_learner = runs.learner.map({"coop": constant, "maple": constant + 0.7, "kgcoop": constant + 1.3})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        told = correlations(runs.assign(after_nc1=constant, after_nc3=by_learner)).set_index(["metric", "kind"])
    numbers = [f"{name}{end}" for name in ("pearson", "spearman") for end in ("", "_low", "_high")]
    assert told.loc["nc1", numbers].isna().all(axis=None)
    assert told.loc["nc3"].loc["all", numbers].notna().all(axis=None)
    assert told.loc["nc3"].loc["within learner", numbers].isna().all(axis=None), "rounding is no difference"
    assert told.loc["nc4", numbers].notna().all(axis=None)
    correlation_chart(told.reset_index())


def test_the_unit_does_not_matter():
    draw = np.random.default_rng(6)
    x, y = draw.normal(size=(2, 30))
    told, groups = _correlation(x, y, np.arange(30)), np.repeat([0, 1, 2], 10)
    assert _correlation(1e-9 * x, 1e9 * y, np.arange(30)) == pytest.approx(told)
    assert _correlation(1e-9 * x, 5 + y, np.arange(30), groups=groups) == pytest.approx(_correlation(x, y, np.arange(30), groups=groups))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_run_without_a_number_is_left_out_of_both(bad):
    runs = noise()
    runs.loc[0, ["after_nc1", "novel"]] = bad, 1e6
    runs.loc[5, ["after_nc1", "novel"]] = 1e6, bad
    rest = runs.drop([0, 5])
    keys = ["metric", "target", "pool", "kind"]
    told, without = (correlations(some).set_index(keys).xs(("nc1", "novel"), level=[0, 1]) for some in (runs, rest))
    pd.testing.assert_frame_equal(told, without)
    nothing = correlations(runs.assign(novel=bad, h=bad))
    assert nothing.spearman.isna().all() and (nothing.runs == 0).all()
    assert _correlations_said(nothing).startswith("0 correlations")


def test_only_correlations_that_there_are_are_counted():
    told = correlations(noise().assign(after_nc1=np.inf))
    assert _correlations_said(told).startswith(f"{len(told) * 2 // 3} correlations: ")
    said = _correlations_said(correlations(simpson(), targets=["novel"]))
    assert "2 correlations: 1 intervals lie below zero, as was published, 1 above it" in said and "over all runs more" in said


@pytest.mark.parametrize("change, said", [
    (lambda runs: runs[(runs.learner == "coop") & (runs.objective == "own")], "2 kinds .*at least 3"),
    (lambda runs: runs.drop(columns="novel"), "no column.*'novel'"),
    (lambda runs: runs.drop(columns="tau"), "no column.*'tau'"),
    (lambda runs: runs.drop(columns=[f"after_{name}" for name in METRICS]), "after_nc1.*not measured"),
    (lambda runs: runs.assign(dataset=np.where(runs.seed == 1, "dtd", "eurosat")), "dtd.*eurosat.*choose one"),
])  # fmt: skip
def test_what_cannot_be_correlated_is_said(change, said):
    with pytest.raises(ValueError, match=said):
        correlations(change(noise()))


def test_distances_are_nought_at_collapse():
    perfect = distances(pd.DataFrame(dict(after_nc1=[0.0], after_nc3=[0.0], after_nc4=[1.0], after_novel_nc4=[0.25])))
    assert (perfect == 0).all(axis=None)
    assert distances(pd.DataFrame(dict(after_novel_nc4=[0.25])), part="novel").nc4.item() == 0.75


def test_infinite_and_constant_metrics_have_no_correlation():
    runs = table(learners=["a", "b"], taus=[1.0, 0.5]).assign(after_nc1=np.inf, after_cdnv=0.3)
    told = correlations(runs, targets=["novel"], parts=["base"]).set_index("metric")
    assert told.spearman[["nc1", "cdnv"]].isna().all() and told.spearman["nc3"].notna().all()
    assert np.allclose(distances(runs).nc4, 1 - runs.after_nc4)
    with pytest.raises(ValueError, match="1 kinds"):
        correlations(runs[(runs.learner == "a") & (runs.objective == "own") & (runs.tau == 1)])


def test_resampling_cells_is_less_sure_than_resampling_runs():
    draw = np.random.default_rng(5)
    x, y = np.repeat(draw.normal(size=(2, 15)), 4, axis=1)
    width = [row["spearman_high"] - row["spearman_low"] for row in
             (_correlation(x, y, np.repeat(np.arange(15), 4)), _correlation(x, y, np.arange(60)))]
    assert width[0] > 1.5 * width[1]
