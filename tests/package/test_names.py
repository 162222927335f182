"A name that does not exist is refused with what was asked for, what is near, and what there is."

import pytest

from npt._names import error_line, known, unknown
from npt.clip.load import load_clip


@pytest.mark.parametrize("asked, names, nearest", [
    ("coup", ["coop", "zero_shot"], "coop"),
    ("ViT-B/16", ["ViT-B-16", "ViT-S-16", "vit_medium_16"], "ViT-B-16"),
    ("laion2b", ["openai", "laion2b_s34b", "laion2b_s34b_b79k"], "laion2b_s34b"),
])  # fmt: skip
def test_the_nearest_name_is_offered(asked, names, nearest):
    with pytest.raises(ValueError, match=f"there is no thing '{asked}'. Did you mean '{nearest}'. Known: "):
        known("thing", asked, names)


@pytest.mark.parametrize("asked", ["", "qqqqq", None, 7])
def test_nothing_is_offered_where_nothing_is_near(asked):
    assert str(unknown("thing", asked, ["coop", "maple"])) == f"there is no thing {asked!r}. Known: coop, maple."


def test_where_nothing_is_known_no_list_is_offered():
    assert str(unknown("setting called", "x", [])) == "there is no setting called 'x', nor any other: leave it out."


def test_a_long_list_is_cut_and_one_that_is_iterated_once_is_enough():
    names = (f"name_{number:03}" for number in range(45))
    assert str(unknown("thing", 1, names)).endswith("name_039 and 5 more.")
    assert known("thing", "b", iter("abc")) == "b"


def test_the_first_line_of_an_error():
    assert error_line(ValueError("\n one\ntwo")) == "one" and error_line(KeyError()) == "KeyError"


def test_a_very_long_value_is_cut_in_a_message():
    assert len(str(unknown("dataset", "x" * 100_000, ["dtd"]))) < 300
    with pytest.raises(ValueError, match="Text too long for the 32 tokens of world: 'x x x") as error:
        load_clip("world").tokenize("x " * 10_000)
    assert len(str(error.value)) < 300
