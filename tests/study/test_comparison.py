"What may be averaged, and differences with their intervals."

import math

import numpy as np
import pytest
from invented import table
from scipy import stats

from npt.study.comparison import _chance_rate, _paired, bootstrap_mean, cells, change_table, gains, gains_over_learners, kinds


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


def test_the_bootstrap_is_that_of_scipy():
    values = np.random.default_rng(3).normal(1, 2, 25)
    mean, low, high = bootstrap_mean(values)
    theirs = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=10_000).confidence_interval
    assert mean == values.mean() and abs(low - theirs.low) < 0.05 and abs(high - theirs.high) < 0.05
    assert bootstrap_mean(values) == (mean, low, high), "one seed, one interval"
    assert bootstrap_mean(values[::-1])[1:] == (low, high), "in whatever order the values are listed"
    with pytest.raises(ValueError, match="nothing to average"):
        bootstrap_mean([])


def test_chance_is_what_it_is_for_the_intervals_in_use():
    random = np.random.default_rng(5)
    for pairs in 3, 6:
        intervals = [bootstrap_mean(random.standard_normal(pairs))[1:] for _ in range(400)]
        off_zero = np.mean([low > 0 or high < 0 for low, high in intervals])
        assert abs(off_zero - _chance_rate(pairs)) < 4 * math.sqrt(0.25 * 0.75 / 400)
    assert abs(_chance_rate(3) - 0.25) < 0.03, "three differences have one sign in one case of four"
