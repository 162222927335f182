"Sentences about figures, with numbers invented so that it is known what they have to say: better, worse, equal, not a number."

import itertools
import math
import re

import numpy as np
import pandas as pd
import pytest
import torch

from npt.figures.captions import (
    _nearest,
    accuracy_in_words,
    collapse_in_words,
    confusion_in_words,
    cosines_in_words,
    features_in_words,
    open_world_in_words,
    reliability_in_words,
    results_in_words,
    training_in_words,
)
from npt.geometry.collapse import collapse_metrics
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
    (3.0, "not more than twice as much: run more seeds"),
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
    assert "mean over the 3 of 4 classes whose accuracy is known is 60.0 % (zero-shot), 65.0 % (own loss) and 65.0 % (NPT)." in said
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
    assert "nearer to the ideal on 1 (NC1, to the ideal itself) of 2 metrics and farther on none, and NC4 is at the ideal in both" in said
    assert "farther on 1 (NC1, from the ideal itself)" in collapse_in_words({"a": {"base": dict(nc1=0.0)}, "b": {"base": dict(nc1=1.0)}})
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
    assert "In the one epoch that there is the loss of NPT is 3." in training_in_words({"NPT": history[["epoch", "loss", "accuracy"]][:1]})
    assert "not a number from epoch 2 on" in training_in_words({"NPT": history.assign(loss=[3.0, math.nan])})


def test_confusion_names_the_pair_in_both_directions():
    logits = torch.nn.functional.one_hot(torch.tensor([0, 1, 1, 0, 2, 2]), 3).float()
    labels = torch.tensor([0, 0, 0, 1, 1, 2])
    said = confusion_in_words({"zero-shot": torch.eye(3)[labels], "NPT": logits}, labels, ["disc", "square", "cross"])
    assert said.startswith("Of 6 pictures, named wrongly: 0 (zero-shot) and 4 (NPT).")
    assert "'disc' and 'square' most: it takes 2 of 3 pictures of the first for the second, and 1 of 2 the other way round." in said
    assert confusion_in_words({"NPT": torch.eye(3)[labels]}, labels, list("abc")).endswith("NPT makes no mistake.")


def opened(**more) -> dict:
    return dict(h=60.0, joint_h=50.0, base_as_novel=10.0, novel_as_base=20.0, ausuc=50.0, energy_auroc=70.0) | more


def test_the_open_world_is_told_with_its_costs_leaks_areas_and_unknown_images():
    said = open_world_in_words({"zero-shot": opened(), "own loss": opened(joint_h=60.0, ausuc=52.0, energy_auroc=75.0),
                                "NPT": opened(h=66.0, joint_h=67.0, base_as_novel=30.0, ausuc=51.0, energy_auroc=69.0)})
    assert said.startswith("With one label space in place of two, H falls from 60.0 to 50.0 % (zero-shot), stays at 60.0 % (own loss) and rises from 66.0 to 67.0 % (NPT). ")
    assert "With NPT 30.0 % of base images get a novel name and 20.0 % of novel images a base name, so more leak towards the novel names." in said
    assert "AUSUC is 50.0 % (zero-shot), 52.0 % (own loss) and 51.0 % (NPT): own loss has the highest." in said
    assert said.endswith("Against zero-shot, own loss raises the AUROC of energy by 5.0 points to 75.0 % and NPT lowers it by 1.0 points to 69.0 %.")


def test_the_open_world_of_equals_of_one_and_of_none():
    same = open_world_in_words({"zero-shot": opened(), "NPT": opened(base_as_novel=20.04, ausuc=50.04, energy_auroc=69.96)})
    assert "so neither way is wider." in same and "(NPT): the same for all." in same and "NPT leaves the AUROC of energy at 70.0 %." in same
    alone = open_world_in_words({"NPT": opened(base_as_novel=0.0, novel_as_base=0.01)})
    assert "so none leak." in alone and alone.endswith("The AUROC of energy is 70.0 % (NPT).") and "highest" not in alone
    with pytest.raises(ValueError, match="metrics of NPT have no joint_h"):
        open_world_in_words({"zero-shot": opened(), "NPT": dict(h=60.0)})


# ---- whatever the numbers are: what a sentence claims is computed again, from the numbers as they are printed

NUMBERS = [0.0, 3.1, 3.6, 25.36, 25.38, 25.44, 26.1]  # ties, and numbers that differ in a digit that is not printed


def on_all(*axes):
    "Try every combination of some numbers, in one test."
    def of(check):
        def test():
            for values in itertools.product(*axes):
                check(*values)

        return test

    return of


def shown(value: float) -> float:
    return float(f"{value:.1f}")


@on_all(NUMBERS, NUMBERS, NUMBERS)
def test_calibration_errors_are_compared_as_they_are_printed(*errors):
    zero, own, last = map(shown, errors)
    said = reliability_in_words({name: bins(50 + error, 50) for name, error in zip(("zero-shot", "own loss", "NPT"), errors)})
    claims = {}
    for than, other in ("zero-shot", zero), ("own loss", own):
        size = abs(last - other)
        claims[than] = f"as large as that of {than}" if last == other else f"{size:.1f} points {'smaller' if last < other else 'larger'} than that of {than}"
    assert said.endswith(f"Its error is {claims['zero-shot']} and {claims['own loss']}.")
    assert ("as sure as it is right" in said) == (last == 0)


@on_all([-1.8, -0.94, -0.04, 0.0, 0.9, 0.94, 1.78, 1.84, 1.86, 10.7], [0.0, 0.04, 0.9, 0.94, 1.8])
def test_a_result_is_judged_by_what_is_printed(change, spread):
    said = results_in_words({"zero-shot": dict(accuracy=50.0), "NPT": dict(accuracy=50.0 + change)}, spread)
    size, known = abs(shown(change)), shown(spread)
    assert ("makes no difference" in said) == (size == 0) and ("ends below" in said) == (shown(change) < 0) and "−0.0" not in said
    assert ("not more than the spread" in said) == (size <= known)
    assert ("more than twice the spread" in said) == (size > known and round(10 * size) > 2 * round(10 * known))


@on_all(*[[20.0, 20.04, 20.06, 25.36, 25.44]] * 2)
def test_the_open_world_is_compared_as_it_is_printed(one, other):
    said = open_world_in_words({"zero-shot": opened(ausuc=one, energy_auroc=one, h=one), "NPT": opened(
        ausuc=other, energy_auroc=other, joint_h=one, h=other, base_as_novel=one, novel_as_base=other)})
    before, after = shown(one), shown(other)
    assert ("(NPT): the same for all" in said, ": NPT has the highest" in said) == (before == after, after > before)
    assert ("NPT raises" in said, "NPT lowers" in said, "NPT leaves" in said) == (after > before, after < before, after == before)
    assert ("towards the novel" in said, "towards the base" in said) == (before > after, before < after)
    assert (f"stays at {before:.1f} % (NPT)" in said) == (before == after)


@on_all(*[[0.0, 2e-8, 0.3, 0.3001, 0.6, math.nan]] * 4)
def test_collapse_counts_what_moved(*ends):
    metrics, (before, after) = ("nc1", "nc3"), (dict(zip(("nc1", "nc3"), ends[i : i + 2])) for i in (0, 2))
    said = collapse_in_words({"zero-shot": {"base": before}, "NPT": {"base": after}})
    pairs = [[value if value > 1e-6 else 0.0 for value in (before[one], after[one])] for one in metrics if math.isfinite(before[one] + after[one])]
    nearer, farther = sum(b > a * 1.01 for b, a in pairs), sum(a > b * 1.01 for b, a in pairs)
    if pairs and nearer + farther:
        found = re.search(r"nearer to the ideal on (\w+).* of (\d) metrics? and farther on (\w+)", said)
        assert found.groups() == (str(nearer or "none"), str(len(pairs)), str(farther or "none"))
    assert ("at the ideal in both" in said) == any(b == a == 0 for b, a in pairs)
    assert "more than 100" not in said and ("itself" in said) == any((b == 0) != (a == 0) for b, a in pairs)


def test_two_classes_have_no_angles_to_speak_of():
    chance = torch.Generator().manual_seed(0)
    labels = torch.arange(2).repeat(10)
    ends = [collapse_metrics(torch.randn(2, 64, generator=chance), torch.randn(20, 64, generator=chance) + 1, labels) for _ in range(2)]
    said = collapse_in_words({name: {"base": one} for name, one in zip(("zero-shot", "NPT"), ends)})
    assert "NC2 text angles" in said.partition(" at the ideal in both")[0].rpartition("farther")[2] and "more than 100" not in said


@on_all(*[[0.0, 0.1, 0.1004, 0.8, math.nan]] * 3)
def test_the_nearest_are_all_that_are_printed_so(*distances):
    names = dict(zip(("zero-shot", "own loss", "NPT"), distances))
    said, known = _nearest(names, ".2f"), {name: round(value, 2) for name, value in names.items() if not math.isnan(value)}
    best = [name for name, value in known.items() if value == min(known.values())]
    if len(known) > 1:
        first = said.split(" equally near")[0] if len(best) == len(known) else said.split(" nearest")[0]
        assert [name for name in names if name in first] == best and f", {min(known.values()):.2f} away" in said
    assert all((f"the distance of {name} is not known" in said) == (name not in known) for name in names)


@on_all(*[[50.0, 50.04, 70.0, math.nan]] * 3)
def test_classes_are_counted_and_ties_are_named(*values):
    said = accuracy_in_words({"zero-shot": [50.0] * 3, "NPT": list(values)}, list("abc"))
    changes = [shown(value) - 50 for value in values if not math.isnan(value)]
    up = sum(one > 0 for one in changes)
    if up:
        assert f"better on {up} ('" in said and f"+20.0 points) of {len(changes)} class" in said and "most" not in said
        assert (f" and {up - 1} other" in said) == (up > 1)
    elif changes:
        assert "has the same accuracy" in said and ("to a tenth of a point" in said) == (50.04 in values)
    over = f"the {len(changes)} of 3 classes" if len(changes) < 3 else "3 classes"
    assert f"mean over {over}" in said and ("not known" in said) == (not changes)


@pytest.mark.parametrize("losses", [[13.6], [13.6, 13.61], [13.6, 13.7], [13.7, 13.6], [1e-9, 0.0], [math.inf], []])
def test_a_loss_is_told_as_it_is_printed(losses):
    history = pd.DataFrame(dict(epoch=range(len(losses)), loss=losses, accuracy=[50.0] * len(losses)))
    said = training_in_words({"NPT": history})
    if not losses or math.isinf(losses[0]):
        assert ("no epoch" if not losses else "not a number from epoch 0 on") in said
        return
    first, last = (float(f"{loss:.3g}") for loss in (losses[0], losses[-1]))
    assert ("the one epoch that there is" in said) == (len(losses) == 1)
    assert (" fell " in said, " rose " in said) == (last < first, last > first)
    assert ("where it began" in said) == (len(losses) > 1 and first == last)


def test_pairs_that_are_confused_as_often_are_counted():
    labels = torch.tensor([0, 1, 2, 3])
    said = confusion_in_words({"NPT": torch.eye(4)[[1, 0, 3, 2]]}, labels, list("abcd"))
    assert "confuses 'a' and 'b' most, as often as 1 other pair: it takes 1 of 1 picture of the first" in said


def test_zero_has_no_sign():
    assert "−0.0" not in cosines_in_words({"zero-shot": torch.eye(3) - 1e-6, "NPT": torch.eye(3) - 1e-5})
    assert np.isclose(float(re.search(r"is ([\d.]+) \(zero", cosines_in_words({"zero-shot": torch.eye(3)}))[1]), 0)
