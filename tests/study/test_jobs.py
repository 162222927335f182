"One job: its runs and their targets, one that fails among them, and what is done already."

import json
import threading
import time
from subprocess import CompletedProcess

import pytest
import yaml
from filelock import FileLock
from other_worlds import leave_world
from workflows import notebook_that_trains, small_grid

from npt.study.cli import grid_command
from npt.study.grid import Task, expand, read_grid
from npt.study.jobs import _cache_run, _do_in_notebook, _one_line, _run_lock, _said_at_the_end, _say_begun, do_task
from npt.study.runs import _load_run_data
from npt.study.settings import RunSettings
from npt.study.watch import _do_group, _Work
from npt.training.sessions import _splits_met


def test_a_run_that_fails_stops_no_other_and_says_why(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    first, second = expand(read_grid(small_grid(shots=1, epochs=1, seed=[1, 2], transfer="world/scenes")))
    bad = Task(first.settings.model_copy(update=dict(learner="maple", learner_settings={"depth": 99})))
    assert _do_group([first, bad, second], _Work()) == 1
    printed, bars = capfd.readouterr()
    assert [line.split()[0] for line in printed.splitlines()] == ["1/3", "2/3", "3/3"] and printed.count(" done") == 2
    assert "it/s" not in bars, "the log of a job has no bars"
    assert first.finished and second.finished and not bad.finished
    assert bad.failed.read_text().startswith("ValueError: ") and "Traceback" in bad.failed.read_text()

    written = first.folder.metrics.stat().st_mtime_ns
    _say_begun(first.failed)
    assert do_task(first) is None and first.folder.metrics.stat().st_mtime_ns == written and not first.failed.exists()
    metrics = first.folder.metrics.read_text()
    first.folder.metrics.write_text(json.dumps({name: value for name, value in json.loads(metrics).items() if name != "versions"}))
    assert "metrics.json' is damaged" in do_task(first) and not first.finished


def test_a_run_without_training_is_found_again(tmp_path):
    task, = expand(read_grid(small_grid(learner="zero_shot", transfer="world/scenes") | dict(runs_dir=str(tmp_path))))
    assert do_task(task) is None and task.finished and task.folder.history.read_text() == "\n"
    written = task.folder.metrics.stat().st_mtime_ns
    assert do_task(task) is None and task.folder.metrics.stat().st_mtime_ns == written


def test_a_run_that_another_process_does_is_waited_for(tmp_path):
    (task,) = expand(read_grid(small_grid() | dict(runs_dir=str(tmp_path))))
    one, other = _run_lock(task.settings), _run_lock(task.settings.model_copy(update=dict(device="cuda")))
    assert one.lock_file == other.lock_file, "whatever device it is done on"


def test_too_little_memory_is_told_with_what_to_change():
    for said in _one_line(MemoryError()), _said_at_the_end("nbclient.exceptions.DeadKernelError: Kernel died", 1):
        assert "memory_budget" in said and "--cores" in said
    assert "memory" not in _said_at_the_end("ValueError: as an example", 1)


def test_papermill_is_told_every_setting_as_it_is(tmp_path, monkeypatch):
    "YAML takes 2e-05 for a text."
    monkeypatch.chdir(tmp_path)
    asked = []
    monkeypatch.setattr("npt.study.jobs.subprocess.run", lambda command, **_: asked.append(command) or CompletedProcess(command, 0))
    settings = RunSettings(lr=2e-5, learner="tip_adapter", learner_settings=dict(alpha=1e-7), template="yes: {}", runs_dir="a, b", tau=1e-3)
    _do_in_notebook(settings, "train.ipynb")
    assert asked[0][2:5] == ["papermill", "train.ipynb", str(settings.folder / "run.ipynb")] and settings.folder.is_dir()
    given = yaml.safe_load(asked[0][-1])
    assert given.pop("baseline") is False and RunSettings(**given) == settings


def test_a_dataset_is_fetched_as_far_as_its_runs_agree(tmp_path, monkeypatch):
    fetched = []
    monkeypatch.setattr("npt.study.jobs.prepare", lambda name, root: fetched.append(name))
    for name, most in dict(dtd=0.0, food101=2e9, eurosat=2e9).items():
        grid_command(["dataset", str(tmp_path / f"{name}.tried"), "--root", str(tmp_path), "--most", str(most)])
    assert fetched == ["eurosat"] and "food101" in (tmp_path / "food101.failed.txt").read_text() and not (tmp_path / "dtd.failed.txt").exists()
    grid_command(["dataset", str(tmp_path / "food101.tried"), "--root", str(tmp_path), "--most", "1e10"])
    assert fetched == ["eurosat", "food101"] and not (tmp_path / "food101.failed.txt").exists()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    "Where CLIPs of the world are kept, and none is yet."
    monkeypatch.setenv("NPT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "worlds"


def train(name: str, folder, notebook) -> int:
    "Do the job of a workflow."
    return grid_command(["weights", str(folder / f"{name}.tried"), "--notebook", str(notebook)])


def test_a_clip_is_trained_by_its_notebook_and_one_that_is_there_is_left_alone(tmp_path, cache):
    notebook = notebook_that_trains(tmp_path)
    assert train("world-2", tmp_path / "jobs", notebook) == 0
    assert (cache / "world-2.safetensors").read_text() == "weights of world 2" and (tmp_path / "jobs" / "world-2.ipynb").exists()
    assert {path.name for path in cache.glob("*.safetensors")} == {"world-2.safetensors"}
    left = leave_world("world-3", seed=0)
    written = left.stat().st_mtime_ns
    assert train("world-3", tmp_path / "jobs", "no such notebook") == 0 and left.stat().st_mtime_ns == written


def test_a_clip_that_cannot_be_trained_leaves_its_cause_until_it_can(tmp_path, cache, capsys):
    assert train("world-2", tmp_path, tmp_path / "no_such_notebook.ipynb") == 1
    cause = (tmp_path / "world-2.failed.txt").read_text()
    assert cause.startswith("RuntimeError: ") and "no_such_notebook.ipynb" in cause.splitlines()[0] and "Traceback" in cause
    leave_world("world-2", seed=0)
    assert train("world-2", tmp_path, "no such notebook") == 0 and not (tmp_path / "world-2.failed.txt").exists()
    assert train("world-9", tmp_path, "no such notebook") == 1 and "world-2, world-3" in (tmp_path / "world-9.failed.txt").read_text()


def test_of_two_grids_that_want_the_same_clip_one_waits_and_finds_it(tmp_path, cache, monkeypatch):
    trained = []
    monkeypatch.setattr("npt.study.jobs._execute_notebook", lambda *given: trained.append(given))
    cache.mkdir(parents=True)
    with FileLock(cache / "world-2.lock"):
        other = threading.Thread(target=train, args=("world-2", tmp_path, "pretrain_world.ipynb"))
        other.start()
        time.sleep(0.3)
        assert other.is_alive() and not trained
        leave_world("world-2", seed=0)
    other.join(30)
    assert not other.is_alive() and not trained, "it found what the first had trained"
    assert train("world-3", tmp_path, "pretrain_world.ipynb") == 0 and [given[2] for given in trained] == [dict(world=3)]


@pytest.mark.parametrize("classes, parts", [("base", ["base", "novel", "base"]), ("all", ["all", "all"]), ("sessions", None)])
def test_what_a_run_looks_up_is_put_into_the_cache_before(classes, parts, clip, monkeypatch):
    settings, looked = RunSettings(dataset="world/textures", learner="coop", classes=classes, shots=1), []
    monkeypatch.setattr("npt.study.jobs.split_features", lambda clip, split: looked.append(split))
    _cache_run(clip, settings)
    data = _load_run_data(settings)
    wanted = _splits_met(data, "test") if parts is None else [*(getattr(data, part).test for part in parts[:-1]), getattr(data, parts[-1]).train]
    assert looked == wanted
