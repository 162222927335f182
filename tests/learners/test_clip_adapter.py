"""CLIP-Adapter: the published method, and settings that are out of range."""

import pytest
import torch
from every_learner import EveryLearner, features
from random_clip import NAMES, random_clip

from npt.learners.build import build_learner


class TestCLIPAdapter(EveryLearner):
    cases = {"as published": ("clip_adapter", dict()), "wider": ("clip_adapter", dict(reduction=2, ratio=0.6))}


def test_a_ratio_of_zero_is_the_frozen_feature():
    assert torch.allclose(build_learner("clip_adapter", random_clip(), NAMES, ratio=0.0).adapt(features()), features())


@pytest.mark.parametrize("settings, said", [(dict(reduction=0), "reduction=0 leaves.*give 1 to 48"), (dict(reduction=49), "reduction=49"),
                                            (dict(ratio=-0.1), "ratio=-0.1 must be from 0"), (dict(ratio=1.5), "ratio=1.5")])
def test_settings_out_of_range_are_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        build_learner("clip_adapter", random_clip(), NAMES, **settings)
