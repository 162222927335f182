"""Prompts in both towers: what cannot take them says so."""

import pytest
from written_out import NAMES, random_clip

from npt.learners.build import build_learner


@pytest.mark.parametrize("name", ["vpt", "ivlp", "maple"])
def test_image_prompts_on_a_resnet_are_refused_in_a_sentence(name):
    with pytest.raises(ValueError, match="need a vision transformer"):
        build_learner(name, random_clip(resnet=True), NAMES)
