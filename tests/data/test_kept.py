"""A file is made by one process at a time, and those that were not asked for longest make room."""

import os
from pathlib import Path

import pytest

from npt.data import kept
from npt.data.kept import _claim, _last_use, _make_room, _mark


def test_a_file_is_claimed_once_and_free_again_afterwards(tmp_path: Path):
    path = tmp_path / "ab12.npy"
    with _claim(path) as first, _claim(path) as second, _claim(tmp_path / "cd34.npy") as other:
        assert (first, second, other) == (True, False, True)
    with _claim(path) as again:
        assert again


def test_where_no_lock_can_be_made_the_file_is_made_all_the_same(tmp_path: Path):
    (tmp_path / "locks").write_text("a file")
    with _claim(tmp_path / "ab12.npy") as free:
        assert free


@pytest.mark.parametrize("asked", [0, 2])
def test_the_longest_unused_makes_room(asked: int, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(kept, "_MOST_KEPT", 25)
    paths = [tmp_path / f"{number}a.npy" for number in range(3)]
    for age, path in enumerate(paths):
        path.write_bytes(b"1234567890")
        os.utime(path, (1000 - age, 1000 - age))
    (tmp_path / "notes.txt").write_text("x" * 100)
    _mark(paths[asked])
    _make_room(tmp_path)
    gone = {path for path in paths if not path.exists()}
    assert gone == {paths[2] if asked == 0 else paths[1]} and (tmp_path / "notes.txt").exists()


def test_a_file_that_is_gone_was_never_used(tmp_path: Path):
    assert _last_use(tmp_path / "ab12.npy") == (0.0, 0)
