"""Layouts of weights files: what people save is read, nothing in it runs, and a broken or unclear file is named."""

import argparse
import json
import os
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from npt.clip.layouts import _read_tensors

WEIGHTS = {"logit_scale": torch.tensor(4.6), "visual.proj": torch.arange(6.0).reshape(2, 3)}


class Runs:
    "Would run a command when it is read."

    def __reduce__(self) -> tuple:
        return os.system, ("false",)


def named(prefix: str) -> dict[str, torch.Tensor]:
    return {prefix + name: tensor for name, tensor in WEIGHTS.items()}


def assert_read(path: Path):
    read = _read_tensors(path)
    assert read.keys() == WEIGHTS.keys() and all(torch.equal(read[name], WEIGHTS[name]) for name in WEIGHTS)


@pytest.mark.parametrize("held", [
    WEIGHTS,
    named("module."),
    {"epoch": 3, "state_dict": named("module."), "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}}},
    {"model_state_dict": WEIGHTS, "loss": 0.1},
    {"model": {"state_dict": named("_orig_mod.module.")}},
    {"state_dict": named("clip."), "ema": named("clip.")},
    {"my weights": WEIGHTS, "lr": 0.1},
    {**WEIGHTS, "epoch": 3},
    {"state_dict": WEIGHTS, "args": argparse.Namespace(lr=0.1, optimiser=argparse.Namespace(name="sgd"))},
    {"state_dict": WEIGHTS, "best": np.float64(0.5), "step": np.int64(3), "done": np.bool_(True), "losses": np.arange(3.0, dtype=np.float32)},
], ids=lambda held: " ".join(held)[:40])
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "before torch 1.6"])
def test_what_training_scripts_save(tmp_path, held, legacy):
    torch.save(held, tmp_path / "saved.pt", _use_new_zipfile_serialization=not legacy)
    assert_read(tmp_path / "saved.pt")


def test_numbers_of_an_older_numpy(tmp_path):
    torch.save({"state_dict": WEIGHTS, "best": np.float64(0.5)}, tmp_path / "new.pt")
    with ZipFile(tmp_path / "new.pt") as new, ZipFile(tmp_path / "old.pt", "w") as old:
        for name in new.namelist():
            old.writestr(name, new.read(name).replace(b"cnumpy._core.multiarray", b"cnumpy.core.multiarray"))
    assert b"cnumpy.core.multiarray" in (tmp_path / "old.pt").read_bytes()
    assert_read(tmp_path / "old.pt")


@pytest.mark.parametrize("hidden", [{"args": argparse.Namespace(run=Runs())}, {"best": np.array([Runs()], dtype=object)}, {"run": Runs()}], ids=list)
def test_what_could_run_is_refused_also_within_plain_data(tmp_path, hidden):
    torch.save({"state_dict": WEIGHTS, **hidden}, tmp_path / "evil.pt")
    with pytest.raises(ValueError, match="evil.pt.*holds Python objects"):
        _read_tensors(tmp_path / "evil.pt")
    assert argparse.Namespace not in torch.serialization.get_safe_globals(), "for this file only"


def test_safetensors_under_any_name(tmp_path):
    save_file(named("module."), tmp_path / "weights.bin")
    assert_read(tmp_path / "weights.bin")


def test_what_stands_outside_of_the_model_keeps_its_name(tmp_path):
    save_file(named("clip.") | {"head.weight": torch.zeros(2)}, tmp_path / "classifier.safetensors")
    assert _read_tensors(tmp_path / "classifier.safetensors").keys() == WEIGHTS.keys() | {"head.weight"}


@pytest.mark.parametrize("name", ["model.safetensors", "open_clip_model.safetensors", "pytorch_model.bin", "mine.pt"])
def test_a_folder_with_one_file(tmp_path, name):
    save_file(WEIGHTS, tmp_path / name) if name.endswith("safetensors") else torch.save(WEIGHTS, tmp_path / name)
    (tmp_path / "README.md").write_text("not weights")
    assert_read(tmp_path)


@pytest.mark.parametrize("ending", ["safetensors", "bin"])
def test_a_sharded_folder(tmp_path, ending):
    stem = "model" if ending == "safetensors" else "pytorch_model"
    for number, name in enumerate(WEIGHTS):
        held, path = {name: WEIGHTS[name]}, tmp_path / f"{stem}-{number}.{ending}"
        save_file(held, path) if ending == "safetensors" else torch.save(held, path)
    index = tmp_path / f"{stem}.{ending}.index.json"
    index.write_text(json.dumps({"weight_map": {name: f"{stem}-{number}.{ending}" for number, name in enumerate(WEIGHTS)}}))
    assert_read(tmp_path)
    assert_read(index)
    (tmp_path / f"{stem}-1.{ending}").unlink()
    with pytest.raises(FileNotFoundError, match=f"2 files, and 1 of them.*'{stem}-1"):
        _read_tensors(tmp_path)


@pytest.mark.parametrize("index", ['{"weight_map": {"a": "../other.safetensors"}}', '{"weight_map": {}}', "[]", "{", '{"weight_map": 3}'])
def test_an_index_that_is_none_or_points_elsewhere(tmp_path, index):
    save_file(WEIGHTS, tmp_path / "other.safetensors")
    folder = tmp_path / "inside"
    folder.mkdir()
    (folder / "model.safetensors.index.json").write_text(index)
    with pytest.raises(ValueError, match="index.json"):
        _read_tensors(folder)


@pytest.mark.parametrize("held, words", [
    ({"a": WEIGHTS, "b": WEIGHTS}, "several tables of tensors, 'a', 'b'"),
    ({"epoch": 3}, "no table"), ([1, 2], "no table"), ({"state_dict": {}}, "no table"),
], ids=str)
def test_what_is_not_clear_is_refused(tmp_path, held, words):
    torch.save(held, tmp_path / "odd.pt")
    with pytest.raises(ValueError, match=f"odd.pt.*{words}"):
        _read_tensors(tmp_path / "odd.pt")


def test_folders_without_one_file_of_weights(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds none"):
        _read_tensors(tmp_path)
    for name in "a.pt", "b.pt":
        torch.save(WEIGHTS, tmp_path / name)
    with pytest.raises(FileNotFoundError, match="several: 'a.pt', 'b.pt'"):
        _read_tensors(tmp_path)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.half, torch.bfloat16, torch.float, torch.double])
def test_a_number_that_is_none_is_named(tmp_path, number, dtype):
    broken = torch.ones(2, 3, dtype=dtype)
    broken[1, 2] = number
    save_file(WEIGHTS | {"visual.proj": broken}, tmp_path / "broken.safetensors")
    with pytest.raises(ValueError, match=r"broken.safetensors.*NaN or infinity in 1 of its 2 weights, first in 'visual.proj' \(1 of 6"):
        _read_tensors(tmp_path / "broken.safetensors")


def test_a_causal_mask_is_infinite_by_design(tmp_path):
    torch.save(WEIGHTS | {"attn_mask": torch.full((2, 2), float("-inf")).triu(1)}, tmp_path / "old.pt")
    assert "attn_mask" in _read_tensors(tmp_path / "old.pt"), "the model says whether it computes one itself"
