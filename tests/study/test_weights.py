"Choosing the runs of a question, and a table of two weights."

import math

import numpy as np
import pandas as pd
import pytest
from ruled import runs_of_rule, weighed

from npt.study.weights import _term_weights, runs_of, weight_table


def test_runs_that_are_not_there_are_told_with_the_command():
    runs = runs_of_rule(["own"], lambda row: 1.0, shots=[1])
    assert len(runs_of(runs, "few_shot", classes="base", shots=1)) == 3
    for asked in dict(metric="accuracy", classes="all"), dict(metric="accuracy"), dict(no_such_setting=1):
        with pytest.raises(ValueError, match="--configfile workflow/grids/few_shot.yaml") as told:
            runs_of(runs, "few_shot", **asked)
        assert all(str(value) in str(told.value) for value in asked.values())
    with pytest.raises(ValueError, match="None of 0 runs"):
        runs_of(pd.DataFrame(), "few_shot")


def test_runs_without_the_metric_are_left_out():
    runs = runs_of_rule(["own"], lambda row: math.nan if row["seed"] == 2 else 1.0, shots=[1])
    assert list(runs_of(runs, "few_shot").seed) == [1, 3]


def test_weights_are_read_from_the_sum():
    weights = _term_weights(pd.Series(["ce", "ce + 0.3*lc + mi", "1e1*mi + ce"], index=[5, 7, 9]))
    assert list(weights.index) == [5, 7, 9]
    assert weights.loc[7].to_dict() == {"ce": 1, "lc": 0.3, "mi": 1} and weights.mi[9] == 10 and weights.lc[5] == 0
    with pytest.raises(ValueError, match="lcc"):
        _term_weights(pd.Series(["ce + lcc"]))


def test_weight_table_takes_only_the_two_terms():
    runs = weighed()
    more = runs_of_rule(["ce + lc + mi + etf", "ce + lc", "2*ce + lc + mi"], lambda row: 1e6).assign(measured_on="val")
    table = weight_table(pd.concat([runs, more, weighed(measured_on="test").assign(h=1e6)], ignore_index=True))
    assert list(table.index) == list(table.columns) == [0.1, 1, 10]
    assert np.allclose(table, [[10 * lc + mi + 2 for mi in (0.1, 1, 10)] for lc in (0.1, 1, 10)])
    assert table.index.name == "weight of lc" and table.columns.name == "weight of mi"


def test_weights_are_not_chosen_on_test_images():
    with pytest.raises(ValueError, match="measured_on='val'.*ablation.yaml"):
        weight_table(weighed(measured_on="test"))
    with pytest.raises(ValueError, match="has the term .'lc', 'mi'."):
        weight_table(runs_of_rule(["ce + etf"], lambda row: 1.0).assign(measured_on="val"))
    with pytest.raises(ValueError, match=r"ce \+ lc \+ mi.*ablation.yaml"):
        weight_table(runs_of_rule(["ce + lc", "ce + mi"], lambda row: 1.0).assign(measured_on="val"))
