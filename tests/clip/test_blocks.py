"""Lean blocks: only what is known is exchanged, and weights keep their names; `learners/test_exact.py` compares the numbers."""

import copy

import pytest
import torch
from backbones import random_clip
from open_clip.transformer import ResidualAttentionBlock

from npt.clip.blocks import _ClassTokenBlock, _make_lean, _SelfAttention


def test_weights_keep_their_names_and_values():
    clip = random_clip()
    before = copy.deepcopy(clip.model).state_dict()
    after = _make_lean(clip.model).state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def test_only_the_last_block_of_the_image_tower_gives_the_class_token_alone():
    model = random_clip().model
    kinds = [type(block) for block in model.visual.transformer.resblocks]
    assert kinds == [ResidualAttentionBlock, _ClassTokenBlock]
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
