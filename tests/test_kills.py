"""Runs that are killed at random moments, by random signals, end in the numbers of one that was not, and leave nothing behind.

`NPT_KILLS=300 pytest -n 0 -s tests/test_kills.py` kills 300 times; the grid is killed in `study/test_cli.py`.
"""

import json
import os
import random
import signal
import time
from pathlib import Path

import pytest
from killed import in_library, in_notebook
from notebooks import CONTEXT
from trained import without_time

KILLS = int(os.environ.get("NPT_KILLS", 3))
SIGNALS = signal.SIGKILL, signal.SIGTERM, signal.SIGINT
COMPARED = "history.csv", "prompts.safetensors", "inputs.json"


def started(way, folder: Path):
    "A process that makes the run, once it has imported what it needs."
    ours, theirs = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=way, args=(folder, theirs))
    process.start()
    theirs.close()
    assert ours.recv() == "begun"
    return process


def whole(way, folder: Path) -> float:  # seconds
    "Make the run to its end, or go on with it."
    process, begun = started(way, folder), time.monotonic()
    process.join(300)
    assert process.exitcode == 0
    return time.monotonic() - begun


def made(folder: Path) -> tuple[dict, list[bytes], set[str]]:
    "What a finished run measured, what it learned, and the names of its files."
    (metrics,) = folder.rglob("metrics.json")
    files = {path.relative_to(metrics.parent).as_posix() for path in metrics.parent.rglob("*") if path.is_file()}
    return without_time(json.loads(metrics.read_text())), [(metrics.parent / name).read_bytes() for name in COMPARED], files


@pytest.mark.slow
@pytest.mark.parametrize("way, kills", [(in_library, KILLS), (in_notebook, max(1, KILLS // 10))], ids=["library", "notebook"])
def test_a_killed_run_ends_in_the_same_numbers_and_leaves_nothing_behind(way, kills, tmp_path):
    chance, seconds = random.Random(KILLS), whole(way, tmp_path / "whole")
    expected, killed = made(tmp_path / "whole"), 0
    while killed < kills:
        folder = tmp_path / f"killed{killed}"
        for _ in range(chance.randint(1, min(3, kills - killed))):
            process = started(way, folder)
            time.sleep(chance.uniform(0, seconds))
            os.kill(process.pid, chance.choice(SIGNALS)) if process.is_alive() else None
            process.join(60)
            assert process.exitcode is not None, "a signal did not end the process"
            killed += 1
        whole(way, folder)
        metrics, contents, files = made(folder)
        assert (metrics, contents) == expected[:2] and files == expected[2], f"after {killed} kills: {sorted(files ^ expected[2])}"
    print(f"{killed} kills, 0 differences, 0 files left")
