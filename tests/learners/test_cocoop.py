"""CoCoOp: prompts of many pictures take turns."""

import pytest
import torch
from written_out import NAMES, images, random_clip

from npt.clip.frozen import FrozenCLIP
from npt.learners.build import build_learner


@pytest.fixture(scope="module")
def clip() -> FrozenCLIP:
    return random_clip()


def test_cocoop_takes_many_prompts_in_turn(clip, monkeypatch):
    learner = build_learner("cocoop", clip, NAMES)
    expected = learner.logits(images())
    monkeypatch.setattr("npt.learners.cocoop._PROMPTS_AT_ONCE", 3)
    with torch.no_grad():
        assert torch.allclose(learner.logits(images()), expected, atol=1e-9)
