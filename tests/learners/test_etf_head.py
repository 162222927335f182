"A fixed simplex ETF as the classifier: how it is turned, what learns before it, and by which loss."

import numpy as np
import pytest
import torch
from every_learner import EveryLearner
from random_clip import NAMES, images, random_clip
from shared import SUMS, fitted
from written_out import literal_turned_etf, trained, written_classes

from npt.learners.build import build_learner
from npt.learners.recipes import RECIPES
from npt.objectives.objective import build_objective
from npt.objectives.terms import StepFeatures


class TestETFHead(EveryLearner):
    cases = {start: ("etf_head", dict(start=start)) for start in ("random", "zero_shot")}


@pytest.fixture(scope="module")
def clip():
    return random_clip()


@pytest.mark.parametrize("start", ["random", "zero_shot"])
def test_the_head_is_a_simplex_etf_that_does_not_learn_and_the_map_starts_at_nothing(clip, start):
    head = build_learner("etf_head", clip, NAMES, start=start)
    cosines = (head.head @ head.head.T).numpy()
    assert np.abs(cosines - (np.eye(3) * 1.5 - 0.5)).max() < 1e-6
    assert [name for name, _ in head.named_parameters()] == ["map.weight"] and torch.equal(head.map.weight, torch.eye(48).double())
    assert torch.allclose(head.image_features(images()), clip.encode_image(images()), atol=1e-12)


def test_the_anchored_head_is_turned_onto_the_text_features(clip):
    head = build_learner("etf_head", clip, NAMES, start="zero_shot")
    assert torch.allclose(head.head, literal_turned_etf(written_classes(head)), atol=1e-9)


def test_a_random_head_is_saved_with_its_map(clip):
    state = trained(clip, "etf_head", {}).state_dict()
    assert set(state) == {"head", "map.weight"} and state["head"].shape == (3, 48)


def test_its_own_loss_is_dot_regression_with_the_weights_of_a_batch(clip):
    head, labels = trained(clip, "etf_head", {}), torch.tensor([0, 0, 2, 0, 2])
    text, image, logits = head(clip.encode_image(images(5)))[:3]
    loss, _ = build_objective(RECIPES["etf_head"].objective)(StepFeatures(text, image, labels, logits))
    counts, total = {0: 3, 2: 2}, 0
    for feature, label in zip(image, labels.tolist()):
        length = (5 / 2 / counts[label]) ** 0.5  # of the class's corner in this batch
        total = total + (length * (feature @ text[label]) - length) ** 2 / 2
    assert torch.allclose(loss, total / 5, atol=1e-12)


def test_more_classes_than_an_etf_has_room_for_are_told(clip):
    names = [f"class {number}" for number in range(60)]
    with pytest.warns(UserWarning, match="No simplex ETF of 60 vectors exists in 48 dimensions"):
        assert build_learner("etf_head", clip, names).head.shape == (60, 48)


@pytest.mark.parametrize("start", ["random", "zero_shot"])
def test_one_class_is_no_etf(clip, start):
    with pytest.raises(ValueError, match="2 (classes|vectors)"):
        build_learner("etf_head", clip, ["cat"], start=start)


def test_what_is_no_start_is_refused(clip):
    with pytest.raises(ValueError, match="there is no start 'text'"):
        build_learner("etf_head", clip, NAMES, start="text")


def test_the_recipe_is_that_of_the_official_configuration():
    found = RECIPES["etf_head"]
    assert (found.lr, found.epochs, found.batch_size, found.optimizer, found.objective) == (0.1, 90, 1024, "sgd", "mi_dot")


@pytest.mark.parametrize("objective", SUMS)
def test_it_is_trained_by_any_sum_of_terms(objective):
    before, after, history = fitted("etf_head", objective)
    assert not history.isna().any().any() and history.accuracy.between(0, 100).all()
    for (key, one), other in zip(before.named_parameters(), after.parameters(), strict=True):
        assert not torch.equal(one, other) and other.isfinite().all(), key
