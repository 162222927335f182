"Grids of runs: Snakemake killed and called again, a run that fails, what is only counted, and grids that are refused."

import os
import re
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import pytest
import yaml
from conftest import ROOT

from npt._files import write_text
from npt.study.cli import grid_command
from npt.study.grid import expand, read_grid
from npt.study.plan import _group_tasks, make_plan, write_plan
from npt.study.progress import _failures, describe_plan
from npt.study.folder import _open_run

GRIDS = ROOT / "workflow" / "grids"
PYTHONPATH = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
needs_snakemake = pytest.mark.skipif(find_spec("snakemake") is None, reason="snakemake needs Python 3.11 or later")


def snakemake(folder: Path, grid: Path, *options: str) -> subprocess.Popen:
    "Start a workflow in a folder."
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "workflow" / "Snakefile"), "--cores", "2",
               "--configfile", str(grid), *options]
    return subprocess.Popen(command, cwd=folder, env={**os.environ, "PYTHONPATH": PYTHONPATH}, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)


def grid_file(folder: Path, group: int = 2, **axes) -> Path:
    "A grid over a few runs of a second or two each."
    common = dict(dataset="world/textures", shots=2, epochs=2, measure_every=0, learner="coop", objective="own")
    path = folder / "grid.yaml"
    path.write_text(yaml.safe_dump(dict(runs_dir="runs", group=group, experiments=dict(small=common | axes))))
    return path


def files(folder: Path) -> set[Path]:
    return {path.relative_to(folder) for path in folder.rglob("*") if path.is_file() and ".snakemake" not in path.parts}


@needs_snakemake
def test_killed_workflow_goes_on_and_a_failed_run_stops_no_other(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    grid = grid_file(tmp_path, group=3, learner=["coop", "kgcoop"], learner_settings=[{}, {"n_ctx": 3}, {"n_ctx": 99}])
    tasks = {task.folder.path: task for task in expand(read_grid(grid))}
    doomed = {path for path in tasks if "n_ctx=99" in str(path)}  # longer than a text can be
    first, patience = snakemake(tmp_path, grid), time.monotonic() + 120
    while not any(task.finished for task in tasks.values()) and time.monotonic() < patience:
        time.sleep(0.02)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    kept = {path: task.folder.metrics.stat().st_mtime_ns for path, task in tasks.items() if task.finished}
    assert 0 < len(kept) < len(tasks) - len(doomed)

    second = snakemake(tmp_path, grid)
    said = second.communicate()[0]
    assert second.returncode == 1
    assert f"grid runs: 6 runs, {len(kept)} done, {6 - len(kept)} to do" in said
    assert {path for path, task in tasks.items() if not task.finished} == doomed
    assert all(tasks[path].folder.metrics.stat().st_mtime_ns == written for path, written in kept.items())
    ending = said[said.rindex("2 of 6 runs are missing:"):]
    assert all(str(path) in ending for path in doomed) and "99" in ending.splitlines()[1]
    assert all("Traceback" in tasks[path].failed.read_text() for path in doomed)
    listed = Path("runs/failures.txt").read_text().splitlines()
    assert {str(path) for path in doomed} == {line.split(": ")[0] for line in listed}
    rows = pd.read_csv("runs/runs.csv")
    assert len(rows) == 6 and rows.h.notna().sum() == 4, "the report is made of what there is, and has a row for what is missing"


@needs_snakemake
def test_dry_run_counts_and_does_nothing(tmp_path):
    grid = grid_file(tmp_path, seed=[1, 2, 3])
    run = expand(read_grid(grid))[0]
    before = files(tmp_path)
    dry = snakemake(tmp_path, grid, "--dry-run")
    said = dry.communicate()[0]
    assert dry.returncode == 0 and files(tmp_path) == before
    assert "3 runs, 0 done, 3 to do (jobs: 2)" in said and "unknown for 3 runs" in said
    assert not (tmp_path / run.folder.path).exists()


@needs_snakemake
def test_features_come_first_and_then_jobs_that_try_other_datasets_too(tmp_path):
    experiments = dict(near=dict(dataset="world/textures", seed=[1, 2, 3]),
                       far=dict(dataset="world/textures", seed=3, transfer=["world/scenes", "world/shapes"]))
    grid = tmp_path / "grid.yaml"
    grid.write_text(yaml.safe_dump(dict(runs_dir="runs", group=1, experiments=experiments)))
    far = next(name for name, (task,) in make_plan(read_grid(grid)).groups.items() if task.targets)
    dry = snakemake(tmp_path, grid, "--dry-run")
    said = dry.communicate()[0]
    assert dry.returncode == 0, said
    asked = {job.partition(":")[0] + job.partition("key=")[2][:12]: int((re.findall(r"priority: (\d+)", job) or [0])[0])
             for job in said.split("rule ") if job.startswith(("group:", "features:"))}
    runs = [priority for job, priority in asked.items() if job.startswith("group")]
    looks = [priority for job, priority in asked.items() if job.startswith("features")]
    assert asked[f"group{far}"] == 2 and sorted(runs) == [0, 0, 2]
    assert len(looks) == 3 and min(looks) > max(runs), "what they look up comes before them"


@needs_snakemake
def test_the_papers_grid_is_listed_without_its_data(tmp_path):
    dry = snakemake(tmp_path, GRIDS / "paper.yaml", "--dry-run", "--quiet", "rules")
    said = dry.communicate()[0]
    assert dry.returncode == 0 and not files(tmp_path)
    each, moved = 12 * 4 * 3 * 3 + 3 * 3, 9 * 4 * 3  # runs of a dataset; of ImageNet, on all classes, to be transferred
    runs, jobs = 11 * each + moved, 10 * -(-each // 4) + -(-(each + moved) // 4)
    assert f"grid runs/paper: {runs} runs, 0 done, {runs} to do (jobs: {jobs})" in said
    counted = dict(re.findall(r"^(\w+) +(\d+)$", said, re.M))
    assert counted == dict(group=str(jobs), features=str(11 + 4), dataset=str(11 + 4), report="1", total=str(jobs + 31))


def test_the_worlds_grid_is_the_paper_in_miniature():
    tasks = expand(read_grid(GRIDS / "world.yaml"))
    assert len({task.settings.folder for task in tasks}) == len(tasks) >= 5 * 4 * 3 * 3
    asked = {(s.learner, s.objective, s.tau, s.seed) for s in (task.settings for task in tasks)}
    for learner in "coop", "cocoop", "kgcoop", "maple", "promptsrc":
        for objective in "own", "npt", "npt_anchored", "cpt":
            assert {(learner, objective, tau, seed) for tau in (1, 0.25, 0.0625) for seed in (1, 2, 3)} <= asked
    assert {"world/textures", "world/shapes-noisy"} <= {target for task in tasks for target in task.targets}


def test_estimate_is_from_runs_already_done(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = make_plan(read_grid(grid_file(tmp_path, seed=[1, 2, 3, 4], learner=["coop", "maple"])))
    for task, seconds in zip(plan.tasks[::2], (50, 70)):
        assert task.settings.learner == "coop"
        write_text(f'{{"seconds": {seconds}}}', task.folder.metrics)
    said = describe_plan(plan)
    assert "8 runs, 2 done, 6 to do" in said and "2 x coop: 2 min, at 60.0 s a run" in said
    assert "4 x maple: unknown" in said and "2 min + unknown for 4 runs" in said


def test_a_changed_grid_leaves_finished_groups_alone():
    base = dict(runs_dir="runs", experiments=dict(one=dict(seed=[1, 2], tau=[1, 0.25], learner=["coop", "maple"])))
    more = dict(runs_dir="runs", experiments=dict(one=dict(seed=[1, 2, 3], tau=[1, 0.25], learner=["coop", "maple"])))
    before, after = (_group_tasks(expand(read_grid(grid)), size=4) for grid in (base, more))
    assert before.keys() < after.keys() and len(after) == 3


@pytest.mark.parametrize("text, said", [
    ("runs_dir: runs\nexperimens: {a: {seed: 1}}", "'experimens'. Did you mean 'experiments'"),
    ("runs_dir: runs\nexperiments: {a: {learners: [coop]}}", "(in the experiment 'a') called 'learners'. Did you mean 'learner"),
    ("runs_dir: runs\nexperiments: {a: {learner: [coup]}}", "a.learner: there is no learner 'coup'. Did you mean 'coop'"),
    ("runs_dir: runs\nexperiments: {a: {tau: [1, 4]}}", "a.tau: Input should be less than or equal to 1 (it is 4)"),
    ("runs_dir: runs\nexperiments: {a: {shots: [0]}}", "a.shots: Input should be greater than or equal to 1 (it is 0)"),
    ("runs_dir: runs\nexperiments: {a: {seed: []}}", "a.seed is an empty list"),
    ("runs_dir: runs\nexperiments: {a: {objective: [own, off]}}", "YAML reads yes, no, on and off"),
    ("runs_dir: runs\nexperiments: {a: {transfer: [nowhere]}}", "(in a.transfer) called 'nowhere'"),
    ("runs_dir: runs\nexperiments: {a: {runs_dir: there}}", "beside experiments"),
    ("runs_dir: runs\ngroup: many\nexperiments: {a: {seed: 1}}", "group: Input should be a valid integer"),
    ("experiments: {a: {seed: 1}}", "runs_dir: Field required"),
    ("runs_dir: runs", "experiments: Field required"),
    ("- a list", "Input should be"),
    ("a: [1", "is no YAML file"),
    (f"runs_dir: runs\nexperiments: {{a: {{seed: {list(range(1000))}, shots: {list(range(1, 1000))}}}}}", "999000 runs"),
])
def test_bad_grids_are_refused(text, said, tmp_path):
    path = tmp_path / "grid.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=re.escape(said)):
        expand(read_grid(path))


def test_a_grid_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.yaml"):
        read_grid(tmp_path / "nowhere.yaml")


def test_a_folder_with_a_run_of_other_settings_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    grid = read_grid(grid_file(tmp_path))
    _open_run(expand(grid)[0].settings.model_copy(update=dict(epochs=7)))
    with pytest.raises(ValueError, match="epochs: 7 there, 2 asked for"):
        make_plan(grid)


def test_missing_data_is_told_for_the_runs_that_needed_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("npt.grid.prepare", lambda name, root: (_ for _ in ()).throw(ConnectionError(f"no way to {name}")))
    plan = make_plan(read_grid(grid_file(tmp_path, dataset=["dtd", "world/textures"])))
    write_plan(plan)
    assert grid_command(["dataset", "runs/.workflow/datasets/dtd.tried"]) == 1
    causes = {tasks[0].settings.dataset: cause for cause, tasks in _failures(plan).items()}
    assert causes["dtd"] == "dtd could not be prepared: ConnectionError: no way to dtd"
    assert "nothing says why" in causes["world/textures"]
