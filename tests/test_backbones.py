"""Nine kinds of CLIP, reduced: their features are open_clip's, and every learner works or says in a sentence why not."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from npt.backbones import CLASSNAMES, SMALL_IMAGE, reduced, small_learner, train_a_step, why_not
from npt.clip.frozen import FrozenCLIP
from npt.clip.load import load_clip
from npt.learners.base import LEARNERS, Learner, register_learner
from npt.learners.zero_shot import ZeroShot
from npt.learners.build import build_learner
from npt.clip.towers import _why_no_image_prompts, shared_text_features

FULL_LENGTH = {  # backbones whose prompts cannot share a prefix, and a part of the reason
    "ViT-B-16-SigLIP": "not causal",
    "coca_ViT-B-32": "class token",
    "MobileCLIP-S1": "not causal",
}
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


def images(clip: FrozenCLIP, count: int = 3) -> Tensor:
    return torch.randn(count, *clip.preprocess_cfg.input_size, generator=torch.Generator().manual_seed(1))


def open_clips(clip: FrozenCLIP, pixels: Tensor, texts: list[str]) -> tuple[Tensor, Tensor, Tensor]:
    "Image features, text features and logits by the model's own calls; SigLIP's logits have a bias."
    model = clip.model
    with torch.no_grad():
        image = F.normalize(model.encode_image(pixels), dim=-1)
        text = F.normalize(model.encode_text(clip.tokenizer(texts)), dim=-1)
        if hasattr(model, "get_logits"):
            return image, text, model.get_logits(pixels, clip.tokenizer(texts))[0]
        return image, text, model.logit_scale.exp() * image @ text.T


def assert_close(found: Tensor, expected: Tensor, within: float):
    assert found.shape == expected.shape and (found - expected).abs().max() < within


def assert_a_sentence(reason: str):
    assert reason[0].isupper() and reason.endswith(".") and "\n" not in reason and ". " not in reason, reason


def test_features_and_zero_shot_logits_are_open_clips(clip):
    image, text, logits = open_clips(clip, images(clip), TEXTS)
    assert_close(clip.encode_image(images(clip)), image, 1e-5)
    assert_close(clip.encode_text(TEXTS), text, 1e-5)
    assert_close(build_learner("zero_shot", clip, CLASSNAMES).logits(images(clip)), logits, 1e-4)
    assert (text[1:] - text[:1]).abs().max() > 1e-3 and (logits[:, 1:] - logits[:, :1]).abs().max() > 1e-3


def test_a_learned_context_at_its_words_is_the_hand_written_prompt(clip):
    "Whatever the tokenizer: SigLIP's has no token before the first word, and pads with the end of text."
    coop = build_learner("coop", clip, CLASSNAMES)
    assert_close(coop.text_features(), open_clips(clip, images(clip), TEXTS)[1], 1e-5)
    assert clip.start_length == (0 if clip.name == "ViT-B-16-SigLIP" else 1)


def test_a_prefix_is_shared_where_that_is_exact_and_nowhere_else(clip):
    tokens = clip.tokenize([f"X X X X {name}." for name in CLASSNAMES])
    length = clip.start_length + 4
    vectors = clip.embed(tokens[:, : int(clip.text_lengths(CLASSNAMES).max()) + 5])
    direction = torch.randn(3, clip.embed_dim, generator=torch.Generator().manual_seed(2))

    def run(way) -> tuple[Tensor, Tensor]:
        prefix = vectors[0, :length].clone().requires_grad_()
        features = way(prefix, vectors[:, length:], tokens)
        (features * direction).sum().backward()
        return features.detach(), prefix.grad

    full, found = run(clip.full_text_features), run(clip.text_features_from)
    assert_close(found[0], full[0], 1e-5)
    assert_close(found[1] / full[1].norm(), full[1] / full[1].norm(), 1e-4)
    if clip.name not in FULL_LENGTH:
        assert clip.prefix_sharing is True
        return
    assert FULL_LENGTH[clip.name] in clip.prefix_sharing
    assert_a_sentence(clip.prefix_sharing)
    if clip.start_length:  # and not SigLIP, whose end of text is not where the shared path looks for it
        wrong = shared_text_features(clip.model, vectors[0, :length], vectors[:, length:], tokens)
        assert (wrong - full[0]).abs().max() > 1e-4, "sharing would have been exact here"


def test_image_prompts_enter_where_they_can(clip):
    reason = _why_no_image_prompts(clip.model)
    if clip.name in NO_IMAGE_PROMPTS:
        assert NO_IMAGE_PROMPTS[clip.name] in reason
        assert_a_sentence(reason)
    else:
        assert reason is None


@pytest.mark.parametrize("name", LEARNERS)
def test_a_learner_works_or_says_in_a_sentence_why_not(clip, name):
    try:
        made = small_learner(name, clip)
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


def test_siglips_bias_is_in_its_logits():
    before, model = reduced("ViT-B-16-SigLIP"), reduced("ViT-B-16-SigLIP").model
    nn.init.constant_(model.logit_bias, -3.5)
    after = FrozenCLIP(model, before.tokenizer, before.name)
    pixels = images(after)
    for name in "zero_shot", "coop", "cocoop":
        old, new = (build_learner(name, clip, CLASSNAMES).logits(pixels) for clip in (before, after))
        assert_close(new - old, torch.full((3, 3), 10 - 3.5), 1e-4)
    assert_close(build_learner("zero_shot", after, CLASSNAMES).logits(pixels), open_clips(after, pixels, TEXTS)[2], 1e-4)


def test_a_reduced_backbone_is_the_same_each_time():
    torch.manual_seed(1)
    one = reduced("MobileCLIP-S1").model.state_dict()
    expected = torch.randn(1, generator=torch.Generator().manual_seed(1))
    assert torch.randn(1) == expected, "the caller's seed is left alone"
    other = reduced("MobileCLIP-S1").model.state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)


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


def test_a_backbone_of_full_size():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        clip = load_clip("ViT-B-16-quickgelu", pretrained="none")
    zero_shot = build_learner("zero_shot", clip, ["cat", "red fox"])
    assert isinstance(zero_shot, Learner) and clip.preprocess_cfg.input_size == (3, 224, 224)
    image, text, logits = open_clips(clip, images(clip, 2), TEXTS[:2])
    assert_close(zero_shot.image_features(images(clip, 2)), image, 1e-5)
    assert_close(zero_shot.text_features(), text, 1e-5)
    assert_close(zero_shot.logits(images(clip, 2)), logits, 1e-4)
