"Published accuracies: their own averages and harmonic means."

import numpy as np
import pandas as pd

from npt.study.comparison import average_datasets
from npt.study.published import _published_transfer, published, published_cells
from npt.training.evaluation import harmonic_mean


def test_an_average_over_datasets_is_that_of_papers():
    reference = published_cells("average").loc["coop"]
    each = pd.concat([published_cells(name).loc[["coop"]].reset_index().assign(dataset=name)
                      for name in published().query("experiment == 'base_to_novel'").dataset.unique() if name != "average"])
    runs = each.assign(learner="coop", objective="own", seed=1)
    average = average_datasets(runs)
    assert len(each) == 11 and np.allclose(average[["base", "novel", "h"]], reference, atol=0.011)


def test_printed_harmonic_means_are_those_of_the_printed_accuracies():
    whole = pd.concat({name: published_cells(name) for name in published().dataset.unique()}).dropna()
    assert len(whole) == 51
    assert (abs(whole.h - [harmonic_mean(*pair) for pair in zip(whole.base, whole.novel)]) < 0.011).all()


def test_what_was_not_published_is_empty():
    assert published_cells("world/shapes").empty and _published_transfer("world/shapes", "domain").empty
    assert _published_transfer("imagenet", "dataset").loc["npt", "average"] == 67.11
