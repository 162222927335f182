"Means over cells that share CLIPs and class splits: against sums by hand, Student's test and simulated families."

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from npt.study.shared_units import _mean_squares, _shared_mean, _tested


def cells(table: np.ndarray) -> pd.Series:
    "A table of CLIPs and splits as a series."
    return pd.Series(np.ravel(table), pd.MultiIndex.from_product([range(size) for size in table.shape], names=["clip", "class_split"]))


def test_mean_squares_are_those_of_a_loop():
    table = np.random.default_rng(0).standard_normal((3, 4))
    grand = sum(table[i, j] for i in range(3) for j in range(4)) / 12
    rows, columns = [sum(table[i]) / 4 for i in range(3)], [sum(table[:, j]) / 3 for j in range(4)]
    of_clips = 4 * sum((row - grand) ** 2 for row in rows) / 2
    of_splits = 3 * sum((column - grand) ** 2 for column in columns) / 3
    rest = sum((table[i, j] - rows[i] - columns[j] + grand) ** 2 for i in range(3) for j in range(4)) / 6
    assert _mean_squares(table) == pytest.approx((of_clips, of_splits, rest))


def test_where_nothing_is_shared_the_rest_alone_says_how_far_the_mean_may_be():
    table = np.array([[1.0, -1, 1, -1], [-1, 1, -1, 1], [0.5, -0.5, -0.5, 0.5]]) + 2  # rows and columns with nearly the same means
    of_clips, of_splits, rest = _mean_squares(table)
    assert max(of_clips, of_splits) < rest
    found = _shared_mean(table, other_clips=True)
    assert found.freedom == 6 and found.p == pytest.approx(2 * stats.t.sf(2 / (rest / 12) ** 0.5, 6))


@pytest.mark.parametrize("axis", [0, 1])
def test_where_all_spread_is_of_one_kind_it_is_students_test_of_its_means(axis):
    means = np.array([1.0, 2.0, 4.0])
    table = np.repeat(means[:, None], 4, 1) + 1e-9 * np.random.default_rng(0).standard_normal((3, 4))
    found = _shared_mean(table if axis == 0 else table.T, other_clips=True)
    assert found.p == pytest.approx(stats.ttest_1samp(means, 0).pvalue, rel=1e-4) and found.freedom == pytest.approx(2, rel=1e-4)


def test_both_kinds_together_have_satterthwaites_degrees_of_freedom():
    table = np.add.outer([0.0, 3.0, 7.0], [0.0, 1.0, 5.0, 6.0]) + np.random.default_rng(1).standard_normal((3, 4))
    a, b, e = _mean_squares(table)
    assert min(a, b) > e
    found = _shared_mean(table, other_clips=True)
    freedom = (a + b - e) ** 2 / (a**2 / 2 + b**2 / 3 + e**2 / 6)
    assert found.freedom == pytest.approx(freedom)
    assert found.p == pytest.approx(2 * stats.t.sf(abs(table.mean()) / ((a + b - e) / 12) ** 0.5, freedom))
    assert found.high - found.mean == pytest.approx(found.mean - found.low)


def test_of_these_clips_their_own_parts_do_not_count():
    table = np.random.default_rng(1).standard_normal((3, 4)) + np.arange(4.0)
    moved = table + np.array([[-5.0], [0], [5]])
    found, again = _shared_mean(table, other_clips=False), _shared_mean(moved, other_clips=False)
    assert (found.p, found.freedom) == pytest.approx((again.p, again.freedom)) and found.freedom == 3
    assert found.p == pytest.approx(stats.ttest_1samp(table.mean(0), 0).pvalue), "splits are drawn: Student's test of their means"
    assert _shared_mean(moved, other_clips=True).p > 3 * again.p


def test_no_difference_at_all_is_no_finding_and_the_same_everywhere_is():
    assert _shared_mean(np.zeros((3, 4)), other_clips=True).p == 1 and _shared_mean(np.full((3, 4), 2.0), other_clips=True).p == 0


@pytest.mark.parametrize("table", [np.zeros((1, 4)), np.zeros((3, 1)), np.array([[1.0, np.nan], [2.0, 3.0]])])
def test_a_table_that_is_too_small_or_not_full_is_refused(table):
    with pytest.raises(ValueError, match="CLIPs and .* class splits"):
        _shared_mean(table, other_clips=True)


def test_a_cell_that_is_missing_is_refused():
    with pytest.raises(ValueError, match="1 cells that have no value"):
        _tested({"one": cells(np.ones((3, 4))).iloc[1:]})


def test_a_family_is_corrected_for_its_size():
    table = np.random.default_rng(0).standard_normal((3, 4)) + 1
    alone = _tested({"one": cells(table)})
    among = _tested({"one": cells(table)} | {str(place): cells(np.random.default_rng(place).standard_normal((3, 4))) for place in range(1, 10)})
    for ending in "", "_other":
        p = alone[f"p{ending}"]["one"]
        assert alone[f"holm{ending}"]["one"] == p and among[f"holm{ending}"]["one"] == pytest.approx(min(1, 10 * p))
