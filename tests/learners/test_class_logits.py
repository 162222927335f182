"Logits of features: with class vectors that are known no work is done twice, and CoCoOp makes its own part by part."

import pytest
import torch
import torch.nn.functional as F
from shared import LOADED, in_world

from npt.learners.build import build_learner

NAMES = ["red striped triangle", "blue dotted heart", "yellow zigzag ring"]


def unit(count):
    return F.normalize(torch.randn(count, LOADED.embed_dim, generator=torch.Generator().manual_seed(1)), dim=1)


@pytest.mark.parametrize("name", ["coop", "tip_adapter", "tip_adapter_f", "ivlp", "cocoop"])
def test_known_class_vectors_give_the_same_logits(name, monkeypatch):
    learner, image = in_world(name, LOADED, NAMES), unit(5)
    if learner.remembers:
        learner.remember(image.flip(0), torch.tensor([0, 1, 2, 0, 1]))
    (text, logits), known = learner.class_logits(image), learner.text_features()
    if name != "cocoop":  # whose vectors come from the images
        monkeypatch.setattr(type(learner), "text_features", lambda self: pytest.fail("the text tower ran again"))
    again, same = learner.class_logits(image, known)
    assert torch.equal(text, again) and torch.equal(logits, same)
    if name != "cocoop" and not learner.remembers:
        assert torch.allclose(learner.class_logits(image, known.flip(0))[1].flip(1), logits, atol=1e-4), "they were not used"


def test_cocoop_reduces_class_vectors_to_logits_part_by_part(monkeypatch):
    learner, image = build_learner("cocoop", LOADED, NAMES), unit(11)
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
    assert torch.allclose(in_parts[0], mean, atol=1e-5) and torch.allclose(in_parts[1], logits, atol=1e-3)
    learned = learner.class_logits(image)[1]
    assert held[6:] == [11], "where something is learned, the text tower's memory budget decides what is run in turn"
    assert torch.allclose(learned, logits, atol=1e-3)
    learned.sum().backward()
    assert learner.context.grad.norm() > 0
