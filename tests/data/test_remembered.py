"An answer about a file is kept until the file changes, by any number of threads, and a damaged database is named."

import os
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from npt.data.remembered import _Answer, _remembered


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{number}.txt" for number in range(1200)]  # more than two portions
    for path in paths:
        path.write_text(path.stem)
    return paths


def ask_for(files: list[Path], lasting: bool = True) -> tuple[dict, list[str]]:
    "The answers, which are what is in the files, and the names of those that were asked."
    asked = []

    def content(path: Path) -> _Answer:
        asked.append(path.stem)
        return _Answer(path.read_text() if path.exists() else None, lasting)

    return _remembered(files, content, files[0].parent / "kept" / "answers.sqlite3", "reading"), asked


def test_each_file_is_asked_once_until_it_changes(files):
    answers, asked = ask_for(files)
    assert answers == {path: path.stem for path in files} and sorted(asked, key=int) == [path.stem for path in files]
    assert ask_for(files) == (answers, [])
    before = os.stat(files[7])
    files[7].write_text("8")  # as long as before
    os.utime(files[7], ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert ask_for(files) == (answers | {files[7]: "8"}, ["7"])


@pytest.mark.parametrize("replaced", ["written over", "moved over"])
def test_another_file_of_the_same_size_and_time_is_asked(files, replaced):
    os.utime(files[0], ns=(0, 315532800 * 10**9))  # as reproducible archives and cp -p do
    ask_for(files[:2])
    other = files[0] if replaced == "written over" else files[0].with_name("other.txt")
    other.write_text("9")
    os.utime(other, ns=(0, 315532800 * 10**9))
    other.replace(files[0])
    assert ask_for(files[:2]) == ({files[0]: "9", files[1]: "1"}, ["0"])


def test_what_does_not_last_and_what_is_not_there_is_asked_again(files):
    assert ask_for(files[:2], lasting=False)[1] == ask_for(files[:2])[1] == ["0", "1"]
    gone = files[0].with_name("gone.txt")
    assert [ask_for([files[0], gone]) for _ in range(2)] == [({files[0]: "0", gone: None}, ["gone"])] * 2


def test_several_may_ask_at_once(files):
    with ThreadPoolExecutor(4) as pool:
        answers = [answer for answer, _ in pool.map(ask_for, [files] * 4)]
    assert answers == [{path: path.stem for path in files}] * 4
    with sqlite3.connect(files[0].parent / "kept" / "answers.sqlite3") as database:
        assert database.execute("SELECT COUNT(*) FROM kept").fetchone() == (len(files),)


def test_a_damaged_database_is_named(files):
    ask_for(files[:1])
    database = files[0].parent / "kept" / "answers.sqlite3"
    database.write_bytes(b"not a database " * 100)
    with pytest.raises(OSError, match=f"{database}.*delete it"):
        ask_for(files[:1])


def test_a_folder_that_cannot_be_made_is_named_with_what_to_do(files):
    with pytest.raises(OSError, match=r"0.txt/kept/answers.sqlite3 cannot be made .*NPT_CACHE"):
        _remembered(files, lambda _: _Answer(""), files[0] / "kept" / "answers.sqlite3", "reading")
