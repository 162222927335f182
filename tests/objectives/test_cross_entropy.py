"Rebalanced cross-entropies against their papers, image by image."

import math

import numpy as np
import pytest
import torch

from npt.objectives import cross_entropy  # noqa: F401 (it puts its terms into the table)
from npt.objectives.terms import TERMS, StepFeatures

TAIL = [16, 11, 8, 5, 3, 2, 1]
CASES = [("logit_adjusted", 0.0), ("logit_compensated", 0.0), ("class_balanced", 0.0), ("focal", 0.0), ("ldam", 0.0), ("ldam_drw", 0.79), ("ldam_drw", 0.8)]


def random_step(num_classes, batch, counts, progress=0.0, seed=0):
    "Text and image features of unit length in float64 that want a gradient, and the step they make."
    draw = torch.Generator().manual_seed(seed)
    text, image = (torch.randn(n, 6, generator=draw, dtype=torch.float64) for n in (num_classes, batch))
    labels = torch.randint(num_classes, (batch,), generator=draw)
    text, image = text.requires_grad_(), image.requires_grad_()

    def step(text, image):
        text, image = torch.nn.functional.normalize(text, dim=1), torch.nn.functional.normalize(image, dim=1)
        return StepFeatures(text, image, labels, 20.0 * image @ text.T, counts=torch.tensor(counts),
                            logit_scale=torch.tensor(20.0), progress=progress)

    return (text, image), step


def one_image(name, logits, label, counts, scale):
    "A term's loss of one image by its paper's formula, and the image's weight in the mean, in plain Python."
    counts, logits = list(map(float, counts)), list(logits)
    effective = [(1 - 0.9999**n) / (1 - 0.9999) for n in counts]
    weight = len(counts) / effective[label] / sum(1 / e for e in effective)
    if name == "logit_adjusted":
        logits = [z + math.log(n / sum(counts)) for z, n in zip(logits, counts)]
    if name == "logit_compensated":
        logits = [z + math.log((n + 1) / (sum(counts) + len(counts))) for z, n in zip(logits, counts)]
    if name.startswith("ldam"):
        logits[label] -= scale * 0.5 * counts[label] ** -0.25 / max(n**-0.25 for n in counts)
    p = math.exp(logits[label]) / sum(map(math.exp, logits))
    return -math.log(p) * ((1 - p) ** 2 if name == "focal" else 1), weight


def by_paper(name, step, counts):
    "A term by its paper's formula."
    losses, weights = zip(*(one_image(name, logits.tolist(), int(label), counts, 20.0)
                            for logits, label in zip(step.logits.detach(), step.labels)))
    if name == "class_balanced":
        return np.mean(np.multiply(losses, weights))
    return np.average(losses, weights=weights if name == "ldam_drw" and step.progress >= 0.8 else None)


@pytest.mark.parametrize("name, progress", CASES)
def test_terms_agree_with_their_papers_image_by_image(name, progress):
    for counts in TAIL, [1300, 1, 1, 1, 1, 1, 1]:
        features, make = random_step(7, 13, counts, progress)
        step = make(*features)
        assert TERMS[name](step).item() == pytest.approx(by_paper(name, step, counts), rel=1e-9)


def test_balanced_softmax_is_logit_adjustment():
    assert TERMS["balanced_softmax"] is TERMS["logit_adjusted"]


@pytest.mark.parametrize("name, progress", CASES)
def test_gradients_reach_text_and_image_features(name, progress):
    for counts in [16, 4, 1], [100_000, 1, 1]:
        features, make = random_step(len(counts), 5, counts, progress)
        assert torch.autograd.gradcheck(lambda *features: TERMS[name](make(*features)), features)
        TERMS[name](make(*features)).backward()
        assert all(feature.grad.abs().max() > 0 for feature in features)


@pytest.mark.parametrize("name, progress", CASES)
def test_a_single_class_has_nothing_to_learn(name, progress):
    features, make = random_step(1, 5, [3], progress)
    TERMS[name](make(*features)).backward()
    assert not any(feature.grad.abs().max() > 0 for feature in features)


@pytest.mark.parametrize("name", ["logit_adjusted", "logit_compensated", "class_balanced"])
def test_without_a_tail_rebalancing_is_cross_entropy(name):
    features, make = random_step(4, 9, [16] * 4)
    torch.testing.assert_close(TERMS[name](make(*features)), TERMS["ce"](make(*features)))


def test_counts_that_are_changed_in_place_are_looked_at_again():
    counts = torch.tensor([16, 4, 1])
    step = StepFeatures(torch.eye(3), torch.eye(3), torch.arange(3), torch.eye(3), counts=counts, logit_scale=1.0)
    assert TERMS["logit_adjusted"](step).isfinite()
    counts[2] = 0
    with pytest.raises(ValueError, match="from 0 upwards"):
        TERMS["logit_adjusted"](step)


@pytest.mark.parametrize("counts", [None, [16, 4], [16, 4, 0]])
def test_counts_that_do_not_fit_are_refused(counts):
    step = StepFeatures(torch.eye(3), torch.eye(3), torch.arange(3), torch.eye(3), counts=counts, logit_scale=1.0)
    for name in "logit_adjusted", "class_balanced", "ldam":
        with pytest.raises(ValueError, match="counts"):
            TERMS[name](step)


def test_a_class_without_an_image_is_compensated_for_and_one_with_fewer_is_refused():
    features, make = random_step(4, 9, counts := [16, 4, 0, 0])
    step = make(*features)
    by_hand = [math.log(sum((n + 1) * math.exp(z) for n, z in zip(counts, row.tolist())) / ((counts[y] + 1) * math.exp(row[y])))
               for row, y in zip(step.logits.detach(), step.labels.tolist())]
    assert TERMS["logit_compensated"](step).item() == pytest.approx(np.mean(by_hand), rel=1e-9)
    assert torch.autograd.gradcheck(lambda *features: TERMS["logit_compensated"](make(*features)), features)
    for wrong in None, [16, 4], [16, 4, 0, -1]:
        features, make = random_step(4, 9, counts)
        step = make(*features)
        with pytest.raises(ValueError, match="counts"):
            TERMS["logit_compensated"](StepFeatures(step.text, step.image, step.labels, step.logits, counts=wrong, logit_scale=1.0))
