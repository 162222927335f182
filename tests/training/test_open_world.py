"Base and novel images among all names: every measure against plain loops, scikit-learn and cases made by hand."

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix, f1_score, roc_auc_score

from npt.training.open_world import _bias_curve, _confusion_entries, _macro_f1, _openworld_auc, joint_measures

HALF = 3


def drawn(seed: int, images: int = 60, names: int = 7, decimals: int | None = None):
    draw = torch.Generator().manual_seed(seed)
    labels = torch.cat([torch.arange(names), torch.randint(0, names, (images - names,), generator=draw)])
    logits = 2 * torch.randn(images, names, generator=draw, dtype=torch.float64)
    logits[torch.arange(images), labels] += 1.5
    return (logits if decimals is None else logits.round(decimals=decimals)), labels


def slow_curve_point(logits, labels, bias):
    "Mean accuracy of base and novel classes with a bias, image by image."
    hits = {k: [] for k in range(logits.shape[1])}
    for row, label in zip(logits.numpy(), labels.tolist()):
        moved = row + np.where(np.arange(len(row)) >= HALF, bias, 0)
        hits[label].append(moved.argmax() == label)
    means = [100 * np.mean(hits[k]) for k in hits]
    return np.mean(means[:HALF]), np.mean(means[HALF:])


def slow_pairs(scores, right, base):
    "Pairs of a base and a novel image that are ranked and named rightly, one by one."
    total = [(right[i] and right[j]) * ((scores[i] > scores[j]) + 0.5 * (scores[i] == scores[j]))
             for i in range(len(base)) if base[i] for j in range(len(base)) if not base[j]]
    return 100 * float(np.mean(total))


@given(st.integers(0, 10_000))
def test_the_curve_holds_at_every_bias(seed):
    logits, labels = drawn(seed)
    curve = _bias_curve(logits, labels, HALF)
    assert curve["bias"] == sorted(curve["bias"])
    for bias in np.linspace(-6, 6, 9):
        place = np.searchsorted(curve["bias"], bias, side="left") - 1
        expected = slow_curve_point(logits, labels, bias)
        if place >= 0:
            assert (curve["base"][place], curve["novel"][place]) == pytest.approx(expected, abs=1e-9)
        else:
            assert expected == pytest.approx((curve["base"][0], curve["novel"][0]), abs=1e-9)


@given(st.integers(0, 10_000), st.sampled_from([None, 0, 1]))
def test_areas_count_pairs_of_images(seed, decimals):
    logits, labels = drawn(seed, decimals=decimals)
    balanced = torch.cat([(labels == k).nonzero().flatten()[:1].repeat(2) for k in range(7)])
    logits, labels = logits[balanced], labels[balanced]  # two images of each class
    base = (labels < HALF).tolist()
    margins = (logits[:, :HALF].amax(1) - logits[:, HALF:].amax(1)).tolist()
    odds = (logits[:, :HALF].logsumexp(1) - logits[:, HALF:].logsumexp(1)).tolist()
    half = [logits[i, :HALF].argmax() == labels[i] if base[i] else HALF + logits[i, HALF:].argmax() == labels[i] for i in range(len(base))]
    right = [bool(one) for one in half]
    measured = joint_measures(logits, labels, HALF)
    assert measured["ausuc"] == pytest.approx(slow_pairs(margins, right, base), abs=1e-6)
    assert measured["openworld_auc"] == pytest.approx(slow_pairs(odds, right, base), abs=1e-6)


@given(st.integers(0, 10_000))
def test_counts_are_scikit_learns(seed):
    logits, labels = drawn(seed)
    guesses = logits.argmax(1)
    matrix = confusion_matrix(labels, guesses, labels=range(7))
    entries = _confusion_entries(guesses, labels)
    assert entries == [[i, j, matrix[i, j]] for i in range(7) for j in range(7) if matrix[i, j]]
    assert _macro_f1(guesses, labels, 9) == pytest.approx(100 * f1_score(labels, guesses, average="macro"))
    measured = joint_measures(logits, labels, HALF)
    base = labels < HALF
    assert measured["joint_base"] == pytest.approx(100 * (guesses == labels)[base].double().mean())
    assert measured["joint_novel"] == pytest.approx(100 * (guesses == labels)[~base].double().mean())
    assert measured["base_as_novel"] == pytest.approx(100 * matrix[:HALF, HALF:].sum() / base.sum())
    assert measured["novel_as_base"] == pytest.approx(100 * matrix[HALF:, :HALF].sum() / (~base).sum())
    assert measured["joint_h"] == pytest.approx(2 / (1 / measured["joint_base"] + 1 / measured["joint_novel"]))


def test_openworld_auc_is_no_larger_than_the_auroc_and_equal_without_mistakes():
    draw = torch.Generator().manual_seed(4)
    scores, base = torch.randn(80, generator=draw).round(decimals=1), torch.arange(80) < 50
    everything = torch.ones(80, dtype=torch.bool)
    assert _openworld_auc(scores, everything, base) == pytest.approx(100 * roc_auc_score(base, scores))
    some = torch.rand(80, generator=draw) < 0.7
    assert _openworld_auc(scores, some, base) < _openworld_auc(scores, everything, base)
    assert _openworld_auc(scores, some, base) == pytest.approx(slow_pairs(scores.tolist(), some.tolist(), base.tolist()))


def test_a_model_without_a_mistake_has_everything_and_one_with_all_has_nothing():
    labels = torch.arange(6)
    perfect = joint_measures(10 * torch.eye(6), labels, 2)
    floats = {name: value for name, value in perfect.items() if isinstance(value, float)}
    assert floats == dict.fromkeys(floats, 100.0) | {"base_as_novel": 0.0, "novel_as_base": 0.0}
    worst = joint_measures(-10 * torch.eye(6), labels, 2)
    assert worst["joint_h"] == worst["ausuc"] == worst["openworld_auc"] == worst["joint_accuracy"] == 0.0


def test_classes_count_alike_in_the_curve_however_few_their_images():
    logits = torch.tensor([[2.0, 0, 0]] * 9 + [[2.0, 0, 0]] + [[0, 0, 1.0]])
    labels = torch.tensor([0] * 9 + [1] + [2])
    curve = _bias_curve(logits, labels, 2)
    assert max(curve["base"]) == pytest.approx(50) and max(curve["novel"]) == pytest.approx(100)


def test_the_kept_curve_is_short_and_has_both_ends():
    logits, labels = drawn(1, images=500)
    kept, whole = joint_measures(logits, labels, HALF)["joint_curve"], _bias_curve(logits, labels, HALF)
    assert len(kept["bias"]) == 41
    for name, values in kept.items():
        assert values[0] == pytest.approx(whole[name][0], abs=1e-4) and values[-1] == pytest.approx(whole[name][-1], abs=1e-4)


@pytest.mark.parametrize("change, words", [
    (lambda x, y: (x, y[:-1], HALF), "labels"), (lambda x, y: (x, y, 0), "from 1 to K - 1"), (lambda x, y: (x, y, 7), "from 1 to K - 1"),
    (lambda x, y: (x * math.nan, y, HALF), "not numbers"), (lambda x, y: (x, y.clamp(max=2), HALF), "some below and some from 3 on"),
    (lambda x, y: (x, y.clamp(min=3), HALF), "some below"), (lambda x, y: (x, y + 1, HALF), "from 0 to 6"), (lambda x, y: (x[:0], y[:0], HALF), "images")])
def test_what_cannot_be_measured_is_refused(change, words):
    with pytest.raises(ValueError, match=words):
        joint_measures(*change(*drawn(0)))


def test_infinite_logits_are_refused():
    logits, labels = drawn(0)
    logits[3, 2] = math.inf
    with pytest.raises(ValueError, match="1 of 60 images are not numbers, or infinite"):
        _bias_curve(logits, labels, HALF)
