"""Packing: every token has one place, in shares of any size, and attention over them is the formula class by class."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from npt.clip.packing import _attend_packed, _pack

LENGTHS = st.lists(st.integers(1, 12), min_size=1, max_size=12).map(tuple)


@given(lengths=LENGTHS, at_once=st.integers(0, 60))
def test_every_token_of_every_class_has_one_place(lengths, at_once):
    shares, back = _pack(lengths, at_once)
    assert torch.cat([share.classes for share in shares])[back].tolist() == list(range(len(lengths)))
    tokens = [token for share in shares for token in zip(share.rows.tolist(), share.places.tolist())]
    assert sorted(tokens) == [(k, place) for k, length in enumerate(lengths) for place in range(length)]
    for share in shares:
        assert share.rows[share.ends].equal(share.classes)
        assert [length for length, count in share.groups for _ in range(count)] == [lengths[k] for k in share.classes]
        assert sum(share.sizes) == len(share.rows) and sum(share.counts) == len(share.classes)
        assert len(share.rows) < max(at_once, 1) + max(lengths), "a share is cut where a class ends"


@given(lengths=LENGTHS, prefix=st.integers(1, 20), contexts=st.sampled_from([1, 3]), own=st.booleans())
@settings(max_examples=30, deadline=None, derandomize=True)
def test_attention_is_the_formula_class_by_class(lengths, prefix, contexts, own):
    (packing,), _ = _pack(lengths, at_once=1000)
    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, contexts, sum(lengths), 2, 8, dtype=torch.float64, generator=generator)
    K = len(lengths) if own else 1
    keys, values = torch.randn(2, contexts, 2, K, prefix, 8, dtype=torch.float64, generator=generator)
    attended = _attend_packed(q, k, v, keys, values, packing)
    last = _attend_packed(q[:, packing.ends], k, v, keys, values, packing)
    for number, end in enumerate(packing.ends):
        at = (packing.rows == packing.rows[end]).nonzero()[:, 0]
        seen, read = (torch.cat([before[:, :, number if own else 0], x[:, at].transpose(1, 2)], dim=2)
                      for before, x in ((keys, k), (values, v)))
        visible = torch.ones(len(at), seen.shape[2]).tril(prefix).bool()
        scores = (q[:, at].transpose(1, 2) @ seen.mT / 8**0.5).masked_fill(~visible, -torch.inf)
        expected = (scores.softmax(-1) @ read).transpose(1, 2).flatten(2)
        assert (attended[:, at] - expected).abs().max() < 1e-12
        assert (last[:, number] - expected[:, -1]).abs().max() < 1e-12
