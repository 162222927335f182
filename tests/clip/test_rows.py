"""Class names fill rows: each has a place of its own, nothing sees what is not its own, and no number depends on how full they are."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pretend import pretend

from npt.clip.rows import _fill_rows, _rows


@given(lengths=st.lists(st.integers(1, 12), min_size=1, max_size=60), prefix=st.integers(1, 14))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_every_name_has_a_place_in_one_row(lengths, prefix):
    size = max(prefix, *lengths)
    starts, rows = _fill_rows(lengths, size, prefix)
    taken = [place for start, length in zip(starts, lengths) for place in range(start, start + length)]
    assert len(set(taken)) == sum(lengths) and not set(taken) & set(range(prefix)), "no place is given twice"
    assert all(start // size == (start + length - 1) // size for start, length in zip(starts, lengths)), "no name goes on in another row"
    assert max(taken) < rows * size
    assert sum(lengths) + prefix > (rows - 1) * size / 2, "no two rows would fit in one"


@given(lengths=st.lists(st.integers(1, 6), min_size=1, max_size=12), prefix=st.integers(1, 8))
@settings(max_examples=30, deadline=None, derandomize=True)
def test_a_place_sees_the_prefix_and_its_own_name_up_to_itself(lengths, prefix):
    (rows,), _ = _rows(tuple(lengths), prefix, max(lengths), 1, 10**6, torch.float32)
    seen = rows.mask[:, 0] == 0
    ends = rows.ends.tolist()
    length = [lengths[name] for name in rows.classes.tolist()]
    for end, many in zip(ends, length):
        row, place = divmod(end, rows.size)
        assert seen[row, place, :prefix].all() and seen[row, place, prefix:].nonzero().flatten().tolist() == list(
            range(place - many + 1, place + 1))
    for place in range(prefix):
        assert seen[0, place].nonzero().flatten().tolist() == list(range(place + 1))
    assert seen.any(dim=-1).all(), "a softmax over nothing is not a number"


@pytest.mark.parametrize("contexts", [1, 3])
@pytest.mark.parametrize("device", ["cpu", "cuda:0"])
@pytest.mark.parametrize("prefix", [4, 5])
def test_the_mask_is_there_for_each_context_and_its_rows_start_at_multiples_of_eight(contexts, device, prefix):
    with pretend("cuda:0"):
        (rows,), _ = _rows((2, 3, 1), prefix, 3, contexts, 10**6, torch.bfloat16, device)
        assert rows.mask.shape == (contexts * rows.count, 1, rows.size, prefix + rows.size) and rows.mask.stride(-2) % 8 == 0
    _rows.cache_clear()  # what lies on a pretended device must not meet a real one
