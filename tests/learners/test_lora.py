"""Low-rank updates: the CLIP stays as it is, and a tower that they cannot enter is refused."""

import pytest
import torch
from every_learner import EveryLearner
from random_clip import NAMES, images, random_clip
from written_out import trained

from npt.clip.frozen import FrozenCLIP
from npt.learners.build import build_learner


class TestLoRA(EveryLearner):
    cases = {
        "both towers": ("lora", dict()),
        "text": ("lora", dict(towers="text", rank=3, alpha=0.5)),
        "image": ("lora", dict(towers="image", rank=1)),
    }


@pytest.fixture(scope="module")
def clip() -> FrozenCLIP:
    return random_clip()


def test_lora_on_a_resnet_is_for_the_text_tower_alone():
    clip = random_clip(resnet=True)
    with pytest.raises(ValueError, match="the image tower, a ModifiedResNet, is none"):
        build_learner("lora", clip, NAMES)
    assert build_learner("lora", clip, NAMES, towers="text").logits(images()).shape == (3, 3)


def test_lora_leaves_the_clip_as_it_is(clip):
    before = {name: weights.clone() for name, weights in clip.model.state_dict().items()}
    learner = trained(clip, "lora", {})
    learner.logits(images()).sum().backward()
    with pytest.raises(ZeroDivisionError):  # also where the tower fails
        learner.updated("text", lambda: 1 / 0)
    assert all(torch.equal(weights, before[name]) for name, weights in clip.model.state_dict().items())
    assert not any(weights.requires_grad or weights.grad is not None for weights in clip.model.parameters())
