"Intervals miss the truth as often as they say at the numbers of runs that there are, and p-values are exact."

import numpy as np
import pytest
from scipy import stats

from npt.study.intervals import holm, mean_interval, sign_flip_p


@pytest.mark.parametrize("level", [95, 100 - 5 / 8])
@pytest.mark.parametrize("number", [3, 5, 10])
def test_an_interval_misses_as_often_as_it_says(number, level):
    samples = np.random.default_rng(number).standard_normal((4000, number))
    missed = np.mean([low > 0 or high < 0 for _, low, high in (mean_interval(some, level=level) for some in samples)])
    nominal = 1 - level / 100
    assert abs(missed - nominal) < 4 * np.sqrt(nominal * (1 - nominal) / len(samples))


def test_the_interval_is_that_of_scipy():
    values = np.random.default_rng(3).normal(1, 2, 8)
    theirs = stats.ttest_1samp(values, 0).confidence_interval(0.9)
    assert np.allclose(mean_interval(values, level=90), (values.mean(), theirs.low, theirs.high))
    assert np.isnan(mean_interval([2.0])[1:]).all() and mean_interval([1.0, 1.0]) == (1, 1, 1)
    with pytest.raises(ValueError, match="nothing to average"):
        mean_interval([])


@pytest.mark.parametrize("number", [2, 5, 8])
def test_the_p_value_is_that_of_scipys_exact_permutations(number):
    values = np.random.default_rng(number).normal(0.5, 1, number)
    theirs = stats.permutation_test((values, np.zeros(number)), lambda x, y: np.mean(x - y), permutation_type="samples", n_resamples=np.inf)
    assert sign_flip_p(values) == pytest.approx(theirs.pvalue) and sign_flip_p(-3 * values) == sign_flip_p(values)


def test_what_few_values_can_show():
    assert [sign_flip_p(np.arange(1, number + 1)) for number in (1, 3, 5, 10)] == [1, 2 / 8, 2 / 32, 2 / 1024]
    assert sign_flip_p([0.1, 0.2, -0.3]) == 1, "a sum of zero but for rounding is as near as can be"
    for number in 0, 17:
        with pytest.raises(ValueError, match=f"{number} values"):
            sign_flip_p(np.ones(number))


def test_holm_is_between_one_comparison_and_bonferroni():
    p = np.array([0.02, 0.001, 0.4, 0.012])
    assert np.allclose(holm(p), [0.04, 0.004, 0.4, 0.036])
    assert np.allclose(holm([0.3, 0.3]), 0.6) and (holm(np.full(4, 0.9)) == 1).all()
    assert (holm(p) >= p).all() and (holm(p) <= 4 * p).all()


def test_what_is_no_number_has_no_sign():
    with pytest.raises(ValueError, match="1 of 3 values are not numbers.*leave their pairs out"):
        sign_flip_p([1.0, float("nan"), 2.0])
