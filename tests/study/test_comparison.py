"What may be averaged, and differences with their intervals."

import numpy as np
import pandas as pd
import pytest
from invented import table
from scipy import stats

from npt.study.comparison import _paired, cells, change_table, comparisons, gains, gains_over_learners, kinds


@pytest.mark.parametrize("setting, values", [("epochs", (2, 3)), ("version", ("0.1.0", "0.2.0")),
                                             ("learner_settings", ({}, {"n_ctx": 8})), ("lr", (None, 0.1))])
def test_a_cell_of_different_runs_is_refused_and_named(setting, values):
    runs = table(seeds=range(1, 5))
    runs[setting] = [values[seed % 2] for seed in runs.seed]
    with pytest.raises(ValueError, match=f"learner=coop.*not the same.*{setting}"):
        cells(runs)
    with pytest.raises(ValueError, match=setting):
        gains(runs)
    assert len(kinds(runs)) == 2 and all(len(cells(some)) == 8 for some in kinds(runs).values())


def test_pairing_takes_the_luck_of_a_seed_out():
    changes = gains(table(), metric="novel")
    assert np.allclose(changes[["mean", "low", "high"]], 2) and (changes.pairs == 3).all()
    assert cells(table())["novel", "std"].mean() > 1
    over = gains_over_learners(table(), metric="novel")
    assert (over.above == 2).all() and np.allclose(over["mean"], 2) and change_table(over).iloc[0, 0] == "+2.0 [+2.0, +2.0], 2 of 2"


def test_only_runs_of_one_seed_and_dataset_are_paired():
    runs = table(learners=["coop"], taus=[1.0])
    partly = runs[~((runs.objective == "own") & (runs.seed == 2))]
    assert _paired(partly, "h", "own", ["learner", "tau"]).seed.tolist() == [1, 3]
    with pytest.raises(ValueError, match="'ce'.*own"):
        gains(runs, baseline="ce")


def test_an_interval_holds_what_t_says_and_chance_is_told():
    runs = table(learners=["coop"], taus=[1.0])
    runs.loc[runs.objective == "npt", "h"] += runs.seed[runs.objective == "npt"] * 1.0
    changes = gains(runs)
    pairs = _paired(runs, "h", "own", ["learner", "tau"]).query("objective == 'npt'").difference
    row, far = changes.xs("npt", level="objective").iloc[0], stats.t.ppf(0.975, len(pairs) - 1) * stats.sem(pairs)
    assert np.allclose((row.low, row.high), (pairs.mean() - far, pairs.mean() + far)) and far > 1
    assert comparisons(pd.concat([changes] * 10)).endswith(f"about {0.5 * len(changes):.1f} of {10 * len(changes)} would leave it out by chance")


def test_a_single_pair_has_no_interval():
    changes = gains(table(seeds=[1]), metric="novel")
    assert changes.low.isna().all() and comparisons(changes).startswith("0 comparisons")
    assert "[" not in change_table(changes).to_string() and "nan" not in change_table(changes).to_string()
