"One that hangs or dies loses no other; what is told to stop stops, with all that it started; and a run in a child is the same run."

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from safetensors.torch import load_file
from trained import without_time
from workflows import small_grid

from npt.study.folder import read_metrics
from npt.study.grid import Task, expand, read_grid
from npt.study.jobs import do_task
from npt.study.settings import RunSettings
from npt.study.watch import _do_group, _lives, _Work


@dataclass(frozen=True)
class Invented:
    "Work that does at each seed what is written here."

    deeds: dict
    jobs_per_gpu: int | None = None
    whole_gpu: bool = False

    def do(self, tasks, tell):
        for task in tasks:
            time.sleep(self.deeds.get("before", 0))
            tell(None)
            deed = self.deeds.get(task.settings.seed, lambda: "")
            tell(deed(self) if task.settings.seed in self.deeds.get("told", ()) else deed())


def tasks_in(folder: Path, number: int) -> list[Task]:
    return [Task(RunSettings(runs_dir=str(folder), seed=seed)) for seed in range(number)]


def lines(printed: str) -> list[tuple[str, str]]:
    "The seed and the end of each line of a log."
    return [(line.split()[1].rpartition("seed")[2], line.partition(" s ")[2]) for line in printed.splitlines()]


def test_all_ways_to_end(tmp_path, capfd):
    deeds = {1: lambda: os.kill(os.getpid(), signal.SIGKILL), 2: lambda: time.sleep(60), 3: lambda: os._exit(3),
             4: lambda: "ValueError: as an example", 5: lambda: signal.raise_signal(signal.SIGSTOP), 6: lambda: 1 / 0}
    tasks = tasks_in(tmp_path, 8)
    assert _do_group(tasks, Invented(deeds), timeout=0.5) == 6
    said = lines(capfd.readouterr().out)
    assert [seed for seed, _ in said] == list("01234567") and [end for seed, end in said if seed in "07"] == ["done", "done"]
    ends = dict(said)
    assert "killed, as a machine does" in ends["1"] and "memory_budget" in ends["1"] and "--cores" in ends["1"]
    assert all("stopped after 0.5 seconds, the timeout of this grid" in ends[seed] and "timeout: 1 in the grid" in ends[seed] for seed in "25")
    assert "exit code 3" in ends["3"] and "exit code 1" in ends["6"] and ends["4"] == "ValueError: as an example"
    assert all(tasks[seed].failed.read_text().strip() == ends[str(seed)] for seed in (1, 2, 3, 5, 6))
    assert _do_group(tasks, Invented({})) == 0 and "".join(seed for seed, _ in lines(capfd.readouterr().out)) == "04712356"


def test_a_run_without_room_on_a_shared_gpu_is_tried_again_alone(tmp_path, capfd):
    full = "OutOfMemoryError: cuda:0 has no room for 2.00 GiB"
    deeds = {"told": (1, 2), 1: lambda work: "" if work.whole_gpu else full, 2: lambda work: full, 3: lambda: "ValueError: as an example"}
    assert _do_group(tasks_in(tmp_path, 4), Invented(deeds, jobs_per_gpu=2)) == 2
    said = lines(capfd.readouterr().out)
    assert [end for _, end in said] == ["done", full, full, "ValueError: as an example", "done", full]
    assert _do_group(tasks_in(tmp_path, 2), Invented(deeds)) == 1, "where nobody shares, nothing would be otherwise"


def test_waiting_for_a_place_is_not_hanging(tmp_path):
    assert _do_group(tasks_in(tmp_path, 1), Invented(dict(before=1)), timeout=0.3) == 0


def forked(work) -> int:
    "The number of a process that does some work."
    pid = os.fork()
    if not pid:
        try:
            work()
        except SystemExit as end:
            os._exit(end.code)
        finally:
            os._exit(99)
    return pid


@pytest.mark.parametrize("number, whom, code", [(signal.SIGTERM, "parent", 143), (signal.SIGTERM, "child", 143), (signal.SIGINT, "parent", 130),
                                                (signal.SIGKILL, "parent", -9)])
def test_a_signal_ends_both_processes_and_no_other_run_begins(number, whom, code, tmp_path):
    begun = tmp_path / "begun"

    def hang():
        begun.write_text(str(os.getpid()))
        time.sleep(60)
        return ""

    parent = forked(lambda: _do_group(tasks_in(tmp_path, 2), Invented({0: hang, 1: (tmp_path / "second").touch})))
    while not begun.exists() or not begun.read_text():
        time.sleep(0.01)
    child = psutil.Process(int(begun.read_text()))
    os.kill(dict(parent=parent, child=child.pid)[whom], number)
    assert os.waitstatus_to_exitcode(os.waitpid(parent, 0)[1]) == code
    patience = time.monotonic() + 10
    while _lives(child) and time.monotonic() < patience:
        time.sleep(0.02)
    assert not _lives(child) and not (tmp_path / "second").exists()


def test_a_run_in_a_child_is_the_same_run(tmp_path):
    pair = [expand(read_grid(small_grid(shots=1, epochs=1) | dict(runs_dir=str(tmp_path / name))))[0] for name in ("here", "child")]
    here, child = pair
    assert do_task(here) is None and _do_group([child], _Work()) == 0
    assert without_time(read_metrics(here.folder)) == without_time(read_metrics(child.folder))
    prompts = [load_file(task.folder.prompts) for task in pair]
    assert prompts[0].keys() == prompts[1].keys() and all((prompts[0][name] == prompts[1][name]).all() for name in prompts[0])
    assert here.folder.history.read_text() == child.folder.history.read_text() and not child.failed.exists()
