"A grid cut into jobs: which stay as they were, which wait for what, and which run folders are refused."

import json
import os

import pytest
from other_worlds import leave_world
from workflows import leave_run, small_grid

from npt.study.grid import expand, read_grid
from npt.study.plan import _group_tasks, _image_choices, make_plan, needs_of, write_plan


def test_a_changed_grid_leaves_finished_groups_alone():
    base = dict(runs_dir="runs", experiments=dict(one=dict(seed=[1, 2], tau=[1, 0.25], learner=["coop", "maple"])))
    more = dict(runs_dir="runs", experiments=dict(one=dict(seed=[1, 2, 3], tau=[1, 0.25], learner=["coop", "maple"])))
    before, after = (_group_tasks(expand(read_grid(grid)), size=4) for grid in (base, more))
    assert before.keys() < after.keys() and len(after) == 3


def test_a_folder_with_a_run_of_other_settings_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    grid = read_grid(small_grid())
    (task,) = expand(grid)
    leave_run(task)
    task.folder.metrics.unlink()
    task.folder.config.write_text(task.settings.model_copy(update=dict(epochs=7)).model_dump_json())
    (task.folder.path / "checkpoint.safetensors").touch()
    with pytest.raises(ValueError, match="epochs: 7 there, 2 asked for"):
        make_plan(grid)


def test_a_group_waits_for_its_own_images_first_and_then_for_its_targets(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = make_plan(read_grid(small_grid(dataset=["dtd", "world/textures"], seed=[1, 2], transfer=["eurosat"])))
    datasets = [[plan.looks[name].source.dataset for name in plan.needs(group)] for group in plan.groups]
    assert datasets == [["dtd", "eurosat"], ["world/textures", "eurosat"]]
    write_plan(plan)
    needs = json.loads((plan.folder / "plan.json").read_text())
    assert needs == needs_of(plan) and set(needs["features"].values()) == {"dtd", "eurosat", None}
    assert read_grid(plan.folder / "grid.yaml") == plan.grid


def test_no_view_is_looked_at_that_no_epoch_meets():
    grid = dict(runs_dir="runs", experiments=dict(one=dict(dataset="dtd", learner=["vpt", "coop", "zero_shot"], views=8),
                                                  few=dict(dataset="dtd", learner="coop", views=8, epochs=3)))
    (runs,) = _image_choices(expand(read_grid(grid))).values()
    assert [run.views for run in runs] == [5, 8, None, 3]


def test_what_looks_through_a_clip_that_is_not_there_waits_for_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NPT_CACHE", str(tmp_path / "cache"))
    plan = make_plan(read_grid(small_grid(pretrained=[None, "world-2", "world-3"], transfer="world/scenes")))
    leave_world("world-3", seed=0)
    waits = {(plan.looks[name].source.dataset, plan.looks[name].source.pretrained): tag for name, tag in needs_of(plan)["weights"].items()}
    assert waits == {(dataset, name): "world-2" if name == "world-2" else None
                     for dataset in ("world/textures", "world/scenes") for name in (None, "world-2", "world-3")}
    leave_world("world-2", seed=0)
    assert set(needs_of(plan)["weights"].values()) == {None}


def test_weights_that_nobody_here_trains_are_waited_for_by_none(tmp_path):
    experiments = dict(one=dict(dataset="dtd", backbone="ViT-B-32", pretrained=["none", "world-2"]))
    plan = make_plan(read_grid(dict(runs_dir=str(tmp_path), experiments=experiments)))
    assert set(needs_of(plan)["weights"].values()) == {None}, "world-2 is the name of a file there"


def test_as_much_is_fetched_of_a_dataset_as_its_runs_agree_to(tmp_path):
    several = dict(none=dict(dataset="dtd", prepare=False), usual=dict(dataset="eurosat", transfer=["ucf101"]),
                   much=dict(dataset=["eurosat", "food101"], prepare="10GB", seed=2))
    plan = make_plan(read_grid(dict(runs_dir=str(tmp_path), experiments=several)))
    assert needs_of(plan)["agreed"] == dict(dtd=0, eurosat=10e9, ucf101=2e9, food101=10e9)


def test_a_report_is_made_from_what_is_in_the_files_of_its_runs_and_from_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    notebook = tmp_path / "report.ipynb"
    notebook.write_text("one")
    plan = make_plan(read_grid(small_grid(seed=[1, 2], transfer="world/scenes")))
    seen = [plan.made_from(notebook)]
    for task in plan.tasks:
        leave_run(task)
        seen.append(plan.made_from(notebook))
    metrics, written = plan.tasks[0].folder.metrics, plan.tasks[0].folder.metrics.read_text()
    os.utime(metrics, (0, 0))
    assert plan.made_from(notebook) == seen[-1], "times say nothing"
    for path in metrics, plan.tasks[0].folder.history, plan.tasks[1].folder.path / "transfer.json":
        before = path.read_text() if path.exists() else ""
        path.write_text(before + " ")
        seen.append(plan.made_from(notebook))
        path.write_text(before)
    (tmp_path / plan.tasks[1].folder.path / "transfer.json").unlink()
    assert plan.made_from(notebook) == seen[2] and metrics.read_text() == written
    monkeypatch.setattr("npt.study.plan._source_hash", lambda: "another")
    seen.append(plan.made_from(notebook))
    notebook.write_text("two")
    seen.append(plan.made_from(notebook))
    seen.append(make_plan(read_grid(small_grid(seed=[3]))).made_from(notebook))
    assert len(set(seen)) == len(seen) == 9


def test_a_damaged_run_stops_no_plan_and_is_left_to_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    grid = read_grid(small_grid(seed=[1, 2]))
    for task in expand(grid):
        leave_run(task)
        task.folder.config.write_text('{"dataset": "wor')
    plan = make_plan(grid)
    assert [task.settings.seed for group in plan.unfinished().values() for task in group] == [1, 2]
