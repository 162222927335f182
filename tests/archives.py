"Archives of every kind, what a preparation leaves in a data_root, and the command line in a process of its own."

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import warnings
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import ROOT
from server import Server

from npt.data.datasets import DATASETS, DatasetRecord, Download
from npt.data.formats import _SPLITS
from npt.data.prepare import _DOWNLOADS, _PREPARED

MAX_BYTES = 10**8  # more than any archive here has
SPLIT = json.dumps({split: [["a/1.jpg", 0, "a"], ["b/1.jpg", 1, "b"]] for split in _SPLITS})

UNSUMMED = """
import sys
from dataclasses import replace
from npt.data import prepare
for name, record in prepare._PREPARED.items():
    downloads = tuple(replace(download, md5=None, sha256=None, git=None) for download in record.downloads)
    prepare._PREPARED[name] = replace(record, downloads=downloads)
from npt.data.cli import prepare_command
sys.exit(prepare_command())
"""


def one_file(name: str, content: bytes, server: Server, monkeypatch: pytest.MonkeyPatch, **changes: object) -> DatasetRecord:
    "Serve one archive of dtd, and make it all that dtd is made of."
    path = server.folder / "dtd" / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    download = replace(Download(f"{server.url}/dtd/{name}", name, len(content), "dtd/images"), **changes)
    record = replace(DATASETS["dtd"], downloads=(download,), whole=None)
    monkeypatch.setitem(_PREPARED, "dtd", record)
    return record


def tar(*members: tuple[str, bytes], mode: str = "w:gz", attributes: dict[str, object] | None = None) -> bytes:
    "A tar file; `attributes`, as of a TarInfo, are set on the last member."
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode=mode) as file:
        for number, (name, content) in enumerate(members, 1):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            for key, value in (attributes or {}).items() if number == len(members) else ():
                setattr(info, key, value)
            file.addfile(info, io.BytesIO(content))
    return data.getvalue()


def zipped(*members: tuple[str, bytes], mode: int = 0) -> bytes:
    "A zip file; `mode`, as of a file system, is set on the last member."
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a name that comes twice
        for number, (name, content) in enumerate(members, 1):
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = (mode if number == len(members) else 0) << 16
            file.writestr(info, content)
    return data.getvalue()


def tree(folder: Path) -> dict[str, bytes]:
    "All files under a folder but those of npt's own download folder, and what they hold."
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*")
            if path.is_file() and _DOWNLOADS not in path.parts}


def left_behind(root: Path) -> list[Path]:
    "What an interrupted or a finished preparation left over."
    return [path for path in root.rglob("*") if path.is_file() and _DOWNLOADS in path.parts and path.name != ".lock"
            or path.name.startswith(".npt-unpacking")]


def in_a_process(*arguments: object) -> subprocess.Popen:
    "The command line in a process of its own, without checksums, which no miniature has; it listens to Ctrl-C even where the tests run in the background."
    command = [sys.executable, "-c", UNSUMMED, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
