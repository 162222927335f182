"Tables of runs: what may be averaged, differences and their intervals, correlations, and results as files."

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from scipy import stats

from npt.study.comparison import (average_datasets, bootstrap_mean, cells, change_table, gains, gains_over_learners, kinds,
                                  paired)
from npt.study.published import published, published_cells
from npt.study.tables import _MISSING, main_table, markdown_table
from npt.training.evaluation import harmonic_mean
from npt._files import write_text
from npt.study.correlations import _correlation, correlations, distances
from npt.study.results import Results, read_results, write_results

KEPT = sorted(path.name for path in (ROOT / "workflow" / "results").iterdir() if path.is_dir())
COLLAPSE = "nc1", "cdnv", "nc2_text_equiangularity", "nc3", "nc4"


def table(learners=("coop", "maple"), objectives=("own", "npt"), taus=(1.0, 0.25), seeds=(1, 2, 3), **more) -> pd.DataFrame:
    "Runs with the luck of a seed in common; NPT adds two points to novel accuracy."
    draw = np.random.default_rng(0)
    rows = []
    for learner in learners:
        for tau in taus:
            for seed in seeds:
                luck = draw.normal(0, 4)
                for objective in objectives:
                    base, novel = 60 + luck, 50 + luck + 2 * (objective == "npt")
                    rows.append(dict(dataset="world/shapes", learner=learner, objective=objective, tau=tau, seed=seed, base=base,
                                     novel=novel, h=harmonic_mean(base, novel), seconds=1.0, folder=f"{learner}{tau}{seed}",
                                     version="0.1.0") | {f"after_{name}": draw.uniform(0.1, 1) for name in COLLAPSE} | more)
    return pd.DataFrame(rows)


@pytest.mark.parametrize("setting, values", [("epochs", (2, 3)), ("shots", (4, 16)), ("version", ("0.1.0", "0.2.0")),
                                             ("learner_settings", ({}, {"n_ctx": 8})), ("lr", (None, 0.1))])
def test_a_cell_of_different_runs_is_refused_and_named(setting, values):
    runs = table(seeds=range(1, 5))
    runs[setting] = [values[seed % 2] for seed in runs.seed]
    with pytest.raises(ValueError, match=f"learner=coop.*not the same.*{setting}"):
        cells(runs)
    with pytest.raises(ValueError, match=setting):
        gains(runs)
    assert len(kinds(runs)) == 2 and all(len(cells(some)) == 8 for some in kinds(runs).values())


def test_a_run_counts_once():
    runs = table()
    with pytest.raises(ValueError, match="seed 1 twice"):
        main_table(pd.concat([runs, runs.iloc[:1]]))


def test_pairing_takes_the_luck_of_a_seed_out():
    found = gains(table(), "novel")
    assert np.allclose(found[["mean", "low", "high"]], 2) and (found.pairs == 3).all()
    assert cells(table())["novel", "std"].mean() > 1
    over = gains_over_learners(table(), "novel")
    assert (over.above == 2).all() and np.allclose(over["mean"], 2) and change_table(over).iloc[0, 0] == "+2.0 [+2.0, +2.0], 2 of 2"


def test_only_runs_of_one_seed_and_dataset_are_paired():
    runs = table(learners=["coop"], taus=[1.0])
    partly = runs[~((runs.objective == "own") & (runs.seed == 2))]
    assert paired(partly).seed.tolist() == [1, 3]
    with pytest.raises(ValueError, match="'ce'.*own"):
        paired(runs, baseline="ce")


def test_the_bootstrap_is_that_of_scipy():
    values = np.random.default_rng(3).normal(1, 2, 25)
    mean, low, high = bootstrap_mean(values)
    theirs = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=10_000).confidence_interval
    assert mean == values.mean() and abs(low - theirs.low) < 0.05 and abs(high - theirs.high) < 0.05
    assert bootstrap_mean(values) == (mean, low, high), "one seed, one interval"
    assert bootstrap_mean(values[::-1])[1:] == (low, high), "in whatever order the values are listed"
    with pytest.raises(ValueError, match="nothing to average"):
        bootstrap_mean([])


def test_what_is_missing_is_marked():
    runs = table()
    text = main_table(runs[~((runs.learner == "maple") & (runs.objective == "npt") & (runs.tau == 1)) & ~(
        (runs.learner == "coop") & (runs.seed == 3))], runs)
    assert (text.loc[("maple", "npt"), "τ = 1"] == _MISSING).all() and not (text.loc[("maple", "npt"), "τ = 0.25"] == _MISSING).any()
    assert text.loc["coop"].map(lambda cell: "2 of 3" in cell).all(axis=None)
    best = text["τ = 0.25", "novel"].str.startswith("**")
    assert best.sum() == 1 and best.idxmax()[1] == "npt"
    lines = markdown_table(text).splitlines()
    assert len(lines) == 2 + 4 and len({line.count("|") for line in lines}) == 1
    numbers = pd.DataFrame(dict(dtd=[1.5, None], eurosat=["as text", None]), index=pd.Index(["coop", "npt"], name="method"))
    assert markdown_table(numbers).splitlines()[2:] == ["| coop | 1.5 | as text |", f"| npt | {_MISSING} | {_MISSING} |"]


def test_an_average_over_datasets_is_that_of_papers():
    reference = published_cells("average").loc["coop"]
    each = pd.concat([published_cells(name).loc[["coop"]].reset_index().assign(dataset=name)
                      for name in published().query("experiment == 'base_to_novel'").dataset.unique() if name != "average"])
    runs = each.assign(learner="coop", objective="own", seed=1)
    average = average_datasets(runs)
    assert len(each) == 11 and np.allclose(average[["base", "novel", "h"]], reference, atol=0.011)


def test_infinite_and_constant_metrics_have_no_correlation():
    runs = table(learners=["a", "b"], taus=[1.0, 0.5]).assign(after_nc1=np.inf, after_cdnv=0.3)
    found = correlations(runs, ["novel"], ["base"]).set_index("metric")
    assert found.spearman[["nc1", "cdnv"]].isna().all() and found.spearman["nc3"].notna().all()
    assert np.allclose(distances(runs).nc4, 1 - runs.after_nc4)
    with pytest.raises(ValueError, match="1 kinds"):
        correlations(runs[(runs.learner == "a") & (runs.objective == "own") & (runs.tau == 1)])


def test_resampling_cells_is_less_sure_than_resampling_runs():
    draw = np.random.default_rng(5)
    x, y = np.repeat(draw.normal(size=(2, 15)), 4, axis=1)
    width = [found["spearman_high"] - found["spearman_low"] for found in
             (_correlation(x, y, np.repeat(np.arange(15), 4)), _correlation(x, y, np.arange(60)))]
    assert width[0] > 1.5 * width[1]


def test_results_as_files_are_the_same_results(tmp_path):
    runs = table()
    wanted = pd.concat([runs.assign(finished=True), runs.iloc[:1].assign(seed=9, finished=False)])
    write_results(Results(wanted[["learner", "objective", "tau", "seed", "folder", "dataset", "finished"]], runs, pd.DataFrame(),
                          pd.DataFrame()), tmp_path)
    again = read_results(tmp_path)
    assert np.allclose(again.runs.h, runs.h, rtol=1e-6) and again.missing.seed.tolist() == [9]
    assert np.allclose(gains(again.runs), gains(runs), atol=1e-4) and again.transfers.empty


@pytest.mark.parametrize("content, said", [("", "damaged"), ("a,b\n1,2\n", "no column"), ("a,b\n1,2,3,4\n5\n\"", "damaged")])
def test_damaged_tables_are_named(content, said, tmp_path):
    write_text(content, tmp_path / "runs.csv")
    with pytest.raises(ValueError, match=rf"runs.csv.*{said}"):
        read_results(tmp_path)


@pytest.mark.parametrize("name", KEPT)
def test_kept_results_are_of_their_grid(name):
    from npt.study.grid import expand, read_grid

    found, tasks = read_results(ROOT / "workflow" / "results" / name), expand(read_grid(ROOT / f"workflow/grids/{name}.yaml"))
    settings = [task.settings for task in tasks]
    asked = {(s.learner, str(s.objective), s.tau, s.shots, s.classes, s.measured_on, s.seed) for s in settings}
    there = found.wanted[["learner", "objective", "tau", "shots", "classes", "measured_on", "seed"]].itertuples(index=False, name=None)
    assert asked == set(there) and len(found.wanted) == len(tasks)
    assert found.runs[["base", "novel", "h"]].dropna().map(lambda value: 0 <= value <= 100).all(axis=None)


def test_the_readme_shows_the_kept_results():
    found, readme = read_results(ROOT / "workflow" / "results" / "world"), (ROOT / "README.md").read_text()
    assert markdown_table(main_table(found.runs, found.wanted)) in readme, "put the table of the last run into nbs/index.ipynb"
    changes = pd.concat({name: change_table(gains_over_learners(found.runs, name)) for name in ("base", "novel", "h")}, names=["metric"])
    assert markdown_table(changes) in readme, "put the changes of the last run into nbs/index.ipynb"
    runs = read_results(ROOT / "workflow" / "results" / "claims").runs
    compared = gains(runs[runs.learner.isin(runs.learner[runs.objective == "npt"])]).droplevel("objective")
    assert markdown_table(change_table(compared)) in readme, "put the claims of the last run into nbs/index.ipynb"
    assert (compared.pairs == 10).all() and (compared.low > 0).sum() == 7 and len(compared) == 8, "as the README says"
