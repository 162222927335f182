"Label sets: half of each half unseen, pictures that depend on their names alone, splits that share none."

import pytest
import torch

from npt.data.load import load_dataset
from npt.world.label_sets import LABEL_SETS, WorldImage, draw_images


@pytest.mark.parametrize("name", LABEL_SETS)
def test_images_do_not_depend_on_the_batch_or_on_when_they_are_drawn(name):
    images = [WorldImage(name, split, label, number) for split in ("train", "test")
              for label in range(0, len(LABEL_SETS[name].things), 5) for number in (0, 7)]
    drawn = draw_images(images)
    for index in (0, len(images) // 2, len(images) - 1):
        assert torch.equal(drawn[index], draw_images([images[index]])[0])
    assert len({image.numpy().tobytes() for image in drawn}) == len(images), "no two pictures are alike"


@pytest.mark.parametrize("name", LABEL_SETS)
def test_half_of_the_classes_of_each_half_are_unseen(name):
    things = LABEL_SETS[name].things
    half = len(things) // 2
    assert len({thing.name for thing in things}) == len(things) == 2 * half
    assert [sum(thing.seen for thing in part) for part in (things[:half], things[half:])] == [half / 2, half / 2]


def test_splits_share_no_image():
    data = load_dataset("world/shapes", shots=16)
    images = [{item.image for item in split.items} for split in (data.all.train, data.all.val, data.all.test)]
    assert not images[0] & images[1] and not images[1] & images[2] and not images[0] & images[2]
    assert min(data.all.test.counts) >= 100


def test_one_label_set_is_drawn_at_a_time():
    with pytest.raises(ValueError, match="scenes.*shapes"):
        draw_images([WorldImage("shapes", "test", 0, 0), WorldImage("scenes", "test", 0, 0)])
