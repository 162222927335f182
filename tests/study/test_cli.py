"What Snakemake calls: a workflow that is killed and called again, a run that fails, and what is only counted."

import os
import re
import signal
import time
from pathlib import Path

import pandas as pd
import pytest
from workflows import GRIDS, grid_file, needs_snakemake, small_grid, snakemake

from npt.study.cli import grid_command
from npt.study.grid import expand, read_grid
from npt.study.plan import make_plan, write_plan


def files(folder: Path) -> set[Path]:
    return {path.relative_to(folder) for path in folder.rglob("*") if path.is_file() and ".snakemake" not in path.parts}


@pytest.mark.slow
@needs_snakemake
def test_killed_workflow_goes_on_and_a_failed_run_stops_no_other(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    grid = grid_file(tmp_path, small_grid(learner_settings=[{}, {"n_ctx": 3}, {"n_ctx": 99}]))
    tasks = {task.folder.path: task for task in expand(read_grid(grid))}
    doomed = {path for path in tasks if "n_ctx=99" in str(path)}  # longer than a text can be
    first, patience = snakemake(tmp_path, grid), time.monotonic() + 300  # a busy machine is slow to start
    while not any(task.finished for task in tasks.values()) and time.monotonic() < patience:
        time.sleep(0.02)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    kept = {path: task.folder.metrics.stat().st_mtime_ns for path, task in tasks.items() if task.finished}
    assert 0 < len(kept) < len(tasks) - len(doomed)

    second = snakemake(tmp_path, grid)
    said = second.communicate()[0]
    assert second.returncode == 1
    assert f"grid runs: 3 runs, {len(kept)} done, {3 - len(kept)} to do" in said
    assert {path for path, task in tasks.items() if not task.finished} == doomed
    assert all(tasks[path].folder.metrics.stat().st_mtime_ns == written for path, written in kept.items())
    ending = said[said.rindex("1 of 3 runs are missing:"):]
    assert all(str(path) in ending for path in doomed) and "99" in ending.splitlines()[1]
    assert all("Traceback" in tasks[path].failed.read_text() for path in doomed)
    listed = Path("runs/failures.txt").read_text().splitlines()
    assert {str(path) for path in doomed} == {line.split(": ")[0] for line in listed}
    rows = pd.read_csv("runs/runs.csv")
    assert len(rows) == 3 and rows.h.notna().sum() == 2, "the report is made of what there is, and has a row for what is missing"


@needs_snakemake
def test_dry_run_counts_and_does_nothing(tmp_path):
    grid = grid_file(tmp_path, small_grid(seed=[1, 2, 3]))
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
    grid = grid_file(tmp_path, dict(runs_dir="runs", group=1, experiments=experiments))
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


def test_the_jobs_of_a_plan_do_its_runs_and_the_command_counts_them(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    plan = make_plan(read_grid(small_grid(shots=1, epochs=1, transfer="world/scenes")))
    write_plan(plan)
    for name in plan.looks:
        assert grid_command(["features", f"runs/.workflow/features/{name}.json"]) == 0
    (group,) = plan.groups
    assert grid_command(["group", f"runs/.workflow/groups/{group}.json"]) == 0 and not plan.unfinished()
    capsys.readouterr()
    assert grid_command(["describe", "runs/.workflow/grid.yaml"]) == 0
    assert capsys.readouterr().out == "grid runs: 1 runs, 1 done, 0 to do (jobs: 0)\n"
