"""Prompts are cut where nobody's feature is lost, and what stands behind an EOT changes nothing."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_towers import WIDTH, drawn, prompts_for, small

from npt.clip.cut import _cut, _cut_text_features
from npt.clip.rows import _rows_text_features
from npt.clip.towers import _full_text_features, _shared_text_features


@given(lengths=st.lists(st.integers(1, 20), min_size=1, max_size=40), at_once=st.integers(1, 200))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_every_class_is_in_one_share_and_ends_in_it(lengths, at_once):
    cuts, back = _cut(tuple(lengths), at_once)
    order = torch.cat([cut.classes for cut in cuts])
    assert order[back].tolist() == list(range(len(lengths)))
    for cut in cuts:
        own = [lengths[name] for name in cut.classes.tolist()]
        assert cut.longest == max(own)
        assert [divmod(end, cut.longest) for end in cut.ends.tolist()] == [(row, length - 1) for row, length in enumerate(own)]


@pytest.mark.parametrize("way", [_cut_text_features, _rows_text_features])
def test_what_stands_behind_an_end_of_text_changes_nothing(way):
    model = small()
    prefix, suffix, tokens = prompts_for(model, ["cat", "annual crop land", "red fox"], 4)
    behind = torch.arange(suffix.shape[1]) > (tokens.argmax(-1) - prefix.shape[0])[:, None]
    other = torch.where(behind[..., None], drawn(*suffix.shape, seed=5), suffix)
    assert behind.any() and torch.equal(way(model, prefix, suffix, tokens), way(model, prefix, other, tokens))


def test_deep_prompts_of_each_class_reach_their_own_class_alone():
    model = small()
    given = prompts_for(model, ["cat", "red fox", "dog"], 4)
    deep = drawn(3, 2, WIDTH, seed=1)
    before, changed = _cut_text_features(model, *given, {2: deep}), deep.clone()
    changed[1] = drawn(2, WIDTH, seed=2)
    moved = (_cut_text_features(model, *given, {2: changed}) - before).abs().amax(-1) > 1e-6
    assert moved.tolist() == [False, True, False]


@pytest.mark.parametrize("way", [_cut_text_features, _shared_text_features])
@pytest.mark.parametrize("limits", [{}, dict(at_once=6), dict(memory_budget=0)], ids=["whole", "shares", "run twice"])
def test_vectors_that_join_and_what_is_added_inside_are_those_of_the_full_length(way, limits):
    model = small().double()
    given = [part.double() if part.is_floating_point() else part for part in prompts_for(model, ["cat", "annual crop land", "red fox"], 4)]
    results = []
    for path, more in (_full_text_features, {}), (way, limits):
        joined = [drawn(3, WIDTH, seed=block).double().requires_grad_() for block in (1, 2)]
        matrix = drawn(WIDTH, WIDTH, seed=7).double().requires_grad_()
        added = {2: lambda seen, matrix=matrix: seen @ matrix, 1: lambda seen, matrix=matrix: (seen @ matrix).relu()}
        features = path(model, *given, dict(zip((1, 2), joined)), joins=True, added=added, **more)
        direction = drawn(*features.shape, seed=9).double()
        results.append((features.detach(), *torch.autograd.grad((features * direction).sum(), [*joined, matrix])))
    plain = _full_text_features(model, *given)
    assert (results[0][0] - plain).abs().max() > 1e-2, "what enters must matter"
    for one, other in zip(*results, strict=True):
        assert (one - other).norm() <= 1e-10 * max(float(other.norm()), 1)
