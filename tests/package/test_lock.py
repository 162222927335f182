"One process at a time has a folder; the others are told by whom it is held, and a dead one holds nothing."

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from npt._lock import _HELD, Hold

TAKE = """
import sys, time
from pathlib import Path
from npt._lock import Hold
hold = Hold(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(float(sys.argv[2]))
"""


@pytest.fixture
def start():
    "Start a process that takes a folder and keeps it for some seconds; those that are left are killed."
    processes = []

    def go(folder: Path, seconds: float) -> subprocess.Popen:
        processes.append(subprocess.Popen([sys.executable, "-c", TAKE, str(folder), str(seconds)], stdout=subprocess.PIPE,
                                          stderr=subprocess.PIPE, text=True))
        return processes[-1]

    yield go
    for process in processes:
        process.kill()
        process.communicate()


def test_a_second_process_is_told_by_whom_and_goes_on_afterwards(start, tmp_path):
    hold = Hold(tmp_path / "run")
    other = start(tmp_path / "run", 0)
    said = other.stderr.readline()
    assert f"process {os.getpid()} on " in said and " since 20" in said and repr(str(tmp_path / "run")) in said and "waiting" in said
    assert other.poll() is None
    hold.release()
    assert other.communicate(timeout=20)[0] == "held\n"


def test_a_killed_process_holds_nothing(start, tmp_path):
    other = start(tmp_path, 60)
    assert other.stdout.readline() == "held\n"
    other.send_signal(signal.SIGKILL)
    other.wait()
    started = time.monotonic()
    Hold(tmp_path).release()
    assert time.monotonic() - started < 5


def test_a_process_may_hold_a_folder_twice_by_any_name_of_it(start, tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    (tmp_path / "link").symlink_to("run")
    monkeypatch.chdir(tmp_path)
    first, second = Hold(Path("run")), Hold(tmp_path / "link")
    first.release()
    first.release()
    assert len(_HELD) == 1
    second.release()
    assert not _HELD and start(tmp_path / "run", 0).communicate(timeout=20)[0] == "held\n"


def test_what_nobody_refers_to_is_let_go(tmp_path):
    def take():
        hold = Hold(tmp_path)
        assert _HELD and hold

    take()
    assert not _HELD
    with pytest.raises(RuntimeError), Hold(tmp_path):
        raise RuntimeError
    assert not _HELD


def test_a_forked_process_holds_nothing_of_its_parents(tmp_path):
    hold = Hold(tmp_path)
    child = os.fork()
    if not child:
        hold.release()
        os._exit(0)
    os.waitpid(child, 0)
    assert len(_HELD) == 1
    hold.release()


def test_what_may_only_be_read_has_no_lock(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / ".lock"))

    monkeypatch.setattr("npt._lock.FileLock.acquire", refuse)
    with Hold(tmp_path):
        assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_named_and_leaves_no_noise(tmp_path, capfd):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="no folder can be made at .*file/run"):
        Hold(tmp_path / "file" / "run")
    assert capfd.readouterr() == ("", "")
