"""CoCoOp: a prompt for each picture; prompts of many pictures take turns."""

import pytest
import torch
import torch.nn.functional as F
from every_learner import EveryLearner, features
from random_clip import NAMES, images, random_clip

from npt.clip.frozen import FrozenCLIP
from npt.learners.build import build_learner


class TestCoCoOp(EveryLearner):
    cases = {"words": ("cocoop", dict())}


@pytest.fixture(scope="module")
def clip() -> FrozenCLIP:
    return random_clip()


def test_cocoop_takes_many_prompts_in_turn(clip, monkeypatch):
    learner = build_learner("cocoop", clip, NAMES)
    expected = learner.logits(images())
    monkeypatch.setattr("npt.learners.cocoop._PROMPTS_AT_ONCE", 3)
    with torch.no_grad():
        assert torch.allclose(learner.logits(images()), expected, atol=1e-9)


def test_cocoop_reduces_class_vectors_to_logits_part_by_part(clip, monkeypatch):
    learner, image = build_learner("cocoop", clip, NAMES), features().repeat(4, 1)[:11]
    text = learner.conditional_text_features(image)
    logits = learner.to_logits(torch.einsum("bd,bkd->bk", image, text))
    mean = F.normalize(text.mean(0), dim=1)
    held, make = [], type(learner).conditional_text_features
    monkeypatch.setattr("npt.learners.cocoop._PROMPTS_AT_ONCE", 6)
    monkeypatch.setattr(type(learner), "conditional_text_features",
                        lambda self, part: held.append(len(part)) or make(self, part))
    with torch.no_grad():
        in_parts = learner.class_logits(image)
    assert held == [2, 2, 2, 2, 2, 1]
    assert torch.allclose(in_parts[0], mean, atol=1e-9) and torch.allclose(in_parts[1], logits, atol=1e-9)
    learned = learner.class_logits(image)[1]
    assert held[6:] == [11], "where something is learned, the text tower's memory budget decides what is run in turn"
    assert torch.allclose(learned, logits, atol=1e-9)
    learned.sum().backward()
    assert learner.context.grad.norm() > 0
