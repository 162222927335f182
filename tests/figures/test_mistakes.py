"Which pictures are named wrongly: counts, shares, the worst first, and clear errors."

import pytest
import torch

from npt.figures.mistakes import confusion_matrix, wrongest, wrongest_images

LOGITS = torch.tensor([[9.0, 0, 0], [9, 0, 0], [0, 2, 0], [0, 3, 0], [0, 0, 1]])
LABELS = torch.tensor([0, 1, 2, 2, 2])
NAMES = ["disc", "square", "cross"]


def test_rows_are_true_classes_and_colours_are_shares_of_them():
    right, wrong = confusion_matrix({"NPT": LOGITS}, LABELS, NAMES).data
    assert wrong.customdata.tolist() == [[1, 0, 0], [1, 0, 0], [0, 2, 1]]
    assert wrong.z[1, 0] == 100 and wrong.z[2, 1] == pytest.approx(66.7, abs=0.1) and right.z[2, 2] == pytest.approx(33.3, abs=0.1)
    assert wrong.text[2, 1] == "2" and wrong.text[0, 1] == ""


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_matrices_of_any_number_of_names_fit_the_page(count):
    fig = confusion_matrix({str(number): LOGITS for number in range(count)}, LABELS, NAMES)
    assert fig.layout.width <= 780 and len(fig.data) == 2 * count and "3".join(["", " of 5"]) in fig.layout.annotations[0].text


def test_of_hundreds_of_classes_those_that_are_confused_are_drawn():
    labels = torch.arange(300)
    logits = torch.eye(300)
    logits[299, 7] = 5.0
    fig = confusion_matrix({"NPT": logits}, labels, [f"class {i}" for i in range(300)])
    assert "the 50 worst of 300" in fig.layout.title.text and fig.data[0].z.shape == (50, 50)
    assert {"class 7", "class 299"} <= set(fig.layout.xaxis.ticktext)


@pytest.mark.parametrize("logits, fault", [
    ({}, "1 to 4 names"),
    ({"NPT": LOGITS[:3]}, "labels"),
    ({"NPT": LOGITS[:, :2]}, "do not go with 3"),
    ({"NPT": LOGITS.where(LOGITS < 9, torch.nan)}, "2 of 5 pictures are not numbers"),
])  # fmt: skip
def test_what_cannot_be_counted_is_named(logits, fault):
    labels = LABELS.clamp(max=1) if fault.startswith("do") else LABELS
    with pytest.raises(ValueError, match=fault):
        confusion_matrix(logits, labels, NAMES)


def test_the_worst_mistake_is_the_first_and_right_ones_are_none():
    assert wrongest(LOGITS, LABELS).tolist() == [1, 3, 2]
    assert wrongest(LOGITS, LABELS, most=1).tolist() == [1]
    assert wrongest(LOGITS, LOGITS.argmax(1)).tolist() == []


def test_the_sheet_says_what_is_true_what_was_said_and_how_surely():
    worst = wrongest(LOGITS, LABELS)
    fig = wrongest_images(torch.rand(3, 3, 8, 8), LOGITS[worst], LABELS[worst], NAMES)
    assert [note.text for note in fig.layout.annotations] == [
        "true: square<br>said: disc<br>over 99 %", "true: cross<br>said: square<br>91 %", "true: cross<br>said: square<br>79 %"]
    with pytest.raises(ValueError, match=r"\[0\] are named rightly"):
        wrongest_images(torch.rand(2, 3, 8, 8), LOGITS[:2], LABELS[:2], NAMES)
