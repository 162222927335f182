"""MMRL: the published method and its loss, which features are used for which classes, and the towers that it needs."""

import pytest
import torch
import torch.nn.functional as F
from backbones import CLASSNAMES, reduced
from every_learner import EveryLearner
from random_clip import NAMES, images, random_clip
from written_out import PETS, literal_image, literal_mmrl_features, trained, written_classes

from npt.learners.build import build_learner
from npt.objectives.anchors import Anchors
from npt.objectives.objective import build_objective
from npt.objectives.terms import StepFeatures


class TestMMRL(EveryLearner):
    cases = {
        "as published": ("mmrl", dict(width=24)),
        "one block": ("mmrl", dict(width=16, layers=1, n_tokens=2, alpha=0.4, template=PETS)),
    }


def test_the_published_loss_and_its_gradients_are_those_of_the_method_written_out(small):
    learner, labels = trained(small, "mmrl", dict(width=24)).train(), torch.tensor([2, 0, 1])
    frozen_text, frozen_image = written_classes(learner), literal_image(small, images(), [])
    seen = learner(images())
    mine, _ = build_objective("mmrl")(StepFeatures(
        seen.text, seen.image, labels, seen.logits, parts=seen.own, encode_image=lambda: small.encode_image(images()),
        anchors=Anchors(lambda: frozen_text, lambda: frozen_text)))
    text, image, of_tokens = literal_mmrl_features(learner, images())
    held = [1 - F.cosine_similarity(*pair).mean() for pair in ((image, frozen_image), (text, frozen_text))]
    both = [F.cross_entropy(small.logit_scale * feature @ text.T, labels) for feature in (image, of_tokens)]
    written = 0.7 * both[0] + 0.3 * both[1] + sum(held)
    assert abs(mine - written) < 1e-6
    names, parameters = zip(*learner.named_parameters())
    for name, one, other in zip(names, torch.autograd.grad(mine, parameters), torch.autograd.grad(written, parameters), strict=True):
        assert other.norm() > 1e-7, f"{name} must matter"
        assert torch.allclose(one, other, atol=1e-6, rtol=1e-6), name


def test_both_features_serve_the_classes_of_the_training_alone(small):
    learner = trained(small, "mmrl", dict(width=24))
    text, image, of_tokens = literal_mmrl_features(learner, images())
    assert not torch.allclose(learner.logits(images()), small.logit_scale * image @ text.T, atol=0.1)
    again = learner.for_classes(["dog"]).for_classes(NAMES)
    assert torch.equal(again.logits(images()), learner.logits(images()))
    wider = learner.for_classes([*NAMES, "dog"])
    assert torch.allclose(wider.logits(images())[:, :3], small.logit_scale * image @ text.T, atol=1e-6)


def test_a_step_runs_each_tower_once(small, monkeypatch):
    learner, passes = trained(small, "mmrl", dict(width=24)).train(), []
    model = small.model
    monkeypatch.setattr(model, "encode_image", lambda pixels, own=model.encode_image: (passes.append("image"), own(pixels))[1])
    learner(images())
    assert passes == ["image"]


@pytest.mark.parametrize("backbone, reason", [("ViT-B-16-SigLIP", "reads its class token alone"), ("RN50-quickgelu", "a ModifiedResNet")])
def test_a_tower_of_another_kind_is_refused(backbone, reason):
    with pytest.raises(ValueError, match=reason):
        build_learner("mmrl", reduced(backbone), CLASSNAMES, width=8)


def test_the_published_share_of_the_blocks():
    assert build_learner("mmrl", random_clip(), NAMES).settings["layers"] == 2
    with pytest.raises(ValueError, match="layers=4 is no number of upper blocks"):
        build_learner("mmrl", random_clip(), NAMES, layers=4)
