"Shots are picked by one stream of chance, in the order in which classes appear; CoOp's own picks stand in test_load."

import random
import warnings

import pytest

from npt.data.few_shot import _pick_shots
from npt.data.formats import ImageRow


def rows_of(split: str, sizes: list[int]) -> list[ImageRow]:
    "Rows of classes of some sizes, one image of each class in turn."
    return [ImageRow(f"{split}/{label}_{number}.jpg", label, f"class {label}")
            for number in range(max(sizes)) for label, size in enumerate(sizes) if number < size]


ROWS = {"train": rows_of("train", [9, 7, 8]), "val": rows_of("val", [6, 7, 5]), "test": rows_of("test", [2, 2, 2])}


def test_the_stream_goes_on_from_train_to_val():
    picked, chance = _pick_shots(ROWS, 5, seed=3), random.Random(3)
    for split, shots in ("train", 5), ("val", 4):
        classes = [[row for row in ROWS[split] if row.label == label] for label in range(3)]
        assert picked[split] == [row for members in classes for row in chance.sample(members, shots)]
    assert picked["test"] == ROWS["test"]


def test_val_has_no_more_than_train():
    assert [len(_pick_shots(ROWS, shots, seed=1)["val"]) for shots in (1, 2, 4, 6)] == [3, 6, 12, 12]


def test_a_class_with_too_few_images_takes_nothing_from_the_stream():
    few = ROWS | {"train": rows_of("train", [9, 2, 8])}
    with pytest.warns(UserWarning, match="1 of 3 classes have fewer than 5 training images.*'class 1', 2"):
        picked = _pick_shots(few, 5, seed=3)["train"]
    chance = random.Random(3)
    first, last = ([row for row in few["train"] if row.label == label] for label in (0, 2))
    assert picked == chance.sample(first, 5) + [row for row in few["train"] if row.label == 1] + chance.sample(last, 5)


def test_a_val_that_is_the_test_set_is_left_whole():
    assert _pick_shots(ROWS | {"val": ROWS["test"]}, 5, seed=1)["val"] == ROWS["test"]


def test_no_training_images_are_no_reason_to_warn_and_no_shots_are_refused():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert _pick_shots(ROWS | {"train": []}, 5, seed=1)["train"] == []
    with pytest.raises(ValueError, match="at least 1, not 0"):
        _pick_shots(ROWS, 0, seed=1)
