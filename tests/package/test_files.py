"Files are written whole or not at all, and what killed writers leave is swept, and only that."

import os
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from npt._files import cache_folder, parse_json, sweep, write_bytes, write_tensors, write_text

DIES = """
import os, sys
from npt._files import write_bytes
os.fsync = lambda file: (print("writing", flush=True), sys.stdin.read(), os.kill(os.getpid(), 9))
write_bytes(b"half", sys.argv[1])
"""


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failure_leaves_the_old_file_and_nothing_else(step, tmp_path, monkeypatch):
    path = tmp_path / "new" / "note.txt"
    write_text("first", path)

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError, match="disk full"):
        write_bytes(b"second", path)
    assert path.read_text() == "first" and [p.name for p in path.parent.iterdir()] == ["note.txt"]


def test_texts_are_utf_8_and_tensors_may_be_views(tmp_path):
    write_text("Grüße", tmp_path / "note.txt")
    assert (tmp_path / "note.txt").read_bytes() == "Grüße".encode()
    turned = torch.arange(6.0, requires_grad=True).view(2, 3).T
    write_tensors({"turned": turned}, tmp_path / "some.safetensors", {"made": "by hand"})
    with safe_open(tmp_path / "some.safetensors", "pt") as file:
        assert file.metadata() == {"made": "by hand"} and torch.equal(file.get_tensor("turned"), turned)


def test_the_cache_is_where_the_environment_says(monkeypatch):
    monkeypatch.setenv("NPT_CACHE", "~/elsewhere")
    assert cache_folder() == Path.home() / "elsewhere"
    monkeypatch.setenv("NPT_CACHE", "")
    assert cache_folder() == Path.home() / ".cache" / "npt"


def test_what_a_killed_writer_left_is_swept_and_only_that(tmp_path):
    path, digits = tmp_path / "note.txt", uuid.uuid4().hex
    writer = subprocess.Popen([sys.executable, "-c", DIES, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert writer.stdout.readline() == "writing\n"
    (left,) = tmp_path.iterdir()
    keep = [f"note.txt.{digits}", f".note.txt.{digits[:-1]}", f".note.txt.{digits}.txt", f".note.txt.{digits[:12]}1{digits[13:]}", ".lock"]
    for name in keep:
        (tmp_path / name).touch()
    sweep(tmp_path)
    assert left.exists(), "its writer lives"
    writer.communicate("")
    assert left.exists(), "its writer was killed"
    other = tmp_path / f".other.txt.{digits}"
    other.touch()
    write_bytes(b"whole", path)
    assert not left.exists() and other.exists(), "a file's writer sweeps what earlier ones left of that file"
    sweep(tmp_path)
    sweep(tmp_path / "nowhere")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*keep, "note.txt"])


def test_two_writers_of_one_file_leave_one_of_both(tmp_path):
    code = "import sys; from npt._files import write_bytes; [write_bytes(sys.argv[2].encode() * 1000, sys.argv[1]) for _ in range(200)]"
    both = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "note.txt"), word]) for word in "ab"]
    assert [process.wait() for process in both] == [0, 0]
    assert [p.name for p in tmp_path.iterdir()] == ["note.txt"] and (tmp_path / "note.txt").read_bytes() in (b"a" * 1000, b"b" * 1000)


def test_equal_tensors_and_words_are_equal_files(tmp_path):
    tensors = {"b": torch.ones(2, 3), "a": torch.zeros(1, dtype=torch.int64), "\u00e9": torch.ones(1)}
    header = {name: name * 3 for name in ("learner", "settings", "classnames", "backbone", "\u00e9")}
    for number in range(8):
        write_tensors(dict(sorted(tensors.items(), reverse=number % 2)), tmp_path / str(number), header)
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1
    with safe_open(tmp_path / "0", "pt") as file:
        assert file.metadata() == header and all(torch.equal(file.get_tensor(name), tensors[name]) for name in tensors)


@pytest.mark.parametrize("data", [b"", b"{", '{"h": 1}'.encode("utf-16"), b"\xff\xfe", b"[" * 100_000, b'{"a":' * 100_000, b"1" * 5000, b"\0"])
def test_what_is_no_json_is_one_kind_of_error(data):
    with pytest.raises(ValueError) as caught:
        parse_json(data)
    assert type(caught.value) is ValueError or "line 1" in str(caught.value)


@pytest.mark.parametrize("name", ["file/runs", "x" * 300])
def test_a_folder_that_cannot_be_made_is_named(name, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="no folder can be made at .*: give another one"):
        write_text("text", tmp_path / name / "metrics.json")
