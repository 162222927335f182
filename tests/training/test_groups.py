"Accuracies of head, tail and worst class, as an evaluation gives them."

import numpy as np
import pytest

from npt.clip.load import load_clip
from npt.data.load import load_dataset
from npt.learners.build import build_learner
from npt.training.evaluation import evaluate


@pytest.fixture(scope="module")
def clip():
    return load_clip("world")


@pytest.fixture(scope="module")
def long_tail():
    return load_dataset("world/shapes", tau=0.0625).base


def test_head_tail_and_worst_class_are_those_of_the_images(clip, long_tail):
    zero_shot = build_learner("zero_shot", clip, long_tail.classnames)
    test = long_tail.test.take(range(0, len(long_tail.test), 4))
    result = evaluate(zero_shot, test, counts=long_tail.train.counts)
    each, counts = np.array(result["per_class"]), np.array(long_tail.train.counts)
    for group, members in dict(many=counts >= 7, medium=(2 < counts) & (counts < 7), few=counts <= 2).items():
        assert result[group] == pytest.approx(each[members].mean(), abs=1e-4)
    assert result["worst_accuracy"] == each.min() and result["worst_class"] == long_tail.classnames[each.argmin()]
    assert result["macro_accuracy"] == pytest.approx(each.mean(), abs=1e-4)
    assert not {"many", "medium", "few"} & set(evaluate(zero_shot, test))


def test_a_class_without_test_images_is_in_no_mean(clip, long_tail):
    zero_shot = build_learner("zero_shot", clip, long_tail.classnames)
    tested = (long_tail.test.labels >= 8).nonzero().flatten().tolist()
    result = evaluate(zero_shot, long_tail.test.take(tested), counts=long_tail.train.counts)
    each = np.array(result["per_class"])
    assert np.isnan(each[:8]).all() and np.isfinite(each[8:]).all() and len(each) == 10
    assert result["worst_accuracy"] == each[8:].min() and result["worst_class"] in long_tail.classnames[8:]
    assert result["few"] == pytest.approx(each[8:].mean(), abs=1e-4) and not {"many", "medium"} & set(result)
    assert result["accuracy"] == pytest.approx(result["macro_accuracy"], abs=1e-4)
