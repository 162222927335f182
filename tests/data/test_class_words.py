"Words for folders, and names that become one prompt."

import os
import unicodedata

import pytest

from npt._files import write_text
from npt.data.class_words import _class_words, _refuse_same_prompts, _warn_of_wordless

FOLDERS = ["001", "n02085620-Chihuahua", "Red Fox", "Red"]


@pytest.mark.parametrize("name, text", [
    ("classnames.txt", "001 tabby cat\nn02085620-Chihuahua\tchihuahua\n\nRed Fox: fox\nRed a colour\n"),
    ("classnames.txt", "\ufeff001,tabby cat\r\nn02085620-Chihuahua = chihuahua\r\nRed Fox fox\r\nRed a colour"),
    ("classnames.json", '{"001": "tabby cat", "n02085620-Chihuahua": "chihuahua", "Red Fox": "fox", "Red": "a colour"}'),
])
def test_a_file_gives_words_to_folders(name, text, tmp_path):
    write_text(text, tmp_path / name)
    assert _class_words(FOLDERS, tmp_path / name) == dict(zip(FOLDERS, ["tabby cat", "chihuahua", "fox", "a colour"]))


def test_some_folders_may_keep_their_names_and_some_lines_be_for_later(tmp_path):
    assert _class_words(FOLDERS, None) == {name: name for name in FOLDERS}
    write_text("001 cat", tmp_path / "classnames.txt")
    assert _class_words(["001", "dog"], tmp_path / "classnames.txt") == {"001": "cat", "dog": "dog"}
    write_text("001 cat\n002 dog", tmp_path / "classnames.txt")
    assert _class_words(["001"], tmp_path / "classnames.txt") == {"001": "cat"}


@pytest.mark.parametrize("name, text, message", [
    ("classnames.txt", "001 cat\n01 dog", "names '01', which is no class here, and does not name '002'"),
    ("classnames.txt", "001 cat\n001 dog\n002 ox", "'001' stands in it twice"), ("classnames.txt", "001\n002 dog", "no words for '001'"),
    ("classnames.json", '["cat", "dog"]', "an object from folder to words"), ("classnames.json", "{", "cannot be used"),
    ("classnames.json", '{"001": ["n1", "cat"]}', "an object from folder to words"),
])
def test_a_file_that_gives_no_words_is_named(name, text, message, tmp_path):
    write_text(text, tmp_path / name)
    with pytest.raises(ValueError, match=f"{name}.*{message}"):
        _class_words(["001", "002"], tmp_path / name)


@pytest.mark.parametrize("one, other", [
    ("Red Fox", "red fox"), ("red fox", "red_fox"), ("red fox", "red  fox "), (unicodedata.normalize("NFC", "café"), unicodedata.normalize("NFD", "café")),
    ("room1", "room 1"), ("Tom & Jerry", "Tom &amp; Jerry"), ("ÉCLAIR", "éclair"),
])
def test_names_that_become_one_prompt_are_refused_with_both_places(one, other):
    with pytest.raises(ValueError, match="'a/1' and 'b/2' become one prompt"):
        _refuse_same_prompts({"a/1": one, "a/3": "red", "b/2": other})


def test_names_that_differ_are_not():
    _refuse_same_prompts({name: name for name in ("red fox", "redfox", "red foxes", "cafe", "café", "707-320", "707-321")})
    with pytest.raises(ValueError, match="'a/__' has a class name without any word"):
        _refuse_same_prompts({"a/__": "__"})


def test_numbers_in_the_place_of_words_are_warned_of():
    with pytest.warns(UserWarning, match="2 class names such as '001'.*classnames.txt"):
        _warn_of_wordless(["001", "n02085620-Chihuahua", "4 wheels", "cat"])


@pytest.mark.parametrize("name, what", [("\N{CAT FACE}", "signs"), ("\N{CAT FACE}\N{DOG FACE}", "signs"), ("?!", "signs"), ("1.5", "numbers"), ("_7", "numbers")])
def test_signs_are_not_called_numbers(name, what):
    with pytest.warns(UserWarning, match=f"1 class names such as .* hold {what} in the place of words") as said:
        _warn_of_wordless([name, "chat", "\u732b"])
    assert len(said) == 1


def test_words_nested_without_end_are_refused(tmp_path):
    (tmp_path / "classnames.json").write_text('{"cat":' * 100_000)
    with pytest.raises(ValueError, match="classnames.json' cannot be used: it is nested too deeply"):
        _class_words(["cat"], tmp_path / "classnames.json")


def test_a_folder_whose_name_is_no_text_is_named():
    with pytest.raises(ValueError, match=r"the class folder 'k\\udce4fer' has a name that is no text in UTF-8: give it another one"):
        _class_words(["cat", os.fsdecode("käfer".encode("latin-1"))], None)
