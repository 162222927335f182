"Splits: labels and counts, parts of them, and what rows become."

from pathlib import Path

import pytest

from npt.data.datasets import DATASETS, find_dataset
from npt.data.formats import ImageRow, _read_rows
from npt.data.split import Item, Part, Split, _as_splits

LABELS = [2, 0, 1, 1, 3, 0]
SPLIT = Split(tuple(Item(f"{place}.jpg", label) for place, label in enumerate(LABELS)), tuple("abcd"), find_dataset("dtd"))


def test_labels_and_counts():
    assert len(SPLIT) == 6 and SPLIT.labels.tolist() == LABELS and SPLIT.counts == [2, 2, 1, 1]
    empty = SPLIT.take([])
    assert len(empty) == 0 and empty.counts == [0, 0, 0, 0] and empty.labels.shape == (0,)


def test_some_items_keep_their_order_and_classes():
    some = SPLIT.take([4, 0, 4])
    assert [item.image for item in some.items] == ["4.jpg", "0.jpg", "4.jpg"] and some.classnames == SPLIT.classnames


def test_some_classes_are_counted_from_zero():
    part = SPLIT.of_classes(1, 3)
    assert [(item.image, item.label) for item in part.items] == [("0.jpg", 1), ("2.jpg", 0), ("3.jpg", 0)]
    assert part.classnames == ("b", "c") and Part(part, SPLIT, SPLIT).classnames == ("b", "c")
    assert SPLIT.of_labels([1, 2]) == part and SPLIT.of_labels(range(4)) == SPLIT
    turned = SPLIT.of_labels([2, 1])
    assert [(item.image, item.label) for item in turned.items] == [("0.jpg", 0), ("2.jpg", 1), ("3.jpg", 1)] and turned.classnames == ("c", "b")


@pytest.mark.parametrize("name", DATASETS)
def test_only_ones_own_photographs_are_turned_upright(name):
    assert Split((), (), find_dataset(name)).upright == (name == "folder")


def test_rows_become_items_with_whole_paths():
    rows = {"train": [ImageRow("b/1.jpg", 1, "oak"), ImageRow("a/1.jpg", 0, "ash")], "val": [], "test": [ImageRow("a/2.jpg", 0, "ash")]}
    splits = _as_splits(rows, find_dataset("dtd"), Path("data"))
    assert splits["train"].items == (Item("data/dtd/images/b/1.jpg", 1), Item("data/dtd/images/a/1.jpg", 0))
    assert {split.classnames for split in splits.values()} == {("ash", "oak")}
    only_tested = _as_splits(rows | {"train": []}, find_dataset("imagenet_a"), Path("data"))
    assert only_tested["train"].classnames == ("ash",)
    one_untrained = _as_splits(rows | {"test": [ImageRow("c/1.jpg", 2, "elm")]}, find_dataset("folder"), Path("data"))
    assert one_untrained["train"].classnames == ("ash", "oak", "elm")


def test_drawn_pictures_keep_their_names():
    record = find_dataset("world/textures")
    rows = _read_rows(record, "nowhere")
    assert [item.image for item in _as_splits(rows, record, Path("nowhere"))["val"].items] == [row.path for row in rows["val"]]
