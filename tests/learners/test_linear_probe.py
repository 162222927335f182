"A linear probe: where its vectors start, what its terms see, and that it knows its own classes alone."

import math

import pytest
import torch
from every_learner import EveryLearner
from random_clip import NAMES, images, random_clip
from shared import SUMS, fitted

from npt.data.load import load_dataset
from npt.learners.build import build_learner
from npt.learners.recipes import RECIPES
from npt.training.evaluation import base_to_novel


class TestLinearProbe(EveryLearner):
    cases = {start: ("linear_probe", dict(start=start)) for start in ("zero_shot", "random")}


def test_it_starts_as_zero_shot_clip_with_the_lengths_of_the_tower():
    clip = random_clip()
    probe, zero_shot = (build_learner(name, clip, NAMES) for name in ("linear_probe", "zero_shot"))
    texts = clip.tokenizer([f"a photo of a {name.replace('_', ' ')}." for name in NAMES])
    assert torch.allclose(probe.vectors, clip.model.encode_text(texts), atol=1e-12)
    assert torch.allclose(probe.logits(images()), zero_shot.logits(images()), atol=1e-12)


def test_the_mean_over_templates_is_taken_before_lengths_go():
    clip = random_clip()
    templates = ["a photo of a {}.", "a drawing of a {}."]
    each = [build_learner("linear_probe", clip, NAMES, template).vectors for template in templates]
    assert torch.allclose(build_learner("linear_probe", clip, NAMES, templates).vectors, sum(each) / 2, atol=1e-12)


def test_random_vectors_are_normal_with_the_variance_two_by_width():
    clip = random_clip()
    many = build_learner("linear_probe", clip, [f"class {number}" for number in range(300)], start="random").vectors.detach()
    spread = many.flatten() / math.sqrt(2 / 48)
    assert abs(spread.mean()) < 0.03 and abs(spread.var() - 1) < 0.05 and abs((spread**4).mean() - 3) < 0.3


def test_what_is_no_start_is_refused():
    with pytest.raises(ValueError, match="there is no start 'zeroshot'. Did you mean 'zero_shot'"):
        build_learner("linear_probe", random_clip(), NAMES, start="zeroshot")


def test_the_recipe_is_that_of_the_official_configuration():
    found = RECIPES["linear_probe"]
    assert (found.lr, found.epochs, found.batch_size, found.optimizer, found.objective) == (0.1, 300, 256, "sgd_no_decay", "ce")


@pytest.mark.parametrize("objective", SUMS)
def test_it_is_trained_by_any_sum_of_terms(objective):
    before, after, history = fitted("linear_probe", objective)
    assert not history.isna().any().any() and history.accuracy.between(0, 100).all()
    for (key, one), other in zip(before.named_parameters(), after.parameters(), strict=True):
        assert not torch.equal(one, other) and other.isfinite().all(), key


def test_there_is_no_accuracy_on_classes_that_it_never_saw():
    _, probe, _ = fitted("linear_probe", "own")
    measured = base_to_novel(probe, load_dataset("world/shapes", shots=2, seed=1), on="val")
    assert measured["base"] > 0 and math.isnan(measured["novel"]) and math.isnan(measured["h"])
