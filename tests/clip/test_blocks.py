"""Lean blocks: only what is known is exchanged, weights keep their names, and the numbers are those of plain blocks."""

import copy

import pytest
import torch
from open_clip.transformer import ResidualAttentionBlock
from random_clip import NAMES, images, random_clip

import npt.clip.frozen
from npt.clip.blocks import _ClassTokenBlock, _make_lean, _SelfAttention
from npt.learners.build import build_learner


def test_weights_keep_their_names_and_values():
    clip = random_clip()
    before = copy.deepcopy(clip.model).state_dict()
    after = _make_lean(clip.model).state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def test_only_the_last_block_of_the_image_tower_gives_the_class_token_alone():
    model = random_clip().model
    kinds = [type(block) for block in model.visual.transformer.resblocks]
    assert kinds == [ResidualAttentionBlock] * 3 + [_ClassTokenBlock]
    assert {type(block) for block in model.transformer.resblocks} == {ResidualAttentionBlock}


@pytest.mark.parametrize("asked", [dict(need_weights=True), dict(need_weights=False, attn_mask=torch.zeros(8, 5, 5)),
                                   dict(need_weights=False, key_padding_mask=torch.zeros(2, 5, dtype=torch.bool))], ids=str)
def test_what_is_not_plain_self_attention_goes_the_usual_way(asked):
    torch.manual_seed(0)
    plain = torch.nn.MultiheadAttention(16, 4, batch_first=True).eval()
    lean = copy.deepcopy(plain)
    lean.__class__ = _SelfAttention
    x = torch.randn(2, 5, 16)
    expected, weights = plain(x, x, x, **asked)
    attended, own = lean(x, x, x, **asked)
    assert torch.equal(attended, expected) and (weights is own is None or torch.equal(weights, own))
    other = torch.randn(2, 3, 16)
    assert torch.equal(lean(x, other, other, need_weights=False)[0], plain(x, other, other, need_weights=False)[0])


@pytest.mark.parametrize("name, settings", [("vpt", dict(depth=2)), ("ivlp", dict(depth=3, depth_image=2)), ("maple", dict(depth=2)),
                                            ("lora", dict())])
def test_lean_blocks_give_the_image_features_of_plain_ones(name, settings, monkeypatch):
    numbers = []
    for change in _make_lean, copy.copy:
        monkeypatch.setattr(npt.clip.frozen, "_make_lean", change)
        clip = random_clip()
        learner = build_learner(name, clip, NAMES, **settings)
        with torch.no_grad():
            for number, p in enumerate(learner.parameters()):
                p.add_(0.02 * torch.randn(p.shape, generator=torch.Generator().manual_seed(number)).to(p))
        logits = learner.logits(images(2))
        gradients = torch.autograd.grad(logits[:, 0].sum(), list(learner.parameters()), allow_unused=True)
        numbers.append([logits, clip.encode_image(images(2)), *(g for g in gradients if g is not None)])
    assert len(numbers[0]) == len(numbers[1]) > 2
    for quick, expected in zip(*numbers):
        assert (quick - expected).norm() <= 1e-10 * expected.norm()
