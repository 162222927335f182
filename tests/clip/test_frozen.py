"""A frozen CLIP: nothing of it learns, its features are open_clip's own on every kind of tower, and long texts are named."""

import warnings

import pytest
import torch
from backbones import CLASSNAMES, NO_IMAGE_PROMPTS, SMALL_IMAGE, TEXTS, assert_a_sentence, images, open_clips, reduced
from open_clip.model import CustomTextCLIP
from open_clip.tokenizer import SimpleTokenizer
from PIL import Image
from random_clip import random_clip
from small_towers import KNOWS_EOS
from torch import Tensor, nn

from npt.clip.frozen import FrozenCLIP
from npt.clip.load import load_clip
from npt.clip.towers import _shared_text_features, _trim, _why_no_image_prompts
from npt.learners.build import build_learner

FULL_LENGTH = {  # backbones whose prompts cannot share a prefix, and a part of the reason
    "ViT-B-16-SigLIP": "not causal",
    "coca_ViT-B-32": "class token",
    "MobileCLIP-S1": "not causal",
}


@pytest.fixture(scope="module")
def world() -> FrozenCLIP:
    return load_clip()


@pytest.fixture(scope="module", params=SMALL_IMAGE)
def clip(request) -> FrozenCLIP:
    return reduced(request.param)


def assert_close(ours: Tensor, expected: Tensor, within: float):
    assert ours.shape == expected.shape and (ours - expected).abs().max() < within


# ---- the world's

def test_nothing_of_it_learns(world):
    assert not world.model.training
    assert not any(p.requires_grad for p in world.model.parameters())
    assert world.encode_text(["a star"]).shape == (1, world.embed_dim)
    assert world.logit_scale.shape == () and not world.logit_scale.requires_grad


def test_features_are_the_models_own_and_of_unit_length(world):
    photo = Image.new("RGB", (50, 40), (200, 30, 30))
    pixels = torch.stack([world.preprocess(photo)] * 2)
    features = world.encode_image(pixels)
    assert torch.allclose(features, world.model.encode_image(pixels, normalize=True), atol=1e-6)
    texts = ["a photo of a red circle.", "a drawing of a blue star above a green heart."]
    expected = world.model.encode_text(world.tokenize(texts), normalize=True)
    assert torch.allclose(world.encode_text(texts), expected, atol=1e-5)
    for each in features, world.encode_text(texts):
        assert torch.allclose(each.norm(dim=-1), torch.ones(2), atol=1e-5)


def test_a_text_that_does_not_fit_is_named_and_one_that_just_fits_is_not(world):
    fits = "cat " * (world.context_length - 2)  # SOT and EOT take the other two
    assert world.tokenize([fits])[0, -1] == SimpleTokenizer().eot_token_id
    with pytest.raises(ValueError, match="cat dog"):
        world.tokenize(["a cat", fits + "dog"])


def test_the_full_path_is_the_models_own(world):
    tokens = world.tokenize(["a photo of a red circle.", "a photo of a blue star seen from the left."])
    vectors = world.embed(tokens)
    expected = torch.nn.functional.normalize(world.model.encode_text(tokens), dim=-1)
    for length in 1, 3:
        features = world.full_text_features(vectors[0, :length], vectors[:, length:12], tokens)
        assert torch.equal(features, expected)
    assert not world.model.token_embedding._forward_hooks, "the model is left as it was"


def test_a_suffix_may_be_longer_than_needed(world):
    tokens = world.tokenize(["X X cat.", "X X black dog."])
    vectors = world.embed(tokens)
    trimmed = world.text_features_from(vectors[0, :3], vectors[:, 3 : _trim(tokens).shape[1]], tokens)
    assert torch.equal(world.text_features_from(vectors[0, :3], vectors[:, 3:], tokens), trimmed)


# ---- nine kinds of towers

def test_features_and_zero_shot_logits_are_open_clips(clip):
    image, text, logits = open_clips(clip, images(clip), TEXTS)
    assert_close(clip.encode_image(images(clip)), image, 1e-5)
    assert_close(clip.encode_text(TEXTS), text, 1e-5)
    assert_close(build_learner("zero_shot", clip, CLASSNAMES).logits(images(clip)), logits, 1e-4)
    assert (text[1:] - text[:1]).abs().max() > 1e-3 and (logits[:, 1:] - logits[:, :1]).abs().max() > 1e-3


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

    full, quick = run(clip.full_text_features), run(clip.text_features_from)
    assert_close(quick[0], full[0], 1e-5)
    assert_close(quick[1] / full[1].norm(), full[1] / full[1].norm(), 1e-4)
    if clip.name not in FULL_LENGTH:
        assert clip.prefix_sharing is True
        return
    assert FULL_LENGTH[clip.name] in clip.prefix_sharing
    assert_a_sentence(clip.prefix_sharing)
    if clip.start_length:  # and not SigLIP, whose end of text is not where the shared path looks for it
        wrong = _shared_text_features(clip.model, vectors[0, :length], vectors[:, length:], tokens)
        assert (wrong - full[0]).abs().max() > 1e-4, "sharing would have been exact here"


def test_image_prompts_enter_where_they_can(clip):
    reason = _why_no_image_prompts(clip.model)
    if clip.name in NO_IMAGE_PROMPTS:
        assert NO_IMAGE_PROMPTS[clip.name] in reason
        assert_a_sentence(reason)
    else:
        assert reason is None


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


def test_a_backbone_of_full_size():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        clip = load_clip("ViT-B-16-quickgelu", pretrained="none")
    zero_shot = build_learner("zero_shot", clip, ["cat", "red fox"])
    assert clip.preprocess_cfg.input_size == (3, 224, 224)
    image, text, logits = open_clips(clip, images(clip, 1), TEXTS[:2])
    assert_close(zero_shot.image_features(images(clip, 1)), image, 1e-5)
    assert_close(zero_shot.text_features(), text, 1e-5)
    assert_close(zero_shot.class_logits(image)[1], logits, 1e-4)


# ---- text towers that cannot share a prefix

def both_paths(clip: FrozenCLIP, texts: list[str]) -> list[tuple[Tensor, Tensor]]:
    "Features and gradient with respect to the prefix, by the full path and by the one that learners use."
    tokens = clip.tokenize(texts)
    vectors = clip.embed(_trim(tokens))
    results = []
    for path in clip.full_text_features, clip.text_features_from:
        prefix = vectors[0, :5].clone().requires_grad_()
        features = path(prefix, vectors[:, 5:], tokens)
        (features * torch.arange(features.shape[1])).sum().backward()
        results.append((features.detach(), prefix.grad))
    return results


@pytest.mark.parametrize("text, reason", [
    (dict(no_causal_mask=True), "not causal"),
    (dict(pool_type="last"), "pooling 'last'"),
    pytest.param(dict(pool_type="eos"), "pooling 'eos'", marks=KNOWS_EOS),
    (dict(embed_cls=True), "class token"),
    (dict(qk_norm=True), "CustomResidualAttentionBlock"),
], ids=str)
def test_falls_back_to_the_full_path_and_says_why(text, reason):
    clip = random_clip(CustomTextCLIP, **text)
    assert reason in clip.prefix_sharing
    (full, full_gradient), (used, used_gradient) = both_paths(clip, TEXTS)
    assert torch.equal(full, used) and torch.equal(full_gradient, used_gradient)
    texts = ["a photo of a cat.", "a photo of a very small dog."]
    expected = torch.nn.functional.normalize(clip.model.encode_text(clip.tokenize(texts)), dim=-1)
    assert torch.equal(clip.encode_text(texts), expected)


def test_a_tower_of_unknown_make_falls_back():
    class Text(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.token_embedding, self.output = torch.nn.Embedding(49408, 16), torch.nn.Linear(16, 8)

        def forward(self, tokens):
            return self.output(self.token_embedding(tokens).cumsum(dim=1)[:, -1])

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.text, self.visual, self.logit_scale = Text(), torch.nn.Identity(), torch.nn.Parameter(torch.zeros(1))
            self.visual.preprocess_cfg = dict(size=32)

        def encode_text(self, tokens):
            return self.text(tokens)

    clip = FrozenCLIP(Model(), SimpleTokenizer(), "foreign")
    assert "Text" in clip.prefix_sharing
    (full, _), (used, gradient) = both_paths(clip, TEXTS)
    assert torch.equal(full, used) and gradient.norm() > 0


def test_who_gives_no_text_is_told_to():
    clip = random_clip()
    for ask in clip.explain, clip.encode_text:
        with pytest.raises(ValueError, match="^there are no texts to look at: give at least one"):
            ask([])
        with pytest.raises(ValueError, match="^1 is no text: give strings"):
            ask(["a cat", 1])
    for contexts in 0, 2.5, True, "2":
        with pytest.raises(ValueError, match=f"^contexts={contexts!r} must be a whole number, at least 1"):
            clip.explain(["a cat"], contexts)
    assert "all classes begin alike and without deep prompts" in clip.explain(["a cat"])
