"CLAP: its multipliers and its penalty, by loops, and that the penalty holds."

import numpy as np
import pytest
import torch
from every_learner import EveryLearner
from random_clip import NAMES, images, random_clip
from shared import SUMS, fitted
from written_out import SEEN, literal_logits, trained

from npt.learners.build import build_learner
from npt.learners.recipes import RECIPES
from npt.objectives.objective import build_objective
from npt.objectives.terms import StepFeatures


class TestCLAP(EveryLearner):
    cases = {constraint: ("clap", dict(constraint=constraint)) for constraint in ("class", "corrected", "constant", "balanced")}


@pytest.fixture(scope="module")
def clip():
    return random_clip()


def confidences(clip) -> np.ndarray:
    "Of each class, image by image."
    logits = build_learner("zero_shot", clip, NAMES).logits(images(5, seed=3)).numpy()
    powers = np.exp(logits - logits.max(1, keepdims=True))
    own = [powers[i, k] / powers[i].sum() for i, k in enumerate(SEEN.tolist())]
    return np.array([np.mean([p for p, k in zip(own, SEEN.tolist()) if k == each]) for each in range(3)])


@pytest.mark.parametrize("constraint", ["class", "corrected", "constant", "balanced"])
def test_multipliers_are_what_zero_shot_clip_gives_the_own_class(clip, constraint):
    found, shares = trained(clip, "clap", dict(constraint=constraint)).multipliers.numpy(), confidences(clip)
    expected = dict(corrected=shares * 3 / shares.sum(), constant=np.full(3, shares.mean()), balanced=np.ones(3)).get(constraint, shares)
    assert np.abs(found - expected).max() < 1e-12 and (constraint in ("constant", "balanced") or np.ptp(found) > 1e-3)


def test_a_class_without_images_is_held_fully(clip):
    learner = build_learner("clap", clip, NAMES)
    learner.remember(clip.encode_image(images(5, seed=3)), torch.tensor([0, 0, 1, 1, 1]))
    assert learner.multipliers[2] == 1 and (learner.multipliers[:2] < 1).all()


def test_the_loss_and_its_gradient_are_those_of_the_method_written_out(clip):
    learner, labels = trained(clip, "clap", {}, steps=0.1), torch.arange(3)
    text, image, logits, own = learner.train()(clip.encode_image(images()))
    loss, terms = build_objective(RECIPES["clap"].objective)(StepFeatures(text, image, labels, logits, parts=own))
    start, written = clip.encode_text([f"a photo of a {name.replace('_', ' ')}." for name in NAMES], unit=False), literal_logits(learner, images())
    penalty = 0
    for k, confidence in enumerate(confidences(clip)):
        penalty = penalty + confidence * ((learner.vectors[k] - start[k]) ** 2).sum() / 3
    by_hand = -sum(written[i].log_softmax(0)[i] for i in range(3)) / 3 + penalty
    assert abs(terms["clap"] - penalty) < 1e-6 and abs(loss - by_hand) < 1e-6 and penalty > 1e-3
    mine, theirs = (torch.autograd.grad(one, learner.vectors)[0] for one in (loss, by_hand))
    assert torch.allclose(mine, theirs, atol=1e-6)


def test_multipliers_come_from_where_the_vectors_started(clip):
    learner = trained(clip, "clap", {}, steps=3.0)
    before = learner.multipliers.clone()
    learner.remember(clip.encode_image(images(5, seed=3)), SEEN)
    assert torch.equal(learner.multipliers, before)


def test_what_is_no_constraint_is_refused(clip):
    with pytest.raises(ValueError, match="there is no constraint 'l2'"):
        build_learner("clap", clip, NAMES, constraint="l2")


def test_the_penalty_holds():
    free, held = ((one.vectors - one.written).norm() for _, one, _ in (fitted("clap", objective, epochs=100) for objective in ("ce", "own")))
    assert 0 < held < 0.9 * free


def test_the_recipe_is_that_of_the_official_configuration():
    found = RECIPES["clap"]
    assert (found.lr, found.epochs, found.batch_size, found.optimizer, found.objective) == (0.1, 300, 256, "sgd_no_decay", "ce + clap")


@pytest.mark.parametrize("objective", SUMS)
def test_it_is_trained_by_any_sum_of_terms(objective):
    before, after, history = fitted("clap", objective)
    assert not history.isna().any().any() and history.accuracy.between(0, 100).all()
    for (key, one), other in zip(before.named_parameters(), after.parameters(), strict=True):
        assert not torch.equal(one, other) and other.isfinite().all(), key
