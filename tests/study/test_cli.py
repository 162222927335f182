"What Snakemake calls: a workflow that is stopped, loses runs, and is called again, and what is only counted."

import os
import re
import shutil
import signal
import time
from pathlib import Path

import psutil
import pytest
from workflows import (
    GRIDS,
    PATIENCE,
    Call,
    grid_file,
    needs_snakemake,
    process_of,
    project_with_a_quick_report,
    skip_features,
    small_grid,
    snakemake,
)

from npt.study.cli import grid_command
from npt.study.grid import expand, read_grid
from npt.study.plan import make_plan, write_plan
from npt.study.watch import _lives


def files(folder: Path) -> set[Path]:
    return {path.relative_to(folder) for path in folder.rglob("*") if path.is_file() and ".snakemake" not in path.parts}


def finished(grid: dict) -> dict[Path, int]:
    "The finished runs of a grid, and when each was finished."
    return {task.folder.path: task.folder.metrics.stat().st_mtime_ns for task in expand(read_grid(grid)) if task.finished}


def reported(runs: Path) -> set[Path]:
    "The runs that the report lists."
    return {Path(line) for line in (runs / "runs.csv").read_text().splitlines()}


def left_by(call: Call) -> list[psutil.Process]:
    "The processes that a call leaves, which are given a moment to end."
    there, patience = [process for process in psutil.process_iter() if os.getpgid(process.pid) == call.pid], time.monotonic() + 10
    while (there := list(filter(_lives, there))) and time.monotonic() < patience:
        time.sleep(0.02)
    return there


@pytest.mark.slow
@needs_snakemake
def test_a_grid_goes_on_whatever_stops_it(tmp_path, monkeypatch):
    "SIGTERM, SIGKILL, a run that hangs, one that is killed for its memory, one that cannot work; then all is there, or nothing is done."
    monkeypatch.chdir(tmp_path)
    common = dict(dataset="world/textures", shots=1, measure_every=0, objective="own")
    axes = dict(good=dict(learner="clip_adapter", epochs=1, seed=1), long=dict(learner="coop", epochs=80, seed=[1, 2, 3]),
                bad=dict(learner="coop", learner_settings={"n_ctx": 99}), last=dict(learner="zero_shot", seed=2))
    runs = Path("$HOME & it's my runs")
    grid = dict(runs_dir=str(runs), experiments={name: some | common for name, some in axes.items()})
    project = project_with_a_quick_report(tmp_path / "project")
    skip_features(read_grid(grid))
    good, stopped, killed, hanging, bad, last = expand(read_grid(grid))

    call = snakemake(tmp_path, grid_file(tmp_path, grid), project=project)
    checkpoint, patience = stopped.folder.path / "checkpoint.safetensors", time.monotonic() + PATIENCE
    while not checkpoint.exists() and time.monotonic() < patience:
        time.sleep(0.01)
    os.killpg(call.pid, signal.SIGTERM)  # as SLURM sends it, to all processes
    code, said = call.end()
    assert code not in (0, None) and "stopped by SIGTERM: the same command goes on" in said, said[-3000:]
    assert not left_by(call) and checkpoint.exists() and not stopped.finished and not (runs / "report.html").exists()
    assert stopped.failed.read_text().startswith("stopped: ") and "- stopped: its job ended while the run was being done" in said
    before = finished(grid)
    assert before.keys() == {good.folder.path}

    call = snakemake(tmp_path, grid_file(tmp_path, grid), project=project)
    process_of(killed, since=time.time_ns())
    os.killpg(call.pid, signal.SIGKILL)
    assert call.end()[0] == -signal.SIGKILL and not left_by(call) and finished(grid) == before

    call, now = snakemake(tmp_path, grid_file(tmp_path, grid), "--config", "timeout=12", project=project), time.time_ns()
    os.kill(process_of(hanging, since=now), signal.SIGSTOP)
    os.kill(process_of(killed, since=now), signal.SIGKILL)
    code, said = call.end()
    assert code == 1 and f"grid {runs}: 6 runs, {len(before)} done, {6 - len(before)} to do" in said, said[-3000:]
    assert finished(grid).keys() == reported(runs) == {task.folder.path for task in (good, stopped, last)}, said[-3000:]
    ending = said[said.rindex("3 of 6 runs are missing:"):]
    assert all(str(task.folder.path) in ending for task in (hanging, killed, bad))
    assert "stopped after 12 seconds, the timeout of this grid" in hanging.failed.read_text() and "--config timeout=24" in ending
    assert "SIGKILL" in killed.failed.read_text() and "memory_budget" in ending
    assert "99" in bad.failed.read_text() and "Traceback" in bad.failed.read_text()
    assert len((runs / "failures.txt").read_text().splitlines()) == 3

    del grid["experiments"]["bad"]
    shutil.rmtree(last.folder.path)
    stopped.folder.metrics.unlink()
    grid["experiments"]["last"]["seed"] = [2, 3]
    code, said = snakemake(tmp_path, grid_file(tmp_path, grid), project=project).end()
    assert code == 0 and "6 runs, 1 done, 5 to do" in said, said[-3000:]
    assert finished(grid).keys() == reported(runs) and len(reported(runs)) == 6 and not (runs / "failures.txt").exists()
    assert finished(grid).items() > before.items(), "what was finished was not done again"

    made = (runs / "report.html").stat().st_mtime_ns
    code, said = snakemake(tmp_path, grid_file(tmp_path, grid), project=project).end()
    assert code == 0 and "Nothing to be done" in said and (runs / "report.html").stat().st_mtime_ns == made
    with open(project / "nbs" / "report.ipynb", "a") as notebook:
        notebook.write("\n")
    code, said = snakemake(tmp_path, grid_file(tmp_path, grid), "--dry-run", project=project).end()
    assert code == 0 and "6 runs, 6 done, 0 to do" in said and re.search(r"^report +1$", said, re.M) and not re.search(r"^group ", said, re.M)
    shutil.rmtree(good.folder.path)
    code, said = snakemake(tmp_path, grid_file(tmp_path, grid), "--dry-run", project=project).end()
    assert code == 0 and "6 runs, 5 done, 1 to do" in said and re.search(r"^report +1$", said, re.M) and re.search(r"^group +1$", said, re.M)


@needs_snakemake
def test_dry_run_counts_and_does_nothing_and_features_come_first(tmp_path):
    experiments = dict(near=dict(dataset="world/textures", seed=[1, 2, 3]),
                       far=dict(dataset="world/textures", seed=3, transfer=["world/scenes", "world/shapes"]))
    grid = grid_file(tmp_path, dict(runs_dir="runs", group=1, experiments=experiments))
    far = next(name for name, (task,) in make_plan(read_grid(grid)).groups.items() if task.targets)
    before = files(tmp_path)
    code, said = snakemake(tmp_path, grid, "--dry-run").end()
    assert code == 0 and files(tmp_path) == before, said
    assert "3 runs, 0 done, 3 to do (jobs: 3)" in said and "unknown for 3 runs" in said
    assert not (tmp_path / expand(read_grid(grid))[0].folder.path).exists()
    asked = {job.partition(":")[0] + job.partition("key=")[2][:12]: int((re.findall(r"priority: (\d+)", job) or [0])[0])
             for job in said.split("rule ") if job.startswith(("group:", "features:"))}
    runs = [priority for job, priority in asked.items() if job.startswith("group")]
    looks = [priority for job, priority in asked.items() if job.startswith("features")]
    assert asked[f"group{far}"] == 2 and sorted(runs) == [0, 0, 2]
    assert len(looks) == 3 and min(looks) > max(runs), "what they look up comes before them"


@pytest.mark.slow
@needs_snakemake
def test_a_clip_that_cannot_be_trained_is_tried_and_named_whatever_was_tried_before(tmp_path, monkeypatch):
    monkeypatch.setenv("NPT_CACHE", str(tmp_path / "cache"))
    project = project_with_a_quick_report(tmp_path / "project")  # which has no notebook that trains one
    grid, jobs = grid_file(tmp_path, small_grid(pretrained="world-2", seed=[1, 2])), tmp_path / "runs" / ".workflow"
    for path in (jobs / "weights" / "world-2", *(jobs / "features" / name for name in make_plan(read_grid(grid)).looks)):
        path.parent.mkdir(parents=True)
        path.with_suffix(".tried").touch()
    code, said = snakemake(tmp_path, grid, project=project).end()
    assert code == 1 and "  1 CLIP to be pretrained first (world-2), about 20 minutes of two idle cores each\n" in said, said[-3000:]
    ending = said[said.rindex("2 of 2 runs are missing:"):]
    assert re.search("^- world-2 could not be prepared: RuntimeError: .*pretrain_world.ipynb", ending, re.M) and "seed2" in ending, ending
    assert not (tmp_path / "cache" / "features").exists(), "what waits for it was not begun"


@needs_snakemake
def test_the_papers_grid_is_listed_without_its_data(tmp_path):
    code, said = snakemake(tmp_path, GRIDS / "paper.yaml", "--dry-run", "--quiet", "rules").end()
    assert code == 0 and not files(tmp_path)
    each, moved = 12 * 4 * 3 * 3 + 3 * 3, 9 * 4 * 3  # runs of a dataset; of ImageNet, on all classes, to be transferred
    runs, jobs = 11 * each + moved, 10 * -(-each // 4) + -(-(each + moved) // 4)
    assert f"grid runs/paper: {runs} runs, 0 done, {runs} to do (jobs: {jobs})" in said
    assert re.search(r"^  price of paper.yaml: 4,959 runs, \d+ to \d+ GPU hours on an H100 or [\d,]+ hours on one core \(model\)", said, re.M)
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
