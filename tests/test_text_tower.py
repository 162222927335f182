"""The text tower with a shared prefix gives the numbers of the plain full-length path: features and gradients."""

import open_clip
import pytest
import torch
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg, CustomTextCLIP
from open_clip.tokenizer import SimpleTokenizer

from npt.clip.frozen import FrozenCLIP
from npt.clip.load import load_clip
from npt.clip.towers import trim

NAMES = {
    "one class": ["dog"],
    "one token to very long": ["cat", "dog", "red fox", "hand-held computer", "a flat coated retriever on a green lawn",
                               "an annual crop land with red roofs seen from far above"],
    "all of one length": ["cat", "dog", "fox"],
}
PREFIXES = 1, 4, 16  # context vectors after SOT


def random_clip(cls: type = CLIP, dtype: torch.dtype = torch.float32, context_length: int = 77, **text) -> FrozenCLIP:
    "A CLIP with random weights, a real text tower and next to no image tower."
    torch.manual_seed(0)
    text_cfg = CLIPTextCfg(**dict(width=64, heads=4, layers=3, context_length=context_length) | text)
    vision_cfg = CLIPVisionCfg(layers=2, width=32, head_width=16, patch_size=16, image_size=32)
    model = cls(embed_dim=48, vision_cfg=vision_cfg, text_cfg=text_cfg, quick_gelu=True)
    open_clip.model.set_model_preprocess_cfg(model, dict(size=32, mean=(0.5,) * 3, std=(0.5,) * 3))
    return FrozenCLIP(model, SimpleTokenizer(context_length=context_length), "random", dtype=dtype)


def vit_b_16_text() -> FrozenCLIP:
    "The text tower of ViT-B-16-quickgelu, with random weights."
    return random_clip(**open_clip.get_model_config("ViT-B-16-quickgelu")["text_cfg"])


def both_paths(clip: FrozenCLIP, names: list[str], num_context: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    "Features and gradient with respect to the context vectors, by the full path and by the one that learners use."
    generator = torch.Generator().manual_seed(num_context)
    tokens = clip.tokenize(["X " * num_context + name + "." for name in names])
    start = clip.embed(tokens[0, :1])
    suffix = clip.embed(trim(tokens)[:, 1 + num_context:])
    context = torch.randn(num_context, start.shape[1], generator=generator).to(start) * 0.02
    direction = torch.randn(len(names), clip.embed_dim, generator=generator).to(start)
    found = []
    for path in clip.full_text_features, clip.text_features_from:
        learned = context.clone().requires_grad_()
        features = path(torch.cat([start, learned]), suffix, tokens)
        (features * direction).sum().backward()
        found.append((features.detach(), learned.grad))
    return found


def check(clip: FrozenCLIP, names: list[str], num_context: int, features_within: float, gradients_within: float):
    assert clip.prefix_sharing is True
    (full, full_gradient), (shared, shared_gradient) = both_paths(clip, names, num_context)
    assert torch.allclose(full.norm(dim=-1), torch.ones(len(names), dtype=full.dtype), atol=1e-5)
    if len(names) > 1:
        assert (full[1:] - full[:1]).abs().amax(dim=-1).min() > 1e-3, "classes must differ, or nothing is tested"
    assert full_gradient.norm() > 1e-3, "and the context must matter"
    assert (full - shared).abs().max() < features_within
    assert (full_gradient - shared_gradient).norm() / full_gradient.norm() < gradients_within


@pytest.fixture(scope="module")
def world() -> FrozenCLIP:
    return load_clip("world")


@pytest.fixture(scope="module")
def vit_b_16() -> FrozenCLIP:
    return vit_b_16_text()


@pytest.mark.parametrize("names", NAMES.values(), ids=NAMES)
@pytest.mark.parametrize("num_context", PREFIXES)
def test_world(world, names, num_context):
    check(world, names, num_context, 1e-5, 1e-4)


@pytest.mark.parametrize("num_context", PREFIXES)
def test_vit_b_16(vit_b_16, num_context):
    check(vit_b_16, NAMES["one token to very long"], num_context, 1e-5, 1e-4)


def test_vit_b_16_one_class(vit_b_16):
    check(vit_b_16, NAMES["one class"], 4, 1e-5, 1e-4)


@pytest.mark.parametrize("names", NAMES.values(), ids=NAMES)
@pytest.mark.parametrize("num_context", PREFIXES)
def test_double_precision(names, num_context):
    check(random_clip(dtype=torch.float64), names, num_context, 1e-10, 1e-10)


@pytest.mark.parametrize("cls", [CLIP, CustomTextCLIP])
@pytest.mark.parametrize("text", [dict(ls_init_value=0.5), dict(proj_type="none"), dict(proj_bias=True)], ids=str)
def test_variants_of_the_plain_tower(cls, text):
    if text.get("proj_type") == "none":
        text = text | dict(width=48, heads=4)
    check(random_clip(cls, **text), NAMES["one token to very long"], 4, 1e-5, 1e-4)


@pytest.mark.parametrize("text, reason", [
    (dict(no_causal_mask=True), "not causal"),
    (dict(pool_type="last"), "pooling 'last'"),
    (dict(pool_type="eos"), "pooling 'eos'"),
    (dict(embed_cls=True), "class token"),
    (dict(qk_norm=True), "CustomResidualAttentionBlock"),
], ids=str)
def test_falls_back_to_the_full_path_and_says_why(text, reason):
    clip = random_clip(CustomTextCLIP, **text)
    assert reason in clip.prefix_sharing
    (full, full_gradient), (used, used_gradient) = both_paths(clip, NAMES["one token to very long"], 4)
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
    (full, _), (used, gradient) = both_paths(clip, NAMES["all of one length"], 4)
    assert torch.equal(full, used) and gradient.norm() > 0


def test_the_full_path_is_the_models_own(world):
    tokens = world.tokenize(["a photo of a red circle.", "a photo of a blue star seen from the left."])
    vectors = world.embed(tokens)
    expected = torch.nn.functional.normalize(world.model.encode_text(tokens), dim=-1)
    for length in 1, 3:
        found = world.full_text_features(vectors[0, :length], vectors[:, length:12], tokens)
        assert torch.equal(found, expected)
    assert not world.model.token_embedding._forward_hooks, "the model is left as it was"


def test_a_suffix_may_be_longer_than_needed(world):
    tokens = world.tokenize(["X X cat.", "X X black dog."])
    vectors = world.embed(tokens)
    trimmed = world.text_features_from(vectors[0, :3], vectors[:, 3 : trim(tokens).shape[1]], tokens)
    assert torch.equal(world.text_features_from(vectors[0, :3], vectors[:, 3:], tokens), trimmed)
