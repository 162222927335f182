"How far confidence is from accuracy: the error of Guo et al., image by image, and the edges of its bins."

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from npt.clip.load import load_clip
from npt.data.load import load_dataset
from npt.learners.build import build_learner
from npt.training.calibration import _BINS, calibration_error, reliability_bins
from npt.training.evaluation import evaluate, outputs


def by_hand(logits: np.ndarray, labels: np.ndarray, bins: int = 15) -> float:
    "ECE in percent, image by image and bin by bin, in 64-bit floats."
    logits = logits.astype(np.float64)
    shares = np.exp(logits - logits.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    confidence, right = shares.max(1), shares.argmax(1) == labels
    total = 0.0
    for number in range(bins):
        inside = (confidence > number / bins) & (confidence <= (number + 1) / bins)
        if inside.any():
            total += inside.sum() * abs(right[inside].mean() - confidence[inside].mean())
    return 100 * total / len(labels)


@pytest.mark.parametrize("seed, images, classes, scale", [(0, 1000, 2, 1), (1, 500, 10, 4), (2, 99, 100, 3), (3, 7, 5, 10)])
def test_calibration_error_is_that_of_numpy(seed, images, classes, scale):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, images)
    logits = (scale * rng.normal(size=(images, classes))).astype(np.float32)
    logits[np.arange(images), labels] += scale
    bins = reliability_bins(torch.tensor(logits), torch.tensor(labels))
    assert calibration_error(bins) == pytest.approx(by_hand(logits, labels), abs=1e-4)
    assert bins.images.sum() == images and ((bins.low < bins.confidence) & (bins.confidence <= bins.high + 1e-5)).all()
    accuracy = 100 * (logits.argmax(1) == labels).mean()
    assert np.average(bins.accuracy, weights=bins.images) == pytest.approx(accuracy)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 40), st.integers(1, 6))
def test_calibration_error_is_a_share_and_has_no_order(seed, images, classes):
    generator = torch.Generator().manual_seed(seed)
    logits, order = 5 * torch.randn(images, classes, generator=generator), torch.randperm(images, generator=generator)
    labels = torch.randint(classes, (images,), generator=generator)
    error = calibration_error(reliability_bins(logits, labels))
    assert 0 <= error <= 100 and error == pytest.approx(calibration_error(reliability_bins(logits[order], labels[order])))
    assert error == pytest.approx(calibration_error(reliability_bins(logits - 1000, labels)), abs=0.1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_confidence_at_an_edge_belongs_to_the_lower_bin(dtype):
    for classes, upper in (3, 5), (5, 3), (15, 1), (1, 15):  # classes that are level: a confidence of 1/classes = upper/15
        bins = reliability_bins(torch.full((4, classes), 3.0, dtype=dtype), torch.zeros(4, dtype=torch.int64))
        assert bins.images.tolist() == [4] and bins.high.tolist() == pytest.approx([100 * upper / _BINS])
        assert calibration_error(bins) == pytest.approx(100 - 100 / classes, abs=1e-4)


def test_calibration_of_one_image_and_of_all_right():
    one = reliability_bins(torch.tensor([[2.0, 1.0]]), torch.tensor([1]))
    assert len(one) == 1 and calibration_error(one) == pytest.approx(100 / (1 + np.exp(-1)))
    sure = 1000 * torch.eye(4)[torch.tensor([0, 1, 2, 3, 3])]
    assert calibration_error(reliability_bins(sure, torch.tensor([0, 1, 2, 3, 3]))) == 0
    assert calibration_error(reliability_bins(sure, torch.tensor([1, 2, 3, 0, 0]))) == 100
    masked = torch.tensor([[0.0, -torch.inf], [-torch.inf, 0.0]])
    assert not reliability_bins(masked, torch.tensor([0, 0])).isna().any(axis=None)


def test_no_confidence_is_refused():
    with pytest.raises(ValueError, match="1 of 2 images have no confidence"):
        reliability_bins(torch.tensor([[0.0, 1.0], [torch.nan, 1.0]]), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="no images"):
        reliability_bins(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64))


def test_evaluate_says_how_far_confidence_is_off():
    split = load_dataset("world/textures", shots=1).novel.test
    split = split.take(range(0, len(split), 8))
    zero_shot = build_learner("zero_shot", load_clip("world"), split.classnames)
    made = outputs(zero_shot, split)
    assert evaluate(zero_shot, split)["ece"] == pytest.approx(by_hand(made.logits.numpy(), made.labels.numpy()), abs=1e-3)
