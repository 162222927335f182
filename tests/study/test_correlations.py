"Correlations of accuracy and collapse: what has none, and what is resampled."

import numpy as np
import pytest
from invented import table

from npt.study.correlations import _correlation, correlations, distances


def test_infinite_and_constant_metrics_have_no_correlation():
    runs = table(learners=["a", "b"], taus=[1.0, 0.5]).assign(after_nc1=np.inf, after_cdnv=0.3)
    told = correlations(runs, ["novel"], ["base"]).set_index("metric")
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
