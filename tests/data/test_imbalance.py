"Long tails: the draws of a steeper one are among those of a gentler one, and a seed changes them."

import pytest

from npt.data.imbalance import long_tail_counts
from npt.data.load import load_dataset

STEEP = 0.0625


@pytest.mark.parametrize("order", ["label", "random"])
@pytest.mark.parametrize("profile", ["exp", "step"])
def test_a_steeper_tail_has_fewer_of_the_same_images(profile, order):
    taus = (STEEP, 0.25, 1.0)
    loaded = [load_dataset("world/shapes", tau=tau, seed=3, profile=profile, order=order) for tau in taus]
    for parts in zip(*((data.base, data.novel, data.all) for data in loaded)):
        few, some, balanced = ({item.image for item in part.train.items} for part in parts)
        assert few < some < balanced
        for tau, part in zip(taus, parts):
            wanted = long_tail_counts(len(part.classnames), max_shots=16, tau=tau, profile=profile)
            assert sorted(part.train.counts) == sorted(wanted) and len(part.train) == sum(wanted)
            assert order == "random" or part.train.counts == wanted
            assert part.val == parts[0].val and part.test == parts[0].test and part.classnames == parts[0].classnames
        if order == "random":
            assert parts[0].train.counts != sorted(parts[0].train.counts, reverse=True)


def test_another_seed_draws_other_images():
    one, other = (load_dataset("world/shapes", tau=STEEP, seed=seed).base.train for seed in (1, 2))
    assert one.counts == other.counts and {item.image for item in one.items} != {item.image for item in other.items}


@pytest.mark.parametrize("settings, half_up, floor", [
    (dict(num_classes=4, tau=0.0625), [16, 6, 3, 1], [16, 6, 2, 1]),  # 16, 6.35, 2.52, 1
    (dict(num_classes=5, tau=0.0625), [16, 8, 4, 2, 1], [16, 8, 4, 2, 1]),
    (dict(num_classes=6, tau=0.25), [16, 12, 9, 7, 5, 4], [16, 12, 9, 6, 5, 4]),  # 16, 12.13, 9.19, 6.96, 5.28, 4
    (dict(num_classes=3, max_shots=2, tau=0.01), [2, 1, 1], [2, 1, 1]),  # 2, 0.2, 0.02: at least one
    (dict(num_classes=4, max_shots=10, tau=0.25, profile="step"), [10, 10, 3, 3], [10, 10, 2, 2]),  # 10, 2.5
    (dict(num_classes=3), [16, 16, 16], [16, 16, 16]),
])  # fmt: skip
def test_counts_are_rounded_or_cut_as_they_are_by_hand(settings, half_up, floor):
    assert long_tail_counts(**settings) == long_tail_counts(**settings, rounding="half_up") == half_up
    assert long_tail_counts(**settings, rounding="floor") == floor


def test_a_class_that_is_cut_has_at_most_one_image_less():
    both = {rounding: load_dataset("world/shapes", tau=STEEP, rounding=rounding).base.train for rounding in ("half_up", "floor")}
    less = [more - fewer for more, fewer in zip(*(train.counts for train in both.values()))]
    assert set(less) == {0, 1} and {item.image for item in both["floor"].items} < {item.image for item in both["half_up"].items}
    assert both["floor"].counts == [max(1, int(16 * STEEP ** (k / (len(less) - 1)))) for k in range(len(less))]
