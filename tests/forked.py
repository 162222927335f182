"""What a process of its own does, in a fork of one that has imported PyTorch and this library already; see `notebooks`.

It has a module of its own, which a new process can import.
"""

import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from notebooks import CONTEXT


def _do(work: Callable[[list[str]], int | None], arguments: list[str], folder: str, environment: dict[str, str], said: Path) -> None:
    "Do as a command does that is started here."
    multiprocessing.set_start_method(None, force=True)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also where the tests run in the background
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for stream, name in (1, "out"), (2, "err"):
        os.dup2(os.open(said / name, os.O_WRONLY | os.O_APPEND | os.O_CREAT), stream)
    sys.exit(work(arguments))


class Fork:
    "Work in a process of its own, which is waited for and listened to as a `subprocess.Popen` is."

    def __init__(self, work: Callable[[list[str]], int | None], *arguments: object):
        self._said = Path(tempfile.mkdtemp())
        self._process = CONTEXT.Process(target=_do, args=(work, [*map(str, arguments)], os.getcwd(), dict(os.environ), self._said))
        self._process.start()

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def send_signal(self, number: int) -> None:
        os.kill(self._process.pid, number)

    def wait(self) -> None:
        self._process.join()

    def communicate(self, timeout: float) -> tuple[str, str]:  # what it printed
        self._process.join(timeout)
        assert self._process.exitcode is not None, f"it goes on after {timeout} seconds"
        printed = tuple((self._said / name).read_text() for name in ("out", "err"))
        shutil.rmtree(self._said)
        return printed


def prepare_unsummed(arguments: list[str]) -> int:
    "The command that prepares datasets, without checksums, which no miniature has."
    from npt.data import prepare
    from npt.data.cli import prepare_command

    for name, record in prepare._PREPARED.items():
        downloads = tuple(replace(download, md5=None, sha256=None, git=None) for download in record.downloads)
        prepare._PREPARED[name] = replace(record, downloads=downloads)
    return prepare_command(arguments)


def do_settings(arguments: list[str]) -> None:
    "Do a run whose settings are given as JSON."
    from npt.study.runs import do_run
    from npt.study.settings import RunSettings

    do_run(RunSettings.model_validate_json(arguments[0]))


def look_up(environment: dict[str, str], says) -> None:
    "Compute the features of two splits, or find them, when one is told to; answer with their sum."
    os.environ.update(environment)
    from npt.clip.load import load_clip
    from npt.data.features import split_features
    from npt.data.load import load_dataset

    clip, splits, sums = load_clip("world"), load_dataset("world/textures", shots=4).base, []
    says.send("ready")
    says.recv()
    for split in splits.train, splits.val, splits.train:
        sums.append(split_features(clip, split)[0].double().sum().item())
        clip.kept.clear()
    says.send(sums[-1])
