"The command line tells what it does, what failed and what is wrong, and stops at a key."

import os
import signal
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from archives import in_a_process, tar, tree
from conftest import ROOT
from forked import Fork, prepare_unsummed
from miniature import make_tree, pack_whole
from server import HANGS, Server

from npt.data.cli import _datasets_table, prepare_command
from npt.data.formats import _image_folder, _read_rows
from npt.data.prepare import _PREPARED, prepare


def test_datasets_are_prepared_and_told_and_one_failure_stops_no_other(server, mirrored, root, capsys):
    for name in ("dtd", "eurosat", "oxford_pets"):
        mirrored(name)
    (server.folder / "eurosat" / "EuroSAT.zip").rename(server.folder / "away")
    arguments = ["dtd", "eurosat", "oxford_pets", "--root", str(root), "--mirror", server.url]
    assert prepare_command(arguments) == 1
    out, err = capsys.readouterr()
    assert "dtd: 5 classes; 25 train, 10 val, 15 test images, in " in out and "oxford_pets: 4 classes; " in out
    assert "dtd-r1.0.1.tar.gz, " in out and f"from {server.url}/dtd/dtd-r1.0.1.tar.gz" in out and "licence: research" in out
    last = err.split("failed:\n")[1].splitlines()
    assert len(last) == 1 and last[0].startswith("  eurosat: ") and "404" in last[0]
    assert "warning: split_zhou_DescribableTextures.json" in err and "Traceback" not in out + err
    (server.folder / "away").rename(server.folder / "eurosat" / "EuroSAT.zip")
    assert prepare_command(arguments) == 0


def test_verify_counts_and_opens(server: Server, mirrored: Callable, root: Path, capsys):
    record = mirrored("dtd")
    with pytest.warns(UserWarning):
        prepare("dtd", root, mirror=server.url)
    assert prepare_command(["--verify", "--root", str(root)]) == 0
    assert "dtd: 5 classes; 25 train, 10 val, 15 test images, none of them broken" in capsys.readouterr().out
    bad = sorted(_image_folder(record, root).glob("*/*.jpg"))[3]
    bad.write_bytes(bad.read_bytes()[:-20])
    _PREPARED["dtd"] = replace(record, num_classes=47, num_images=5640)
    assert prepare_command(["dtd", "eurosat", "--verify", "--root", str(root)]) == 1
    out, err = capsys.readouterr()
    assert "1 of them broken" in out and f"{bad}: " in err and "it has 5 classes, and should have 47" in err
    assert "it has 50 images, and should have 5640" in err
    assert err.split("failed:\n")[1].splitlines()[1].startswith("  eurosat: ")


def listed(root: Path, capsys, *names: str) -> dict[str, str]:
    "The line of each dataset in `--list`, which touches nothing."
    before = tree(root)
    assert prepare_command(["--list", *names, "--root", str(root)]) == 0
    assert tree(root) == before
    return {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}


def test_list_says_ready_of_what_verify_would_accept_by_a_count(mirrored: Callable, root: Path, capsys):
    record = mirrored("dtd")
    folder = make_tree("dtd", root)
    assert listed(root, capsys, "dtd")["dtd"].split()[1] == "ready"
    [first, *others] = sorted((folder / "images").glob("b*/*.jpg"))
    content = first.read_bytes()
    first.unlink()
    line = listed(root, capsys, "dtd")["dtd"]
    assert line.split()[1] == "partial" and "it has 49 images, and should have 50" in line
    first.write_bytes(content)
    with pytest.warns(UserWarning, match="differ slightly"):
        rows = _read_rows(record, root)
    (folder / "split_npt_DescribableTextures.json").rename(folder / "split_zhou_DescribableTextures.json")
    assert listed(root, capsys, "dtd")["dtd"].split()[1] == "ready"
    first.rename(first.with_name("renamed.jpg"))
    line = listed(root, capsys, "dtd")["dtd"]
    assert line.split()[1] == "partial" and "1 images are missing, such as banded/image_0001.jpg" in line
    for path in others:
        path.unlink()
    (folder / "split_zhou_DescribableTextures.json").unlink()
    line = listed(root, capsys, "dtd")["dtd"]  # one image is left
    assert line.split()[1] == "partial" and len(rows["test"]) == 15
    assert prepare_command(["dtd", "--verify", "--root", str(root)]) == 1


def test_a_dataset_that_is_in_place_and_not_whole_is_a_failure(server: Server, mirrored: Callable, root: Path, capsys):
    record = mirrored("dtd")
    _PREPARED["dtd"] = replace(record, num_classes=47, num_images=5640)
    make_tree("dtd", root)
    assert prepare_command(["dtd", "--root", str(root), "--mirror", server.url]) == 1
    err = capsys.readouterr().err
    assert "it has 5 classes, and should have 47; it has 50 images, and should have 5640. To fetch it again, move " in err


def test_list_says_what_is_there(mirrored: Callable, root: Path, capsys):
    mirrored("caltech101")
    make_tree("caltech101", root)
    (root / "oxford_pets" / "annotations").mkdir(parents=True)
    (root / "oxford_pets" / "annotations" / "test.txt").write_text("")
    table = listed(root, capsys)
    assert list(table) == ["dataset", *_PREPARED]
    states = {name: line.split()[1] for name, line in table.items() if name in _PREPARED}
    assert Counter(states.values()) == {"ready": 1, "partial": 1, "missing": 13}
    assert states["caltech101"] == "ready" and states["oxford_pets"] == "partial"
    assert "39.1GB" in table["sun397"] and "MIT" in table["eurosat"] and "Log in" in table["imagenet"]


@pytest.mark.parametrize("arguments, message", [
    (["dtt"], "no dataset to prepare 'dtt'. Did you mean 'dtd'?"),
    (["world/shapes"], "no dataset to prepare 'world/shapes'"),
    ([], "name the datasets, or give --all"),
    (["--verify", "--root", "nowhere"], "there is no dataset in nowhere yet"),
    (["dtd", "eurosat", "--link", "copy"], "--link needs the name of one dataset"),
])
def test_a_wrong_command_is_answered_with_what_is_wrong(arguments: list[str], message: str, capsys):
    with pytest.raises(SystemExit) as caught:
        prepare_command(arguments)
    assert caught.value.code == 2 and message in capsys.readouterr().err


def test_a_mirror_must_be_an_address(root: Path, capsys):
    assert prepare_command(["dtd", "--root", str(root), "--mirror", "/some/folder"]) == 1
    assert "begins with http:// or https://" in capsys.readouterr().err and not root.exists()


def test_the_script_stops_at_a_key_and_goes_on(server: Server, root: Path, monkeypatch: pytest.MonkeyPatch):
    "Without checksums any archive of ImageNet-A's form comes into place; that it is not whole is said in the end."
    (server.folder / "imagenet_a").mkdir()
    (server.folder / "imagenet_a" / "imagenet-a.tar").write_bytes(
        tar(("imagenet-a/n01498041/1.jpg", os.urandom(3_000_000)), mode="w"))
    server.troubles["imagenet_a/imagenet-a.tar"] = [HANGS]
    process = Fork(prepare_unsummed, "imagenet_a", "--root", root, "--mirror", server.url)
    while process.poll() is None and not sum(path.stat().st_size for path in root.rglob("*.part")):
        threading.Event().wait(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 130 and "the same command goes on" in err and "Traceback" not in err
    server.log.clear()
    record = _PREPARED["imagenet_a"]
    monkeypatch.setitem(_PREPARED, "imagenet_a", replace(record, downloads=(replace(record.downloads[0], sha256=None),)))
    prepare("imagenet_a", root, mirror=server.url)
    [first, second] = server.log
    assert first[1] is None and int(second[1].removeprefix("bytes=").removesuffix("-")) >= 2 << 18


def test_all_is_unattended_but_for_imagenet(server: Server, root: Path, monkeypatch: pytest.MonkeyPatch):
    """In a process that knows nothing of miniatures: the publishers of cars are gone, and the hub has them.

    The miniature is not whole, and ImageNet asks for steps by hand; both are told in the end.
    """
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    pack_whole("stanford_cars", server.folder / "zhengli97/prompt_learning_dataset/resolve/ceb3112337fb6e1bf71534e355ca5569b63f19a6/stanford_cars.zip")
    process = in_a_process("imagenet", "stanford_cars", "--root", root)
    out, err = process.communicate(timeout=300)
    assert "stanford_cars: 4 classes; " in out and "cars_train.tgz has no open address; next is https://huggingface.co" in err
    failed = err.split("failed:\n")[1].splitlines()
    assert [line.partition(":")[0].strip() for line in failed] == ["imagenet", "stanford_cars"] and process.returncode == 1
    assert "should have 196" in failed[1] and "split_zhou_StanfordCars.json of stanford_cars is left out" in err


def test_the_table_of_the_readme_is_that_of_the_records():
    text = (ROOT / "data_prep" / "README.md").read_text()
    assert _datasets_table() in text, "put there what `npt.data.cli._datasets_table()` gives"
