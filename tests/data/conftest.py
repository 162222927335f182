"What the tests of several rooms ask for: a server with its bad days, a data_root, and datasets in miniature on a mirror."

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from miniature import make_mirror
from server import Server, serve

import npt.data.download
from npt.data.datasets import DatasetRecord
from npt.data.prepare import _PREPARED


@pytest.fixture
def server(tmp_path: Path, no_proxy: None, waits: list[float]) -> Iterator[Server]:
    "Serves the folder `served`, which is empty."
    (tmp_path / "served").mkdir()
    with serve(tmp_path / "served") as server:
        yield server


@pytest.fixture
def root(tmp_path: Path) -> Path:
    "A data_root that is not there yet."
    return tmp_path / "a data root"


@pytest.fixture
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    "The servers are on this machine, whatever stands between it and the others."
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # so that no test asks the true hub


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    "The pauses between attempts, which nobody waits for here."
    waited = []
    monkeypatch.setattr(npt.data.download, "time", SimpleNamespace(sleep=waited.append))
    return waited


@pytest.fixture
def mirrored(server: Server, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], DatasetRecord]:
    "Serves a dataset's miniature, and makes its record one of the miniature's size and checksums."

    def serve_dataset(name: str, **changes: object) -> DatasetRecord:
        record = replace(make_mirror(name, server.folder), **changes)
        monkeypatch.setitem(_PREPARED, name, record)
        return record

    return serve_dataset
