"LP++: its start and its steps from the data, by loops."

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from every_learner import EveryLearner
from random_clip import NAMES, images, random_clip
from shared import SUMS, fitted
from written_out import SEEN, literal_step_sizes, trained

from npt.learners.build import build_learner
from npt.learners.recipes import RECIPES


class TestLPPlusPlus(EveryLearner):
    cases = {"lp_plus_plus": ("lp_plus_plus", dict())}


@pytest.fixture(scope="module")
def clip():
    return random_clip()


def test_without_training_images_it_is_zero_shot_clip(clip):
    probe, zero_shot = (build_learner(name, clip, NAMES) for name in ("lp_plus_plus", "zero_shot"))
    assert torch.allclose(probe.logits(images()), zero_shot.logits(images()), atol=1e-10)


def test_it_starts_at_sums_of_features_and_at_250_mean_cosines(clip):
    probe = trained(clip, "lp_plus_plus", {}, steps=0)
    features, text, labels = clip.encode_image(images(5, seed=3)).numpy(), probe.features.numpy(), SEEN.numpy()
    sums = np.stack([sum(features[labels == k]) for k in range(3)])
    alpha = 250 * np.mean([np.mean([f @ text[k] for f in features[labels == k]]) for k in range(3)])
    weight, found = (probe.units[0] * probe.weight).detach().numpy(), (probe.units[1] * probe.alpha).detach().numpy()
    assert np.abs(weight - sums).max() < 1e-12 and np.abs(found - alpha).max() < 1e-10 and not probe.bias.any()
    assert np.allclose(probe.units.numpy() ** 2, literal_step_sizes(torch.tensor(features), torch.tensor(text)), rtol=1e-12)
    sizes = literal_step_sizes(torch.tensor(features), torch.tensor(text))
    assert sizes[0] >= 4 - 1e-9, "the sum over N images of squares has no eigenvalue above N"


def test_a_class_without_images_starts_at_its_text_alone(clip):
    probe = build_learner("lp_plus_plus", clip, NAMES)
    probe.remember(clip.encode_image(images(5, seed=3)), torch.tensor([0, 0, 1, 1, 1]))
    assert not probe.weight[2].any() and probe.alpha.isfinite().all() and (probe.alpha == probe.alpha[0]).all()


def test_steps_at_the_rate_one_are_momentum_steps_at_its_own_sizes(clip):
    probe, features = trained(clip, "lp_plus_plus", {}, steps=0), clip.encode_image(images(5, seed=3))
    text, (of_weight, of_alpha) = probe.features, literal_step_sizes(features, probe.features)
    values = [(probe.units[0] * probe.weight).detach(), torch.zeros(3, dtype=torch.float64), (probe.units[1] * probe.alpha).detach()]
    speeds, optimizer = [torch.zeros_like(one) for one in values], torch.optim.SGD(probe.parameters(), lr=1.0, momentum=0.9)
    for _ in range(4):
        w, b, a = (one.requires_grad_() for one in values)
        gradients = torch.autograd.grad(F.cross_entropy(features @ w.T + b + features @ text.T * a, SEEN), [w, b, a])
        speeds = [0.9 * speed + gradient for speed, gradient in zip(speeds, gradients)]
        values = [(one - size * speed).detach() for one, size, speed in zip(values, (of_weight, of_weight, of_alpha), speeds)]
        optimizer.zero_grad()
        F.cross_entropy(probe.class_logits(features)[1], SEEN).backward()
        optimizer.step()
    found = probe.units[0] * probe.weight, probe.units[0] * probe.bias, probe.units[1] * probe.alpha
    assert all(torch.allclose(one, other, atol=1e-9) for one, other in zip(found, values, strict=True))


def test_terms_see_what_features_are_multiplied_with(clip):
    probe = trained(clip, "lp_plus_plus", {})
    text, _, logits = probe(clip.encode_image(images()))[:3]
    by_hand = probe.units[0] * probe.weight + (probe.units[1] * probe.alpha)[:, None] * probe.features
    assert torch.allclose(text, by_hand / by_hand.norm(dim=1, keepdim=True), atol=1e-12)
    assert torch.allclose(logits, clip.encode_image(images()) @ by_hand.T + probe.units[0] * probe.bias, atol=1e-10)


def test_the_recipe_is_that_of_the_official_configuration():
    found = RECIPES["lp_plus_plus"]
    assert (found.lr, found.epochs, found.optimizer, found.objective) == (1.0, 300, "sgd_no_decay", "ce") and found.batch_size >= 16 * 1000


@pytest.mark.parametrize("objective", SUMS)
def test_it_is_trained_by_any_sum_of_terms(objective):
    before, after, history = fitted("lp_plus_plus", objective)
    assert not history.isna().any().any() and history.accuracy.between(0, 100).all()
    for (key, one), other in zip(before.named_parameters(), after.parameters(), strict=True):
        assert not torch.equal(one, other) and other.isfinite().all(), key
