"""Every learner on nine kinds of CLIP, reduced: it works, or says in a sentence why not."""

import pytest
import torch
from backbones import CLASSNAMES, SMALL_IMAGE, assert_a_sentence, images, open_clips, reduced, train_a_step, why_not
from torch import Tensor, nn

from npt.clip.frozen import FrozenCLIP
from npt.learners.base import LEARNERS, register_learner
from npt.learners.build import build_learner
from npt.learners.zero_shot import ZeroShot

NO_IMAGE_PROMPTS = {
    "RN50-quickgelu": "a ResNet has no sequence of tokens",
    "EVA02-B-16": "rotates keys by their place",
    "MobileCLIP-S1": "the image tower is a FastVit",
    "convnext_base_w": "the image tower is a ConvNeXt",
}
IMAGE_PROMPTS = {"vpt", "ivlp", "maple"}  # the learners that need them
TEXTS = ["a photo of a cat.", "a photo of a red fox.", "a photo of a hand-held computer."]


@pytest.fixture(scope="module", params=SMALL_IMAGE)
def clip(request) -> FrozenCLIP:
    return reduced(request.param)


def assert_close(ours: Tensor, expected: Tensor, within: float):
    assert ours.shape == expected.shape and (ours - expected).abs().max() < within


def test_a_learned_context_at_its_words_is_the_hand_written_prompt(clip):
    "Whatever the tokenizer: SigLIP's has no token before the first word, and pads with the end of text."
    coop = build_learner("coop", clip, CLASSNAMES)
    assert_close(coop.text_features(), open_clips(clip, images(clip), TEXTS)[1], 1e-5)
    assert clip.start_length == (0 if clip.name == "ViT-B-16-SigLIP" else 1)


@pytest.mark.parametrize("name", LEARNERS)
def test_a_learner_works_or_says_in_a_sentence_why_not(clip, name):
    try:
        made = build_learner(name, clip, CLASSNAMES)
    except ValueError as error:
        assert_a_sentence(str(error))
        assert why_not(name, clip) == str(error)
        assert name in {*IMAGE_PROMPTS, "lora"} and clip.name in {*NO_IMAGE_PROMPTS, "ViT-B-16-SigLIP"}
        if name in IMAGE_PROMPTS:
            assert NO_IMAGE_PROMPTS[clip.name] in str(error)
        return
    assert name not in IMAGE_PROMPTS or clip.name not in NO_IMAGE_PROMPTS
    logits = train_a_step(made)
    assert logits.shape == (3, 3) and logits.isfinite().all()
    for key, parameter in made.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), key
    assert all(p.grad is None for p in clip.model.parameters()), "CLIP stays as it is"
    for features in made.text_features(), made.image_features(images(clip)):
        assert_close(features.norm(dim=-1), torch.ones(3), 1e-5)
    try:
        novel = made.for_classes(["annual_crop_land", "dog"])
    except ValueError as error:
        assert_a_sentence(str(error))
        return
    assert all(one is other for one, other in zip(made.parameters(), novel.parameters(), strict=True))
    assert novel.logits(images(clip)).shape == (3, 2) and made.logits(images(clip)).shape == (3, 3)


def test_a_learner_that_does_not_learn_is_found_out():
    class Broken(ZeroShot):
        def __init__(self, clip, classnames, template="a photo of a {}."):
            super().__init__(clip, classnames, template)
            self.used, self.unused = nn.Parameter(torch.ones(())), nn.Parameter(torch.ones(()))

        def text_features(self) -> Tensor:
            return self.features * self.used * factor

    register_learner("broken")(Broken)
    try:
        clip = reduced("ViT-B-32-quickgelu")
        for factor, words in (1.0, r"\['unused'\]"), (float("nan"), "used"):
            with pytest.raises(ArithmeticError, match=f"broken on ViT-B-32-quickgelu.*{words}"):
                why_not("broken", clip)
    finally:
        del LEARNERS["broken"]
