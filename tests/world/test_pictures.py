"Pictures depend on their key and their scene alone, every shape can be told from the others, and a domain does what it says."

import pytest
import torch

from npt.world.pictures import (
    _DISTANCES,
    _PATTERN,
    _SHAPES,
    OBJECTS,
    PAIRS,
    PATTERNS,
    Domain,
    _between,
    _normal,
    _uniform,
    make_scenes,
    render,
)

KEYS = torch.tensor([3, 10**9, 2**40 + 5])


def test_random_numbers_depend_on_key_name_and_position_alone():
    alone = torch.cat([_uniform(KEYS[i:i + 1], "radius", 2, 3) for i in range(3)])
    assert torch.equal(_uniform(KEYS, "radius", 2, 3), alone) and torch.equal(_uniform(KEYS, "radius", 2), alone[:, 0, :2])
    assert not torch.equal(_uniform(KEYS, "radius", 2, 3), _uniform(KEYS, "angle", 2, 3))
    assert alone.unique().numel() == 18 and alone.min() >= 0 and alone.max() < 1
    assert _normal(torch.arange(10**5), "noise", 4).isfinite().all()
    assert _between(KEYS, "turn", -2, 3).shape == (3, 1, 1)


def test_every_shape_has_an_edge_and_differs_from_the_others():
    axis = torch.linspace(-1.2, 1.2, 32)
    v, u = torch.meshgrid(axis, axis, indexing="ij")
    inside = torch.stack([distance(u, v) < 0 for distance in _DISTANCES])
    assert len(_DISTANCES) == len(_SHAPES) + 1 and inside[_PATTERN].all()
    for one in range(_PATTERN):
        for other in range(one):
            assert (inside[one] ^ inside[other]).float().mean() > 0.05, (_SHAPES[one], _SHAPES[other])


@pytest.mark.parametrize("domain", [Domain(), Domain(sketch=True), Domain(invert=True, blur=1.0, clutter=0.5, squash=0.7)])
def test_a_picture_is_the_same_alone_and_in_a_batch(domain):
    things = [OBJECTS[7], PATTERNS[20], PAIRS[100], PAIRS[3], OBJECTS[300]]
    keys, style = torch.arange(5) + 70, torch.tensor([0, 1, 2, 3, 4])
    together = render(make_scenes(things, keys, style), domain)
    for row, thing in enumerate(things):
        assert torch.equal(render(make_scenes([thing], keys[row:row + 1], style[row:row + 1]), domain)[0], together[row])
    assert together.shape == (5, 3, 32, 32) and together.min() >= 0 and together.max() <= 1


def test_a_pair_has_two_different_colours_and_keeps_them():
    colours = make_scenes([PAIRS[5]] * 500, torch.arange(500)).objects[:, :, 0]
    assert (colours[:, 0] != colours[:, 1]).all() and colours.min() == 0 and colours.max() == 7
    assert torch.equal(colours[17:18], make_scenes([PAIRS[5]], torch.tensor([17])).objects[:, :, 0])


def test_every_word_of_an_unseen_combination_is_seen_in_another():
    for things in OBJECTS, PATTERNS, PAIRS:
        words = [{word for thing in things if thing.seen == seen for word in thing.name.split()} for seen in (True, False)]
        assert words[1] <= words[0]
        assert 0.1 < sum(not thing.seen for thing in things) / len(things) < 0.3
