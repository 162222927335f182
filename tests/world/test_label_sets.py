"Label sets: half of each half unseen, pictures that depend on their names alone, splits that share none."

import pytest
import torch

from npt.data.load import load_dataset
from npt.world.label_sets import LABEL_SETS, WorldImage, _find_label_set, _is_dealt, draw_images

SPLITS = ["half", 0, 1, 2, 3, 17]  # class splits
DOMAINS = "objects-sketch", "objects-inverted", "objects-noisy"  # of `objects`


def words(classnames) -> set[str]:
    return {word for name in classnames for word in name.split()}


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


# ---- class splits

@pytest.mark.parametrize("class_split", SPLITS)
def test_the_halves_of_objects_share_no_word_and_hold_unseen_classes_whatever_the_class_split(class_split):
    data = load_dataset("world/objects", shots=1, class_split=class_split)
    base, novel = data.base.classnames, data.novel.classnames
    assert len(set(base)) == len(set(novel)) == 10 and data.all.classnames == base + novel
    assert not words(base) & words(novel)
    assert [list(base), list(novel)] == [sorted(base), sorted(novel)]
    seen = {thing.name: thing.seen for thing in _find_label_set(data.all.test.items[0].image.label_set).things}
    assert [sum(seen[name] for name in half) for half in (base, novel)] == [5, 5]


def test_another_class_split_has_other_words_and_other_pictures():
    halves = {split: load_dataset("world/objects", shots=1, class_split=split).base for split in SPLITS}
    assert len({frozenset(words(base.classnames)) for base in halves.values()}) == len(SPLITS)
    pictures = {split: {draw.numpy().tobytes() for draw in draw_images([item.image for item in base.test.items[::20]])}
                for split, base in halves.items()}
    assert {len(drawn) for drawn in pictures.values()} == {50} and len(set().union(*pictures.values())) == 50 * len(SPLITS)


def test_a_class_that_two_class_splits_share_has_new_pictures_in_each():
    names = {split: [thing.name for thing in _find_label_set(f"objects~{split}").things] for split in range(8)}
    one, other, name = next((one, other, name) for one in names for other in range(one) for name in names[one] if name in names[other])
    keys = [[WorldImage(f"objects~{split}", "test", names[split].index(name), number) for number in range(20)] for split in (one, other)]
    drawn = {picture.numpy().tobytes() for images in keys for picture in draw_images(images)}
    assert len(drawn) == 40


@pytest.mark.parametrize("class_split", SPLITS)
def test_every_domain_of_objects_has_its_classes_whatever_the_class_split(class_split):
    source, *domains = (load_dataset(f"world/{name}", shots=1, class_split=class_split) for name in ("objects", *DOMAINS))
    pictures = [draw_images([item.image for item in data.base.test.items[::100]]) for data in (source, *domains)]
    for data in domains:
        assert (data.base.classnames, data.novel.classnames) == (source.base.classnames, source.novel.classnames)
        assert len(data.all.val) == len(source.all.val) == 20 * 50, "val is whole"
    assert len({picture.numpy().tobytes() for drawn in pictures for picture in drawn}) == 4 * 10


def test_words_are_dealt_in_objects_and_its_domains_alone():
    assert {name for name in LABEL_SETS if _is_dealt(name)} == {"objects", *DOMAINS}
    assert _is_dealt("objects-noisy~3") and not _is_dealt("") and not _is_dealt("dtd")


@pytest.mark.parametrize("name", ["shapes", "textures", "scenes"])
def test_where_there_are_no_words_to_deal_a_class_split_is_a_random_half(name):
    published, drawn, again, another = (load_dataset(f"world/{name}", shots=1, class_split=split) for split in ("half", 3, 3, 4))
    assert drawn.all == published.all and drawn == again
    assert sorted(drawn.base.classnames + drawn.novel.classnames) == sorted(published.all.classnames)
    assert len({frozenset(data.base.classnames) for data in (published, drawn, another)}) == 3
    assert len(drawn.base.classnames) == len(published.base.classnames)
