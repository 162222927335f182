"""Zero-shot CLIP: the features of hand-written prompts, one or several, and nothing to learn."""

import pytest
import torch
import torch.nn.functional as F
from every_learner import EveryLearner
from random_clip import NAMES
from shared import LOADED

from npt.learners.build import build_learner

PROMPTS = ["a photo of a {}.", "a drawing of a {}."]


class TestZeroShot(EveryLearner):
    cases = {"one template": ("zero_shot", dict())}


def test_the_class_vectors_of_several_templates_are_their_mean():
    words = [name.replace("_", " ") for name in NAMES]
    each = torch.stack([LOADED.encode_text([prompt.format(word) for word in words]) for prompt in PROMPTS])
    assert torch.allclose(build_learner("zero_shot", LOADED, NAMES, PROMPTS).text_features(), F.normalize(each.mean(0), dim=1))


def test_it_holds_nothing():
    assert not build_learner("zero_shot", LOADED, NAMES).state_dict()


@pytest.mark.parametrize("settings, said", [
    (dict(classnames=["cat", "dog " * 40]), "dog dog"), (dict(template="a photo"), "{}"), (dict(template=[]), "template"),
], ids=str)
def test_mistakes_are_named(settings, said):
    with pytest.raises(ValueError, match=said):
        build_learner("zero_shot", LOADED, **dict(classnames=NAMES) | settings)
