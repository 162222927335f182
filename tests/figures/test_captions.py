"Sentences about figures, with numbers invented so that it is known what they have to say: better, worse, equal, not a number."

import math

import pandas as pd
import pytest
import torch

from npt.figures.captions import (
    accuracy_in_words,
    collapse_in_words,
    confusion_in_words,
    cosines_in_words,
    features_in_words,
    reliability_in_words,
    results_in_words,
    training_in_words,
)
from npt.geometry.etf import simplex_etf

ZERO, OWN, NPT = dict(base=57.0, novel=60.0, h=58.5), dict(base=71.0, novel=55.0, h=62.0), dict(base=69.3, novel=63.2, h=66.1)
THREE = {"zero-shot": ZERO, "own loss": OWN, "NPT": NPT}


def test_a_result_names_every_difference():
    said = results_in_words(THREE)
    assert "own loss changes H by +3.5 points (base +14.0, novel −5.0)" in said
    assert "NPT changes H by +7.6 points (base +12.3, novel +3.2)." in said
    assert "Against own loss, NPT changes H by +4.1 points (base −1.7, novel +8.2): NPT ends above own loss in H." in said


@pytest.mark.parametrize("spread, words", [
    (4.2, "4.1 points are not more than the spread of 4.2 points"),
    (3.0, "less than twice as much: run more seeds"),
    (1.0, "4.1 points are more than twice the spread of 1.0 points"),
])  # fmt: skip
def test_a_difference_is_weighed_against_the_seeds(spread, words):
    assert words in results_in_words(THREE, spread)


@pytest.mark.parametrize("spread", [None, math.nan])
def test_nothing_is_said_of_a_spread_that_is_not_known(spread):
    assert "spread" not in results_in_words(THREE, spread)


def test_a_result_that_is_worse_or_equal_is_called_so():
    worse = results_in_words(dict(zip(THREE, (ZERO, NPT, OWN))), spread=0.0)
    assert "NPT ends below own loss in H, so it did not help in this run." in worse and "more than twice the spread of 0.0" in worse
    equal = results_in_words(dict(zip(THREE, (ZERO, NPT, NPT))), spread=0.0)
    assert "NPT makes no difference to own loss in H." in equal and "one run cannot tell" in equal
    all_classes = {"zero-shot": dict(accuracy=50.0), "NPT": dict(accuracy=49.0)}
    assert "NPT ends below zero-shot in accuracy" in results_in_words(all_classes)


@pytest.mark.parametrize("nothing", [None, math.nan])
def test_a_result_without_novel_accuracy_is_judged_by_the_base_classes(nothing):
    lost = dict(novel=nothing, h=nothing)
    said = results_in_words({"zero-shot": ZERO, "own loss": OWN | lost, "NPT": NPT | lost}, spread=1.0)
    assert "NPT changes base by −1.7 points: NPT ends below own loss in base accuracy" in said and "spread" not in said
    assert "What own loss and NPT learned means nothing for novel classes" in said and "nan" not in said


def test_one_learner_alone_is_compared_with_nothing():
    assert results_in_words({"zero-shot": ZERO}) == "Zero-shot stands alone: there is nothing to compare it with."
    assert "Compared" not in accuracy_in_words({"zero-shot": [50.0, 60.0]}, ["a", "b"])
    assert "nothing to compare" in collapse_in_words({"NPT": {"base": dict(nc1=0.5)}})
    assert "points" not in reliability_in_words({"NPT": bins(80, 70)})
    with pytest.raises(ValueError, match="cannot be -1"):
        results_in_words(THREE, spread=-1)


def test_accuracy_counts_classes_that_gain_and_lose():
    trained = [70, 60, 65, math.nan]
    said = accuracy_in_words({"zero-shot": [50, 60, 70, math.nan], "own loss": trained, "NPT": trained}, list("abcd"))
    assert "mean over 4 classes is 60.0 % (zero-shot), 65.0 % (own loss) and 65.0 % (NPT)." in said
    assert "Compared with zero-shot, NPT is better on 1 ('a', +20.0 points) of 3 classes and worse on 1 ('c', −5.0 points)." in said
    assert "Compared with own loss, NPT has the same accuracy on each of 3 classes." in said
    worse = accuracy_in_words({"zero-shot": [50.0] * 300, "NPT": [40.0] * 299 + [30.0]}, [f"class {i}" for i in range(300)])
    assert "better on none of 300 classes and worse on 300 (most 'class 299', −20.0 points)" in worse
    assert "No class can be compared" in accuracy_in_words({"zero-shot": [math.nan, 1.0], "NPT": [1.0, math.nan]}, ["a", "b"])
    with pytest.raises(ValueError, match="'NPT': 1"):
        accuracy_in_words({"zero-shot": [1.0, 2.0], "NPT": [1.0]}, ["a", "b"])


def test_collapse_tells_what_came_nearer_and_what_went_away():
    before = {"base": dict(nc1=2.0, nc3=0.8, nc4=0.5, cdnv=0.2), "novel": dict(nc1=2.0)}
    after = {"base": dict(nc1=0.5, nc3=0.9, nc4=0.75, cdnv=0.2), "novel": dict(nc1=4.0, nc3=1.0)}
    said = collapse_in_words({"zero-shot": before, "own loss": after, "NPT": after})
    assert ("on base classes NPT is nearer to the ideal on 2 (most NC1, by a factor of 4) of 4 "
            "metrics and farther on 1 (NC3, by a factor of 1.1)") in said
    assert ("on novel classes NPT is nearer to the ideal on none of 1 metric and farther on 1 (NC1, "
            "by a factor of 2), and 1 metric could be") in said
    assert "Compared with own loss, on base classes NPT is as near to the ideal, within a hundredth, on each of 4 metrics" in said


def test_a_factor_near_one_is_not_written_as_one():
    assert "(NC3, by a factor of 1.03)" in collapse_in_words({"a": {"base": dict(nc3=1.03)}, "b": {"base": dict(nc3=1.0)}})
    assert "(NC3, by a factor of 99)" in collapse_in_words({"a": {"base": dict(nc3=99.4)}, "b": {"base": dict(nc3=1.0)}})


def test_collapse_that_is_perfect_or_not_measured():
    said = collapse_in_words({"zero-shot": {"base": dict(nc1=1.0, nc4=1.0)}, "NPT": {"base": dict(nc1=0.0, nc4=1.0)}})
    assert "nearer to the ideal on 1 (NC1, by a factor of more than 100) of 2 metrics and farther on none" in said
    assert ("farther on 1 (NC1, by a factor of more than "
            "100)") in collapse_in_words({"a": {"base": dict(nc1=0.0)}, "b": {"base": dict(nc1=1.0)}})
    none = collapse_in_words({"zero-shot": {"base": dict(nc1=math.inf)}, "NPT": {"base": dict(nc1=None)}})
    assert none == "Compared with zero-shot, no metric of zero-shot and NPT can be compared on base classes."


def test_cosines_of_few_and_of_many_classes():
    said = cosines_in_words({"zero-shot": torch.ones(5, 8), "NPT": simplex_etf(5, 8)})
    assert "mean cosine of two classes is 1.000 (zero-shot) and −0.250 (NPT)" in said and "of 5 classes all are −0.250;" not in said
    assert "NPT is nearest, 0.000 away; zero-shot is 1.250 away." in said
    two = cosines_in_words({"zero-shot": torch.eye(2), "NPT": torch.eye(2)})
    assert "the ideal is −1" in two and "zero-shot and NPT are equally near, 1.000 away" in two
    assert "which so many cannot reach in 8 dimensions" in cosines_in_words({"NPT": torch.randn(300, 8)})


def test_features_say_who_is_nearest_also_where_it_is_not_the_last():
    etf, labels = simplex_etf(4, 8), torch.arange(4).repeat(3)
    noise = torch.randn(12, 8, generator=torch.Generator().manual_seed(0))
    noisy = etf + 0.2 * noise[:4], etf[labels] + 0.3 * noise
    said = features_in_words({"zero-shot": (etf, etf[labels] + 3), "NPT": noisy}, labels)
    assert said.count("zero-shot is nearest, 0.00 away") == 2 and "nan" not in said
    assert "NPT is 0.00 away" in features_in_words({"NPT": (etf[:2] - etf[:2].mean(0), etf[:2])}, torch.arange(2))


def bins(confidence: float, accuracy: float) -> pd.DataFrame:
    return pd.DataFrame(dict(low=[60.0], high=[100.0], confidence=[confidence], accuracy=[accuracy], images=[10]))


def test_calibration_says_whether_one_is_too_sure():
    said = reliability_in_words({"zero-shot": bins(70, 70), "own loss": bins(90, 70), "NPT": bins(80, 70)})
    assert "0.0 % (zero-shot), 20.0 % (own loss) and 10.0 % (NPT). NPT is too sure on the whole" in said
    assert "Its error is 10.0 points larger than that of zero-shot and 10.0 points smaller than that of own loss." in said
    assert "not sure enough" in reliability_in_words({"NPT": bins(60, 70)})
    assert "as sure as it is right" in reliability_in_words({"NPT": bins(70, 70)})


def test_training_says_which_terms_fell_and_warns_of_a_loss_that_is_no_number():
    history = pd.DataFrame(dict(epoch=[1, 2], loss=[3.0, 1.5], accuracy=[50.0, 80.0], term_ce=[1.5, 0.5], term_lc=[0.1, 0.3]))
    said = training_in_words({"own loss": history.assign(accuracy=[50.0, 90.0]), "NPT": history})
    assert said.startswith("In 2 epochs the loss of NPT fell from 3 to 1.5 (before their weights, ce fell from 1.5 to 0.5 and lc ")
    assert said.endswith("ends at 90.0 % (own loss) and 80.0 % (NPT).")
    assert "In 1 epoch the loss of NPT stayed at 3." in training_in_words({"NPT": history[["epoch", "loss", "accuracy"]][:1]})
    assert "not a number from epoch 2 on" in training_in_words({"NPT": history.assign(loss=[3.0, math.nan])})


def test_confusion_names_the_pair_in_both_directions():
    logits = torch.nn.functional.one_hot(torch.tensor([0, 1, 1, 0, 2, 2]), 3).float()
    labels = torch.tensor([0, 0, 0, 1, 1, 2])
    said = confusion_in_words({"zero-shot": torch.eye(3)[labels], "NPT": logits}, labels, ["disc", "square", "cross"])
    assert said.startswith("Of 6 test pictures, named wrongly: 0 (zero-shot) and 4 (NPT).")
    assert "'disc' and 'square' most: it takes 2 of 3 pictures of the first for the second, and 1 of 2 the other way round." in said
    assert confusion_in_words({"NPT": torch.eye(3)[labels]}, labels, list("abc")).endswith("NPT makes no mistake.")
