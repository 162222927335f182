"A table of labels beside pictures."

import os

import pytest

from npt.data.label_table import _labelled_by_table

PHOTOGRAPHS = ["images/1.jpg", "images/2.jpg", "images/more/1.jpg", "images/more/3.jpg"]


def read(text, tmp_path, file="labels.csv", photographs=PHOTOGRAPHS, encoding="utf-8"):
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_bytes(text.encode(encoding))
    return _labelled_by_table(tmp_path, file, photographs)


@pytest.mark.parametrize("text", [
    "path,label,split\nimages/1.jpg,001,train\nimages/2.jpg,NA,val\nimages/more/3.jpg,None,test\n",
    "Path;LABEL;Split\r\n./images/1.jpg;001;Training\r\nimages\\2.jpg; NA;VALID\r\n3.jpg;None;Testing\r\n",
    "split\tlabel\tpath\textra\ntrain\t001\timages/1.jpg\t\nvalidation\tNA\t2.jpg\tx\ntest\tNone\tmore/3.jpg\t\n",
])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_table_is_read_as_text(text, encoding, tmp_path):
    assert read(text, tmp_path, encoding=encoding) == [
        ("images/1.jpg", "001", "train"), ("images/2.jpg", "NA", "val"), ("images/more/3.jpg", "None", "test")]


def test_a_table_beside_its_pictures_means_those(tmp_path):
    assert read("path,label\n1.jpg,cat\nmore/1.jpg,dog\n", tmp_path, "images/labels.csv") == [
        ("images/1.jpg", "cat", None), ("images/more/1.jpg", "dog", None)]


def test_folders_say_the_split_where_the_table_does_not(tmp_path):
    photographs = ["train/1.jpg", "valid/2.jpg", "valid/3.jpg"]
    text = "path,label\ntrain/1.jpg,cat\nvalid/2.jpg,dog\n"
    assert [row.split for row in read(text, tmp_path, photographs=photographs)] == ["train", "val"]
    other = [path.replace("/", "_images/") for path in photographs]
    assert [row.split for row in read(text.replace("/", "_images/"), tmp_path, photographs=other)] == ["train", "val"]
    assert {row.split for row in read(text + "4.jpg,dog\n", tmp_path, photographs=[*photographs, "x/4.jpg"])} == {None}


@pytest.mark.parametrize("text, message", [
    ("images/1.jpg,cat\n", "first line must name the column 'path'"), ("path,class\n1.jpg,cat\n", "column 'label'"),
    ("", "No columns"), ("path,label\nimages/1.jpg,\n", "line 2 has no label"), ("path,label\n9.jpg,cat\n", "'9.jpg' is no photograph"),
    ("path,label\n../1.jpg,cat\n", "'../1.jpg' is no photograph"), ("path,label\n1.jpg,cat\n", "fits 'images/1.jpg' and 'images/more/1.jpg'"),
    ("path,label\n2.jpg,cat\nimages/2.jpg,dog\n", "'images/2.jpg' stands in it twice, as ('cat', '') and ('dog', '')"), ("path,label\n2.jpg,fox, red\n", "labels.csv"),
    ("path,label,split\nimages/1.jpg,cat,train\n2.jpg,cat,dev\n", "line 3 has the split 'dev'"),
    ("path,label,split\nimages/1.jpg,cat,train\n2.jpg,cat,\n", "line 3 has the split '': it must be train, val or test, or the whole column empty"),
    ("path,label,split\n2.jpg,cat,train\n2.jpg,cat,test\n", "stands in it twice, as ('cat', 'train') and ('cat', 'test')"),
    ("path,label\n/elsewhere/images/1.jpg,cat\n", "or be absolute and lead into data_root"), ("path,label,split,Split\n", "more than once"),
])
def test_a_table_that_cannot_be_used_is_named_with_the_reason(text, message, tmp_path):
    with pytest.raises(ValueError, match="labels.csv' cannot be used") as caught:
        read(text, tmp_path)
    assert message in str(caught.value)
    with pytest.raises(ValueError, match="labels.csv' cannot be used"):
        read("path,label\nimages/1.jpg,caf\u00e9\n", tmp_path, encoding="latin-1")


def test_a_repeated_line_is_counted_once_and_told_of(tmp_path):
    with pytest.warns(UserWarning, match="2 of 4 lines stand in it again and are counted once, such as that of 'images/2.jpg'"):
        assert read("path,label\nimages/2.jpg,cat\n2.jpg,cat\nimages/1.jpg,dog\n2.jpg,cat\n", tmp_path) == [
            ("images/1.jpg", "dog", None), ("images/2.jpg", "cat", None)]


def test_an_empty_split_column_is_none(tmp_path):
    assert read("path,label,split\nimages/1.jpg,cat,\n2.jpg,dog, \n", tmp_path) == [("images/1.jpg", "cat", None), ("images/2.jpg", "dog", None)]


def test_absolute_paths_into_the_folder_are_accepted(tmp_path):
    (home := tmp_path / "home").mkdir()
    (tmp_path / "link").symlink_to(home)
    (home / "images" / "more").mkdir(parents=True)
    text = f"path,label\n{home}/images/1.jpg,cat\n{tmp_path}/link/images/more/1.jpg,dog\n"
    assert read(text, home) == read(text, tmp_path / "link") == [("images/1.jpg", "cat", None), ("images/more/1.jpg", "dog", None)]


def test_what_is_no_table_is_refused_at_once(tmp_path):
    with pytest.raises(ValueError, match="labels.csv' cannot be used: its first line has more than 1000 columns"):
        read("path," * 2_000_000 + "\n", tmp_path)
    with pytest.raises(ValueError, match="labels.csv' cannot be used: it is no text in UTF-8, so save it in that encoding"):
        read("path,label\nimages/1.jpg,Käfer\n", tmp_path, encoding="latin-1")
    (tmp_path / "labels.csv").unlink()
    os.mkfifo(tmp_path / "labels.csv")
    with pytest.raises(ValueError, match="labels.csv' cannot be used: it is no file but a pipe"):
        _labelled_by_table(tmp_path, "labels.csv", PHOTOGRAPHS)
