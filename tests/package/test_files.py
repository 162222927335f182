"Files are written whole or not at all."

import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from npt._files import cache_folder, write_bytes, write_tensors, write_text


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
