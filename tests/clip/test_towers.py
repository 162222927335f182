"""Learned vectors in the towers: every path gives the numbers of the same computation written out block by block."""

from functools import partial

import open_clip
import pytest
import timm
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.coca_model import CoCa
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg, CustomTextCLIP
from small_towers import IMAGE_WIDTH, KNOWS_EOS, LAYERS, WIDTH, WORDS, drawn, prompts_for, small
from timm.models import Eva
from torch import Tensor, nn

from npt.clip.cut import _cut, _cut_text_features
from npt.clip.packing import _pack
from npt.clip.rows import _rows, _rows_text_features
from npt.clip.towers import (
    _end_of_text,
    _full_text_features,
    _prompted_image_features,
    _shared_text_features,
    _why_no_deep_prompts,
    _why_no_image_prompts,
    _why_not_shared,
    image_tower,
    text_blocks,
)


def literal_text_features(model, prefix, suffix, tokens, deep, start=1) -> Tensor:
    "77 tokens a prompt, nothing shared, block by block; one context after the other."
    if prefix.dim() == 3:
        return torch.stack([literal_text_features(model, one, suffix, tokens, deep, start) for one in prefix])
    rest = model.token_embedding(tokens[:, len(prefix) + suffix.shape[1] :])
    x = torch.cat([prefix.repeat(len(suffix), 1, 1), suffix, rest], dim=1) + model.positional_embedding
    for number, block in enumerate(model.transformer.resblocks):
        if number in deep:
            new = deep[number] if deep[number].dim() == 3 else deep[number].repeat(len(suffix), 1, 1)
            x = torch.cat([x[:, :start], new, x[:, start + new.shape[1] :]], dim=1)
        x = block(x, attn_mask=model.attn_mask)
    x = model.ln_final(x)[torch.arange(len(tokens)), tokens.argmax(dim=-1)] @ model.text_projection
    return x / x.norm(dim=-1, keepdim=True)


def literal_image_features(model, pixels, prompts, unit=True) -> Tensor:
    "The image tower block by block, read at the class token or averaged over the patches."
    tower, n, batch = model.visual, len(prompts[0]), len(pixels)
    x = tower.conv1(pixels).flatten(2).transpose(1, 2)
    x = torch.cat([tower.class_embedding.repeat(batch, 1, 1), x], dim=1) + tower.positional_embedding
    patches = x.shape[1]
    x = tower.ln_pre(torch.cat([x, prompts[0].repeat(batch, 1, 1)], dim=1))
    for number, block in enumerate(tower.transformer.resblocks):
        if 0 < number < len(prompts):
            x = torch.cat([x[:, :-n], prompts[number].repeat(batch, 1, 1)], dim=1)
        x = block(x)
    x = tower.ln_post(x[:, 0]) if tower.pool_type == "tok" else tower.ln_post(x[:, 1:patches].mean(dim=1))
    return F.normalize(x @ tower.proj, dim=-1) if unit else x @ tower.proj


def with_gradients(way, learned: list[Tensor]) -> tuple[Tensor, Tensor]:
    "Features, and the gradient of a random direction of them with respect to all that is learned."
    learned = [vectors.detach().clone().requires_grad_() for vectors in learned]
    features = way(*learned)
    direction = torch.randn(features.shape, generator=torch.Generator().manual_seed(3)).to(features)
    gradients = torch.autograd.grad((features * direction).sum(), learned)
    assert all(gradient.norm() > 0 for gradient in gradients), "all that is learned must matter, or nothing is tested"
    return features.detach(), torch.cat([gradient.flatten() for gradient in gradients])


def assert_same(ours, expected, features_within: float = 1e-10, gradients_within: float = 1e-8):
    assert ours[0].shape == expected[0].shape
    assert (ours[0] - expected[0]).abs().max() < features_within
    assert (ours[1] - expected[1]).norm() / expected[1].norm() < gradients_within


def text_ways(model, prefix, suffix, tokens, deep, ways):
    "Features and gradients by each way, with respect to the prefix, the suffix and the deep prompts."
    def run(way):
        return lambda prefix, suffix, *vectors: way(model, prefix, suffix, tokens, dict(zip(deep, vectors)))

    return [with_gradients(run(way), [prefix, suffix, *deep.values()]) for way in ways]


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return small()


names = st.lists(st.lists(st.sampled_from(WORDS), min_size=1, max_size=4).map(" ".join), min_size=1, max_size=5)


@given(names=names, n=st.integers(1, 4), contexts=st.sampled_from([None, 1, 3]), data=st.data())
@settings(max_examples=15, deadline=None, derandomize=True)
def test_all_text_paths_are_the_literal_one(model, names, n, contexts, data):
    "Whatever the lengths, the vectors, the size of a share and the memory for it."
    at_once, budget = data.draw(st.tuples(st.integers(1, 80), st.sampled_from([0, 1e5, 1e12])), label="share, memory")
    prefix, suffix, tokens = prompts_for(model, names, n, contexts)
    deep = {}
    for block in data.draw(st.sets(st.integers(1, LAYERS - 1)), label="blocks with deep prompts"):
        count, own = data.draw(st.tuples(st.integers(1, n), st.booleans()), label="how many, class-specific")
        deep[block] = drawn(*([len(names)] if own else []), count, WIDTH, seed=block)
    limits = dict(memory_budget=budget, at_once=at_once)
    ways = [_full_text_features, partial(_shared_text_features, **limits), partial(_cut_text_features, **limits)]
    if all(vectors.dim() == 2 for vectors in deep.values()):
        ways.append(partial(_rows_text_features, **limits))
    literal, *others = text_ways(model, prefix, suffix, tokens, deep, [literal_text_features, *ways])
    for other in others:
        assert_same(other, literal)


@pytest.mark.parametrize("contexts", [None, 2])
def test_a_prompt_that_fills_the_context_beside_a_short_one(model, contexts):
    longest = " ".join(["cat"] * (77 - 2 - 16 - 1))  # with SOT, EOT, 16 vectors and a full stop
    given = prompts_for(model, ["dog", longest, "irish wolfhound"], 16, contexts)
    literal, *others = text_ways(model, *given, {2: drawn(16, WIDTH, seed=2)}, [
        literal_text_features, _full_text_features, _shared_text_features, _cut_text_features, _rows_text_features])
    for other in others:
        assert_same(other, literal)


@pytest.mark.parametrize("way", [_shared_text_features, _cut_text_features, _rows_text_features])
def test_what_an_evaluation_in_inference_mode_asked_for_first_serves_training(model, way):
    prefix, suffix, tokens = prompts_for(model, ["annual crop land", "cat", "dog", "irish wolfhound"], 3)
    for remembered in _pack, _cut, _rows:
        remembered.cache_clear()
    with torch.inference_mode():
        before = way(model, prefix, suffix, tokens)
    after, _ = with_gradients(lambda prefix: way(model, prefix, suffix, tokens), [prefix])
    assert torch.equal(after, before)


@pytest.mark.parametrize("cls", [CLIP, CustomTextCLIP])
@pytest.mark.parametrize("text", [dict(ls_init_value=0.5), dict(proj_type="none"), dict(proj_bias=True)], ids=str)
def test_variants_of_the_plain_tower_share_too(cls, text):
    model = small(cls, **text, **(dict(embed_dim=WIDTH) if text.get("proj_type") == "none" else {}))
    assert _why_not_shared(model) is None
    given = prompts_for(model, ["cat", "annual crop land seen from a satellite", "red fox"], 4)
    full, *others = text_ways(model, *given, {2: drawn(2, WIDTH, seed=2)}, [
        _full_text_features, _shared_text_features, _cut_text_features, _rows_text_features])
    for other in others:
        assert_same(other, full)


def test_deep_prompts_change_the_features(model):
    given = prompts_for(model, ["cat", "red fox"], 2)
    features = [_shared_text_features(model, *given, deep) for deep in ({}, {1: drawn(2, WIDTH, seed=1)},
                                                                         {2: drawn(2, WIDTH, seed=1)})]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert (features[one] - features[other]).abs().max() > 1e-3


@pytest.mark.parametrize("start", [0, 2])
def test_deep_prompts_may_begin_at_another_position(model, start):
    given = prompts_for(model, ["cat", "red fox"], 4)
    deep = {1: drawn(2, WIDTH, seed=1), 2: drawn(2, 2, WIDTH, seed=2), 3: drawn(2, WIDTH, seed=3)}
    expected = literal_text_features(model, *given, deep, start)
    assert (_full_text_features(model, *given, deep, start) - expected).abs().max() < 1e-10
    assert (_shared_text_features(model, *given, deep, start) - expected).abs().max() < 1e-10
    assert (_cut_text_features(model, *given, deep, start) - expected).abs().max() < 1e-10


@pytest.mark.parametrize("contexts, deep, prefixes, suffixes", [
    (None, {}, [(1, 1)] * 4, [1] * 4),
    (None, {1: (), 3: ()}, [(1, 1)] * 4, [1] * 4),
    (None, {1: (), 2: (2,)}, [(1, 1), (1, 1), (1, 2), (1, 2)], [1] * 4),
    (3, {}, [(3, 1)] * 4, [1, 3, 3, 3]),
], ids=["one context", "deep", "class-specific", "three contexts"])
def test_what_prompts_share_is_run_once_and_nothing_is_padded(model, contexts, deep, prefixes, suffixes):
    prefix, suffix, tokens = prompts_for(model, ["cat", "red fox"], 4, contexts)
    deep = {block: drawn(*own, 4, WIDTH, seed=block) for block, own in deep.items()}
    seen = {"ln_1": [], "ln_2": []}
    hooks = [getattr(block, name).register_forward_pre_hook(lambda _, args, to=to: to.append(tuple(args[0].shape)))
             for name, to in seen.items() for block in model.transformer.resblocks]
    try:
        _shared_text_features(model, prefix, torch.cat([suffix, suffix], dim=1), tokens, deep)
    finally:
        for hook in hooks:
            hook.remove()
    packed = 3 + 4  # "cat", "red fox", each with a full stop and EOT
    before = [(*lead, prefix.shape[-2], WIDTH) for lead in prefixes]
    assert seen["ln_1"] == before + [(many, packed, WIDTH) for many in suffixes]
    many = contexts or 1
    assert seen["ln_2"] == before[:3] + [(many, packed, WIDTH)] * 3 + [(many, 2, WIDTH)], "after the last block only EOT is read"


def modules_in(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if module._forward_hooks or module._forward_pre_hooks]


@pytest.mark.parametrize("text", [
    dict(no_causal_mask=True, pool_type="last", proj_bias=True),  # SigLIP
    dict(embed_cls=True),  # CoCa
    dict(qk_norm=True),
    pytest.param(dict(pool_type="eos", eos_id=49407), marks=KNOWS_EOS),
], ids=str)
@pytest.mark.parametrize("own", [False, True], ids=["deep", "class-specific"])
def test_towers_that_cannot_share_take_deep_prompts_at_full_length(text, own):
    "Block by block through the tower's own parts; here `TextTransformer.forward` with a replacement between blocks."
    model = small(CustomTextCLIP, **text)
    assert _why_not_shared(model) and _why_no_deep_prompts(model) is None
    prefix, suffix, tokens = prompts_for(model, ["cat", "irish wolfhound"], 3, contexts=2)
    deep = {1: drawn(3, WIDTH, seed=1), 3: drawn(*([2] if own else []), 3, WIDTH, seed=2)}

    def literal(model, prefixes, suffix, tokens, deep):
        tower, features = model.text, []
        for prefix in prefixes:
            vectors = torch.cat([prefix.repeat(2, 1, 1), suffix,
                                 tower.token_embedding(tokens[:, len(prefix) + suffix.shape[1] :])], dim=1)
            _, mask = tower._embeds(tokens)
            if tower.cls_emb is not None:
                vectors = torch.cat([vectors, tower.cls_emb.repeat(2, 1, 1)], dim=1)
            x = vectors + tower.positional_embedding
            for number, block in enumerate(tower.transformer.resblocks):
                if number in deep:
                    x = torch.cat([x[:, :1], deep[number].expand(2, -1, -1), x[:, 4:]], dim=1)
                x = block(x, attn_mask=mask)
            at = _end_of_text(tokens) if tower.pool_type in ("argmax", "eos") and tower.cls_emb is None else -1
            x = tower.ln_final(x)[torch.arange(2), at]
            projection = tower.text_projection
            features.append(F.normalize(projection(x) if isinstance(projection, nn.Module) else x @ projection, dim=-1))
        return torch.stack(features)

    expected, full = text_ways(model, prefix, suffix, tokens, deep, [literal, _full_text_features])
    assert_same(full, expected)
    assert not modules_in(model), "the model is left as it was"


class Foreign(nn.Module):
    "A text tower of another make, as open_clip borrows them from transformers."

    def __init__(self):
        super().__init__()
        self.token_embedding, self.output = nn.Embedding(49408, WIDTH), nn.Linear(WIDTH, 48)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.output(self.token_embedding(tokens).cumsum(dim=1)[:, -1])


class ForeignModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.text = Foreign()

    def encode_text(self, tokens: Tensor) -> Tensor:
        return self.text(tokens)


def test_a_tower_of_another_make_takes_contexts_and_refuses_deep_prompts():
    model = ForeignModel().double()
    prefixes, suffix, tokens = prompts_for(model, ["cat", "red fox"], 2, contexts=3)
    each = torch.stack([_full_text_features(model, prefix, suffix, tokens) for prefix in prefixes])
    assert (_full_text_features(model, prefixes, suffix, tokens) - each).abs().max() < 1e-12
    with pytest.raises(ValueError, match="Foreign"):
        _full_text_features(model, prefixes, suffix, tokens, {1: drawn(2, WIDTH, seed=1)})


@pytest.mark.parametrize("way", [_full_text_features, _shared_text_features, _cut_text_features, _rows_text_features])
@pytest.mark.parametrize("deep, message", [
    ({0: drawn(2, WIDTH, seed=0)}, r"deep\[0\].*blocks 1 to 3"),
    ({4: drawn(2, WIDTH, seed=0)}, r"deep\[4\].*blocks 1 to 3"),
    ({1: drawn(3, WIDTH, seed=0)}, r"\(3, 64\).*1 to the 2 context vectors"),
    ({1: drawn(0, WIDTH, seed=0)}, r"\(0, 64\)"),
    ({1: drawn(2, WIDTH - 1, seed=0)}, r"\(2, 63\)"),
    ({1: drawn(3, 2, WIDTH, seed=0)}, r"\(3, 2, 64\).*\(2, n, 64\)"),
    ({1: drawn(WIDTH, seed=0)}, r"\(64,\)"),
], ids=str)
def test_deep_prompts_that_do_not_fit_are_refused(model, way, deep, message):
    with pytest.raises(ValueError, match=message):
        way(model, *prompts_for(model, ["cat", "red fox"], 2), deep)
    assert not modules_in(model)


def test_a_suffix_without_its_end_of_text_is_refused(model):
    prefix, suffix, tokens = prompts_for(model, ["cat", "annual crop land"], 2)
    with pytest.raises(ValueError, match="Every EOT must be in the suffix"):
        _shared_text_features(model, prefix, suffix[:, :-1], tokens)
    with pytest.raises(ValueError, match="Every EOT must be in the suffix"):
        _shared_text_features(model, prefix.repeat(3, 1), suffix, tokens)


def test_nothing_enters_a_tower_that_would_run_its_blocks_again():
    model = small()
    model.set_grad_checkpointing(True)
    given = prompts_for(model, ["cat"], 2)
    assert _full_text_features(model, *given).shape == (1, 48)
    for attempt in (lambda: _full_text_features(model, *given, {1: drawn(2, WIDTH, seed=0)}),
                    lambda: _prompted_image_features(model, drawn(1, 3, 32, 32, seed=0), [drawn(2, IMAGE_WIDTH, seed=0)])):
        with pytest.raises(ValueError, match="checkpointing"):
            attempt()


@pytest.mark.parametrize("n", [1, 2, 4])
@pytest.mark.parametrize("depth", range(1, LAYERS + 1))
@pytest.mark.parametrize("vision", [
    dict(),
    dict(patch_dropout=0.5),
    dict(pool_type="avg", final_ln_after_pool=True, no_ln_pre=True),  # CLIPA
    dict(qk_norm=True, ls_init_value=0.5),
], ids=str)
def test_image_prompts_are_the_literal_ones(vision, depth, n):
    model = small(vision=vision)
    pixels = drawn(2, 3, 32, 32, seed=0) * 10
    prompts = [drawn(n, IMAGE_WIDTH, seed=i) for i in range(depth)]
    ours, expected = (with_gradients(lambda *learned: way(model, pixels, learned), prompts)
                       for way in (_prompted_image_features, literal_image_features))
    assert_same(ours, expected)
    assert not modules_in(model), "the model is left as it was"


def test_image_prompts_in_single_precision_and_as_a_parameter_list():
    model = small().float()
    pixels = drawn(2, 3, 32, 32, seed=0).float() * 10
    prompts = nn.ParameterList([drawn(2, IMAGE_WIDTH, seed=i).float() for i in range(3)])
    expected = literal_image_features(model, pixels, list(prompts))
    assert (_prompted_image_features(model, pixels, prompts) - expected).abs().max() < 1e-5
    assert (_prompted_image_features(model, pixels, prompts, unit=False) - literal_image_features(model, pixels, list(prompts), unit=False)).abs().max() < 1e-4
    assert (expected - F.normalize(model.encode_image(pixels), dim=-1)).abs().max() > 1e-3


def test_attentional_pooling_reads_the_picture_and_not_the_prompts():
    model = small(vision=dict(attentional_pool=True, attn_pooler_heads=4))
    pixels, read = drawn(2, 3, 32, 32, seed=0), []
    hook = model.visual.attn_pool.register_forward_pre_hook(lambda _, args: read.append(args[0]))
    plain = F.normalize(model.encode_image(pixels), dim=-1)
    prompted = _prompted_image_features(model, pixels, [drawn(3, IMAGE_WIDTH, seed=0)])
    hook.remove()
    assert read[0].shape == read[1].shape == (2, 17, IMAGE_WIDTH)
    assert (plain - prompted).abs().max() > 1e-4


def test_coca_takes_image_prompts():
    torch.manual_seed(0)
    vision = CLIPVisionCfg(layers=2, width=32, head_width=16, patch_size=16, image_size=32, attentional_pool=True,
                           attn_pooler_heads=4, output_tokens=True)
    text = CLIPTextCfg(width=64, heads=4, layers=2, embed_cls=True, output_tokens=True)
    model = CoCa(48, open_clip.coca_model.MultimodalCfg(width=64, heads=4, layers=1), text, vision).eval().double()
    features = _prompted_image_features(model, drawn(2, 3, 32, 32, seed=0), [drawn(3, 32, seed=0)] * 2)
    assert features.shape == (2, 48) and _why_no_image_prompts(model) is None
    deep = {1: drawn(2, 64, seed=1)}
    assert _full_text_features(model, *prompts_for(model, ["cat"], 2), deep).shape == (1, 48)


def literal_timm(model, pixels, prompts) -> Tensor:
    trunk, n = model.visual.trunk, len(prompts[0])
    x = trunk._pos_embed(trunk.patch_embed(pixels))
    x = x[0] if isinstance(x, tuple) else x
    x = trunk.norm_pre(torch.cat([x, prompts[0].repeat(len(x), 1, 1)], dim=1))
    for number, block in enumerate(trunk.blocks):
        if 0 < number < len(prompts):
            x = torch.cat([x[:, :-n], prompts[number].repeat(len(x), 1, 1)], dim=1)
        x = block(x)
    return F.normalize(model.visual.head(trunk.forward_head(trunk.norm(x)[:, :-n])), dim=-1)


def eva_without_rotation() -> nn.Module:
    "As in EVA01: the class of EVA02, with position embeddings alone."
    model = small(vision=dict(timm_model_name="test_vit", timm_pool="token"))
    model.visual.trunk = Eva(img_size=160, embed_dim=64, depth=3, num_heads=2, num_classes=0, global_pool="token")
    return model.eval().requires_grad_(False).double()


@pytest.mark.parametrize("make", [
    lambda: small(vision=dict(timm_model_name="test_vit", timm_pool="token")),
    lambda: small(vision=dict(timm_model_name="test_vit", timm_pool="avg")),
    lambda: small(vision=dict(timm_model_name="test_vit3", timm_pool="map")),  # SigLIP's kind of pooling
    eva_without_rotation,
], ids=["token", "avg", "map", "eva"])
def test_vision_transformers_of_timm_take_image_prompts(make):
    model = make()
    tower = image_tower(model)
    pixels = drawn(1, 3, 160, 160, seed=0) * 10
    prompts = [drawn(2, tower.width, seed=i) for i in range(len(tower.blocks))]
    ours, expected = (with_gradients(lambda *learned: way(model, pixels, learned), prompts)
                       for way in (_prompted_image_features, literal_timm))
    assert_same(ours, expected)


@pytest.mark.parametrize("vision, reason", [
    (dict(layers=[1, 1, 1, 1], head_width=16), "a ResNet has no sequence"),
    (dict(timm_model_name="test_convnext", timm_pool="avg"), "the image tower is a ConvNeXt"),
    pytest.param(dict(timm_model_name="test_vit_relpos", timm_pool="avg"), "the image tower is a VisionTransformerRelPos",
                 marks=pytest.mark.skipif(not timm.is_model("test_vit_relpos"), reason="this timm has no such model")),
    (dict(timm_model_name="eva02_tiny_patch14_224", timm_pool="token"), "rotates keys by their place"),
], ids=str)
def test_image_towers_without_room_for_prompts_say_why(vision, reason):
    model = small(vision=vision)
    assert reason in _why_no_image_prompts(model)
    with pytest.raises(ValueError, match=reason):
        _prompted_image_features(model, drawn(1, 3, 32, 32, seed=0), [drawn(2, IMAGE_WIDTH, seed=0)])


@pytest.mark.parametrize("shapes", [
    [], [(2, 31)], [(0, 32)], [(2, 32), (3, 32)], [(1, 2, 32)], [(2, 32)] * 5,
], ids=str)
def test_image_prompts_that_do_not_fit_are_refused(model, shapes):
    with pytest.raises(ValueError, match=r"1 to 4 times \(n, 32\)"):
        _prompted_image_features(model, drawn(1, 3, 32, 32, seed=0), [torch.zeros(shape).double() for shape in shapes])
    assert not modules_in(model)


def test_prompts_are_cast_to_the_precision_of_the_towers():
    model = small().bfloat16()
    prefix, suffix, tokens = prompts_for(model, ["cat", "red fox"], 2)
    learned = nn.Parameter(drawn(2, WIDTH, seed=1).float())
    for way in _full_text_features, _shared_text_features, _cut_text_features, _rows_text_features:
        features = way(model, prefix.float(), suffix, tokens, {1: learned})
        assert features.dtype == torch.float32
        assert torch.autograd.grad(features[:, 0].sum(), learned)[0].dtype == torch.float32
    pixels = drawn(1, 3, 32, 32, seed=0).bfloat16()
    assert _prompted_image_features(model, pixels, [drawn(2, IMAGE_WIDTH, seed=0).float()]).dtype == torch.float32


def test_how_deep_the_towers_are(model):
    assert len(text_blocks(model)) == len(image_tower(model).blocks) == LAYERS


def test_nothing_is_kept_for_a_picture_before_the_first_prompt_enters():
    "Patches know nothing of prompts before these enter."
    model, entered = small(), []
    prompts = [nn.Parameter(drawn(2, IMAGE_WIDTH, seed=0))]
    model.visual.conv1.register_forward_hook(lambda module, args, x: entered.append(x.requires_grad))
    model.visual.transformer.resblocks[0].register_forward_pre_hook(lambda module, args: entered.append(args[0].requires_grad))
    _prompted_image_features(model, drawn(1, 3, 32, 32, seed=0), prompts)
    assert entered == [False, True]
