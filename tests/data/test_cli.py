"The command line tells what it does, what failed and what is wrong, and stops at a key."

import os
import signal
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from archives import SPLIT, in_a_process, zipped
from conftest import ROOT
from miniature import make_tree
from server import HANGS, Server

from npt.data.cli import _datasets_table, prepare_command
from npt.data.formats import _image_folder
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
    _PREPARED["dtd"] = replace(record, num_classes=47)
    assert prepare_command(["dtd", "eurosat", "--verify", "--root", str(root)]) == 1
    out, err = capsys.readouterr()
    assert "1 of them broken" in out and f"{bad}: " in err and "it has 5 classes, and should have 47" in err
    assert err.split("failed:\n")[1].splitlines()[1].startswith("  eurosat: ")


def test_list_says_what_is_there(root: Path, capsys):
    make_tree("caltech101", root)
    (root / "oxford_pets" / "annotations").mkdir(parents=True)
    (root / "oxford_pets" / "annotations" / "test.txt").write_text("")
    assert prepare_command(["--list", "--root", str(root)]) == 0
    table = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert list(table) == ["dataset", *_PREPARED]
    states = {name: line.split()[1] for name, line in table.items() if name in _PREPARED}
    assert Counter(states.values()) == {"ready": 1, "partial": 1, "missing": 13}
    assert states["caltech101"] == "ready" and states["oxford_pets"] == "partial"
    assert "39.2GB" in table["sun397"] and "MIT" in table["eurosat"] and "Log in" in table["imagenet"]


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


def test_the_script_stops_at_a_key_and_goes_on(server: Server, root: Path):
    content = zipped(("UCF-101-midframes/a/1.jpg", os.urandom(3_000_000)), ("UCF-101-midframes/b/1.jpg", b"1"))
    for name, data in {"UCF-101-midframes.zip": content, "split_zhou_UCF101.json": SPLIT.encode()}.items():
        (server.folder / "ucf101").mkdir(exist_ok=True)
        (server.folder / "ucf101" / name).write_bytes(data)
    server.troubles["ucf101/UCF-101-midframes.zip"] = [HANGS]
    process = in_a_process("ucf101", "--root", root, "--mirror", server.url)
    while process.poll() is None and not sum(path.stat().st_size for path in root.rglob("*.part")):
        threading.Event().wait(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 130 and "the same command goes on" in err and "Traceback" not in err
    server.log.clear()
    assert prepare_command(["ucf101", "--root", str(root), "--mirror", server.url]) == 0
    [first, second, *_] = server.log
    assert first[1] is None and int(second[1].removeprefix("bytes=").removesuffix("-")) >= 2 << 18


def test_the_table_of_the_readme_is_that_of_the_records():
    text = (ROOT / "data_prep" / "README.md").read_text()
    assert _datasets_table() in text, "put there what `npt.data.cli._datasets_table()` gives"
