"Photographs of one's own, and counts of a long tail."

import pytest
import torch
from miniature import write_pictures

from npt.data.load import load_dataset


@pytest.fixture
def photographs(tmp_path):
    "Four classes of six photographs."
    for label, name in enumerate(["bird", "cat", "dog", "frog"]):
        write_pictures(tmp_path / name, label, "{}.jpg", 6)
    return tmp_path


def test_photographs_are_split_the_same_way_each_time(photographs):
    first, second = (load_dataset("folder", root=photographs, shots=2) for _ in range(2))
    assert first.all == second.all
    names = [{item.image for item in split.items} for split in (first.all.train, first.all.val, first.all.test)]
    assert not names[0] & names[1] and not names[0] & names[2] and not names[1] & names[2]


def test_more_shots_than_images_warns_and_goes_on(photographs):
    with pytest.warns(UserWarning, match="fewer than 16"):
        data = load_dataset("folder", root=photographs, shots=16)
    assert data.base.train.counts == [3, 3]


@pytest.mark.parametrize("tau, least", [(1.0, 16), (0.25, 4), (0.0625, 1)])
def test_training_counts_follow_tau(tau, least):
    base = load_dataset("world/shapes", shots=16, tau=tau).base.train
    assert (max(base.counts), min(base.counts)) == (16, least)
    assert torch.equal(base.labels.bincount(), torch.tensor(base.counts))
