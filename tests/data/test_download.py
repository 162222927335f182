"One file from a server of this machine's own, with its bad days."

import hashlib
import os
from pathlib import Path

import gdown
import pytest
from archives import MAX_BYTES
from server import Server

from npt.data.download import _check_file, _download_file, _look_up


@pytest.fixture
def large(server: Server) -> bytes:
    "Three megabytes that are served as `large`."
    content = os.urandom(3_000_000)
    (server.folder / "large").write_bytes(content)
    return content


def test_a_cut_download_goes_on_where_it_stopped(server: Server, large: bytes, tmp_path: Path):
    server.troubles["large"] = [1_500_000]
    _download_file(f"{server.url}/large", tmp_path / "large", MAX_BYTES)
    assert (tmp_path / "large").read_bytes() == large
    asked = [span for _, span in server.log]
    assert asked[:2] == [None, None], "gdown asks for the size first, and reads no further"
    assert [int(span.removeprefix("bytes=").removesuffix("-")) for span in asked[2:]] == [2 << 19]


def test_another_process_goes_on_from_what_the_first_one_left(server: Server, large: bytes, tmp_path: Path):
    server.troubles["large"] = [1_500_000, *[-503] * 10]
    with pytest.raises(ConnectionError, match="503"):
        _download_file(f"{server.url}/large", tmp_path / "large", MAX_BYTES)
    [part] = tmp_path.glob("large*.part")
    assert part.read_bytes() == large[: 2 << 19]
    server.troubles.clear()
    server.log.clear()
    _download_file(f"{server.url}/large", tmp_path / "large", MAX_BYTES)
    assert (tmp_path / "large").read_bytes() == large and server.log == [("large", None), ("large", f"bytes={2 << 19}-")]


def test_many_cuts_are_no_reason_to_give_up_while_bytes_arrive(server: Server, large: bytes, tmp_path: Path, waits: list):
    server.troubles["large"] = [600_000, None, 1_200_000, None, 1_700_000, None, 2_200_000, None, 2_700_000]
    _download_file(f"{server.url}/large", tmp_path / "large", MAX_BYTES)
    assert (tmp_path / "large").read_bytes() == large and len(waits) == 5


def test_a_server_without_ranges_is_asked_for_all_again(server: Server, large: bytes, tmp_path: Path):
    server.ranges, server.troubles["large"] = False, [1_500_000]
    _download_file(f"{server.url}/large", tmp_path / "large", MAX_BYTES)
    assert (tmp_path / "large").read_bytes() == large
    assert not list(tmp_path.glob("large*.part"))


def test_a_server_that_always_cuts_is_given_up(server: Server, large: bytes, tmp_path: Path):
    server.ranges, server.troubles["large"] = False, [1_500_000] * 100
    with pytest.raises(ConnectionError, match="could not be fetched"):
        _download_file(f"{server.url}/large", tmp_path / "large", MAX_BYTES)
    assert len(server.log) < 20


def test_a_partial_file_that_is_whole_does_not_block_the_download(server: Server, large: bytes, tmp_path: Path):
    "As after a crash between the last byte and the renaming: the server has nothing left to send and answers 416."
    (tmp_path / "large12345678.part").write_bytes(large)
    _download_file(f"{server.url}/large", tmp_path / "large", MAX_BYTES)
    assert (tmp_path / "large").read_bytes() == large


def test_a_busy_server_is_asked_again_after_longer_and_longer_pauses(server, large, tmp_path, waits):
    server.troubles["large"] = [-503, -429, -500]
    _download_file(f"{server.url}/large", tmp_path / "large", MAX_BYTES)
    assert (tmp_path / "large").read_bytes() == large and waits == sorted(set(waits)) and len(waits) == 3


def test_a_clear_no_is_not_asked_again(server: Server, tmp_path: Path):
    with pytest.raises(ConnectionError, match="404"):
        _download_file(f"{server.url}/nothing", tmp_path / "nothing", MAX_BYTES)
    assert len(server.log) == 1


def test_without_a_network_nobody_waits(tmp_path: Path, waits: list):
    with pytest.raises(ConnectionError, match="nowhere.invalid"):
        _download_file("http://nowhere.invalid/file", tmp_path / "file", MAX_BYTES)
    assert not waits


def test_what_google_drive_refuses_is_said_in_one_line_and_not_asked_again(monkeypatch, tmp_path: Path, waits: list):
    def refused(*arguments: object, **options: object) -> None:
        raise gdown.exceptions.FileURLRetrievalError("Failed to retrieve file url:\n\n\tToo many users have viewed it.")

    monkeypatch.setattr(gdown, "download", refused)
    with pytest.raises(ConnectionError, match="fetched: Failed to retrieve file url: Too many users have viewed it."):
        _download_file("https://drive.google.com/uc?id=1", tmp_path / "file", MAX_BYTES)
    assert not waits


def test_a_server_that_sends_without_end_is_stopped(server: Server, large: bytes, tmp_path: Path):
    with pytest.raises(ValueError, match="far more than expected"):
        _download_file(f"{server.url}/large", tmp_path / "large", max_bytes=1_000_000)


def test_the_hub_of_the_environment_is_asked_for_address_and_checksum(server: Server, monkeypatch, tmp_path: Path):
    monkeypatch.setenv("HF_ENDPOINT", f"{server.url}/")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)  # another test may have found the hub silent
    place = server.folder / "datasets/a/b/resolve/1f2e/c/d.zip"
    place.parent.mkdir(parents=True)
    place.write_bytes(b"content")
    address, sha256 = _look_up("https://huggingface.co/datasets/a/b/resolve/1f2e/c/d.zip")
    assert address == f"{server.url}/datasets/a/b/resolve/1f2e/c/d.zip" and sha256 == hashlib.sha256(b"content").hexdigest()
    _download_file(address, tmp_path / "d.zip", MAX_BYTES)
    _check_file(tmp_path / "d.zip", sha256=sha256)
    with pytest.raises(ConnectionError, match=f"e.zip could not be fetched: {server.url} has no such file"):
        _look_up("https://huggingface.co/datasets/a/b/resolve/1f2e/c/e.zip")
    assert _look_up("https://example.org/a.zip") == ("https://example.org/a.zip", None)


@pytest.mark.parametrize("kind, known", [
    ("md5", hashlib.md5(b"content").hexdigest()), ("sha256", hashlib.sha256(b"content").hexdigest()),
    ("git", "6b584e8ece562ebffc15d38808cd6b98fc3d97ea"),  # as `git hash-object` says
])
def test_a_checksum_of_each_kind_is_asked_for(kind: str, known: str, tmp_path: Path):
    (tmp_path / "file").write_bytes(b"content")
    _check_file(tmp_path / "file", **{kind: known})
    with pytest.raises(ValueError, match="file has the .* [0-9a-f]+, and 0+ was published"):
        _check_file(tmp_path / "file", **{kind: "0" * 32})


def test_where_no_checksum_is_known_the_size_must_be_about_right(tmp_path: Path):
    (tmp_path / "file").write_bytes(bytes(10**6))
    for size in 10**6, 1_900_000, 510_000:
        _check_file(tmp_path / "file", size)
    for size in 2_100_000, 400_000:
        with pytest.raises(ValueError, match=f"file has 1000000 bytes, and about {size} were expected"):
            _check_file(tmp_path / "file", size)
        _check_file(tmp_path / "file", size, md5=hashlib.md5(bytes(10**6)).hexdigest())
