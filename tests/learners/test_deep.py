"""Prompts in both towers: the published methods, and what cannot take them says so."""

import pytest
from every_learner import EveryLearner
from random_clip import NAMES, random_clip

from npt.learners.build import build_learner


class TestDeepPrompts(EveryLearner):
    cases = {
        "vpt, shallow": ("vpt", dict(depth=1)),
        "vpt, deep": ("vpt", dict(depth=4, n_ctx_image=3)),
        "ivlp": ("ivlp", dict(depth=3, depth_image=2, n_ctx=2, n_ctx_image=3)),
        "maple": ("maple", dict(depth=3)),
        "maple, shallow": ("maple", dict(depth=1, n_ctx=3, ctx_init=None)),
    }


@pytest.mark.parametrize("name", ["vpt", "ivlp", "maple"])
def test_image_prompts_on_a_resnet_are_refused_in_a_sentence(name):
    with pytest.raises(ValueError, match="need a vision transformer"):
        build_learner(name, random_clip(resnet=True), NAMES)
