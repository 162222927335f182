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
